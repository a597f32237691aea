"""Figure of virtual patients one by one: what each took, and what happened to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from inference import plots
from inference.plots_protocol import calendar, legend_columns, time_axis
from inference.plots_trial import OFF

if TYPE_CHECKING:
    from inference.report.virtual import Courses, VirtualArm

SWIMMERS = 40
RESPONSE, RESCUE = "#111111", "#C2185B"


def swimmers(
    arm: VirtualArm, days: np.ndarray, colours: dict[float, str], second: dict[float, str] | None = None
) -> Figure:
    """One patient a row: dose as colour over time, with interruption, stop, rescue, dropout and responses.

    colours: of the doses (mg) of the arm's drug; second: of those of its second.
    """
    c, ladders = some(arm.courses, SWIMMERS), (colours, second or {})
    unit, start = calendar(days[-1]), np.concatenate([[0], days[:-1]])
    left = np.concatenate([np.zeros_like(c.dropped[:1]), c.dropped[:-1]])
    n = len(c.baseline)
    rows: dict[str, list[tuple[int, float, float]]] = {}
    for p in range(n):
        for v in range(len(days)):
            if left[v, p]:
                continue
            kind = "stopped by the rule" if c.stopped[v, p] else "interrupted" if c.interrupted[v, p] else "no drug"
            if c.dose_mg[v, p] > 0:
                own = ladders[int(c.second[v, p])]
                kind = own[min(own, key=lambda mg: abs(mg - c.dose_mg[v, p]))]
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
        names = ("", "") if second is None else (f"{arm.drug} ", f"{arm.second_drug} ")
        handles = [
            Patch(color=colour, label=f"{drug}{x:g} mg")
            for drug, own in zip(names, ladders, strict=True)
            for x, colour in own.items()
            if colour in rows
        ]
        handles += [Patch(color=OFF[name], label=name) for name in present]
        handles += _mark_handles(c)
        fig.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles))
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
    "relapse": {"marker": "v", "color": "#E08A00", "ms": 5.5, "lw": 0, "mec": "white", "mew": 0.5},
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
    return {
        "response": c.response,
        "rescue": starts(c.rescued),
        "stop": stop,
        "relapse": starts(c.relapsed),
        "left the trial": starts(c.dropped),
    }


def _mark_handles(c: Courses) -> list[Any]:
    return [Line2D([], [], label=name, **MARKS[name]) for name, marked in _events(c).items() if marked.any()]
