"""What every analysis of patients' outcomes gives: an effect of treatment for each simulated trial, and its test.

The analyses share one form: outcomes [trials, patients], ``treated`` [patients] or [trials, patients], and by name
``present`` (False: not in the analysis), ``stratum`` (integers from 0) and ``covariates`` [trials, patients, k].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimated(NamedTuple):
    """Arrays [trials]: the effect on the method's own scale, its standard error, the statistic, its degrees of freedom.

    A positive z is better under treatment: more response, a higher count, a longer time (survival: see there). z is
    Student's t where df is finite, else standard normal. Not estimable: estimate nan, se inf and z 0, never rejected.
    """

    estimate: np.ndarray
    se: np.ndarray
    z: np.ndarray
    df: np.ndarray


def estimated(estimate: np.ndarray, se: np.ndarray, df: np.ndarray | float = np.inf, margin: float = 0.0) -> Estimated:
    """The test of an effect equal to ``margin`` by estimate and standard error; nan in either is not estimable."""
    possible = np.isfinite(estimate) & np.isfinite(se)
    estimate, se = np.where(possible, estimate, np.nan), np.where(possible, se, np.inf)
    difference = np.where(possible, estimate - margin, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = difference / se
    # Where nothing varies the null stands only if it is exactly met.
    z = np.where(se > 0, z, np.where(np.abs(difference) < 1e-12, 0.0, np.copysign(np.inf, difference)))
    return Estimated(estimate, se, z, np.broadcast_to(np.asarray(df, np.float64), z.shape))


def against(found: Estimated, margin: float) -> Estimated:
    """The same effect against another null, such as the margin of non-inferiority: z = (estimate - margin)/se."""
    return estimated(found.estimate, found.se, found.df, margin)


def p_values(found: Estimated, sided: int) -> np.ndarray:
    """p [trials]; one-sided: better under treatment."""
    z = np.abs(found.z) if sided == 2 else found.z
    return sided * np.where(np.isfinite(found.df), stats.t.sf(z, np.maximum(found.df, 1e-9)), stats.norm.sf(z))


def normal_z(found: Estimated) -> np.ndarray:
    """The standard normal statistic of the same one-sided p, for boundaries that are stated for one."""
    tail = np.where(np.isfinite(found.df), stats.t.sf(np.abs(found.z), np.maximum(found.df, 1e-9)), 0.5)
    return np.where(np.isfinite(found.df), np.copysign(stats.norm.isf(tail), found.z), found.z)


def bounds(found: Estimated, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval [trials] of the effect at a two-sided confidence: estimate plus and minus a quantile times se."""
    tail = (1 - confidence) / 2
    q = np.where(np.isfinite(found.df), stats.t.isf(tail, np.maximum(found.df, 1e-9)), stats.norm.isf(tail))
    with np.errstate(invalid="ignore"):
        return found.estimate - q * found.se, found.estimate + q * found.se
