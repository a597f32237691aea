"""Figures of the parameters and of the fit: prior against posterior, what was learned, ridges, rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from inference import arviz, labels
from inference.plots import figure, style
from pkpd.tables import SD_SUFFIX

if TYPE_CHECKING:
    import pandas as pd

    from inference.store import FitResult

TYPICAL_COLOUR, SD_COLOUR = labels.ARM_COLOURS[0], labels.ARM_COLOURS[4]
COLUMNS = 5
RIDGE_DRAWS = 400  # points in a panel


def prior_posterior(result: FitResult, summary: pd.DataFrame) -> Figure:
    """Densities of every free parameter before and after the fit; the share of variance the data took away."""
    from inference.store import log_scale

    names = list(summary["parameter"])
    rows = -(-len(names) // COLUMNS)
    with style():
        title = "Prior" if result.prior_only else "Prior against posterior"
        fig = figure(0.7 + 1.42 * rows, title)
        axes = fig.subplots(rows, COLUMNS, squeeze=False).ravel()
        for ax, name, gained in zip(axes, names, summary["contraction"], strict=False):
            prior = result.prior[name]
            after, before = log_scale(result.posterior.get(name, prior), prior)
            natural = np.exp if np.min(prior) > 0 and np.min(result.posterior.get(name, prior)) > 0 else np.asarray
            x, density = arviz.density(np.ravel(before))
            ax.fill_between(natural(x), 0, density, color=labels.PRIOR_COLOUR, lw=0)
            if not result.prior_only:
                colour = SD_COLOUR if name.endswith(SD_SUFFIX) else TYPICAL_COLOUR
                y, density = arviz.density(np.ravel(after))
                ax.plot(natural(y), density, color=colour, lw=1.6)
                ax.annotate(f"{gained:.2f}", (0.98, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=8.5)
            _value_axis(ax, natural(np.quantile(before, [0.002, 0.998])), natural is np.exp)
            ax.set_title(labels.parameter(name), fontsize=9, fontweight="normal")
        for ax in axes[len(names) :]:
            ax.set_visible(False)
        handles = [Patch(color=labels.PRIOR_COLOUR, lw=0, label="prior")]
        if not result.prior_only:
            handles += [Patch(color=TYPICAL_COLOUR, label="posterior, typical value or noise"),
                        Patch(color=SD_COLOUR, label="posterior, interindividual sd")]  # fmt: skip
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def contraction(summary: pd.DataFrame) -> Figure:
    """How much of the prior variance the data took away, ranked."""
    ranked = summary.sort_values("contraction", ignore_index=True)
    colours = [SD_COLOUR if n.endswith(SD_SUFFIX) else TYPICAL_COLOUR for n in ranked["parameter"]]
    with style():
        fig = figure(0.9 + 0.2 * len(ranked), "What the data narrowed: 1 − (posterior sd/prior sd)², log scale")
        ax = fig.subplots()
        ax.barh(ranked.index, ranked["contraction"], color=colours, height=0.7)
        ax.set_yticks(ranked.index, [labels.symbol(n) for n in ranked["parameter"]])
        ax.set_xlim(min(0.0, ranked["contraction"].min() * 1.1), 1)
        ax.set_ylim(-0.6, len(ranked) - 0.4)
        ax.set_xlabel("share of the prior variance taken away (0: nothing learned, 1: known exactly)")
        ax.axvline(0, color="black", lw=0.8)
        ax.grid(axis="y", visible=False)
        handles = [Patch(color=TYPICAL_COLOUR, label="typical value or noise"),
                   Patch(color=SD_COLOUR, label="interindividual sd")]  # fmt: skip
        ax.legend(handles=handles, loc="lower right")
    return fig


def correlations(names: list[str], matrix: np.ndarray) -> Figure:
    """Posterior correlations [d, d] as a heat map."""
    with style():
        fig = figure(6.6, "Posterior correlations (log scale)", width=8.2)
        ax = fig.subplots()
        image = ax.imshow(np.where(np.eye(len(names)) > 0, np.nan, matrix), cmap="PuOr_r", vmin=-1, vmax=1)
        short = [labels.symbol(n) for n in names]
        ax.set_xticks(range(len(names)), short, rotation=90, fontsize=8)
        ax.set_yticks(range(len(names)), short, fontsize=8)
        ax.grid(visible=False)
        ax.set_facecolor("#EEEEEE")
        ax.spines[:].set_visible(False)
        fig.colorbar(image, ax=ax, label="correlation", shrink=0.7)
    return fig


def ridge(result: FitResult) -> Figure:
    """Parameters of the noise against those of the drug's effect: posterior draws, 95% ellipses before and after."""
    from inference.report.numbers import DRUG_EFFECT, NOISE

    noise, drug = ([n for n in group if n in result.posterior] for group in (NOISE, DRUG_EFFECT))
    turn = np.linspace(0, 2 * np.pi, 100)
    circle = np.sqrt(-2 * np.log(0.05)) * np.stack([np.cos(turn), np.sin(turn)])  # 95% of a bivariate normal law
    with style():
        fig = figure(0.7 + 2.0 * len(noise), "Noise against drug effect (log scale; 95% ellipses)", width=8.2)
        axes = fig.subplots(len(noise), len(drug), squeeze=False, sharex="col", sharey="row")
        for i, a in enumerate(noise):
            for j, b in enumerate(drug):
                ax = axes[i, j]
                for draws, colour in ((result.prior, "#999999"), (result.posterior, TYPICAL_COLOUR)):
                    pair = np.log(np.stack([np.ravel(draws[b]), np.ravel(draws[a])]))
                    x, y = np.exp(pair.mean(axis=1, keepdims=True) + np.linalg.cholesky(np.cov(pair)) @ circle)
                    ax.plot(x, y, color=colour, lw=1.6)
                some = slice(None, None, max(1, pair.shape[1] // RIDGE_DRAWS))
                ax.plot(*np.exp(pair[:, some]), ".", color=TYPICAL_COLOUR, ms=2, alpha=0.35, zorder=1)
                ax.set_xscale("log")
                ax.set_yscale("log")
                for axis, name in ((ax.xaxis, b), (ax.yaxis, a)):
                    low, high = np.quantile(result.prior[name], [0.002, 0.998])
                    _ticks(axis, low, high, True)
                ax.annotate(f"r = {np.corrcoef(pair)[0, 1]:.2f}", (0.97, 0.95), xycoords="axes fraction", ha="right",
                            va="top", fontsize=8.5)  # fmt: skip
                if i == len(noise) - 1:
                    ax.set_xlabel(labels.parameter(b))
                if j == 0:
                    ax.set_ylabel(labels.parameter(a))
        handles = [Patch(color="#999999", label="prior"), Patch(color=TYPICAL_COLOUR, label="posterior")]
        fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def rounds(result: FitResult) -> Figure:
    """Round by round and run by run: error of the surface, movement of the posterior, time."""
    kept = result.rounds
    runs = sorted({int(row.get("replicate", 1)) for row in kept})
    stages = {"seconds_simulation": "simulation", "seconds_regression": "regression", "seconds_nuts": "NUTS",
              "seconds_check": "check"}  # fmt: skip
    with style():
        fig = figure(2.9, "Rounds of the fit")
        axes = fig.subplots(1, 3)
        for ax, key, title in ((axes[0], "surface_error_rms", "error of the surface\n(rms, sampling sds)"),
                               (axes[1], "shift_of_means_in_sd", "largest shift of a mean\nsince the round before (sd)")
                               ):  # fmt: skip
            every = np.array([row.get(key, np.nan) for row in kept], float)
            for run, colour in zip(runs, labels.ARM_COLOURS * len(runs), strict=False):
                own = [row for row in kept if int(row.get("replicate", 1)) == run]
                at = np.array([int(row.get("round", i + 1)) for i, row in enumerate(own)])
                values = np.array([row.get(key, np.nan) for row in own], float)
                ax.plot(at, values, "o-", color=colour, label=f"run {run}")
                for x, y in zip(at, values, strict=True):
                    if np.isfinite(y) and len(runs) == 1:
                        ax.annotate(f"{y:.2g}", (x, y), xytext=(7, 3), textcoords="offset points")
            ax.set_ylim(0, 1.25 * np.nanmax(every) if np.nanmax([*every, 0.0]) > 0 else 1)
            ax.set_title(title)
            last = max(int(row.get("round", i + 1)) for i, row in enumerate(kept))
            ax.set_xticks(np.arange(1, last + 1))
            ax.set_xlim(0.5, last + 0.5)
            ax.set_xlabel("round")
            if not np.isfinite(every).any():
                ax.annotate("not measured", (0.5, 0.5), xycoords="axes fraction", ha="center")
            elif len(runs) > 1:
                ax.legend(loc="lower left", fontsize=8.5)
        at, bottom = np.arange(1, len(kept) + 1), np.zeros(len(kept))
        for (key, name), shade in zip(stages.items(), labels.dose_colours([1, 2, 3, 4]), strict=True):
            seconds = np.array([row.get(key, 0.0) for row in kept], float)
            axes[2].bar(at, seconds, 0.6, bottom, color=shade, label=name)
            bottom += seconds
        axes[2].set_title("wall time (s)")
        axes[2].legend(loc="upper left", fontsize=8.5)
        axes[2].set_ylim(0, 1.6 * max(bottom.max(), 1e-9))
        named = [f"{row.get('replicate', 1):g}.{row.get('round', i + 1):g}" for i, row in enumerate(kept)]
        axes[2].set_xticks(at, named if len(runs) > 1 else [name.partition(".")[2] for name in named])
        axes[2].set_xlim(0.5, len(kept) + 0.5)
        axes[2].set_xlabel("run and round" if len(runs) > 1 else "round")
    return fig


def _value_axis(ax: Axes, limits: np.ndarray, log: bool) -> None:
    """Values in their own unit, on a log axis where they are compared on the log scale; three or so ticks."""
    low, high = limits
    if log:
        ax.set_xscale("log")
    ax.set_xlim(low, high)
    _ticks(ax.xaxis, low, high, log)
    ax.set_ylim(0)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False)


def _ticks(axis: Axis, low: float, high: float, log: bool) -> None:
    """Three or so ticks with few digits between two values."""
    at = np.array([0.14, 0.5, 0.86])
    at = low * (high / low) ** at if log else low + (high - low) * at
    digits = ".1g" if high > 4 * low > 0 else ".2g"
    axis.set_major_locator(FixedLocator(sorted({float(format(t, digits)) for t in at})))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
