"""Statistics of simulation-based calibration: ranks, how likely they are if uniform, and the envelope of their ECDF.

A truth drawn from the prior and L draws from the posterior of data made with it are exchangeable, so the rank of the
truth among the draws, for any function of parameters and data, is uniform on 0 ... L (Cook, Gelman and Rubin 2006,
J Comput Graph Stat 15:675; Talts et al. 2018, arXiv:1804.06788; functions of the data too: Modrak et al. 2023,
Bayesian Anal). Of n such ranks, R_i = number below i is Bin(n, i/(L + 1)); the ECDF is judged by its least likely point

    T = min over i = 1 ... L of min(P(Bin <= R_i), P(Bin >= R_i)),

and both the p-value of T and the band that holds the whole ECDF with a given probability are exact, by recursion over
the points (Sailynoja, Buerkner and Vehtari 2022, Stat Comput 32:32). An ECDF leaves its band of level 1 - a exactly
where p <= a.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jax import Array
from numpy.typing import NDArray
from scipy.stats import binom, poisson

from pkpd import random
from pkpd.errors import InputError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
BISECTIONS = 40
SAME = 1 + 1e-9  # tail probabilities closer than this are one probability, differently rounded


class Envelope(NamedTuple):
    """Band of R_i, i = 1 ... L, that holds all of them with probability ``level`` or a little more."""

    lower: Integers  # [L]
    upper: Integers  # [L]
    level: float


def ranks(key: Array, truth: Floats, draws: Floats) -> Integers:
    """Ranks 0 ... S [...] of ``truth`` [...] among ``draws`` [S, ...]: the draws below, and at random of those equal.

    InputError where a truth or a draw is not a finite number: it has no rank.
    """
    truth, draws = np.asarray(truth, np.float64), np.asarray(draws, np.float64)
    bad = int((~np.isfinite(truth)).sum()), int((~np.isfinite(draws)).sum())
    if any(bad):
        raise InputError(f"no rank: {bad[0]} truths and {bad[1]} draws are not finite")
    ties = random.generator(key).integers(0, (draws == truth).sum(axis=0), endpoint=True)
    return (draws < truth).sum(axis=0) + ties


def below(of: Integers, draws: int) -> Integers:
    """R_i [L], how many of the ranks ``of`` [n] are below i = 1 ... L; InputError for a rank outside 0 ... L."""
    of = np.asarray(of)
    if of.size == 0 or of.min() < 0 or of.max() > draws:
        raise InputError(f"there must be ranks, all between 0 and {draws}; got {of.tolist()}")
    return np.cumsum(np.bincount(of, minlength=draws + 1))[:-1]


def inside_probability(lower: Integers, upper: Integers, n: int) -> float:
    """P(lower_i <= R_i <= upper_i for all i = 1 ... L) of n uniform ranks; exact.

    The numbers of ranks at 0, 1, ..., L are independent Poisson numbers given that they add to n: so the law of the
    sum moves on by one convolution a point, and what lies outside the band is dropped.
    """
    step = poisson.pmf(np.arange(n + 1), n / (len(lower) + 1))
    law = np.zeros(n + 1)
    law[0] = 1.0
    for low, high in zip(lower, upper, strict=True):
        law = np.convolve(law, step)[: n + 1]
        law[:low] = 0.0
        law[high + 1 :] = 0.0
    return float(law @ step[::-1] / poisson.pmf(n, n))


@lru_cache(maxsize=8)
def _tails(n: int, draws: int) -> tuple[Floats, Floats]:
    """P(Bin(n, i/(L + 1)) <= r) and P(Bin >= r), both [L, n + 1]."""
    r, at = np.arange(n + 1), np.arange(1, draws + 1)[:, None] / (draws + 1)
    return binom.cdf(r, n, at), binom.sf(r - 1, n, at)


def _band(n: int, draws: int, least: float) -> tuple[Integers, Integers]:
    """R_i whose two tails both are at least ``least``: lower and upper [L]."""
    at_most, at_least = _tails(n, draws)
    return (at_most < least).sum(axis=1), (at_least >= least).sum(axis=1) - 1


def uniformity(of: Integers, draws: int) -> float:
    """p-value of ranks ``of`` [n] on 0 ... ``draws`` as uniform: the probability of a T as small as theirs, exact."""
    R, n = below(of, draws), len(of)
    at_most, at_least = _tails(n, draws)
    each = np.arange(draws)
    T = float(np.minimum(at_most[each, R], at_least[each, R]).min())
    lower, upper = _band(n, draws, T * SAME)
    return min(1.0, max(0.0, 1.0 - inside_probability(lower, upper, n)))


@lru_cache(maxsize=64)
def envelope(n: int, draws: int, level: float = 0.99) -> Envelope:
    """The band of the ECDF of n uniform ranks on 0 ... ``draws``: the narrowest of its kind with at least ``level``."""
    small, large = 0.0, (1 - level) / 2 * SAME  # one point alone allows no more
    for _ in range(BISECTIONS):
        middle = (small + large) / 2
        if inside_probability(*_band(n, draws, middle), n) >= level:
            small = middle
        else:
            large = middle
    return Envelope(*_band(n, draws, small), level)


def inside(of: Integers, band: Envelope) -> bool:
    """Whether the whole ECDF of ranks ``of`` [n] lies in the band."""
    R = below(of, len(band.lower))
    return bool(((R >= band.lower) & (R <= band.upper)).all())


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjustment of the p-values of several quantities, by name."""
    from statsmodels.stats.multitest import multipletests

    return dict(zip(p, map(float, multipletests(list(p.values()), method="holm")[1]), strict=True)) if p else {}
