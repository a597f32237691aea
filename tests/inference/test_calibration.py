"""Ranks, p-value and envelope: against exact counts and another implementation; a toy that is right, and wrong."""

from __future__ import annotations

from itertools import product

import jax
import numpy as np
import pytest
from arviz_stats import ecdf_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from inference import calibration
from pkpd.errors import InputError

DRAWS = 99


def uniform(rng, n, draws=DRAWS):
    return rng.integers(0, draws + 1, n)


def test_rank_counts_the_draws_below():
    draws = np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 4.0]])
    assert calibration.ranks(jax.random.key(0), np.array([2.5, 0.0]), draws).tolist() == [2, 0]
    assert calibration.ranks(jax.random.key(0), 9.0, draws[:, 0]) == 3


def test_ties_are_broken_at_random_by_the_key():
    truth, draws = np.zeros(4000), np.concatenate([np.zeros((3, 4000)), np.ones((2, 4000))])
    found = calibration.ranks(jax.random.key(1), truth, draws)
    np.testing.assert_array_equal(found, calibration.ranks(jax.random.key(1), truth, draws))
    assert not np.array_equal(found, calibration.ranks(jax.random.key(2), truth, draws))
    counts = np.bincount(found, minlength=6)
    assert counts[4:].sum() == 0 and (np.abs(counts[:4] - 1000) < 5 * np.sqrt(750)).all()


@pytest.mark.parametrize("truth, draw", [(np.nan, 0.0), (0.0, np.inf)])
def test_what_is_no_number_has_no_rank(truth, draw):
    with pytest.raises(InputError, match="not finite"):
        calibration.ranks(jax.random.key(0), truth, np.array([draw, 1.0]))


def test_ranks_outside_are_refused():
    with pytest.raises(InputError, match="between 0 and 9"):
        calibration.uniformity(np.array([3, 10]), 9)
    with pytest.raises(InputError, match="there must be ranks"):
        calibration.uniformity(np.array([], int), 9)


def test_probability_of_a_band_by_counting_all_samples():
    """4 ranks on 0 ... 3: 256 samples, equally likely."""
    lower, upper = np.array([0, 1, 2]), np.array([2, 3, 4])
    samples = np.array(list(product(range(4), repeat=4)))
    R = np.stack([calibration.below(s, 3) for s in samples])
    counted = ((R >= lower) & (R <= upper)).all(axis=1).mean()
    assert calibration.inside_probability(lower, upper, 4) == pytest.approx(counted, rel=1e-12)


def test_p_value_by_counting_all_samples():
    samples = np.array(list(product(range(4), repeat=4)))
    at = np.arange(1, 4) / 4

    def least(s):
        R = calibration.below(s, 3)
        return min(binom.cdf(R, 4, at).min(), binom.sf(R - 1, 4, at).min())

    T = np.array([least(s) for s in samples])
    for s, own in zip(samples[::17], T[::17], strict=True):
        assert calibration.uniformity(s, 3) == pytest.approx((own * (1 + 1e-12) >= T).mean(), abs=1e-12)


def test_uniform_ranks_pass_at_the_nominal_rate():
    rng = np.random.default_rng(0)
    p = np.array([calibration.uniformity(uniform(rng, 200), DRAWS) for _ in range(1000)])
    for level in (0.01, 0.05, 0.2, 0.5):
        # never more often than that, and little less: T is discrete
        share = (p <= level).mean()
        assert level - 0.02 - 4 * np.sqrt(level / 1000) < share < level + 4 * np.sqrt(level / 1000)


@pytest.mark.parametrize("n, level", [(30, 0.99), (200, 0.99), (200, 0.9)])
def test_the_envelope_holds_the_whole_ecdf_as_often_as_it_says(n, level):
    band = calibration.envelope(n, DRAWS, level)
    exact = calibration.inside_probability(band.lower, band.upper, n)
    assert level <= exact < level + 0.01
    rng = np.random.default_rng(1)
    held = np.mean([calibration.inside(uniform(rng, n), band) for _ in range(2000)])
    assert abs(held - exact) < 4 * np.sqrt(exact * (1 - exact) / 2000)


def test_the_envelope_agrees_with_arviz():
    """ArviZ finds the pointwise level by simulation."""
    n, at = 200, np.arange(1, DRAWS + 1) / (DRAWS + 1)
    band = calibration.envelope(n, DRAWS)
    pointwise = ecdf_utils.simulate_confidence_bands(n, 1, at, 0.99, 1500, np.random.default_rng(2))
    lower, upper = ecdf_utils.get_pointwise_confidence_band(pointwise, n, at)
    assert np.abs(band.lower / n - lower).max() <= 3 / n
    assert np.abs(band.upper / n - upper).max() <= 3 / n


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.integers(0, 10**6), st.integers(5, 120), st.floats(0.4, 2.5))
def test_outside_the_envelope_exactly_where_p_is_small(seed, n, power):
    """Over ranks from uniform to far from it."""
    ranks = (np.random.default_rng(seed).random(n) ** power * (DRAWS + 1)).astype(int)
    band = calibration.envelope(n, DRAWS, 0.99)
    assert calibration.inside(ranks, band) == (calibration.uniformity(ranks, DRAWS) > 0.01)


def test_ranks_that_are_not_uniform_fail():
    rng = np.random.default_rng(3)
    truth, draws = rng.standard_normal(200), rng.standard_normal((DRAWS, 200))
    key = jax.random.key(0)
    for wrong in (draws + 0.5, 0.6 * draws, 1.7 * draws):  # shifted, too narrow, too wide
        assert calibration.uniformity(calibration.ranks(key, truth, wrong), DRAWS) < 1e-3
    assert calibration.uniformity(calibration.ranks(key, truth, draws), DRAWS) > 0.01


def conjugate(n, *, prior_counted=1, data_used=True):
    """Ranks of mean, log prior density and log likelihood: mu ~ N(0, 1), three data y ~ N(mu, 1), n data sets."""
    rng = np.random.default_rng(4)
    mu = rng.standard_normal(n)
    total = 3 * mu + np.sqrt(3.0) * rng.standard_normal(n)
    precision = prior_counted + 3 * data_used
    draws = total * data_used / precision + rng.standard_normal((DRAWS, n)) / np.sqrt(precision)
    quantities = {
        "mean": lambda m: m,
        "log prior": lambda m: -(m**2),
        "log likelihood": lambda m: total * m - 1.5 * m**2,
    }
    key = jax.random.key(5)
    return {q: calibration.uniformity(calibration.ranks(key, f(mu), f(draws)), DRAWS) for q, f in quantities.items()}


def test_a_conjugate_fit_is_calibrated():
    assert min(calibration.holm(conjugate(300)).values()) > 0.01


def test_wrong_conjugate_fits_are_told_by_the_quantity_that_knows():
    assert conjugate(300, prior_counted=3)["log prior"] < 1e-3
    ignored = conjugate(300, data_used=False)  # the prior for a posterior: parameters cannot tell
    assert ignored["mean"] > 0.01 and ignored["log prior"] > 0.01 and ignored["log likelihood"] < 1e-3


def test_holm():
    assert calibration.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert calibration.holm({}) == {}
