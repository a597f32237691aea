"""Tests of many simulated trials against SciPy and statsmodels, their Monte Carlo errors, the cohort table."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.proportion import test_proportions_2indep as proportions_test

from inference import trials
from pkpd.scenario import load_scenario

TABLES = [(99, 168, 5, 85), (3, 20, 2, 18), (0, 30, 0, 20), (30, 30, 20, 20), (1, 40, 9, 41)]


@pytest.mark.parametrize("table", TABLES)
def test_mantel_haenszel_and_fisher_agree_with_the_libraries(table):
    y, n, y0, n0 = table
    found = {t: trials.p_values(t, [y], n, [y0], n0, 2)[0] for t in ("cochran-mantel-haenszel", "fisher")}
    counts = np.array([[y, n - y], [y0, n0 - y0]])
    assert found["fisher"] == pytest.approx(stats.fisher_exact(counts).pvalue)
    if 0 < y + y0 < n + n0:
        oracle = StratifiedTable([counts]).test_null_odds(correction=False).pvalue
        assert found["cochran-mantel-haenszel"] == pytest.approx(oracle)
    else:
        assert found["cochran-mantel-haenszel"] == 1


def test_risk_difference_is_the_score_test():
    y, n, y0, n0 = TABLES[0]
    oracle = proportions_test(y, n, y0, n0, method="score", compare="diff", correction=False).pvalue
    assert trials.p_values("risk-difference", [y], n, [y0], n0, 2)[0] == pytest.approx(oracle)


def test_one_sided_tests_ask_for_more_response_than_control():
    for test in ("cochran-mantel-haenszel", "fisher", "risk-difference"):
        better = trials.p_values(test, [30], 50, [10], 50, 1)[0]
        worse = trials.p_values(test, [10], 50, [30], 50, 1)[0]
        assert better < 0.001 and worse > 0.99


def test_error_of_a_mean_is_clustered_by_draw():
    """1,000 data sets with 20 draws of 10 trials: the claimed error is the one that is seen."""
    rng = np.random.default_rng(1)
    cluster = np.arange(200) % 20
    means, errors = [], []
    for _ in range(1000):
        x = rng.normal(0, 1, 20)[cluster] + rng.normal(0, 0.5, 200)
        means.append(x.mean())
        errors.append(trials.clustered_se(x, cluster))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.08)
    plain = rng.normal(0, 1, 200)
    assert trials.clustered_se(plain, np.zeros(200, int)) == pytest.approx(plain.std(ddof=1) / np.sqrt(200))


def test_error_of_a_quantile():
    rng = np.random.default_rng(2)
    found = [trials.quantile_with_se(rng.normal(0, 1, 400), 0.9) for _ in range(500)]
    values, errors = np.array(found).T
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


@pytest.fixture(scope="module")
def small():
    return load_scenario("phase3", ["trial.n_trials=40"])


def test_operating_characteristics_are_reproducible_and_say_their_error(small):
    table, again = trials.run_trial(small, seed=3), trials.run_trial(small, seed=3)
    assert tuple(table.columns) == trials.SUMMARY_COLUMNS
    assert table.equals(again)
    row = table.set_index(["comparison", "quantity"])
    drug = row.loc[("start 5 mg", "response_week_8")]
    assert drug["estimate"] == pytest.approx(0.614, abs=4 * drug["mc_se"] + 0.005)
    power = row.loc[("start 5 mg vs placebo", "power_cochran-mantel-haenszel")]
    assert power["estimate"] == 1 and 0.9 < power["lower"] < 0.93  # 40 of 40 trials are no proof of 1
    assert (table["lower"] <= table["estimate"]).all() and (table["estimate"] <= table["upper"]).all()


def test_blocks_of_trials_are_the_trials_of_the_whole(small):
    """Cut anywhere, with looks: the same counts; patients of the looks add up to those of the arm."""
    looks = load_scenario("phase3", ["trial.n_trials=40", "interims={looks=[0.5, 1], boundary='pocock'}"])
    whole, parts = (
        [trials.patient_blocks(looks, {}, 3, "auto", trials.silent)(*at) for at in cuts]
        for cuts in (((0, 40),), ((0, 13), (13, 27)))
    )
    assert np.array_equal(np.concatenate([part.analysed for part in parts]), whole[0].analysed)
    for arm, counts in whole[0].by_arm.items():
        assert np.array_equal(np.concatenate([part.by_arm[arm] for part in parts]), counts)
    last = np.stack([counts[:, 0] for counts in whole[0].by_arm.values()], axis=1)
    assert np.array_equal(whole[0].analysed[:, -1], last)
    other = load_scenario("phase3", ["trial.n_trials=40", "analysis.endpoint=response_any"])
    once = trials.patient_blocks(other, {}, 3, "auto", trials.silent)(0, 40)
    column = once.names.index("response_any")
    assert np.array_equal(once.analysed[:, 0], np.stack([counts[:, column] for counts in once.by_arm.values()], axis=1))
    half = whole[0].analysed[:, 0] / [84, 86, 43]  # of 168, 171 and 85
    rates = last.mean(0) / [168, 171, 85]
    np.testing.assert_allclose(half.mean(0), rates, atol=4 * 0.5 / np.sqrt(40 * 43))
    table = trials.run_trial(looks, seed=3).set_index(["comparison", "quantity"])["estimate"]
    assert table[("start 5 mg vs placebo", "rejected_at_look_1")] > 0.95 and table[("whole trial", "patients")] < 230
    assert table[("start 5 mg", "response_week_8")] == pytest.approx(rates[1])


def test_the_null_of_patients_is_a_drug_without_effect():
    """The same rows as with efficacy 0 by hand, called type I error; enough trials are those of a small error."""
    settings = ["trial.n_trials=2000", "trial.mc_se_below=0.02", "arms.1.n=20", "arms.2.n=20", "arms.3.n=20"]
    null = trials.run_trial(load_scenario("phase3", settings), seed=5, null=True)
    by_hand = trials.run_trial(load_scenario("phase3", [*settings, "parameters.dimer_efficacy=0.0"]), seed=5)
    assert null["estimate"].equals(by_hand["estimate"]) and set(null["n_trials"]) == {1000}
    assert (null["quantity"] == by_hand["quantity"].str.replace("power", "type_1_error")).all()
    errors = null[null["quantity"] == "type_1_error_cochran-mantel-haenszel"]
    assert len(errors) == 2 and (errors["estimate"] < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)).all()


def test_power_without_drug_effect_is_the_size_of_the_test():
    """Dimer efficacy 0 under the same protocol: the test keeps its 5%, a little less for discreteness."""
    null = load_scenario("phase3", ["trial.n_trials=400", "parameters.dimer_efficacy=0.0"])
    row = trials.run_trial(null, seed=5).set_index(["comparison", "quantity"])
    size = row.loc[("start 5 mg vs placebo", "power_cochran-mantel-haenszel")]["estimate"]
    assert size < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_cohort_has_a_row_for_every_patient_and_visit(small):
    parts = list(trials.simulate_cohort(small, seed=1))
    assert sum(len(part) for part in parts) == (168 + 171 + 85) * 9
    first = parts[0]
    assert list(first.columns) == [
        "arm", "draw", "patient", "visit", "time_h", "dose_mg", "platelets_true", "platelets_observed",
        "interrupted", "stopped", "rescued", "response", "cmax", "auc", "trough",
    ]  # fmt: skip
    visits = first[first["visit"] > 0]
    assert (visits["response"] == ((visits["platelets_observed"] >= 50) & ~visits["rescued"])).all()
    assert set(first.loc[first["visit"] == 8, "time_h"]) == {1344.0}
    assert np.concatenate([part["patient"].unique() for part in parts]).tolist() == list(range(168 + 171 + 85))
