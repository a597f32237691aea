"""Accrual and the calendar of looks, against the law of a Poisson process and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from inference.trials import run_trial
from inference.whatif.calendar import arrivals, calendar
from pkpd.accrual import Accrual
from pkpd.errors import InputError
from pkpd.scenario import load_scenario
from pkpd.scenario_text import describe

ACCRUAL = "accrual={patients_per_week=4,endpoint_d=56}"


def design(*settings: str):
    return load_scenario("group_sequential", ["trial.n_trials=4000", ACCRUAL, *settings])


def test_waits_between_patients_are_exponential():
    day = arrivals(Accrual(patients_per_week=14), 1, np.arange(2), 30)
    waits = np.diff(day, axis=1).ravel()
    assert day.shape == (2000, 30) and stats.kstest(waits, stats.expon(scale=0.5).cdf).pvalue > 1e-3


def test_on_the_ramp_arrivals_follow_its_rate():
    accrual = Accrual(patients_per_week=7, ramp_weeks=10)
    day = arrivals(accrual, 1, np.arange(5), 200)
    for t, expected in ((35, 35**2 / 140), (70, 35), (100, 65)):
        number = (day <= t).sum(axis=1)
        assert number.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / 5000))
        assert number.var() == pytest.approx(expected, rel=0.08)


def test_a_look_is_taken_when_its_last_patient_has_the_endpoint():
    scenario = design()
    found = calendar(scenario, 1, 0, 4000)
    assert found.shape == (4000, 3, 2)
    # The k-th patient comes (k - 1) waits of 1/4 week after the first; the endpoint 8 weeks later.
    for k, patients in enumerate((48, 72, 96)):
        weeks = found[:, k, 0] / 7
        assert weeks.mean() == pytest.approx((patients - 1) / 4 + 8, abs=4 * np.sqrt(patients) / 4 / np.sqrt(4000))
    # Within these 8 weeks 32 more come on average, until the trial is full.
    assert found[:, 0, 1].mean() == pytest.approx(48 + 32, abs=0.6) and np.all(found[:, 2, 1] == 96)


def test_the_calendar_does_not_depend_on_the_chunk():
    whole = calendar(design(), 1, 0, 2500)
    parts = [calendar(design(), 1, first, n) for first, n in ((0, 700), (700, 1300), (2000, 500))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_summary_has_weeks_and_patients_and_early_stopping_shortens_it():
    table = run_trial(design()).set_index("quantity")["estimate"]
    assert table["weeks"] < table["week_of_look_3"] and table["weeks"] > table["week_of_look_1"]
    assert table["patients"] < table["randomised"] < 96  # patients who came before the look was taken count
    assert table["screened"] == table["randomised"]
    failing = run_trial(design("accrual.screen_failure_share=0.2")).set_index("quantity")["estimate"]
    assert failing["screened"] == pytest.approx(table["randomised"] / 0.8)


def test_simulated_patients_have_their_endpoint_at_its_visit():
    settings = ["trial.n_trials=3", "accrual={patients_per_week=10}", "trial.visit_window_d=2"]
    assert load_scenario("phase3", settings).endpoint_d == 58
    assert load_scenario("phase3", [*settings, "analysis.endpoint='response_week_4'"]).endpoint_d == 30
    assert "Accrual: 10 patients randomised a week" in describe(load_scenario("phase3", settings))


@pytest.mark.parametrize(
    ("scenario", "settings", "told"),
    [
        ("group_sequential", ["accrual={patients_per_week=4}"], "accrual.endpoint_d is missing"),
        ("phase3", ["accrual={patients_per_week=4,endpoint_d=56}"], "visits say when the endpoint is"),
        ("phase3", ["accrual={patients_per_week=0}"], "patients_per_week = 0"),
        ("phase3", ["accrual={patients_per_weak=4}"], "unknown key 'patients_per_weak'"),
        ("phase3", ["accrual={patients_per_week=4,screen_failure_share=1.0}"], "screen_failure_share"),
    ],
)
def test_bad_accrual_is_one_clear_error(scenario, settings, told):
    with pytest.raises(InputError) as error:
        load_scenario(scenario, settings)
    assert told in str(error.value) and "\n" not in str(error.value)
