"""Group-sequential boundaries by the recursive integration of Armitage, McPherson and Rowe (1969).

The statistic Z_k at information fraction t_k is standard normal under the null; Z_k sqrt(t_k) is a Brownian motion at
t_k. A trial goes on while |Z_k| < c_k (two-sided) or Z_k < c_k (one-sided). Levels are those of the whole test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

FARTHEST = 9.0  # standard deviations from its mean beyond which a statistic has no weight (2e-19)
PANEL_SD = 2.0  # widest panel of the integral, in standard deviations of the step to a look: errors below 1e-10
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)  # in each panel

CLASSICAL = {"pocock": 0.5, "obrien-fleming": 0.0}  # c_k = C t_k^(shape - 1/2), Wang and Tsiatis (1987)


def spent(boundary: str, t: np.ndarray, alpha: float, sided: int, parameter: float | None = None) -> np.ndarray:
    """Cumulative error spent at information fractions t of a spending function; two-sided: twice that of alpha/2."""
    a, t, shape = alpha / sided, np.asarray(t, float), parameter or 0.0
    if boundary == "lan-demets-obrien-fleming":
        used = 2 * stats.norm.sf(stats.norm.isf(a / 2) / np.sqrt(t))
    elif boundary == "lan-demets-pocock":
        used = a * np.log1p((math.e - 1) * t)
    elif boundary == "power-family":
        used = a * t**shape
    elif shape == 0:  # hwang-shih-decani
        used = a * t
    else:
        used = a * np.expm1(-shape * t) / math.expm1(-shape)
    return sided * used


@lru_cache(maxsize=256)
def critical_values(
    boundary: str, looks: tuple[float, ...], alpha: float, sided: int, parameter: float | None = None
) -> tuple[float, ...]:
    """Critical values c_k of a boundary at the looks, whose fractions increase to 1."""
    t = np.array(looks)
    if boundary in CLASSICAL:
        shape, fixed = t ** (CLASSICAL[boundary] - 0.5), stats.norm.isf(alpha / sided)

        def excess(C: float) -> float:
            return exit_probabilities(C * shape, looks, sided).sum() - alpha

        C = optimize.brentq(excess, fixed - 1e-9, fixed + 10, xtol=1e-12)
        return tuple(map(float, C * shape))
    bounds: list[float] = []
    going, before = _START, 0.0
    for at, used in zip(looks, spent(boundary, t, alpha, sided, parameter), strict=True):
        bounds.append(_solve(going, at, used - before, sided))
        going, before = _within(going, at, bounds[-1], sided), used
    return tuple(bounds)


def nominal_levels(critical: Sequence[float], sided: int) -> np.ndarray:
    """The p at which each look stops."""
    return sided * stats.norm.sf(np.asarray(critical))


def exit_probabilities(
    critical: Sequence[float] | np.ndarray, looks: Sequence[float] | np.ndarray, sided: int, drift: float = 0.0
) -> np.ndarray:
    """Probability of crossing the boundary first at each look; the mean of Z_k is drift sqrt(t_k)."""
    going, found = _START, []
    for c, t in zip(critical, looks, strict=True):
        found.append(_beyond(going, t, c, sided, drift))
        going = _within(going, t, c, sided, drift)
    return np.array(found)


class _Going(NamedTuple):
    """Trials that go on after the look at t: the Brownian motion at the nodes of the integral, and their mass."""

    t: float
    value: np.ndarray
    mass: np.ndarray


_START = _Going(0.0, np.zeros(1), np.ones(1))


def _beyond(going: _Going, t: float, c: float, sided: int, drift: float = 0.0) -> float:
    """Probability of going on until the look at t, and being at or beyond c there."""
    sd, mean = math.sqrt(t - going.t), going.value + drift * (t - going.t)
    tail = stats.norm.sf((c * math.sqrt(t) - mean) / sd)
    if sided == 2:
        tail = tail + stats.norm.cdf((-c * math.sqrt(t) - mean) / sd)
    return float(going.mass @ tail)


def _within(going: _Going, t: float, c: float, sided: int, drift: float = 0.0) -> _Going:
    """The trials that go on from the look at t, where the statistic is inside c."""
    sd, mean = math.sqrt(t - going.t), going.value + drift * (t - going.t)
    far = FARTHEST * math.sqrt(t)
    low = max(drift * t - far, -c * math.sqrt(t) if sided == 2 else -math.inf)
    high = min(drift * t + far, c * math.sqrt(t))
    if high <= low:  # nobody goes on
        return _Going(t, np.zeros(1), np.zeros(1))
    edges = np.linspace(low, high, 1 + math.ceil((high - low) / (PANEL_SD * sd)))
    half = (edges[1] - edges[0]) / 2
    value = (edges[:-1, None] + half + half * NODES).ravel()
    density = stats.norm.pdf((value[:, None] - mean) / sd) @ going.mass / sd
    return _Going(t, value, density * np.tile(half * WEIGHTS, len(edges) - 1))


def _solve(going: _Going, t: float, wanted: float, sided: int) -> float:
    """The critical value beyond which lies the probability ``wanted``; FARTHEST where that is nothing."""
    if _beyond(going, t, FARTHEST, sided) >= wanted:
        return FARTHEST
    low = 0.0 if sided == 2 else -FARTHEST
    return float(optimize.brentq(lambda c: _beyond(going, t, c, sided) - wanted, low, FARTHEST, xtol=1e-12))
