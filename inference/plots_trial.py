"""Figures of the virtual patients of a design: response, counts, doses, exposure and overshoot.

Every function takes the arms of ``report.virtual`` and returns a matplotlib Figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, StrMethodFormatter

from inference import labels, plots
from inference.plots_protocol import calendar, legend_columns, time_axis, wrapped
from inference.report import virtual

if TYPE_CHECKING:
    from inference.report.virtual import VirtualArm

COLUMNS = 3  # panels in a row
LINE = 80  # characters of titles side by side
LEFT, STOPPED, INTERRUPTED, NO_DRUG = "#FFFFFF", "#8C8C8C", "#F2B8A2", "#E4E4E4"
OFF = {"left the trial": LEFT, "stopped by the rule": STOPPED, "interrupted": INTERRUPTED, "no drug": NO_DRUG}
BANDS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Curve(NamedTuple):
    """Response of an arm over time: days, the share (0 to 1), and the range over trials [2, days] or None."""

    arm: str
    days: np.ndarray
    share: np.ndarray
    range: np.ndarray | None


def response(curves: Sequence[Curve]) -> Figure:
    """Share of responders at each visit by arm, with the middle 95% of simulated trials."""
    colours = labels.arm_colours([c.arm for c in curves])
    with plots.style():
        fig = plots.figure(3.7)
        ax = fig.subplots()
        for c in curves:
            x = calendar(c.days[-1]).of(c.days)
            if c.range is not None:
                ax.fill_between(x, *(100 * c.range), color=colours[c.arm], alpha=0.16, lw=0)
            ax.plot(x, 100 * c.share, "o-", color=colours[c.arm], ms=4.5, lw=1.8, clip_on=False, label=wrapped(c.arm))
        time_axis(ax, max(c.days[-1] for c in curves))
        ax.set_ylim(0, 100)
        ax.set_ylabel("patients with a response (%)")
        handles = ax.get_legend_handles_labels()[0]
        fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles))
    return fig


def counts(arms: Sequence[VirtualArm], days: np.ndarray) -> Figure:
    """Observed counts over time by arm: median, middle 50% and 90% of patients."""
    colours = labels.arm_colours([a.name for a in arms])
    at = np.concatenate([[0], days])
    bands = [virtual.count_quantiles(a.courses, BANDS) for a in arms]
    with plots.style():
        fig, axes = _panels([a.name for a in arms], 2.9)
        for ax, a, q in zip(axes, arms, bands, strict=False):
            x, colour = calendar(days[-1]).of(at), colours[a.name]
            ax.fill_between(x, q[0], q[4], color=colour, alpha=0.16, lw=0)
            ax.fill_between(x, q[1], q[3], color=colour, alpha=0.3, lw=0)
            ax.plot(x, q[2], color=colour, lw=2)
            _count_axis(ax, float(np.nanmin(bands)), float(np.nanmax(bands)))
            time_axis(ax, days[-1])
        _label_rows(axes, labels.COUNT)
        grey = labels.PLACEBO_COLOUR
        handles = [
            Line2D([], [], color=grey, lw=2, label="median"),
            Patch(color=grey, alpha=0.46, lw=0, label="middle 50% of patients"),
            Patch(color=grey, alpha=0.16, lw=0, label="middle 90%"),
            Line2D([], [], label="50 and 250 ×10⁹/L", **plots.MARKED),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig


def doses(arms: Sequence[VirtualArm], days: np.ndarray) -> Figure:
    """Share of patients at each dose over time, a panel for each arm."""
    colours, unit, seen = palette(arms), calendar(days[-1]), {}
    start, width = unit.of(np.concatenate([[0], days[:-1]])), unit.of(np.diff(days, prepend=0))
    with plots.style():
        fig, axes = _panels([a.name for a in arms], 2.7)
        for ax, a in zip(axes, arms, strict=False):
            bottom = np.zeros(len(days))
            ladders = [list(colours.get(drug, ())) for drug in (a.drug, a.second_drug)]
            levels = [(drug, x) for drug, own in zip((a.drug, a.second_drug), ladders, strict=True) for x in own]
            found = 100 * virtual.states(a.courses, *map(np.array, ladders))
            share: dict[Any, np.ndarray] = dict(zip([*OFF, *levels], found, strict=True))
            for state in [*levels, *reversed(OFF)]:  # doses below, those without one on top
                if share[state].any():
                    colour, name = _look(colours, *(state if state in levels else ("", state)))
                    ax.bar(start, share[state], width, bottom, align="edge", color=colour, ec=colour, lw=0.4)
                    seen[name] = colour
                    bottom += share[state]
            ax.set_ylim(0, 100)
            ax.grid(visible=False)
            time_axis(ax, days[-1])
        _label_rows(axes, "patients (%)")
        names = [_look(colours, drug, x)[1] for drug, own in colours.items() for x in own] + list(reversed(OFF))
        handles = [Patch(fc=seen[n], ec="#AAAAAA", lw=0.5, label=n) for n in names if n in seen]
        fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles))
    return fig


def overshoot(rows: Sequence[dict[str, Any]], response_name: str) -> Figure:
    """Share of patients above 250 and 400 against the response rate, a point for each arm."""
    colours = labels.arm_colours([row["arm"] for row in rows])
    with plots.style():
        fig = plots.figure(3.5)
        axes = fig.subplots(1, 2, sharey=True)
        for ax, limit in zip(axes, (250, 400), strict=True):
            for row in rows:
                x, y = 100 * row["response"], 100 * row[f"above_{limit}"]
                ax.errorbar(
                    x,
                    y,
                    196 * row[f"error_{limit}"],
                    196 * row["error_response"],
                    fmt="o",
                    color=colours[row["arm"]],
                    ms=6,
                    lw=1.4,
                )
            ax.set_xlabel(f"patients with {response_name} (%)")
            ax.set_title(f"count above {limit} ×10⁹/L at any visit")
            ax.set_xlim(-2, 102)
        axes[0].set_ylabel("patients (%)")
        top = max(5.0, axes[0].get_ylim()[1])
        axes[0].set_ylim(-0.02 * top, top)
        handles = [Line2D([], [], color=colour, marker="o", lw=0, label=wrapped(a)) for a, colour in colours.items()]
        fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles))
    return fig


def exposure(groups: dict[str, np.ndarray]) -> Figure:
    """Cmax, daily AUC and trough by dose [3, patients]: median, middle 50% and 90% of patients."""
    names = list(groups)
    with plots.style():
        fig = plots.figure(1.3 + 0.36 * len(names))
        axes = fig.subplots(1, 3, sharey=True)
        titles = ("Cmax (ng/mL)", "AUC in 24 h (ng·h/mL)", "trough (ng/mL)")
        for i, (ax, title) in enumerate(zip(axes, titles, strict=True)):
            low, inner_low, middle, inner_high, high = np.array([np.quantile(groups[n][i], BANDS) for n in names]).T
            rows = np.arange(len(names))
            ax.hlines(rows, np.maximum(low, 1e-3), high, color=labels.ARM_COLOURS[0], lw=2)
            ax.hlines(rows, np.maximum(inner_low, 1e-3), inner_high, color=labels.ARM_COLOURS[0], lw=8)
            ax.plot(middle, rows, "|", color="white", ms=9, mew=1.8)
            ax.set_xscale("log")
            few = np.max(high) / max(np.min(low), 1e-3) < 40  # less than about one and a half decades
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if few else (1.0,)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_xlabel(title)
            ax.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(names)), names)
    return fig


def palette(arms: Sequence[VirtualArm]) -> dict[str, dict[float, str]]:
    """A colour for every dose (mg) by drug, each drug with shades of its own."""
    found: dict[str, dict[float, str]] = {}
    for drug in dict.fromkeys(x for a in arms for x in (a.drug, a.second_drug) if x):
        of_drug = [np.where(a.courses.second, a.second_drug, a.drug) == drug for a in arms]
        doses = np.unique(np.concatenate([a.courses.dose_mg[own] for a, own in zip(arms, of_drug, strict=True)]))
        doses = doses[doses > 0]
        shades = matplotlib.colormaps["PuRd" if found else "YlGnBu"](np.linspace(0.36, 0.96, max(len(doses), 2)))
        found[drug] = {float(x): matplotlib.colors.to_hex(s) for x, s in zip(doses, shades, strict=False)}
    return found


def _look(colours: dict[str, dict[float, str]], drug: str, state: Any) -> tuple[str, str]:
    """Colour and name of a dose, or of a state without one."""
    if state in OFF:
        return OFF[state], state
    return colours[drug][state], f"{state:g} mg" if len(colours) == 1 else f"{drug} {state:g} mg"


def _count_axis(ax: Axes, low: float, high: float) -> None:
    """Counts on a log axis with 50 and 250 marked where they lie on it, and enough ticks where the range is small."""
    plots.set_count_axis(ax, low, high)
    bottom, top = ax.get_ylim()
    if top / bottom < 20:
        ax.yaxis.set_major_locator(FixedLocator([50, 100, 150, 200, 300, 400, 600, 1000]))
    for level in plots.TARGET:
        if bottom < level < top:
            ax.axhline(level, **plots.MARKED)
            ax.annotate(f"{level:g}", (1.0, level), xycoords=("axes fraction", "data"), xytext=(2, 0),
                        textcoords="offset points", va="center", fontsize=8.5)  # fmt: skip


def _panels(titles: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    """A grid of titled panels in reading order; shared axis of values."""
    n = len(titles)
    columns = min(n, 4 if n == 4 else COLUMNS)
    rows = -(-n // columns)
    fig = plots.figure(0.6 + height * rows)
    axes = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(wrapped(title, LINE // columns))
    return fig, list(axes[:n])


def _label_rows(axes: Sequence[Axes], text: str) -> None:
    """The label of the values on the first panel of each row."""
    for ax in axes:
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_first_col():
            ax.set_ylabel(text)
