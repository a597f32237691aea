"""The table of a run's patients: the patients of the run itself, whatever the parts; and a user's own in such runs."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from inference import trials
from inference.cli import BAD_INPUT, INTERRUPTED, main
from inference.whatif import further, patients, runs
from pkpd.devices import TILE
from pkpd.scenario import load_scenario
from tests.inference.whatif.test_trial_command import SCENARIO

SMALL = ["arms.1.n=12", "arms.2.n=11", "arms.3.n=10", "trial.n_trials=6"]
DRAWS = {"receptor_ec50_nM": np.array([2.0, 8.0, 32.0])}


def table(design, draws=None, seed=5) -> pd.DataFrame:
    found = list(patients.parts(design, draws or {}, design.trial.n_trials, seed, "auto"))
    return pd.concat([part.astype({"arm": str}) for part in found], ignore_index=True)


@pytest.fixture(scope="module")
def phase3():
    design = load_scenario("phase3", [*SMALL, "dropout.hazard_per_week=0.05"])
    return design, table(design, DRAWS)


def test_they_are_those_whom_the_run_counts(phase3):
    design, rows = phase3
    counts = trials.block_of(trials.Plan(design, DRAWS, 5, "auto"))(0, 6)
    names = further.names(design)
    assert len(rows) == 33 * 6 and (rows["draw"] == rows["trial"] % 3).all()
    assert patients.outcome_name(design) == "response_week_8"
    for arm, own in rows.groupby("arm"):
        by_trial = own.groupby("trial")
        np.testing.assert_array_equal(by_trial["landmark_response"].sum(), counts.by_arm[arm][:, 0])
        np.testing.assert_array_equal(by_trial["outcome"].sum(), counts.by_arm[arm][:, 0])
        for name in patients.FURTHER:
            at = names.index(name)
            np.testing.assert_allclose(by_trial[name].sum(), counts.sums[arm][:, at])
            of = by_trial[name].count()
            np.testing.assert_array_equal(of, counts.numbers[arm][:, at])
    assert 0 < rows["dose_at_end_mg"].isna().mean() < 1 and rows["dose_at_end_mg"].isna().equals(
        ~rows["in_trial_at_end"]
    )
    assert rows.groupby("arm")["patient"].min().to_dict() == {"start 2.5 mg": 0, "start 5 mg": 12, "placebo": 23}


def test_who_they_are_is_what_their_courses_began_with(phase3):
    design, rows = phase3
    from pkpd.planned import planned_arms

    for a in planned_arms(design):
        own = rows[rows["arm"] == a.name]
        (v,) = (v for _, _, v in trials.courses(design, a, DRAWS, 6, 5, "auto"))
        np.testing.assert_array_equal(own["baseline_1e9_per_l"], v.baseline)
        np.testing.assert_array_equal(own["weight_kg"], v.weight_kg)
        np.testing.assert_array_equal(own["rescued"], v.rescued[-1])
    middle = rows.groupby("draw")["receptor_ec50_nM"].median()
    assert (middle / DRAWS["receptor_ec50_nM"]).between(0.6, 1.7).all()
    assert rows["female"].isin([0, 1]).all() and 0.3 < rows["female"].mean() < 0.9 and (rows["healthy"] == 0).all()


def test_the_same_patients_whatever_the_parts(phase3, monkeypatch):
    design, rows = phase3
    monkeypatch.setattr(patients, "trials_a_chunk", lambda design, width: 4)
    order = ["arm", "trial", "patient"]
    again = table(design, DRAWS)
    assert again["trial"].iloc[12 * 4] == 0 and again["arm"].iloc[12 * 4] != again["arm"].iloc[0]
    expected = rows.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(again.sort_values(order, ignore_index=True), expected)


def test_more_than_one_tile_of_an_arm():
    design = load_scenario("phase3", ["arms.1.n=1500", "arms.2.n=1", "arms.3.n=1", "trial.n_trials=2"])
    rows = table(design)
    assert 1500 * 2 > TILE and len(rows) == 1502 * 2
    second = rows[(rows["trial"] == 1) & (rows["arm"] == "start 2.5 mg")]
    assert second["patient"].tolist() == list(range(1500)) and second["weight_kg"].nunique() > 1400


def test_outcomes_of_other_kinds():
    time = load_scenario("phase3", [*SMALL, "analysis.endpoint=time_to_first_response", "analysis.test=log-rank"])
    rows = table(time)
    assert rows["outcome_event"].dtype == bool and 0 < rows["outcome_event"].mean() < 1
    assert (rows.loc[~rows["outcome_event"], "outcome"] == 56).all() and set(rows["outcome"]) <= set(range(7, 57, 7))
    repeated = load_scenario("phase3", [*SMALL, "analysis.endpoint=log_counts", "analysis.test=mmrm"])
    rows = table(repeated)
    assert patients.outcome_name(repeated) == "response_week_8" and "outcome_event" not in rows
    assert (rows["outcome"] == rows["landmark_response"]).all()


def test_the_command_writes_them(tmp_path):
    sets = [x for s in SMALL for x in ("--set", s)]
    assert main(["trial", "phase3", *sets, "--seed", "7", "--out", str(tmp_path / "run"), "--patients"]) == 0
    read = pd.read_parquet(tmp_path / "run" / patients.FILE)
    expected = table(load_scenario("phase3", SMALL), seed=7)
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
    assert main(["trial", "phase3", *sets, "--out", str(tmp_path / "null"), "--patients", "--null"]) == 0
    under_null = pd.read_parquet(tmp_path / "null" / patients.FILE)
    assert not under_null["drug_acts"].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trial phase3 --patients", "--patients: the table is written to the folder of --out; legal: with --out"),
        ("trial s.toml --patients --out r", "--patients: s states responses, nobody is simulated; legal: without it"),
        ("trial s.toml --patients --out r --set arms.a.n=20,30", "--patients: s states responses"),
    ],
)
def test_where_there_are_none_it_is_one_clear_error(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    assert main(arguments.split()) == BAD_INPUT
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and [p.name for p in tmp_path.iterdir()] == ["s.toml"]


# A user's own table of patients


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("baseline_1e9_per_l,weight_kg\n10,50\n20,90\n")
    return [x for s in (*SMALL, "entry.patients=t.csv") for x in ("--set", s)]


def test_a_plan_holds_the_rows_of_a_users_table(own, tmp_path):
    design = load_scenario("phase3", own[1::2])
    plan = trials.Plan(design, {}, 5, "auto")
    here = trials.block_of(plan)(0, 3)
    (tmp_path / "t.csv").unlink()
    there = trials.block_of(pickle.loads(pickle.dumps(plan)))(0, 3)
    for arm in here.by_arm:
        np.testing.assert_array_equal(there.by_arm[arm], here.by_arm[arm])
    rows = table(design)
    assert set(zip(rows["baseline_1e9_per_l"], rows["weight_kg"], strict=True)) == {(10, 50), (20, 90)}


def test_a_users_table_in_simulate(own, tmp_path):
    (tmp_path / "p.toml").write_text(
        '[trial]\nvisits_d = [7]\n[entry]\nplatelets_below_1e9_per_l = 30\npatients = "t.csv"\n'
        '[[arms]]\nname = "a"\ndrug = "placebo"\nn = 50\n'
    )
    assert main("simulate p.toml --out p.parquet".split()) == 0
    rows = pd.read_parquet(tmp_path / "p.parquet")
    assert set(rows.loc[rows["visit"] == 0, "platelets_true"]) == {10, 20}


def test_a_run_is_not_resumed_with_an_edited_table(own, tmp_path, monkeypatch, capsys):
    command = ["trial", "phase3", *own, "--out", "r"]
    monkeypatch.setattr(runs, "trials_a_chunk", lambda design, width: 1)
    real, counted = trials.patient_blocks, []

    def broken(*args):
        block = real(*args)

        def stops(first, n):
            counted.append(first)
            if len(counted) == 3:
                raise KeyboardInterrupt
            return block(first, n)

        return stops

    monkeypatch.setattr(trials, "patient_blocks", broken)
    assert main(command) == INTERRUPTED
    before = (tmp_path / "t.csv").read_text()
    (tmp_path / "t.csv").write_text(before.replace("90", "91"))
    capsys.readouterr()
    assert main([*command, "--resume"]) == BAD_INPUT
    assert "scenario" in capsys.readouterr().err and counted == [0, 1, 2]
    (tmp_path / "t.csv").write_text(before)
    assert main([*command, "--resume"]) == 0 and counted == [0, 1, 2, 2, 3, 4, 5]
