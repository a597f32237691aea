"""The conventions of time, doses, absorption, food and drift: each has one test, through both solvers where it can."""

from __future__ import annotations

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from benchmarks import phase3
from pkpd import trial
from pkpd.case import Case, DailyDoses
from pkpd.engine import grid, reference
from pkpd.engine.solver import solver
from pkpd.model import DYNAMIC
from pkpd.parameters import load_library, with_values
from pkpd.planned import planned_arms
from pkpd.profile import SOLVERS, run_case, schedule
from pkpd.scenario import load_scenario

NMOL_PER_MG = 1e6 / 458.47
KA1, KA2, LAG, SWITCH = 0.05, 0.3, 0.5, 3.0
both = pytest.mark.parametrize("solver_name", SOLVERS)


def run(times_h, doses, solver_name="fast", **parameters) -> pd.DataFrame:
    rows = tuple(DailyDoses(*row) for row in doses)
    case = Case("hetrombopag", tuple(float(t) for t in times_h), rows, {k: float(v) for k, v in parameters.items()})
    return run_case(case, solver_name)


@both
def test_a_dose_arrives_after_the_lag_and_an_observation_there_does_not_see_it(solver_name):
    depot = run([0, LAG, LAG + 1e-6, 1], [(0, 0, 5.0)], solver_name)["depot_nmol"]
    assert depot[0] == depot[1] == 0
    assert depot[2] == pytest.approx(5 * NMOL_PER_MG, rel=1e-6)
    assert depot[3] == pytest.approx(5 * NMOL_PER_MG * np.exp(-KA1 * 0.5), rel=1e-8)


@both
@pytest.mark.parametrize("lag", [0.0, LAG])
def test_an_observation_at_a_doses_time_sees_the_state_before_it(solver_name, lag):
    treated = run([0, 24, 24 + lag], [(0, 1, 5.0)], solver_name, lag_time_h=lag)
    once_only = run([0, 24, 24 + lag], [(0, 0, 5.0)], solver_name, lag_time_h=lag)
    pd.testing.assert_frame_equal(treated, once_only, rtol=1e-10)
    assert treated["depot_nmol"][0] == 0
    after = run([24 + lag + 1], [(0, 1, 5.0)], solver_name, lag_time_h=lag)["depot_nmol"][0]
    assert after > 4 * NMOL_PER_MG


def test_the_rate_switches_after_an_arrival_and_back_with_the_next_one():
    """On a half-empty depot, too: the rate belongs to the depot, not to the dose."""
    at = np.array([0.6, 2.5, 3.4, 3.6, 10, 24.4, 24.6, 27.4, 27.6, 40])
    log = np.log(run(at, [(0, 1, 5.0)])["depot_nmol"].to_numpy())
    slope = -np.diff(log) / np.diff(at)
    np.testing.assert_allclose(slope[[0, 1, 3, 4, 6, 8]], [KA1, KA1, KA2, KA2, KA1, KA2], rtol=1e-7)
    left = 5 * NMOL_PER_MG * np.exp(-KA1 * SWITCH - KA2 * (24 - SWITCH))
    assert np.exp(log[6]) == pytest.approx((5 * NMOL_PER_MG + left) * np.exp(-KA1 * 0.1), rel=1e-8)


def test_a_dose_of_0_mg_is_no_arrival():
    pd.testing.assert_frame_equal(run([30, 50], [(0, 0, 5.0), (1, 1, 0.0)]), run([30, 50], [(0, 0, 5.0)]))


@both
def test_days_are_inclusive_and_overlapping_rows_add(solver_name):
    times = [30, 60, 119]
    overlapping = run(times, [(0, 2, 5.0), (2, 4, 2.5)], solver_name)
    spelt_out = run(times, [(0, 1, 5.0), (2, 2, 7.5), (3, 3, 2.5), (4, 4, 2.5)], solver_name)
    pd.testing.assert_frame_equal(overlapping, spelt_out, rtol=1e-12)


def test_a_dose_at_or_after_the_last_time_is_not_seen():
    pd.testing.assert_frame_equal(run([0, 48], [(0, 1, 5.0)]), run([0, 48], [(0, 9, 5.0)]))


@both
def test_times_may_start_late_repeat_and_lie_closer_than_any_step(solver_name):
    doses = [(0, 1, 5.0)]
    found = run([24.5, 30, 30, 30 + 1e-12, 30 + 1e-9], doses, solver_name)
    assert list(found["time_h"]) == [24.5, 30, 30, 30 + 1e-12, 30 + 1e-9]
    pd.testing.assert_frame_equal(found.iloc[[1]], run([30], doses, solver_name).set_index(pd.Index([1])), rtol=1e-6)
    for i in (2, 3, 4):
        np.testing.assert_allclose(found.iloc[i, 1:].astype(float), found.iloc[1, 1:].astype(float), rtol=1e-8)


@both
def test_only_time_0(solver_name):
    found = run([0, 0], [(0, 3, 5.0)], solver_name)
    assert len(found) == 2 and (found["platelets_1e9_per_l"] == 15).all() and (found["depot_nmol"] == 0).all()


@both
def test_asking_for_more_times_changes_no_answer(solver_name):
    few = run([50, 100], [(0, 3, 5.0)], solver_name)
    many = run([0.3, 7, 26.1, 50, 60.7, 99.99, 100], [(0, 3, 5.0)], solver_name)
    tolerance = 1e-4 if solver_name == "fast" else 1e-7
    np.testing.assert_allclose(many.iloc[[3, 6], 1:], few.iloc[:, 1:], rtol=tolerance)


def test_lag_and_switch_may_fill_the_whole_day():
    found = run([24, 24.5, 47, 100], [(0, 3, 5.0)], lag_time_h=4, absorption_switch_h=20)
    assert np.isfinite(found.to_numpy()).all()
    depot = run([5, 24, 27], [(0, 3, 5.0)], lag_time_h=4, absorption_switch_h=20)["depot_nmol"].to_numpy()
    np.testing.assert_allclose(np.diff(np.log(depot)), [-KA1 * 19, -KA2 * 3], rtol=1e-7)


def test_every_step_of_a_schedule_has_a_length_and_they_add_up():
    p = load_library().parameters(jnp.float64, lag_time_h=0.0, absorption_switch_h=0.0)
    plan = schedule(np.array([0, 1 / 3, 24 * (1 + 1e-13), 77.7]), np.array([5.0, 5.0, 0.0, 2.5]), p, grid.DEFAULT)
    assert (plan.hours > 0).all()
    assert plan.hours.sum() == pytest.approx(77.7, abs=1e-9)
    assert plan.dose_mg.sum() == 12.5 and (plan.ka_per_h == KA2).all()


def test_profile_and_visit_loop_are_one_model():
    patients = drawn.ordinary(4, seed=8)._replace(omega=jnp.zeros((drawn.WEEKS, 4)))
    weekly = np.repeat(np.array([5, 7.5, 0, 0, 2.5, 2.5, 5, 5.0])[:, None], 4, axis=1)
    counts = drawn.counts("kernel", patients, weekly)
    values = {name: float(leaf[0]) for name, leaf in zip(patients.parameters._fields, patients.parameters, strict=True)}
    doses = tuple(DailyDoses(7 * w, 7 * w + 6, float(mg)) for w, mg in enumerate(weekly[:, 0]) if mg)
    case = Case("hetrombopag", tuple(168.0 * w for w in range(1, 9)), doses, values)
    profile = run_case(case, "fast", steps=grid.DEFAULT)["platelets_1e9_per_l"]
    np.testing.assert_allclose(profile, counts[:, 0], rtol=1e-9)


@pytest.mark.parametrize("engine", ["kernel", "xla", "reference"])
def test_the_decision_of_a_visit_acts_on_that_days_dose(engine):
    """Day 7's count is that of days 0 to 6; what is decided there changes day 8's."""
    p = jax.tree.map(lambda leaf: leaf[:2], drawn.ordinary(2, seed=9).parameters)
    move = solver(engine, p, DYNAMIC, grid.DEFAULT)
    omega, full = jnp.zeros((2, 2)), drawn.to_nmol(jnp.full(2, 7.5), p)
    week = move.advance(move.start, 0, 7, full, omega)
    on, off = (move.read(move.advance(week, 7, 8, scale * full, omega)) for scale in (1, 0))
    assert (move.read(week).concentration_nM > 0).all()
    assert (on.cmax_nM > off.cmax_nM).all()
    # without a dose the peak is what the visit read
    np.testing.assert_allclose(off.cmax_nM, move.read(week).concentration_nM, rtol=1e-9)
    assert (on.auc_nM_h > off.auc_nM_h).all()


def test_drift_acts_in_its_own_week():
    """omega of week w, and no other, moves the count of week w."""
    patients = drawn.ordinary(4, seed=10)
    weekly = np.full((drawn.WEEKS, 4), 5.0)
    flat = patients._replace(omega=jnp.zeros((drawn.WEEKS, 4)))
    raised = flat._replace(omega=flat.omega.at[2].set(0.5))
    change = drawn.counts("kernel", raised, weekly) / drawn.counts("kernel", flat, weekly) - 1
    assert (change[:2] == 0).all() and (change[2] < -0.05).all()
    segments = reference.days(patients.parameters, np.zeros((28, 4)), raised.omega)
    omega = np.asarray(segments.immune_log_activity).reshape(28, 3, 4)
    assert (omega[14:21] == 0.5).all() and np.count_nonzero(omega) == 7 * 3 * 4


def test_a_profile_uses_the_constant_immune_activity_of_its_case():
    more, none = (run([1, 168], [], immune_log_activity=omega)["platelets_1e9_per_l"] for omega in (0.3, 0.0))
    assert none[1] == pytest.approx(15, rel=1e-9)
    assert more[1] < more[0] < 15


@pytest.mark.parametrize(("i", "start_mg"), [(0, 2.5), (1, 5.0)])
def test_the_benchmarks_arm_is_that_of_the_scenario(i, start_mg):
    planned = planned_arms(load_scenario("phase3"))[i].arm
    jax.tree.map(np.testing.assert_array_equal, tuple(planned), tuple(phase3.arm(start_mg)))


def test_a_meal_multiplies_bioavailability_and_both_absorption_rates():
    planned = planned_arms(load_scenario("phase3"), jnp.float64)[1]
    food, typical = load_library().food("meal_1h_after"), planned.population.typical
    fed = planned.arm._replace(
        fed_bioavailability_ratio=food.fed_bioavailability_ratio, fed_absorption_ratio=food.fed_absorption_ratio
    )
    by_hand = with_values(
        planned.population,
        {
            "bioavailability": typical.bioavailability * food.fed_bioavailability_ratio,
            "absorption_rate_first_per_h": typical.absorption_rate_first_per_h * food.fed_absorption_ratio,
            "absorption_rate_second_per_h": typical.absorption_rate_second_per_h * food.fed_absorption_ratio,
        },
    )
    numbers = np.arange(32)
    (with_food,) = trial.simulate(planned.population, fed, (7, 14), 1, numbers)
    (expected,) = trial.simulate(by_hand, planned.arm, (7, 14), 1, numbers)
    (fasted,) = trial.simulate(planned.population, planned.arm, (7, 14), 1, numbers)
    np.testing.assert_allclose(with_food.cmax_ng_per_ml, expected.cmax_ng_per_ml, rtol=1e-12)
    np.testing.assert_allclose(with_food.platelets_true, expected.platelets_true, rtol=1e-12)
    assert (with_food.auc_ng_h_per_ml[0] < fasted.auc_ng_h_per_ml[0]).all()
