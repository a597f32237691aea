"""Logistic regression of many trials at once: Wald, likelihood ratio, and Firth's penalised likelihood."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from inference.whatif.estimated import Estimated
from inference.whatif.linear import broadcast, design_matrix, solve

METHODS = ("wald", "likelihood-ratio", "firth")
ITERATIONS = 100  # a separated likelihood needs about 20; the rest is for halved steps
LARGEST = 30.0  # of a linear predictor's size: probabilities are 1e-13 from 0 or 1 there
STEP = 5.0  # largest Newton step of a coefficient
SMALL_WEIGHTS = 1e-14  # patients who are fitted all but exactly leave this little of a column, which is not aliased
STILL_MOVING = 1e-3  # a step this long once the likelihood stands still: the coefficient goes to infinity


class Fit(NamedTuple):
    """Coefficients [trials, p], inverse of the information [trials, p, p], maximum of the log likelihood [trials], next
    Newton step [trials, p]."""

    coefficients: np.ndarray
    inverse: np.ndarray
    log_likelihood: np.ndarray
    step: np.ndarray


def logistic(
    response: np.ndarray,
    treated: np.ndarray,
    *,
    present: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
    method: str = "wald",
) -> Estimated:
    """Log odds ratio of response, treated to control, given covariates and an intercept of each stratum.

    wald: z = estimate/se. likelihood-ratio: z is the signed root of twice the gain in log likelihood. firth: estimate,
    se and the signed root are those of the likelihood times sqrt|information|, which always has a maximum.

    Separation: where the odds ratio has no finite maximum likelihood, estimate is plus or minus infinity, se is inf,
    and z is the signed root of the likelihood ratio for wald too, as Wald's own would be 0 however clear the data.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}; legal: {', '.join(METHODS)}")
    response = np.asarray(response, bool)
    treated, present = broadcast(response.shape, treated, present)
    X = design_matrix(treated, present, stratum, covariates)
    y, firth = (response & present).astype(np.float64), method == "firth"
    aliased = solve(X.swapaxes(1, 2) @ X, np.zeros(X.shape[::2])).aliased
    X = X * ~aliased[:, None, :]
    full = maximise(X, y, present, X.shape[-1], firth)
    infinite = (np.abs(full.step[:, -1]) > STILL_MOVING) & (not firth)
    possible = ~aliased[:, -1]
    estimate, se = full.coefficients[:, -1], np.sqrt(np.maximum(full.inverse[:, -1, -1], 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = estimate / se
    ratio = infinite if method == "wald" else np.ones(len(z), bool)
    if ratio.any():
        null = maximise(X[ratio], y[ratio], present[ratio], X.shape[-1] - 1, firth)
        gain = np.maximum(full.log_likelihood[ratio] - null.log_likelihood, 0)
        z[ratio] = np.sign(estimate[ratio]) * np.sqrt(2 * gain)
    estimate = np.where(infinite, np.copysign(np.inf, full.step[:, -1]), estimate)
    se = np.where(possible & ~infinite, se, np.inf)
    return Estimated(np.where(possible, estimate, np.nan), se, np.where(possible, z, 0.0), np.full(z.shape, np.inf))


def maximise(X: np.ndarray, y: np.ndarray, present: np.ndarray, free: int, firth: bool) -> Fit:
    """Newton's method (iteratively reweighted least squares) on the first ``free`` coefficients; the others are 0.

    X [trials, patients, p] with rows of zeros for those not present and columns of zeros for aliased ones, y 0 or 1
    [trials, patients].
    """
    T, _, p = X.shape
    best = Fit(np.zeros((T, p)), np.zeros((T, p, p)), np.full(T, -np.inf), np.zeros((T, p)))
    trial = np.zeros((T, p))  # coefficients to try
    active = np.arange(T)
    for _ in range(ITERATIONS):
        every = len(active) == T
        Xa, ya, pa = (X, y, present) if every else (X[active], y[active], present[active])
        eta = np.clip((Xa @ trial[active][..., None])[..., 0], -LARGEST, LARGEST)
        mu = expit(eta)
        w = mu * (1 - mu)
        value = ((ya * eta - np.logaddexp(0, eta)) * pa).sum(1)
        A = Xa.transpose(0, 2, 1) @ (Xa * w[..., None])
        residual = ya - mu
        if firth:
            inverse = np.linalg.pinv(A, hermitian=True)
            value = value + 0.5 * _log_determinant(A)
            hat = w * np.einsum("tni,tij,tnj->tn", Xa, inverse, Xa, optimize=True)
            residual = residual + hat * (0.5 - mu)
        score = (Xa.transpose(0, 2, 1) @ residual[..., None])[..., 0]
        solved = solve(A[:, :free, :free], score[:, :free], SMALL_WEIGHTS)
        step = np.zeros((len(active), p))
        step[:, :free] = np.clip(solved.x, -STEP, STEP)

        gain = value - best.log_likelihood[active]
        better = gain > -1e-12 * (1 + np.abs(value))
        at = active[better]
        best.coefficients[at], best.step[at], best.log_likelihood[at] = trial[at], step[better], value[better]
        best.inverse[at, :free, :free] = solved.inverse[better]
        best.step[active[~better]] /= 2
        trial[active] = best.coefficients[active] + best.step[active]
        still = np.abs(best.step[active]).max(1) < 1e-9
        done = np.where(better, (gain < 1e-10 * (1 + np.abs(value))) & (not firth) | still, still)
        active = active[~done]
        if not len(active):
            break
    return best


def _log_determinant(A: np.ndarray) -> np.ndarray:
    """log|A| without the columns that are all zero, such as a stratum that a trial does not have."""
    eye = np.eye(A.shape[-1], dtype=bool)
    empty = np.einsum("tii->ti", A) == 0
    return np.linalg.slogdet(np.where(eye & empty[:, None, :], 1.0, A))[1]
