"""The model with every patient in it: its law of the counts, its patients and their courses are those of the fit."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

jax.config.update("jax_enable_x64", True)

model = pytest.importorskip("benchmarks.naive_model")

from inference.arms import ArmData, arrays, association, log_likelihood  # noqa: E402
from inference.surface import pooled_correlations  # noqa: E402
from pkpd import cohort, endpoints, random, trial  # noqa: E402
from pkpd.parameters import Variability  # noqa: E402
from pkpd.planned import planned_arms  # noqa: E402
from pkpd.scenario import load_scenario  # noqa: E402

SCENARIO = "benchmarks/fixed_dose.toml"


def random_shares(seed, n):
    return np.random.default_rng(seed).dirichlet([1.0, 0.5, 1.0, 2.0], n)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_the_law_of_the_counts_is_that_of_all_ways_patients_can_fall(seed, n):
    shares = random_shares(seed, n)
    expected: dict[tuple[int, ...], float] = {}
    for ways in itertools.product(range(4), repeat=n):
        seen = tuple(np.bincount(ways, minlength=4).tolist())
        expected[seen] = expected.get(seen, 0.0) + float(np.prod(shares[np.arange(n), list(ways)]))
    seen = sorted(expected)[seed % len(expected)]
    assert float(jnp.exp(model.log_law(jnp.asarray(shares), np.array(seen)))) == pytest.approx(expected[seen], rel=1e-9)


def of_the_fit(shares, reported, n):
    """Log likelihood of the fit for an arm whose patients have the same shares [4]."""
    _, once, late, always = shares
    p = np.array([late + always, once + late + always, always, once + late + always, 0.0])
    both = np.minimum(p[:, None], p[None, :])  # nested, but for the rescue that never occurs
    rho = pooled_correlations(p[None, None], both[None, None], np.ones((1, 1)))
    odds = np.array([p[1] / (1 - p[1]), always / (once + late), 1e12, late / once, p[1] / (1 - p[1]), 1e-12])
    data = ArmData(("arm",), np.array([n]), reported[None])
    return float(log_likelihood(jnp.log(jnp.asarray(odds))[None], arrays(data), association(rho))[0])


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 10**6))
def test_for_patients_of_one_kind_it_is_the_law_of_the_fit_up_to_a_constant(seed):
    rng, n = np.random.default_rng(seed), 12
    first, second = rng.dirichlet([5.0, 5.0, 5.0, 5.0], 2)
    never, once, late, always = rng.multinomial(n, first).tolist()
    reported = np.array([late + always, n - never, always, n - never, 0])
    counts = model.categories(n, reported)
    assert counts.tolist() == [never, once, late, always]
    own, fit = (
        [law(x) for x in (first, second)]
        for law in (
            lambda x: float(model.log_law(jnp.broadcast_to(jnp.asarray(x), (n, 4)), counts)),
            lambda x: of_the_fit(x, reported, n),
        )
    )
    # of the two counts outside the nesting one repeats "any" and one is 0: within their unit cells they say little
    assert fit[0] - fit[1] == pytest.approx(own[0] - own[1], rel=0.1, abs=0.03)


def test_shares_are_those_of_independent_visits():
    counts, sigma = np.array([[40.0, 60.0], [55.0, 45.0], [50.0, 80.0]]), 0.21
    found = np.asarray(model.shares(jnp.asarray(counts), sigma))
    rng = np.random.default_rng(1)
    seen = counts * np.exp(sigma * rng.standard_normal((100_000, *counts.shape))) >= endpoints.RESPONSE_COUNT
    once, last, always = seen.any(axis=1), seen[:, -1], seen.all(axis=1)
    expected = np.stack([~once, once & ~last, last & ~always, always], axis=2).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=0.008)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_three_random_effects_vary_and_courses_are_those_of_the_trial():
    scenario = load_scenario(SCENARIO)
    arm = planned_arms(scenario, jnp.float64)[1]
    assert [Variability._fields[i] for i in model.varying(arm)] == [
        "clearance_l_per_h",
        "receptor_ec50_nM",
        "production_1e9_per_l_per_h",
    ]
    n, days = 8, tuple(scenario.trial.visits_d)
    (seen,) = trial.simulate(arm.population, arm.arm, days, 3, range(n), engine="xla")
    zero = np.zeros(n, np.int32)
    keys = random.patient_keys(random.root(3), zero, zero, np.arange(n, dtype=np.int32))
    drawn = cohort.draw(arm.population, keys, arm.arm.baseline_below).parameters
    drawn = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n,)), drawn)
    found = model.with_diffrax(drawn, jnp.full(n, 2.5), days)
    np.testing.assert_allclose(found, seen.platelets_true, rtol=2e-3)
    np.testing.assert_allclose(seen.baseline, 25, rtol=1e-3)
    assert not np.asarray(seen.rescued).any()
