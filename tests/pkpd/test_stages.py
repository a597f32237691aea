"""Protocols in scenarios: what is read, said in words, and refused with one clear error."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from pkpd import protocol
from pkpd.errors import InputError
from pkpd.planned import planned_arms
from pkpd.scenario import build, load_scenario
from pkpd.scenario_text import describe
from tests.pkpd.test_staged import ACTIVE, PLACEBO, RULE, STAGES, TAPER

VISITS = [*range(7, 57, 7), *range(70, 141, 14), *range(147, 197, 7)]
DATA = {
    "trial": {"visits_d": VISITS},
    "arms": [ACTIVE, PLACEBO],
    "stages": STAGES,
    "entry": {"platelets_below_1e9_per_l": 30},
    "titration": {"usual": RULE, "taper": TAPER},
}


def changed(*path_and_value) -> dict:
    """The scenario with one value set; a path through lists by index. No value: the key goes."""
    *path, value = path_and_value
    data = copy.deepcopy(DATA)
    at = data
    for part in path[:-1]:
        at = at[part] if isinstance(at, list) else at.setdefault(part, {})
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


def test_stages_become_arrays_by_arm():
    active, placebo = planned_arms(build(copy.deepcopy(DATA), "s.toml"))
    p, q = active.arm.protocol, placebo.arm.protocol
    np.testing.assert_array_equal(p.ends, VISITS)
    np.testing.assert_array_equal(p.visit, range(len(VISITS)))
    assert [VISITS[i] for i in np.flatnonzero(p.begins)] == [56, 112, 140]
    np.testing.assert_array_equal(np.unique(p.stage_of_visit), [0, 1, 2, 3])
    np.testing.assert_array_equal(p.stages.dose_scale, [1, 1, 1, 1])
    np.testing.assert_array_equal(q.stages.dose_scale, [0, 1, 1, 1])
    np.testing.assert_array_equal(p.stages.start_level, [2, -1, -1, -1])
    np.testing.assert_array_equal(q.stages.start_level, [0, 0, -1, -1])
    np.testing.assert_array_equal(p.stages.treated, [True, True, True, False])
    np.testing.assert_array_equal(p.stages.relapse_below, [0, 0, 0, 30])
    np.testing.assert_array_equal(p.stages.rule.top, [3, 3, 3, 3])
    assert placebo.drug == "hetrombopag" and p.stages.who.tolist() == [0, 0, protocol.RESPONDERS, 0]


def test_a_placebo_arm_that_switches_to_eltrombopag_has_its_pharmacology():
    arms = {a.name: a for a in planned_arms(load_scenario("phase3_stages"))}
    assert arms["placebo"].drug == "eltrombopag"
    eltrombopag = planned_arms(load_scenario("eltrombopag_773b"))[0].population.typical
    assert arms["placebo"].population.typical.molar_mass_g_per_mol == eltrombopag.molar_mass_g_per_mol
    np.testing.assert_array_equal(arms["placebo"].arm.protocol.stages.rule.top, [3, 2, 2, 2])
    np.testing.assert_array_equal(arms["placebo"].arm.protocol.stages.treated, [True, True, True, False])


def test_windows_make_segments_of_every_day_on_which_a_visit_may_be():
    ends, visit = protocol.segments([7, 14], 1, 2, daily=False)
    np.testing.assert_array_equal(ends, [6, 7, 8, 9, 13, 14, 15, 16])
    np.testing.assert_array_equal(visit, [0, 0, 0, 0, 1, 1, 1, 1])
    ends, visit = protocol.segments([2, 4], 0, 0, daily=True)
    np.testing.assert_array_equal(ends, [1, 2, 3, 4])
    np.testing.assert_array_equal(visit, [-1, 0, -1, 1])


def test_a_schedule_is_a_calendar():
    rows = [{"every_d": 7, "until_d": 21}, {"every_d": 14, "until_d": 49}]
    data = {**copy.deepcopy(DATA), "trial": {"schedule": rows}, "stages": []}
    assert build(data, "s.toml").trial.visits_d == (7, 14, 21, 35, 49)


def test_a_plain_scenario_needs_no_protocol():
    assert all(a.arm.protocol is None for a in planned_arms(load_scenario("phase3")))


def test_described_in_words():
    text = describe(load_scenario("phase3_stages"))
    for part in (
        "Visit window: up to 2 days early and 2 days late",
        "Missed visits: 2%",
        "fasted, 5% of doses missed in runs of 2 days on average",
        "Stage: open-label: days 70 to 168; placebo: eltrombopag, start 25 mg, titration eltrombopag",
        "one level down, from the lowest stop",
        "Dropout: hazard 0.005 per week, 3 times that below 20",
    ):
        assert part in text
    text = describe(load_scenario("withdrawal"))
    assert "for responders at its first visit (others leave the trial)" in text
    assert "relapse below 30: the last dose again" in text


BAD = [
    (("stages", 1, "until_d", 50), "stages[2].until_d = 50: no visit; legal: a day of trial.visits_d"),
    (("stages", 1, "until_d", 56), "stages[2].until_d = 56: legal: after day 56"),
    (("stages", 3, "until_d", 189), "the last stage ends with the last visit; legal: 196"),
    (("stages", 1, "name", "taper"), "stages[3].name = 'taper' is the name of stages[2] too"),
    (("stages", 1, "arms", {"placbo": {}}), "'placbo' is not the name of an arm; did you mean 'placebo'"),
    (("stages", 0, "who", "responders"), "stages[1].who: the first stage is that of [[arms]]"),
    (("stages", 2, "who", "everybody"), "stages[3].who = 'everybody'"),
    (("stages", 1, "others", "off"), "there are none; legal: with who other than 'all'"),
    (("stages", 3, "treatment", "on"), "nobody is off treatment; legal: with treatment = 'off'"),
    (("stages", 3, "relapse_below_1e9_per_l", None), "at_relapse = 'restart': relapse_below_1e9_per_l is missing"),
    (("stages", 3, "relapse_below_1e9_per_l", -1.0), "relapse_below_1e9_per_l"),
    (("stages", 2, "titration", "tapper"), "stages[3]: titration = 'tapper' is not defined; did you mean 'taper'"),
    (("stages", 1, "arms", {"placebo": {"drug": "hetrombopag"}}), "start_dose_mg is missing: hetrombopag begins"),
    (("stages", 1, "arms", {"placebo": {"drug": "hetrombopag", "start_dose_mg": 3.0}}), "3.0 is not on the ladder"),
    (("stages", 1, "arms", {"active": {"drug": "eltrombopag", "start_dose_mg": 2.5}}), "a rule for each drug"),
    (("stages", 2, "others", "carry on"), "stages[3].others = 'carry on'"),
    (("stages", 1, "tritration", "usual"), "unknown key 'tritration'"),
    (("stages", 1, "titration", "none"), "legal: the same levels, or start_dose_mg"),
    (("stages", 1, "start_dose_mg", -2.0), "start_dose_mg"),
    (("titration", "taper", "levels_mg", [2.5, 5]), "its levels are not those of the stage before"),
    (("titration", "hold", RULE), "another name than 'hold'"),
    (("trial", "visit_window_d", 4), "legal: smaller windows"),
    (("trial", "visit_window_d", [1, 2, 3]), "legal: days from 0 on, one number or [early, late]"),
    (("trial", "visit_window_d", -1), "legal: days from 0 on, one number or [early, late]"),
    (("trial", "visit_window_d", [8, 0]), "legal: smaller windows"),
    (("trial", "missed_visit_share", 1.0), "missed_visit_share"),
    (("trial", "schedule", [{"every_d": 7, "until_d": 14}]), "schedule and visits_d exclude each other"),
    (("trial", "design", "crossover"), "trial.design = 'crossover'"),
    (("arms", 0, "treatment_d", 56), "legal: a stage of treatment = 'off'"),
    (("arms", 0, "dose_every_d", 0), "dose_every_d"),
    (("arms", 0, "loading_d", 3), "loading_dose_mg and loading_d go together"),
    (("arms", 0, "adherence", {}), "missed_share is missing"),
    (("arms", 0, "adherence", {"missed_share": 1.0}), "missed_share"),
    (("arms", 0, "adherence", {"missed_share": 0.8, "mean_missed_run_d": 2}), "runs are longer; legal: at least 4"),
    (("arms", 0, "meals", {"fasted": 0.5}), "shares add to 0.5"),
    (("arms", 0, "meals", {"lunch": 1.0}), "lunch"),
    (("dropout", {"low_count_1e9_per_l": 20.0}), "low_count_1e9_per_l and low_count_hazard_ratio go together"),
    (("dropout", {"low_count_1e9_per_l": 20.0, "low_count_hazard_ratio": 2.0}), "a multiple of hazard_per_week"),
    (("titration", "taper", "bands", 0, "weight_below_kg", 0.0), "weight_below_kg"),
    (("titration", "taper", "bands", 0, "weight_from_kg", 2000.0), "weight_from_kg"),
]  # fmt: skip


@pytest.mark.parametrize(("path_and_value", "told"), BAD)
def test_bad_protocols_are_one_clear_error(path_and_value, told):
    with pytest.raises(InputError) as error:
        build(changed(*path_and_value), "s.toml")
    message = str(error.value)
    assert message.startswith("s.toml: ") and told in message and "\n" not in message


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"every_d": 7, "until_d": 20}], "[1].until_d = 20: no visit; legal: a multiple of 7 days after day 0"),
        ([{"every_d": 7, "until_d": 14}, {"every_d": 7, "until_d": 14}], "trial: schedule[2].until_d = 14: no visit"),
        ([{"every_d": 0, "until_d": 14}], "every_d"),
    ],
)  # fmt: skip
def test_bad_schedules_are_one_clear_error(rows, told):
    data = {**copy.deepcopy(DATA), "trial": {"schedule": rows}, "stages": []}
    with pytest.raises(InputError) as error:
        build(data, "s.toml")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_notebook_and_a_summary_hold_what_protocols_add():
    import pkpd
    from pkpd import notebook

    scenario = load_scenario("phase3_stages", ["arms.1.n=20", "arms.2.n=20", "arms.3.n=20"])
    data = pkpd.simulate_scenario(scenario)
    for name in notebook.OF_PROTOCOLS:
        assert data[name].dims == ("visit", "patient") and data[name].attrs["long_name"]
    assert data["stage"].max() == 3 and data["taken_mg"].max() > 0
    summary = pkpd.summarise_scenario(scenario)
    given = summary["dose_share"].sel(arm="placebo").sum("visit").to_series()
    assert given[25.0] > 0 and given[2.5] == 0  # eltrombopag after placebo
    total = summary["dose_share"].sum("dose_mg")[:, 1:]
    np.testing.assert_allclose(total, 1)
