"""Which of several hypotheses are rejected at a family-wise level: p [trials, hypotheses] -> bool of that shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ROUNDING = 1e-12


def none(p: np.ndarray, alpha: float) -> np.ndarray:
    """Each hypothesis at the full level."""
    return p <= alpha


def bonferroni(p: np.ndarray, alpha: float) -> np.ndarray:
    """Each hypothesis at alpha/m."""
    return p <= alpha / p.shape[1]


def holm(p: np.ndarray, alpha: float) -> np.ndarray:
    """Step down: the k-th smallest p against alpha/(m - k + 1), until one fails."""
    order, levels = np.argsort(p, axis=1), _levels(p, alpha)
    passed = np.logical_and.accumulate(np.take_along_axis(p, order, 1) <= levels, axis=1)
    return _unsorted(passed, order)


def hochberg(p: np.ndarray, alpha: float) -> np.ndarray:
    """Step up with Holm's levels: whatever passes takes every smaller p with it."""
    order, levels = np.argsort(p, axis=1), _levels(p, alpha)
    passed = np.logical_or.accumulate((np.take_along_axis(p, order, 1) <= levels)[:, ::-1], axis=1)[:, ::-1]
    return _unsorted(passed, order)


def fixed_sequence(p: np.ndarray, alpha: float) -> np.ndarray:
    """Gatekeeping in the order of the columns: each at the full level, until one fails."""
    return np.logical_and.accumulate(p <= alpha, axis=1)


def graphical(p: np.ndarray, alpha: float, weights: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """The procedure of Bretz, Maurer, Brannath and Posch (2009): levels w alpha move along a graph as tests succeed.

    weights [m] add to at most 1; transitions [m, m] say which share of a rejected hypothesis' level goes where, zero on
    the diagonal, rows of at most 1. The result does not depend on the order of rejections.
    """
    trials, m = p.shape
    w, g = np.tile(np.asarray(weights, float), (trials, 1)), np.tile(np.asarray(transitions, float), (trials, 1, 1))
    rejected = np.zeros(p.shape, bool)
    row, diagonal = np.arange(trials), np.identity(m, dtype=bool)
    for _ in range(m):
        passing = ~rejected & (w > 0) & (p <= w * alpha)
        i, some = np.argmax(passing, axis=1), np.asarray(passing.any(axis=1))
        out, into, share = g[row, i], g[row, :, i], w[row, i]  # from i to l, from l to i, the level of i
        # g_lj <- (g_lj + g_li g_ij)/(1 - g_li g_il), w_l <- w_l + w_i g_il
        left = 1 - into * out
        open_: np.ndarray = left > ROUNDING
        moved = (g + into[:, :, None] * out[:, None, :]) / np.where(open_, left, 1)[:, :, None]
        moved = np.where(open_[:, :, None] & ~diagonal, moved, 0)
        gone: np.ndarray = diagonal[i]
        moved = np.where(gone[:, :, None] | gone[:, None, :], 0, moved)
        w = np.where(some[:, None], np.where(gone, 0, w + share[:, None] * out), w)
        g = np.where(some[:, None, None], moved, g)
        rejected |= gone & some[:, None]
    return rejected


METHODS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "none": none,
    "bonferroni": bonferroni,
    "holm": holm,
    "hochberg": hochberg,
    "fixed-sequence": fixed_sequence,
}


def _levels(p: np.ndarray, alpha: float) -> np.ndarray:
    return alpha / np.arange(p.shape[1], 0, -1)


def _unsorted(passed: np.ndarray, order: np.ndarray) -> np.ndarray:
    result = np.empty_like(passed)
    np.put_along_axis(result, order, passed, 1)
    return result
