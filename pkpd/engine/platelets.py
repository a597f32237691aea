"""Platelets over one step: saturable loss along its chord, what is left of it as a correction.

P' = made(t) - ksen P - v P/(K + P). Between P and P + d the saturable loss changes by exactly q d/(K + P + d) with
q = v K/(K + P). With the chord to a guess of the end in place of P + d the equation for d is linear, and is solved with
the (2, 3) Pade form of the exponential, that of the Radau IIA method of order 5; what the chord missed at the middle
and at the end then enters as a drive. Stable for any step, positive, and nothing moves at rest.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

LOWEST = 1e-3  # share of P that a step leaves at least


class Loss(NamedTuple):
    """Loss of platelets over a step as seen from its start."""

    P: Array  # 1e9/L
    hours: Array
    senescence_per_h: Array
    W: Array  # K + P
    q: Array  # 1e9/L/h
    lost: Array  # 1e9/L/h
    soft: Array  # hours over which a net gain at the start adds up, linearly implicit

    def guess(self, made: Array) -> Array:
        """Change of P over the step for a constant production (1e9/L/h), bounded by what there is."""
        return jnp.maximum(self.soft * (made - self.lost), -self.P)


def loss(P: Array, h: Array, ksen: Array, v: Array, K: Array) -> Loss:
    """P, K: 1e9/L; h: hours; ksen: 1/h; v: immune capacity, 1e9/L/h."""
    W = K + P
    v_W = v / W
    q = v_W * K
    return Loss(P, h, ksen, W, q, P * (ksen + v_W), h / (1 + h * (ksen + q / W)))


def step(s: Loss, made: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """P at the middle (as in ``relaxation.Weights``) and at the end of the step.

    made: production at its start, middle and end, 1e9/L/h.
    """
    lowest = (LOWEST - 1) * s.P
    start, middle, end = (m - s.lost for m in made)
    chord = 1 / (s.W + s.guess(made[2]))
    z = s.hours * (s.senescence_per_h + s.q * chord)
    # Numerators of the weights, from phi_j of that form over the common denominator.
    share = s.hours / (1 + z * (3 / 5 + z * (3 / 20 + z / 60)))
    to_middle = (5 / 24 + z * (13 / 240 + z / 240), 1 / 3 + z * (2 / 15 + z / 60), -(1 / 24 + z / 80))
    to_end = (1 / 6 - z / 15, 2 / 3 + z / 15, 1 / 6 + z * (1 / 10 + z / 60))

    def changed(w: tuple[Array, Array, Array], middle: Array, end: Array) -> Array:
        return jnp.maximum(share * (w[0] * start + w[1] * middle + w[2] * end), lowest)

    first = [changed(w, middle, end) for w in (to_middle, to_end)]
    missed = [s.q * d * (chord - 1 / (s.W + d)) for d in first]
    corrected = middle + missed[0], end + missed[1]
    return s.P + changed(to_middle, *corrected), s.P + changed(to_end, *corrected)
