"""Figures of a design: its arms over time, its dose rules, its looks and the rates its trials report."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from inference import labels, plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from inference.report.protocol import Protocol, Stage

ACTIONS = {
    "stop": "#7A1F1F", "interrupt": "#C8553D", "down": "#E3A857", "resume": "#9DB8D9", "resume_lower": "#9DB8D9",
    "up": "#4C9F8B", "down_or_stop": "#B07C2E", "switch": "#6A5ACD",
}  # fmt: skip
REJECTED, FUTILE, DROPPED, NEITHER = "#0072B2", "#D55E00", "#CC79A7", "#D6D6D6"
WEEKS_FROM_D = 28  # a calendar this long or longer is shown in weeks
MOST_TICKS = 9
STEPS_D, STEPS_W = (1, 2, 4, 7, 14), (1, 2, 4, 8, 12, 26, 52)  # between ticks
NARROW = 0.09  # share of the calendar in which a label does not fit
WRAP = 30  # characters of a line
WHITE = {"fc": "white", "ec": "none", "pad": 1}  # behind words that a line would cross
INSIDE = 0.24  # share of an axis of counts in which words beside a band do not fit
LEGEND = 130  # characters side by side, those for a marker included


class Calendar(NamedTuple):
    """The unit of an axis of time."""

    days: float
    unit: str

    def of(self, days: Any) -> Any:
        """Days in the unit."""
        return np.asarray(days) / self.days


def calendar(last_d: float) -> Calendar:
    """Weeks for a long calendar, days for a short one."""
    return Calendar(7.0, "week") if last_d >= WEEKS_FROM_D else Calendar(1.0, "day")


def time_axis(ax: Axes, last_d: float, label: bool = True) -> Calendar:
    """Time from the first dose, with few ticks."""
    unit = calendar(last_d)
    last = float(unit.of(last_d))
    step = next(
        (s for s in (STEPS_W if unit.unit == "week" else STEPS_D) if last / s <= MOST_TICKS),
        math.ceil(last / MOST_TICKS),
    )
    ax.set_xlim(0, last)
    ax.set_xticks(np.arange(0, last + 1e-9, step))
    if label:
        ax.set_xlabel(unit.unit)
    return unit


def wrapped(text: str, width: int = WRAP) -> str:
    """Lines of at most this width; a dose stays with its unit."""
    return "\n".join(textwrap.wrap(text.replace(" mg", "\u00a0mg"), width)).replace("\u00a0", " ")


def paler(colour: str, alpha: float) -> str:
    """The colour that one of this transparency shows on white."""
    return to_hex(1 - alpha * (1 - np.array(to_rgb(colour))))


def legend_columns(handles: Sequence[Any]) -> int:
    """Columns of a legend as wide as the figure allows, its rows about equally long."""
    widest = max(len(line) for handle in handles for line in handle.get_label().splitlines())
    most = max(1, LEGEND // (widest + 8))
    return -(-len(handles) // -(-len(handles) // most))


def schematic(
    stages: Sequence[Stage],
    sizes: Mapping[str, int],
    visits_d: Sequence[int],
    entry: str,
    endpoint: tuple[int, str] | None,
    screening_d: Sequence[int] = (),
) -> Figure:
    """Arms as lanes over time with their stages, the visits as ticks, entry and endpoint as lines.

    endpoint: its day and what it is. screening_d: days of visits before the first dose, in one lane before the arms.
    """
    arms, last = list(sizes), max(stage.last_d for stage in stages)
    colours, unit = labels.arm_colours(arms), calendar(last)
    with plots.style():
        fig = plots.figure(1.9 + 0.66 * len(arms))
        ax = fig.subplots()
        end = float(unit.of(last))
        common = all(set(stage.labels) == set(arms) for stage in stages)
        for lane, arm in enumerate(arms):
            own = sorted((s for s in stages if arm in s.labels), key=lambda s: s.first_d)
            for place, stage in enumerate(own):
                first, width = unit.of(stage.first_d), unit.of(stage.last_d - stage.first_d)
                shade = (0.34, 0.16, 0.24)[place % 3]
                ax.barh(lane, width, 0.66, first, color=colours[arm], alpha=shade, lw=0)
                ax.barh(lane, width, 0.66, first, color="none", ec=colours[arm], lw=1)
                text = stage.labels[arm] if common or len(own) == 1 else f"{stage.name}: {stage.labels[arm]}"
                lines = wrapped(text, max(13, int(105 * width / end)))
                if lines.count("\n") < 3 and width > NARROW * end:
                    small = 9 if "\n" not in lines else 7.5
                    behind = {"fc": paler(colours[arm], shade), "ec": "none", "pad": 1.5}  # lines of days end at words
                    ax.annotate(lines, (first + width / 2, lane), va="center", ha="center", fontsize=small, bbox=behind,
                                zorder=6)  # fmt: skip
                else:
                    ax.annotate(text, (first, lane - 0.36), va="bottom", ha="left", fontsize=7.5, xytext=(2, 0),
                                textcoords="offset points")  # fmt: skip
        for stage in stages if common and len(stages) > 1 else ():
            ax.annotate(stage.name, (unit.of(stage.first_d + stage.last_d) / 2, -0.68), ha="center", va="center",
                        fontsize=9, fontweight="bold", bbox=WHITE, zorder=6)  # fmt: skip
        visits = len(arms)
        seen_d = [*screening_d, *visits_d]
        ax.plot(unit.of(seen_d), np.full(len(seen_d), visits), "|", color="black", ms=11, mew=1.4)
        ax.vlines(unit.of(visits_d), -0.5, visits - 0.3, color="#333333", lw=0.5, alpha=0.25)
        _landmark(ax, 0.0, entry, "left", -1.4)
        if endpoint is not None:
            _landmark(ax, float(unit.of(endpoint[0])), endpoint[1], "right", -1.02)
        ax.set_yticks(range(len(arms) + 1), [*(f"{wrapped(arm)}\nn = {n}" for arm, n in sizes.items()), "visits"])
        ax.set_ylim(visits + 0.25, -1.68)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(visible=False)
        time_axis(ax, last)
        begin = _screening(ax, screening_d, unit, visits, end) if screening_d else 0.0
        ax.set_xlim(begin - 0.01 * end, 1.01 * end)
    return fig


def _screening(ax: Axes, days: Sequence[int], unit: Calendar, arms: int, end: float) -> float:
    """The period before the first dose, common to all arms; returns where it begins, at least as wide as its name."""
    first = float(unit.of(days[0]))
    left = min(first, -0.035 * end)
    ax.barh((arms - 1) / 2, -first, arms - 0.34, first, color="#BDBDBD", alpha=0.5, lw=0)
    upright = -left > NARROW * end
    ax.annotate("screening", (left / 2, (arms - 1) / 2), ha="center", va="center", fontsize=9 if arms > 1 else 7.5,
                rotation=0 if upright else 90)  # fmt: skip
    ticks = ax.get_xticks()
    before = np.arange(-ticks[1], first - 1e-9, -ticks[1]) if len(ticks) > 1 else np.array([])
    if not len(before) and first == round(first) < 0:
        before = np.array([first])
    ax.set_xticks([*before[::-1], *ticks])
    return left


def _landmark(ax: Axes, at: float, text: str, side: str, height: float) -> None:
    """A line at a time, its words above the lanes on the side where there is room."""
    room = "left" if at < 0.5 * ax.get_xlim()[1] else side
    ax.plot([at, at], [height, 20], color="black", lw=1.2, ls=(0, (4, 2)), clip_on=True)
    ax.annotate(text, (at, height), xytext=(4 if room == "left" else -4, 0), textcoords="offset points", ha=room,
                va="center", fontsize=9, bbox=WHITE, zorder=6)  # fmt: skip


def rule(protocols: Sequence[Protocol]) -> Figure:
    """Every row of the dose rules as a band on the axis of counts, in the order of reading."""
    sizes = [len(p.rows) + 1.4 for p in protocols]
    limits = [x for p in protocols for row in p.rows for x in (row.above, row.below) if math.isfinite(x) and x > 0]
    low, high = min([20.0, *limits]) / 2.5, max([300.0, *limits]) * 2.2
    with plots.style():
        fig = plots.figure(0.4 + 0.52 * sum(sizes))
        axes = fig.subplots(len(protocols), 1, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
        for ax, p in zip(axes, protocols, strict=True):
            for y, row in enumerate(p.rows):
                left, right = max(row.above, low), min(row.below, high)
                ax.barh(y, right - left, 0.72, left, color=ACTIONS[row.action], lw=0,
                        hatch="///" if row.state == "interrupted" else None, ec="white")  # fmt: skip
                words = wrapped(row.timing, 34) if row.timing != "any visit" else ""
                words += ("\n" if words else "") + "while interrupted" * (row.state == "interrupted")
                if words.strip():
                    after, before = (math.log(b / a) / math.log(high / low) for a, b in ((right, high), (low, left)))
                    at, side, shift = (right, "left", 6) if after >= before else (left, "right", -6)
                    if max(after, before) < INSIDE:
                        at, side, shift = math.sqrt(left * right), "center", 0
                    ax.annotate(words.strip(), (at, y), xytext=(shift, 0), textcoords="offset points", ha=side,
                                va="center", fontsize=8.5, bbox=WHITE if side == "center" else None)  # fmt: skip
            ax.set_yticks(range(len(p.rows)), [f"{y}. {row.does}" for y, row in enumerate(p.rows, 1)])
            ax.set_ylim(len(p.rows) - 0.4, -0.6)
            ax.set_xscale("log")
            ax.set_xlim(low, high)
            own = sorted({x for row in p.rows for x in (row.above, row.below) if math.isfinite(x) and x > 0})
            ax.xaxis.set_major_locator(FixedLocator(own))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
            ax.set_title(p.title)
        axes[-1].set_xlabel("count at the visit (10⁹/L)")
    return fig


class Rate(NamedTuple):
    """A rate of an arm: its mean over trials, and the range of what one trial reports."""

    arm: str
    quantity: str
    mean: float
    low: float
    high: float


def rates(found: Sequence[Rate]) -> Figure:
    """Rates by endpoint and arm with the middle 95% of simulated trials."""
    arms = list(dict.fromkeys(r.arm for r in found))
    quantities = list(dict.fromkeys(r.quantity for r in found))
    colours = labels.arm_colours(arms)
    step = 0.62 / len(arms)
    with plots.style():
        fig = plots.figure(1.1 + len(quantities) * max(0.42, 0.2 * len(arms)))
        ax = fig.subplots()
        for r in found:
            y = quantities.index(r.quantity) + step * (arms.index(r.arm) - (len(arms) - 1) / 2)
            ax.hlines(y, 100 * r.low, 100 * r.high, color=colours[r.arm], lw=2.2)
            ax.plot(100 * r.mean, y, "o", color=colours[r.arm], ms=5, mec="white", mew=0.8)
        ax.set_yticks(range(len(quantities)), quantities)
        ax.set_ylim(len(quantities) - 0.4, -0.6)
        ax.set_xlim(-1, 101)
        ax.set_xlabel("patients (%)")
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        handles = [Line2D([], [], color=colours[a], marker="o", lw=2.2, label=wrapped(a)) for a in arms]
        fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles))
    return fig


class Looks(NamedTuple):
    """Looks of a trial: shares of the patients, critical z, futility limits (NaN for none), and by comparison the share
    of trials [looks] that rejected, that were futile, and whose arm was dropped as a loser, at each."""

    shares: np.ndarray
    critical: np.ndarray
    futile_z: np.ndarray
    sided: int
    rejected: dict[str, np.ndarray]
    futile: dict[str, np.ndarray]
    dropped: dict[str, np.ndarray]


def looks(found: Looks) -> Figure:
    """The boundary with its futility limit, and when the simulated trials ended, a bar for each comparison."""
    with plots.style():
        fig = plots.figure(max(3.6, 1.6 + 0.62 * len(found.rejected)))
        left, right = fig.subplots(1, 2, width_ratios=[1, 1.35])
        top = max(found.critical) * 1.18
        _boundary(left, found, -top if found.sided == 2 else min(-0.5, np.nanmin([0.0, *found.futile_z]) - 0.5), top)
        names = list(found.rejected)
        for y, name in enumerate(names):
            _endings(right, y, found.rejected[name], found.futile[name], found.dropped[name])
        right.set_yticks(range(len(names)), [wrapped(name, 22) for name in names])
        right.set_ylim(len(names) - 0.4, -0.6)
        right.set_xlim(0, 100)
        right.set_xlabel("trials (%), by the look that ended them")
        right.tick_params(axis="y", length=0)
        right.grid(axis="y", visible=False)
        fig.legend(handles=_look_handles(found), loc="outside lower center", ncols=6)
    return fig


def _endings(ax: Axes, y: int, rejected: np.ndarray, futile: np.ndarray, dropped: np.ndarray) -> None:
    """One comparison's bar: what ended at each look, in the order of the looks, with the number of the look."""
    neither = np.zeros(len(rejected))
    neither[-1] = max(0.0, 1 - rejected.sum() - futile.sum() - dropped.sum())
    left = 0.0
    for k in range(len(rejected)):
        ends = ((rejected[k], REJECTED), (futile[k], FUTILE), (dropped[k], DROPPED), (neither[k], NEITHER))
        for share, colour in ends:
            ax.barh(y, 100 * share, 0.62, left, color=colour, ec="white", lw=0.8)
            if share > 0.05:
                dark = "black" if colour == NEITHER else "white"
                ax.annotate(f"{k + 1}", (left + 50 * share, y), ha="center", va="center", fontsize=8.5, color=dark)
            left += 100 * share


def _boundary(ax: Axes, found: Looks, bottom: float, top: float) -> None:
    percent = 100 * found.shares
    ax.fill_between(percent, found.critical, top, color=REJECTED, alpha=0.13, lw=0)
    ax.plot(percent, found.critical, "o-", color=REJECTED, ms=5)
    for x, z in zip(percent, found.critical, strict=True):
        ax.annotate(f"{z:.2f}", (x, z), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8.5)
    if found.sided == 2:
        ax.fill_between(percent, -found.critical, bottom, color=REJECTED, alpha=0.13, lw=0)
        ax.plot(percent, -found.critical, "o-", color=REJECTED, ms=5)
    if np.isfinite(found.futile_z).any():
        ax.plot(percent, found.futile_z, "s--", color=FUTILE, ms=5)
        ax.fill_between(percent, found.futile_z, bottom, color=FUTILE, alpha=0.13, lw=0)
    ax.set_xlim(max(0, percent[0] - 8), 104)
    ax.set_xticks(percent, [f"{p:.0f}%" for p in percent])
    ax.set_ylim(bottom, top)
    ax.set_xlabel("share of the patients")
    ax.set_ylabel("test statistic z")
    ax.set_title("boundary")


def _look_handles(found: Looks) -> list[Any]:
    handles: list[Any] = [Line2D([], [], color=REJECTED, marker="o", label="critical value")]
    if np.isfinite(found.futile_z).any():
        handles.append(Line2D([], [], color=FUTILE, marker="s", ls="--", label="futility limit"))
    handles.append(Patch(color=REJECTED, label="null rejected"))
    if any(x.any() for x in found.futile.values()):
        handles.append(Patch(color=FUTILE, label="stopped as futile"))
    if any(x.any() for x in found.dropped.values()):
        handles.append(Patch(color=DROPPED, label="arm dropped"))
    return [*handles, Patch(color=NEITHER, label="not rejected at the end")]
