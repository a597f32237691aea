"""Figure of relapse: Kaplan-Meier curves after treatment ended, with the numbers at risk below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from inference import labels, plots
from inference.plots_protocol import calendar, legend_columns, time_axis, wrapped
from inference.report.relapse import at_risk

if TYPE_CHECKING:
    from inference.report.relapse import RelapseCurve

FEWEST = 5  # patients of one trial, on average, of whom a band is drawn: of fewer it would cover the page
ROW = 0.24  # inches a row of numbers


def relapse(curves: Sequence[RelapseCurve], arms: Sequence[str]) -> Figure:
    """Share without relapse over time by arm, as steps with a band; ``arms`` of the whole design decide the colours."""
    colours, last = labels.arm_colours(arms), max(float(c.at_d[-1]) for c in curves)
    unit = calendar(last)
    with plots.style():
        heights = [3.4, ROW * (len(curves) + 1)]
        fig = plots.figure(sum(heights) + 0.7)
        ax, below = fig.subplots(2, 1, sharex=True, height_ratios=heights)
        for c in curves:
            x = unit.of(np.append(c.at_d, last))
            low, high, share = (100 * np.append(v, v[-1]) for v in (c.low, c.high, c.share))
            if c.at_risk[0] >= FEWEST:
                ax.fill_between(x, low, high, step="post", color=colours[c.arm], alpha=0.16, lw=0)
            ax.step(x, share, where="post", color=colours[c.arm], lw=1.9, label=wrapped(c.arm))
        ax.set_ylim(0, 102)
        ax.set_ylabel("patients without relapse (%)")
        time_axis(ax, last, label=False)
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(f"{unit.unit} off treatment")
        ticks = [t for t in ax.get_xticks() if 0 <= t <= unit.of(last)]
        for row, c in enumerate(curves):
            for i, t in enumerate(ticks):
                side = "left" if i == 0 else "right" if t == unit.of(last) else "center"
                text = f"{at_risk(c, t * unit.days):,.0f}"
                below.annotate(text, (t, row), ha=side, va="center", fontsize=8.5, color=colours[c.arm])
        below.set_ylim(len(curves) - 0.4, -0.6)
        below.set_yticks(range(len(curves)), [wrapped(c.arm, 28) for c in curves])
        below.set_title("at risk in one trial, on average", fontsize=9, fontweight="normal")
        below.grid(visible=False)
        below.tick_params(length=0, labelbottom=False)
        below.spines[:].set_visible(False)
        handles = ax.get_legend_handles_labels()[0]
        fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles))
    return fig
