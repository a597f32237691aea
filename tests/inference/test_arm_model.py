"""The arm-level posterior on a toy: known truth, simulation-based calibration, arms left out, surface error carried."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from scipy import stats

from inference.arm_model import arm_problem, covariance_guess, fit_arms
from inference.arms import ArmData, association, probabilities, sample_counts
from inference.arviz import convergence
from inference.diagnostics import beyond
from inference.priors import JointPrior, Lognormal
from inference.surface import evaluate, fit_surface
from pkpd.errors import InputError

SD = np.array([0.25, 0.12, 0.15, 0.35])
NAMES = ("potency", "top", "spread", "rescue")
PRIOR = JointPrior(tuple(Lognormal(name, 1.0, float(sd)) for name, sd in zip(NAMES, SD, strict=True)))
N = np.array([168, 171, 85])
PATIENTS = 256
SHORT = {"warmup": 200, "draws": 300}  # one setting for most tests: one compilation


def coordinates(result):
    return np.stack([np.log(result.samples[name]) for name in NAMES], axis=-1)


def trial_data(theta, seed, n=N):
    return ArmData(toy.ARMS, n, toy.trial(theta, n, np.random.default_rng(seed)))


@pytest.fixture(scope="module")
def surface():
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((1500, 4)) * 1.2 * SD
    return fit_surface(theta, *toy.simulate(theta, PATIENTS, rng), PATIENTS)


def test_a_large_trial_pins_down_the_truth(surface):
    star = np.array([0.2, -0.1, 0.1, 0.3])
    n = np.array([2000, 2000, 2000])
    result = fit_arms(PRIOR, surface, toy.ARMS, trial_data(star, 1, n), jax.random.key(0), **SHORT)
    assert not result.sample_stats["diverging"].any()
    u = coordinates(result)
    c = convergence({name: u[..., i] for i, name in enumerate(NAMES)})
    assert c.rhat.max() < 1.02
    assert c.ess_bulk.min() > 600  # of 1,200
    mean, sd = u.mean((0, 1)), u.std((0, 1))
    assert (np.abs(mean - star) < 4 * sd).all()
    assert (sd < 0.6 * SD).all()
    assert result.samples["logits"].shape == (4, 300, 3, 6)


def calibrate(surface, trials, seed):
    """Ranks [trials, 4] of the truth among thinned posterior draws, and standard errors of the posterior mean."""
    rng = np.random.default_rng(seed)
    ranks, errors = [], []
    for t in range(trials):
        star = rng.standard_normal(4) * SD
        result = fit_arms(
            PRIOR,
            surface,
            toy.ARMS,
            trial_data(star, [seed, t]),
            jax.random.key(1000 * seed + t),
            **SHORT,
        )
        u = coordinates(result)
        ranks.append((u[:, ::10].reshape(-1, 4) < star).mean(axis=0))
        errors.append((star - u.mean((0, 1))) / u.std((0, 1)))
    return np.array(ranks), np.array(errors)


def check_calibration(ranks, errors, bins):
    trials = len(ranks)
    for i, name in enumerate(NAMES):
        counts, _ = np.histogram(ranks[:, i], bins=bins, range=(0, 1))
        # false alarms: one run in 1,000 over the four
        assert stats.chisquare(counts).pvalue > 2.5e-4, (name, counts)
    # under calibration the squared standardised errors have mean 1 up to the skewness of the posterior
    assert abs((errors**2).mean() - 1) < 4 * np.sqrt(2 / (4 * trials)) + 0.05
    assert np.abs(errors.mean(axis=0)).max() < 4 / np.sqrt(trials) + 0.05


def test_calibration(surface):
    check_calibration(*calibrate(surface, 36, 1), bins=6)


@pytest.mark.slow
def test_calibration_with_many_trials(surface):
    check_calibration(*calibrate(surface, 400, 2), bins=20)


def test_surface_error_is_carried_into_the_posterior(surface):
    # The same counts and the same mean surface, known exactly or only to 0.3 on the logit scale.
    star = np.array([0.1, 0.0, 0.0, 0.1])
    data = trial_data(star, 3, np.array([2000, 2000, 2000]))
    p = surface.coefficients.shape[1]
    only_intercept = jnp.zeros((18, p, p)).at[:, 0, 0].set(1.0)
    exact = surface._replace(covariance=1e-8 * only_intercept, correlation=jnp.eye(18))
    vague = surface._replace(covariance=0.3**2 * only_intercept, correlation=jnp.eye(18))
    sds = []
    for one in (exact, vague):
        result = fit_arms(PRIOR, one, toy.ARMS, data, jax.random.key(4), **SHORT)
        sds.append(coordinates(result).std((0, 1)))
    assert (sds[1] > 1.3 * sds[0]).all()


def test_an_arm_left_out_is_predicted(surface):
    star = np.array([0.15, 0.05, -0.1, 0.2])
    data = trial_data(star, 5)
    result = fit_arms(PRIOR, surface, toy.ARMS, data.without(["high"]), jax.random.key(6), **SHORT)
    logits = result.samples["logits"].reshape(-1, 3, 6)
    counts = sample_counts(jax.random.key(7), logits, N, association(np.asarray(surface.rho)))
    low, high = np.quantile(counts, [0.005, 0.995], axis=0)
    inside = (data.counts >= low) & (data.counts <= high)
    assert inside[1].all()  # the arm that was left out, in 99% intervals
    truth, _ = toy.truth(star)
    # and the prediction is informative: narrower than what the prior says
    prior_logits = np.asarray(evaluate(surface, PRIOR.unconstrained(PRIOR.draws(jax.random.key(8), 1000)))[0])
    prior_p = np.asarray(probabilities(jnp.asarray(prior_logits.reshape(-1, 3, 6))))[:, 1]
    posterior_p = np.asarray(probabilities(jnp.asarray(logits)))[:, 1]
    assert (posterior_p.std(0)[:4] < 0.7 * prior_p.std(0)[:4]).all()
    assert (np.abs(posterior_p.mean(0) - truth[1]) < 5 * posterior_p.std(0)).all()


def test_draws_are_held_where_the_surface_was_fitted():
    # A surface fitted on a narrow design and counts that ask for something ten and more design sds outside it: the
    # guard holds draws back, and what is outside is counted for the verdict.
    rng = np.random.default_rng(9)
    theta = rng.standard_normal((400, 4)) * 0.05
    narrow = fit_surface(theta, *toy.simulate(theta, PATIENTS, rng), PATIENTS)
    data = trial_data(np.array([0.8, 0.4, -0.4, -1.0]), 10)
    distance, outside = [], []
    for surface in (narrow, narrow._replace(radius=jnp.asarray(1e6))):
        result = fit_arms(PRIOR, surface, toy.ARMS, data, jax.random.key(11), **SHORT)
        u = coordinates(result).reshape(-1, 4)
        distance.append(np.linalg.norm((u - np.asarray(narrow.centre)) @ np.asarray(narrow.whiten).T, axis=1).mean())
        outside.append(beyond(narrow, u))
    assert distance[0] < 0.7 * distance[1]
    assert min(outside) > 0.9


def test_same_key_same_draws(surface):
    data = trial_data(np.zeros(4), 12)
    first, again = (fit_arms(PRIOR, surface, toy.ARMS, data, jax.random.key(13), **SHORT) for _ in range(2))
    for name in NAMES:
        np.testing.assert_array_equal(first.samples[name], again.samples[name])


def test_guess_of_the_covariance_is_near_the_posterior(surface):
    data = trial_data(np.zeros(4), 14)
    problem = arm_problem(surface, toy.ARMS, data)
    guess = covariance_guess(PRIOR, surface, problem)
    assert guess.shape == (22, 22)
    result = fit_arms(PRIOR, surface, toy.ARMS, data, jax.random.key(15), **SHORT)
    ratio = np.sqrt(np.diag(guess)[:4]) * SD / coordinates(result).std((0, 1))
    assert (ratio > 0.6).all() and (ratio < 1.7).all()


def test_unknown_arm(surface):
    data = ArmData(("lwo",), N[:1], np.array([[60, 100, 30, 110, 20]]))
    with pytest.raises(InputError, match="the surface has no arm 'lwo'; did you mean 'low'"):
        arm_problem(surface, toy.ARMS, data)
