"""Analysis of covariance: a value at a visit, or its change, adjusted for baseline and strata."""

from __future__ import annotations

import numpy as np

from inference.whatif.estimated import Estimated, estimated
from inference.whatif.linear import broadcast, design_matrix, solve


def ancova(
    value: np.ndarray,
    treated: np.ndarray,
    *,
    present: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
) -> Estimated:
    """Difference of least-squares means, treated less control, of values [trials, patients] such as log counts.

    Ordinary least squares with one slope of each covariate (log baseline) and an intercept of each stratum; z is
    Student's t on patients less columns. The change from a baseline that is a covariate has the same effect and test.
    """
    value = np.asarray(value, np.float64)
    treated, present = broadcast(value.shape, treated, present)
    X = design_matrix(treated, present, stratum, covariates)
    n = present.sum(1)
    y = np.where(present, value, 0.0)
    y = (y - (y.sum(1) / np.maximum(n, 1))[:, None]) * present
    Xt = X.transpose(0, 2, 1)
    found = solve(Xt @ X, (Xt @ y[..., None])[..., 0])
    df = n - (~found.aliased).sum(1)
    squares = np.maximum((y * y).sum(1) - found.explained, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt(squares / df * found.inverse[:, -1, -1])
    possible = (df > 0) & ~found.aliased[:, -1]
    return estimated(np.where(possible, found.x[:, -1], np.nan), se, np.maximum(df, 0))
