"""Penalised quasi-binomial regression of many proportions on one shared design, in float64 NumPy.

Model of proportion j at design point k: logit(mu_kj) = x_k' b_j, successes y_kj of w_kj trials with variance
phi_j w_kj mu (1 - mu). Coefficients have normal priors of precision lambda_g, one for each group g of terms and
each proportion (group 0, the intercept, has none). The lambdas are either given or found by maximising the
Laplace approximation of the marginal likelihood (MacKay's fixed point: lambda_g = gamma_g / |b_g|^2, gamma_g the
number of terms of the group that the data determine). Most parameters of the population act weakly on most
proportions, so this halves the noise of the fit against a flat penalty, and the posterior covariance
phi (X'WX + phi Lambda)^-1 still holds on average over the terms.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, lapack
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits

from pkpd.devices import threads

Array = NDArray[np.float64]

FLAT_PENALTY = (0.0, 0.05, 0.5, 0.5, 0.5)  # prior precisions of intercept, linear, square, cross, cubic terms: light
VARIANCE_RANGE = (1e-10, 1e3)  # of a coefficient's prior
BLOCK_ROWS = 8192  # rows of the design weighted at once: bounds the memory of a Gram matrix
WARM_START_ROWS = 4_000  # above this many rows, Newton starts from a fit to evenly thinned rows


class Terms(NamedTuple):
    """What each of the p terms is made of: kind (an index of FLAT_PENALTY) and its coordinates, -1 for none."""

    kind: NDArray[np.int64]  # [p]
    first: NDArray[np.int64]  # [p]
    second: NDArray[np.int64]  # [p]
    d: int


class Regression(NamedTuple):
    """J fitted proportions over p terms and K design points."""

    coefficients: Array  # [J, p]
    covariance: Array  # [J, p, p], dispersion included
    dispersion: Array  # [J] quasi-binomial phi: lack of fit included
    effective_terms: Array  # [J] trace of the smoother
    residuals: Array  # [K, J] score residuals y - w mu


def regress(design: Array, successes: Array, trials: Array, terms: Terms, *, adapt_penalty: bool = True) -> Regression:
    """Fit every column of ``successes`` [K, J] out of ``trials`` [K, J] (fractions allowed) on ``design`` [K, p].

    ``groups`` [p] gives the penalty group of each term: 0 intercept, 1 linear, 2 square, 3 cross.
    """
    points = design.shape[0]
    # Half a pseudo-patient of one, spread over the design, keeps a proportion that never occurred finite.
    trials = trials + 1.0 / points
    successes = successes + 0.5 / points
    one = partial(_fit_one, design, terms=terms, adapt=adapt_penalty)
    # One regression a core beats one multiplication over all cores, whose threads wait for each other.
    with one_blas_thread(), ThreadPoolExecutor(threads()) as pool:
        fits = list(pool.map(one, successes.T.copy(), trials.T.copy()))
    coefficients, covariances, dispersions, effective, residuals = map(np.stack, zip(*fits, strict=True))
    return Regression(coefficients, covariances, dispersions, effective, residuals.T)


def one_blas_thread() -> AbstractContextManager[object]:
    """NumPy's and SciPy's linear algebra on one thread for the time being: matrices of some hundreds need no more."""
    return threadpool_limits(1, user_api="blas")


def _fit_one(design: Array, y: Array, w: Array, terms: Terms, adapt: bool) -> tuple[Array, Array, Array, Array, Array]:
    penalty = np.asarray(FLAT_PENALTY)[terms.kind]
    beta = np.zeros(design.shape[1])
    beta[0] = logit(y.sum() / w.sum())
    dispersion = 1.0
    if len(y) > WARM_START_ROWS:
        thin = -(-len(y) // WARM_START_ROWS)
        beta, _ = _newton(design[::thin], y[::thin], w[::thin], beta, thin * penalty)
    beta, gram = _newton(design, y, w, beta, dispersion * penalty)
    dispersion = _dispersion(design, y, w, beta, _inverse(gram + np.diag(dispersion * penalty)))
    if adapt:
        penalty = _adapted_penalty(gram, beta, dispersion, penalty, terms)
        beta, gram = _newton(design, y, w, beta, dispersion * penalty, gram)
    inverse = _inverse(gram + np.diag(dispersion * penalty))
    dispersion = _dispersion(design, y, w, beta, inverse)
    effective = np.einsum("ij,ij->", inverse, gram)
    residual = y - w * expit(design @ beta)
    return beta, dispersion * inverse, np.asarray(dispersion), effective, residual


def _gram(design: Array, weights: Array) -> Array:
    """X' W X, in blocks of rows; a product with the own transpose costs half a general one."""
    total = np.zeros((design.shape[1],) * 2)
    for start in range(0, len(weights), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        scaled = design[rows] * np.sqrt(weights[rows])[:, None]
        total += scaled.T @ scaled
    return total


def _newton(
    design: Array, y: Array, w: Array, beta: Array, penalty: Array, gram: Array | None = None
) -> tuple[Array, Array]:
    """Maximise the penalised log likelihood; returns the coefficients and X'WX at them.

    The Hessian is kept for as long as it brings the Newton decrement down tenfold a step: Gram matrices are the cost.
    """

    def objective(b: Array, eta: Array) -> float:
        return float(y @ eta - w @ np.logaddexp(0.0, eta) - 0.5 * penalty @ b**2)

    eta = design @ beta
    value = objective(beta, eta)
    stale = gram is not None
    factor = None if gram is None else cho_factor(gram + np.diag(penalty))
    previous = np.inf
    for _ in range(60):
        mu = expit(eta)
        gradient = design.T @ (y - w * mu) - penalty * beta
        if factor is None:
            gram = _gram(design, w * mu * (1 - mu))
            factor = cho_factor(gram + np.diag(penalty + 1e-10 * np.trace(gram) / len(beta)))
            stale = False
        step = cho_solve(factor, gradient)
        decrement = float(gradient @ step)
        if decrement < 1e-6:
            break
        length = 1.0
        while length > 1e-4:
            new_beta = beta + length * step
            new_eta = eta + length * (design @ step) if length == 1.0 else design @ new_beta
            new_value = objective(new_beta, new_eta)
            if new_value >= value - 1e-9 * abs(value):
                break
            length /= 2
        beta, eta, value = new_beta, new_eta, new_value
        if length < 1.0 or decrement > 0.1 * previous:
            factor = None
        stale = True
        previous = decrement
    if stale or gram is None:
        mu = expit(eta)
        gram = _gram(design, w * mu * (1 - mu))
    return beta, gram


def _inverse(matrix: Array) -> Array:
    """Inverse of a positive definite matrix, symmetric to the last bit (a third of the work of solving for I)."""
    factor, failed = lapack.dpotrf(matrix, lower=True)
    inverse, singular = lapack.dpotri(factor, lower=True)
    if failed or singular:
        raise np.linalg.LinAlgError("the information matrix of a regression is not positive definite")
    return np.tril(inverse) + np.tril(inverse, -1).T


def _dispersion(design: Array, y: Array, w: Array, beta: Array, inverse: Array) -> float:
    """Information-weighted Pearson statistic, sum r^2 / sum w mu (1 - mu)(1 - leverage).

    A ratio of sums, not a mean of ratios: batches with next to no trials then weigh nothing, as in the fit.
    """
    mu = expit(design @ beta)
    variance = w * mu * (1 - mu)
    thin = max(1, len(y) // 2000)
    rows = design[::thin]
    leverage = variance[::thin] * ((rows @ inverse) * rows).sum(axis=1)
    mean_leverage = min(0.9, float(leverage @ variance[::thin] / variance[::thin].sum()))
    return max(1e-3, float(((y - w * mu) ** 2).sum() / (variance.sum() * (1 - mean_leverage))))


def _adapted_penalty(gram: Array, beta: Array, dispersion: float, penalty: Array, terms: Terms) -> Array:
    """Prior precisions at the fixed point of the marginal likelihood, on the quadratic approximation at ``beta``."""
    target = (gram + np.diag(dispersion * penalty)) @ beta  # X'W(working response)
    # how often each coordinate's strength enters the prior variance of each term: [p, d]
    power = (terms.first[:, None] == np.arange(terms.d)) + 1.0 * (terms.second[:, None] == np.arange(terms.d))
    strength, scale = np.ones(terms.d), np.array([1.0, 1.0 / FLAT_PENALTY[1], 1.0, 1.0, 1.0])
    information = np.diag(gram) / dispersion
    for _ in range(50):
        variance = np.clip(scale[terms.kind] * np.exp(power @ np.log(strength)), *VARIANCE_RANGE)
        penalty = np.where(terms.kind > 0, 1.0 / variance, 0.0)
        # terms that the prior holds at zero are left out, which soon makes the systems small
        kept = np.flatnonzero((terms.kind == 0) | (variance * information > 1e-3))
        inverse = _inverse(gram[np.ix_(kept, kept)] + np.diag(dispersion * penalty[kept]))
        kind, shares = terms.kind[kept], power[kept]
        size = penalty[kept] * (inverse @ target[kept]) ** 2
        determined = np.maximum(1.0 - dispersion * penalty[kept] * np.diag(inverse), 1e-6) * (kind > 0)
        for k in (1, 2, 4):  # cross terms take theirs from their coordinates
            scale[k] *= np.clip((size[kind == k].sum() + 1e-9) / (determined[kind == k].sum() + 1e-9), 0.1, 10.0)
        # square root: both coordinates of a cross term move at once
        change = np.clip(np.sqrt((size @ shares + 1e-9) / (determined @ shares + 1e-9)), 0.1, 10.0)
        strength = np.clip(strength * change, 1e-6, 1e6)
        if np.abs(np.log(change[strength > 1e-4])).max(initial=0.0) < 0.05:
            break
    return penalty
