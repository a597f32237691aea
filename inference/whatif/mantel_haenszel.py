"""Mantel-Haenszel tests and estimates over strata, from patients: sizes of arms and strata may vary by trial."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inference.whatif import two_by_two
from inference.whatif.estimated import Estimated, estimated
from inference.whatif.linear import broadcast, strata


class Tables(NamedTuple):
    """Counts [trials, strata]: y of n responders under treatment, y0 of n0 under control."""

    y: np.ndarray
    n: np.ndarray
    y0: np.ndarray
    n0: np.ndarray


def tables(
    response: np.ndarray,
    treated: np.ndarray,
    *,
    present: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
) -> Tables:
    """Responders and patients of each arm and stratum, of booleans [trials, patients]."""
    response = np.asarray(response, bool)
    treated, present = broadcast(response.shape, treated, present)
    index, number = strata(response.shape, stratum)
    cell = ((np.arange(len(response))[:, None] * number + index) * 2 + treated) * 2 + response
    counts = np.bincount(cell[present], minlength=len(response) * number * 4).reshape(-1, number, 2, 2)
    arm = counts.sum(3)
    return Tables(counts[:, :, 1, 1], arm[:, :, 1], counts[:, :, 0, 1], arm[:, :, 0])


def cochran_mantel_haenszel(
    response: np.ndarray,
    treated: np.ndarray,
    *,
    present: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
) -> Estimated:
    """Log of Mantel and Haenszel's common odds ratio, with Robins, Breslow and Greenland's standard error.

    z is that of Cochran, Mantel and Haenszel's test without continuity correction, not estimate/se. An odds ratio of 0
    or infinity has an infinite estimate and se, and its z all the same.
    """
    t = tables(response, treated, present=present, stratum=stratum)
    empty = (t.n + t.n0) == 0
    z = two_by_two.cochran_mantel_haenszel(t.y, t.n, t.y0, np.where(empty, 1, t.n0))  # an empty stratum adds 0
    N = np.maximum(t.n + t.n0, 1)
    a, b, c, d = t.y, t.n - t.y, t.y0, t.n0 - t.y0
    R, S, P, Q = a * d / N, b * c / N, (a + d) / N, (b + c) / N
    r, s = R.sum(1), S.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.log(r / s)
        variance = (P * R).sum(1) / (2 * r * r) + (P * S + Q * R).sum(1) / (2 * r * s) + (Q * S).sum(1) / (2 * s * s)
    se = np.where(np.isfinite(estimate), np.sqrt(variance), np.inf)
    return Estimated(estimate, se, z, np.full(z.shape, np.inf))


def risk_difference(
    response: np.ndarray,
    treated: np.ndarray,
    *,
    present: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
    margin: float = 0.0,
) -> Estimated:
    """Mantel and Haenszel's common risk difference, treated less control, with the variance of Sato (1989).

    Strata weigh n n0/N; strata without one of the arms weigh nothing. z = (estimate - margin)/se, whose variance is not
    that of the null: at 6 or 12 patients an arm, two_by_two.score keeps the level better.
    """
    t = tables(response, treated, present=present, stratum=stratum)
    N = np.maximum(t.n + t.n0, 1)
    weight = t.n * t.n0 / N
    total = weight.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        d = ((t.y * t.n0 - t.y0 * t.n) / N).sum(1) / total
        # Sato, Greenland and Robins: var = (d sum P + sum Q)/(sum w)^2, consistent for few large and many small strata.
        P = (t.n**2 * t.y0 - t.n0**2 * t.y + t.n * t.n0 * (t.n0 - t.n) / 2) / N**2
        Q = (t.y * (t.n0 - t.y0) + t.y0 * (t.n - t.y)) / (2 * N)
        variance = (d * P.sum(1) + Q.sum(1)) / total**2
    return estimated(d, np.sqrt(np.maximum(variance, 0)), margin=margin)
