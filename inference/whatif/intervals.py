"""Confidence intervals for a risk difference p - p0, vectorised over trials."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from inference.whatif.two_by_two import score

Bounds = tuple[np.ndarray, np.ndarray]
HALVINGS = 50  # of the range of a difference: bounds are exact to 2^-49


def wilson(y: np.ndarray, n: int, confidence: float) -> Bounds:
    """Wilson's interval of a proportion."""
    z = stats.norm.isf((1 - confidence) / 2)
    p = np.asarray(y) / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def newcombe(y: np.ndarray, n: int, y0: np.ndarray, n0: int, confidence: float) -> Bounds:
    """Newcombe's hybrid score interval (1998, method 10): the distances of two Wilson intervals, squared and added."""
    p, p0 = np.asarray(y) / n, np.asarray(y0) / n0
    low, high = wilson(y, n, confidence)
    low0, high0 = wilson(y0, n0, confidence)
    d = p - p0
    return np.maximum(d - np.hypot(p - low, high0 - p0), -1), np.minimum(d + np.hypot(high - p, p0 - low0), 1)


def miettinen_nurminen(y: np.ndarray, n: int, y0: np.ndarray, n0: int, confidence: float) -> Bounds:
    """All differences that the score test with the variance times N/(N - 1) keeps; each table is solved once."""
    pairs, where = np.unique(np.stack([np.ravel(y), np.ravel(y0)]), axis=1, return_inverse=True)
    z = stats.norm.isf((1 - confidence) / 2)

    def root(level: float) -> np.ndarray:
        """The difference at which the falling statistic passes ``level``, by halving."""
        low, high = -np.ones(pairs.shape[1]), np.ones(pairs.shape[1])
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = score(pairs[0], n, pairs[1], n0, middle, correction=True) > level
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return ((low + high) / 2)[where.reshape(-1)].reshape(np.shape(y))

    return root(z), root(-z)


INTERVALS: dict[str, Callable[[np.ndarray, int, np.ndarray, int, float], Bounds]] = {
    "newcombe": newcombe,
    "miettinen-nurminen": miettinen_nurminen,
}
