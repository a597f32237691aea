"""Figures of the virtual patients of a design: response, counts, doses, exposure, overshoot, and 40 of them one by one.

Every function takes the arms of ``report.virtual`` and returns a matplotlib Figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, StrMethodFormatter

from inference import labels, plots
from inference.plots_protocol import calendar, time_axis, wrapped
from inference.report import virtual

if TYPE_CHECKING:
    from inference.report.virtual import Courses, VirtualArm

COLUMNS = 3  # panels in a row
SWIMMERS = 40
LEFT, STOPPED, INTERRUPTED, NO_DRUG = "#FFFFFF", "#8C8C8C", "#F2B8A2", "#E4E4E4"
OFF = {"left the trial": LEFT, "stopped for good": STOPPED, "interrupted": INTERRUPTED, "no drug": NO_DRUG}
RESPONSE, RESCUE = "#111111", "#C2185B"
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
        fig.legend(loc="outside lower center", ncols=min(len(curves), 4))
    return fig


def counts(arms: Sequence[VirtualArm], days: np.ndarray) -> Figure:
    """Observed counts over time by arm: median, middle 50% and 90% of patients."""
    colours = labels.arm_colours([a.name for a in arms])
    at = np.concatenate([[0], days])
    bands = [virtual.count_quantiles(a.courses, BANDS) for a in arms]
    with plots.style():
        fig, axes = _panels(len(arms), 2.9)
        for ax, a, q in zip(axes, arms, bands, strict=False):
            x, colour = calendar(days[-1]).of(at), colours[a.name]
            ax.fill_between(x, q[0], q[4], color=colour, alpha=0.16, lw=0)
            ax.fill_between(x, q[1], q[3], color=colour, alpha=0.3, lw=0)
            ax.plot(x, q[2], color=colour, lw=2)
            _count_axis(ax, float(np.nanmin(bands)), float(np.nanmax(bands)))
            time_axis(ax, days[-1])
            ax.set_title(wrapped(a.name))
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
    levels = dose_levels(arms)
    names, colours = [*OFF, *(f"{x:g} mg" for x in levels)], [*OFF.values(), *labels.dose_colours(levels)]
    shares = [virtual.states(a.courses, levels) for a in arms]
    seen = np.any([share.any(axis=1) for share in shares], axis=0)
    order = [*range(len(OFF), len(names)), 3, 2, 1, 0]  # doses below, those without one on top
    unit = calendar(days[-1])
    start, width = unit.of(np.concatenate([[0], days[:-1]])), unit.of(np.diff(days, prepend=0))
    with plots.style():
        fig, axes = _panels(len(arms), 2.7)
        for ax, a, share in zip(axes, arms, shares, strict=False):
            bottom = np.zeros(len(days))
            for i in order:
                ax.bar(start, 100 * share[i], width, bottom, align="edge", color=colours[i], ec=colours[i], lw=0.4)
                bottom += 100 * share[i]
            ax.set_ylim(0, 100)
            ax.grid(visible=False)
            time_axis(ax, days[-1])
            ax.set_title(wrapped(a.name))
        _label_rows(axes, "patients (%)")
        shown = [i for i in order if seen[i]]
        handles = [Patch(fc=colours[i], ec="#AAAAAA", lw=0.5, label=names[i]) for i in shown]
        fig.legend(handles=handles, loc="outside lower center", ncols=_columns(len(handles)))
    return fig


def swimmers(arm: VirtualArm, days: np.ndarray, levels_mg: np.ndarray) -> Figure:
    """One patient a row: dose as colour over time, with interruption, stop, rescue, dropout and responses."""
    c = some(arm.courses, SWIMMERS)
    palette = dict(zip(levels_mg, labels.dose_colours(levels_mg), strict=True))
    unit, start = calendar(days[-1]), np.concatenate([[0], days[:-1]])
    left = np.concatenate([np.zeros_like(c.dropped[:1]), c.dropped[:-1]])
    n = len(c.baseline)
    rows: dict[str, list[tuple[int, float, float]]] = {}
    for p in range(n):
        for v in range(len(days)):
            if left[v, p]:
                continue
            kind = "stopped for good" if c.stopped[v, p] else "interrupted" if c.interrupted[v, p] else "no drug"
            if c.dose_mg[v, p] > 0:
                kind = palette[levels_mg[np.argmin(np.abs(levels_mg - c.dose_mg[v, p]))]]
            rows.setdefault(OFF.get(kind, kind), []).append((p, unit.of(start[v]), unit.of(days[v] - start[v])))
    with plots.style():
        fig = plots.figure(1.0 + 0.155 * max(n, 12))
        ax = fig.subplots()
        for colour, bars in rows.items():
            y, x, width = np.array(bars).T
            ax.barh(y, width, 0.78, x, color=colour, lw=0)
        _marks(ax, c, unit.of(days), left)
        ax.set_ylim(n - 0.4, -0.8)
        ax.set_yticks([])
        ax.set_ylabel(f"{n} virtual patients")
        ax.grid(visible=False)
        time_axis(ax, days[-1])
        ax.set_xlim(0, 1.02 * unit.of(days[-1]))
        present = [name for name, colour in OFF.items() if colour in rows]
        handles = [Patch(color=palette[x], label=f"{x:g} mg") for x in levels_mg if palette[x] in rows]
        handles += [Patch(color=OFF[name], label=name) for name in present]
        handles += _mark_handles(c)
        fig.legend(handles=handles, loc="outside lower center", ncols=_columns(len(handles)))
    return fig


def some(c: Courses, n: int) -> Courses:
    """Patients chosen evenly, without regard to outcome, ordered by their responses and time to the first."""
    chosen = np.unique(np.linspace(0, len(c.baseline) - 1, min(n, len(c.baseline))).astype(int))
    seen = c.response[:, chosen]
    first = np.where(seen.any(axis=0), seen.argmax(axis=0), len(seen))
    order = np.lexsort((first, -seen.sum(axis=0)))
    return type(c)(*(np.asarray(x)[..., chosen[order]] for x in c))


MARKS: dict[str, dict[str, Any]] = {
    "response": {"marker": "o", "color": RESPONSE, "ms": 3.4, "lw": 0, "mec": "white", "mew": 0.5},
    "rescue": {"marker": "^", "color": RESCUE, "ms": 5.5, "lw": 0, "mec": "white", "mew": 0.5},
    "stop": {"marker": "X", "color": "black", "ms": 5.5, "lw": 0, "mec": "white", "mew": 0.5},
    "left the trial": {"marker": ">", "color": "#555555", "ms": 5, "lw": 0},
}


def _marks(ax: Axes, c: Courses, at: np.ndarray, left: np.ndarray) -> None:
    """Response at a visit; the first visit of rescue, and of leaving; the visit that stopped the drug."""
    where = {name: _events(c)[name] for name in MARKS}
    where["stop"] = where["stop"] & ~left
    for name, marked in where.items():
        if not marked.any():  # an empty line that is not clipped has a corner of the page in its box
            continue
        v, p = np.nonzero(marked)
        ax.plot(at[v], p, **MARKS[name], clip_on=False, zorder=4 if name == "response" else 5)


def _events(c: Courses) -> dict[str, np.ndarray]:
    """When [visits, patients] each event happened; a stop at a visit shows in the interval behind it."""

    def starts(x: np.ndarray) -> np.ndarray:
        return x & ~np.concatenate([np.zeros_like(x[:1]), x[:-1]])

    stop = np.concatenate([starts(c.stopped)[1:], np.zeros_like(c.stopped[:1])])
    return {"response": c.response, "rescue": starts(c.rescued), "stop": stop, "left the trial": starts(c.dropped)}


def _mark_handles(c: Courses) -> list[Any]:
    return [Line2D([], [], label=name, **MARKS[name]) for name, marked in _events(c).items() if marked.any()]


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
        fig.legend(handles=handles, loc="outside lower center", ncols=min(len(rows), 4))
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


def dose_levels(arms: Sequence[VirtualArm]) -> np.ndarray:
    """Every dose (mg) of the arms, in order."""
    found = np.unique(np.concatenate([np.unique(a.courses.dose_mg) for a in arms]))
    return found[found > 0]


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


def _columns(entries: int) -> int:
    """Columns of a legend: one row where it fits, else rows of about the same length."""
    return -(-entries // -(-entries // 8))


def _panels(n: int, height: float) -> tuple[Figure, list[Axes]]:
    """A grid of n panels in reading order; shared axis of values."""
    columns = min(n, 4 if n == 4 else COLUMNS)
    rows = -(-n // columns)
    fig = plots.figure(0.6 + height * rows)
    axes = fig.subplots(rows, columns, sharey=True, squeeze=False)
    for ax in axes.ravel()[n:]:
        ax.set_visible(False)
    return fig, list(axes.ravel()[:n])


def _label_rows(axes: Sequence[Axes], text: str) -> None:
    """The label of the values on the first panel of each row."""
    for ax in axes:
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_first_col():
            ax.set_ylabel(text)
