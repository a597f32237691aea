"""The estimate of the direct route is right on average over its cohorts, which smoothed likelihoods are not."""

from __future__ import annotations

import conjugate
import jax
import numpy as np
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from inference import correction, direct
from inference.arms import ArmData, arrays
from inference.further import FurtherMoments
from inference.surface import nested_counts

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@given(
    st.lists(st.floats(-2.0, 2.0), min_size=2, max_size=2),
    st.floats(0.2, 3.0),
    st.floats(-0.9, 0.9),
    st.floats(0.05, 0.4),
    st.floats(-0.8, 0.8),
)
@settings(deadline=None, derandomize=True)
def test_of_a_gaussian_likelihood_the_mean_over_the_noise_is_the_likelihood(at, h, tilt, noise, together):
    """Two logits, by quadrature; noise up to 0.4 of the sampling variance."""
    information = np.array([[h, tilt * h / 2], [tilt * h / 2, h]])
    covariance = noise / (h * 2) * np.array([[1.0, together], [together, 1.0]])
    root = np.linalg.cholesky(covariance)
    grid = np.stack(np.meshgrid(NODES, NODES), axis=-1).reshape(-1, 2)
    x = np.array(at) + grid @ root.T
    score = -x @ information
    value = 0.5 * (x * score).sum(axis=1)
    found = direct.debiased(
        value, score, np.broadcast_to(information, (len(x), 2, 2)), np.broadcast_to(root, (len(x), 2, 2))
    )
    exact = -0.5 * np.array(at) @ information @ np.array(at)
    np.testing.assert_allclose(logsumexp(found, b=np.outer(WEIGHTS, WEIGHTS).ravel()), exact, atol=1e-6)


def test_a_likelihood_far_too_noisy_to_mend_stays_finite():
    found = direct.debiased(np.zeros(1), np.full((1, 1), 3.0), np.full((1, 1, 1), 50.0), np.ones((1, 1, 1)))
    assert np.isfinite(found).all()


def binomial(rate: np.ndarray, patients: int) -> np.ndarray:
    """The estimate for the counts of ``conjugate`` at the rates of cohorts."""
    n, k = conjugate.N, conjugate.K
    value = conjugate.beta_binomial_log_likelihood(np.log(rate / (1 - rate))[:, None])
    score, information = k - n * rate, n * rate * (1 - rate)
    sd = 1 / np.sqrt((patients + 1) * rate * (1 - rate))
    return direct.debiased(value, score[:, None], information[:, None, None], sd[:, None, None])


def test_a_beta_binomial_with_cohorts_of_ten_times_the_trial():
    """Exact sums over cohorts: with the plain likelihood the posterior is too wide, with this one it is right."""
    patients, exact = 10 * conjugate.N, conjugate.beta_binomial()
    smoothed = conjugate.expected_by_cohort(patients)
    rate = (np.arange(patients + 1) + 0.5) / (patients + 1)
    mended = conjugate.expected_by_cohort(patients, np.exp(binomial(rate, patients)))
    assert smoothed.sd / exact.sd - 1 > 0.03 and abs(mended.sd / exact.sd - 1) < 0.004
    assert abs(smoothed.mean - exact.mean) > 0.025 * exact.sd > 10 * abs(mended.mean - exact.mean)
    assert abs(mended.log_evidence - exact.log_evidence) < 0.01


def test_a_trial_of_three_arms_whose_cohorts_share_patients():
    """Mean of the estimate over 300 cohorts of ten times the trial, against the likelihood at the exact rates."""
    n, patients, cohorts = np.array([168, 171, 85]), 1710, 300
    theta, rng = np.zeros((1, 4)), np.random.default_rng(3)
    mean, both = toy.truth(theta)
    second = np.zeros((1, 3, 5, 5))
    second[:, :, 0, 2] = both  # all that the nested proportions need
    y, w = nested_counts(mean, second, 1.0)
    exact = seen(theta, 50, 4000, rng)
    exact = exact._replace(logits=np.log(y / (w - y)), variances=np.full_like(exact.logits, 1e-12))
    counts = np.rint(n[:, None] * mean[0]).astype(int)
    data, rows = arrays(ArmData(toy.ARMS, n, counts), int(n.max()) + 1), np.arange(3)
    root = direct.noise_root(seen(theta, 300, 171, rng))
    (truth,) = direct.estimated(exact, root, rows, data)

    many = seen(np.repeat(theta, cohorts, axis=0), 2, patients // 2, rng)
    found = direct.estimated(many, root, rows, data)
    z = correction.normals(jax.random.key(0), many.logits.shape[1])
    twice = correction.marginal(many.logits, many.variances, many.correlation, many.rho, rows, data, z)

    error = np.exp(found - truth).std() / np.sqrt(cohorts)
    assert abs(np.exp(found - truth).mean() - 1) < 3 * error < 0.3
    assert np.exp(twice - truth).mean() < 0.6  # the covariance integrated over: smoothed twice


def seen(theta, groups, patients, rng):
    """What so many independent groups say, each of so many patients."""
    each = [toy.simulate(theta, patients, rng) for _ in range(groups)]
    mean, second = (np.stack(x) for x in zip(*each, strict=True))
    none = np.zeros((groups, len(theta), 0))
    return correction.seen_in(mean, second, FurtherMoments(none, none, none[..., None]), groups * patients)
