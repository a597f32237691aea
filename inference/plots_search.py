"""Figure of a search: the objective of every candidate against its constraints, and what was confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from inference import labels, plots
from inference.whatif.confirmation import CHOSEN, GIVEN, REJECTED, RUNNER_UP
from inference.whatif.racing import INFEASIBLE
from inference.whatif.search_table import column_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from inference.whatif.search_file import Constraint, Search

PANELS = 3  # constraints that are drawn, at most
GREY, LEFT = "#A8A8A8", "#333333"
ROLES = {CHOSEN: labels.ARM_COLOURS[1], RUNNER_UP: labels.ARM_COLOURS[0], 
         REJECTED: labels.ARM_COLOURS[3], GIVEN: labels.ARM_COLOURS[2]}  # fmt: skip
MARKERS = {CHOSEN: "D", GIVEN: "s"}


def search_figure(search: Search, every: pd.DataFrame, confirmed: pd.DataFrame) -> Figure:
    """A panel a constraint: candidates of the search (grey where dropped), the best objective at each level of the
    constraint as a line, and designs on fresh trials with 95% errors. Without constraints, candidates in their order.
    """
    constraints = search.constraints[:PANELS]
    with plots.style():
        fig = plots.figure(4.6, f"Search: {search.objective.aim} {search.objective.label}")
        axes = fig.subplots(1, max(1, len(constraints)), sharey=True, squeeze=False)[0]
        for ax, constraint in zip(axes, constraints or [None], strict=True):
            _panel(ax, search, constraint, every, confirmed)
        axes[0].set_ylabel(column_of(search, search.objective).replace("_", " "))
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower center", ncols=4)
    return fig


def _panel(
    ax: Axes, search: Search, constraint: Constraint | None, every: pd.DataFrame, confirmed: pd.DataFrame
) -> None:
    y = column_of(search, search.objective)
    x = None if constraint is None else column_of(search, constraint)
    if x is None:
        every = every.sort_values(y, ascending=search.objective.sign < 0).set_axis(range(1, len(every) + 1))
    dropped = every["why"] != ""
    infeasible = every["outcome"] == INFEASIBLE
    for rows, colour, size, name in (
        (every[infeasible], "#DDA793", 14, "dropped: infeasible"),
        (every[dropped & ~infeasible], GREY, 14, "dropped: worse, or left out"),
        (every[~dropped], LEFT, 26, "left at the end of the search"),
    ):
        if len(rows):
            ax.scatter(rows.index if x is None else rows[x], rows[y], s=size, color=colour, label=name, zorder=2, lw=0)
    if constraint is not None:
        assert x is not None
        front = pareto(every[[x, y]].to_numpy(float), constraint.sign, search.objective.sign)
        steps = "steps-post" if constraint.sign > 0 else "steps-pre"
        ax.plot(*front.T, drawstyle=steps, color=LEFT, lw=0.9, alpha=0.6, zorder=1, label="best at each level")
        ax.axvline(constraint.limit, **plots.MARKED)
        ax.set_xlabel(f"{constraint.quantity.replace('_', ' ')}, {constraint.of} (limit {constraint.limit:g})")
    else:
        ax.set_xlabel("designs from the best (0: the scenario as given)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for role, rows in confirmed.groupby("role", sort=False) if len(confirmed) else ():  # nobody: all infeasible
        where = rows[x] if x is not None else _places(every, rows)
        error_y, error_x = 1.96 * rows[f"{y}: mc_se"], None if x is None else 1.96 * rows[f"{x}: mc_se"]
        ax.errorbar(
            where, rows[y], error_y, error_x, color=ROLES[role],
            fmt=MARKERS.get(role, "o"), ms=6.5 if role in MARKERS else 5, mec="white", mew=0.7, lw=1.3, capsize=2,
            label=f"{role}, fresh trials", zorder=5,
        )  # fmt: skip


def _places(every: pd.DataFrame, rows: pd.DataFrame) -> list[float]:
    """Where confirmed designs stand in the order of the candidates; the scenario as given before all."""
    at = dict(zip(every["candidate"], every.index, strict=True))
    return [at.get(number, 0) for number in rows["candidate"]]


def pareto(points: np.ndarray, worse: int, better: int) -> np.ndarray:
    """Points [n, 2] that no other beats in both columns, by the first: ``worse`` and ``better`` are 1 or -1.

    worse: 1 where more of the first column is worse. better: 1 where more of the second is better.
    """
    points = points[np.isfinite(points).all(axis=1)]
    order = np.lexsort((-better * points[:, 1], worse * points[:, 0]))
    value = better * points[order, 1]
    so_far = np.maximum.accumulate(np.concatenate([[-np.inf], value]))[:-1]
    front = points[order][value > so_far]
    return front[np.argsort(front[:, 0])]
