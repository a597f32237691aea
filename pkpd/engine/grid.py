"""Where the steps of a day fall: dense after the arrival of a dose, where the drives bend, sparse at its end."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from pkpd.parameters import Parameters

HOURS_A_DAY = 24.0


class Grid(NamedTuple):
    """Number of steps up to the switch of absorption and after it, and how strongly each part is graded."""

    before_switch: int = 4
    after_switch: int = 11
    grading_before: float = 1.5
    grading_after: float = 1.7


DEFAULT = Grid()


def fractions(n: int, grading: float) -> np.ndarray:
    """Lengths of n steps as fractions of their interval, from boundaries (i/n)^grading."""
    return np.diff((np.arange(n + 1) / n) ** grading)


def day(p: Parameters, grid: Grid = DEFAULT) -> tuple[Array, Array, Array, Array]:
    """Steps of one day from dose to dose: hours, absorption rate, absorption rate without a dose, and arrival flag.

    Each is [steps] or [steps, patients]. The first step ends at the arrival, ``lag`` hours after the dose was taken;
    the switch comes ``absorption_switch_h`` later, and lag + switch must not exceed 24 h.
    """
    lag, switch = p.lag_time_h, p.absorption_switch_h
    first, second = p.absorption_rate_first_per_h, p.absorption_rate_second_per_h
    dtype = jnp.result_type(p.clearance_l_per_h)
    before = [switch * f for f in fractions(grid.before_switch, grid.grading_before)]
    after = [(HOURS_A_DAY - lag - switch) * f for f in fractions(grid.after_switch, grid.grading_after)]
    n1, n2 = len(before), len(after)

    def stack(values: list) -> Array:
        return jnp.stack(jnp.broadcast_arrays(*(jnp.asarray(v, dtype) for v in values)))

    return (
        stack([lag, *before, *after]),
        stack([second, *[first] * n1, *[second] * n2]),
        stack([second] * (1 + n1 + n2)),
        jnp.zeros(1 + n1 + n2, dtype).at[1].set(1),
    )
