"""The bank: patients simulated once, then reweighted for any population vector (design 4.1).

A population vector acts on the counts through the individual parameters phi alone, and their logarithms are normal. So
patients drawn from a mixture q over pilot vectors, who go through all arms, stand for those of theta with weights
w_i = p(phi_i | theta) / q(phi_i): exact in expectation, smooth in theta, no regression. What is lost is the effective
number of patients, (sum w)^2 / sum w^2, which falls with every free parameter: up to about six, and only parameters
that differ between individuals or are the sd of such differences.

The likelihood is that of the other routes: the joint law of the counts given the logits of the proportions, with the
Monte Carlo covariance of the logits added. One covariance over all arms is taken at the centre of the pilots; elsewhere
its correlations are kept and each variance goes with the effective number of trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from numpy.typing import NDArray

from inference.arms import DOUBLED, RESCUE
from inference.moments import BANK, stream
from inference.priors import JointPrior
from inference.progress import Progress, silent
from inference.surface import nested_counts, pooled_correlations
from pkpd import endpoints, random, trial
from pkpd.errors import InputError
from pkpd.parameters import SD_NAMES, Variability, with_values
from pkpd.tables import SD_SUFFIX

if TYPE_CHECKING:
    from inference.population import Plan

Floats = NDArray[np.float64]

CHUNK = 4096  # patients whose mixture density is computed at a time


class Reweighted(NamedTuple):
    """The R individual parameters that are reweighted; hashable, so part of a compiled function.

    medians, log_sds: fixed values, None where the population value is free.
    """

    names: tuple[str, ...]
    medians: tuple[float | None, ...]
    log_sds: tuple[float | None, ...]

    def law(self, values: Mapping[str, Any]) -> tuple[Array, Array]:
        """Means and sds [R, ...] of the logarithms at free values [...] by name."""
        some = jnp.asarray(next(iter(values.values())))

        def of(name: str, fixed: float | None) -> Array:
            return values[name] if fixed is None else jnp.full_like(some, fixed)

        medians = [of(n, m) for n, m in zip(self.names, self.medians, strict=True)]
        sds = [of(n + SD_SUFFIX, s) for n, s in zip(self.names, self.log_sds, strict=True)]
        return jnp.log(jnp.stack(medians)), jnp.stack(sds)


class Bank(NamedTuple):
    """n patients in A arms, J = 6 A proportions; arrays as long as n are float32. A pytree."""

    terms: Array  # [2 R + 1, n] u, u^2, log q: middle + width u are the logarithms, covariates apart, q their density
    middle: Array  # [R]
    width: Array  # [R]
    events: Array  # [n, A 6] chances of any, 75, week 8 and 75, week 8, 30 and doubled, rescue
    centre: Array  # [d] mean of the pilots
    spread: Array  # [d, d] covariance of the pilots
    dispersion: Array  # [J] variance of a logit at the centre over that of as many effective patients
    root: Array  # [J, J] Cholesky factor of the correlation of the logits' errors
    rho: Array  # [A, 5, 5] correlations of the events within a patient, at the centre


class Proportions(NamedTuple):
    """What the bank says of one population vector."""

    logits: Array  # [J]
    variances: Array  # [J] Monte Carlo
    effective: Array  # [] patients


def reweighted(p: Plan) -> Reweighted:
    """What a bank of this plan reweights; InputError that names a free parameter it cannot."""
    if p.studies:
        raise InputError("studies: a bank holds the counts of one trial; legal: a config without [[studies]]")
    if two := [a.name for a in p.arms if a.population.second is not None]:
        raise InputError(f"arm {two[0]}: takes two drugs, and a bank reweights the parameters of one; legal: one drug")
    free = p.prior.names
    for name in free:
        if name not in (*Variability._fields, *SD_NAMES):
            raise InputError(f"{name}: does not differ between individuals, so a bank cannot reweight it: fix it")
    names = tuple(n for n in Variability._fields if n in free or n + SD_SUFFIX in free)
    correlated = np.abs(np.tril(np.asarray(p.arms[0].population.correlation_cholesky), -1)) > 0
    for name in names:
        i = Variability._fields.index(name)
        if correlated[i].any() or correlated[:, i].any():
            raise InputError(f"{name}: its random effect is correlated with another, so a bank cannot reweight it")
        if name + SD_SUFFIX not in free and not all(float(getattr(a.population.iiv_log_sd, name)) > 0 for a in p.arms):
            raise InputError(f"{name}: its interindividual sd is 0, so a bank cannot reweight it: fix it")
    medians = tuple(None if n in free else _common(p, n, "typical", "noise") for n in names)
    sds = tuple(None if n + SD_SUFFIX in free else _common(p, n, "iiv_log_sd") for n in names)
    return Reweighted(names, medians, sds)


def _common(p: Plan, name: str, *parts: str) -> float:
    """The value that all arms share."""
    found = {
        float(getattr(getattr(a.population, part), name))
        for a in p.arms
        for part in parts
        if hasattr(getattr(a.population, part), name)
    }
    if len(found) > 1:
        raise InputError(f"{name}: arms have different values ({', '.join(map(str, sorted(found)))}); legal: one")
    return found.pop()


def fill(
    p: Plan,
    pilots: Floats,
    patients: int,
    *,
    replicate: int = 0,
    draw: int = 0,
    progress: Progress = silent,
    stage: str = "bank",
) -> Bank:
    """A bank of ``patients`` (two or more) of each of the pilots [K, d], coordinates; all arms on the same patients.

    ``replicate`` and ``draw`` name the random streams. Raises InputError as ``reweighted`` does.
    """
    if patients < 2:
        raise InputError(f"patients = {patients} of each pilot; legal: at least 2")
    if any(a.arm.screen is not None for a in p.arms):
        raise InputError("screening: who passes one has no normal random effects to reweight; legal: the surface")
    which, part, K = reweighted(p), stream(BANK, replicate), len(pilots)
    values = {n: np.asarray(v) for n, v in p.prior.constrained(pilots).items()}
    mean, sd = (np.asarray(v, np.float64) for v in which.law(values))
    x = logarithms(which, mean, sd, patients, p.config.seed, part, draw)
    log_q = np.asarray(_mixture(jnp.asarray(x), jnp.asarray(mean), jnp.asarray(sd)))
    seconds = []
    for i, a in enumerate(p.arms):
        people = trial.vectors_roster(with_values(a.population, values), K, patients, draw, part)
        tiles = trial.over_tiles(
            partial(_chances, landmark=p.landmark), people, a.arm, p.days, p.config.seed, p.form, engine=p.config.engine
        )
        found = [second[..., :there] for second, there in _counted(tiles, a.name)]
        seconds.append(np.concatenate(found, axis=-1))
        progress(stage, i + 1, len(p.arms))
    return assemble(x, log_q, np.stack(seconds), pilots, which, p.prior)


def logarithms(which: Reweighted, mean: Floats, sd: Floats, patients: int, seed: int, part: int, draw: int) -> Floats:
    """What ``vectors_roster`` and ``cohort.draw`` make of K laws [R, K], ``patients`` each: [R, K patients]."""
    K = mean.shape[1]
    rows = np.arange(K * patients)
    keys = random.root(seed), np.int32(draw), np.int32(part)
    parts = [_normals(*keys, r.astype(np.int32)) for r in np.array_split(rows, -(-len(rows) // CHUNK))]
    z = np.concatenate([np.asarray(x) for x in parts], axis=1)[[Variability._fields.index(n) for n in which.names]]
    sign = np.array([-1.0 if n == "mean_transit_time_h" else 1.0 for n in which.names])  # its effect is that of ktr
    vector = rows // patients
    return mean[:, vector] + sd[:, vector] * sign[:, None] * z


def assemble(
    x: Floats, log_q: Floats, second: NDArray[Any], pilots: Floats, which: Reweighted, prior: JointPrior
) -> Bank:
    """The bank of patients with logarithms x [R, n], density log_q [n] and second moments of events [A, 5, 5, n].

    As many of each of the pilots [K, d], one after another.
    """
    n, A = x.shape[1], len(second)
    week_8, any_, s75 = second[:, 0, 0], second[:, 1, 1], second[:, 2, 2]
    columns = [any_, s75, second[:, 0, 2], week_8, second[:, DOUBLED, DOUBLED], second[:, RESCUE, RESCUE]]
    events = np.stack(columns, axis=1).reshape(6 * A, n).T
    centre = pilots.mean(axis=0)
    middle, width = x.mean(axis=1), x.std(axis=1)
    u = (x - middle[:, None]) / width[:, None]
    bank = Bank(
        jnp.asarray(np.concatenate([u, u**2, log_q[None]]), jnp.float32),
        jnp.asarray(middle),
        jnp.asarray(width),
        jnp.asarray(events, jnp.float32),
        jnp.asarray(centre),
        jnp.asarray(np.atleast_2d(np.cov(pilots.T))) if len(pilots) > 1 else jnp.diag(jnp.asarray(prior.scale()) ** 2),
        jnp.ones(6 * A),
        jnp.eye(6 * A),
        jnp.broadcast_to(jnp.eye(5), (A, 5, 5)),
    )
    weights = np.asarray(_weights(bank, *which.law(prior.constrained(centre))), np.float64)
    weights /= weights.sum()
    moments = np.einsum("aijn,n->aij", second, weights)[None]
    means = np.diagonal(moments, axis1=2, axis2=3)
    covariance, information = monte_carlo_covariance(weights, second, means, moments, len(pilots))
    variance = np.diag(covariance)
    known = variance > 0
    size = np.sqrt(np.where(known, variance, 1.0))
    correlation = np.where(np.outer(known, known), covariance / np.outer(size, size), 0.0)
    np.fill_diagonal(correlation, 1.0)
    effective = 1 / (weights**2).sum()
    return bank._replace(
        dispersion=jnp.asarray(np.where(known, variance * effective * information, 1.0)),
        root=jnp.linalg.cholesky(jnp.asarray(correlation + 1e-9 * np.eye(len(correlation)))),
        rho=jnp.asarray(pooled_correlations(means, moments, np.ones((1, A)))),
    )


def monte_carlo_covariance(
    weights: Floats, second: NDArray[Any], means: Floats, moments: Floats, K: int
) -> tuple[Floats, Floats]:
    """Covariance [J, J] of the logits of weighted patients, over all arms, and the information [J] of one patient.

    Weights [n] add to 1; second [A, 5, 5, n] moments of every patient; means [1, A, 5] and moments [1, A, 5, 5]
    weighted. By the influence (y_i - p t_i) / (t p q) of each patient on each logit, about the mean of the patients of
    their pilot: each of the K gave as many, one after another.
    """
    total, trials = (v[0] for v in nested_counts(means, moments, 1.0))
    rate = total / np.maximum(trials, 1e-300)
    information = trials * rate * (1 - rate)
    each = np.moveaxis(second, -1, 0)
    y, t = nested_counts(np.diagonal(each, axis1=2, axis2=3).astype(np.float64), each.astype(np.float64), 1.0)
    influence = (y - rate * t) / np.where(information > 0, information, np.inf) * weights[:, None]
    by_pilot = influence.reshape(K, -1, influence.shape[1])
    left = (by_pilot - by_pilot.mean(axis=1, keepdims=True)).reshape(influence.shape)
    m = by_pilot.shape[1]
    return left.T @ left * (m / (m - 1)), information


def proportions(bank: Bank, mean: Array, sd: Array) -> Proportions:
    """Logits, half a pseudo-patient added to either side, at the law (mean, sd) [R] of ``Reweighted.law``."""
    weights = _weights(bank, mean, sd)
    sums = jnp.matmul(weights, bank.events, precision="highest").astype(bank.centre.dtype)
    total, squares = (jnp.sum(w, dtype=bank.centre.dtype) for w in (weights, weights**2))
    effective = total**2 / squares
    any_, s75, both, week_8, doubled, rescue = jnp.moveaxis((sums / total).reshape(-1, 6), 1, 0)
    whole = jnp.ones_like(any_)
    successes = jnp.stack([any_, s75, both, week_8 - both, doubled, rescue], axis=1).ravel()
    trials = jnp.stack([whole, any_, s75, any_ - s75, whole, whole], axis=1).ravel()
    trials = jnp.maximum(trials, 0.0)  # float32 sums may leave a difference of equal numbers just below 0
    yes = effective * jnp.clip(successes, 0.0, trials) + 0.5
    no = effective * trials + 1.0 - yes
    return Proportions(jnp.log(yes) - jnp.log(no), bank.dispersion * (1 / yes + 1 / no), effective)


def _weights(bank: Bank, mean: Array, sd: Array) -> Array:
    """Weights [n] at the law (mean, sd) [R], up to a factor: the largest is 1.

    -((x - m)/s)^2 / 2 is linear in u and u^2, so the weights of all patients are one product.
    """
    ratio, shift = bank.width / sd, (mean - bank.middle) / sd
    along = jnp.concatenate([ratio * shift, -0.5 * ratio**2, -jnp.ones_like(ratio[:1])])
    log_weights = jnp.matmul(along.astype(bank.terms.dtype), bank.terms, precision="highest")
    return jnp.exp(log_weights - jax.lax.stop_gradient(log_weights.max()))


@jax.jit
def _normals(key: Array, draw: Array, part: Array, patient: Array) -> Array:
    """The random effects [13, patients] that ``cohort.draw`` gives these patients, in sds."""
    of = jnp.full_like(patient, draw), jnp.full_like(patient, part), patient
    return random.normal(random.patient_keys(key, *of), 0, "random_effects", (len(Variability._fields),))


@jax.jit
def _mixture(x: Array, mean: Array, sd: Array) -> Array:
    """Log density [n] of x [R, n] under the mixture of the pilots' laws [R, K], up to a constant."""

    def at(one: Array) -> Array:
        return logsumexp((-0.5 * ((one[:, None] - mean) / sd) ** 2 - jnp.log(sd)).sum(axis=0))

    return jax.lax.map(at, x.T, batch_size=CHUNK) - jnp.log(mean.shape[1])


def _chances(v: trial.Visits, there: int, landmark: int) -> tuple[Any, Any, int]:
    counts, chance = endpoints.until(landmark, v.platelets_observed, v.rescue_probability)
    return endpoints.expected_events(counts, v.baseline, chance)[1], v.failed, there


def _counted(tiles: Any, arm: str) -> Any:
    for second, failed, there in tiles:
        if failed[:there].any():
            raise InputError(f"{int(failed[:there].sum())} patients of arm '{arm}' left the range of the solver")
        yield second, there
