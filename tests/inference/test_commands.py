"""What trial, simulate, profile and info write: columns, formats, repeatability, and disks that are full."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from inference.cli import main
from pkpd.datatables import table_names
from pkpd.scenario import shipped

SCENARIO = """
[trial]
visits_d = [7, 14]
n_trials = 4
[[arms]]
name = "drug"
drug = "hetrombopag"
n = 6
start_dose_mg = 5.0
[[arms]]
name = "placebo"
drug = "placebo"
n = 3
[entry]
platelets_below_1e9_per_l = 30
[analysis]
endpoint = "response_week_2"
test = "fisher"
control = "placebo"
alpha = 0.05
"""
CASE = "times_h = [0, 12.5, 24]\n[[daily_doses]]\nfirst_day = 0\nlast_day = 0\nmg = 5.0\n"
COURSE = (
    "arm", "draw", "patient", "visit", "time_h", "dose_mg", "platelets_true", "platelets_observed", "interrupted",
    "stopped", "rescued", "response", "cmax", "auc", "trough",
)  # fmt: skip
SUMMARY = "design comparison quantity estimate mc_se lower upper n_trials n_draws".split()


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    (tmp_path / "s.toml").write_text(SCENARIO)
    (tmp_path / "c.toml").write_text(CASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_trial_writes_a_summary_and_a_manifest(work, capsys):
    assert main("trial s.toml --out run --seed 3".split()) == 0
    assert "response_week_2" in capsys.readouterr().out
    summary = pd.read_csv(work / "run" / "summary.csv")
    assert list(summary.columns) == SUMMARY
    assert {"drug", "placebo"} <= set(summary["comparison"]) and (summary["n_trials"] == 4).all()
    manifest = json.loads((work / "run" / "manifest.json").read_text())
    assert manifest["command"] == "trial" and manifest["seed"] == 3
    assert set(manifest["sha256"]) == {"code", "data", "library", "scenario", "posterior", "options"}
    assert manifest["versions"]["jax"].count(".") == 2


def test_trial_without_out_only_prints(work, capsys):
    assert main("trial s.toml".split()) == 0
    assert "response_week_2" in capsys.readouterr().out
    assert sorted(path.name for path in work.iterdir()) == ["c.toml", "s.toml"]


def test_simulate_writes_a_row_a_patient_and_visit_and_the_same_again(work):
    assert main("simulate s.toml --seed 5".split()) == 0
    cohort = pd.read_parquet(work / "s.parquet")
    assert set(COURSE) <= set(cohort.columns)
    assert len(cohort) == 9 * 3 and cohort.groupby(["arm", "draw", "patient"]).ngroups == 9
    assert set(cohort["time_h"]) == {0.0, 168.0, 336.0}
    assert main("simulate s.toml --seed 5 --out again.parquet".split()) == 0
    assert main("simulate s.toml --seed 6 --out other.parquet".split()) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(work / "again.parquet"), cohort)
    assert not pd.read_parquet(work / "other.parquet")["platelets_true"].equals(cohort["platelets_true"])
    assert pq.read_schema(work / "s.parquet").field("platelets_true").type == "float"


def test_a_large_cohort_is_written_in_row_groups(work, monkeypatch):
    monkeypatch.setattr("inference.commands.simulate.ROWS", 6000)
    assert main("simulate s.toml --patients 4500".split()) == 0
    assert main("simulate s.toml --patients 1000 --out fewer.parquet".split()) == 0
    file = pq.ParquetFile(work / "s.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sum(groups) == 2 * 4500 * 3 and len(groups) > 2 and min(groups[:-1]) >= 6000
    cohort, fewer = file.read().to_pandas(), pd.read_parquet(work / "fewer.parquet")
    first = cohort[(cohort["arm"] == "drug") & (cohort["patient"] < 1000)].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, fewer[fewer["arm"] == "drug"])


def test_a_summary_is_that_of_the_cohort(work, capsys):
    assert main("simulate s.toml --patients 500".split()) == 0
    assert main("simulate s.toml --patients 500 --summary s.csv".split()) == 0
    table = pd.read_csv(work / "s.csv", dtype={"of": str}, keep_default_na=False)
    value = {tuple(row[:4]): row[4] for row in table.itertuples(index=False)}
    cohort = pd.read_parquet(work / "s.parquet")
    drug = cohort[(cohort["arm"] == "drug") & (cohort["visit"] == 2)]
    assert value["drug", "2", "response", ""] == pytest.approx(drug["response"].mean())
    assert value["drug", "2", "cmax_ng_per_ml_quantile", "0.5"] == pytest.approx(drug["cmax"].median(), rel=0.02)
    assert value["drug", "2", "dose_share", "5.0"] == (drug["dose_mg"] == 5).mean() == 1
    capsys.readouterr()
    assert main("simulate s.toml --out o.parquet --summary o.csv".split()) == 2
    assert "give one of them" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["--out new/o.parquet", "--summary new/o.csv"])
def test_an_interrupted_simulation_leaves_nothing_behind(work, monkeypatch, arguments):
    from pkpd import trial

    whole = trial.over_tiles

    def interrupted(*args, **kwargs):
        yield from itertools.islice(whole(*args, **kwargs), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("inference.commands.simulate.ROWS", 1)
    monkeypatch.setattr("pkpd.trial.over_tiles", interrupted)
    monkeypatch.setattr("pkpd.streaming.over_tiles", interrupted)
    assert main(f"simulate s.toml --patients 9000 {arguments}".split()) == 130
    assert sorted(path.name for path in work.iterdir()) == ["c.toml", "s.toml"]


@pytest.mark.parametrize("solver", ["fast", "reference"])
def test_profile_writes_csv_of_every_state(work, root, solver):
    assert main(f"profile c.toml --out o.csv --solver {solver}".split()) == 0
    expected = (root / "tests/reference/itp_5mg_8weeks.csv").read_text().splitlines()[0]
    lines = (work / "o.csv").read_text().splitlines()
    assert lines[0] == expected and len(lines) == 4
    cells = [cell for line in lines[2:] for cell in line.split(",")]
    assert sum(len(cell.lstrip("-0.").split("e")[0].replace(".", "")) >= 10 for cell in cells) > len(cells) / 2


def test_info_says_what_computes_and_where_files_are(capsys, root):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    for word in ("jax", "cpu", "float32", "xla", "reference", "hetrombopag", "phase3", "phase3_arms", "dose_rule"):
        assert word in said


def test_a_search_and_a_table_of_patients_are_checked(work, capsys):
    assert main(["check", "dose_rule"]) == 0
    said = capsys.readouterr().out
    assert "Objective: max response_week_8 of start 5 mg" in said and "30, 50, 75, 100" in said
    assert "Constraint: overshoot_400 of start 5 mg at most 0.08" in said and "ok: search of 108 combinations" in said
    (work / "q.toml").write_text("[objective]\nquantity = 'power_any'\naim = 'least'\n[keys]\ntrial.n_trials = [5]\n")
    assert main(["check", "q.toml"]) == 2
    assert "q.toml: objective.aim = 'least': legal: 'max' or 'min'" in capsys.readouterr().err
    (work / "p.csv").write_text("baseline_1e9_per_l,weight_kg,female\n12,60,1\n20,70,0\n")
    assert main(["check", "p.csv"]) == 0
    said = capsys.readouterr().out
    assert "drawn from 2 of p.csv" in said and "50% female" in said and "ok: table of 2 patients" in said
    (work / "p.csv").write_text("baseline_1e9_per_l,weight\n12,60\n")
    assert main(["check", "p.csv"]) == 2
    assert "unknown column 'weight'" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*shipped(), *table_names()])
def test_everything_that_ships_is_good(work, capsys, name):
    assert main(["check", name]) == 0
    assert "\nok: " in capsys.readouterr().out


WRITES = ["simulate s.toml --out {}", "simulate s.toml --summary {}", "profile c.toml --out {}"]


@pytest.mark.parametrize("command", WRITES)
def test_a_full_device(work, capsys, command):
    assert main(command.format("/dev/full").split()) == 2
    said = capsys.readouterr()
    assert said.err == (
        "pkpd: error: /dev/full: cannot be written: the disk is full; free some space or choose another place\n"
    )
    assert sorted(path.name for path in work.iterdir()) == ["c.toml", "s.toml"]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))
from inference.cli import entry
entry()
"""


@pytest.mark.parametrize("command", [*WRITES, "trial s.toml --out {}"])
def test_a_limit_on_file_sizes(work, root, command):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *command.format("new/o").split()],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    what = "new/o/checkpoint/identity.json" if command.startswith("trial") else "new/o"
    reason = "the file grew beyond the limit on file sizes (see ulimit -f)"
    assert done.stderr == f"pkpd: error: {what}: cannot be written: {reason}\n"
    assert sorted(path.name for path in work.iterdir()) == ["c.toml", "s.toml"]
