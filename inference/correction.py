"""The correction of the fit by fresh simulation: Pareto-smoothed importance sampling at posterior draws (design 4.1).

The surface's posterior is a proposal. At each of some draws, every arm is simulated anew with many patients, and the
counts get the likelihood of these simulations, their Monte Carlo covariance integrated over just as the surface's is;
the ratio of the two likelihoods is the draw's weight (population Monte Carlo: Cappe et al., J Comput Graph Stat
2004;13:907; smoothing and k-hat: Vehtari et al., J Mach Learn Res 2024;25:72).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from scipy.special import logsumexp

from inference import arviz
from inference.arm_model import SUPPORT_WIDTH, split
from inference.arms import Association, Counts, arrays, association, log_likelihood
from inference.checkpoint import NOTHING_KEPT, Checkpoint
from inference.diagnostics import CRITERIA
from inference.further import Further, FurtherMoments, further, nothing
from inference.further import log_likelihood as further_likelihood
from inference.moments import CORRECTION, grouped
from inference.predictive import Answer
from inference.progress import Progress
from inference.surface import Surface, evaluate, nested_counts, pooled_correlations
from pkpd import random

if TYPE_CHECKING:
    from inference.population import Plan
    from inference.rounds import Fit

Floats = NDArray[np.float64]

LIMITS = {c.name: c.limit for c in CRITERIA}
GROUP = 2048  # patients simulated as one of the independent groups of a draw
INTEGRATION = 256  # normal vectors, half of them the others' opposites, over which a covariance is integrated


class Correction(NamedTuple):
    """Draws of the pooled posterior and their weights; d coordinates."""

    chosen: NDArray[np.int64]  # [S] among all draws, replicate by replicate
    log_weights: Floats  # [S] smoothed; their exponentials add to 1
    khat: float
    ess: float
    shift_in_sd: dict[str, float]  # by parameter: weighted less plain mean of these draws, in posterior sds
    log_ratios: Sequence[Floats] = ()  # by replicate: log of simulated over surface's likelihood and guard, as they are

    @property
    def largest_shift(self) -> tuple[str, float]:
        """The parameter whose mean moves most, and how far, in posterior sds."""
        name = max(self.shift_in_sd, key=lambda name: abs(self.shift_in_sd[name]))
        return name, abs(self.shift_in_sd[name])

    @property
    def usable(self) -> bool:
        """Whether the weighted draws can stand for the posterior: k-hat and effective draws as the verdict asks."""
        return self.khat < LIMITS["khat"] and self.ess >= LIMITS["correction_ess"]

    @property
    def confirms(self) -> bool:
        """Whether the surface's posterior may stand as it is."""
        return self.usable and self.largest_shift[1] <= LIMITS["correction_shift_in_sd"]


def resampled(weighted: Correction, n: int, key: Array) -> NDArray[np.int64]:
    """n numbers of draws, as often as their weights say (systematic resampling), in random order."""
    rng = random.generator(key)
    heights = (np.arange(n) + rng.uniform()) / n
    at = np.searchsorted(np.cumsum(np.exp(weighted.log_weights)), heights)
    return weighted.chosen[rng.permutation(np.minimum(at, len(weighted.chosen) - 1))]


def reweighted(answer: Answer, weighted: Correction, key: Array) -> Answer:
    """The posterior made of its weighted draws, each as often as its weight says; of the same shape."""
    shape = answer.sample_stats["diverging"].shape
    chain, draw = np.unravel_index(resampled(weighted, int(np.prod(shape)), key).reshape(shape), shape)
    samples, stats = ({n: v[chain, draw] for n, v in part.items()} for part in (answer.samples, answer.sample_stats))
    by_arm = None if answer.log_likelihood is None else answer.log_likelihood[chain, draw]
    return Answer(samples, stats, answer.logits[chain, draw], by_arm)


class Simulated(NamedTuple):
    """What fresh patients say at S draws."""

    logits: Floats  # [S, J]
    variances: Floats  # [S, J] Monte Carlo
    correlation: Floats  # [J, J] of their errors; arms share patients
    dispersion: Floats  # [J] variance of their errors over ``variances``: below 1 where rescue is integrated out
    rho: Floats  # [S, A, 5, 5] correlations of the events within a patient


def correct(
    p: Plan, fits: Sequence[Fit], key: Array, number: int, progress: Progress, keep: Checkpoint = NOTHING_KEPT
) -> Correction:
    """Weights of draws taken evenly from all replicates; see the module. ``number`` names the random streams."""
    size = p.config.correction
    share = -(-size.draws // len(fits))
    each = [np.linspace(0, len(f.coordinates) - 1, share).astype(int) for f in fits]
    theta = np.concatenate([f.coordinates[rows] for f, rows in zip(fits, each, strict=True)])
    seen = simulated(p, theta, size.patients, progress, draw=number, keep=keep)
    rows = np.array([[a.name for a in p.arms].index(arm) for arm in p.fitted.arms], int)
    data = arrays(p.fitted, p.fitted.largest + 1)
    z = normals(key, seen.logits.shape[1])
    log_ratios = []
    for i, f in enumerate(fits):
        own = slice(i * share, (i + 1) * share)
        reported = further(p.studies, np.asarray(f.surface.further_rho), np.asarray(f.surface.further_sd))
        direct = marginal(
            seen.logits[own], seen.variances[own], seen.correlation, seen.rho[own], rows, data, z, reported
        )
        logits, variances = evaluate(f.surface, theta[own])
        rho = np.broadcast_to(np.asarray(f.surface.rho), (share, *f.surface.rho.shape))
        surface = marginal(logits, variances, np.asarray(f.surface.correlation), rho, rows, data, z, reported)
        log_ratios.append(direct - surface - support(f.surface, theta[own]))
    own_constants = [ratio - logsumexp(ratio) for ratio in log_ratios]  # each surface has a constant of its own
    smoothed, khat = arviz.pareto_smoothed(np.concatenate(own_constants))
    weights = np.exp(smoothed - logsumexp(smoothed))
    starts = np.cumsum([0, *(len(f.coordinates) for f in fits[:-1])])
    chosen = np.concatenate([start + rows for start, rows in zip(starts, each, strict=True)])
    shift = {}
    for name in p.prior.names:
        draws = np.concatenate([f.samples[name].reshape(-1) for f in fits])
        shift[name] = float((weights @ draws[chosen] - draws[chosen].mean()) / draws.std())
    return Correction(chosen, np.log(weights), khat, float(1 / (weights**2).sum()), shift, log_ratios)


def simulated(
    p: Plan,
    theta: Floats,
    patients: int,
    progress: Progress,
    *,
    part: int = CORRECTION,
    draw: int = 0,
    group: int = GROUP,
    keep: Checkpoint = NOTHING_KEPT,
) -> Simulated:
    """All arms at coordinates theta [S, d], each row by independent groups of patients that no round has seen.

    ``part`` and ``draw`` name the random streams; ``group`` is the size of a group.
    """
    groups = max(2, -(-patients // group))
    stage = f"correction {draw + 1}: simulation" if part == CORRECTION and draw else "correction: simulation"
    mean, second, more = grouped(p, theta, -(-patients // groups), groups, part, draw, progress, stage, keep)
    return seen_in(mean, second, more, patients)


def seen_in(mean: Floats, second: Floats, more: FurtherMoments, patients: int) -> Simulated:
    """From the moments [groups, S, ..] of independent groups, ``patients`` in all at each of S draws."""
    groups = len(mean)
    over_groups = mean.mean(axis=0), second.mean(axis=0)
    successes, trials = (
        np.concatenate([nested, patients * own.mean(axis=0)], axis=1)
        for nested, own in zip(nested_counts(*over_groups, patients), more[:2], strict=True)
    )
    rate = (successes + 0.5) / (trials + 1.0)
    information = (trials + 1.0) * rate * (1 - rate)
    flat = [x.reshape(-1, *x.shape[2:]) for x in (mean, second)]
    y, w = (
        np.concatenate([nested.reshape(*mean.shape[:2], -1), patients / groups * own], axis=2)
        for nested, own in zip(nested_counts(flat[0], flat[1], patients / groups), more[:2], strict=True)
    )
    residuals = ((y - w * rate) / np.sqrt(information)).reshape(-1, rate.shape[1])
    size = np.sqrt((residuals**2).mean(axis=0))
    correlation = (residuals.T @ residuals) / len(residuals) / np.outer(size, size)
    one = np.ones((1, mean.shape[2]))
    rho = np.stack([pooled_correlations(m[None], s[None], one) for m, s in zip(*over_groups, strict=True)])
    dispersion = size**2 * groups**2 / (groups - 1)  # a group's residual is from the mean of all groups
    return Simulated(np.log(rate / (1 - rate)), 1 / information, correlation, dispersion, rho)


def normals(key: Array, J: int) -> Floats:
    """Antithetic standard normal vectors [INTEGRATION, J]."""
    half = random.generator(key).standard_normal((INTEGRATION // 2, J))
    return np.concatenate([half, -half])


def marginal(
    logits: Floats,
    variances: Floats,
    correlation: Floats,
    rho: Floats,
    rows: Any,
    data: Counts,
    z: Floats,
    reported: Further | None = None,
) -> Floats:
    """Log likelihood [S] of the counts with logits [S, J] uncertain by ``variances`` [S, J] and ``correlation``.

    rho [S, A, 5, 5] within-patient correlations; rows: arms with data among the A; reported: by further studies.
    """
    reported = nothing() if reported is None else reported
    root = np.linalg.cholesky(correlation + 1e-9 * np.eye(len(correlation)))
    arrays_of = map(jnp.asarray, (logits, np.sqrt(variances), z @ root.T, rows))
    return np.asarray(_marginal(*arrays_of, links(rho[:, rows]), data, reported))


def links(rho: Floats) -> Association:
    """``association`` of the correlations [S, A, 5, 5] of all draws at once."""
    flat = association(rho.reshape(-1, *rho.shape[2:]))
    return Association(*(x.reshape(*rho.shape[:2], *x.shape[1:]) for x in flat))


@partial(jax.jit)
def _marginal(
    logits: Array, sd: Array, e: Array, rows: Array, links: Association, data: Counts, reported: Further
) -> Array:
    def one(draw: tuple[Array, Array, Association]) -> Array:
        centre, sd, link = draw

        def at(e: Array) -> Array:
            of_arms, of_studies = split(centre + sd * e, reported)
            return log_likelihood(of_arms[rows], data, link).sum() + further_likelihood(of_studies, reported)

        return jax.nn.logsumexp(jax.vmap(at)(e)) - jnp.log(len(e))

    return jax.lax.map(one, (logits, sd, links))


def support(surface: Surface, theta: Floats) -> Floats:
    """Log of the guard that keeps draws [S, d] near the surface's design, [S]."""
    u = (theta - np.asarray(surface.centre)) @ np.asarray(surface.whiten).T
    excess = np.maximum(np.sqrt((u**2).sum(axis=1)) - float(surface.radius), 0.0)
    return -0.5 * (excess / SUPPORT_WIDTH) ** 2
