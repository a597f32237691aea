"""The fit of a bank: its NumPyro model, NUTS on it, and the steps from the prior to a bank over the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

from inference.arms import Association, Counts, arrays, association, log_likelihood
from inference.bank import Bank, Reweighted, fill, proportions, reweighted
from inference.priors import JointPrior
from inference.progress import Progress, silent
from inference.samplers.nuts import Nuts, nuts_sampler
from inference.samplers.tempering import LogLikelihood, tempered
from inference.surface import widened
from pkpd import random

if TYPE_CHECKING:
    from inference.population import Plan

Floats = NDArray[np.float64]

LEAST_EFFECTIVE = 200.0  # patients: a vector with fewer is refused
REFUSAL_POWER, REFUSAL_WIDTH = 12.0, 0.1  # of the effective number; of its log, over which the refusal sets in
ROUGH_BANKS = 2  # before the last; with one, the mean of 1 / effective number was 1.3 and 1.5 times as large
ROUGH_DRAWS = 1000  # of such a bank's posterior, from which pilots are taken
WIDENING = 1.5  # of that posterior
CHECKED = 200  # draws at which effective numbers are reported


class Problem(NamedTuple):
    """What the model reads besides the prior. A pytree."""

    bank: Bank
    rows: Array  # [A'] arms with data
    data: Counts
    link: Association


class BankFit(NamedTuple):
    """Draws of a bank's posterior; effective numbers at some of them."""

    samples: dict[str, Floats]  # name -> [chains, draws]
    sample_stats: dict[str, Any]
    coordinates: Floats  # [chains draws, d]
    effective: Floats  # [CHECKED] patients
    refused_share: float  # of these draws, with fewer than LEAST_EFFECTIVE
    edge_share: float  # with fewer than twice as many: if there are any, the refusal may cut the posterior off
    courses: int  # simulated: patients times arms


def bank_model(prior: JointPrior, which: Reweighted) -> Callable[[Problem], None]:
    """NumPyro model of one Problem: as ``arm_model``, with a bank for the surface and its refusal for the guard."""

    def model(problem: Problem) -> None:
        theta = prior.sample()
        e = numpyro.sample("bank_z", dist.Normal(0.0, 1.0).expand([problem.bank.root.shape[0]]).to_event(1))
        seen = proportions(problem.bank, *which.law(prior.constrained(theta)))
        logits = seen.logits + jnp.sqrt(seen.variances) * (problem.bank.root @ e)
        by_arm = logits.reshape(-1, 6)[problem.rows]
        numpyro.factor("counts", log_likelihood(by_arm, problem.data, problem.link).sum())
        numpyro.factor("effective", refusal(seen.effective))

    return model


def refusal(effective: Array) -> Array:
    """Log of the guard that keeps draws where at least LEAST_EFFECTIVE patients are effective.

    Below, effective^REFUSAL_POWER, smooth at the edge; a steeper wall makes trajectories that look over it diverge.
    """
    short = jnp.maximum(math.log(LEAST_EFFECTIVE) - jnp.log(effective), 0.0)
    return -REFUSAL_POWER * short**2 / (short + REFUSAL_WIDTH)


@lru_cache(maxsize=8)
def _sampler(prior: JointPrior, which: Reweighted, warmup: int, draws: int) -> Nuts:
    return nuts_sampler(bank_model(prior, which), warmup=warmup, draws=draws)


def problem_of(p: Plan, bank: Bank) -> Problem:
    """The counts of a plan and its bank."""
    rows = np.array([[a.name for a in p.arms].index(arm) for arm in p.fitted.arms], int)
    link = association(np.asarray(bank.rho)[rows])
    return Problem(bank, jnp.asarray(rows), arrays(p.fitted, p.fitted.largest + 1), link)


def posterior(
    p: Plan,
    bank: Bank,
    key: Array,
    *,
    chains: int = 4,
    warmup: int = 300,
    draws: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> BankFit:
    """NUTS on a bank's posterior; chains start at pilots' spread about their centre, halved."""
    which, d = reweighted(p), p.prior.dimension
    scale, J = p.prior.scale(), bank.root.shape[0]
    rng = random.generator(jax.random.fold_in(key, 0))
    spread = np.asarray(bank.spread)
    about = rng.standard_normal((chains, d)) @ np.linalg.cholesky(spread + 1e-12 * np.eye(d)).T
    z = (np.asarray(bank.centre) + about / 2 - p.prior.location()) / scale
    guess = np.eye(d + J)  # latent sites in alphabetical order: bank_z, prior_z
    guess[J:, J:] = spread / np.outer(scale, scale)
    drawn = _sampler(p.prior, which, warmup, draws).run(
        jax.random.fold_in(key, 1),
        {"prior_z": jnp.asarray(z), "bank_z": jnp.zeros((chains, J))},
        (problem_of(p, bank),),
        guess,
        progress,
    )
    samples = {n: drawn.samples[n] for n in p.prior.names}
    coordinates = np.asarray(p.prior.unconstrained(samples), np.float64).reshape(-1, d)
    some = coordinates[np.linspace(0, len(coordinates) - 1, CHECKED).astype(int)]
    effective = np.asarray(_effective(bank, *which.law(p.prior.constrained(some))))
    refused, edge = (float((effective < times * LEAST_EFFECTIVE).mean()) for times in (1, 2))
    courses = bank.events.shape[0] * len(p.arms)
    return BankFit(samples, drawn.sample_stats, coordinates, effective, refused, edge, courses)


def fit(
    p: Plan,
    key: Array,
    *,
    pilots: int = 512,
    first: int = 128,
    patients: int = 384,
    replicate: int = 0,
    progress: Progress = silent,
    **settings: int,
) -> BankFit:
    """The posterior of a plan in three steps: a bank over the prior, two over the posterior of the one before, widened.

    ``pilots`` vectors with ``first`` patients each, at last ``patients``. The first two posteriors, which only place
    the pilots of the next, are drawn by tempering; NUTS runs on the last. ``settings`` as of ``posterior``.
    """
    draws = p.prior.draws(jax.random.fold_in(key, 0), ROUGH_DRAWS)
    places = start = np.asarray(p.prior.unconstrained(draws), np.float64)
    courses = 0
    for step in range(ROUGH_BANKS):
        rough = fill(p, places[:pilots], first, replicate=replicate, draw=step, progress=progress, stage="rough bank")
        courses += rough.events.shape[0] * len(p.arms)
        own = jax.random.fold_in(key, 1 + step)
        found = tempered(
            jax.random.fold_in(own, 0),
            start,
            log_likelihood_of(p, rough),
            lambda theta: np.asarray(p.prior.log_density(theta)),
            progress=progress,
        )
        places = widened(jax.random.fold_in(own, 1), found.coordinates, pilots, WIDENING)
    bank = fill(p, places, patients, replicate=replicate, draw=ROUGH_BANKS, progress=progress, stage="bank")
    drawn = posterior(
        p, bank, jax.random.fold_in(key, 1 + ROUGH_BANKS), **settings, progress=partial(progress, "NUTS on the bank")
    )
    return drawn._replace(courses=courses + drawn.courses)


def log_likelihood_of(p: Plan, bank: Bank) -> LogLikelihood:
    """``log_likelihood(theta [S, d], number) -> [S]`` of a bank, its Monte Carlo errors left out, its refusal not."""
    which, problem = reweighted(p), problem_of(p, bank)

    def log_likelihood(theta: Floats, number: int) -> Floats:
        return np.asarray(_plain(problem, *which.law(p.prior.constrained(theta))))

    return log_likelihood


@jax.jit
def _plain(problem: Problem, mean: Array, sd: Array) -> Array:
    """Log likelihood [S] at laws [R, S]."""

    def one(law: tuple[Array, Array]) -> Array:
        seen = proportions(problem.bank, *law)
        counts = log_likelihood(seen.logits.reshape(-1, 6)[problem.rows], problem.data, problem.link)
        return counts.sum() + refusal(seen.effective)

    return jax.lax.map(one, (mean.T, sd.T))


@jax.jit
def _effective(bank: Bank, mean: Array, sd: Array) -> Array:
    """Effective patients [S] at laws [R, S]."""
    return jax.lax.map(lambda law: proportions(bank, *law).effective, (mean.T, sd.T))
