"""Tests of two arms against SciPy and statsmodels, table by table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.proportion import test_proportions_2indep as proportions_test

from inference.whatif import two_by_two

N, N0 = 9, 6
Y, Y0 = (x.ravel() for x in np.meshgrid(np.arange(N + 1), np.arange(N0 + 1), indexing="ij"))


@pytest.mark.parametrize("sided", [1, 2])
def test_fisher_is_scipys_on_every_table(sided):
    p = two_by_two.fisher(Y, N, Y0, N0, sided)
    alternative = "greater" if sided == 1 else "two-sided"
    oracle = [
        stats.fisher_exact([[a, N - a], [b, N0 - b]], alternative=alternative).pvalue
        for a, b in zip(Y, Y0, strict=True)
    ]
    np.testing.assert_allclose(p, oracle, rtol=1e-9)


def test_fisher_of_large_arms():
    for y, n, y0, n0 in ((99, 168, 5, 85), (500, 1000, 450, 1100), (3, 4000, 12, 4000)):
        oracle = stats.fisher_exact([[y, n - y], [y0, n0 - y0]]).pvalue
        assert two_by_two.fisher(np.array([y]), n, np.array([y0]), n0, 2)[0] == pytest.approx(oracle, rel=1e-8)


def test_mantel_haenszel_of_strata_is_statsmodels():
    """Three strata of unequal sizes, one of them without any response in some trials."""
    rng = np.random.default_rng(1)
    n, n0 = np.array([12, 5, 30]), np.array([9, 6, 28])
    y, y0 = rng.binomial(n, [0.5, 0.1, 0.7], (40, 3)), rng.binomial(n0, [0.4, 0.1, 0.5], (40, 3))
    z = two_by_two.cochran_mantel_haenszel(y, n, y0, n0)
    for i in range(40):
        tables = [np.array([[y[i, s], n[s] - y[i, s]], [y0[i, s], n0[s] - y0[i, s]]]) for s in range(3)]
        oracle = StratifiedTable(tables).test_null_odds(correction=False)
        assert z[i] ** 2 == pytest.approx(oracle.statistic, rel=1e-9)
    assert (two_by_two.cochran_mantel_haenszel(y0, n0, y, n) == pytest.approx(-z)) and np.ptp(z) > 1


def plain_score(y, n, y0, n0, margin, correction):
    """z by its definition: the root of the derivative of the log likelihood under the null, then the variance there.

    statsmodels (0.15) is no oracle away from margin 0: its cubic has a wrong coefficient (statsmodels issue 10269).
    """

    def slope(x):
        return y / (x + margin) - (n - y) / (1 - x - margin) + y0 / x - (n0 - y0) / (1 - x)

    low, high = max(0.0, -margin), min(1.0, 1 - margin)
    x = optimize.brentq(slope, low + 1e-13, high - 1e-13, xtol=1e-15, rtol=1e-14)
    variance = (x + margin) * (1 - x - margin) / n + x * (1 - x) / n0
    if correction:
        variance *= (n + n0) / (n + n0 - 1)
    return (y / n - y0 / n0 - margin) / variance**0.5


@pytest.mark.parametrize("margin", [-0.3, -0.1, 0.0, 0.05, 0.4])
@pytest.mark.parametrize("correction", [False, True])
def test_score_at_a_margin_is_its_definition(margin, correction):
    inside = (Y > 0) & (Y < N) & (Y0 > 0) & (Y0 < N0)
    y, y0 = Y[inside], Y0[inside]
    z = two_by_two.score(y, N, y0, N0, margin, correction)
    oracle = [plain_score(a, N, b, N0, margin, correction) for a, b in zip(y.tolist(), y0.tolist(), strict=True)]
    np.testing.assert_allclose(z, oracle, atol=1e-8)


@pytest.mark.parametrize("correction", [False, True])
def test_score_of_no_difference_is_statsmodels(correction):
    inside = (Y > 0) & (Y < N) & (Y0 > 0) & (Y0 < N0)
    z = two_by_two.score(Y[inside], N, Y0[inside], N0, 0.0, correction)
    options = {"method": "score", "compare": "diff", "correction": correction}
    oracle = [
        proportions_test(int(a), N, int(b), N0, **options).statistic for a, b in zip(Y[inside], Y0[inside], strict=True)
    ]
    np.testing.assert_allclose(z, oracle, atol=1e-9)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.floats(-0.95, 0.95))
def test_the_null_rate_has_the_largest_likelihood(n, n0, share, share0, margin):
    """On a grid of all legal rates of the control, extremes and empty cells included."""
    y, y0 = round(share * n), round(share0 * n0)
    low, high = max(0.0, -margin), min(1.0, 1 - margin)
    found = float(two_by_two.control_rate_under_null(np.array(y), n, np.array(y0), n0, margin))
    assert low <= found <= high

    def log_likelihood(x):
        return stats.binom.logpmf(y, n, np.clip(x + margin, 0, 1)) + stats.binom.logpmf(y0, n0, x)

    assert log_likelihood(found) >= log_likelihood(np.linspace(low, high, 401)).max() - 1e-6


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(2, 60), st.integers(2, 60), st.floats(0, 1), st.floats(0, 1))
def test_the_score_falls_with_the_margin_and_turns_with_the_arms(n, n0, share, share0):
    y, y0 = np.array(round(share * n)), np.array(round(share0 * n0))
    margins = np.linspace(-0.99, 0.99, 67)
    z = np.array([two_by_two.score(y, n, y0, n0, m) for m in margins])
    assert (np.diff(z) <= 1e-6).all()
    turned = np.array([two_by_two.score(y0, n0, y, n, -m) for m in margins])
    np.testing.assert_allclose(z, -turned, atol=1e-6)


def test_where_nothing_varies_the_null_of_no_difference_stands():
    for y, y0 in ((0, 0), (N, N0)):
        for test in ("cochran-mantel-haenszel", "risk-difference", "fisher"):
            assert two_by_two.p_values(test, [y], N, [y0], N0, 2)[0] == 1


def test_non_inferiority_is_shown_by_equal_arms_that_are_large_enough():
    """60% of 400 and of 400 rule out a deficit of 10 points (by hand: z about 0.1/sqrt(2 0.6 0.4/400) = 2.89)."""
    p = two_by_two.p_values("risk-difference", [240], 400, [240], 400, 1, -0.1)[0]
    assert p == pytest.approx(stats.norm.sf(2.89), rel=0.1) and p < 0.0025
    assert two_by_two.p_values("risk-difference", [24], 40, [24], 40, 1, -0.1)[0] > 0.1
    assert two_by_two.p_values("risk-difference", [240], 400, [240], 400, 1, 0.1)[0] > 0.99
