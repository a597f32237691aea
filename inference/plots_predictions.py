"""Figure of published numbers against their posterior predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from inference import labels, plots
from inference.predictions import PATIENTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from inference.predictions import Predicted

ROW = 0.27  # inches
FRESH, SEEN = labels.ARM_COLOURS[0], labels.PLACEBO_COLOUR
MISS = "#B3261E"
AXES = {PATIENTS: "patients (%)", "%": "change (%)", "1e9/L": labels.COUNT}


def intervals(predicted: list[Predicted]) -> Figure:
    """Medians, 50% and 95% intervals and the published numbers, a panel for each unit; counts in percent of n."""
    by_unit: dict[str, list[Predicted]] = {}
    for p in predicted:
        by_unit.setdefault(p.target.unit, []).append(p)
    sizes = [len(rows) + 1.6 for rows in by_unit.values()]
    with plots.style():
        fig = plots.figure(0.9 + ROW * sum(sizes) + 0.3 * len(sizes), "Published numbers against their predictions")
        axes = fig.subplots(len(by_unit), 1, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
        for ax, (unit, rows) in zip(axes, by_unit.items(), strict=True):
            _panel(ax, rows, unit)
        handles = [
            Line2D([], [], color="black", marker="D", ms=5.5, lw=0, label="published, inside the 95% interval"),
            Line2D([], [], color=MISS, marker="D", ms=5.5, lw=0, label="published, outside"),
            Line2D([], [], color=FRESH, lw=7, alpha=0.85, label="predicted 50% and 95%"),
            Line2D([], [], color=SEEN, lw=7, alpha=0.85, label="the same, number seen before"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig


def _panel(ax: Axes, rows: list[Predicted], unit: str) -> None:
    for y, p in zip(range(len(rows))[::-1], rows, strict=True):
        scale = 100 / p.target.n if unit == PATIENTS else 1.0
        low, inner_low, middle, inner_high, high = scale * p.quantiles()
        colour = SEEN if p.target.seen else FRESH
        ax.hlines(y, low, high, color=colour, lw=2.2)
        ax.hlines(y, inner_low, inner_high, color=colour, lw=7, alpha=0.85)
        ax.plot(middle, y, "|", color="white", ms=8, mew=1.6)
        mark = "black" if p.inside() else MISS
        ax.plot(scale * p.target.observed, y, "D", color=mark, ms=5.5, mec="white", mew=0.9, zorder=5)
    ax.set_yticks(np.arange(len(rows))[::-1], [f"{p.target.study}, {p.target.arm}: {p.target.quantity}" for p in rows])
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    if unit == PATIENTS:
        ax.set_xlim(0, 100)
    ax.set_xlabel(AXES.get(unit, unit))
    ax.grid(axis="y", visible=False)
