"""The surface on a toy with known probabilities: recovery, honest variances, shrinkage, the error at fresh points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from scipy.special import logit

from inference.arm_model import variance_roots, variances
from inference.arms import ArmData, probabilities
from inference.regression import Terms, regress
from inference.surface import (
    covariance_at,
    evaluate,
    features,
    fit_surface,
    n_terms,
    nested_counts,
    pooled_correlations,
    surface_error,
    terms_of,
    widened,
)
from pkpd.errors import InputError

SD = np.array([0.2, 0.1, 0.12, 0.3])  # narrow enough for a quadratic
PATIENTS = 256
N = np.array([168, 171, 85])


def simulated_round(points, d, seed, patients=PATIENTS):
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((points, d)) * np.r_[SD, np.full(d - 4, 0.3)]
    return theta, *toy.simulate(theta, patients, rng)


def true_logits(theta):
    p, both = toy.truth(theta)
    p8, p_any, p75 = p[..., 0], p[..., 1], p[..., 2]
    conditional = [p_any, p75 / p_any, both / p75, (p8 - both) / (p_any - p75), p[..., 3], p[..., 4]]
    return logit(np.stack(conditional, axis=-1)).reshape(*theta.shape[:-1], -1)


@pytest.fixture(scope="module")
def simulated():
    return simulated_round(800, 4, 0)


@pytest.fixture(scope="module")
def surface(simulated):
    return fit_surface(*simulated, PATIENTS)


@pytest.fixture(scope="module")
def fresh():
    return np.random.default_rng(99).standard_normal((60, 4)) * SD


def test_features_match_their_description():
    d = 5
    terms, u = terms_of(d), np.random.default_rng(0).standard_normal((7, d))
    x = np.asarray(features(jnp.asarray(u), jnp.zeros((0, u.shape[1]))))
    assert x.shape == (7, 1 + d + d * (d + 1) // 2)
    for t in range(x.shape[1]):
        i, k = terms.first[t], terms.second[t]
        expected = {0: np.ones(7), 1: u[:, i], 2: (u[:, i] ** 2 - 1) / np.sqrt(2), 3: u[:, i] * u[:, k]}
        np.testing.assert_allclose(x[:, t], expected[int(terms.kind[t])])
    assert terms_of(26).kind.size == 378


def test_features_are_orthonormal_under_the_design():
    u = np.random.default_rng(1).standard_normal((200_000, 3))
    x = np.asarray(features(jnp.asarray(u), jnp.zeros((0, u.shape[1]))))
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(x.shape[1]), atol=0.03)


def test_cubic_features_are_orthonormal_too():
    rng = np.random.default_rng(2)
    u = rng.standard_normal((400_000, 4))
    directions = np.linalg.qr(rng.standard_normal((4, 4)))[0][:3]
    x = np.asarray(features(jnp.asarray(u), jnp.asarray(directions)))
    assert x.shape[1] == terms_of(4, 3).kind.size == n_terms(4, 3) == 15 + 10
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(x.shape[1]), atol=0.05)


def test_cubic_terms_take_a_wide_design_where_a_quadratic_fails():
    """A design three times as wide, many batches: what is left is shape, and the check at fresh points sees it."""
    rng = np.random.default_rng(3)
    theta = 3 * rng.standard_normal((4000, 4)) * SD
    mean, second = toy.simulate(theta, PATIENTS, rng)
    points = 2 * rng.standard_normal((40, 4)) * SD
    groups = [toy.simulate(points, 4096, rng) for _ in range(2)]
    seen = [np.stack(x) for x in zip(*groups, strict=True)]
    data = ArmData(toy.ARMS, N, toy.trial(np.zeros(4), N, rng))
    error = {}
    for cubic in (0, 3):
        fitted = fit_surface(theta, mean, second, PATIENTS, near=data, cubic=cubic)
        assert fitted.coefficients.shape == (18, n_terms(4, cubic)) and fitted.directions.shape == (cubic, 4)
        np.testing.assert_allclose(fitted.directions @ fitted.directions.T, np.eye(cubic), atol=1e-12)
        error[cubic] = surface_error(fitted, points, *seen, N).rms
    assert error[3] < 0.7 * error[0]


def test_a_surface_is_cubic_along_no_more_directions_than_it_has_coordinates():
    rng = np.random.default_rng(4)
    theta = rng.standard_normal((400, 4)) * SD
    mean, second = toy.simulate(theta, PATIENTS, rng)
    asked, all_four = (fit_surface(theta, mean, second, PATIENTS, cubic=cubic) for cubic in (6, 4))
    assert asked.directions.shape == (4, 4)
    np.testing.assert_array_equal(asked.coefficients, all_four.coefficients)


def test_recovers_the_known_probabilities(surface, fresh):
    logits = np.asarray(evaluate(surface, fresh)[0])
    predicted = np.asarray(probabilities(jnp.asarray(logits.reshape(-1, 3, 6))))
    truth, _ = toy.truth(fresh)
    sampling_sd = np.sqrt(truth * (1 - truth) / N[:, None])
    assert np.sqrt(np.mean(((predicted - truth) / sampling_sd) ** 2)) < 0.15


def test_errors_are_as_large_as_claimed(fresh):
    # Over independent surfaces from small rounds, where noise exceeds what a quadratic lacks. Rescue, with a tenth of
    # binomial noise, is left out: there the missing cubic terms show.
    truth = true_logits(fresh[:10])
    standard = []
    for seed in range(20):
        logits, v = (np.asarray(a) for a in evaluate(fit_surface(*simulated_round(300, 4, seed, 64), 64), fresh[:10]))
        standard.append(((logits - truth) / np.sqrt(v)).reshape(10, 3, 6)[..., :5])
    squared = np.array(standard) ** 2
    assert 0.7 < np.median(squared) / 0.455 < 1.4
    assert 0.9 < (squared < 1.96**2).mean() < 0.98


def test_variances_agree_with_a_bootstrap_over_batches(simulated, fresh):
    theta, mean, second = simulated
    points = fresh[:5]
    fitted = fit_surface(theta, mean, second, PATIENTS, adapt_penalty=False)
    rng = np.random.default_rng(5)
    logits = []
    for _ in range(60):
        rows = rng.integers(0, len(theta), len(theta))
        again = fit_surface(theta[rows], mean[rows], second[rows], PATIENTS, adapt_penalty=False)
        logits.append(np.asarray(evaluate(again, points)[0]))
    logits = np.array(logits)  # [B, 5, 18]
    # a bootstrap variance of 60 samples has a relative sd of 0.18
    ratio = np.asarray(evaluate(fitted, points)[1]) / logits.var(axis=0)
    assert 0.8 < np.exp(np.log(ratio).mean()) < 1.25
    assert ratio.min() > 0.3 and ratio.max() < 3.0
    # correlations of the errors over all arms, averaged over five points: a bootstrap sd of about 0.06
    found = np.mean([np.corrcoef(logits[:, i].T) for i in range(len(points))], axis=0)
    claimed = np.asarray(fitted.correlation)
    off = ~np.eye(18, dtype=bool)
    assert np.abs(found[off]).max() > 0.4
    assert np.sqrt(np.mean((found - claimed)[off] ** 2)) < 0.08
    assert np.corrcoef(found[off], claimed[off])[0, 1] > 0.8


def test_covariance_is_positive_definite_everywhere(surface):
    for size in (0.0, 1.0, 10.0):
        theta = jnp.full(4, size)
        s = np.asarray(covariance_at(surface, theta))
        np.testing.assert_allclose(np.diag(s), np.asarray(evaluate(surface, theta)[1]), rtol=1e-12)
        assert np.linalg.eigvalsh(s / np.sqrt(np.outer(np.diag(s), np.diag(s)))).min() > 0


def test_variance_grows_away_from_the_design(surface):
    near, far = (np.asarray(evaluate(surface, jnp.full(4, x))[1]) for x in (0.0, 3.0))
    assert (far > 3 * near).all()


def test_adapted_penalty_drops_what_does_nothing():
    # Eight of twelve coordinates hardly act: the adapted fit must see that and be closer to the truth.
    theta, mean, second = simulated_round(600, 12, 3)
    test = np.random.default_rng(4).standard_normal((100, 12)) * np.r_[SD, np.full(8, 0.3)]
    errors, terms = {}, {}
    for adapt in (False, True):
        fitted = fit_surface(theta, mean, second, PATIENTS, adapt_penalty=adapt)
        errors[adapt] = np.sqrt(np.mean((np.asarray(evaluate(fitted, test)[0]) - true_logits(test)) ** 2, axis=0))
        terms[adapt] = np.asarray(fitted.effective_terms)
    assert (terms[False] > 75).all()  # of 91
    assert terms[True].mean() < 35
    assert np.median(errors[True] / errors[False]) < 0.75


def test_roots_give_the_variances(surface, fresh):
    exact = np.asarray(evaluate(surface, fresh)[1])
    u = jnp.asarray((fresh - np.asarray(surface.centre)) @ np.asarray(surface.whiten).T)
    for rank, tolerance in ((15, 1e-4), (12, 0.15)):
        roots = variance_roots(np.asarray(surface.covariance), rank)
        found = np.asarray(jax.vmap(lambda row, roots=roots: variances(roots, features(row, surface.directions)))(u))
        assert np.sqrt(np.mean((found / exact - 1) ** 2)) < tolerance


def test_correlations_within_a_patient(simulated, surface):
    _, mean, second = simulated
    centre = np.zeros((1, 4))
    big_mean, big_second = toy.simulate(centre, 100_000, np.random.default_rng(8))
    moment = big_second[0]
    cov = moment - big_mean[0, :, :, None] * big_mean[0, :, None, :]
    sd = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    truth = cov / (sd[:, :, None] * sd[:, None, :])
    np.testing.assert_allclose(np.asarray(surface.rho)[:2], truth[:2], atol=0.05)
    # an event that never happens is uncorrelated, and the matrix stays usable
    dead_mean, dead_second = mean.copy(), second.copy()
    dead_mean[:, 2, 2] = 0
    dead_second[:, 2, 2, :] = dead_second[:, 2, :, 2] = 0
    rho = pooled_correlations(dead_mean, dead_second, np.full((800, 3), 1 / 800))
    np.testing.assert_allclose(rho[2, 2], np.eye(5)[2], atol=1e-6)
    assert np.linalg.eigvalsh(rho).min() > 0


def test_error_hidden_by_noise_has_a_finite_standard_error(surface, fresh):
    """Groups whose errors point opposite ways: their product, the square of the error, is negative."""
    predicted = np.asarray(probabilities(jnp.asarray(np.asarray(evaluate(surface, fresh)[0]).reshape(-1, 3, 6))))
    aside = 0.02 * np.random.default_rng(1).uniform(0.5, 1, predicted.shape)
    mean = np.clip(np.stack([predicted + aside, predicted - aside]), 1e-4, 1 - 1e-4)
    _, second = toy.simulate(fresh, 1000, np.random.default_rng(2))
    found = surface_error(surface, fresh, mean, np.stack([second, second]), N)
    assert found.rms == 0 and 0 < found.rms_se < 0.5


def test_batches_near_the_data_weigh_more(simulated):
    theta, mean, second = simulated
    data = ArmData(toy.ARMS, N, np.rint(N[:, None] * mean[17]).astype(int))
    near = fit_surface(theta, mean, second, PATIENTS, near=data).rho
    # the direction is that of a pool over the batches that look most like the data
    distance = ((mean - mean[17]) ** 2).sum(axis=(1, 2))
    closest = np.argsort(distance)[:100]
    pool = pooled_correlations(mean[closest], second[closest], np.full((100, 3), 0.01))
    flat = np.asarray(fit_surface(theta, mean, second, PATIENTS).rho)
    assert np.abs(np.asarray(near)[:2] - pool[:2]).mean() < np.abs(flat[:2] - pool[:2]).mean() + 0.01
    assert not np.allclose(near, flat)


def test_error_at_fresh_points_is_the_true_error(surface, fresh):
    rng = np.random.default_rng(11)
    groups = [toy.simulate(fresh, 1000, rng) for _ in range(3)]
    found = surface_error(surface, fresh, np.stack([g[0] for g in groups]), np.stack([g[1] for g in groups]), N)
    logits = np.asarray(evaluate(surface, fresh)[0]).reshape(-1, 3, 6)
    truth, _ = toy.truth(fresh)
    miss = (np.asarray(probabilities(jnp.asarray(logits))) - truth) / np.sqrt(truth * (1 - truth) / N[:, None])
    assert found.rms == pytest.approx(np.sqrt((miss**2).mean()), abs=4 * found.rms_se + 0.01)
    # without subtraction the noise of 3,000 patients a point would dominate: sqrt(150 / 3000) = 0.22
    assert found.rms < 0.15
    assert 0.3 < found.chi_square < 4


def test_a_wrong_surface_is_noticed(surface, fresh):
    rng = np.random.default_rng(12)
    groups = [toy.simulate(fresh, 500, rng) for _ in range(2)]
    moments = np.stack([g[0] for g in groups]), np.stack([g[1] for g in groups])
    wrong = surface._replace(coefficients=surface.coefficients.at[:, 0].add(0.3))
    assert surface_error(wrong, fresh, *moments, N).rms > 0.4
    assert surface_error(wrong, fresh, *moments, N).chi_square > 10


def test_regression_against_known_coefficients():
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(4000), rng.standard_normal((4000, 2))])
    beta = np.array([[-0.5, 1.0, 0.0], [-4.0, 0.0, 0.5]])
    w = np.full((4000, 2), 50.0)
    y = rng.binomial(50, 1 / (1 + np.exp(-x @ beta.T))).astype(float)
    fit = regress(x, y, w, Terms(np.array([0, 1, 1]), np.array([-1, 0, 1]), np.array([-1, -1, -1]), 2))
    z = (fit.coefficients - beta) / np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
    assert np.abs(z).max() < 4
    np.testing.assert_allclose(fit.dispersion, 1.0, atol=0.12)  # five standard errors, sqrt(2/4000) each
    over = regress(x, y + 5 * (rng.random((4000, 2)) < 0.5), w + 5, Terms(*(np.array(t) for t in ([0, 1, 1], [-1, 0, 1],
                   [-1, -1, -1])), 2))  # fmt: skip
    assert (over.dispersion > fit.dispersion).all()


def test_a_proportion_that_never_occurs_stays_finite():
    theta, mean, second = simulated_round(100, 4, 1)
    mean[:, 2, :] = 0
    second[:, 2] = 0
    fitted = fit_surface(theta, mean, second, PATIENTS)
    logits, v = evaluate(fitted, theta[:3])
    assert np.isfinite(np.asarray(logits)).all() and np.isfinite(np.asarray(v)).all()
    assert (np.asarray(probabilities(logits.reshape(3, 3, 6)))[:, 2, 1] < 1e-3).all()


def test_nested_counts_add_up(simulated):
    _, mean, second = simulated
    y, w = nested_counts(mean, second, PATIENTS)
    y, w = y.reshape(-1, 3, 6), w.reshape(-1, 3, 6)
    assert (y <= w).all() and (y >= 0).all()
    np.testing.assert_allclose(y[..., 2] + y[..., 3], PATIENTS * mean[..., 0], atol=1e-9)
    np.testing.assert_allclose(w[..., 2] + w[..., 3], PATIENTS * mean[..., 1], atol=1e-9)


def test_widening_keeps_the_mean_and_spreads():
    draws = np.random.default_rng(2).standard_normal((4000, 3)) @ np.diag([1.0, 2.0, 0.5]) + 5
    wide = widened(jax.random.key(0), draws, 3000)
    np.testing.assert_allclose(wide.mean(0), draws.mean(0), atol=0.1)
    np.testing.assert_allclose(wide.std(0), 1.25 * draws.std(0), rtol=0.05)
    assert len(np.unique(wide[:, 0])) == 3000
    assert widened(jax.random.key(0), draws[:10], 50).shape == (50, 3)


def test_bad_rounds(simulated):
    theta, mean, second = simulated
    with pytest.raises(InputError, match="a round needs theta"):
        fit_surface(theta, mean[:-1], second, PATIENTS)
    with pytest.raises(InputError, match="9 population vectors cannot carry a surface over 4 coordinates"):
        fit_surface(theta[:9], mean[:9], second[:9], PATIENTS)
    bad = mean.copy()
    bad[3, 0, 0] = np.nan
    with pytest.raises(InputError, match="mean: population vector 3 holds a number that is not finite"):
        fit_surface(theta, bad, second, PATIENTS)
    with pytest.raises(InputError, match="coordinate 2 does not vary"):
        fit_surface(theta * [1, 1, 0, 1], mean, second, PATIENTS)
    with pytest.raises(InputError, match="patients = 0"):
        fit_surface(theta, mean, second, 0)


def test_error_needs_independent_groups(surface, simulated):
    theta, mean, second = simulated
    with pytest.raises(InputError, match="groups >= 2"):
        surface_error(surface, theta, mean[None], second[None], N)
