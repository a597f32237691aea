"""Intervals of a risk difference against statsmodels, their definitions and published examples; their edges."""

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.proportion import confint_proportions_2indep

from inference.whatif import intervals, two_by_two
from tests.inference.whatif.test_two_by_two import plain_score

SIZES = [(6, 6), (12, 9), (40, 40), (171, 85)]


def tables(n, n0, edges):
    y = np.unique(np.linspace(0 if edges else 1, n if edges else n - 1, 6).astype(int))
    y0 = np.unique(np.linspace(0 if edges else 1, n0 if edges else n0 - 1, 5).astype(int))
    return (x.ravel() for x in np.meshgrid(y, y0))


@pytest.mark.parametrize(("n", "n0"), SIZES)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_newcombe_is_statsmodels(n, n0, confidence):
    y, y0 = tables(n, n0, edges=True)
    low, high = intervals.newcombe(y, n, y0, n0, confidence)
    for i, (a, b) in enumerate(zip(y, y0, strict=True)):
        oracle = confint_proportions_2indep(
            int(a), n, int(b), n0, method="newcomb", compare="diff", alpha=1 - confidence
        )
        np.testing.assert_allclose((low[i], high[i]), oracle, atol=1e-8)


def passes(margin, y, n, y0, n0, level):
    return plain_score(y, n, y0, n0, margin, True) - level


@pytest.mark.parametrize(("n", "n0"), SIZES)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_miettinen_nurminen_is_the_inverted_test(n, n0, confidence):
    """By Brent's method on a plain score test; statsmodels' own is wrong here (its issue 10269)."""
    y, y0 = tables(n, n0, edges=False)
    low, high = intervals.miettinen_nurminen(y, n, y0, n0, confidence)
    z = stats.norm.isf((1 - confidence) / 2)
    for i, (a, b) in enumerate(zip(y.tolist(), y0.tolist(), strict=True)):
        d = a / n - b / n0
        bounds = [
            optimize.brentq(passes, *between, args=(a, n, b, n0, level), xtol=1e-13)
            for level, between in ((z, (-1 + 1e-9, d)), (-z, (d, 1 - 1e-9)))
        ]
        np.testing.assert_allclose((low[i], high[i]), bounds, atol=1e-8)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((56, 70, 48, 80), [0.0524, 0.3339]),
        ((9, 10, 3, 10), [0.1705, 0.8090]),
        ((6, 7, 2, 7), [0.0582, 0.8062]),
        ((5, 56, 0, 29), [-0.0381, 0.1926]),
    ],
)
def test_newcombes_published_examples(table, expected):
    """Newcombe 1998, table II, method 10."""
    y, n, y0, n0 = table
    found = np.concatenate(intervals.newcombe(np.array([y]), n, np.array([y0]), n0, 0.95))
    np.testing.assert_allclose(found, expected, atol=6e-5)


def test_miettinen_and_nurminen_as_published():
    """56 of 70 against 48 of 80 in the same table, method 6."""
    found = np.concatenate(intervals.miettinen_nurminen(np.array([56]), 70, np.array([48]), 80, 0.95))
    np.testing.assert_allclose(found, [0.0528, 0.3382], atol=6e-5)


@pytest.mark.parametrize("name", intervals.INTERVALS)
def test_edges_and_symmetry(name):
    """Extreme tables have proper intervals, arms that change places turn it around, more confidence widens it."""
    n, n0 = 10, 7
    y, y0 = tables(n, n0, edges=True)
    low, high = intervals.INTERVALS[name](y, n, y0, n0, 0.95)
    difference = y / n - y0 / n0
    assert (low >= -1).all() and (high <= 1).all() and (low < high).all()
    assert (low <= difference + 1e-12).all() and (difference <= high + 1e-12).all()
    low0, high0 = intervals.INTERVALS[name](y0, n0, y, n, 0.95)
    np.testing.assert_allclose((low, high), (-high0, -low0), atol=1e-9)
    wider = intervals.INTERVALS[name](y, n, y0, n0, 0.99)
    assert (wider[0] <= low).all() and (wider[1] >= high).all()


def test_miettinen_nurminen_holds_what_its_test_keeps():
    n, n0 = 12, 9
    y, y0 = tables(n, n0, edges=True)
    low, high = intervals.miettinen_nurminen(y, n, y0, n0, 0.95)
    for margin in np.linspace(-0.95, 0.95, 39):
        kept = np.abs(two_by_two.score(y, n, y0, n0, margin, correction=True)) < 1.959963984540054
        assert ((low < margin) & (margin < high)).tolist() == kept.tolist()
