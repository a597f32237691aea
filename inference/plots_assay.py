"""The picture of the assay: response against concentration, over time, and the two EC50s side by side."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from inference import labels
from inference.plots import MARKED, figure, style

if TYPE_CHECKING:
    from inference.assay import Result

COLOURS = dict(zip((*labels.PATHWAYS, *labels.FACTORS), (*labels.ARM_COLOURS[:4], *labels.ARM_COLOURS[:3]), strict=True))
NAMES = labels.PATHWAYS | labels.FACTORS
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # of the media, or of the multiples of the EC50
DPI = 130
CONCENTRATION = "free concentration in the dish (nM)"


def picture(result: Result, *, tpo: float, minutes: float) -> Figure:
    """Pathways and factors against concentration, pathways over time, EC50s: a column a medium and one more."""
    summary = result.summary
    media = list(dict.fromkeys(summary["medium"]))
    active, silent = media[:-1], media[-1]
    with style():
        fig = figure(7.6, f"Cells in a dish with {result.comparison['drug'].iloc[0]}", width=4.2 * (len(active) + 1))
        axes = fig.subplots(2, len(active) + 1)
        for column, medium in enumerate(active):
            draw_pathways(axes[0, column], result, medium, silent)
            axes[0, column].set_title(f"{_dish(medium)}: pathways after {minutes:g} min")
            draw_times(axes[1, column], result, medium)
            axes[1, column].set_title(f"{_dish(medium)}: pathways over time")
        draw_factors(axes[0, -1], result, active, silent)
        axes[0, -1].set_title(f"Factors after {minutes:g} min")
        draw_comparison(axes[1, -1], result)
        axes[1, -1].set_title("A dish is not plasma")
    return fig


def save(fig: Figure, path: Path) -> None:
    """Writes the picture as PNG."""
    with style():
        fig.savefig(path, dpi=DPI, metadata={"Software": None})


def draw_pathways(ax: Axes, result: Result, medium: str, silent: str) -> None:
    """Phosphorylation against concentration; dots at the EC50s, grey where there is no receptor."""
    for readout in labels.PATHWAYS:
        _draw_curve(ax, result, medium, readout, "-")
    c, y = _curve(result.response, silent, "stat5")
    ax.plot(c, y, color=labels.PLACEBO_COLOUR, ls=DASHES[2], lw=1.8)
    handles = [Line2D([], [], color=COLOURS[r], lw=1.9, label=NAMES[r]) for r in labels.PATHWAYS]
    none = Line2D([], [], color=labels.PLACEBO_COLOUR, ls=DASHES[2], lw=1.8, label="no receptor (all)")
    ax.legend(handles=[*handles, none, _mark()], loc="upper left", handlelength=1.8, fontsize=8)
    ax.set_ylim(-0.03, _share_limit(result))
    ax.set_ylabel("phosphorylated, share of maximum")
    _concentration_axis(ax, result)


def draw_factors(ax: Axes, result: Result, media: list[str], silent: str) -> None:
    """Proliferation, survival and maturation against concentration, each medium in its own dashes."""
    for medium, dashes in zip(media, DASHES, strict=False):
        for readout in labels.FACTORS:
            _draw_curve(ax, result, medium, readout, dashes)
    c, y = _curve(result.response, silent, "proliferation")
    ax.plot(c, y, color=labels.PLACEBO_COLOUR, ls=DASHES[2], lw=1.8)
    handles = [Line2D([], [], color=COLOURS[r], lw=1.9, label=NAMES[r]) for r in labels.FACTORS]
    lines = [Line2D([], [], color="black", ls=d, label=m) for m, d in zip(media, DASHES, strict=False)]
    none = Line2D([], [], color=labels.PLACEBO_COLOUR, ls=DASHES[2], lw=1.8, label="no receptor (all)")
    ax.legend(handles=[*handles, *lines, none], loc="upper left", handlelength=2.4, fontsize=8)
    ax.set_ylabel("fold of the same medium without drug")
    _concentration_axis(ax, result)


def draw_times(ax: Axes, result: Result, medium: str) -> None:
    """Phosphorylation over time at multiples of the receptor EC50, each in its own dashes."""
    table = result.time_course[result.time_course["medium"] == medium]
    ec50 = _receptor_ec50(result)
    levels = sorted(set(table["concentration_nM"]) - {0.0}, reverse=True)
    for readout in labels.PATHWAYS:
        for level, dashes in zip(levels, DASHES, strict=True):
            one = table[(table["readout"] == readout) & (table["concentration_nM"] == level)]
            ax.plot(one["minutes"], one["value"], color=COLOURS[readout], ls=dashes, lw=1.7)
    handles = [
        Line2D([], [], color="black", ls=d, label=f"{level:.3g} nM ({level / ec50:g} × EC50)")
        for level, d in zip(levels, DASHES, strict=True)
    ]
    ax.legend(handles=handles, loc="upper left", handlelength=2.4, fontsize=8)
    ax.set_ylim(-0.03, _share_limit(result))
    ax.set_xlabel("minutes after the drug")
    ax.set_ylabel("phosphorylated, share of maximum")


def draw_comparison(ax: Axes, result: Result) -> None:
    """The in-vitro EC50 and those on the plasma scale, with their ratio, and the reason below."""
    table = result.comparison
    rows = np.arange(len(table))[::-1]
    values = table["EC50_nM"].to_numpy()
    ax.axvline(values[0], **MARKED)
    for row, value, ratio, name in zip(rows, values, table["ratio_to_in_vitro"], table["quantity"], strict=True):
        dish = row == rows[0]
        ax.hlines(row, values[0], value, color=labels.PRIOR_COLOUR, lw=3)
        ax.plot(value, row, "D" if dish else "o", color=labels.ARM_COLOURS[1 if dish else 0], ms=8, mec="white")
        text = f"{value:.3g} nM" if dish else f"{value:.3g} nM, {ratio:.3g}-fold"
        ax.annotate(text, (value, row), (0, -8), textcoords="offset points", ha="center", va="top", fontweight="bold")
        ax.annotate(name, (values[0], row), (-6, 8), textcoords="offset points", ha="left", va="bottom", fontsize=8.5)
    ax.set_xscale("log")
    ax.set_xlim(values.min() / 2.5, values.max() * 6)
    ax.set_ylim(-2.1, len(rows) - 0.4)
    ax.set_yticks([])
    ax.set_xlabel("EC50 (nM)")
    reason = textwrap.fill(f"Why: {table['reason'].iloc[-1]}.", 58)
    ax.text(0.02, 0.03, reason, transform=ax.transAxes, fontsize=8.5, va="bottom")


def _draw_curve(ax: Axes, result: Result, medium: str, readout: str, dashes: object) -> None:
    c, y = _curve(result.response, medium, readout)
    ax.plot(c, y, color=COLOURS[readout], ls=dashes, lw=1.9)
    ec50 = _row(result.summary, medium, readout)["EC50_nM"]
    if np.isfinite(ec50):
        at = np.interp(np.log(ec50), np.log(c), y)
        ax.plot(ec50, at, "o", color=COLOURS[readout], ms=5.5, mec="white", mew=0.9, zorder=5)


def _curve(table: pd.DataFrame, medium: str, readout: str) -> tuple[np.ndarray, np.ndarray]:
    shown = (table["medium"] == medium) & (table["readout"] == readout) & (table["concentration_nM"] > 0)
    return table.loc[shown, "concentration_nM"].to_numpy(), table.loc[shown, "value"].to_numpy()


def _row(summary: pd.DataFrame, medium: str, readout: str) -> pd.Series:
    """The potency at the time asked for, which stands first."""
    return summary[(summary["medium"] == medium) & (summary["readout"] == readout)].iloc[0]


def _receptor_ec50(result: Result) -> float:
    return float(result.comparison["EC50_nM"].iloc[1])


def _share_limit(result: Result) -> float:
    """Upper end of the axis of shares, with room for the legend."""
    return 1.75


def _concentration_axis(ax: Axes, result: Result) -> None:
    ax.set_xscale("log")
    ax.set_xlabel(CONCENTRATION)
    ec50 = _receptor_ec50(result)
    ax.axvline(ec50, **MARKED)
    ax.annotate(
        f"receptor EC50 {ec50:.3g} nM", (ec50, 0.01), (3, 0), xycoords=("data", "axes fraction"),
        textcoords="offset points", fontsize=7.5, va="bottom", color="#333333",
    )  # fmt: skip


def _dish(medium: str) -> str:
    return "Drug alone" if medium == "no TPO" else f"On {medium}"


def _mark() -> Line2D:
    return Line2D([], [], color="black", marker="o", mec="white", ms=6, lw=0, label="EC50 of the curve")
