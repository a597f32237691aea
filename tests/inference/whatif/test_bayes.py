"""The posterior probability of a difference against quadrature, closed forms and simulation."""

import itertools

import numpy as np
import pytest
from scipy import integrate, special, stats

from inference.whatif.bayes import posterior_probability


def one(y, n, y0, n0, margin=0.0, a=1.0, b=1.0):
    return float(posterior_probability(np.array([y]), n, np.array([y0]), n0, margin, a, b)[0])


def closed_form(a, b, a0, b0):
    """P(p > p0) of beta laws with a whole-numbered a: a sum over a."""
    i = np.arange(a)
    terms = special.betaln(a0 + i, b + b0) - np.log(b + i) - special.betaln(1 + i, b) - special.betaln(a0, b0)
    return float(np.exp(terms).sum())


@pytest.mark.parametrize(("y", "n", "y0", "n0"), [(0, 6, 0, 6), (3, 6, 1, 5), (20, 40, 11, 40), (110, 171, 5, 85)])
@pytest.mark.parametrize("b", [1.0, 0.5])
def test_closed_form_at_margin_0(y, n, y0, n0, b):
    assert one(y, n, y0, n0, b=b) == pytest.approx(closed_form(1 + y, b + n - y, 1 + y0, b + n0 - y0), abs=1e-10)


@pytest.mark.parametrize("margin", [-0.2, -0.05, 0.1, 0.3])
@pytest.mark.parametrize("prior", [(1.0, 1.0), (2.5, 0.7)])
@pytest.mark.parametrize(("y", "n", "y0", "n0"), [(3, 6, 1, 5), (20, 40, 11, 40), (6, 6, 0, 6)])
def test_scipys_quadrature_at_a_margin(y, n, y0, n0, prior, margin):
    a, b = prior
    treated, control = stats.beta(a + y, b + n - y), stats.beta(a + y0, b + n0 - y0)
    inside = sorted({0.0, 1.0, max(margin, 0.0), min(1 + margin, 1.0), treated.mean(), 0.9999})
    found = sum(
        integrate.quad(lambda x: treated.pdf(x) * control.cdf(x - margin), low, high, epsabs=1e-12, limit=200)[0]
        for low, high in itertools.pairwise(inside)
    )
    assert one(y, n, y0, n0, margin, a, b) == pytest.approx(found, abs=1e-9)


def test_priors_that_rise_at_the_edges():
    """Jeffreys' prior and no response at all, where densities are infinite: by symmetry one half, and by simulation."""
    assert one(0, 8, 0, 8, a=0.5, b=0.5) == pytest.approx(0.5, abs=1e-9)
    rng = np.random.default_rng(1)
    n = 400_000
    drawn = rng.beta(0.5, 8.5, n) - rng.beta(2.5, 6.5, n) > -0.1
    assert one(0, 8, 2, 8, -0.1, 0.5, 0.5) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(n))


def test_large_and_unequal_arms():
    """Near the normal law, also where one posterior is a thousand times narrower than the other."""
    for y, n, y0, n0, margin in (
        (5050, 10_000, 4900, 10_000, 0.0),
        (6, 10, 500_000, 10**6, 0.0),
        (500, 1000, 3, 9, 0.1),
    ):
        treated, control = stats.beta(1 + y, 1 + n - y), stats.beta(1 + y0, 1 + n0 - y0)
        found = one(y, n, y0, n0, margin)
        if n == n0:
            z = (treated.mean() - control.mean() - margin) / np.hypot(treated.std(), control.std())
            assert found == pytest.approx(stats.norm.cdf(z), abs=1e-4)
        elif n0 > n:
            assert found == pytest.approx(treated.sf(control.mean()), abs=1e-5)
        else:
            assert found == pytest.approx(control.cdf(treated.mean() - margin), abs=1e-3)


def test_tables_in_batches(monkeypatch):
    y, y0 = (x.ravel() for x in np.meshgrid(np.arange(7), np.arange(6)))
    whole = posterior_probability(y, 6, y0, 5, 0.1, 1.0, 1.0)
    monkeypatch.setattr("inference.whatif.bayes.ROWS", 10)
    assert np.array_equal(posterior_probability(y, 6, y0, 5, 0.1, 1.0, 1.0), whole)


def test_many_tables_at_once_and_complements():
    y, y0 = (x.ravel() for x in np.meshgrid(np.arange(13), np.arange(10)))
    p = posterior_probability(y, 12, y0, 9, 0.1, 1.0, 1.0)
    assert p.shape == y.shape and [one(int(y[i]), 12, int(y0[i]), 9, 0.1) for i in (0, 50, 129)] == [*p[[0, 50, 129]]]
    np.testing.assert_allclose(p + posterior_probability(y0, 9, y, 12, -0.1, 1.0, 1.0), 1, atol=1e-10)
    grid = p.reshape(10, 13)
    assert (np.diff(grid, axis=1) > 0).all() and (np.diff(grid, axis=0) < 0).all()
