"""Keeps XLA from repeating work: on a CPU it copies a value's arithmetic into every consumer that it fuses."""

from __future__ import annotations

from typing import TypeVar

import jax
from jax import Array, lax

BARRIER_SURVIVES = jax.__version_info__ >= (0, 11)  # before, XLA dropped the barrier ahead of its fusion pass

Values = TypeVar("Values")


def once(values: Values, true: Array | None) -> Values:
    """The same values, computed once; 2 to 3 times the patients a second on a CPU.

    true: a scalar that is always True but that the compiler cannot know, for versions without a lasting barrier; None
    where a kernel is straight-line code already and nothing is to be kept apart.
    """
    if true is None or jax.default_backend() == "gpu":  # there barriers cost a third, measured on an H200
        return values
    if BARRIER_SURVIVES:
        return lax.optimization_barrier(values)
    return lax.cond(true, lambda v: v, lambda v: jax.tree.map(lambda x: -x, v), values)
