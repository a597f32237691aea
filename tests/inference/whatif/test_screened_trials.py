"""A screening in what a trial reports: numbers screened, baselines, the calendar, records and pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from inference import bank, trials
from inference.progress import silent
from inference.report import trial_figures
from inference.report.protocol import in_words, unit_of, words
from inference.whatif import effects, patients
from inference.whatif.characteristics import TRIAL
from inference.whatif.dataset import dataset
from pkpd import notebook
from pkpd.errors import InputError
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario

SMALL = ["arms.1.n=40", "arms.2.n=30", "arms.3.n=30", "trial.n_trials=40"]
SCREENING = "screening={visits_d=[-14,-7],criterion='mean',other_failure_share=0.1}"
DESIGN = load_scenario("phase3", [*SMALL, SCREENING])


@pytest.fixture(scope="module")
def table():
    return trials.run_trial(DESIGN, seed=3).set_index(["comparison", "quantity"])


@pytest.fixture(scope="module")
def everybody():
    """Visits of the patients of the same trials, by arm."""
    found = {}
    for a in planned_arms(DESIGN):
        parts = [v for _, _, v in trials.courses(DESIGN, a, {}, 40, 3, "auto")]
        found[a.name] = {
            "true": np.concatenate([v.baseline_true for v in parts]),
            "measured": np.concatenate([v.baseline for v in parts]),
            "candidates": np.concatenate([v.screened.candidates for v in parts]),
        }
    return found


def test_the_summary_says_who_was_screened_and_what_regresses(table, everybody):
    tried = np.concatenate([x["candidates"].reshape(40, -1) for x in everybody.values()], axis=1).sum(axis=1)
    assert table.loc[(TRIAL, "screened"), "estimate"] == pytest.approx(tried.mean())
    assert table.loc[(TRIAL, "screened"), "mc_se"] == pytest.approx(tried.std(ddof=1) / np.sqrt(40), rel=0.05)
    assert table.loc[(TRIAL, "screen_failures"), "estimate"] == pytest.approx(tried.mean() - 100)
    assert table.loc[(TRIAL, "screen_failure_share"), "estimate"] == pytest.approx((1 - 100 / tried).mean())
    low, high = (table.loc[(TRIAL, f"screened_{q}"), "estimate"] for q in ("q2.5", "q97.5"))
    assert low < tried.mean() < high
    for name, own in everybody.items():
        row = table.loc[name]["estimate"]
        assert row["baseline_measured"] == pytest.approx(own["measured"].mean(), rel=1e-5)
        assert row["baseline_true"] == pytest.approx(own["true"].mean(), rel=1e-5)
        ratio = np.log(own["true"] / own["measured"])
        assert row["log_ratio_baseline_true_to_measured"] == pytest.approx(ratio.mean(), abs=1e-5)
        assert ratio.mean() > 3 * ratio.std() / np.sqrt(len(ratio))
        assert row["screened_per_patient"] == pytest.approx(own["candidates"].mean())


def test_trials_do_not_depend_on_the_chunk():
    block = trials.patient_blocks(DESIGN, {}, 3, "auto", silent)
    whole, parts = block(0, 8), [block(0, 3), block(3, 5)]
    for name in whole.by_arm:
        np.testing.assert_array_equal(np.concatenate([p.by_arm[name] for p in parts]), whole.by_arm[name])
        np.testing.assert_array_equal(np.concatenate([p.sums[name] for p in parts]), whole.sums[name])


def test_accrual_counts_those_who_fail_the_screening(table):
    accrued = load_scenario("phase3", [*SMALL, SCREENING, "accrual={patients_per_week=10}"])
    found = trials.run_trial(accrued, seed=3).set_index(["comparison", "quantity"])["estimate"]
    for quantity in ("screened", "screen_failures"):  # all are randomised: as without a calendar
        assert found[TRIAL, quantity] == pytest.approx(table.loc[(TRIAL, quantity), "estimate"])
    assert found[TRIAL, "randomised"] == 100


def test_a_trial_that_ends_early_screens_for_those_it_took_in(table):
    looks = "interims={looks=[0.5,1.0], boundary='pocock', futility='conditional-power', futility_below=0.5}"
    early = load_scenario("phase3", [*SMALL, SCREENING, looks, "analysis.multiplicity='bonferroni'"])
    found = trials.run_trial(early, seed=3).set_index(["comparison", "quantity"])["estimate"]
    entered, share = found[TRIAL, "patients"], found[TRIAL, "screen_failure_share"]
    assert 50 <= entered < 100 and share == pytest.approx(table.loc[(TRIAL, "screen_failure_share"), "estimate"])
    assert found[TRIAL, "screened"] == pytest.approx(entered / (1 - share), rel=0.03)
    assert found[TRIAL, "screen_failures"] == pytest.approx(found[TRIAL, "screened"] - entered)


def test_analyses_read_the_measured_baseline():
    a = planned_arms(DESIGN)[0]
    _, _, v = next(trials.courses(DESIGN, a, {}, 1, 3, "auto"))
    read = effects.observed(DESIGN, a, v)
    np.testing.assert_allclose(np.exp(read.log_baseline), v.baseline, rtol=1e-6)
    assert (np.asarray(v.baseline) != np.asarray(v.baseline_true)).mean() > 0.9


def test_records_begin_with_the_counts_of_the_screening():
    rows = dataset(DESIGN, {}, 1, 3, "auto")
    before = rows[rows["TIME"] < 0]
    assert (before.groupby("ID")["TIME"].apply(tuple) == (-336.0, -168.0)).all() and before["ID"].nunique() == 100
    assert (before["EVID"] == 0).all() and (before["MDV"] == 0).all()
    assert (before.groupby("ID")["VISIT"].apply(tuple) == (-2, -1)).all()
    mean = np.exp(np.log(before["DV"]).groupby(before["ID"]).mean())
    np.testing.assert_allclose(mean, before.groupby("ID")["BLPLT"].first(), rtol=1e-5)
    assert mean.max() < 30 and not (rows["VISIT"] == 0).any()
    assert (rows.loc[rows["TIME"] == 0, "EVID"] == 1).all()


@pytest.mark.parametrize("more", [[], ["trial.visit_window_d=1"]])
def test_the_cohort_has_the_screening_before_visit_0(more):
    design = load_scenario("phase3", [*SMALL, SCREENING, *more])
    rows = next(trials.simulate_cohort(design, seed=3))
    first = rows[rows["patient"] == rows["patient"].iloc[0]].set_index("visit")
    assert first.index.tolist() == list(range(-2, 9)) and first["time_h"].iloc[:3].tolist() == [-336, -168, 0]
    assert first["time_h"].is_monotonic_increasing and first["dose_mg"].iloc[:3].isna().all()
    (_, _, v) = next(trials.courses(design, planned_arms(design)[0], {}, 1, 3, "auto"))
    assert first["platelets_true"][0] == v.baseline_true[0] and first["platelets_observed"][0] == v.baseline[0]
    np.testing.assert_array_equal(first["platelets_observed"].iloc[:2], v.screened.counts[:, 0])
    np.testing.assert_array_equal(first["platelets_observed"].iloc[3:], v.platelets_observed[:, 0])


def test_the_table_of_patients_has_both_baselines():
    part = next(patients.parts(DESIGN, {}, 1, 3, "auto"))
    (_, _, v) = next(trials.courses(DESIGN, planned_arms(DESIGN)[0], {}, 1, 3, "auto"))
    np.testing.assert_allclose(part["baseline_1e9_per_l"], v.baseline[: len(part)], rtol=1e-5)
    np.testing.assert_allclose(part["baseline_true_1e9_per_l"], v.baseline_true[: len(part)], rtol=1e-5)


def test_the_notebook_has_both_baselines():
    found = notebook.simulate_scenario(DESIGN, seed=3, patients=20)
    (_, _, v) = next(trials.courses(DESIGN, planned_arms(DESIGN)[0], {}, 1, 3, "auto"))
    np.testing.assert_allclose(found["baseline"][:20], v.baseline[:20], rtol=1e-5)
    np.testing.assert_allclose(found["baseline_true"][:20], v.baseline_true[:20], rtol=1e-5)


def test_a_bank_refuses_patients_who_passed_a_screening():
    with pytest.raises(InputError, match="screening: who passes one"):
        bank.fill(SimpleNamespace(arms=planned_arms(DESIGN)), np.zeros((1, 1)), 2)


def test_page_and_picture_tell_of_the_screening():
    assert dict(in_words(DESIGN))["Screening"].startswith("counts on days -14 and -7")
    figure, _ = trial_figures._of_design(DESIGN, True)["schematic"]
    (ax,) = figure.axes
    assert "screening" in [t.get_text() for t in ax.texts]
    assert ax.get_xlim()[0] < -2 and {-2.0, -1.0} <= set(ax.lines[0].get_xdata())
    assert [unit_of(q) for q in ("screened", "screen_failure_share", "baseline_true", "weeks", "randomised")] == [
        "patients", "%", "10⁹/L", "weeks", "patients",
    ]  # fmt: skip
    assert words("screen_failures") == "screen failures"
