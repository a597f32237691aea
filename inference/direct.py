"""The direct route: tempered sequential Monte Carlo whose every likelihood simulates its own cohort (design 4.1).

No surface, no cohort that particles share: an independent check of the main route, and the evidence. The target of a
noisy likelihood is its expectation over the noise, so an estimate must be right on average. The likelihood at simulated
rates is the true one smoothed by their Monte Carlo covariance, and integrating over that covariance smooths it once
more: with 2,048 patients an arm for a trial with 171 that moved means by up to 0.2 posterior sds. Here the smoothing is
undone instead: if the likelihood were Gaussian in the logits and the noise normal, the estimate would be unbiased
(Ghurye and Olkin, Ann Math Stat 1969;40:1261; for simulated statistics Price et al., J Comput Graph Stat 2018;27:1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from inference import correction
from inference.arms import Association, Counts, arrays
from inference.arms import log_likelihood as arm_likelihood
from inference.correction import Simulated
from inference.moments import DIRECT, stream
from inference.progress import Progress, silent
from inference.samplers.tempering import LogLikelihood, tempered
from pkpd.errors import InputError

if TYPE_CHECKING:
    from inference.population import Plan

Floats = NDArray[np.float64]

LEAST_COHORT = 10  # patients an arm for each of the trial's
PILOTS = 64  # prior draws from which the covariance of the Monte Carlo errors, in binomial ones, is taken, once
PILOT_GROUP = 128  # patients of which a pilot's independent groups consist
MOST_NOISE = 0.5  # share of a direction's sampling variance that is taken for noise; 0.1 or 0.2 where counts are likely


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

    ``number`` names the patients. The correlation of the errors, and their variance in units of that of a binomial, are
    those of a pilot at prior draws, so a row's estimate depends on no other row.
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
    pilot = correction.simulated(p, pilots, patients, silent, part=part, draw=0, group=PILOT_GROUP)
    root = noise_root(pilot)

    def log_likelihood(theta: Floats, number: int) -> Floats:
        seen = correction.simulated(p, theta, patients, silent, part=part, draw=1 + number)
        return estimated(seen, root, rows, data)

    return log_likelihood


def noise_root(pilot: Simulated) -> Floats:
    """Root [J, J] of the covariance of the errors of the logits, in units of ``pilot.variances``."""
    J = len(pilot.dispersion)
    return np.sqrt(pilot.dispersion)[:, None] * np.linalg.cholesky(pilot.correlation + 1e-9 * np.eye(J))


def estimated(seen: Simulated, root: Floats, rows: NDArray[np.int64], data: Counts) -> Floats:
    """Log likelihood [S] of the counts; ``root`` as of ``noise_root``, rows: arms with data among the A simulated."""
    terms = _terms(jnp.asarray(seen.logits), jnp.asarray(rows), correction.links(seen.rho[:, rows]), data)
    value, score, information = (np.asarray(x, np.float64) for x in terms)
    return debiased(value, score, information, np.sqrt(seen.variances)[:, :, None] * root)


def debiased(value: Floats, score: Floats, information: Floats, root: Floats) -> Floats:
    """Log of an estimate [S] of exp f(l) whose mean over x ~ N(l, root root') is exp f(l) wherever f is quadratic.

    f(x), its gradient [S, J] and minus its Hessian [S, J, J] at one x. With R the root, H that information and g the
    gradient it is f - log |I - R'HR| / 2 - g'R (I - R'HR)^-1 R'g / 2.
    """
    across = np.swapaxes(root, 1, 2)
    share, vectors = np.linalg.eigh(across @ information @ root)
    left = 1 - np.minimum(share, MOST_NOISE)
    g = np.einsum("sji,skj,sk->si", vectors, root, score)
    return value - 0.5 * (np.log(left) + g**2 / left).sum(axis=1)


@jax.jit
def _terms(logits: Array, rows: Array, links: Association, data: Counts) -> tuple[Array, Array, Array]:
    """Log likelihood [S], its gradient [S, J] and minus its Hessian [S, J, J] at logits [S, J]."""

    def one(draw: tuple[Array, Association]) -> tuple[Array, Array, Array]:
        at, link = draw

        def f(x: Array) -> Array:
            return arm_likelihood(x.reshape(-1, 6)[rows], data, link).sum()

        value, score = jax.value_and_grad(f)(at)
        return value, score, -jax.hessian(f)(at)

    return jax.lax.map(one, (logits, links))
