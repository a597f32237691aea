"""Protocols: stages, windows, schedules, adherence and meals, against the plain visit loop and a plain controller."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy import stats

from pkpd import endpoints, protocol, trial
from pkpd.planned import planned_arms
from pkpd.scenario import Scenario, build, load_scenario
from tests.pkpd import plain_controller

RULE = {
    "levels_mg": [2.5, 3.75, 5, 7.5], "up_below": 50, "up_every_d": 14, "up_min_days_since_change": 14,
    "down_above": 200, "hold_above": 250, "resume_below": 150, "stop_after_d": 28,
}  # fmt: skip
TAPER = {
    "levels_mg": RULE["levels_mg"],
    "bands": [{"action": "down_or_stop", "above": 30, "min_days_since_change": 7}],
}
ACTIVE = {"name": "active", "drug": "hetrombopag", "n": 20, "start_dose_mg": 5.0, "titration": "usual"}
PLACEBO = {"name": "placebo", "drug": "placebo", "n": 20, "titration": "usual"}
WEEKS = [7 * week for week in range(1, 9)]
STAGES = [
    {"name": "double-blind", "until_d": 56},
    {
        "name": "open-label",
        "until_d": 112,
        "arms": {"placebo": {"drug": "hetrombopag", "start_dose_mg": 2.5}},
    },
    {"name": "taper", "until_d": 140, "who": "responders", "titration": "taper"},
    {
        "name": "withdrawal",
        "until_d": 196,
        "treatment": "off",
        "titration": "usual",
        "relapse_below_1e9_per_l": 30,
        "at_relapse": "restart",
    },
]


def scenario(arm: dict | None = None, **tables) -> Scenario:
    """A scenario of one arm for 8 weeks, with what is given in place of its parts."""
    data = {
        "trial": {"visits_d": WEEKS},
        "arms": [ACTIVE | (arm or {})],
        "entry": {"platelets_below_1e9_per_l": 30},
        "titration": {"usual": RULE, "taper": TAPER},
    } | tables
    return build(copy.deepcopy(data), "test")


def run(design: Scenario, patients: int = 200, seed: int = 1, arm: int = 0) -> trial.Visits:
    a = planned_arms(design)[arm]
    (visits,) = trial.simulate(a.population, a.arm, tuple(design.trial.visits_d), seed, range(patients))
    return visits


@pytest.mark.parametrize("arm", [0, 2])
def test_one_stage_is_the_plain_course_to_the_bit(arm):
    dropout = "dropout.hazard_per_week=0.02"
    plain = run(load_scenario("phase3", [dropout]), arm=arm)
    staged = run(load_scenario("phase3", [dropout, "stages=[{name='all', until_d=56}]"]), arm=arm)
    assert staged.stage is not None and plain.stage is None and plain.dropped.any()
    for name, leaf in zip(plain._fields, plain, strict=True):
        if leaf is not None:
            np.testing.assert_array_equal(getattr(staged, name), leaf, err_msg=name)


@pytest.mark.parametrize("stages", ["[]", "[{name='all', until_d=56}]"])
def test_rescue_by_rule_is_at_the_first_count_below_it(stages):
    settings = ["dropout.hazard_per_week=0.05", f"stages={stages}"]
    v = run(load_scenario("phase3", [*settings, "rescue.below_1e9_per_l=15", "rescue.from_d=14"]), arm=2)
    count, days = np.nan_to_num(v.platelets_observed, nan=np.inf), np.array(WEEKS)[:, None]
    expected = np.logical_or.accumulate((count < 15) & (days >= 14), axis=0)
    np.testing.assert_array_equal(v.rescued, expected)
    assert 0.2 < expected[-1].mean() < 0.9 and ((count < 15) & (days < 14)).any()
    chance = run(load_scenario("phase3", settings), arm=2)
    np.testing.assert_array_equal(chance.platelets_true, v.platelets_true)  # no other random number moves


def test_rescue_by_rule_begins_with_the_visit_of_its_day_though_it_be_early():
    settings = ["trial.visit_window_d=2", "rescue.below_1e9_per_l=15", "rescue.from_d=14"]
    v = run(load_scenario("phase3", settings), arm=2)
    low = np.nan_to_num(v.platelets_observed, nan=np.inf) < 15
    expected = np.logical_or.accumulate(low & (np.array(WEEKS)[:, None] >= 14), axis=0)
    np.testing.assert_array_equal(v.rescued, expected)
    assert (low[1] & (v.visit_d[1] < 14)).any()


@pytest.mark.parametrize("at_relapse", ["restart", "leave", "stay"])
@pytest.mark.parametrize("arm", [0, 1])
def test_every_dose_status_and_endpoint_is_that_of_a_plain_controller(arm, at_relapse):
    visits_d = [*range(7, 57, 7), *range(70, 141, 14), *range(147, 197, 7)]
    stages = [*STAGES[:-1], STAGES[-1] | {"at_relapse": at_relapse}]
    design = scenario(
        trial={"visits_d": visits_d, "visit_window_d": [1, 2], "missed_visit_share": 0.08},
        arms=[ACTIVE, PLACEBO],
        stages=stages,
        dropout={"hazard_per_week": 0.01, "low_count_1e9_per_l": 20, "low_count_hazard_ratio": 3.0},
    )
    v = run(design, arm=arm)
    leaves = np.diff((v.reason == protocol.DROPPED_OUT).astype(int), axis=0, prepend=0) == 1
    newly_rescued = np.diff(v.rescued.astype(int), axis=0, prepend=0) == 1
    rows = {"titration": {"usual": RULE, "taper": TAPER}, "stages": stages, "visits_d": visits_d}
    landmark = visits_d.index(56)
    within = endpoints.until(landmark, v.platelets_observed, v.rescued)
    events = np.asarray(endpoints.events(within[0], v.baseline, within[1]))
    responds = endpoints.response(v.platelets_observed, v.rescued)
    longest, total = (np.asarray(x) for x in endpoints.run_durations(responds, visits_d))
    first = np.asarray(endpoints.time_to_first_response(responds, visits_d))
    assert leaves.any() and newly_rescued.any() and v.missed.any() and (v.reason == protocol.NOT_ELIGIBLE).any()
    assert v.relapsed.any() and v.stopped.any() and v.interrupted.any()
    for i in range(200):
        seen = {
            "missed": np.isnan(v.platelets_observed[:, i]).tolist(),
            "count": v.platelets_observed[:, i].tolist(),
            "drops_out": leaves[:, i].tolist(),
            "rescue": newly_rescued[:, i].tolist(),
        }
        told = plain_controller.course(rows, [ACTIVE, PLACEBO][arm], float(v.baseline[i]), seen)
        for name in ("dose_mg", "interrupted", "stopped", "stage", "rescued", "relapsed", "dropped"):
            assert [row[name] for row in told] == getattr(v, name)[:, i].tolist(), (name, i)
        assert [row["reason"] or "in the trial" for row in told] == [protocol.REASONS[r] for r in v.reason[:, i]]
        assert [row["observed"] for row in told] == (~np.isnan(v.platelets_observed[:, i])).tolist()
        found = plain_controller.endpoints(told, visits_d, float(v.baseline[i]), landmark)
        assert list(found.values())[:5] == events[:, i].tolist()
        assert (found["longest_d"], found["total_d"]) == (longest[i], total[i])
        assert (found["first_d"] or np.inf) == first[i]


def test_a_visit_takes_place_on_every_day_of_its_window_alike_and_is_missed_as_often_as_said():
    v = run(scenario(trial={"visits_d": WEEKS, "visit_window_d": [1, 2], "missed_visit_share": 0.1}), 2000)
    shift = v.visit_d - np.array(WEEKS)[:, None]
    counts = np.bincount(shift.ravel() + 1, minlength=4)
    assert shift.min() == -1 and shift.max() == 2
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.binomtest(int(v.missed.sum()), v.missed.size, 0.1).pvalue > 1e-4
    np.testing.assert_array_equal(np.isnan(v.platelets_observed), v.missed)


def test_a_window_leaves_counts_as_they_are_where_the_visit_is_on_its_day():
    design = {"visits_d": [7, 14], "visit_window_d": 1}
    moved, plain = run(scenario(trial=design)), run(scenario(trial={"visits_d": [7, 14]}))
    on_time = moved.visit_d[0] == 7
    assert 0.2 < on_time.mean() < 0.5
    np.testing.assert_allclose(moved.platelets_observed[0, on_time], plain.platelets_observed[0, on_time], rtol=1e-5)
    assert np.all(np.abs(moved.platelets_observed[0, ~on_time] / plain.platelets_observed[0, ~on_time] - 1) > 1e-5)


def test_a_visit_that_is_a_day_late_does_not_put_off_a_step_of_the_dose():
    """A rule that acts every 14 days does so at the visits meant for it, whatever their day."""
    late = run(scenario(trial={"visits_d": WEEKS, "visit_window_d": 2}), 2000)
    exact = run(scenario(), 2000)
    risen = [(v.dose_mg[2] > v.dose_mg[1]).mean() for v in (late, exact)]
    assert risen[0] == pytest.approx(risen[1], rel=0.1) and risen[1] > 0.1
    # dose_mg[w] is that of the week before visit w + 1: steps up follow the visits of weeks 2, 4 and 6 only
    steps = (late.dose_mg[1:] > late.dose_mg[:-1]) & ~late.interrupted[:-1]
    assert not steps[[0, 2, 4, 6]].any() and steps[[1, 3, 5]].any(axis=1).all()


@pytest.mark.parametrize("run_d", [None, 4.0])
def test_missed_doses_have_their_share_and_their_runs(run_d):
    told = {"missed_share": 0.2} | ({"mean_missed_run_d": run_d} if run_d else {})
    visits_d = list(range(1, 57))
    v = run(scenario({"adherence": told, "titration": "none"}, trial={"visits_d": visits_d}), 1000)
    taken = v.taken_mg > 0
    assert set(np.unique(v.taken_mg)) == {0, 5}
    share = 1 - taken.mean()
    starts = (~taken[1:] & taken[:-1]).sum() + (~taken[0]).sum()
    mean_run = (~taken).sum() / starts
    assert share == pytest.approx(0.2, abs=0.01)
    assert mean_run == pytest.approx(run_d or 1.25, rel=0.08)  # runs are cut at the end of the trial
    assert v.platelets_true[-1].mean() < run(scenario({"titration": "none"}), 1000).platelets_true[-1].mean()


def test_patients_differ_in_adherence_by_their_logit():
    visits_d = list(range(1, 57))
    told = {"missed_share": 0.2, "logit_sd": 1.0}
    v = run(scenario({"adherence": told, "titration": "none"}, trial={"visits_d": visits_d}), 1000)
    share = 1 - (v.taken_mg > 0).mean(axis=0)
    assert np.median(share) == pytest.approx(0.2, abs=0.03)
    assert share.std() > 3 * np.sqrt(0.2 * 0.8 / 56) * 0.8  # beyond what 56 days of one share give


def test_alternate_day_and_loading_doses_are_taken_when_they_should_be():
    visits_d = list(range(1, 15))
    arm = {"dose_every_d": 2, "titration": "none", "loading_dose_mg": 7.5, "loading_d": 3}
    v = run(scenario(arm, trial={"visits_d": visits_d}), 10)
    expected = [7.5, 0, 7.5, 0, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0]
    np.testing.assert_array_equal(v.taken_mg, np.repeat(np.array(expected, np.float32)[:, None], 10, axis=1))


def test_of_a_linear_drug_twice_the_dose_every_other_day_gives_the_same_exposure():
    arm = {"drug": "eltrombopag", "titration": "none"}
    visits_d = [56, 70]
    daily = run(scenario(arm | {"start_dose_mg": 25.0}, trial={"visits_d": visits_d}), 50)
    other = run(scenario(arm | {"start_dose_mg": 50.0, "dose_every_d": 2}, trial={"visits_d": visits_d}), 50)
    np.testing.assert_array_equal(daily.dose_mg[-1] * 14, other.taken_mg[-1])
    ordinary = np.median(other.auc_ng_h_per_ml[-1] / daily.auc_ng_h_per_ml[-1])
    assert ordinary == pytest.approx(1, abs=0.01)
    assert np.all(other.cmax_ng_per_ml[-1] > daily.cmax_ng_per_ml[-1])


def test_a_meal_on_every_day_lowers_exposure_as_the_arm_that_always_eats():
    fed = run(scenario({"meal": "meal_1h_after", "titration": "none"}), 100)
    meals = run(scenario({"meals": {"meal_1h_after": 1.0}, "titration": "none"}), 100)
    half = run(scenario({"meals": {"meal_1h_after": 0.5, "fasted": 0.5}, "titration": "none"}), 100)
    fasted = run(scenario({"titration": "none"}), 100)
    auc = {k: x.auc_ng_h_per_ml[-1] for k, x in dict(fed=fed, meals=meals, half=half, fasted=fasted).items()}
    assert np.all(auc["meals"] < auc["half"]) and np.all(auc["half"] < auc["fasted"])
    # Where all days are fed the rates of absorption differ as well, which a meal of a day leaves out: 8% of exposure.
    assert 0.9 < np.median(auc["meals"] / auc["fed"]) < 1
    assert np.median(auc["fed"] / auc["fasted"]) < 0.5


def test_dropout_follows_low_counts():
    low = {"hazard_per_week": 0.02, "low_count_1e9_per_l": 15.0, "low_count_hazard_ratio": 10.0}
    arms = [PLACEBO]
    informative = run(scenario(arms=arms, dropout=low), 2000)
    plain = run(scenario(arms=arms, dropout={"hazard_per_week": 0.02}), 2000)
    first = informative.dropped[0]
    at = informative.baseline < 15
    assert first[~at].mean() == pytest.approx(1 - np.exp(-0.02), abs=0.015)
    assert first[at].mean() == pytest.approx(1 - np.exp(-0.2), abs=0.03)
    assert np.all(informative.dropped | ~plain.dropped)  # the same uniforms: who leaves anyway leaves here too


def test_rows_by_weight_act_on_their_patients_only():
    bands = [
        {"action": "up", "below": 1000, "every_d": 14, "weight_below_kg": 60.0},
        {"action": "down", "above": 1000, "weight_from_kg": 60.0},
    ]
    rule = {"levels_mg": RULE["levels_mg"], "bands": bands}
    v = run(scenario(titration={"usual": rule}), 500)
    light, high = v.weight_kg < 60, (v.platelets_observed > 1000).any(axis=0)
    assert light.any() and not light.all()
    assert np.all(v.dose_mg[2, light & ~high] == 7.5) and np.all(v.dose_mg[:, ~light & ~high] == 5)


def test_hold_keeps_the_dose_whatever_the_count():
    stages = [{"name": "a", "until_d": 28}, {"name": "b", "until_d": 56, "titration": "hold"}]
    v = run(scenario(stages=stages), 300)
    np.testing.assert_array_equal(v.dose_mg[4:], np.broadcast_to(v.dose_mg[4], v.dose_mg[4:].shape))
    assert (v.platelets_observed[5] > 250).any() and len(np.unique(v.dose_mg[4])) > 2


def test_others_stay_in_the_trial_off_treatment_where_the_stage_says_so():
    stages = [{"name": "a", "until_d": 28}, {"name": "b", "until_d": 56, "who": "responders", "others": "off"}]
    v = run(scenario(stages=stages, rescue={"enabled": False}), 300)
    responds = v.platelets_observed[3] >= 50
    assert not v.dropped.any() and np.all(v.dose_mg[4:, ~responds] == 0)
    np.testing.assert_array_equal(v.dose_mg[4, responds] > 0, ~v.interrupted[4, responds] & ~v.stopped[4, responds])


def test_nothing_recompiles_when_only_the_values_of_a_protocol_change():
    def one(missed: float, window: list[int]) -> None:
        run(scenario({"adherence": {"missed_share": missed}}, trial={"visits_d": WEEKS, "visit_window_d": window}), 100)

    one(0.1, [1, 1])
    before = trial._visits._cache_size()
    one(0.3, [1, 1])
    assert trial._visits._cache_size() == before
