"""Bayesian decision on two binomial arms with independent beta priors."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

# Quantiles between which a panel lies: close together in the tails, where a beta density may rise like a power.
QUANTILES = np.array([1e-15, 1e-9, 1e-5, 1e-2, 0.5, 1 - 1e-2, 1 - 1e-5, 1 - 1e-9, 1 - 1e-15])
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)  # in each panel
ROWS = 4096  # tables at a time


def posterior_probability(
    y: np.ndarray, n: int, y0: np.ndarray, n0: int, margin: float, a: float, b: float
) -> np.ndarray:
    """Probability that p - p0 > margin after y of n and y0 of n0, both rates Beta(a, b) before.

    The integral of f(x) F0(x - margin) over the treated rate, on its logit, between quantiles of both posteriors.
    """
    pairs, where = np.unique(np.stack([np.ravel(y), np.ravel(y0)]), axis=1, return_inverse=True)
    found = np.empty(pairs.shape[1])
    for first in range(0, len(found), ROWS):
        part = slice(first, first + ROWS)
        yes, yes0 = pairs[:, part, None]
        found[part] = _integral(a + yes, b + n - yes, a + yes0, b + n0 - yes0, margin)
    return np.clip(found, 0, 1)[where.reshape(-1)].reshape(np.shape(y))


def _integral(a: np.ndarray, b: np.ndarray, a0: np.ndarray, b0: np.ndarray, margin: float) -> np.ndarray:
    treated, control = stats.beta.ppf(QUANTILES, a, b), stats.beta.ppf(QUANTILES, a0, b0) + margin
    tiny = np.finfo(float).tiny
    low, high = (np.clip(x, tiny, 1 - 1e-16) for x in (treated[:, :1], treated[:, -1:]))
    breaks = special.logit(np.sort(np.clip(np.concatenate([treated, control], 1), low, high), axis=1))
    middle, half = (breaks[:, 1:] + breaks[:, :-1]) / 2, (breaks[:, 1:] - breaks[:, :-1]) / 2
    t = (middle[..., None] + half[..., None] * NODES).reshape(len(a), -1)
    weight = (half[..., None] * WEIGHTS).reshape(len(a), -1)
    # f(x) dx = x^a (1 - x)^b/B(a, b) dt for x = 1/(1 + exp(-t))
    density = np.exp(a * special.log_expit(t) + b * special.log_expit(-t) - special.betaln(a, b))
    below = special.betainc(a0, b0, np.clip(special.expit(t) - margin, 0, 1))
    return (weight * density * below).sum(1)
