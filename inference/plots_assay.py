"""The picture of the assay: response against concentration, over time, and the two EC50s side by side."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from inference import labels
from inference.plots import MARKED, figure, style

if TYPE_CHECKING:
    from inference.assay import Result

NAMES = labels.PATHWAYS | labels.FACTORS
COLOURS = dict(zip(NAMES, (*labels.ARM_COLOURS[:4], *labels.ARM_COLOURS[:3]), strict=True))
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # of the media, or of the multiples of the EC50
DPI = 130
BAND = 0.1  # opacity of a 95% band; several overlap
BAND_COLOUR = "#999999"
SILENT: dict[str, Any] = {"color": labels.PLACEBO_COLOUR, "ls": DASHES[2], "lw": 1.8}
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
CONCENTRATION = "concentration, on the model's plasma scale (nM)"


def picture(result: Result, *, minutes: float) -> Figure:
    """Pathways and factors against concentration, pathways over time, EC50s: a column a medium and one more."""
    media = list(dict.fromkeys(result.summary["medium"]))
    active, silent = media[:-1], media[-1]
    title = f"Cells in a dish with {result.comparison['drug'].iloc[0]}"
    height, per_row = 8.0, 5  # per_row: entries of the legend
    if _banded(result):
        title += ", at the posterior medians of a fit"
        height, per_row = 8.8, 6
    with style():
        fig = figure(height, title, width=4.2 * (len(active) + 1))
        axes = fig.subplots(2, len(active) + 1)
        for column, medium in enumerate(active):
            draw_pathways(axes[0, column], result, medium, silent)
            axes[0, column].set_title(f"{_dish(medium)}: after {minutes:g} min")
            draw_times(axes[1, column], result, medium)
            axes[1, column].set_title(f"{_dish(medium)}: over time")
        draw_factors(axes[0, -1], result, active, silent)
        axes[0, -1].set_title(f"Factors after {minutes:g} min")
        draw_comparison(axes[1, -1], result)
        axes[1, -1].set_title("A dish is not plasma")
        fig.legend(handles=_handles(result), loc="outside lower center", ncols=3 if len(active) == 1 else per_row)
    return fig


def save(fig: Figure, path: Path) -> None:
    """Writes the picture as PNG."""
    with style():
        fig.savefig(path, dpi=DPI, metadata={"Software": None})


def draw_pathways(ax: Axes, result: Result, medium: str, silent: str) -> None:
    """Phosphorylation against concentration; dots at the EC50s, grey where there is no receptor."""
    for readout in labels.PATHWAYS:
        _draw_curve(ax, result, medium, readout, "-")
    _draw_silent(ax, result, silent, "stat5")
    ax.set_ylim(-0.03, _share_limit(result))
    ax.set_ylabel("phosphorylated, share of maximum")
    _concentration_axis(ax, result)


def draw_factors(ax: Axes, result: Result, media: list[str], silent: str) -> None:
    """Proliferation, survival and maturation against concentration, each medium in its own dashes."""
    for medium, dashes in zip(media, DASHES, strict=False):
        for readout in labels.FACTORS:
            _draw_curve(ax, result, medium, readout, dashes)
    _draw_silent(ax, result, silent, "proliferation")
    handles = [Line2D([], [], color=COLOURS[r], lw=1.9, label=NAMES[r]) for r in labels.FACTORS]
    lines = [Line2D([], [], color="black", ls=d, label=m) for m, d in zip(media, DASHES, strict=False)]
    legend = ax.legend(handles=[*handles, *lines], loc="upper left", handlelength=2.4, fontsize=8, frameon=True)
    legend.get_frame().set(edgecolor="none", alpha=1)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.45 * (high - low))  # room for the legend
    ax.set_ylabel("fold of the same medium without drug")
    _concentration_axis(ax, result)


def draw_times(ax: Axes, result: Result, medium: str) -> None:
    """Phosphorylation over time at multiples of the receptor EC50, each in its own dashes."""
    table = result.time_course[result.time_course["medium"] == medium]
    levels = _levels(result)
    for readout in labels.PATHWAYS:
        for level, dashes in zip(levels, DASHES, strict=True):
            one = table[(table["readout"] == readout) & (table["concentration_nM"] == level)]
            ax.plot(one["minutes"], one["value"], color=COLOURS[readout], ls=dashes, lw=1.7)
    ax.set_ylim(-0.03, _share_limit(result))
    ax.set_xlabel("minutes after the drug")
    ax.set_ylabel("phosphorylated, share of maximum")


def draw_comparison(ax: Axes, result: Result) -> None:
    """The in-vitro EC50 and those on the plasma scale, with their ratio, and the reason below."""
    table = result.comparison
    rows = np.arange(len(table))[::-1]
    values = table["EC50_nM"].to_numpy()
    ax.vlines(values[0], rows[-1], rows[0], **MARKED)
    for row, found in zip(rows, table.itertuples(), strict=True):
        dish, value = row == rows[0], found.EC50_nM
        colour = labels.ARM_COLOURS[1 if dish else 0]
        ax.hlines(row, values[0], value, color=labels.PRIOR_COLOUR, lw=3)
        ax.hlines(row, found.lower_nM, found.upper_nM, color=colour, lw=2.2)  # NaN draws nothing
        ax.plot(value, row, "D" if dish else "o", color=colour, ms=8, mec="white")
        text = f"{value:.3g} nM" if dish else f"{value:.3g} nM, {found.ratio_to_in_vitro:.3g}-fold"
        below = {"textcoords": "offset points", "ha": "center", "va": "top"}
        ax.annotate(text, (value, row), (0, -8), fontweight="bold", **below)
        if np.isfinite(found.lower_nM):
            text = f"{_range(found.lower_nM, found.upper_nM)} nM, {_range(found.ratio_lower, found.ratio_upper)}-fold"
            ax.annotate(text, (value, row), (0, -20), fontsize=8.5, **below)
        above = {"xytext": (-12, 8), "textcoords": "offset points", "ha": "left", "va": "bottom"}
        ax.annotate(found.quantity, (values[0], row), fontsize=8.5, bbox=WHITE, **above)
    ax.set_xscale("log")
    ax.set_xlim(values.min() / 2.5, np.nanmax([values, table["upper_nM"]]) * 6)
    ax.set_ylim(*((-1.75, len(rows) - 0.55) if _banded(result) else (-2.1, len(rows) - 0.4)))  # room for the texts
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.set_xlabel("EC50 (nM), with 95% interval over draws" if _banded(result) else "EC50 (nM)")
    reason = textwrap.fill(f"Why: {table['reason'].iloc[-1]}.", 58)
    ax.text(0.02, 0.03, reason, transform=ax.transAxes, fontsize=8.5, va="bottom")


def _draw_curve(ax: Axes, result: Result, medium: str, readout: str, dashes: object) -> None:
    c, y = _curve(result.response, medium, readout)
    if _banded(result):
        low, high = (_curve(result.response, medium, readout, f"value_{end}")[1] for end in ("lower", "upper"))
        ax.fill_between(c, low, high, color=COLOURS[readout], alpha=BAND, lw=0)
        for edge in (low, high):  # bands overlap: their edges tell them apart
            ax.plot(c, edge, color=COLOURS[readout], ls=dashes, lw=0.7, alpha=0.6)
    ax.plot(c, y, color=COLOURS[readout], ls=dashes, lw=1.9)
    ec50 = _row(result.summary, medium, readout)["EC50_nM"]
    if np.isfinite(ec50):
        at = np.interp(np.log(ec50), np.log(c), y)
        ax.plot(ec50, at, "o", color=COLOURS[readout], ms=5.5, mec="white", mew=0.9, zorder=5)


def _banded(result: Result) -> bool:
    """Whether the response has 95% bands over draws."""
    return "value_lower" in result.response


def _range(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _curve(table: pd.DataFrame, medium: str, readout: str, column: str = "value") -> tuple[np.ndarray, np.ndarray]:
    shown = (table["medium"] == medium) & (table["readout"] == readout) & (table["concentration_nM"] > 0)
    return table.loc[shown, "concentration_nM"].to_numpy(), table.loc[shown, column].to_numpy()


def _row(summary: pd.DataFrame, medium: str, readout: str) -> pd.Series:
    """The potency at the time asked for, which stands first."""
    return summary[(summary["medium"] == medium) & (summary["readout"] == readout)].iloc[0]


def _receptor_ec50(result: Result) -> float:
    return float(result.comparison["EC50_nM"].iloc[1])


def _levels(result: Result) -> list[float]:
    """Concentrations of the time courses, highest first; without drug nothing moves."""
    return sorted(set(result.time_course["concentration_nM"]) - {0.0}, reverse=True)


def _share_limit(result: Result) -> float:
    """Upper end of the axis of shares: cells that rested without SOCS may pass 1 for a while."""
    shown = [(result.response, "value"), (result.time_course, "value")]
    shown += [(result.response, "value_upper")] if _banded(result) else []
    return 1.04 * max(1.0, *(t.loc[t["readout"].isin([*labels.PATHWAYS]), column].max() for t, column in shown))


def _draw_silent(ax: Axes, result: Result, silent: str, readout: str) -> None:
    c, y = _curve(result.response, silent, readout)
    ax.plot(c, y, **SILENT)


def _concentration_axis(ax: Axes, result: Result) -> None:
    ax.set_xscale("log")
    ax.set_xlabel(CONCENTRATION)
    ax.axvline(_receptor_ec50(result), **MARKED)


def _dish(medium: str) -> str:
    return "Pathways, drug alone" if medium == "no TPO" else f"Pathways, {medium}"


def _handles(result: Result) -> list[Line2D | Patch]:
    """The legend of the figure: pathways, marks of the upper row, dashes of the lower row."""
    ec50 = _receptor_ec50(result)
    band = [Patch(color=BAND_COLOUR, alpha=2 * BAND, lw=0, label="95% band over draws")] if _banded(result) else []
    return [
        *(Line2D([], [], color=COLOURS[r], lw=1.9, label=NAMES[r]) for r in labels.PATHWAYS),
        *band,
        Line2D([], [], label="no receptor (all)", **SILENT),
        Line2D([], [], color="black", marker="o", mec="white", ms=6, lw=0, label="EC50 of the curve"),
        Line2D([], [], label=f"receptor EC50, {ec50:.3g} nM", **MARKED),
        *(
            Line2D([], [], color="black", ls=d, label=f"below: {level:.3g} nM ({level / ec50:g} × EC50)")
            for level, d in zip(_levels(result), DASHES, strict=True)
        ),
    ]
