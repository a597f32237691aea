"""Figure of the sensitivity of a design to its assumptions: a tornado for each quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from inference import plots
from inference.plots_protocol import wrapped
from inference.report.sensitivity import said

if TYPE_CHECKING:
    from inference.report.sensitivity import Quantity, Row

CHANCES = ("power", "type_1_error")
LOW, HIGH, NOISE = "#0072B2", "#D55E00", "#CFCFCF"


def tornado(rows: Sequence[Row], quantities: Sequence[Quantity]) -> Figure:
    """Changes at the low and at the high value of each assumption, a panel for each quantity, in the order of rows."""
    with plots.style():
        fig = plots.figure(1.5 + 0.36 * len(rows))
        axes = fig.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
        for ax, quantity in zip(axes, quantities, strict=True):
            for y, row in enumerate(rows):
                for change, colour, shift in zip(row.changes[quantity], (LOW, HIGH), (-0.19, 0.19), strict=True):
                    if change is None:
                        continue
                    shade = NOISE if change.noise else colour
                    ax.barh(y + shift, change.points, 0.36, color=shade, lw=0)
                    if change.error > 0:
                        ax.errorbar(change.points, y + shift, xerr=1.96 * change.error, color="#222222", lw=0.9)
            ax.axvline(0, color="black", lw=0.9)
            ax.set_title(wrapped(said(quantity), 92 // len(quantities)), fontsize=9)
            ax.set_xlabel("change (points)")
            ax.grid(axis="y", visible=False)
            ax.tick_params(axis="y", length=0)
        for chance in (True, False):  # powers move further than rates
            alike = [ax for ax, q in zip(axes, quantities, strict=True) if (q[1] in CHANCES) == chance]
            ends = [x for ax in alike for x in ax.get_xlim()]
            for ax in alike:
                ax.set_xlim(min(ends), max(ends))
        axes[0].set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        handles = [
            Patch(color=LOW, label="low value"),
            Patch(color=HIGH, label="high value"),
            Patch(color=NOISE, label="within 2 Monte Carlo errors"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _label(row: Row) -> str:
    """The assumption with its two values; the drug before what is of one."""
    low, high = (row.value if x is None else x for x in (row.low, row.high))
    unit = "" if row.unit == "-" else f" {row.unit}"
    drug = f"{row.of}: " if row.of not in ("patients", "scenario") else ""
    return f"{drug}{row.name}\n{low:.3g} to {high:.3g}{unit}"
