"""Platelets over one step: saturable loss along its chord, what is left of it as a correction.

P' = made(t) - ksen P - v P/(K + P). Between P and P + d the saturable loss changes by exactly q d/(K + P + d) with
q = v K/(K + P). With the chord to a first guess of the end in place of P + d the equation for d is linear, and is solved
with the (2, 3) Pade form of the exponential, that of the Radau IIA method of order 5; what the chord missed at the
middle and at the end then enters as a drive. Stable for any step, positive, and nothing moves at rest.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

LOWEST = 1e-3  # share of P that a step leaves at least


def step(P: Array, made: tuple[Array, Array, Array], h: Array, ksen: Array, v: Array, K: Array) -> tuple[Array, Array]:
    """P at the middle (as in ``relaxation.Weights``) and at the end of ``h`` hours.

    P, K: 1e9/L. made: production at start, middle and end, v: immune capacity (1e9/L/h). ksen: 1/h.
    """
    W = K + P
    v_W = v / W
    q, lost, lowest = v_W * K, P * (ksen + v_W), (LOWEST - 1) * P
    start, middle, end = (m - lost for m in made)
    guess = jnp.maximum(h * end / (1 + h * (ksen + q / W)), -P)
    chord = 1 / (W + guess)
    z = h * (ksen + q * chord)
    # Numerators of the weights, from phi_j of that form over the common denominator.
    share = h / (1 + z * (3 / 5 + z * (3 / 20 + z / 60)))
    to_middle = (5 / 24 + z * (13 / 240 + z / 240), 1 / 3 + z * (2 / 15 + z / 60), -(1 / 24 + z / 80))
    to_end = (1 / 6 - z / 15, 2 / 3 + z / 15, 1 / 6 + z * (1 / 10 + z / 60))

    def changed(w: tuple[Array, Array, Array], middle: Array, end: Array) -> Array:
        return jnp.maximum(share * (w[0] * start + w[1] * middle + w[2] * end), lowest)

    first = [changed(w, middle, end) for w in (to_middle, to_end)]
    missed = [q * d * (chord - 1 / (W + d)) for d in first]
    corrected = middle + missed[0], end + missed[1]
    return P + changed(to_middle, *corrected), P + changed(to_end, *corrected)
