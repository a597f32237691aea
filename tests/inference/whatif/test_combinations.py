"""Features of the simulator together: single trials, tables of patients and data sets say the same, however cut."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest

from inference import trials
from inference.whatif import characteristics, dataset, further, patients, per_trial, runs
from inference.whatif.counts import sizes_analysed
from pkpd.planned import planned_arms
from pkpd.scenario import Scenario, build

DRAWS = {"receptor_ec50_nM": np.array([20.0, 27.0, 40.0]), "max_stimulation": np.array([2.0, 3.0, 2.5])}
TRIALS, SEED, NUMBER = 7, 5, 4
RULE = {"levels_mg": [2.5, 3.75, 5, 7.5], "up_below": 50, "up_every_d": 14, "up_min_days_since_change": 14}
OTHER = {"levels_mg": [25, 50, 75], "up_below": 50, "up_every_d": 14, "up_min_days_since_change": 14}
SWITCH = {"levels_mg": RULE["levels_mg"], "bands": [{"action": "switch", "below": 50, "min_days_since_change": 14}]}
TO = {"drug": "eltrombopag", "start_dose_mg": 50, "titration": "other"}
STAGES = [
    {"name": "blind", "until_d": 28},
    {"name": "open", "until_d": 56, "arms": {"placebo": TO}},
]
SCREENING = {"visits_d": [-14, -7], "criterion": "mean", "other_failure_share": 0.1}
BLOCKS = {"block": 6, "ratio": [1, 1, 1]}
BY_COUNT = BLOCKS | {"strata": {"baseline_1e9_per_l": [15], "splenectomy": True}}
BY_AGE = BLOCKS | {"strata": {"age_y": [50], "weight_kg": [70]}}
SECONDARY = [
    {"endpoint": "rescue", "test": "fisher"},
    {"endpoint": "share_in_range", "stage": "open", "test": "ancova"},
]
LOOKS = {"looks": [0.5, 1.0], "boundary": "pocock"}
COMBINATIONS = {
    "a switch before a stage, screened strata, windows, rescue by rule, secondaries by stage": {
        "switch": True, "stages": STAGES, "randomisation": BY_COUNT, "screening": SCREENING,
        "trial": {"visit_window_d": 2, "missed_visit_share": 0.1}, "rescue": {"below_1e9_per_l": 12, "from_d": 14},
        "dropout": {"hazard_per_week": 0.05, "low_count_1e9_per_l": 20, "low_count_hazard_ratio": 3},
        "analysis": {"multiplicity": "bonferroni", "secondary": SECONDARY}, "interims": LOOKS,
    },
    "strata in the analysis, entry by age, arms dropped, accrual": {
        "randomisation": BY_AGE, "analysis": {"strata": "as randomised", "multiplicity": "bonferroni"},
        "entry": {"age_from_y": 30, "weight_below_kg": 90}, "accrual": {"patients_per_week": 2, "ramp_weeks": 4},
        "interims": LOOKS | {"drop_losers": {"at_look": 1, "keep": 1}},
    },
}  # fmt: skip


def scenario(combination: dict, start_mg: float = 2.5) -> Scenario:
    """Two active arms and placebo for 8 weeks, with the tables of a combination."""
    more = copy.deepcopy(combination)
    data = {
        "trial": {"n_trials": TRIALS, "visits_d": [7, 14, 21, 28, 35, 42, 49, 56]},
        "arms": [
            {"name": "low", "drug": "hetrombopag", "n": 7, "start_dose_mg": start_mg, "titration": "usual"},
            {"name": "high", "drug": "hetrombopag", "n": 7, "start_dose_mg": 5.0, "titration": "usual"},
            {"name": "placebo", "drug": "placebo", "n": 5, "titration": "usual"},
        ],
        "entry": {"platelets_below_1e9_per_l": 30},
        "titration": {"usual": RULE, "other": OTHER},
        "analysis": {
            "endpoint": "response_week_8", "test": "cochran-mantel-haenszel", "control": "placebo", "alpha": 0.2,
        },
    }  # fmt: skip
    if more.pop("switch", False):
        data["titration"]["switch"] = SWITCH
        data["arms"][1] |= {"titration": "switch", "switch_to": TO}
    for table, own in more.items():
        data[table] = data[table] | own if isinstance(own, dict) and table in data else own
    return build(data, "combined")


def table_of(design: Scenario) -> pd.DataFrame:
    return pd.concat(patients.parts(design, DRAWS, TRIALS, SEED, "auto"), ignore_index=True)


@pytest.fixture(scope="module", params=COMBINATIONS.values(), ids=COMBINATIONS)
def run(request):
    design = scenario(request.param)
    block = trials.block_of(trials.Plan(design, DRAWS, SEED, "auto"))
    return request.param, design, block, block(0, TRIALS), table_of(design)


def test_trials_are_the_same_in_parts(run):
    _, design, block, whole, _ = run
    parts = runs.packed(runs.joined([block(0, 4), block(4, TRIALS - 4)]))
    for name, array in runs.packed(whole).items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)
    rows = characteristics.begun(design, 3)
    for part in (runs.Chunk(0, 4), runs.Chunk(4, TRIALS - 4)):
        characteristics.add(rows, design, runs.trials_of(whole, part))
    pd.testing.assert_frame_equal(rows.table(), characteristics.table(design, whole, 3))


def test_the_table_of_patients_is_of_the_same_trials(run):
    _, design, _, whole, table = run
    rows = per_trial.rows_of(design, whole, 0, 3)
    everybody = list(range(sum(arm.n for arm in design.arms)))
    assert (table.groupby("trial")["patient"].apply(sorted).map(lambda who: who == everybody)).all()
    for j, arm in enumerate(design.arms):
        own = table[table["arm"] == arm.name].groupby("trial")
        assert (own.size() == arm.n).all()
        np.testing.assert_array_equal(own["landmark_response"].sum(), rows[f"{arm.name}: response_week_8"])
        np.testing.assert_array_equal(own["rescued"].sum(), rows[f"{arm.name}: rescue"])
        for name in patients.FURTHER:
            np.testing.assert_allclose(own[name].mean(), rows[f"{arm.name}: mean {name}"], rtol=1e-5, atol=1e-6)
        if whole.analysed is not None:  # a look reads the first patients of the arm as they came
            for look, n in enumerate(sizes_analysed(design)[:, j]):
                first = own.apply(lambda x, n=n: x.nsmallest(n, "patient")["outcome"].sum(), include_groups=False)
                np.testing.assert_array_equal(first, whole.analysed[:, look, j])


def test_doses_of_a_stage_are_told_of_each_drug_by_itself():
    design = scenario(next(iter(COMBINATIONS.values())))
    a = planned_arms(design)[1]
    (v,) = (v for *_, v in trials.courses(design, a, DRAWS, TRIALS, SEED, "auto"))
    value, present = (dict(zip(further.names(design), x, strict=True)) for x in further.values(design, a, v))
    second = np.asarray(v.second)
    assert 0 < second[-1].mean() < 1
    for stage, at in (("blind", slice(0, 4)), ("open", slice(4, 8))):
        taken = np.where(np.asarray(v.dropped), 0, np.asarray(v.taken_mg))[at]
        for name, on, levels in (("", ~second, RULE["levels_mg"]), ("second_", second, OTHER["levels_mg"])):
            np.testing.assert_allclose(value[f"{name}taken_mg_{stage}"], (taken * on[at]).sum(axis=0), rtol=1e-6)
            there = present[f"{name}auc_ng_h_per_ml_{stage}"]
            np.testing.assert_array_equal(there, on[at][-1] & ~np.asarray(v.dropped)[at][-1])
            assert np.isin(value[f"{name}dose_at_end_mg_{stage}"][there], [0, *levels]).all()
            length = np.diff(np.asarray(v.visit_d), axis=0, prepend=0)[at]
            mean = (np.asarray(v.auc_ng_h_per_ml)[at] * on[at]).sum(axis=0)[there] / (length * on[at]).sum(axis=0)[
                there
            ]
            np.testing.assert_allclose(value[f"{name}auc_ng_h_per_ml_{stage}"][there], mean, rtol=1e-5)
        assert (present[f"dose_at_end_mg_{stage}"] & present[f"second_dose_at_end_mg_{stage}"]).sum() == 0


def test_a_data_set_is_of_the_same_patients(run):
    _, design, _, _, table = run
    rows = dataset.dataset(design, DRAWS, NUMBER, SEED, "auto")
    own = table[table["trial"] == NUMBER].sort_values("patient").set_index("patient")
    first = rows.groupby("ID").first()
    np.testing.assert_array_equal(first.index - 1, own.index)
    assert [design.arms[arm - 1].name for arm in first["ARM"]] == list(own["arm"])
    np.testing.assert_allclose(first[["BLPLT", "WT"]], own[["baseline_1e9_per_l", "weight_kg"]], rtol=1e-6)
    counts = rows[rows["EVID"] == 0]
    np.testing.assert_array_equal(counts.groupby("ID")["RESCUED"].max() > 0, own["rescued"])
    last = counts[counts["VISIT"] == 8].set_index("ID").reindex(first.index)
    np.testing.assert_array_equal((last["DV"] >= 50) & (last["RESCUED"] == 0), own["landmark_response"])


def test_another_start_dose_moves_the_patients_of_its_arm_alone(run):
    combination, _, _, _, table = run
    key = ["trial", "patient"]
    here, there = (t.sort_values(key, ignore_index=True) for t in (table, table_of(scenario(combination, 5.0))))
    others = [t[t["arm"] != "low"] for t in (here, there)]
    pd.testing.assert_frame_equal(*others)
    known = [name for name in here if name not in ("landmark_response", "outcome", "rescued", *patients.FURTHER)]
    pd.testing.assert_frame_equal(here[known], there[known])
    low = [t[t["arm"] == "low"]["dose_at_end_mg"] for t in (here, there)]
    assert (low[0] != low[1]).any()


def test_who_a_reestimation_takes_in_are_further_patients_of_the_same_blocks():
    arms = [
        {"name": name, "drug": drug, "n": 6, "start_dose_mg": 5.0, "titration": "usual"}
        for name, drug in (("high", "hetrombopag"), ("placebo", "placebo"))
    ]
    grow = LOOKS | {"reestimate": {"at_look": 1, "max_factor": 2.0, "conditional_power": 0.9}}
    blocks = {"block": 4, "strata": {"baseline_1e9_per_l": [15]}}
    design = scenario({"arms": arms, "interims": grow, "randomisation": blocks, "screening": SCREENING})
    groups = list(trials._groups(design, planned_arms(design)))
    sizes = sizes_analysed(design)
    assert [(a.name, a.n, start) for _, a, start in groups[2:]] == [("high", 6, 6), ("placebo", 6, 6)]
    number, place = (x.reshape(-1) for x in np.mgrid[:TRIALS, :6])
    who = np.stack([trials.numbers_of(a, DRAWS, SEED)(number, place).reshape(TRIALS, 6) for _, a, _ in groups], 1)
    assert (np.sort(who.reshape(TRIALS, -1)) == np.arange(sizes[-1].sum())).all()
    assert (who[:, :2] < 12).all() and (who[:, 2:] >= 12).all()
