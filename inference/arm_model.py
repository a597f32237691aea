"""The NumPyro model of the arm-level fit: prior, surface with its covariance, joint law of the counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

from inference import further
from inference.arms import ArmData, Association, Counts, arrays, association, log_likelihood
from inference.checkpoint import NOTHING_KEPT, Checkpoint
from inference.further import Further
from inference.priors import JointPrior
from inference.regression import one_blas_thread
from inference.samplers.nuts import Nuts, NutsResult, nuts_sampler
from inference.studies import Study
from inference.surface import Surface, evaluate, features, n_terms
from pkpd.errors import InputError, nearest

VARIANCE_RANK = 128  # directions of each surface variance that are kept; of the rest, its diagonal
SUPPORT_WIDTH = 0.5  # design sds over which the guard at the edge of the surface sets in
Likelihood = Callable[[Array, Counts, Association], Array]  # log probability [A] of counts at logits [A, 6]


class VarianceRoots(NamedTuple):
    """Variances of J logits as sums of squares: v_j(x) = sum of (row_r . x)^2 over j's rows r + sum_t rest_jt x_t^2."""

    rows: Array  # [J rank, p] float32: they are read twice a gradient, and their traffic is what a NUTS step costs
    rest: Array  # [J, p]


class ArmProblem(NamedTuple):
    """Everything the model reads besides the prior. A pytree: one compilation serves data sets of one shape."""

    centre: Array  # [d]
    whiten: Array  # [d, d]
    radius: Array  # []
    directions: Array  # [q, d]
    coefficients: Array  # [J, p]
    roots: VarianceRoots
    root: Array  # [J, J] Cholesky factor of R
    rows: Array  # [A'] arms with data, among those of the surface
    data: Counts
    link: Association
    further: Further  # what further studies report


def arm_problem(
    surface: Surface,
    arms: Sequence[str],
    data: ArmData,
    terms: int | None = None,
    studies: Sequence[Study] = (),
) -> ArmProblem:
    """The fit of ``data`` (any subset of the surface's ``arms``) and of what further ``studies`` report on a surface;
    ``terms`` as in ``arms.arrays``.
    """
    for arm in data.arms:
        if arm not in arms:
            raise InputError(f"the surface has no arm '{arm}'{nearest(arm, arms)}")
    rows = np.array([list(arms).index(arm) for arm in data.arms], int)
    link = association(np.asarray(surface.rho)[rows])
    with one_blas_thread():
        roots = variance_roots(np.asarray(surface.covariance))
    return ArmProblem(
        surface.centre,
        surface.whiten,
        surface.radius,
        surface.directions,
        surface.coefficients,
        roots,
        jnp.linalg.cholesky(surface.correlation),
        jnp.asarray(rows),
        arrays(data, terms),
        link,
        further.further(studies, np.asarray(surface.further_rho), np.asarray(surface.further_sd)),
    )


def variance_roots(covariance: NDArray[np.float64], rank: int = VARIANCE_RANK) -> VarianceRoots:
    """Roots of the covariances [J, p, p]: their ``rank`` leading eigenvectors, and the diagonal of what is left.

    Over the design, where the terms are nearly orthonormal, the mean of x' Sigma x is the trace: it stays exact.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[:, ::-1], 0.0), vectors[:, :, ::-1]
    leading = np.sqrt(values[:, None, :rank]) * vectors[:, :, :rank]
    rest = np.einsum("jtr,jr->jt", vectors[:, :, rank:] ** 2, values[:, rank:])
    rows = np.swapaxes(leading, 1, 2).reshape(-1, covariance.shape[1])
    return VarianceRoots(jnp.asarray(rows, jnp.float32), jnp.asarray(rest))


def variances(roots: VarianceRoots, x: Array) -> Array:
    """Variances [J] of the predicted logits at terms x [p]."""
    along = jnp.matmul(roots.rows, x.astype(jnp.float32), precision="highest").reshape(roots.rest.shape[0], -1)
    return (along**2).sum(axis=1).astype(x.dtype) + roots.rest @ x**2


def arm_model(prior: JointPrior, likelihood: Likelihood = log_likelihood) -> Callable[[ArmProblem], None]:
    """NumPyro model of one ArmProblem; another ``likelihood`` than the joint law is for comparisons.

    theta ~ prior; e ~ N(0, I); logits = X b + sqrt(v(theta)) * (chol(R) e): integrated over e, the counts have
    sampling plus surface covariance, its determinant included. Beyond the largest radius of the design the surface is
    an extrapolation, and a Gaussian guard half a design sd wide keeps draws out.
    """

    def model(problem: ArmProblem) -> None:
        theta = prior.sample()
        e = numpyro.sample("surface_z", dist.Normal(0.0, 1.0).expand([problem.root.shape[0]]).to_event(1))
        u = problem.whiten @ (theta - problem.centre)
        x = features(u, problem.directions)
        logits = problem.coefficients @ x + jnp.sqrt(variances(problem.roots, x)) * (problem.root @ e)
        of_arms, of_studies = split(logits, problem.further)
        by_arm = numpyro.deterministic("logits", of_arms)
        numpyro.factor("counts", likelihood(by_arm[problem.rows], problem.data, problem.link).sum())
        if of_studies.size:
            numpyro.factor("studies", further.log_likelihood(of_studies, problem.further))
        excess = jnp.maximum(jnp.sqrt((u**2).sum() + 1e-12) - problem.radius, 0.0)
        numpyro.factor("support", -0.5 * (excess / SUPPORT_WIDTH) ** 2)

    return model


def split(logits: Array, reported: Further) -> tuple[Array, Array]:
    """The logits [J] of the arms [A, 6], and those of the outputs of further studies [E]."""
    E = reported.patients.shape[0]
    return logits[: logits.shape[0] - E].reshape(-1, 6), logits[logits.shape[0] - E :]


def covariance_guess(prior: JointPrior, surface: Surface, problem: ArmProblem) -> NDArray[np.float64]:
    """Posterior covariance of the latent vector (prior_z, surface_z) if the surface were linear about its centre.

    Its inverse is I + J' F J, with J the slopes of the logits and F the information of the observed counts about them.
    """
    d = prior.dimension
    coefficients, whiten = np.asarray(problem.coefficients), np.asarray(problem.whiten)
    sd = np.sqrt(evaluate(surface, surface.centre)[1])
    slopes = np.hstack([coefficients[:, 1 : d + 1] @ whiten * prior.scale(), sd[:, None] * np.asarray(problem.root)])
    n, y = np.asarray(problem.data.n), np.asarray(problem.data.counts)
    p = (y + 0.5) / (n[:, None] + 1.0)
    p75 = p[:, 2] / np.maximum(p[:, 1], p[:, 2])
    # each conditional proportion at its observed rate; that of week 8 at the rate of the whole arm
    p8 = np.minimum(p[:, 0] / p[:, 1], 0.99)
    each = [
        n * p[:, 1] * (1 - p[:, 1]),
        n * p[:, 1] * p75 * (1 - p75),
        n * p[:, 2] * p8 * (1 - p8),
        n * (p[:, 1] - p[:, 2]) * p8 * (1 - p8),
        n * p[:, 3] * (1 - p[:, 3]),
        n * p[:, 4] * (1 - p[:, 4]),
    ]
    information = np.zeros((surface.n_arms, 6))
    information[np.asarray(problem.rows)] = np.stack(each, axis=1)
    centre = coefficients[6 * surface.n_arms :, 0]
    own = np.asarray(problem.further.patients) / (2 + 2 * np.cosh(centre))  # n p (1 - p) at the centre of the design
    every = np.concatenate([information.reshape(-1), own])
    return np.linalg.inv(np.eye(slopes.shape[1]) + slopes.T @ (every[:, None] * slopes))


@lru_cache(maxsize=8)
def _sampler(prior: JointPrior, warmup: int, draws: int, target_accept: float, likelihood: Likelihood) -> Nuts:
    """Kept, so that rounds and replications whose arrays have the same shapes compile once."""
    return nuts_sampler(arm_model(prior, likelihood), warmup=warmup, draws=draws, target_accept=target_accept)


def compile_arms(
    prior: JointPrior,
    n_arms: int,
    data: ArmData,
    *,
    cubic: int = 0,
    studies: Sequence[Study] = (),
    chains: int = 4,
    warmup: int = 500,
    draws: int = 1000,
    target_accept: float = 0.9,
) -> None:
    """Compiles what ``fit_arms`` will run on a surface of ``n_arms`` arms, ``cubic`` along so many directions."""
    E = sum(len(s.outputs) for s in studies)
    d, cubic = prior.dimension, min(cubic, prior.dimension)
    J, p = 6 * n_arms + E, n_terms(d, cubic)
    shape = partial(jax.ShapeDtypeStruct, dtype=jnp.float64)
    rows = jax.ShapeDtypeStruct((J * min(VARIANCE_RANK, p), p), jnp.float32)
    problem = ArmProblem(
        shape((d,)),
        shape((d, d)),
        shape(()),
        shape((cubic, d)),
        shape((J, p)),
        VarianceRoots(rows, shape((J, p))),
        shape((J, J)),
        jnp.zeros(len(data.arms), int),
        arrays(data, data.largest + 1),
        association(np.broadcast_to(np.eye(5), (len(data.arms), 5, 5))),
        further.further(studies, np.eye(E), np.ones(E)),
    )
    initial = {"prior_z": shape((chains, d)), "surface_z": shape((chains, J))}
    _sampler(prior, warmup, draws, target_accept, log_likelihood).compile(initial, (problem,))


def fit_arms(
    prior: JointPrior,
    surface: Surface,
    arms: Sequence[str],
    data: ArmData,
    key: Array,
    *,
    chains: int = 4,
    warmup: int = 500,
    draws: int = 1000,
    target_accept: float = 0.9,
    studies: Sequence[Study] = (),
    progress: Callable[[int, int], None] | None = None,
    keep: Checkpoint = NOTHING_KEPT,
    likelihood: Likelihood = log_likelihood,
) -> NutsResult:
    """NUTS on the arm-level posterior. Samples hold every parameter [chains, draws] and ``logits`` [.., A, 6].

    Chains start at prior draws shrunk halfway to the centre of the surface's design.
    """
    problem = arm_problem(surface, arms, data, terms=data.largest + 1, studies=studies)
    key, start_key = jax.random.split(key)
    start = prior.unconstrained(prior.draws(start_key, chains))
    middle = (jnp.asarray(surface.centre) + start) / 2
    z = (middle - jnp.asarray(prior.location())) / jnp.asarray(prior.scale())
    initial = {"prior_z": z, "surface_z": jnp.zeros((chains, problem.root.shape[0]))}
    run = _sampler(prior, warmup, draws, target_accept, likelihood).run
    return run(key, initial, (problem,), covariance_guess(prior, surface, problem), progress, keep)
