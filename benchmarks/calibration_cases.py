"""Data sets of the calibration, their fits, those that are wrong on purpose, and the quantities that are ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from inference import calibration, correction, diagnostics, predictive, rounds
from inference.arm_model import fit_arms
from inference.arms import (
    ANY,
    DOUBLED,
    SEVENTY_FIVE,
    WEEK_8,
    ArmData,
    Association,
    Counts,
    arrays,
    log_likelihood,
    log_probabilities,
    probabilities,
)
from inference.checkpoint import NOTHING_KEPT
from inference.moments import PRIOR
from inference.population import Plan, spread
from inference.priors import JointPrior, Lognormal
from inference.progress import silent
from inference.surface import Surface, SurfaceError, evaluate
from pkpd import endpoints, random
from pkpd.errors import InputError
from pkpd.parameters import with_values

DRAWS = 99  # of each posterior, taken evenly from all its chains
TRUTH_PATIENTS = 65_536  # an arm: Monte Carlo sd of a rate at most 0.002, a twentieth of what the trial's arms leave
NO_COVARIANCE = 1e-8  # of the surface's; a variance of exactly 0 has no derivative of its root
INTEGRATION_KEY = 0  # the normals over which the surface's error is integrated: the same for truth and draws
DISTANCE = "distance of response, active arms"
RESCUE = "rescue_"  # how the names of what only rescue depends on begin


class Case(NamedTuple):
    """A data set: the plan with its counts and a seed of its own, and what they were drawn from."""

    number: int
    plan: Plan
    theta: np.ndarray  # [d] coordinates
    logits: np.ndarray  # [A, 6] by direct simulation of TRUTH_PATIENTS at theta


class Posterior(NamedTuple):
    """What a fit, right or wrong, hands over to be ranked; arrays [chains, draws, ...]."""

    plan: Plan
    surface: Surface
    coordinates: np.ndarray  # [.., d]
    logits: np.ndarray  # [.., A, 6] surface and its error
    samples: Mapping[str, np.ndarray]
    stats: Mapping[str, np.ndarray]
    error: SurfaceError | None = None


def seed_of(base: int, number: int) -> int:
    """Seed of a data set: patients, prior draw and chains of no two have a key in common."""
    return int(np.random.SeedSequence([base, number]).generate_state(1)[0] >> 1)


def draw(p: Plan, base: int, number: int) -> Case:
    """theta from the prior, and one trial of the published size by direct simulation of its patients."""
    seed = seed_of(base, number)
    p = p._replace(config=p.config.model_copy(update={"seed": seed}))
    values = p.prior.draws(jax.random.fold_in(jax.random.key(seed), 1), 1)
    theta = np.asarray(p.prior.unconstrained(values), np.float64)
    trials = predictive.trials(p, values, PRIOR, silent, "")
    data = ArmData(tuple(a.name for a in p.arms), p.data.n, np.concatenate([t.counts for t in trials]).astype(np.int64))
    p = p._replace(data=data, fitted=data)
    truth = correction.simulated(p, theta, TRUTH_PATIENTS, silent).logits.reshape(-1, 6)
    return Case(number, p, theta[0], truth)


def fit(p: Plan) -> Posterior:
    """The rounds of ``population.fit`` and NUTS, one replicate."""
    key = jax.random.fold_in(jax.random.key(p.config.seed), 1000)
    f = rounds.replicate(p, 0, key, NOTHING_KEPT, silent)
    shape = f.logits.shape[:2]
    return Posterior(p, f.surface, f.coordinates.reshape(*shape, -1), f.logits, f.samples, f.sample_stats, f.error)


def refit(
    right: Posterior,
    *,
    prior: JointPrior | None = None,
    surface: Surface | None = None,
    likelihood: Any = log_likelihood,
) -> Posterior:
    """NUTS once more on the last surface of the right fit, so on its simulations, with something changed."""
    p = right.plan
    result = fit_arms(
        prior or p.prior,
        surface or right.surface,
        [a.name for a in p.arms],
        p.fitted,
        jax.random.fold_in(jax.random.key(p.config.seed), 2000),
        likelihood=likelihood,
        **rounds.sampler_settings(p.config),
    )
    samples = {n: result.samples[n] for n in p.prior.names}
    coordinates = np.asarray(p.prior.unconstrained(samples), np.float64)
    logits = result.samples["logits"]
    return Posterior(p, surface or right.surface, coordinates, logits, samples, result.sample_stats)


def noisy(right: Posterior) -> Surface:
    """The last surface of the right fit with noise added that is as large as the trial's sampling noise, and counted.

    One normal number a logit, of the variance that the trial's counts leave it (at most 1) and the correlation of the
    surface's own errors, is added to its intercept; the covariance says so. So the surface is wrong by what it says.
    """
    surface, p = right.surface, right.plan
    sd = np.minimum(1.0, information(flat(right.logits), p.data.n).mean(axis=0) ** -0.5)
    key = jax.random.fold_in(jax.random.key(p.config.seed), 4000)
    error = sd * (np.linalg.cholesky(surface.correlation) @ random.generator(key).standard_normal(len(sd)))
    return surface._replace(
        coefficients=surface.coefficients.at[:, 0].add(error),
        covariance=surface.covariance.at[:, 0, 0].add(sd**2),
    )


def independent_rows(logits: jax.Array, data: Counts, link: Association) -> jax.Array:
    """Log probability [A] of the five counts of an arm as if each came from patients of its own (without constant)."""
    log_p, log_q = log_probabilities(logits)
    return (data.counts * log_p + (data.n[:, None] - data.counts) * log_q).sum(axis=1)


def without_rescue(p: Plan) -> Plan:
    """The fit of somebody who ignores rescue: nobody is rescued in any simulation, and its row is not fitted.

    With probability 0 and count 0 that row is a constant of the likelihood, and nothing depends on its parameters.
    """
    never = {"rescue_max_probability_per_week": 0.0}
    arms = [a._replace(population=with_values(a.population, never)) for a in p.arms]
    kept = (e for e in p.prior.elements if not getattr(e, "name", "").startswith(RESCUE))
    counts = p.data.counts.copy()
    counts[:, endpoints.NAMES.index("rescue")] = 0
    data = ArmData(p.data.arms, p.data.n, counts)
    return p._replace(arms=arms, prior=JointPrior(tuple(kept)), data=data, fitted=data)


def twice(prior: JointPrior) -> JointPrior:
    """The prior whose density is proportional to the square of this one's: log-sds divided by the root of 2."""
    elements = []
    for e in prior.elements:
        if not isinstance(e, Lognormal):
            raise InputError(f"{e}: the prior counted twice is written for lognormal priors only")
        elements.append(replace(e, log_sd=e.log_sd / math.sqrt(2.0)))
    return JointPrior(tuple(elements))


def quantities(post: Posterior, theta: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Functions of parameters, rates and data, each [S], at coordinates theta [S, d] and logits [S, A, 6].

    All coordinates by name; their log prior density; the log likelihood of the counts as the fit has it, the surface
    at theta with its error integrated out; and of rates, from the logits, that of response at week 8 of each arm and
    how far the response of the active arms is from the posterior's mean. The logits of a posterior draw hold the
    surface's error, those of the truth come from patients.
    """
    p, surface = post.plan, post.surface
    found = dict(zip(p.prior.coordinate_names, theta.T, strict=True))
    found["log prior density"] = np.asarray(p.prior.log_density(theta))
    mean, variances = evaluate(surface, theta)
    rho = np.broadcast_to(np.asarray(surface.rho), (len(theta), *surface.rho.shape))
    rows, data = np.arange(len(p.arms)), arrays(p.fitted, p.fitted.largest + 1)
    z = correction.normals(jax.random.key(INTEGRATION_KEY), mean.shape[1])
    found["log likelihood"] = correction.marginal(mean, variances, np.asarray(surface.correlation), rho, rows, data, z)
    rates = np.asarray(probabilities(jnp.asarray(logits)))
    found |= {f"week-8 rate, {a.name}": rates[:, i, WEEK_8] for i, a in enumerate(p.arms)}
    active = np.array([bool(a.arm.dose_scale) for a in p.arms])
    about, at = (response(x)[:, active] for x in (flat(post.logits), logits))
    off = at - about.mean(axis=0)
    return found | {DISTANCE: np.einsum("sa,ab,sb->s", off, np.linalg.inv(np.cov(about.T)), off)}


def response(logits: np.ndarray) -> np.ndarray:
    """How well arms respond, [S, A]: mean log odds of response at week 8, at least once, and of 30 and doubled."""
    log_p, log_q = log_probabilities(jnp.asarray(logits))
    return np.asarray(log_p - log_q)[..., [WEEK_8, ANY, DOUBLED]].mean(axis=-1)


def flat(x: np.ndarray) -> np.ndarray:
    """Draws [chains, draws, ...] of all chains."""
    return x.reshape(-1, *x.shape[2:])


def ranked(case: Case, post: Posterior) -> dict[str, int]:
    """Rank of the truth of a data set among the posterior's draws, for every quantity.

    A wrong fit may lack parameters: what it has is ranked.
    """
    names = case.plan.prior.coordinate_names
    theta = case.theta[[names.index(name) for name in post.plan.prior.coordinate_names]]
    draws = [x[spread(x.shape[:2], DRAWS)] for x in (post.coordinates, post.logits)]
    found = quantities(post, *(np.concatenate([t[None], x]) for t, x in zip((theta, case.logits), draws, strict=True)))
    values = np.stack(list(found.values()), axis=1)
    key = jax.random.fold_in(jax.random.key(case.plan.config.seed), 3000)
    return dict(zip(found, calibration.ranks(key, values[0], values[1:]).tolist(), strict=True))


def hopeless(post: Posterior) -> tuple[dict[str, float], str]:
    """Figures of the fit, and why a user would be told that it failed; empty where it did not."""
    figures = {c.name: None for c in diagnostics.CRITERIA} | diagnostics.chain_figures(post.samples, post.stats)
    figures["outside_share"] = diagnostics.beyond(post.surface, flat(post.coordinates))
    verdict, reasons = diagnostics.verdict(figures)
    if post.error is not None:
        figures |= {"surface_error_rms": post.error.rms, "surface_chi_square": post.error.chi_square}
    figures["covariance_share"] = covariance_share(post)
    measured = {k: float(v) for k, v in figures.items() if v is not None}
    return measured, "; ".join(r for r in reasons if "not measured" not in r) if verdict == "failed" else ""


def information(logits: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Of each logit by itself, at logits [S, A, 6] in arms of ``n`` [A] patients: expected trials p (1 - p), [S, J]."""
    rates = np.asarray(probabilities(jnp.asarray(logits)))
    one, p_any, p75 = np.ones(rates.shape[:2]), rates[..., ANY], rates[..., SEVENTY_FIVE]
    trials = n[:, None] * np.stack([one, p_any, p75, p_any - p75, one, one], axis=-1)
    return (trials * expit(logits) * expit(-logits)).reshape(len(logits), -1)


def covariance_share(post: Posterior) -> float:
    """Variance of the surface over that which the trial's counts leave a logit by itself, mean over all and draws."""
    at = spread(post.logits.shape[:2], DRAWS)
    logits, variances = evaluate(post.surface, post.coordinates[at])
    return float((variances * information(logits.reshape(DRAWS, -1, 6), post.plan.data.n)).mean())


def outcome(name: str, case: Case, fitted: dict[str, Any]) -> dict[str, Any]:
    """Fit a data set the way ``name`` says and rank its truth.

    ``fitted`` keeps the right fit and the noisy surface of this data set for the other ways.
    """

    def right() -> Posterior:
        if "right" not in fitted:
            fitted["right"] = fit(case.plan)
        return fitted["right"]

    def wide() -> Surface:
        if "surface" not in fitted:
            fitted["surface"] = noisy(right())
        return fitted["surface"]

    if name == "right":
        post = right()
    elif name == "large surface covariance":
        post = refit(right(), surface=wide())
    elif name == "surface covariance left out":
        post = refit(right(), surface=wide()._replace(covariance=wide().covariance * NO_COVARIANCE))
    elif name == "independent rows":
        post = refit(right(), likelihood=independent_rows)
    elif name == "prior counted twice":
        post = refit(right(), prior=twice(case.plan.prior))
    elif name == "rescue ignored":
        post = fit(without_rescue(case.plan))
    else:
        raise InputError(f"no fit is called {name!r}")
    figures, reasons = hopeless(post)
    if reasons:
        return {"status": "failed", "message": reasons, "figures": figures}
    return {"status": "fitted", "ranks": ranked(case, post), "figures": figures}
