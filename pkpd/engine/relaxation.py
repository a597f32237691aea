"""Exponential integration of y' = k (d(t) - y) over one step, exact when the drive d is a parabola in time.

The drive is known at the start, middle and end of the step. Weights come from the phi functions of exponential
integrators (Hochbruck and Ostermann, Acta Numerica 2010;19:209).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

SERIES_TERMS = 18  # at z <= 1 the next term is 1/21!, below float64 resolution


class Weights(NamedTuple):
    """Weights of (d_start - y, d_middle - y, d_end - y) in the change of y up to the middle and the end of the step.

    In this form a state at rest stays there to the last bit, however short the step.
    """

    middle: tuple[Array, Array, Array]
    end: tuple[Array, Array, Array]


def phi(z: Array) -> tuple[Array, Array, Array]:
    """phi_1, phi_2, phi_3 at -z for z >= 0: phi_j = integral over (0, 1) of exp(-z (1 - s)) s^(j-1)/(j-1)! ds."""
    below = z <= 1
    small = jnp.where(below, z, 1)  # minimum and maximum would halve the derivative where z is 1
    series = jnp.zeros_like(small)
    for k in reversed(range(SERIES_TERMS)):
        series = 1 / math.factorial(k + 3) - small * series
    series_2 = 0.5 - small * series
    large = jnp.where(below, 1, z)
    upward_1 = -jnp.expm1(-large) / large
    upward_2 = (1 - upward_1) / large
    upward_3 = (0.5 - upward_2) / large
    return (
        jnp.where(below, 1 - small * series_2, upward_1),
        jnp.where(below, series_2, upward_2),
        jnp.where(below, series, upward_3),
    )


def weights(rate_per_h: Array, h: Array) -> Weights:
    """Weights for a relaxation with ``rate_per_h`` over a step of ``h`` hours."""
    z = rate_per_h * h
    f1, f2, f3 = phi(z)
    g1, g2, g3 = phi(z / 2)
    return Weights(
        middle=(
            z / 2 * (g1 - 1.5 * g2 + g3),
            z / 2 * (2 * g2 - 2 * g3),
            z / 2 * (g3 - 0.5 * g2),
        ),
        end=(z * (f1 - 3 * f2 + 4 * f3), z * (4 * f2 - 8 * f3), z * (4 * f3 - f2)),
    )


def relax(w: Weights, y: Array, start: Array, middle: Array, end: Array) -> tuple[Array, Array]:
    """y at the middle and at the end of the step for a drive known at its start, middle and end."""
    away = (start - y, middle - y, end - y)
    return (
        y + (w.middle[0] * away[0] + w.middle[1] * away[1] + w.middle[2] * away[2]),
        y + (w.end[0] * away[0] + w.end[1] * away[1] + w.end[2] * away[2]),
    )
