"""Where the steps of a day fall: dense after the arrival of a dose, where the drives bend, sparse at its end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from pkpd.errors import InputError, nearest
from pkpd.parameters import Parameters

HOURS_A_DAY = 24.0
DAYS_A_WEEK = 7  # immune activity changes weekly, whatever the visit calendar


class Grid(NamedTuple):
    """Lengths of the steps between arrival and switch of absorption, and from there to the next dose, as shares."""

    before_switch: tuple[float, ...]
    after_switch: tuple[float, ...]

    def refined(self, k: int) -> Grid:
        """Every step cut into k equal ones."""
        return Grid(*(tuple(share / k for share in part for _ in range(k)) for part in self))


def graded(before_switch: int, after_switch: int, before: float = 1.5, after: float = 1.7) -> Grid:
    """So many steps before and after the switch, with boundaries at (i/n)^grading."""

    def shares(n: int, grading: float) -> tuple[float, ...]:
        return tuple(np.diff((np.arange(n + 1) / n) ** grading).tolist())

    return Grid(shares(before_switch, before), shares(after_switch, after))


# Found by a search over shares for the smallest error of the count, of ordinary patients and of the +-4 sd box.
DEFAULT = Grid((0.1759, 0.8241), (0.033, 0.1353, 0.1714, 0.2383, 0.2171, 0.2049))
# High: for profiles and checks, whose cost is no matter; elasticities of the count within 1e-4 of the exact ones.
ACCURACY = {"default": DEFAULT, "high": graded(24, 66)}


def accuracy(name: str) -> Grid:
    """The grid of that name; InputError if there is none."""
    if name not in ACCURACY:
        raise InputError(f"accuracy {name!r}{nearest(name, ACCURACY)}")
    return ACCURACY[name]


def day(p: Parameters, grid: Grid = DEFAULT) -> tuple[Array, Array, Array, Array]:
    """Rows of steps of a day: hours, absorption rate, absorption rate without a dose, and arrival flag.

    Each is [rows] or [rows, patients]. The first row ends at the arrival, ``lag`` hours after the dose was taken; the
    switch comes ``absorption_switch_h`` later, and lag + switch must not exceed 24 h. The last two are alternatives:
    one ends when the next dose is taken, the other, where nothing changes then, at the arrival of that; see ``row``.
    """
    lag, switch = p.lag_time_h, p.absorption_switch_h
    first, second = p.absorption_rate_first_per_h, p.absorption_rate_second_per_h
    dtype = jnp.result_type(p.clearance_l_per_h)
    before = [switch * share for share in grid.before_switch]
    after = [(HOURS_A_DAY - lag - switch) * share for share in grid.after_switch]
    n1, n2 = len(before), len(after)

    def stack(values: list) -> Array:
        return jnp.stack(jnp.broadcast_arrays(*(jnp.asarray(v, dtype) for v in values)))

    return (
        stack([lag, *before, *after, after[-1] + lag]),
        stack([second, *[first] * n1, *[second] * (n2 + 1)]),
        stack([second] * (2 + n1 + n2)),
        jnp.zeros(2 + n1 + n2, dtype).at[1].set(1),
    )


def stretch(day: Any, first: Any, last: Any) -> tuple[Any, Any]:
    """Whether ``day`` of the days from ``first`` up to ``last`` begins and whether it ends a stretch in which nothing
    changes when a dose is taken: immune activity changes every week, dose and reading where the days begin and end.
    """
    return (day == first) | (day % DAYS_A_WEEK == 0), (day + 1 == last) | ((day + 1) % DAYS_A_WEEK == 0)


def row(step: Any, rows: int, ends: Any) -> Any:
    """Row of ``day`` of a day's step: steps count from 0 on a day that begins a stretch, else from 1, to rows - 2."""
    return step + ((step == rows - 2) & ~jnp.asarray(ends)).astype(jnp.int32)


def steps_of(grid: Grid, n_days: int) -> int:
    """Steps of a course with a reading every week."""
    return n_days * sum(map(len, grid)) + -(-n_days // DAYS_A_WEEK)
