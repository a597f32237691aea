"""The log evidence: integrals, models and corrections whose answer is known in closed form."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from scipy import stats
from scipy.special import logsumexp
from test_further import study, target

from inference import correction, evidence
from inference.arms import ArmData, arrays, association, log_likelihood
from inference.priors import Beta, JointPrior, Lognormal
from inference.surface import Surface, evaluate, fit_surface

KEY = jax.random.key(0)


def test_the_integral_of_a_gaussian_in_26_dimensions():
    rng = np.random.default_rng(0)
    root = np.tril(rng.normal(0, 0.2, (26, 26))) + np.diag(rng.uniform(0.5, 2, 26))
    draws = 3 + rng.standard_normal((4000, 26)) @ root.T
    law = stats.multivariate_normal(np.full(26, 3.0), root @ root.T)
    found = evidence.integral(lambda x: law.logpdf(x) - 271.3, draws, KEY)
    assert abs(found.log + 271.3) < 4 * found.se and found.se < 0.03 and found.khat < 0.5


def test_the_error_is_that_of_repetitions():
    rng = np.random.default_rng(1)
    draws = rng.standard_normal((2000, 3)) * [1, 2, 3]
    law = stats.multivariate_normal(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    found = [evidence.integral(law.logpdf, draws, jax.random.key(i), 500) for i in range(60)]
    errors = np.array([e.log / e.se for e in found])
    assert abs(errors.mean()) < 4 / np.sqrt(60) and 0.6 < errors.std() < 1.5


def test_a_proposal_that_misses_is_told_by_khat():
    narrow = np.random.default_rng(2).standard_normal((2000, 10)) * 0.3
    found = evidence.integral(stats.multivariate_normal(np.zeros(10)).logpdf, narrow, KEY, 4000)
    assert found.khat > 0.7


def test_the_mean_of_weights_and_of_nothing():
    rng = np.random.default_rng(3)
    w = rng.normal(0, 0.5, 5000)
    found = evidence.mean(w - 1000)
    assert abs(found.log + 1000 - 0.125) < 4 * found.se
    w[:10] = [-np.inf, np.nan, *([-1e6] * 8)]
    assert np.isfinite(evidence.mean(w).log)


def surface_of(slope, intercepts):
    """A surface over one coordinate, exact, of one arm: logits [6] = intercepts + slope times the coordinate."""
    coefficients = np.zeros((6, 3))
    coefficients[:, 0], coefficients[:, 1] = intercepts, slope
    first = (np.zeros(1), np.eye(1), 1e3, np.zeros((0, 1)), coefficients, np.zeros((6, 3, 3)), np.eye(6))
    return Surface(
        *map(jnp.asarray, first),
        jnp.eye(5)[None],
        jnp.zeros((0, 0)),
        jnp.zeros(0),
        jnp.ones(6),
        jnp.full(6, 2.0),
    )


DATA = ArmData(("one",), np.array([40]), np.array([[12, 24, 9, 26, 7]]))
CONJUGATE = JointPrior((Beta("p_any", 3.0, 2.0),))
REST = np.array([0.0, -0.4, 0.9, -0.7, 0.6, -1.5])  # logits; the first is that of p_any


def closed_form():
    """p_any ~ Beta(3, 2) and 24 of 40: beta-binomial, times what the other counts have at fixed logits."""
    at_half = log_likelihood(jnp.asarray(REST)[None], arrays(DATA), association(np.eye(5)[None]))[0]
    return stats.betabinom.logpmf(24, 40, 3, 2) + float(at_half) - stats.binom.logpmf(24, 40, 0.5)


def posterior_coordinates(n, seed=0):
    p = stats.beta(3 + 24, 2 + 16).rvs(n, random_state=seed)
    return np.log(p / (1 - p))[:, None]


def test_a_conjugate_model_has_its_closed_form():
    first_only = np.array([1.0, 0, 0, 0, 0, 0])
    found = evidence.of_surface(
        CONJUGATE, surface_of(first_only, REST), ("one",), DATA, posterior_coordinates(4000), KEY
    )
    assert abs(found.log - closed_form()) < 4 * found.se and found.se < 0.01 and found.khat < 0.5


def with_count_of_a_study(surface):
    """The surface with the count of a further study at the logit of its coordinate."""
    more = np.zeros((7, 3))
    more[:6], more[6, 1] = surface.coefficients, 1.0
    return surface._replace(
        coefficients=jnp.asarray(more),
        covariance=jnp.zeros((7, 3, 3)),
        correlation=jnp.eye(7),
        further_rho=jnp.eye(1),
        further_sd=jnp.full(1, 0.5),
    )


@pytest.mark.parametrize("fitted", [True, False], ids=["beside an arm", "by itself"])
def test_the_count_of_a_further_study_has_its_closed_form(fitted):
    """Prior Beta(3, 2), 24 of 40 in the arm or no arm at all, 11 of 30 in the study: beta-binomials in turn."""
    first_only = np.array([1.0, 0, 0, 0, 0, 0])
    surface = with_count_of_a_study(surface_of(first_only, REST))
    reported = [study(target("response_at_day", 11, n=30))]
    a, b = (3 + 24, 2 + 16) if fitted else (3, 2)
    expected = stats.betabinom.logpmf(11, 30, a, b) + (closed_form() if fitted else 0.0)
    p = stats.beta(a + 11, b + 19).rvs(4000, random_state=0)
    data = DATA if fitted else replace(DATA, arms=(), n=DATA.n[:0], counts=DATA.counts[:0])
    found = evidence.of_surface(CONJUGATE, surface, ("one",), data, np.log(p / (1 - p))[:, None], KEY, reported)
    assert abs(found.log - expected) < 4 * found.se and found.se < 0.01 and found.khat < 0.5


def test_a_wrong_surface_is_corrected_by_what_simulation_says():
    """The surface's logit of p_any is 0.2 too high and its guard cuts: the ratios know the truth, to the last digit."""
    first_only, shifted = np.array([1.0, 0, 0, 0, 0, 0]), REST + np.array([0.2, 0, 0, 0, 0, 0])
    wrong = surface_of(first_only, shifted)._replace(radius=jnp.asarray(0.5))
    right = surface_of(first_only, REST)
    counts, link = arrays(DATA), association(np.eye(5)[None])

    each = jax.jit(jax.vmap(lambda x: log_likelihood(x[None], counts, link)[0]))

    def likelihood(surface, theta):
        return np.asarray(each(jnp.asarray(evaluate(surface, theta)[0])))

    grid = np.linspace(-6, 6, 4001)[:, None]
    density = np.asarray(CONJUGATE.log_density(jnp.asarray(grid))) + likelihood(wrong, grid)
    density += correction.support(wrong, grid)
    rng = np.random.default_rng(4)
    fits, ratios = [], []
    for _ in range(2):
        draws = rng.choice(grid[:, 0], 1500, p=np.exp(density - logsumexp(density)))[:, None]
        fits.append(SimpleNamespace(surface=wrong, coordinates=draws))
        ratios.append(likelihood(right, draws) - likelihood(wrong, draws) - correction.support(wrong, draws))
    p = SimpleNamespace(prior=CONJUGATE, arms=[SimpleNamespace(name="one")], fitted=DATA, studies=())
    weighted = correction.Correction(np.arange(3), np.zeros(3), 0.1, 3.0, {}, ratios)
    found = evidence.figures(p, fits, weighted, KEY)
    assert abs(found["log_evidence"] - closed_form()) < 4 * found["log_evidence_se"]
    assert found["log_evidence_se"] < 0.05 and found["log_evidence_khat"] < 0.7
    uncorrected = evidence.of_surface(CONJUGATE, wrong, ("one",), DATA, fits[0].coordinates, KEY)
    assert abs(uncorrected.log - closed_form()) > 8 * uncorrected.se
    assert evidence.figures(p, fits, None, KEY) == {} and found["elpd_arms"] == {}


def test_an_arm_given_the_other_has_its_closed_form():
    """Two arms share p_any: the second's 24 of 40 given the first's 24 is beta-binomial with the first's posterior."""
    one, shared = surface_of(np.array([1.0, 0, 0, 0, 0, 0]), REST), np.array(["one", "two"])
    two = one._replace(
        coefficients=jnp.concatenate([one.coefficients] * 2),
        covariance=jnp.zeros((12, 3, 3)),
        correlation=jnp.eye(12),
        rho=jnp.concatenate([one.rho] * 2),
    )
    data = ArmData(tuple(shared), np.array([40, 40]), np.concatenate([DATA.counts] * 2))
    p = stats.beta(3 + 48, 2 + 32).rvs((2, 3000), random_state=5)
    fits = [SimpleNamespace(surface=two, coordinates=np.log(x / (1 - x))[:, None]) for x in p]
    plan = SimpleNamespace(prior=CONJUGATE, arms=[SimpleNamespace(name=n) for n in shared], fitted=data, studies=())
    weighted = correction.Correction(np.arange(3), np.zeros(3), 0.1, 3.0, {}, [np.zeros(500)] * 2)
    found = evidence.figures(plan, fits, weighted, KEY)["elpd_arms"]
    exact = closed_form() - stats.betabinom.logpmf(24, 40, 3, 2) + stats.betabinom.logpmf(24, 40, 27, 18)
    assert list(found) == ["one", "two"]
    for told in found.values():
        assert abs(told["log"] - exact) < 4 * told["se"] + 1e-3 and told["se"] < 0.02 and told["khat"] < 0.7


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_toy_trial_against_plain_draws_from_the_prior(noise):
    rng = np.random.default_rng(5)
    sd = np.array([0.25, 0.12, 0.15, 0.35])
    prior = JointPrior(tuple(Lognormal(n, 1.0, float(s)) for n, s in zip("abcd", sd, strict=True)))
    theta = rng.standard_normal((800, 4)) * 1.2 * sd
    surface = fit_surface(theta, *toy.simulate(theta, 256, rng), 256)
    p = surface.coefficients.shape[1]
    flat = jnp.zeros((18, p, p)).at[:, 0, 0].set(noise**2)
    surface = surface._replace(covariance=flat, correlation=0.5 * jnp.eye(18) + 0.5, radius=jnp.asarray(1e3))
    data = ArmData(toy.ARMS, np.array([30, 32, 20]), toy.trial(np.zeros(4), np.array([30, 32, 20]), rng))
    n = 40_000
    plain = rng.standard_normal((n, 4)) * sd
    logits = evaluate(surface, plain)[0] + noise * rng.standard_normal((n, 18)) @ np.linalg.cholesky(
        np.asarray(surface.correlation)
    ).T  # fmt: skip
    counts, link = arrays(data), association(np.asarray(surface.rho))
    likelihood = jax.lax.map(
        lambda x: log_likelihood(x, counts, link).sum(), jnp.asarray(logits.reshape(n, 3, 6)), batch_size=1000
    )
    w = np.asarray(likelihood)
    expected, weights = logsumexp(w) - np.log(n), np.exp(w - logsumexp(w))
    error = np.sqrt((weights**2).sum())
    draws = plain[rng.choice(n, 3000, p=weights)]
    found = evidence.of_surface(prior, surface, toy.ARMS, data, draws, KEY, draws=8000)
    assert abs(found.log - expected) < 4 * np.hypot(found.se, error) and np.hypot(found.se, error) < 0.1
