"""Tempered sequential Monte Carlo and NUTS against posteriors and evidences in closed form."""

from __future__ import annotations

import math

import conjugate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from inference.arviz import convergence
from inference.samplers import tempering
from inference.samplers.nuts import nuts
from inference.samplers.tempering import evidence, tempered
from pkpd.errors import InputError

RUNS = 8


def runs(start, log_likelihood, log_prior, particles=1000, moves=9):
    """Independent runs; ``start(rng, n)`` draws the prior, ``log_likelihood(theta, rng)`` may be noisy."""
    found = []
    for r in range(RUNS):
        rng = np.random.default_rng(100 + r)
        seen = lambda theta, number, rng=rng: log_likelihood(theta, rng)  # noqa: E731
        found.append(tempered(jax.random.key(r), start(rng, particles), seen, log_prior, moves=moves))
    return found


def check(found, natural, truth: conjugate.Truth) -> None:
    """Means, sds and evidence within four standard errors that the runs' own scatter gives, and the errors small."""
    values = [natural(run.coordinates) for run in found]
    for seen, exact in ((np.mean(values, axis=1), truth.mean), (np.std(values, axis=1), truth.sd)):
        error = seen.std(axis=0, ddof=1) / math.sqrt(RUNS)
        assert (error < 0.06 * truth.sd).all()
        assert (np.abs(seen.mean(axis=0) - exact) < 4 * error).all(), (seen.mean(axis=0), exact, error)
    z = evidence([run.log_evidence for run in found])
    assert z.se < 0.1 and abs(z.log_evidence - truth.log_evidence) < 4 * z.se, (z, truth.log_evidence)


def gaussian_start(rng, n):
    return conjugate.PRIOR_SD * rng.standard_normal((n, 3))


def share_start(rng, n):
    x = rng.beta(conjugate.ALPHA, conjugate.BETA, (n, 1))
    return np.log(x / (1 - x))


def share_log_prior(theta):
    return np.asarray(conjugate.SHARE.log_density(theta))


def test_a_gaussian_in_three_dimensions():
    found = runs(gaussian_start, lambda t, rng: conjugate.gaussian_log_likelihood(t), conjugate.gaussian_log_prior)
    check(found, lambda theta: theta, conjugate.gaussian())
    for run in found:
        assert run.temperatures[-1] == 1 and (np.diff(run.temperatures) > 0).all()
        assert (run.ess[:-1] == pytest.approx(500, rel=0.01)) and (run.ess > 499).all()
        assert run.evaluations == 1000 + 900 * len(run.temperatures)


def test_a_gaussian_whose_likelihood_is_noisy_but_unbiased():
    """log-normal noise of sd 1.2 and mean 1: the posterior and the evidence are the exact ones."""

    def noisy(theta, rng):
        return conjugate.gaussian_log_likelihood(theta) + 1.2 * rng.standard_normal(len(theta)) - 0.72

    check(runs(gaussian_start, noisy, conjugate.gaussian_log_prior), lambda theta: theta, conjugate.gaussian())


def test_a_beta_binomial():
    found = runs(share_start, lambda t, rng: conjugate.beta_binomial_log_likelihood(t), share_log_prior)
    check(found, expit, conjugate.beta_binomial())


def test_a_beta_binomial_with_a_cohort_for_every_likelihood():
    """The target is the expectation of the estimate, which cohorts of 60 make visibly wider than the likelihood."""
    truth = conjugate.expected_by_cohort(60)
    assert truth.sd / conjugate.beta_binomial().sd > 1.08
    check(runs(share_start, lambda t, rng: conjugate.by_cohort(t, 60, rng), share_log_prior), expit, truth)


def test_a_likelihood_that_is_zero_in_half_of_the_prior():
    """theta ~ N(0, 1) and L = exp(-theta) where theta > 0: evidence exp(1/2) Phi(-1), mean phi(1)/Phi(-1) - 1."""

    def half(theta, rng):
        return np.where(theta[:, 0] > 0, -theta[:, 0], -np.inf)

    tail, density = 0.15865525393145707, math.exp(-0.5) / math.sqrt(2 * math.pi)
    mean = density / tail - 1
    sd = math.sqrt(1 + density / tail - (density / tail) ** 2)
    truth = conjugate.Truth(np.array([mean]), np.array([sd]), 0.5 + math.log(tail))
    found = runs(lambda rng, n: rng.standard_normal((n, 1)), half, lambda t: -0.5 * t[:, 0] ** 2)
    check(found, lambda theta: theta, truth)


@pytest.mark.parametrize("model", ["gaussian", "beta_binomial"])
def test_nuts_on_the_same_problems(model):
    site, d = ("theta", 3) if model == "gaussian" else ("prior_z", 1)
    start = {site: jnp.zeros((4, d))}
    drawn = nuts(getattr(conjugate, f"{model}_model"), jax.random.key(0), start, warmup=400, draws=1000)
    values = drawn.samples["theta" if model == "gaussian" else "share"].reshape(4, 1000, d)
    truth = getattr(conjugate, model)()
    for i in range(d):
        mcse = convergence({"x": values[..., i]}).mcse_mean[0]
        assert abs(values[..., i].mean() - truth.mean[i]) < 4 * mcse < 0.15 * truth.sd[i]
        assert values[..., i].std() == pytest.approx(truth.sd[i], rel=0.1)


def test_the_same_key_gives_the_same_run():
    def run(seed):
        start = gaussian_start(np.random.default_rng(0), 200)
        like = lambda theta, number: conjugate.gaussian_log_likelihood(theta) + 0.01 * number  # noqa: E731
        return tempered(jax.random.key(seed), start, like, conjugate.gaussian_log_prior)

    np.testing.assert_array_equal(run(1).coordinates, run(1).coordinates)
    assert run(1).log_evidence != run(2).log_evidence


def test_every_evaluation_has_a_number_of_its_own():
    seen = []

    def like(theta, number):
        seen.append(number)
        return conjugate.gaussian_log_likelihood(theta)

    found = tempered(jax.random.key(0), gaussian_start(np.random.default_rng(0), 200), like,
                     conjugate.gaussian_log_prior)  # fmt: skip
    assert seen == list(range(1 + 9 * len(found.temperatures)))


@pytest.mark.parametrize(
    ("log_likelihood", "message"),
    [
        (lambda t, number: np.full(len(t), -np.inf), "the likelihood is 0 at 200 of 200 draws of the prior"),
        (lambda t, number: np.where(t[:, 0] > 0, np.nan, 0.0), r"the log likelihood is nan at .* \(evaluation 0\)"),
        (lambda t, number: np.full(len(t), np.inf if number else -1.0), r"is inf at .* \(evaluation 1\)"),
        # only the prior's draws look possible
        (lambda t, number: np.full(len(t), -np.inf if number else -1.0), "0 of 180 moves accepted at temperature 1"),
    ],
)
def test_refusals_of_a_likelihood(log_likelihood, message):
    start = gaussian_start(np.random.default_rng(0), 200)
    with pytest.raises(InputError, match=message):
        tempered(jax.random.key(0), start, log_likelihood, conjugate.gaussian_log_prior)


@pytest.mark.parametrize(("particles", "moves"), [(200, 0), (201, 9), (30, 9)])
def test_refusals_of_a_size(particles, moves):
    with pytest.raises(InputError, match=f"{particles} particles and {moves} moves; legal:"):
        tempered(jax.random.key(0), np.zeros((particles, 3)), lambda t, n: t[:, 0], lambda t: t[:, 0], moves=moves)


def test_evidence_of_runs():
    logs = np.log([1.0, 2.0, 3.0, 2.0]) - 700  # far below what exp can hold
    found = evidence(logs)
    assert found.log_evidence == pytest.approx(math.log(2.0) - 700)
    assert found.se == pytest.approx(np.std([1, 2, 3, 2], ddof=1) / 2 / 2) and found.runs == 4
    with pytest.raises(InputError, match="3 runs; legal: at least 4"):
        evidence(logs[:3])


def test_steps_of_the_temperature_leave_half_the_particles_effective():
    value = np.random.default_rng(0).normal(-400, 100, 5000)
    step = float(tempering._increment(value, 1.0))
    weights = np.exp(step * (value - value.max()))
    assert weights.sum() ** 2 / (weights**2).sum() == pytest.approx(2500, rel=0.001)
    assert float(tempering._increment(0.001 * value, 0.3)) == 0.3
