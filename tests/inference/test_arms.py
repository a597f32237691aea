"""The joint law of an arm's counts: against enumeration, SciPy, the normal law and its own samples; bad tables."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import toy
from scipy.special import expit, logit
from scipy.stats import binom

from inference.arms import (
    ArmData,
    arrays,
    association,
    by_arm,
    from_table,
    log_likelihood,
    log_likelihood_normal,
    log_probabilities,
    probabilities,
    sample_counts,
)
from pkpd.endpoints import NAMES
from pkpd.errors import InputError

LOGITS = np.array([1.2, -0.4, 2.0, -0.7, 1.5, -1.1])
RHO = np.array(
    [
        [1.0, 0.5, 0.4, 0.4, -0.3],
        [0.5, 1.0, 0.3, 0.7, -0.4],
        [0.4, 0.3, 1.0, 0.2, -0.2],
        [0.4, 0.7, 0.2, 1.0, -0.3],
        [-0.3, -0.4, -0.2, -0.3, 1.0],
    ]
)


def one_arm(counts, n):
    return ArmData(("arm",), np.array([n]), np.array([counts]))


def log_law(logits, counts, n, rho=RHO):
    return log_likelihood(jnp.asarray(logits)[None], arrays(one_arm(counts, n)), association(rho[None]))[0]


def cells(logits):
    """Probabilities of: no response; response without 75%, without and with week 8; 75% without and with week 8."""
    p = expit(logits)
    any_, p75, at75, not75 = p[:4]
    return np.array(
        [1 - any_, any_ * (1 - p75) * (1 - not75), any_ * (1 - p75) * not75, any_ * p75 * (1 - at75), any_ * p75 * at75]
    )


def nested_by_enumeration(logits, n):
    """P(week 8, any, 75) by summing over every allocation of n patients to the five cells."""
    law, p = {}, cells(logits)
    for k in itertools.product(range(n + 1), repeat=4):
        if sum(k) > n:
            continue
        rest, (a, b, c, d) = n - sum(k), k
        ways = math.factorial(n) / math.prod(math.factorial(x) for x in (rest, a, b, c, d))
        counts = (b + d, n - rest, c + d)
        law[counts] = law.get(counts, 0.0) + ways * math.prod(float(q) ** x for q, x in zip(p, (rest, *k), strict=True))
    return law


def test_probabilities_of_the_events():
    p0, _, p2, p3, p4 = cells(LOGITS)
    expected = [p2 + p4, 1 - p0, p3 + p4, expit(LOGITS[4]), expit(LOGITS[5])]
    np.testing.assert_allclose(probabilities(jnp.asarray(LOGITS)), expected, rtol=1e-12)
    log_p, log_q = log_probabilities(jnp.asarray(LOGITS))
    np.testing.assert_allclose(jnp.exp(log_p) + jnp.exp(log_q), 1, rtol=1e-12)


def test_nested_counts_follow_the_enumerated_law():
    # Summed over the lattice of the two other counts, what is left is the law of the three nested ones; a lattice
    # sum of a normal density of variance 0.45 is 1 to within 2 exp(-2 pi^2 0.45) = 3e-4.
    n = 5
    outer = jnp.asarray(list(itertools.product(range(-15, 21), repeat=2)), jnp.float64)
    link = association(RHO[None])

    @jax.jit
    def total(table):
        def law(pair):
            counts = table.counts.at[0, 3:].set(pair)
            return log_likelihood(jnp.asarray(LOGITS)[None], table._replace(counts=counts), link)[0]

        return jnp.exp(jax.vmap(law)(outer)).sum()

    for (y8, y_any, y75), expected in nested_by_enumeration(LOGITS, n).items():
        table = arrays(one_arm((y8, y_any, y75, 0, 0), n), n + 1)
        assert float(total(table)) == pytest.approx(expected, rel=1e-3)


def test_the_nested_law_is_complete():
    assert sum(nested_by_enumeration(LOGITS, 4).values()) == pytest.approx(1.0, rel=1e-12)


def test_uncorrelated_counts_are_binomials_and_normals():
    # rho = identity for the outer two: any is scipy's binomial, the outer ones normal with the unit cell added
    n, counts = 40, (0, 17, 0, 21, 6)
    logits = np.array([-0.3, -40.0, 0.0, -40.0, 0.2, -1.5])
    expected = binom.logpmf(17, n, expit(-0.3))
    for y, lo in ((21, 0.2), (6, -1.5)):
        variance = n * expit(lo) * expit(-lo) + 1 / 12
        expected += -0.5 * ((y - n * expit(lo)) ** 2 / variance + math.log(2 * math.pi * variance))
    assert float(log_law(logits, counts, n, np.eye(5))) == pytest.approx(expected, rel=1e-10)


def test_gradient_matches_differences():
    counts, n = (99, 142, 55, 147, 22), 168
    logits = logit(np.array([0.82, 0.4, 0.85, 0.5, 0.86, 0.12]))
    gradient = jax.grad(lambda lo: log_law(lo, counts, n))(jnp.asarray(logits))
    for j in range(6):
        step = 1e-5 * np.eye(6)[j]
        slope = (log_law(logits + step, counts, n) - log_law(logits - step, counts, n)) / 2e-5
        assert float(gradient[j]) == pytest.approx(float(slope), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("size", [-700.0, -60.0, 60.0, 700.0])
@pytest.mark.parametrize("counts", [(0, 0, 0, 0, 0), (2, 19, 2, 24, 3), (85, 85, 85, 85, 0)])
def test_stays_finite_at_the_ends(size, counts):
    value, gradient = jax.value_and_grad(lambda lo: log_law(lo, counts, 85))(jnp.full(6, size))
    assert np.isfinite(float(value))
    assert np.isfinite(np.asarray(gradient)).all()


def test_does_not_grow_without_bound_where_nothing_is_expected():
    # A plain normal density of zero rescues would become infinite as its probability vanishes.
    values = [float(log_law(np.r_[LOGITS[:5], lo], (30, 60, 30, 66, 0), 85)) for lo in (-10.0, -20.0, -40.0)]
    assert max(values) - min(values) < 0.1


def test_agrees_with_the_normal_law_in_a_large_arm():
    # The differences of log likelihood between neighbours vanish as 1/sqrt(n); correlations are those of the toy.
    rng = np.random.default_rng(1)
    theta = np.zeros((1, 4))
    p, both = toy.truth(theta)
    _, second = toy.simulate(theta, 200_000, rng)
    moment = second[0, 0]
    moment[[0, 2], [2, 0]] = both[0, 0]
    moment[[0, 1], [1, 0]], moment[[1, 2], [2, 1]] = p[0, 0, 0], p[0, 0, 2]
    moment[range(5), range(5)] = p[0, 0]
    covariance = moment - np.outer(p[0, 0], p[0, 0])
    sd = np.sqrt(np.diag(covariance))
    rho = covariance / np.outer(sd, sd)
    p8, p_any, p75 = p[0, 0, :3]
    conditional = [p_any, p75 / p_any, both[0, 0] / p75, (p8 - both[0, 0]) / (p_any - p75), p[0, 0, 3], p[0, 0, 4]]
    logits = logit(np.array(conditional))
    gaps = []
    for n in (300, 30_000, 1_000_000):
        worst = 0.0
        for shift in ((0, 0, 0, 0, 0), (1, 1, 0, 1, -1), (-1, 0, 1, 0, 1), (0.5, 1.5, 1, 2, 0)):
            counts = np.rint(n * p[0, 0] + np.array(shift) * np.sqrt(n) * sd).astype(int)
            exact = float(log_law(logits, counts, n, rho))
            normal = log_likelihood_normal(
                jnp.asarray(logits)[None], arrays(one_arm(counts, n)), jnp.asarray(rho[None])
            )
            worst = max(worst, abs(exact - float(normal[0])))
        gaps.append(worst)
    assert gaps[2] < 0.01
    assert gaps[0] > gaps[1] > gaps[2]


def test_samples_have_the_moments_of_the_law():
    n, draws = np.array([168, 60]), 40_000
    logits = np.stack([LOGITS, LOGITS - 0.5])
    rho = np.stack([RHO, RHO])
    counts = sample_counts(jax.random.key(3), np.tile(logits, (draws, 1, 1)), n, association(rho))
    p = np.asarray(probabilities(jnp.asarray(logits)))
    sd = np.sqrt(n[:, None] * p * (1 - p))
    # five standard errors: false alarms in one of 10^5 runs
    assert (np.abs(counts.mean(0) - n[:, None] * p) < 5 * sd / np.sqrt(draws) + 0.01).all()
    assert (counts[..., 0] <= counts[..., 1]).all() and (counts[..., 2] <= counts[..., 1]).all()
    assert (counts >= 0).all() and (counts <= n[:, None]).all()
    for arm in range(2):
        found = np.corrcoef(counts[:, arm].T)
        # within the nesting the law fixes the correlations; across it they are those asked for
        inner = np.ix_([0, 1, 2], [0, 1, 2])
        across = np.ix_([3, 4], [0, 1, 2])
        c = np.linalg.solve(RHO[inner], RHO[across].T).T
        np.testing.assert_allclose(found[across], c @ found[inner], atol=0.03)


def test_padding_changes_nothing():
    data = one_arm((99, 142, 55, 147, 22), 168)
    link = association(RHO[None])
    short, long = arrays(data), arrays(data, 169)
    logits = jnp.asarray(LOGITS)[None]
    assert float(log_likelihood(logits, short, link)[0]) == float(log_likelihood(logits, long, link)[0])
    with pytest.raises(ValueError, match="below"):
        arrays(data, 3)


def table(change=None):
    rows = [
        {"arm": arm, "n": 100, "quantity": quantity, "value": value}
        for arm in ("one", "two")
        for quantity, value in zip(NAMES, (40, 60, 30, 70, 20), strict=True)
    ]
    frame = pd.DataFrame(rows).astype(object)
    for (row, column), value in (change or {}).items():
        frame.loc[row, column] = value
    return frame


def test_reads_a_table():
    data = from_table(table(), ["two"])
    assert data.arms == ("two",)
    assert data.counts.tolist() == [[40, 60, 30, 70, 20]]
    both = from_table(table())
    assert both.without(["one"]).arms == ("two",)
    assert both.select(["two", "one"]).arms == ("one", "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(0, "value"): 61}, r"arm 'one', response_week_8 = 61 exceeds response_any = 60"),
        ({(2, "value"): 61}, r"response_75 = 61 exceeds response_any = 60"),
        ({(4, "value"): 61}, r"response_week_8 \+ rescue = 101 exceeds n = 100"),
        ({(3, "value"): 101}, r"response_30_doubled = 101; legal: 0 to n = 100"),
        ({(3, "value"): -1}, r"response_30_doubled = -1; legal: 0 to n"),
        ({(1, "value"): 60.5}, r"response_any = 60.5; legal: a whole number"),
        ({(1, "value"): float("nan")}, r"response_any = nan; legal: a whole number"),
        ({(1, "value"): "many"}, r"response_any = 'many'; legal: a whole number"),
        ({(1, "quantity"): "response_week_8"}, r"2 rows with quantity 'response_week_8'; legal: one"),
        ({(1, "n"): 99}, r"must share one n, got \[99, 100\]"),
    ],
)
def test_bad_tables(change, message):
    with pytest.raises(InputError, match=message):
        from_table(table(change))


def test_bad_names():
    with pytest.raises(InputError, match="unknown arm 'too'; did you mean 'two'"):
        from_table(table(), ["too"])
    with pytest.raises(InputError, match="no column 'value'"):
        from_table(table().rename(columns={"value": "values"}))
    with pytest.raises(InputError, match="no row with quantity"):
        from_table(table().assign(quantity="age"))
    data = from_table(table())
    with pytest.raises(InputError, match="unknown arm 'thr'"):
        data.without(["thr"])
    with pytest.raises(InputError, match="no arm is left"):
        data.without(["one", "two"])
    with pytest.raises(InputError, match="n = 0; legal: 1 to"):
        one_arm((0, 0, 0, 0, 0), 0)


def test_log_likelihoods_by_arm_are_those_of_each_draw():
    data = ArmData(("a", "b"), np.array([40, 60]), np.array([[12, 24, 9, 26, 7], [3, 9, 1, 12, 15]]))
    logits = np.random.default_rng(0).normal(0, 1, (2, 300, 2, 6))
    rho = np.broadcast_to(0.3 + 0.7 * np.eye(5), (2, 5, 5))
    found = by_arm(logits, rho, data)
    assert found.shape == (2, 300, 2)
    one = log_likelihood(jnp.asarray(logits[1, 299]), arrays(data), association(rho))
    np.testing.assert_allclose(found[1, 299], one, rtol=1e-10)
