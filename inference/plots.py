"""Figures of the trial: observed against predicted, platelet courses, individual patients, doses.

Every function takes a ``FitResult`` and returns a matplotlib Figure; nothing here knows pyplot or keeps state.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from inference import labels

if TYPE_CHECKING:
    from inference.store import FitResult

WIDTH = 10.0  # inches; a report shows it about 1,000 pixels wide
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.titlesize": 12.5,
    "figure.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.06,
    "svg.hashsalt": "hetrombopag",
    "svg.fonttype": "path",
}
COUNTS = "inverted_cdf"  # quantiles of counts are counts
TARGET = (50.0, 250.0)  # 1e9/L: the trial's response, and the upper end of its aim
COUNT_TICKS = (1, 3, 10, 30, 100, 300, 1000, 3000)
MARKED = {"color": "#333333", "linestyle": (0, (4, 3)), "linewidth": 0.9, "zorder": 1}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures."""
    with matplotlib.rc_context(STYLE):
        yield


def figure(height: float, title: str = "", width: float = WIDTH) -> Figure:
    """An empty figure of the common width, titled on the left."""
    made = Figure(figsize=(width, height), layout="constrained")
    if title:
        made.suptitle(title, x=0.008, ha="left")
    return made


def svg(fig: Figure) -> str:
    """The figure as SVG text, the same for the same figure."""
    buffer = io.StringIO()
    with style():
        # not savefig, which draws a figure with a layout engine twice
        FigureCanvasSVG(fig).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def observed_predicted(result: FitResult) -> Figure:
    """Every arm and quantity: observed share, 50% and 95% predictive intervals, prior predictive 95% in grey."""
    with style():
        fig = figure(3.5, "Observed against predicted")
        axes = fig.subplots(1, len(result.arms), sharey=True, squeeze=False)[0]
        for i, ax in enumerate(axes):
            draw_intervals(ax, result, i)
        fig.legend(handles=_interval_handles(result), loc="outside lower center", ncols=5)
    return fig


def draw_intervals(ax: Axes, result: FitResult, arm: int) -> None:
    """One arm's panel of ``observed_predicted``."""
    name, n = result.arms[arm], result.n[arm]
    colour = labels.PLACEBO_COLOUR if result.prior_only else labels.arm_colours(result.arms)[name]
    rows = np.arange(len(result.quantities))[::-1]
    before = 100 / n * np.quantile(result.prior_predictive[:, arm], (0.025, 0.975), axis=0, method=COUNTS)
    ax.barh(rows, before[1] - before[0], left=before[0], height=0.62, color=labels.PRIOR_COLOUR, alpha=0.75, lw=0)
    low, inner_low, middle, inner_high, high = (
        100 / n * np.quantile(result.posterior_predictive[:, arm], (0.025, 0.25, 0.5, 0.75, 0.975), axis=0)
    )
    if not result.prior_only:
        ax.hlines(rows, low, high, color=colour, lw=2.2)
    ax.hlines(rows, inner_low, inner_high, color=colour, lw=8, alpha=0.85)
    ax.plot(middle, rows, "|", color="white", ms=8, mew=1.6)
    seen = 100 * result.observed[arm] / n
    ax.plot(seen, rows, "D", color="black", ms=5.5, mec="white", mew=0.9, zorder=5)
    for row, y in zip(rows, result.observed[arm], strict=True):
        ax.annotate(str(y), (101, row), va="center", ha="left", fontsize=8.5, annotation_clip=False)
    ax.annotate("obs.", (101, rows[0] + 0.62), va="center", ha="left", fontsize=8.5, annotation_clip=False)
    ax.set_yticks(rows, [labels.QUANTITIES.get(q, q) for q in result.quantities])
    ax.set_ylim(-0.6, len(rows) - 0.35)
    ax.set_xlim(0, 100)
    ax.set_xlabel("patients (%)")
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_title(_arm_title(result, arm))


def platelet_courses(result: FitResult) -> Figure:
    """True counts over 8 weeks by arm: spread over patients, and the median of the arm with its uncertainty."""
    with style():
        fig = figure(3.6, "Platelet counts over 8 weeks")
        axes = fig.subplots(1, len(result.arms), sharey=True, squeeze=False)[0]
        for i, ax in enumerate(axes):
            draw_course(ax, result, i)
        axes[0].set_ylabel(labels.COUNT)
        grey = labels.PLACEBO_COLOUR
        handles = [
            Line2D([], [], color=grey, lw=2, label="median of an arm"),
            Patch(color=grey, alpha=0.55, lw=0, label="its 95% interval"),
            Patch(color=grey, alpha=0.32, lw=0, label="middle 50% of patients"),
            Patch(color=grey, alpha=0.14, lw=0, label="middle 90% of patients"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig


def draw_course(ax: Axes, result: FitResult, arm: int) -> None:
    """One arm's panel of ``platelet_courses``."""
    days = np.concatenate([[0], result.visit_days])
    colour = labels.arm_colours(result.arms)[result.arms[arm]]
    q, m = result.platelets_quantiles[arm].T, result.median_quantiles[arm].T
    ax.fill_between(days, q[0], q[4], color=colour, alpha=0.14, lw=0)
    ax.fill_between(days, q[1], q[3], color=colour, alpha=0.22, lw=0)
    ax.fill_between(days, m[0], m[2], color=colour, alpha=0.45, lw=0)
    ax.plot(days, m[1], color=colour, lw=2)
    set_count_axis(ax, result.platelets_quantiles.min(), result.platelets_quantiles.max())
    mark_target(ax)
    set_day_axis(ax, days[-1])
    ax.set_title(_arm_title(result, arm, with_n=False))


def examples(result: FitResult, patients: int = 4) -> Figure:
    """Individual virtual patients: true and observed counts, the daily dose in the strip below."""
    given = result.examples["dose_mg"][:, :patients]
    n_arms, n = given.shape[:2]
    days = np.concatenate([[0], result.visit_days])
    colours, dose_colour = labels.arm_colours(result.arms), _dose_colour(result)
    with style():
        fig = figure(0.6 + 2.15 * n_arms, "Individual virtual patients")
        axes = fig.subplots(
            2 * n_arms, n, sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [4, 1] * n_arms}
        )
        for a, arm in enumerate(result.arms):
            for e in range(n):
                top, strip = axes[2 * a, e], axes[2 * a + 1, e]
                _draw_patient(top, result, a, e, days, colours[arm])
                for start, end, dose in zip(days[:-1], days[1:], given[a, e], strict=True):
                    strip.bar(
                        start, dose, end - start, align="edge", color=dose_colour(dose), ec=dose_colour(dose), lw=0.4
                    )
                strip.set_ylim(0, 1.15 * result.levels_mg.max())
                strip.set_yticks([0, result.levels_mg.max()], ["0", f"{result.levels_mg.max():g} mg"])
                strip.grid(visible=False)
                set_day_axis(strip, days[-1], label=a == n_arms - 1)
            axes[2 * a, 0].set_title(arm, color=colours[arm])
            axes[2 * a, 0].set_ylabel(labels.COUNT)
        handles = [
            Line2D([], [], color="black", lw=1.5, label="true count"),
            Line2D([], [], color="black", marker="o", mfc="white", lw=0, label="observed count"),
            Line2D([], [], label="50 and 250 ×10⁹/L", **MARKED),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _draw_patient(ax: Axes, result: FitResult, arm: int, patient: int, days: Any, colour: str) -> None:
    shown = result.examples
    true, observed = (shown[key][arm, patient] for key in ("platelets_true", "platelets_observed"))
    if "baseline" in shown:
        true, observed = (np.concatenate([[shown["baseline"][arm, patient]], v]) for v in (true, observed))
    at = days[-len(true) :]
    ax.plot(at, true, color=colour, lw=1.6)
    ax.plot(at, observed, "o", color=colour, mfc="white", ms=4.2, mew=1.2)
    every = np.concatenate([v.ravel() for key, v in shown.items() if key != "dose_mg"])
    every = every[np.isfinite(every)]
    set_count_axis(ax, every.min(), every.max())
    for level in TARGET:
        ax.axhline(level, **MARKED)


def dose_levels(result: FitResult) -> Figure:
    """Share of patients at each dose over time, for the arms that get any."""
    days = np.concatenate([[0], result.visit_days])
    shown = [a for a in range(len(result.arms)) if result.level_share[a, :, 1:].any()] or [0]
    colours = ["#F1F1F1", *labels.dose_colours(result.levels_mg)]
    names = ["no dose", *(f"{level:g} mg" for level in result.levels_mg)]
    with style():
        fig = figure(3.3, "Doses over 8 weeks")
        axes = fig.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for ax, a in zip(axes, shown, strict=True):
            bottom = np.zeros(len(days) - 1)
            for share, colour in zip(100 * result.level_share[a].T, colours, strict=True):
                ax.bar(days[:-1], share, np.diff(days), bottom, align="edge", color=colour, ec=colour, lw=0.4)
                bottom = bottom + share
            ax.set_ylim(0, 100)
            ax.grid(visible=False)
            set_day_axis(ax, days[-1])
            ax.set_title(result.arms[a])
        axes[0].set_ylabel("patients (%)")
        handles = [Patch(fc=c, ec="#AAAAAA", lw=0.5, label=n) for c, n in zip(colours, names, strict=True)]
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return fig


def readme_figure(result: FitResult, path: str | Path) -> None:
    """One picture of the fit for a README, PNG: every count against its prediction, and the courses behind them."""
    with style():
        fig = figure(6.6, "The published phase III trial and the fitted model", width=11.5)
        axes = fig.subplots(2, len(result.arms), sharey="row", squeeze=False)
        for i in range(len(result.arms)):
            draw_intervals(axes[0, i], result, i)
            draw_course(axes[1, i], result, i)
            axes[1, i].set_title("")
        axes[1, 0].set_ylabel(labels.COUNT)
        grey = labels.PLACEBO_COLOUR
        band = Patch(color=grey, alpha=0.3, lw=0, label="patients: middle 50% and 90%")
        fig.legend(handles=[*_interval_handles(result), band], loc="outside lower center", ncols=6)
        fig.savefig(path, format="png", dpi=140)


def _arm_title(result: FitResult, arm: int, with_n: bool = True) -> str:
    size = f", n = {result.n[arm]}" if with_n else ""
    left_out = "" if result.fitted[arm] or result.prior_only else "\n(left out of the fit)"
    return f"{result.arms[arm]}{size}{left_out}"


def _interval_handles(result: FitResult) -> list[Any]:
    grey = labels.PLACEBO_COLOUR
    observed = Line2D([], [], color="black", marker="D", ms=5.5, lw=0, label="observed")
    prior = Patch(color=labels.PRIOR_COLOUR, lw=0, label="prior predictive 95%")
    if result.prior_only:
        return [observed, Line2D([], [], color=grey, lw=7, alpha=0.85, label="prior predictive 50%"), prior]
    return [
        observed,
        Line2D([], [], color=grey, lw=7, alpha=0.85, label="predicted 50%"),
        Line2D([], [], color=grey, lw=2.2, label="predicted 95%"),
        prior,
    ]


def set_count_axis(ax: Axes, low: float, high: float) -> None:
    """Counts on a log axis, labelled in full."""
    ax.set_yscale("log")
    ax.set_ylim(max(low * 0.85, 0.3), max(high, 1.1 * TARGET[1]) * 1.15)
    ax.yaxis.set_major_locator(FixedLocator([float(t) for t in COUNT_TICKS]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def mark_target(ax: Axes) -> None:
    for level in TARGET:
        ax.axhline(level, **MARKED)
        ax.annotate(f"{level:g}", (1.0, level), xycoords=("axes fraction", "data"), xytext=(2, 0),
                    textcoords="offset points", va="center", fontsize=8.5)  # fmt: skip


def set_day_axis(ax: Axes, last: float, label: bool = True) -> None:
    ax.set_xlim(0, last)
    ax.set_xticks(np.arange(0, last + 1, 14))
    if label:
        ax.set_xlabel("day")


def _dose_colour(result: FitResult) -> Any:
    colours = labels.dose_colours(result.levels_mg)

    def colour(dose: float) -> str:
        return colours[int(np.argmin(np.abs(result.levels_mg - dose)))]

    return colour
