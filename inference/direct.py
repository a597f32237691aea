"""The direct route: tempered sequential Monte Carlo whose every likelihood simulates its own cohort (design 4.1).

No surface, no cohort that particles share: an independent check of the main route, and the evidence. The likelihood of
a population vector is estimated as the correction estimates it, by fresh patients with the Monte Carlo covariance of
their logits integrated over. Its expectation is the likelihood with twice that covariance, so the posterior is wider
than the exact one by about the share n / patients, and the evidence is quoted with cohorts of two sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from inference import correction
from inference.arms import arrays
from inference.moments import DIRECT, stream
from inference.progress import Progress, silent
from inference.samplers.tempering import LogLikelihood, tempered
from pkpd.errors import InputError

if TYPE_CHECKING:
    from inference.population import Plan

Floats = NDArray[np.float64]

LEAST_COHORT = 10  # patients an arm for each of the trial's
PILOTS = 64  # prior draws from which the correlation of the Monte Carlo errors is taken, once


class Direct(NamedTuple):
    """N draws of equal weight, the evidence, and T stages of tempering."""

    samples: dict[str, Floats]  # name -> [N]
    coordinates: Floats  # [N, d]
    log_evidence: float
    temperatures: Floats  # [T]
    acceptance: Floats  # [T]
    ess: Floats  # [T] effective particles of each step in temperature
    courses: int  # simulated: patients times arms


def direct(
    p: Plan,
    key: Array,
    *,
    patients: int = 4096,
    particles: int = 1000,
    moves: int = 9,
    replicate: int = 0,
    progress: Progress = silent,
) -> Direct:
    """The posterior of a plan by one run. ``patients`` an arm for every likelihood; ``replicate`` names the streams.

    Runs that differ in ``replicate`` share no patient; give each its own key too. Raises InputError for a cohort of
    fewer than ten patients for each of the largest arm, and as ``tempered`` does.
    """
    estimate = likelihood(p, jax.random.fold_in(key, 0), patients, replicate)
    start = np.asarray(p.prior.unconstrained(p.prior.draws(jax.random.fold_in(key, 1), particles)), np.float64)
    found = tempered(
        jax.random.fold_in(key, 2),
        start,
        estimate,
        lambda theta: np.asarray(p.prior.log_density(theta)),
        moves=moves,
        progress=progress,
    )
    samples = {n: np.asarray(v) for n, v in p.prior.constrained(found.coordinates).items()}
    courses = (found.evaluations + PILOTS) * patients * len(p.arms)
    return Direct(
        samples, found.coordinates, found.log_evidence, found.temperatures, found.acceptance, found.ess, courses
    )


def likelihood(p: Plan, key: Array, patients: int, replicate: int = 0) -> LogLikelihood:
    """``log_likelihood(theta [S, d], number) -> [S]`` by ``patients`` fresh patients of all arms for every row.

    ``number`` names the patients and the points that the covariance is integrated over. The correlation of the errors
    is that of a pilot at prior draws, so a row's estimate depends on no other row.
    """
    if p.studies:
        raise InputError("studies: the direct route takes the counts of one trial; legal: a config without [[studies]]")
    largest = p.fitted.largest
    if patients < LEAST_COHORT * largest:
        raise InputError(
            f"patients = {patients} an arm for a trial with {largest}; legal: at least {LEAST_COHORT * largest}"
        )
    rows = np.array([[a.name for a in p.arms].index(arm) for arm in p.fitted.arms], int)
    data = arrays(p.fitted, largest + 1)
    part = stream(DIRECT, replicate)
    pilots = np.asarray(p.prior.unconstrained(p.prior.draws(jax.random.fold_in(key, 0), PILOTS)), np.float64)
    fixed = correction.simulated(p, pilots, patients, silent, part=part, draw=0).correlation

    def log_likelihood(theta: Floats, number: int) -> Floats:
        seen = correction.simulated(p, theta, patients, silent, part=part, draw=1 + number)
        z = correction.normals(jax.random.fold_in(key, 1 + number), seen.logits.shape[1])
        return correction.marginal(seen.logits, seen.variances, fixed, seen.rho, rows, data, z)

    return log_likelihood
