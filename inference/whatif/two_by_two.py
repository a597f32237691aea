"""Tests of two binomial arms, vectorised over trials: y of n responders under treatment, y0 of n0 under control.

Every function takes arrays of counts of one shape and gives an array of that shape (Cochran-Mantel-Haenszel: without
the last axis, which is the strata). A positive z is more response than the null says.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

TIES = 1 + 1e-7  # probabilities of tables within this ratio count as equal in Fisher's two-sided test, as in R


def p_values(test: str, y: np.ndarray, n: int, y0: np.ndarray, n0: int, sided: int, margin: float = 0.0) -> np.ndarray:
    """p of y of n against y0 of n0 responders, for each trial [trials]; one-sided: a difference above ``margin``.

    cochran-mantel-haenszel: one stratum, without continuity correction. fisher: exact. risk-difference: the score test
    of Farrington and Manning, whose variance is that of the null; at margin 0 the test with pooled variance.
    """
    y, y0 = np.asarray(y, np.int64), np.asarray(y0, np.int64)
    if test == "fisher":
        return fisher(y, n, y0, n0, sided)
    z = z_values(test, y, n, y0, n0, margin)
    return stats.norm.sf(z) if sided == 1 else 2 * stats.norm.sf(np.abs(z))


def z_values(test: str, y: np.ndarray, n: int, y0: np.ndarray, n0: int, margin: float = 0.0) -> np.ndarray:
    """The standard normal statistic of a test; Fisher's is the normal quantile of its one-sided p."""
    y, y0 = np.asarray(y, np.int64), np.asarray(y0, np.int64)
    if test == "fisher":
        return stats.norm.isf(fisher(y, n, y0, n0, 1))
    if test == "cochran-mantel-haenszel":
        return cochran_mantel_haenszel(y[..., None], np.array([n]), y0[..., None], np.array([n0]))
    return score(y, n, y0, n0, margin)


def cochran_mantel_haenszel(y: np.ndarray, n: np.ndarray, y0: np.ndarray, n0: np.ndarray) -> np.ndarray:
    """z of a common odds ratio of 1 over strata, no continuity correction; counts [..., strata], sizes [strata].

    z = sum(y - E y)/sqrt(sum var y), each stratum hypergeometric given its margins; 0 where nothing varies.
    """
    y, n, y0, n0 = (np.asarray(x, np.float64) for x in (y, n, y0, n0))
    N, m = n + n0, y + y0
    expected = m * n / N
    variance = n * n0 * m * (N - m) / (N * N * np.maximum(N - 1, 1))  # a stratum of one patient has m (N - m) = 0
    return _ratio((y - expected).sum(-1), variance.sum(-1))


def score(
    y: np.ndarray, n: int, y0: np.ndarray, n0: int, margin: float | np.ndarray = 0.0, correction: bool = False
) -> np.ndarray:
    """z of a risk difference equal to ``margin``: the variance is that of the likelihood's maximum under this null.

    Farrington and Manning (1990); with ``correction`` times N/(N - 1), Miettinen and Nurminen (1985).
    """
    y, y0 = np.asarray(y, np.float64), np.asarray(y0, np.float64)
    p0 = control_rate_under_null(y, n, y0, n0, margin)
    p = np.clip(p0 + margin, 0, 1)
    variance = p * (1 - p) / n + p0 * (1 - p0) / n0
    if correction:
        variance = variance * ((n + n0) / (n + n0 - 1))
    return _ratio(y / n - y0 / n0 - margin, variance)


def control_rate_under_null(y: np.ndarray, n: int, y0: np.ndarray, n0: int, margin: float | np.ndarray) -> np.ndarray:
    """The control's rate that maximises the likelihood where the treated rate is ``margin`` above it.

    The root inside the legal range of the cubic a x^3 + b x^2 + c x + d = 0, in closed form (Miettinen and Nurminen).
    """
    a = float(n + n0)
    b = (n + 2 * n0) * margin - a - (y + y0)
    c = (n0 * margin - a - 2 * y0) * margin + y + y0
    d = y0 * margin * (1 - margin)
    u = (b / (3 * a)) ** 3 - b * c / (6 * a * a) + d / (2 * a)
    v = np.sign(u) * np.sqrt(np.maximum((b / (3 * a)) ** 2 - c / (3 * a), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.where(v == 0, 0.0, u / v**3)
    angle = (np.pi + np.arccos(np.clip(cosine, -1, 1))) / 3
    x = 2 * v * np.cos(angle) - b / (3 * a)
    return np.clip(x, np.maximum(0, -np.asarray(margin)), np.minimum(1, 1 - np.asarray(margin)))


def fisher(y: np.ndarray, n: int, y0: np.ndarray, n0: int, sided: int) -> np.ndarray:
    """p of Fisher's exact test; two-sided: the probability of all tables no likelier than the one seen."""
    y, y0 = np.asarray(y, np.int64), np.asarray(y0, np.int64)
    p, total = np.empty(y.shape), y + y0
    for m in np.unique(total):  # the tables of a total share one hypergeometric law
        at, low = total == m, max(0, int(m) - n0)
        support = np.arange(low, min(n, int(m)) + 1)
        if sided == 1:
            tail = stats.hypergeom.sf(support - 1, n + n0, m, n)
        else:
            mass = stats.hypergeom.pmf(support, n + n0, m, n)
            ordered = np.sort(mass)
            tail = np.cumsum(ordered)[np.searchsorted(ordered, mass * TIES, side="right") - 1]
        p[at] = np.clip(tail, 0, 1)[y[at] - low]
    return p


def _ratio(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """difference/sqrt(variance); where nothing varies, 0 if it is as the null says (to rounding), else infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = difference / np.sqrt(variance)
    none = np.where(np.abs(difference) < 1e-12, 0.0, np.copysign(np.inf, difference))
    return np.where(variance > 1e-300, z, none)
