"""Exponential integration of y' = k (d(t) - y) over one step, exact when the drive d is a polynomial through its nodes.

Weights come from the phi functions of exponential integrators (Hochbruck and Ostermann, Acta Numerica 2010;19:209).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, reduce
from operator import add
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

SERIES_BELOW = 2.0  # above, the recursion upward keeps more digits
SERIES_TERMS = {4: 13, 8: 22}  # by bytes of a number; at z <= 2 the next term is below its resolution
PARABOLA = (0.0, 0.5, 1.0)  # nodes as shares of a step


class Weights(NamedTuple):
    """Weights of the drive at the nodes in y at the middle and at the end of the step.

    The middle is the one that gives y its exact mean over the step by Simpson's rule with start and end, so that what y
    drives in turn gets all of it. left: share of y itself, for a y that is 0 at rest. None: drives count from y, which
    costs more but leaves any state at rest where it is to the last bit, however short the step.
    """

    middle: tuple[Array, ...]
    end: tuple[Array, ...]
    left: tuple[Array, Array] | None = None


def phi(z: Array, n: int = 3) -> tuple[Array, ...]:
    """phi_1 to phi_n at -z for z >= 0: phi_j = integral over (0, 1) of exp(-z (1 - s)) s^(j-1)/(j-1)! ds."""
    below = z <= SERIES_BELOW
    small = jnp.where(below, z, 1)  # minimum and maximum would halve the derivative where they meet
    series = jnp.zeros_like(small)
    for k in reversed(range(SERIES_TERMS[series.dtype.itemsize])):
        series = 1 / math.factorial(k + n) - small * series
    near = [series]
    for j in reversed(range(1, n)):
        near.insert(0, 1 / math.factorial(j) - small * near[0])
    large = jnp.where(below, 1, z)
    far = [(1 - jnp.exp(-z)) / large]
    for j in range(1, n):
        far.append((1 / math.factorial(j) - far[-1]) / large)
    return tuple(jnp.where(below, a, b) for a, b in zip(near, far, strict=True))


@cache
def cardinals(nodes: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Of the polynomial that is 1 at node i and 0 at the others: its derivatives at 0, from the 0th up, for every i."""
    n = len(nodes)
    powers = np.linalg.inv(np.vander(nodes, increasing=True)).T
    return tuple(tuple(float(powers[i, j] * math.factorial(j)) for j in range(n)) for i in range(n))


def integrals(functions: Sequence[Array], nodes: tuple[float, ...]) -> tuple[Array, ...]:
    """For every node the sum of its cardinal's derivatives times ``functions``: phi_1, phi_2, ... or a shifted row."""
    return tuple(reduce(add, (d * f for d, f in zip(row, functions, strict=False))) for row in cardinals(nodes))


@cache
def quadrature(nodes: tuple[float, ...]) -> tuple[float, ...]:
    """Weights of the values at the nodes in the mean of the polynomial through them."""
    return tuple(sum(d / math.factorial(j + 1) for j, d in enumerate(row)) for row in cardinals(nodes))


def weights(rate_per_h: Array, h: Array, nodes: tuple[float, ...] = PARABOLA, zero_at_rest: bool = False) -> Weights:
    """Weights for a relaxation with ``rate_per_h`` over a step of ``h`` hours, its drive known at ``nodes``."""
    z = rate_per_h * h
    f = phi(z, len(nodes) + 1)
    end, mean = integrals(f, nodes), integrals(f[1:], nodes)
    middle = tuple(z * (1.5 * m - 0.25 * e) for m, e in zip(mean, end, strict=True))
    left = jnp.exp(-z)
    return Weights(middle, tuple(z * e for e in end), (1.5 * f[0] - 0.25 * (1 + left), left) if zero_at_rest else None)


def relax(w: Weights, y: Array, *drive: Array) -> tuple[Array, Array]:
    """y at the middle and at the end of the step for a drive known at the nodes."""
    start, from_there = ((y, y), [d - y for d in drive]) if w.left is None else ([x * y for x in w.left], drive)
    middle, end = (
        y + sum(a * b for a, b in zip(row, from_there, strict=True)) for y, row in zip(start, w[:2], strict=True)
    )
    return middle, end


def towards(w: Weights, y: Array, drive: Array) -> tuple[Array, Array]:
    """The same for a constant drive and weights with ``left``."""
    middle, end = (drive + left * (y - drive) for left in w.left or ())
    return middle, end


def middle(values: Sequence[Array], nodes: tuple[float, ...]) -> Array:
    """The middle, as in ``Weights``, of what is known at the nodes."""
    mean = sum(w * x for w, x in zip(quadrature(nodes), values, strict=True))
    return 1.5 * mean - 0.25 * (values[0] + values[-1])
