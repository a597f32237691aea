"""Group-sequential boundaries against published tables, closed forms and simulated walks."""

import numpy as np
import pytest
from scipy import stats

from inference.whatif.boundaries import critical_values, exit_probabilities, nominal_levels, spent


def equal(k):
    return tuple((np.arange(1, k + 1) / k).tolist())


# Jennison and Turnbull 2000, tables 2.1 and 2.3: two-sided, equal steps; C of c_k = C, and of c_k = C sqrt(K/k).
POCOCK = {
    0.01: {1: 2.576, 2: 2.772, 3: 2.873, 4: 2.939, 5: 2.986},
    0.05: {1: 1.960, 2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555},
    0.10: {1: 1.645, 2: 1.875, 3: 1.992, 4: 2.067, 5: 2.122},
}
OBRIEN_FLEMING = {
    0.01: {1: 2.576, 2: 2.580, 3: 2.595, 4: 2.609, 5: 2.621},
    0.05: {1: 1.960, 2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 10: 2.087},
    0.10: {1: 1.645, 2: 1.678, 3: 1.710, 4: 1.733, 5: 1.751},
}


@pytest.mark.parametrize(("boundary", "cells"), [("pocock", POCOCK), ("obrien-fleming", OBRIEN_FLEMING)])
def test_classical_constants(boundary, cells):
    for alpha, row in cells.items():
        for k, constant in row.items():
            critical = critical_values(boundary, equal(k), alpha, 2)
            assert critical[-1] == pytest.approx(constant, abs=6e-4)
            steps = np.arange(1, k + 1)
            shape = np.ones(k) if boundary == "pocock" else np.sqrt(k / steps)
            np.testing.assert_allclose(critical, critical[-1] * shape, rtol=1e-12)


@pytest.mark.parametrize(
    ("boundary", "looks", "parameter", "published"),
    [  # one-sided 0.025, as gsDesign and rpact print them
        ("lan-demets-obrien-fleming", equal(5), None, [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]),
        ("lan-demets-pocock", equal(5), None, [2.4380, 2.4268, 2.4102, 2.3966, 2.3860]),
        ("hwang-shih-decani", equal(3), -4.0, [3.0107, 2.5465, 1.9992]),
    ],
)
def test_spending_boundaries_as_other_software_prints_them(boundary, looks, parameter, published):
    np.testing.assert_allclose(critical_values(boundary, looks, 0.025, 1, parameter), published, atol=1e-4)


def test_two_looks_are_a_bivariate_normal_probability():
    """P(|Z_1| < c_1, |Z_2| < c_2) with correlation sqrt(t_1/t_2), by SciPy's own integration."""
    t, c = 0.37, (2.3, 2.05)
    law = stats.multivariate_normal([0, 0], [[1, np.sqrt(t)], [np.sqrt(t), 1]], abseps=1e-10, releps=1e-10)
    inside = law.cdf(np.array(c), lower_limit=-np.array(c))
    found = exit_probabilities(c, (t, 1.0), 2)
    assert 1 - found.sum() == pytest.approx(inside, abs=1e-7)
    assert found[0] == pytest.approx(2 * stats.norm.sf(c[0]), abs=1e-12)
    drift = 1.7
    law = stats.multivariate_normal([drift * np.sqrt(t), drift], [[1, np.sqrt(t)], [np.sqrt(t), 1]])
    assert 1 - exit_probabilities(c, (t, 1.0), 1, drift).sum() == pytest.approx(law.cdf(np.array(c)), abs=1e-6)


SPENDING = [
    ("lan-demets-obrien-fleming", None),
    ("lan-demets-pocock", None),
    ("power-family", 0.5),
    ("power-family", 3.0),
    ("hwang-shih-decani", -4.0),
    ("hwang-shih-decani", 0.0),
    ("hwang-shih-decani", 2.0),
]


@pytest.mark.parametrize(("boundary", "parameter"), SPENDING)
@pytest.mark.parametrize("sided", [1, 2])
@pytest.mark.parametrize("looks", [equal(4), (0.1, 0.15, 0.7, 0.99, 1.0)])
def test_spending_functions_spend_exactly_alpha(boundary, parameter, sided, looks):
    critical = critical_values(boundary, looks, 0.05, sided, parameter)
    used = np.cumsum(exit_probabilities(critical, looks, sided))
    np.testing.assert_allclose(used, spent(boundary, np.array(looks), 0.05, sided, parameter), atol=1e-9)
    assert used[-1] == pytest.approx(0.05, abs=1e-9)


def test_many_looks_close_together_stay_exact():
    """Twenty looks, and three within a hundredth of the information: errors of the integral do not add up."""
    for looks in (equal(20), (0.5, 0.505, 0.51, 1.0)):
        critical = critical_values("lan-demets-pocock", looks, 0.05, 2)
        assert exit_probabilities(critical, looks, 2).sum() == pytest.approx(0.05, abs=1e-8)
        fixed = exit_probabilities([1.959963984540054] * len(looks), looks, 2)
        assert fixed[0] == pytest.approx(0.05, abs=1e-9) and (fixed > 0).all() and fixed.sum() < 0.3


def test_nothing_spent_yet_is_no_boundary():
    critical = critical_values("lan-demets-obrien-fleming", (0.01, 1.0), 0.05, 2)
    assert critical[0] == 9 and critical[1] == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize("sided", [1, 2])
@pytest.mark.parametrize("boundary", ["pocock", "obrien-fleming", "lan-demets-obrien-fleming", "lan-demets-pocock"])
def test_type_1_error_of_simulated_walks(boundary, sided):
    """300,000 Brownian motions: the error at each look and in all, within 3 standard errors."""
    looks, n, alpha = (0.3, 0.5, 0.8, 1.0), 300_000, 0.05
    rng = np.random.default_rng(4)
    z = np.cumsum(rng.normal(0, np.sqrt(np.diff(looks, prepend=0)), (n, 4)), axis=1) / np.sqrt(looks)
    p = sided * stats.norm.sf(np.abs(z) if sided == 2 else z)
    critical = critical_values(boundary, looks, alpha, sided)
    crossed = p <= nominal_levels(critical, sided)
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), 4)
    expected = exit_probabilities(critical, looks, sided)
    for k in range(4):
        se = np.sqrt(expected[k] / n)
        assert (first == k).mean() == pytest.approx(expected[k], abs=3 * se + 1e-12)
    assert crossed.any(axis=1).mean() == pytest.approx(alpha, abs=3 * np.sqrt(alpha * (1 - alpha) / n))


@pytest.mark.parametrize(("boundary", "inflation"), [("pocock", 1.229), ("obrien-fleming", 1.028)])
def test_power_at_the_published_sample_size(boundary, inflation):
    """Jennison and Turnbull 2000, tables 2.2 and 2.4: K = 5, 0.05, 80% power needs this much more than one look."""
    one_look = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    critical = critical_values(boundary, equal(5), 0.05, 2)
    found = exit_probabilities(critical, equal(5), 2, one_look * np.sqrt(inflation)).sum()
    assert found == pytest.approx(0.8, abs=4e-4)
