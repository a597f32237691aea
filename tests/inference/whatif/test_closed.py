"""Closed tests over stages: against Dunnett's law, Hommel's procedure and plain loops; their level and their power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from inference import trials
from inference.whatif import closed
from inference.whatif.counts import stated
from inference.whatif.decisions import critical_values, decide
from pkpd.errors import InputError
from tests.inference.whatif.designs import design

ALPHA = 0.025
SHARES = np.array([0.5, 0.6, 0.4])
DROP = {"looks": [0.5, 1.0], "boundary": "obrien-fleming", "drop_losers": {"at_look": 1, "keep": 1}}


def dropping(p, n=60, multiplicity="closed-dunnett", interims=DROP, n_trials=20_000, **more):
    """Arms against a control, which is the second, one-sided."""
    return design(
        n=(n,) * len(p), p=p, sided=1, alpha=ALPHA, multiplicity=multiplicity, interims=interims,
        trial={"n_trials": n_trials}, **more,
    )  # fmt: skip


def test_dunnett_is_the_law_of_the_largest_statistic():
    z = np.array([-0.5, 0.0, 1.3, 2.2, 3.0])
    correlation = np.sqrt(np.outer(SHARES, SHARES))
    np.fill_diagonal(correlation, 1)
    cdf, precise = stats.multivariate_normal.cdf, {"abseps": 1e-8, "releps": 1e-8, "maxpts": 1_000_000}
    exact = [1 - cdf(np.full(3, x), np.zeros(3), correlation, **precise) for x in z]
    np.testing.assert_allclose(closed.dunnett(z, SHARES), exact, rtol=1e-5)
    np.testing.assert_allclose(closed.dunnett(z, SHARES[:1]), stats.norm.sf(z), rtol=1e-9)
    # the published one-sided 5% point of three comparisons with a control, equal sizes, infinite degrees of freedom
    assert closed.dunnett(np.array([2.06]), np.full(3, 0.5)) == pytest.approx(0.05, abs=3e-4)


@pytest.mark.parametrize("seed", [1, 2])
def test_without_looks_simes_closed_test_is_hommels(seed, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)
    p = np.random.default_rng(seed).uniform(size=(300, 4)) ** 3
    test = closed.ClosedTest(300, 4, "closed-simes")
    found = test.add(stats.norm.isf(p), p, np.ones(p.shape, bool), np.full(4, 0.5), 1.0, stats.norm.isf(ALPHA))
    assert found.tolist() == [multipletests(row, ALPHA, "hommel")[0].tolist() for row in p]
    assert found.any()


def plainly(scenario, counts, trial):
    """Which arms a closed Dunnett test of one trial rejects, in plain loops; two looks, the best arm kept."""
    m, c = len(scenario.arms) - 1, critical_values(scenario)
    sets = [s for k in range(1, m + 1) for s in itertools.combinations(range(m), k)]
    y = np.delete(counts.analysed[trial], 1, axis=1)
    y0, half = counts.analysed[trial, :, 1], 30
    open_ = list(range(m))
    total = dict.fromkeys(sets, 0.0)
    out, won = set(), set()
    for look in (0, 1):
        x = y[look] - (y[0] if look else 0)
        x0 = y0[look] - (y0[0] if look else 0)
        pooled = (x + x0) / (2 * half)
        z = (x - x0) / half / np.sqrt(np.maximum(pooled * (1 - pooled) * 2 / half, 1e-300))
        for s in sets:
            left = [i for i in s if i in open_]
            p = closed.dunnett(np.array([max(z[i] for i in left)]), np.full(len(left), 0.5))[0] if left else 1.0
            total[s] += np.sqrt(0.5) * stats.norm.isf(p)
            if total[s] >= c[look] * np.sqrt((look + 1) / 2):
                out.add(s)
        new = {i for i in open_ if all(s in out for s in sets if i in s)}
        won |= new
        open_ = [i for i in open_ if i not in new]
        if look == 0 and open_:
            open_ = [max(open_, key=lambda i: (y[0][i], -i))]
    return [i in won for i in range(m)]


def test_decisions_are_those_of_plain_loops():
    scenario = dropping((0.45, 0.3, 0.5, 0.6))
    counts = stated(scenario, 1, 0, 150)
    found = decide(scenario, counts)
    assert found.rejected.tolist() == [plainly(scenario, counts, trial) for trial in range(150)]
    assert found.rejected.any(axis=0).all() and found.dropped.any()


@pytest.mark.parametrize("kind", closed.KINDS)
@pytest.mark.parametrize(
    "p", [(0.3, 0.3, 0.3, 0.3), (0.3, 0.3, 0.55, 0.3), (0.3, 0.3, 0.55, 0.6), (0.3, 0.3, 0.42, 0.3)]
)
def test_the_familywise_error_is_kept_whoever_is_better(kind, p):
    """Some arms are no better than control, some are, and the choice at the look follows all of them."""
    n = 40_000
    scenario = dropping(p, n=200, multiplicity=kind)
    true = np.array([x == 0.3 for x in (p[0], *p[2:])])
    error = (decide(scenario, stated(scenario, 1, 0, n)).rejected & true).any(axis=1).mean()
    assert error <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / n)
    if true.all():
        assert error > 0.7 * ALPHA


def test_the_closed_test_has_more_power_than_shared_alpha():
    p, power = (0.45, 0.25, 0.45, 0.5), {}
    for kind in ("bonferroni", *closed.KINDS):
        found = decide(dropping(p, multiplicity=kind), stated(dropping(p, multiplicity=kind), 1, 0, 20_000))
        power[kind] = found.rejected.any(axis=1)
    for kind in closed.KINDS:
        gain = power[kind].astype(float) - power["bonferroni"]
        assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain)) and gain.mean() > 0.01


def test_without_looks_a_run_is_step_down_dunnett():
    scenario = dropping((0.5, 0.25, 0.45), interims=None)
    counts = stated(scenario, 1, 0, 4000)
    y = counts.analysed[:, 0]
    pooled = (y[:, [0, 2]] + y[:, [1]]) / 120
    z = (y[:, [0, 2]] - y[:, [1]]) / 60 / np.sqrt(np.maximum(pooled * (1 - pooled) / 30, 1e-300))
    both = stats.norm.isf(ALPHA)
    c = 2.2121  # one-sided 2.5% point of two comparisons with a control of the same size
    order = np.argsort(-z, axis=1)
    expected = np.zeros(z.shape, bool)
    for row, (first, second) in enumerate(order):
        expected[row, first] = z[row, first] >= c
        expected[row, second] = expected[row, first] and z[row, second] >= both
    assert (decide(scenario, counts).rejected == expected).mean() > 0.9995


def test_simulated_patients_go_through_closed_tests():
    from pkpd.scenario import load_scenario

    settings = [
        "arms.1.n=12", "arms.2.n=12", "arms.3.n=12", "trial.n_trials=30", "analysis.sided=1", "analysis.alpha=0.025",
        "analysis.multiplicity=closed-dunnett", "analysis.test=logistic", "analysis.covariates=['log_baseline']",
        "interims={looks=[0.5,1.0],boundary='pocock',drop_losers={at_look=1,keep=1}}",
    ]  # fmt: skip
    table = trials.run_trial(load_scenario("phase3", settings)).set_index(["comparison", "quantity"])
    assert table.loc[("whole trial", "power_any"), "estimate"] > 0.5
    assert 0 < table.loc[("start 5 mg vs placebo", "dropped_at_look_1"), "estimate"] < 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"sided": 2}, "a combination of stages has one side; legal: sided = 1"),
        (
            {
                "n": (9, 9),
                "p": (0.5, 0.5),
                "interims": {
                    "looks": [0.5, 1.0],
                    "boundary": "pocock",
                    "reestimate": {"at_look": 1, "max_factor": 2.0, "conditional_power": 0.8},
                },
            },
            "combines stages of the planned sizes",
        ),
        ({"multiplicity": "closed-dunett"}, "did you mean 'closed-dunnett'"),
        ({"multiplicity": "holm", "interims": DROP}, "legal: 'none', 'bonferroni', 'closed-dunnett', 'closed-simes'"),
    ],
)
def test_bad_closed_tests_are_one_clear_error(more, told):
    with pytest.raises(InputError) as refused:
        design(**{"n": (9, 9, 9), "p": (0.5, 0.5, 0.5), "sided": 1, "multiplicity": "closed-dunnett", **more})
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_too_many_arms_are_one_clear_error():
    with pytest.raises(InputError, match="7 active arms; legal: up to 6"):
        design(n=(9,) * 8, p=(0.5,) * 8, sided=1, multiplicity="closed-simes")


def test_powers_to_come_are_means_over_trials_that_go_on():
    scenario = design(
        n=(40, 40), p=(0.5, 0.3), sided=1, alpha=ALPHA, interims={"looks": [0.5, 1.0], "boundary": "obrien-fleming"},
        trial={"n_trials": 4000},
    )  # fmt: skip
    y, y0 = np.moveaxis(stated(scenario, 1, 0, 4000).analysed[:, 0], -1, 0)
    c = critical_values(scenario)
    pooled = (y + y0) / 40
    z = (y - y0) / 20 / np.sqrt(np.maximum(pooled * (1 - pooled) / 10, 1e-300))
    goes_on = z < c[0]
    # the last statistic is (z + z of the second half)/sqrt(2); the second half has the drift that z shows
    conditional = stats.norm.sf(np.sqrt(2) * c[1] - 2 * z)
    # or one drawn around it with the variance of z, which the second half's own adds to
    predictive = stats.norm.sf((np.sqrt(2) * c[1] - 2 * z) / np.sqrt(2))
    table = trials.run_trial(scenario).set_index("quantity")["estimate"]
    assert table["conditional_power_after_look_1"] == pytest.approx(conditional[goes_on].mean(), rel=1e-9)
    assert table["predictive_power_after_look_1"] == pytest.approx(predictive[goes_on].mean(), rel=1e-9)
