"""A smooth, differentiable estimate of what every arm is expected to report, with its own uncertainty.

Each of the six proportions of an arm (``inference.arms.LOGITS``) is a logistic regression, quadratic in the
coordinates of the population vector and, if asked for, cubic along the directions that move the counts most, on batches
of simulated patients. The batches of all arms at one vector share
their patients, so the errors of the proportions are correlated; the covariance of the predicted logits is

    S_jl(theta) = R_jl sqrt(v_j(theta) v_l(theta)),   v_j(theta) = x(theta)' Sigma_j x(theta),

Sigma_j the covariance of regression j's coefficients (dispersion, hence lack of fit, included) and R the correlation
of the score residuals over batches. Why this is sound: the exact (sandwich) covariance of two regressions is
x' H_j^-1 (sum_k x_k x_k' c_k) H_l^-1 x with c_k the covariance of their residuals at batch k. If the information
weights of the two are proportional over the design and the correlation does not vary, that is S exactly; where the
weights differ, R is estimated with the same weights, so it is right at the centre of the information. S is positive
semidefinite whatever theta: the Schur product of R and the rank-one sqrt(v) sqrt(v)'.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from inference.arms import ANY, DOUBLED, RESCUE, SEVENTY_FIVE, WEEK_8, ArmData, probabilities
from inference.further import FurtherMoments, no_outputs
from inference.regression import Terms, regress
from pkpd import random
from pkpd.errors import InputError

Floats = NDArray[np.float64]

DIRECTION_BATCHES = 6000  # enough to find directions, not to know a surface


class Surface(NamedTuple):
    """A fitted surface over d coordinates, p terms, A arms, E outputs of further studies and J = 6 A + E logits (arm by
    arm, then those outputs). A pytree.
    """

    centre: Array  # [d] mean of the design
    whiten: Array  # [d, d] lower triangular: u = whiten (theta - centre) has unit covariance over the design
    radius: Array  # [] largest |u| of the design: beyond it the surface is an extrapolation
    directions: Array  # [q, d] orthonormal, of u: the surface is cubic along them, q may be 0
    coefficients: Array  # [J, p]
    covariance: Array  # [J, p, p] of the coefficients
    correlation: Array  # [J, J] R
    rho: Array  # [A, 5, 5] correlations of the events within a patient
    further_rho: Array  # [E, E] the same of the outputs of further studies
    further_sd: Array  # [E] and their sds
    dispersion: Array  # [J] quasi-binomial phi of each regression
    effective_terms: Array  # [J] terms the batches determine

    @property
    def n_arms(self) -> int:
        """Number of arms A."""
        return self.rho.shape[0]


def n_terms(d: int, q: int = 0) -> int:
    """Number of terms of a quadratic in d coordinates, 378 for 26, and of the cubic ones along q directions."""
    return 1 + d + d * (d + 1) // 2 + q * (q + 1) * (q + 2) // 6


def features(u: Array, directions: Array) -> Array:
    """Terms [..., p] of standardised coordinates u [..., d]: 1, u_i, (u_i^2 - 1)/sqrt 2, u_i u_k, and the cubic ones
    along ``directions`` [q, d]; orthonormal if u is standard normal.
    """
    d = u.shape[-1]
    rows, columns = np.triu_indices(d, 1)
    products = u[..., :, None] * u[..., None, :]
    cross = products.reshape(*u.shape[:-1], d * d)[..., rows * d + columns]
    parts = [jnp.ones_like(u[..., :1]), u, (u**2 - 1) / np.sqrt(2.0), cross, *cubic_terms(u @ directions.T)]
    return jnp.concatenate(parts, axis=-1)


def cubic_terms(z: Any) -> list[Any]:
    """Hermite products of order 3 in z [..., q], NumPy or JAX: of z_i^3, z_i^2 z_k and z_i z_j z_k; unit variance."""
    q = z.shape[-1]
    squared, alone = np.nonzero(~np.eye(q, dtype=bool))
    i, j, k = np.array(list(combinations(range(q), 3)), int).reshape(-1, 3).T
    return [
        (z**3 - 3 * z) / np.sqrt(6.0),
        (z[..., squared] ** 2 - 1) / np.sqrt(2.0) * z[..., alone],
        z[..., i] * z[..., j] * z[..., k],
    ]


def terms_of(d: int, q: int = 0) -> Terms:
    """What the terms of ``features`` are made of, in their order."""
    rows, columns = np.triu_indices(d, 1)
    none, each = np.full(1, -1), np.arange(d)
    cubic = np.full(n_terms(d, q) - n_terms(d), -1)
    return Terms(
        np.repeat([0, 1, 2, 3, 4], [1, d, d, len(rows), len(cubic)]),
        np.concatenate([none, each, each, rows, cubic]),
        np.concatenate([none, np.full(d, -1), each, columns, cubic]),
        d,
    )


def leading_directions(u: Floats, successes: Floats, trials: Floats, n: Floats, q: int) -> Floats:
    """The q orthonormal directions [q, d] of u along which what ``n`` [J] patients report of each output moves most.

    Leading eigenvectors of the mean over the design of the Fisher information that these counts have of u, from a
    quadratic fit to thinned batches.
    """
    d = u.shape[1]
    thin = slice(None, None, max(1, len(u) // DIRECTION_BATCHES))
    fit = regress(_features_numpy(u[thin]), successes[thin], trials[thin], terms_of(d))
    rate, share = successes.sum(0) / trials.sum(0), trials.mean(0) / trials.mean(0).max()
    information = n * share * rate * (1 - rate)
    rows, columns = np.triu_indices(d, 1)
    total = np.zeros((d, d))
    for weight, beta in zip(information, fit.coefficients, strict=True):
        linear, squares = beta[1 : 1 + d], beta[1 + d : 1 + 2 * d]
        curved = np.diag(np.sqrt(2.0) * squares)
        curved[rows, columns] = curved[columns, rows] = beta[1 + 2 * d :]
        total += weight * (np.outer(linear, linear) + curved @ curved)
    return np.linalg.eigh(total)[1][:, ::-1][:, :q].T


def fit_surface(
    theta: Floats,
    mean: Floats,
    second: Floats,
    patients: int,
    *,
    near: ArmData | None = None,
    cubic: int = 0,
    adapt_penalty: bool = True,
    further: FurtherMoments | None = None,
    further_n: Floats | None = None,
) -> Surface:
    """Regress the moments of K batches of ``patients`` patients on their population vectors.

    theta [K, d] coordinates; mean [K, A, 5] and second [K, A, 5, 5] averages of ``endpoints.expected_events`` over the
    patients of a batch, who go through all arms. ``near`` weights the batches that look like these data when the
    within-patient correlations are pooled. cubic: directions along which the surface has cubic terms. further: moments
    of the E outputs of further studies, each reported of ``further_n`` [E] patients. Raises InputError for shapes that
    do not fit, too few or bad numbers.
    """
    theta, mean, second = (np.asarray(a, np.float64) for a in (theta, mean, second))
    _check_round(theta, mean, second, patients)
    d = theta.shape[1]
    cubic = min(cubic, d)  # there are no more directions
    centre, whiten = _standardise(theta)
    u = (theta - centre) @ whiten.T
    more = no_outputs(len(theta)) if further is None else further
    successes, trials = (
        np.concatenate([nested, patients * own], axis=1)
        for nested, own in zip(nested_counts(mean, second, patients), more[:2], strict=True)
    )
    of_arms = np.ones(mean.shape[1]) if near is None else near.n
    n = np.concatenate([np.repeat(of_arms, 6), np.zeros(0) if further_n is None else further_n])
    weights = _weights(mean, near, patients)
    further_rho, further_sd = within_patients(more, weights.mean(axis=1))
    directions = leading_directions(u, successes, trials, n, cubic) if cubic else np.zeros((0, d))
    design = _features_numpy(u, directions)
    fit = regress(design, successes, trials, terms_of(d, cubic), adapt_penalty=adapt_penalty)
    return Surface(
        *(
            jnp.asarray(a, jnp.float64)
            for a in (
                centre,
                whiten,
                np.sqrt((u**2).sum(1)).max(),
                directions,
                fit.coefficients,
                fit.covariance,
                _residual_correlation(fit.residuals),
                pooled_correlations(mean, second, weights),
                further_rho,
                further_sd,
                fit.dispersion,
                fit.effective_terms,
            )
        )
    )


def within_patients(m: FurtherMoments, weights: Floats) -> tuple[Floats, Floats]:
    """Correlations [E, E] and sds [E] of outputs within the patients of a vector, pooled with weights [K]."""
    products = np.where(m.second != 0, m.successes[:, :, None] * m.successes[:, None, :], 0.0)
    covariance = np.einsum("k,kij->ij", weights, m.second - products)
    sd = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    scale = np.where(sd > 1e-9, sd, np.inf)
    rho = covariance / (scale[:, None] * scale)
    rho[range(len(sd)), range(len(sd))] = 1.0
    return rho, sd


def nested_counts(mean: Floats, second: Floats, patients: float) -> tuple[Floats, Floats]:
    """Successes and trials [K, 6 A] of the six proportions of each arm, from the moments of a batch."""
    whole = np.ones(mean.shape[:2])
    with_75 = second[..., WEEK_8, SEVENTY_FIVE]
    m_any, m75 = mean[..., ANY], mean[..., SEVENTY_FIVE]
    successes = np.stack([m_any, m75, with_75, mean[..., WEEK_8] - with_75, mean[..., DOUBLED], mean[..., RESCUE]], -1)
    trials = np.stack([whole, m_any, m75, m_any - m75, whole, whole], -1)
    # float32 averages may leave a difference of equal numbers just below 0
    trials = np.maximum(trials, 0.0)
    successes = np.clip(successes, 0.0, trials)
    flat = (mean.shape[0], -1)
    return patients * successes.reshape(flat), patients * trials.reshape(flat)


def pooled_correlations(mean: Floats, second: Floats, weights: Floats) -> Floats:
    """Within-patient correlations [A, 5, 5] of the events, covariances pooled over batches with weights [K, A].

    An event that never varies is uncorrelated with the rest; eigenvalues are kept above 1e-6.
    """
    covariance = np.einsum("ka,kaij->aij", weights, second - mean[..., :, None] * mean[..., None, :])
    sd = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0.0))
    scale = np.where(sd > 1e-9, sd, np.inf)
    rho = covariance / (scale[:, :, None] * scale[:, None, :])
    rho[:, range(5), range(5)] = 1.0
    values, vectors = np.linalg.eigh(rho)
    rho = np.einsum("aij,aj,akj->aik", vectors, np.maximum(values, 1e-6), vectors)
    size = np.sqrt(np.diagonal(rho, axis1=1, axis2=2))
    return rho / (size[:, :, None] * size[:, None, :])


def mean_logits(surface: Surface, theta: Array) -> Array:
    """Logits [J] at one vector of coordinates [d]."""
    return surface.coefficients @ features(surface.whiten @ (theta - surface.centre), surface.directions)


def evaluate(surface: Surface, theta: Any) -> tuple[Floats, Floats]:
    """Logits and their variances, both [..., J], at coordinates theta [..., d]; in NumPy, so nothing compiles."""
    centre, whiten, coefficients, covariance = (
        np.asarray(a) for a in (surface.centre, surface.whiten, surface.coefficients, surface.covariance)
    )
    theta = np.asarray(theta, np.float64)
    x = _features_numpy((theta.reshape(-1, theta.shape[-1]) - centre) @ whiten.T, np.asarray(surface.directions))
    variances = np.stack([((x @ c) * x).sum(axis=1) for c in covariance], axis=1)
    shape = (*theta.shape[:-1], len(coefficients))
    return (x @ coefficients.T).reshape(shape), variances.reshape(shape)


def covariance_at(surface: Surface, theta: Any) -> Floats:
    """Covariance [J, J] of the predicted logits at one theta [d]."""
    sd = np.sqrt(evaluate(surface, theta)[1])
    return np.asarray(surface.correlation) * sd[:, None] * sd[None, :]


def widened(key: Array, coordinates: Floats, n: int, factor: float = 1.25) -> Floats:
    """n vectors [n, d] for the next round: posterior draws [draws, d], spread about their mean by ``factor``."""
    draws, _ = coordinates.shape
    chosen = random.generator(key).choice(draws, n, replace=n > draws)
    centre = coordinates.mean(axis=0)
    return centre + factor * (coordinates[chosen] - centre)


class SurfaceError(NamedTuple):
    """How far the surface is off at fresh points, beyond the Monte Carlo noise of those points."""

    rms: float  # sampling sds of the trial's counts, over points and counts
    rms_se: float  # how far up one standard error over the points of its square takes it
    by_count: Floats  # [A, 5] rms of each count
    chi_square: float  # mean squared error of the logits over what the surface claims: 1 if it is honest


def surface_error(
    surface: Surface,
    theta: Floats,
    mean: Floats,
    second: Floats,
    n: Floats,
    further: FurtherMoments | None = None,
    further_n: Floats | None = None,
) -> SurfaceError:
    """Compare with fresh simulations at points theta [F, d], each simulated by R >= 2 independent groups of patients.

    mean [R, F, A, 5] and second [R, F, A, 5, 5] are the moments of each group; ``n`` [A] the trial's arms; further
    [R, F, ..] and further_n [E] those of further studies, whose proportions count like the arms' five. Products of
    the errors against two different groups have no noise term, so no noise needs to be assumed and subtracted.
    """
    theta, mean, second = (np.asarray(a, np.float64) for a in (theta, mean, second))
    if mean.ndim != 4 or mean.shape[0] < 2 or mean.shape[1] != len(theta):
        raise InputError(f"fresh moments must be [groups >= 2, {len(theta)}, arms, 5], got {mean.shape}")
    logits, variances = evaluate(surface, theta)
    arms = surface.n_arms
    nested, own = np.split(logits, [6 * arms], axis=1)
    predicted = np.asarray(probabilities(jnp.asarray(nested.reshape(-1, arms, 6))))
    sd = np.sqrt(np.maximum(predicted * (1 - predicted), 1e-12) / np.asarray(n, np.float64)[:, None])
    squared = _noise_free_square((predicted - mean) / sd)  # [F, A, 5]
    each = squared.reshape(len(theta), -1)
    if further is not None and further_n is not None and own.shape[1]:
        p, seen = 1.0 / (1.0 + np.exp(-own)), further.successes / np.maximum(further.trials, 1e-9)
        sampling = np.sqrt(np.maximum(p * (1 - p), 1e-12) / further_n)
        each = np.concatenate([each, _noise_free_square((p - seen) / sampling)], axis=1)
    by_point = each.mean(axis=1)
    rms = float(np.sqrt(max(by_point.mean(), 0.0)))
    spread = float(by_point.std(ddof=1) / np.sqrt(len(by_point))) if len(by_point) > 1 else np.inf

    p = 1.0 / (1.0 + np.exp(-logits))
    y, w = (
        a.reshape(mean.shape[0], len(theta), -1)
        for a in nested_counts(mean.reshape(-1, *mean.shape[2:]), second.reshape(-1, *second.shape[2:]), 1.0)
    )
    if further is not None:
        y, w = np.concatenate([y, further.successes], axis=2), np.concatenate([w, further.trials], axis=2)
    # score residual over expected information is the error of the logit, to first order
    information = np.maximum(w.mean(axis=0) * p * (1 - p), 1e-12)
    ratio = _noise_free_square((w * p - y) / information) / variances
    # proportions with next to no trials are all noise: weight by what a fresh patient tells about them
    chi_square = float((ratio * information * variances).sum() / (information * variances).sum())
    rms_se = float(np.sqrt(rms**2 + spread)) - rms  # upward: finite where noise hides the whole error
    return SurfaceError(rms, rms_se, np.sqrt(np.maximum(squared.mean(axis=0), 0)), chi_square)


def _noise_free_square(errors: Floats) -> Floats:
    """Mean over pairs of different groups (first axis) of the product of their errors."""
    groups = errors.shape[0]
    return (errors.sum(axis=0) ** 2 - (errors**2).sum(axis=0)) / (groups * (groups - 1))


def _features_numpy(u: Floats, directions: Floats | None = None) -> Floats:
    rows, columns = np.triu_indices(u.shape[1], 1)
    parts = [np.ones((len(u), 1)), u, (u**2 - 1) / np.sqrt(2.0), u[:, rows] * u[:, columns]]
    return np.hstack(parts if directions is None else [*parts, *cubic_terms(u @ directions.T)])


def _standardise(theta: Floats) -> tuple[Floats, Floats]:
    """Centre and whitening matrix of the design; a little of the diagonal is kept, so near-copies do not explode."""
    centre, sd = theta.mean(axis=0), theta.std(axis=0)
    if (sd <= 1e-9).any():
        raise InputError(f"coordinate {int(np.argmin(sd))} does not vary over the design: leave it out of the fit")
    correlation = np.corrcoef(theta.T).reshape(len(sd), len(sd))
    root = np.linalg.cholesky(0.999 * correlation + 0.001 * np.eye(len(sd)))
    return centre, np.linalg.solve(root, np.diag(1 / sd))


def _residual_correlation(residuals: Floats) -> Floats:
    """Correlation [J, J] of the score residuals [K, J], a trace of identity added: positive definite."""
    size = np.sqrt((residuals**2).sum(axis=0))
    scaled = residuals / np.where(size > 0, size, 1.0)
    return (scaled.T @ scaled) * (1 - 1e-6) + np.diag(1 - (scaled**2).sum(axis=0) * (1 - 1e-6))


def _weights(mean: Floats, near: ArmData | None, patients: int) -> Floats:
    """Weights [K, A] that add to 1: batches whose means are like the data weigh more, tempered to 50 effective."""
    points, arms = mean.shape[:2]
    flat = np.full((points, arms), 1.0 / points)
    if near is None or points <= 50:
        return flat
    rate = (near.counts + 0.5) / (near.n[:, None] + 1.0)
    variance = rate * (1 - rate) * (1.0 / near.n[:, None] + 1.0 / patients)
    distance = ((mean - rate) ** 2 / variance).sum(axis=2)  # [K, A]
    weights = flat
    for arm in range(arms):
        temperature = 1.0
        while True:
            w = np.exp(-0.5 * (distance[:, arm] - distance[:, arm].min()) / temperature)
            w /= w.sum()
            if 1.0 / (w**2).sum() >= 50:
                break
            temperature *= 1.5
        weights[:, arm] = w
    return weights


def _check_round(theta: Any, mean: Any, second: Any, patients: int) -> None:
    points, arms = theta.shape[0], mean.shape[1] if mean.ndim == 3 else 0
    if theta.ndim != 2 or mean.shape != (points, arms, 5) or second.shape != (points, arms, 5, 5) or arms == 0:
        raise InputError(
            f"a round needs theta [K, d], mean [K, A, 5], second [K, A, 5, 5], got {theta.shape}, "
            f"{mean.shape}, {second.shape}"
        )
    if points < 2 * theta.shape[1] + 2:
        raise InputError(
            f"{points} population vectors cannot carry a surface over {theta.shape[1]} coordinates; "
            f"legal: at least {2 * theta.shape[1] + 2}"
        )
    if patients < 1:
        raise InputError(f"patients = {patients} in a batch; legal: at least 1")
    for name, array in (("theta", theta), ("mean", mean), ("second", second)):
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            raise InputError(f"{name}: population vector {bad[0][0]} holds a number that is not finite")
