"""Log evidence of a fit, and what it would say of an arm left out: importance sampling on its surface (design 4.1).

With g the guard that keeps draws near the surface's design, and <> the mean over the surface's posterior,

    Z_surface = int prior L_surface g,        Z = Z_surface < L_simulated/(L_surface g) >.

The first by draws from a multivariate t, itself fitted to weighted draws from a first and wider one about the
posterior (population Monte Carlo: Cappe et al., J Comput Graph Stat 2004;13:907); smoothed by a generalised Pareto tail
whose shape k-hat tells whether its error can be trusted (Vehtari et al., J Mach Learn Res 2024;25:72). The ratios are
those of ``inference.correction``. Every replicate has a surface, draws and simulations of its own, so that their spread
is an error nobody has assumed. L_simulated integrates over the Monte Carlo error of its patients, which costs each
count about n/patients in log Z, the same in all models of a trial.

The log predictive density of an arm's counts given all others is log Z_surface less the same without that arm. It is
the surface's alone: beyond the posterior the surface is known less well, and the guard ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from inference import arviz
from inference.arm_model import split
from inference.arms import ArmData, Association, Counts, arrays, association, log_likelihood
from inference.correction import Correction, support
from inference.further import Further, further
from inference.further import log_likelihood as further_likelihood
from inference.priors import JointPrior
from inference.studies import Study
from inference.surface import Surface, evaluate
from pkpd import random

if TYPE_CHECKING:
    from inference.population import Plan
    from inference.rounds import Fit

Floats = NDArray[np.float64]

DRAWS = 6000  # of each proposal
FREEDOM = 12.0  # degrees of the proposals: heavier tails than a posterior, not so heavy that most draws miss in 26 dims
WIDER = 1.2  # the first proposal, in sds of the draws it is fitted to
HALF_KNOWN = 60.0  # effective draws at which a covariance is half that of the weighted draws, half the one before
INNER = 8  # vectors of the surface's error for each draw, half of them the others' opposites
BLOCK = 2000  # draws evaluated at once
LOWEST = 700.0  # a weight below the largest by more, in logs, is none


class Evidence(NamedTuple):
    """Log of an integral, its standard error, and k-hat of its weights: above 0.7 neither can be trusted."""

    log: float
    se: float
    khat: float


def figures(p: Plan, fits: Sequence[Fit], weighted: Correction | None, key: Array) -> dict[str, Any]:
    """``log_evidence`` (natural logs), its ``_se`` and ``_khat`` for the diagnostics, and ``elpd_arms`` with the same
    three numbers of every fitted arm's counts given the others'; {} without a correction.

    Means over replicates; an error is the larger of what they say themselves and of what their spread says.
    """
    if weighted is None or len(weighted.log_ratios) != len(fits):
        return {}
    whole, left_out = [], []
    for r, (f, ratios) in enumerate(zip(fits, weighted.log_ratios, strict=True)):
        own = jax.random.fold_in(key, r)
        sets = [p.fitted, *(p.fitted.without([arm]) for arm in (p.fitted.arms if len(p.fitted.arms) > 1 else ()))]
        of_sets = [
            of_surface(p.prior, f.surface, [a.name for a in p.arms], data, f.coordinates, jax.random.fold_in(own, i),
                       p.studies)
            for i, data in enumerate(sets)
        ]  # fmt: skip
        whole.append(product(of_sets[0], mean(ratios)))
        left_out.append([product(of_sets[0], e._replace(log=-e.log)) for e in of_sets[1:]])
    all_arms = pooled(whole)
    by_arm = [pooled(own)._asdict() for own in zip(*left_out, strict=True)]
    return {f"log_evidence{end}": x for end, x in zip(("", "_se", "_khat"), all_arms, strict=True)} | {
        "elpd_arms": dict(zip(p.fitted.arms, by_arm, strict=False))
    }


def pooled(found: Sequence[Evidence]) -> Evidence:
    """The mean of replicates, with the larger of its two errors and the worst k-hat."""
    logs = np.array([e.log for e in found])
    own = float(np.sqrt(np.sum([e.se**2 for e in found])) / len(found))
    between = float(logs.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    return Evidence(float(logs.mean()), max(own, between), max(e.khat for e in found))


def of_surface(
    prior: JointPrior,
    surface: Surface,
    arms: Sequence[str],
    data: ArmData,
    coordinates: Floats,
    key: Array,
    studies: Sequence[Study] = (),
    draws: int = DRAWS,
) -> Evidence:
    """Z_surface of the counts of ``data`` (any of the surface's ``arms``) and of further studies; see the module.

    coordinates [S, d]: draws of the surface's posterior, to which the proposal is fitted.
    """
    rows = np.array([list(arms).index(arm) for arm in data.arms], int)
    counts, link = arrays(data), association(np.asarray(surface.rho)[rows])
    reported = further(studies, np.asarray(surface.further_rho), np.asarray(surface.further_sd))
    root = np.linalg.cholesky(np.asarray(surface.correlation))
    own, inner = jax.random.split(key)
    rng = random.generator(inner)

    def log_target(theta: Floats) -> Floats:
        logits, variances = evaluate(surface, theta)
        half = rng.standard_normal((len(theta), INNER // 2, len(root))) @ root.T
        e = np.concatenate([half, -half], axis=1) * np.sqrt(variances)[:, None]
        likelihood = _integrated(*map(jnp.asarray, (logits, e, rows)), link, counts, reported)
        return np.asarray(prior.log_density(jnp.asarray(theta)) + likelihood) + support(surface, theta)

    return integral(log_target, coordinates, own, draws)


def integral(log_f: Callable[[Floats], Floats], coordinates: Floats, key: Array, draws: int = DRAWS) -> Evidence:
    """Integral of f over d coordinates, from draws [S, d] of about f/integral: ``draws`` of each of two proposals.

    ``log_f`` maps [n, d] to [n]; it may be the log of an unbiased estimate of f.
    """
    rng = random.generator(key)

    def weighted(centre: Floats, covariance: Floats) -> tuple[Floats, Floats]:
        root = np.linalg.cholesky(covariance * (FREEDOM - 2) / FREEDOM)
        theta, log_q = multivariate_t(rng, centre, root, draws)
        blocks = [slice(first, first + BLOCK) for first in range(0, draws, BLOCK)]
        return theta, np.concatenate([log_f(theta[b]) for b in blocks]) - log_q

    first = WIDER**2 * np.atleast_2d(np.cov(coordinates.T))
    theta, log_weights = weighted(coordinates.mean(axis=0), first)
    smoothed = arviz.pareto_smoothed(_bounded(log_weights))[0]
    w = np.exp(smoothed - logsumexp(smoothed))
    known = 1 / (1 + HALF_KNOWN * (w**2).sum())
    centre = w @ theta
    return mean(weighted(centre, known * (w * (theta - centre).T) @ (theta - centre) + (1 - known) * first)[1])


def multivariate_t(rng: np.random.Generator, centre: Floats, root: Floats, n: int) -> tuple[Floats, Floats]:
    """n draws [n, d] of a t with FREEDOM degrees, scale matrix root root', and their log densities [n]."""
    d = len(centre)
    z = rng.standard_normal((n, d)) * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, n))[:, None]
    constant = gammaln((FREEDOM + d) / 2) - gammaln(FREEDOM / 2) - 0.5 * d * np.log(FREEDOM * np.pi)
    log_density = constant - np.log(np.diag(root)).sum() - 0.5 * (FREEDOM + d) * np.log1p((z**2).sum(axis=1) / FREEDOM)
    return centre + z @ root.T, log_density


def mean(log_weights: Floats) -> Evidence:
    """Mean of weights [n] given by their logs, its largest Pareto-smoothed."""
    w = _bounded(log_weights)
    smoothed, khat = arviz.pareto_smoothed(w)
    least = w.argmin()  # smoothing changes the largest and, by one constant, all
    smoothed = smoothed + (w[least] - smoothed[least])
    log = logsumexp(smoothed) - np.log(len(w))
    relative = np.exp(smoothed - log)
    return Evidence(float(log), float(relative.std(ddof=1) / np.sqrt(len(w))), khat)


def _bounded(log_weights: Floats) -> Floats:
    """Log weights without what is not a number or too small to matter."""
    w = np.nan_to_num(np.asarray(log_weights, np.float64), nan=-np.inf)
    return np.maximum(w, w.max() - LOWEST)


def product(a: Evidence, b: Evidence) -> Evidence:
    """Of two independent means."""
    return Evidence(a.log + b.log, float(np.hypot(a.se, b.se)), max(a.khat, b.khat))


@partial(jax.jit)
def _integrated(logits: Array, e: Array, rows: Array, link: Association, data: Counts, reported: Further) -> Array:
    """Log of the likelihood [S] at logits [S, J], averaged over errors e [S, M, J] of them."""

    def at(logits: Array) -> Any:
        of_arms, of_studies = split(logits, reported)
        return log_likelihood(of_arms[rows], data, link).sum() + further_likelihood(of_studies, reported)

    def one(draw: tuple[Array, Array]) -> Array:
        centre, e = draw
        return jax.nn.logsumexp(jax.vmap(at)(centre + e)) - jnp.log(len(e))

    return jax.lax.map(one, (logits, e), batch_size=50)
