"""Adaptive tempered sequential Monte Carlo for a likelihood that is estimated, for all particles at once, on the host.

The target at temperature b is p(theta) p(u) L(theta, u)^b with u the random numbers behind the estimate L: a particle
keeps its estimate, a proposal gets a fresh one (pseudo-marginal: Andrieu and Roberts, Ann Stat 2009;37:697; within
sequential Monte Carlo: Chopin, Jacob and Papaspiliopoulos, J R Stat Soc B 2013;75:397). So at b = 1 the draws and the
evidence are those of the likelihood E_u L(theta, u). Every state of every chain is kept as a particle ("waste-free":
Dau and Chopin, J R Stat Soc B 2022;84:114). Temperatures and resampling are BlackJAX's.

Moves are independent draws from the normal law of the particles, a little widened, and at every third a step of random
walk, for where that law does not fit. A noisy estimate makes any chain sticky, and a random walk alone then takes ten
times the evaluations: with ten counts, six coordinates and noise of sd 1, 6,400 evaluations gave means with an error
of 0.32 posterior sd against 0.10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc import ess, resampling, solver
from jax import Array
from numpy.typing import NDArray
from scipy.special import logsumexp

from inference.progress import Progress, silent
from pkpd import random
from pkpd.errors import InputError

Floats = NDArray[np.float64]
LogLikelihood = Callable[[Floats, int], Floats]  # at theta [S, d], number of this evaluation -> [S]

TARGET_ESS = 0.5  # of the particles, which a step in temperature leaves effective
WIDER = 1.2  # sds of the independent proposals, in those of the particles: tails that no target's exceed by much
LOCAL_EVERY = 3  # moves
AIM = 0.15  # acceptance that the random walk is steered to: best are 0.23 for a known likelihood, 0.07 for a noisy one
LEAST_SCALE, MOST_SCALE = 0.5, 2.0  # in 2.38 / sqrt(d): noise, which no smaller step cures, must not shrink it away
LEAST_ACCEPTANCE = 0.01
MAX_STAGES = 100
LEAST_RUNS = 4  # replicates from which a standard error is taken


class Tempered(NamedTuple):
    """N draws of equal weight, and what each of T stages was like."""

    coordinates: Floats  # [N, d]
    log_likelihood: Floats  # [N] the estimates that the draws carry
    log_evidence: float
    temperatures: Floats  # [T] increasing to 1
    acceptance: Floats  # [T] of the moves at that temperature
    ess: Floats  # [T] of the weights that led to it
    evaluations: int  # population vectors whose likelihood was estimated


class Evidence(NamedTuple):
    """Log of the mean evidence of independent runs, and its standard error."""

    log_evidence: float
    se: float
    runs: int


class _Law(NamedTuple):
    """Normal law of the weighted particles."""

    mean: Floats  # [d]
    root: Floats  # [d, d] Cholesky factor of the covariance

    def white(self, x: Floats) -> Floats:
        return np.asarray(np.linalg.solve(self.root, (x - self.mean).T).T, np.float64)


def tempered(
    key: Array,
    particles: Floats,
    log_likelihood: LogLikelihood,
    log_prior: Callable[[Floats], Floats],
    *,
    moves: int = 9,
    progress: Progress = silent,
) -> Tempered:
    """From draws of the prior [N, d] to as many of the posterior.

    At each temperature N / (moves + 1) chains start at resampled particles and make ``moves`` Metropolis moves; all
    their states are the next particles. ``log_likelihood(theta, number)`` is called once for the prior draws (number 0)
    and once a move, each with a number of its own; -inf is a likelihood of 0. ``log_prior`` is that of rows [S, d].
    Raises InputError for NaN or inf, for a likelihood that is 0 at nearly all prior draws, and where next to no move is
    accepted.
    """
    particles = np.array(particles, np.float64)
    count, d = particles.shape
    chains = count // (moves + 1)
    if moves < 1 or chains * (moves + 1) != count or chains <= d:
        raise InputError(
            f"{count} particles and {moves} moves; legal: at least one move, particles a multiple of moves + 1, "
            f"more than {d} chains"
        )
    value = _estimated(log_likelihood, particles, 0)
    evaluations, number = count, 1
    possible = np.isfinite(value)
    if possible.sum() <= d:
        raise InputError(f"the likelihood is 0 at {count - possible.sum()} of {count} draws of the prior")
    # temperature 0+: the prior where the estimate is above 0, and its share of the prior is the first factor
    particles, value, log_evidence = particles[possible], value[possible], float(np.log(possible.mean()))
    temperature, scale = 0.0, 1.0
    stages: list[tuple[float, float, float]] = []
    while temperature < 1.0:
        left = 1.0 - temperature
        step = float(_increment(value, left))
        if not step > 0 or len(stages) == MAX_STAGES:
            raise InputError(f"the temperature is stuck at {temperature:.3g} after {len(stages)} stages")
        temperature = 1.0 if step >= left else temperature + step
        log_weights = step * value
        total = logsumexp(log_weights)
        log_evidence += float(total - math.log(len(value)))
        weights = np.exp(log_weights - total)
        law = _Law(weights @ particles, _root(particles, weights))
        own = jax.random.fold_in(key, len(stages))
        rows = np.asarray(resampling.systematic(own, jnp.asarray(weights), chains))
        x, v = particles[rows], value[rows]
        before = np.asarray(log_prior(x), np.float64)
        rng = random.generator(jax.random.fold_in(own, 1))
        kept, accepted, local = [(x, v)], 0, []
        for move in range(moves):
            walks, z = move % LOCAL_EVERY == LOCAL_EVERY - 1, rng.standard_normal((chains, d))
            if walks:
                proposal, ratio = x + 2.38 / math.sqrt(d) * scale * z @ law.root.T, np.zeros(chains)
            else:
                proposal = law.mean + WIDER * z @ law.root.T
                ratio = ((z**2).sum(axis=1) - (law.white(x) ** 2).sum(axis=1) / WIDER**2) / 2
            there, prior = _estimated(log_likelihood, proposal, number), np.asarray(log_prior(proposal), np.float64)
            evaluations, number = evaluations + chains, number + 1
            accept = np.log(rng.random(chains)) < temperature * (there - v) + prior - before + ratio
            x = np.where(accept[:, None], proposal, x)
            v, before = np.where(accept, there, v), np.where(accept, prior, before)
            kept.append((x, v))
            accepted += int(accept.sum())
            local += [accept.mean()] if walks else []
            progress(f"tempering, stage {len(stages) + 1} at {temperature:.3g}", len(kept) - 1, moves)
        particles, value = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        share = accepted / (moves * chains)
        stages.append((temperature, share, float(1 / (weights**2).sum())))
        if share < LEAST_ACCEPTANCE:
            raise InputError(
                f"{accepted} of {moves * chains} moves accepted at temperature {temperature:.3g}: "
                "the likelihood estimate is too noisy; give more patients"
            )
        if local:
            scale = float(np.clip(scale * math.exp(2 * (np.mean(local) - AIM)), LEAST_SCALE, MOST_SCALE))
    temperatures, acceptance, effective = np.array(stages).T
    return Tempered(particles, value, log_evidence, temperatures, acceptance, effective, evaluations)


def evidence(log_evidences: Sequence[float]) -> Evidence:
    """Of at least four independent runs: their estimates are unbiased on the natural scale, so they are averaged there.

    Standard error of the log by the delta method. Raises InputError for fewer runs.
    """
    logs = np.asarray(log_evidences, np.float64)
    if len(logs) < LEAST_RUNS:
        raise InputError(f"{len(logs)} runs; legal: at least {LEAST_RUNS}, whose scatter is the standard error")
    mean = logsumexp(logs) - math.log(len(logs))
    relative = np.exp(logs - mean)
    return Evidence(float(mean), float(relative.std(ddof=1) / math.sqrt(len(logs))), len(logs))


@jax.jit
def _increment(value: Array, most: Array) -> Array:
    """The step in temperature that leaves TARGET_ESS of the particles effective, ``most`` at most."""
    return ess.ess_solver(lambda own: own, value, TARGET_ESS, most, solver.dichotomy)


def _estimated(log_likelihood: LogLikelihood, theta: Floats, number: int) -> Floats:
    value = np.asarray(log_likelihood(theta, number), np.float64)
    bad = np.isnan(value) | (value == np.inf)
    if bad.any():
        where = np.array2string(theta[bad][0], precision=4)
        raise InputError(f"the log likelihood is {value[bad][0]} at {where} (evaluation {number})")
    return value


def _root(particles: Floats, weights: Floats) -> Floats:
    """Cholesky factor of the weighted covariance of the particles."""
    covariance = np.atleast_2d(np.cov(particles.T, aweights=weights))
    try:
        return np.asarray(np.linalg.cholesky(covariance + 1e-9 * np.diag(np.diag(covariance))), np.float64)
    except np.linalg.LinAlgError:
        raise InputError(f"too few distinct particles for {particles.shape[1]} coordinates") from None
