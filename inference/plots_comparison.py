"""Figure of models side by side: evidence and accuracy, response rates, numbers of healthy volunteers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from inference import comparison, labels, plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from inference.comparison import Difference, Model

MISS = "#B3261E"
ROW = 0.34  # inches


def side_by_side(models: Sequence[Model]) -> Figure:
    """Differences in log evidence and elpd to the best with two errors, and the rates (and rises) of every model."""
    rises = [[p for p in m.healthy if p.target.statistic == "platelet_rise"] for m in models]
    wide = 3 if any(rises) else 2
    with plots.style():
        arms = len(models[0].run.result.arms)
        fig = plots.figure(1.6 + ROW * len(models) * max(arms, 3) / 1.6, "Models side by side")
        axes = fig.subplots(1, wide)
        _differences(axes[0], models)
        _rates(axes[1], models)
        if wide == 3:
            _rises(axes[2], models, rises)
        shown = [axes[i].get_legend_handles_labels() for i in (0, 1)]
        fig.legend([h for hs, _ in shown for h in hs], [n for _, ns in shown for n in ns], loc="outside lower center",
                   ncols=2 + arms)  # fmt: skip
        for ax in axes[1:]:
            ax.tick_params(axis="y", labelleft=False)
    return fig


def _differences(ax: Axes, models: Sequence[Model]) -> None:
    best = {s: comparison.best(models, s) for s in ("evidence", "elpd")}
    for (score, top), shift, colour, difference in zip(
        best.items(),
        (0.14, -0.14),
        labels.ARM_COLOURS,
        (comparison.log_bayes_factor, comparison.elpd_difference),
        strict=False,
    ):
        shown: list[tuple[float, float, float]] = []
        for place, m in _rows(models):
            value = m.evidence[0] if score == "evidence" else m.elpd
            if top is not None and math.isfinite(value):
                d: Difference = difference(m, top)
                error = 2 * math.hypot(0.0 if math.isnan(d.se) else d.se, d.mc_se if score == "elpd" else 0.0)
                shown.append((d.value, place + shift, error))
        if shown:
            x, y, e = np.array(shown).T
            name = "log evidence" if score == "evidence" else "elpd"
            ax.errorbar(x, y, xerr=e, fmt="o", color=colour, ms=5, lw=1.6, label=name)
    ax.axvline(0, **plots.MARKED)
    ax.set_title("Difference to the best (± 2 errors)")
    ax.set_xlabel("natural log units")
    _names(ax, models)


def _rates(ax: Axes, models: Sequence[Model]) -> None:
    arms = models[0].run.result.arms
    colours = labels.arm_colours(arms)
    for y, m in _rows(models):
        rows = {r["arm"]: r for r in comparison.rates(m)}
        for arm, shift in zip(arms, np.linspace(0.24, -0.24, len(arms)), strict=True):
            if arm not in rows:
                continue
            r = rows[arm]
            ax.hlines(y + shift, r["low"], r["high"], color=colours[arm], lw=3, alpha=0.8)
            ax.plot(r["median"], y + shift, "|", color="white", ms=6, mew=1.4)
            inside = r["low"] <= r["seen"] <= r["high"]
            ax.plot(r["seen"], y + shift, "D", color="black" if inside else MISS, ms=4, mec="white", mew=0.7, zorder=5)
    for arm in arms:
        ax.plot([], [], color=colours[arm], lw=3, label=arm)
    ax.set_title("Response at the landmark")
    ax.set_xlabel("patients (%); diamonds: observed")
    _names(ax, models)


def _rises(ax: Axes, models: Sequence[Model], rises: Sequence[Sequence[comparison.Predicted]]) -> None:
    for (y, _), own in zip(_rows(models), rises, strict=True):
        for p, shift in zip(own, np.linspace(0.24, -0.24, max(len(own), 1)), strict=False):
            low, _, median, _, high = p.quantiles().tolist()
            ax.hlines(y + shift, low, high, color=labels.PLACEBO_COLOUR, lw=3, alpha=0.8)
            ax.plot(median, y + shift, "|", color="white", ms=6, mew=1.4)
            mark = "black" if p.inside() else MISS
            ax.plot(p.target.observed, y + shift, "D", color=mark, ms=4, mec="white", mew=0.7, zorder=5)
    ax.set_title("Rise of healthy counts")
    ax.set_xlabel("change (%); diamonds: published")
    _names(ax, models)


def _rows(models: Sequence[Model]) -> list[tuple[float, Model]]:
    return [(len(models) - 1.0 - i, m) for i, m in enumerate(models)]


def _names(ax: Axes, models: Sequence[Model]) -> None:
    ax.set_yticks([y for y, _ in _rows(models)], [m.name for m in models])
    ax.set_ylim(-0.6, len(models) - 0.4)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
