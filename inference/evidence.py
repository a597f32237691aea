"""Log evidence of a fit: importance sampling on its surface, then what fresh simulation says of that (design 4.1).

With g the guard that keeps draws near the surface's design, and <> the mean over the surface's posterior,

    Z_surface = int prior L_surface g,        Z = Z_surface < L_simulated/(L_surface g) >.

The first by draws from a multivariate t that is fitted to posterior draws, smoothed by a generalised Pareto tail whose
shape k-hat tells whether its error can be trusted (Vehtari et al., J Mach Learn Res 2024;25:72); the ratios are those
of ``inference.correction``. Every replicate has a surface, draws and simulations of its own, so that their spread is an
error nobody has assumed. L_simulated integrates over the Monte Carlo error of its patients, which costs each count
about n/patients in log Z, the same in all models of a trial.
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

DRAWS = 20_000
FREEDOM = 12.0  # degrees of the proposal: heavier tails than a posterior, not so heavy that most draws miss in 26 dims
INNER = 8  # vectors of the surface's error for each draw, half of them the others' opposites
BLOCK = 2000  # draws evaluated at once
LOWEST = 700.0  # a weight below the largest by more, in logs, is none


class Evidence(NamedTuple):
    """Log of an integral, its standard error, and k-hat of its weights: above 0.7 neither can be trusted."""

    log: float
    se: float
    khat: float


def figures(p: Plan, fits: Sequence[Fit], weighted: Correction | None, key: Array) -> dict[str, float]:
    """``log_evidence`` (natural logs), its ``_se`` and ``_khat`` for the diagnostics; {} without a correction.

    The mean over replicates; the error is the larger of what they say themselves and of what their spread says.
    """
    if weighted is None or len(weighted.log_ratios) != len(fits):
        return {}
    arms = [a.name for a in p.arms]
    found = []
    for r, (f, ratios) in enumerate(zip(fits, weighted.log_ratios, strict=True)):
        own = jax.random.fold_in(key, r)
        found.append(
            product(of_surface(p.prior, f.surface, arms, p.fitted, f.coordinates, own, p.studies), mean(ratios))
        )
    logs = np.array([e.log for e in found])
    own_error = float(np.sqrt(np.sum([e.se**2 for e in found])) / len(found))
    between = float(logs.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    return {
        "log_evidence": float(logs.mean()),
        "log_evidence_se": max(own_error, between),
        "log_evidence_khat": max(e.khat for e in found),
    }


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
    rows = np.array([list(arms).index(arm) for arm in data.arms])
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
    """Integral of f over d coordinates by ``draws`` of a multivariate t fitted to draws [S, d] of f/integral.

    ``log_f`` maps [n, d] to [n]; it may be the log of an unbiased estimate of f.
    """
    rng, d = random.generator(key), coordinates.shape[1]
    centre = coordinates.mean(axis=0)
    root = np.linalg.cholesky(np.atleast_2d(np.cov(coordinates.T)) * (FREEDOM - 2) / FREEDOM)
    z = rng.standard_normal((draws, d))
    scale = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, draws))
    z = z * scale[:, None]
    theta = centre + z @ root.T
    log_q = (
        gammaln((FREEDOM + d) / 2)
        - gammaln(FREEDOM / 2)
        - 0.5 * d * np.log(FREEDOM * np.pi)
        - np.log(np.diag(root)).sum()
        - 0.5 * (FREEDOM + d) * np.log1p((z**2).sum(axis=1) / FREEDOM)
    )
    blocks = [slice(first, first + BLOCK) for first in range(0, draws, BLOCK)]
    return mean(np.concatenate([log_f(theta[b]) for b in blocks]) - log_q)


def mean(log_weights: Floats) -> Evidence:
    """Mean of weights [n] given by their logs, its largest Pareto-smoothed."""
    w = np.nan_to_num(np.asarray(log_weights, np.float64), nan=-np.inf)
    w = np.maximum(w, w.max() - LOWEST)
    smoothed, khat = arviz.pareto_smoothed(w)
    least = w.argmin()  # smoothing changes the largest and, by one constant, all
    smoothed = smoothed + (w[least] - smoothed[least])
    log = logsumexp(smoothed) - np.log(len(w))
    relative = np.exp(smoothed - log)
    return Evidence(float(log), float(relative.std(ddof=1) / np.sqrt(len(w))), khat)


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
