"""One simulated trial as records for other programs: the same patients, counts and doses as the run itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from inference import trials
from inference.cli import main
from inference.progress import silent
from inference.trials import courses
from inference.whatif.dataset import COLUMNS, HAS, dataset
from inference.whatif.effects import traits
from pkpd.errors import InputError
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario

SMALL = ["arms.1.n=12", "arms.2.n=11", "arms.3.n=10", "trial.n_trials=4", "dropout.hazard_per_week=0.05"]


def test_covariates_are_those_of_the_patients():
    shares = ["parameters.splenectomy_share=0.4", "parameters.corticosteroid_share=0.2"]
    sizes = ["arms.1.n=40", "arms.2.n=40", "arms.3.n=40", "trial.n_trials=3"]
    settings = ["analysis.test=logistic", "analysis.covariates=['age_y']", *shares, *sizes]
    design = load_scenario("phase3", settings)
    rows = dataset(design, {}, 1, 4, "auto")
    own = rows.groupby("ID").first()
    assert tuple(rows.columns) == (*COLUMNS, "AGE") and (rows.groupby("ID")["SPLENECT"].nunique() == 1).all()
    for index, a in enumerate(planned_arms(design), start=1):
        (v,) = (v for _, _, v in courses(design, a, {}, 1, 4, "auto", 1))
        of_arm, known = own[own["ARM"] == index], traits(v)
        for column, name in HAS.items():
            np.testing.assert_array_equal(of_arm[column], known[name])
        np.testing.assert_allclose(of_arm["AGE"], known["age_y"])
    assert 0.25 < own["SPLENECT"].mean() < 0.55 and 0.05 < own["STEROID"].mean() < 0.35


def test_records_hold_the_counts_and_doses_of_that_trial():
    design = load_scenario("phase3", SMALL)
    rows = dataset(design, {}, 2, 5, "auto")
    assert tuple(rows.columns) == COLUMNS and rows["ID"].nunique() == 33
    counts = trials.patient_blocks(design, {}, 5, "auto", silent)(0, 4)
    for arm, of_arm in rows.groupby("ARM"):
        name = design.arms[arm - 1].name
        seen = of_arm[of_arm["EVID"] == 0]
        at_8 = seen[(seen["VISIT"] == 8) & (seen["RESCUED"] == 0) & (seen["DV"] >= 50)]
        assert len(at_8) == counts.by_arm[name][2, 0]
        if name == "placebo":
            assert (of_arm["EVID"] == 0).all()
    doses = rows[rows["EVID"] == 1]
    taken = (doses["AMT"] * (doses["ADDL"] + 1)).groupby(doses["ID"]).sum()
    for a in planned_arms(design):
        for _, _, v in trials.courses(design, a, {}, 1, 5, "auto", 2):
            ids = a.first_patient + 1 + np.arange(a.n)
            np.testing.assert_allclose(taken.reindex(ids, fill_value=0), 7 * v.dose_mg.sum(axis=0))
            visits = rows[(rows["EVID"] == 0) & rows["ID"].isin(ids)].groupby("ID").size()
            np.testing.assert_array_equal(visits, 1 + (~v.dropped).sum(axis=0))


def test_an_observation_comes_before_the_dose_of_its_time():
    rows = dataset(load_scenario("phase3", SMALL), {}, 0, 1, "auto")
    first = rows[(rows["TIME"] == 0) & (rows["ARM"] == 1)].groupby("ID")["EVID"].apply(list)
    assert (first.map(tuple) == (0, 1)).all()
    assert rows.equals(rows.sort_values(["ID", "TIME", "EVID"], kind="stable", ignore_index=True))


def test_doses_of_a_protocol_are_those_taken_and_visits_on_their_own_days():
    settings = [x.replace("dropout.hazard_per_week=0.05", "trial.n_trials=2") for x in SMALL]
    design = load_scenario("phase3_stages", settings)
    rows = dataset(design, {}, 1, 1, "auto")
    a = planned_arms(design)[0]
    (v,) = (v for _, _, v in trials.courses(design, a, {}, 1, 1, "auto", 1))
    doses = rows[(rows["EVID"] == 1) & (rows["ARM"] == 1)]
    taken = (doses["AMT"] * (doses["ADDL"] + 1)).groupby(doses["ID"]).sum()
    by_segment = v.segment_mg.sum(axis=0)  # every segment is a day where doses may be missed
    np.testing.assert_allclose(taken, by_segment, rtol=1e-6)
    seen = rows[(rows["EVID"] == 0) & (rows["ARM"] == 1) & (rows["VISIT"] == 3)]
    stays = ~v.dropped[2]
    np.testing.assert_array_equal(seen["TIME"], 24.0 * v.visit_d[2, stays])
    np.testing.assert_array_equal(seen["MDV"], v.missed[2, stays])
    assert len(np.unique(v.visit_d[2])) == 5


def test_periods_of_a_crossover_follow_each_other_from_rest():
    design = load_scenario("food_effect", ["trial.n_trials=1"])
    rows = dataset(design, {}, 0, 1, "auto")
    assert rows["ID"].nunique() == design.arms[0].n and (rows["EVID"] == 3).sum() == design.arms[0].n
    for _, own in rows.groupby("ID"):
        assert (np.diff(own["ARM"]) >= 0).all()
        (reset,) = np.flatnonzero(own["EVID"] == 3)
        assert own["ARM"].iloc[reset] == 2 and (own["ARM"].iloc[:reset] == 1).all()
        for _, period in own.groupby("ARM"):
            assert (np.diff(period["TIME"]) >= 0).all() and (period["EVID"] == 1).sum() >= 1
            assert period[period["EVID"] == 0]["VISIT"].iloc[0] == 0


def test_the_command_writes_it_with_dots_for_what_is_missing(tmp_path):
    sets = [x for s in SMALL for x in ("--set", s)]
    assert main(["trial", "phase3", *sets, "--out", str(tmp_path / "run"), "--dataset", "3"]) == 0
    file = tmp_path / "run" / "trial-3.csv"
    read = pd.read_csv(file, na_values=".")
    expected = dataset(load_scenario("phase3", SMALL), {}, 3, 1, "auto")
    pd.testing.assert_frame_equal(read, expected, check_dtype=False, rtol=1e-8)
    assert ",.," in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [-1, 4])
def test_a_trial_that_is_not_there_is_one_clear_error(number):
    with pytest.raises(InputError, match="legal: from 0 to 3"):
        dataset(load_scenario("phase3", SMALL), {}, number, 1, "auto")


def test_without_a_folder_or_patients_it_is_one_clear_error(capsys):
    assert main(["trial", "phase3", "--dataset", "1"]) == 2
    assert "legal: with --out" in capsys.readouterr().err
    with pytest.raises(InputError, match="no patients"):
        dataset(load_scenario("group_sequential"), {}, 0, 1, "auto")
