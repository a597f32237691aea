"""Figures of designs side by side: power against what was swept, overshoot against response, who gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from inference import labels, plots
from inference.plots_protocol import legend_columns, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 3.4  # inches a row of panels
COLUMNS = 3
LOW = 3.0  # percent
DARK = 0.6  # of the range of a heat map: above it numbers are white


class Point(NamedTuple):
    """An arm of a design: response and counts above 250 in percent, with their Monte Carlo errors."""

    mark: str
    arm: str
    response: float
    response_se: float
    above: float
    above_se: float


def power_curves(curves: pd.DataFrame, keys: Sequence[str]) -> Figure | None:
    """Power with its 95% Monte Carlo interval against the first key, a line for each value of the second, a panel for
    each comparison and test; None where there is no power, or more than two keys.

    curves: ``estimate`` and ``mc_se`` (0 to 1) by ``comparison`` and ``quantity`` (``said``: in words), a column a key.
    """
    if curves.empty or not 1 <= len(keys) <= 2:
        return None
    panels = list(_by_panel(curves))
    with plots.style():
        fig, axes = _grid(len(panels), HEIGHT)
        for ax, (title, rows) in zip(axes, panels, strict=True):
            _panel(ax, rows, keys)
            ax.set_title(title, fontsize=9)
        if len(keys) == 2:
            handles, names = axes[0].get_legend_handles_labels()
            fig.legend(handles, names, loc="outside lower center", title=keys[1], ncols=4)
    return fig


def _by_panel(curves: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    said = "said" if "said" in curves else "quantity"
    groups = curves.groupby(["comparison", said], sort=False)
    return [(f"{wrapped(of, 40)}\n{wrapped(str(name).replace('_', ' '), 40)}", rows) for (of, name), rows in groups]


def _grid(n: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, n)
    rows = -(-n // columns)
    fig = plots.figure(height * rows)
    axes = fig.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    for ax in axes[:n]:
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_first_col():
            ax.set_ylabel("%")
    return fig, list(axes[:n])


def _panel(ax: Axes, rows: pd.DataFrame, keys: Sequence[str]) -> None:
    numeric = all(isinstance(x, int | float) for x in rows[keys[0]])
    at = {value: value if numeric else i for i, value in enumerate(dict.fromkeys(rows[keys[0]]))}
    groups = list(rows.groupby(keys[1], sort=False)) if len(keys) == 2 else [("", rows)]
    spread = (max(at.values()) - min(at.values())) * 0.012 if len(at) > 1 else 0.0  # so that intervals stay apart
    for i, ((name, group), colour) in enumerate(zip(groups, labels.ARM_COLOURS * 4, strict=False)):
        x = np.array([at[value] for value in group[keys[0]]], float) + spread * (i - (len(groups) - 1) / 2)
        error = 196 * group["mc_se"].to_numpy(float)
        order = np.argsort(x)
        ax.errorbar(
            x[order], 100 * group["estimate"].to_numpy(float)[order], error[order], color=colour, marker="o",
            markersize=4, linewidth=1.2, capsize=2, label=str(name),
        )  # fmt: skip
    few = len(at) <= 6
    if not numeric or few:
        ax.set_xticks(list(at.values()), [wrapped(str(value), 16) for value in at])
    ax.set(xlabel=keys[0], ylim=(-2, 102))


def _broken(key: str) -> str:
    """A key on several lines where it is long."""
    return key.replace(".", ".\n") if len(key) > 24 else key


def dots(curves: pd.DataFrame, marks: Sequence[str]) -> Figure:
    """Power of each design by its mark, a panel for each comparison and test; for more than two keys."""
    panels = _by_panel(curves)
    with plots.style():
        fig, axes = _grid(len(panels), 1.0 + 0.24 * len(marks))
        for ax, (title, rows) in zip(axes, panels, strict=True):
            y = np.arange(len(rows))
            ax.errorbar(
                100 * rows["estimate"],
                y,
                xerr=196 * rows["mc_se"],
                fmt="o",
                color=labels.ARM_COLOURS[0],
                ms=4.5,
                lw=1.4,
            )
            ax.set_title(title, fontsize=9)
            ax.set_yticks(range(len(marks)), marks)
            ax.set(xlim=(-2, 102), xlabel="%", ylabel="", ylim=(len(marks) - 0.5, -0.5))
    return fig


def heat_map(curves: pd.DataFrame, keys: Sequence[str]) -> Figure:
    """Power over both keys as colour and number, its Monte Carlo error below; a panel for each comparison and test."""
    panels = _by_panel(curves)
    first, second = (list(dict.fromkeys(curves[key])) for key in keys)
    if all(isinstance(x, int | float) for x in second):
        second = sorted(second)
    with plots.style():
        fig, axes = _grid(len(panels), 1.0 + 0.5 * len(second))
        for ax, (title, rows) in zip(axes, panels, strict=True):
            cells = rows.pivot_table(index=keys[1], columns=keys[0], values=["estimate", "mc_se"], sort=False)
            value, error = (
                cells[name].reindex(index=second, columns=first).to_numpy() for name in ("estimate", "mc_se")
            )
            ax.imshow(value, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
            for (i, j), x in np.ndenumerate(value):
                if np.isfinite(x):
                    text = f"{100 * x:.1f}\n±{100 * error[i, j]:.1f}"
                    ax.annotate(
                        text, (j, i), ha="center", va="center", fontsize=8, color="white" if x > DARK else "black"
                    )
            ax.set_xticks(range(len(first)), [str(x) for x in first])
            ax.set_yticks(range(len(second)), [str(x) for x in second])
            ax.set_xlabel(keys[0])
            ax.set_ylabel(_broken(keys[1]) if ax is axes[0] else "")
            ax.set_title(title, fontsize=9)
            ax.grid(visible=False)
    return fig


def overshoot(points: Sequence[Point], joined: bool) -> Figure:
    """Counts above 250 against response: colour the arm, letter the design; ``joined`` by a line in their order."""
    arms = list(dict.fromkeys(p.arm for p in points))
    colours = labels.arm_colours(arms)
    with plots.style():
        fig = plots.figure(4.2)
        ax = fig.subplots()
        for arm in arms:
            own = [p for p in points if p.arm == arm]
            x, y = [p.response for p in own], [p.above for p in own]
            ax.errorbar(
                x, y, [1.96 * p.above_se for p in own], [1.96 * p.response_se for p in own], fmt="o", ms=5, lw=1,
                color=colours[arm],
            )  # fmt: skip
            if joined:
                ax.plot(x, y, color=colours[arm], lw=0.9, alpha=0.6)
            told: dict[tuple[float, float], list[str]] = {}  # designs that share a point share its words
            for p in own:
                told.setdefault((round(p.response, 1), round(p.above, 1)), []).append(p.mark)
            for i, (at, marks) in enumerate(sorted(told.items())):
                text = ", ".join(marks) if len(marks) <= 4 else f"{marks[0]} to {marks[-1]}"
                up = 1 if i % 2 or at[1] < LOW else -1  # neighbours on different sides, none below the axis
                ax.annotate(text, at, xytext=(4, 7 * up), textcoords="offset points", va="center", fontsize=8.5,
                            color=colours[arm])  # fmt: skip
        ax.set_xlabel("patients with the main endpoint (%)")
        ax.set_ylabel("patients with a count above 250 ×10⁹/L (%)")
        ax.set_ylim(bottom=-0.02 * max(5.0, ax.get_ylim()[1]))
        handles = [Line2D([], [], color=colours[a], marker="o", lw=0, label=wrapped(a)) for a in arms]
        fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles))
    return fig


def gains(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Net gain over the first design with its 95% interval, by band of a covariate; a panel for each design and arm."""
    panels: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["mark"], row["arm"]), []).append(row)
    bands = list(dict.fromkeys(row["third"] for row in rows))
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    with plots.style():
        fig = plots.figure(lines * (1.0 + 0.27 * len(bands)))
        axes = fig.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        for ax, ((mark, arm), own) in zip(axes, panels.items(), strict=False):
            for row in own:
                colour = labels.PLACEBO_COLOUR if abs(row["net_gain"]) <= 2 * row["error"] else labels.ARM_COLOURS[0]
                colour = labels.ARM_COLOURS[1] if row["net_gain"] < -2 * row["error"] else colour
                y = bands.index(row["third"])
                ax.errorbar(row["net_gain"], y, xerr=1.96 * row["error"], fmt="o", color=colour, ms=5, lw=1.4)
            ax.axvline(0, color="black", lw=0.9)
            ax.set_title(f"{mark}: {arm}", fontsize=9)
            ax.set_xlabel("net gain (points)")
            ax.tick_params(axis="y", length=0, labelsize=8.5)
            ax.tick_params(axis="x", labelbottom=True)
        axes[0].set_yticks(range(len(bands)), bands)
        axes[0].set_ylim(len(bands) - 0.4, -0.6)
    return fig
