"""Bad input to every command: one message on stderr that says where and what is legal, exit 2, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from inference import store
from inference.cli import BAD_INPUT, main
from tests.inference import made_up

SCENARIO = """
[trial]
visits_d = [7, 14, 21, 28, 35, 42, 49, 56]
[[arms]]
name = "drug"
drug = "hetrombopag"
n = 20
start_dose_mg = 5.0
[[arms]]
name = "placebo"
drug = "placebo"
n = 10
[entry]
platelets_below_1e9_per_l = 30
[titration]
levels_mg = [2.5, 3.75, 5, 7.5]
up_below = 50
up_every_d = 14
up_min_days_since_change = 14
down_above = 200
hold_above = 250
resume_below = 150
stop_after_d = 28
[analysis]
endpoint = "response_week_8"
test = "fisher"
control = "placebo"
alpha = 0.05
"""
RULE = SCENARIO[SCENARIO.index("up_below") : SCENARIO.index("hold_above")]
CASE = """
times_h = [0, 12, 24]
[[daily_doses]]
first_day = 0
last_day = 1
mg = 5.0
[parameters]
clearance_l_per_h = 8.0
"""
TABLE = """study,arm,n,quantity,value,unit,status,source,time_d
S,a,20,response_any,12,patients,unpublished,ours,56
S,a,20,response_week_8,9,patients,unpublished,ours,56
"""
CONFIG = "seed = 3\n"


class Bad(NamedTuple):
    """The arguments, the file they name with its content, what the message must say, and where it must say it is."""

    arguments: str
    content: str | bytes | None
    message: str
    where: str = ""


def scenario(old: str, new: str, message: str, command: str = "trial") -> Bad:
    assert old in SCENARIO
    return Bad(f"{command} s.toml", SCENARIO.replace(old, new, 1), message, "s.toml: ")


def case(old: str, new: str, message: str) -> Bad:
    assert old in CASE
    return Bad("profile c.toml --out o.csv", CASE.replace(old, new, 1), message, "c.toml: ")


def table(old: str, new: str, message: str) -> Bad:
    assert old in TABLE
    return Bad("check t.csv", TABLE.replace(old, new, 1), message, "t.csv: ")


def config(content: str, message: str) -> Bad:
    return Bad("fit f.toml --out run", content, message, "f.toml: ")


BAD = {
    # files that cannot be read as what they should be
    "scenario malformed": Bad("trial s.toml", "[trial\nvisits_d", "s.toml: malformed TOML"),
    "scenario empty": Bad("simulate s.toml", "", "s.toml: is empty"),
    "scenario binary": Bad("trial s.toml", b"\x00\xff\xfe\x01", "s.toml: is not text"),
    "scenario missing": Bad("trial nowhere.toml", None, "nowhere.toml: no such file"),
    "scenario a folder": Bad("trial .", None, "is a folder; a TOML file is expected"),
    "scenario a device": Bad("trial /dev/zero", None, "/dev/zero"),
    "scenario nested without end": Bad("check s.toml", "a = " + "[" * 5000, "s.toml: malformed TOML"),
    "shipped scenario misspelt": Bad("trial phase4", None, "did you mean 'phase3'?"),
    "config malformed": Bad("fit f.toml", "seed = ", "malformed TOML"),
    "config empty": Bad("fit f.toml", "", "is empty"),
    "config missing": Bad("fit nowhere.toml", None, "nowhere.toml: no such file"),
    "folder without configs": Bad("fit .", None, "holds no config"),
    "case empty": Bad("profile c.toml --out o.csv", "", "c.toml: is empty"),
    "case binary": Bad("profile c.toml --out o.csv", b"\xff\xfe\x00", "c.toml: is not text"),
    "table empty": Bad("check t.csv", "", "t.csv: empty; legal: a header"),
    "table binary": Bad("check t.csv", b"\xff\xfe\x00\x01", "t.csv: is not text"),
    "table missing": Bad("check nowhere.csv", None, "nowhere.csv: no such file"),
    "unknown kind of file": Bad("check notes.txt", "hello", "notes.txt: unknown kind of file"),
    "TOML of no kind": Bad("check f.toml", "colour = 'red'", "neither a config, a scenario, a search nor a case"),
    "folder to check": Bad("check .", None, "is a folder; a TOML file is expected"),
    # scenarios
    "unknown key": scenario("visits_d", "visit_d", "trial: unknown key 'visit_d'; did you mean 'visits_d'?"),
    "unknown table": scenario("[entry]", "[entries]", "unknown key 'entries'; did you mean 'entry'?"),
    "no arms": scenario(SCENARIO[SCENARIO.index("[[arms]]") : SCENARIO.index("[entry]")], "", "arms is missing"),
    "arm of nobody": scenario("n = 20", "n = 0", "arms[1].n = 0"),
    "arm beyond the limit": scenario("n = 20", "n = 10_000_001", "arms[1].n = 10000001"),
    "arm size a word": scenario("n = 20", "n = 'many'", "arms[1].n = 'many'"),
    "arms of one name": scenario('"placebo"', '"drug"', "arms[2].name = 'drug' is the name of arms[1] too"),
    "arm without a name": scenario('"drug"', '" "', "arms[1].name = ' ' is blank"),
    "unknown drug": scenario('"hetrombopag"', '"hetrombopak"', "arms[1].drug = 'hetrombopak'"),
    "negative dose": scenario("5.0", "-5.0", "arms[1].start_dose_mg = -5.0"),
    "infinite dose": scenario("5.0", "inf", "arms[1].start_dose_mg = inf"),
    "dose off the ladder": scenario("5.0", "4.0", "start_dose_mg = 4.0 is not on the ladder"),
    "visits out of order": scenario("7, 14, 21", "7, 21, 14", "trial.visits_d"),
    "visit before the first dose": scenario("[7, 14", "[-7, 14", "trial.visits_d"),
    "visit on half a day": scenario("[7, 14", "[7.5, 14", "trial.visits_d"),
    "levels that fall": scenario("3.75, 5", "5, 3.75", "levels_mg must increase: 3.75 follows 5"),
    "thresholds out of order": scenario("hold_above = 250", "hold_above = 180", "must be below hold_above = 180"),
    "resumption above hold": scenario("resume_below = 150", "resume_below = 300", "must be at most hold_above = 250"),
    "no responders possible": scenario(RULE, RULE.replace("50", "30").replace("200", "40"), "no responders possible"),
    "nobody eligible": scenario("per_l = 30", "per_l = 1", "nobody is eligible"),
    "alpha not a number": scenario("alpha = 0.05", "alpha = nan", "analysis.alpha = nan"),
    "alpha of one": scenario("alpha = 0.05", "alpha = 1.0", "analysis.alpha = 1.0"),
    "unknown control": scenario('control = "placebo"', 'control = "placeba"', "did you mean 'placebo'?"),
    "unknown endpoint": scenario("response_week_8", "response_weak_8", "did you mean 'response_week_8'?"),
    "unknown parameter": scenario("[trial]", "[parameters]\nclearence_l_per_h = 3.0\n[trial]", "clearance_l_per_h"),
    "negative volume": scenario("[trial]", "[parameters]\ncentral_volume_l = -3.0\n[trial]", "central_volume_l"),
    "bad scenario to simulate": scenario("n = 20", "n = 0", "arms[1].n = 0", "simulate"),
    "bad scenario to check": scenario("n = 20", "n = 0", "arms[1].n = 0", "check"),
    # configs
    "config: unknown key": config("sed = 3", "unknown key 'sed'; did you mean 'seed'?"),
    "config: unknown key below": config("[sampler]\ndrawz = 100", "sampler: unknown key 'drawz'"),
    "config: wrong type": config("seed = 'one'", "seed = 'one'"),
    "config: negative seed": config("seed = -1", "seed = -1"),
    "config: not a number": config("widening = nan", "widening = nan"),
    "config: no rounds": config("rounds = []", "rounds"),
    "config: unknown engine": config("engine = 'cuda'", "engine = 'cuda'"),
    "config: unknown arm": config("[data]\nleave_out = ['placeba']", "did you mean 'placebo'?"),
    "config: no arm left": config("[data]\nleave_out = ['start 2.5 mg', 'start 5 mg', 'placebo']", "no arm is left"),
    "config: unknown table": config("[data]\ntable = 'phase4_arms'", "did you mean 'phase3_arms'?"),
    "config: unknown scenario": config("scenario = 'phase4'", "did you mean 'phase3'?"),
    "config: prior of nothing": config("[priors.receptor_ec51_nM]\nlog_sd = 1.0", "did you mean 'receptor_ec50_nM'?"),
    "config: negative spread": config("[priors.receptor_ec50_nM]\nlog_sd = -1.0", "receptor_ec50_nM: log_sd"),
    "config: free and fixed": config("free = ['dimer_hill']\nfix = ['dimer_hill']", "in both free and fix"),
    "config: value out of range": config("[parameters]\nbioavailability = 2.0", "bioavailability"),
    "set: no value": Bad("fit f.toml --set seed", CONFIG, "--set 'seed': is not key=value"),
    "set: unknown key": Bad("fit f.toml --set sede=2", CONFIG, "unknown key 'sede'; did you mean 'seed'?"),
    "bad config to check": Bad("check f.toml", "seed = -1", "seed = -1"),
    # cases
    "case: times out of order": case("12, 24", "24, 12", "times_h[3] = 12: earlier than 24"),
    "case: negative time": case("[0, 12", "[-1, 12", "times_h[1] = -1"),
    "case: time not a number": case("[0, 12", "[nan, 12", "times_h[1] = nan"),
    "case: no times": case("times_h = [0, 12, 24]", "times_h = []", "times_h = []"),
    "case: times missing": case("times_h = [0, 12, 24]", "", "missing key 'times_h'"),
    "case: negative dose": case("mg = 5.0", "mg = -5.0", "daily_doses[1].mg = -5.0"),
    "case: days reversed": case("first_day = 0", "first_day = 3", "daily_doses[1].last_day = 1: before first_day = 3"),
    "case: unknown key": case("mg = 5.0", "mgs = 5.0", "daily_doses[1]: unknown key 'mgs'; did you mean 'mg'?"),
    "case: unknown parameter": case("clearance", "clearence", "did you mean 'clearance_l_per_h'?"),
    "case: negative clearance": case("8.0", "-8.0", "clearance_l_per_h = -8"),
    "case: shares beyond 1": case("[parameters]", "[parameters]\nshare_survival = 0.9", "must add to 1"),
    # data tables
    "table: missing column": table("quantity", "quantities", "unknown column 'quantities'; did you mean 'quantity'?"),
    "table: not a number": table(",12,", ",nan,", "line 2: value = 'nan'"),
    "table: more than everybody": table(",12,", ",21,", "line 2: value = 21"),
    "table: n of nobody": table("a,20", "a,0", "line 2: n = '0'"),
    "table: unknown quantity": table("response_any", "response_ani", "did you mean 'response_any'?"),
    "table: wrong unit": table("patients", "%", "line 2: unit = '%'"),
    "table: given twice": table("response_week_8", "response_any", "line 3: same study, arm, quantity"),
    "table: a part beyond the whole": table(",9,", ",13,", "line 3: response_week_8 = 13: more than response_any"),
    "table: cells missing": table(",ours,56\nS", ",ours\nS", "line 2: 8 cells"),
    # options and arguments
    "unknown command": Bad("frobnicate", None, "No such command 'frobnicate'"),
    "unknown option": Bad("fit --quik", None, "No such option"),
    "missing argument": Bad("trial", None, "Missing argument"),
    "missing output": Bad("profile c.toml", CASE, "Missing option '--out'"),
    "unknown engine": Bad("trial phase3 --engine gpu", None, "'gpu' is not one of 'auto', 'kernel'"),
    "unknown solver": Bad("profile c.toml --out o.csv --solver slow", CASE, "'fast', 'reference'"),
    "negative seed": Bad("simulate phase3 --seed -1", None, "'--seed'"),
    "TPO not a number": Bad("assay --out d --tpo nan", None, "--tpo"),
    "infinite TPO": Bad("assay --out d --tpo inf", None, "--tpo"),
    "negative minutes": Bad("assay --out d --minutes -5", None, "--minutes"),
    # runs that are none
    "report of nothing": Bad("report nowhere", None, "nowhere: no such folder"),
    "report of a file": Bad("report file", None, "file: is a file; the run folder of a fit is expected"),
    "report of another folder": Bad("report .", None, "is not the run folder of a fit"),
    "posterior of nothing": Bad("trial phase3 --posterior nowhere", None, "nowhere: no such folder"),
    "posterior of another folder": Bad("simulate phase3 --posterior .", None, "is not the run folder of a fit"),
    "assay of nothing": Bad("assay --out d --posterior nowhere", None, "nowhere: no such folder"),
    "assay of a file": Bad("assay --out d --posterior file", None, "file: is a file; the run folder of a fit"),
    "assay of another folder": Bad("assay --out d --posterior .", None, "is not the run folder of a fit"),
    # places that cannot be written
    "fit below a file": Bad("fit --out file/run", None, "is a file, not a folder"),
    "fit over a file": Bad("fit --out file", None, "file: is a file"),
    "fit over a folder": Bad("fit --out folder", None, "folder: exists already"),
    "fit over a folder by force": Bad("fit --out folder --force", None, "folder: is not a run folder"),
    "trial below a file": Bad("trial phase3 --out file/a/b", None, "is a file, not a folder"),
    "simulate below a file": Bad("simulate phase3 --out file/o.parquet", None, "is a file, not a folder"),
    "simulate over a file": Bad("simulate phase3 --out file", None, "file: exists already"),
    "simulate over a folder": Bad("simulate phase3 --out folder", None, "folder: is a folder"),
    "profile below a file": Bad("profile c.toml --out file/o.csv", CASE, "is a file, not a folder"),
    "assay below a file": Bad("assay --out file/d", None, "is a file, not a folder"),
    "assay below a device": Bad("assay --out /dev/null/d", None, "/dev/null is a file, not a folder"),
    "name too long": Bad(f"simulate phase3 --out {'a' * 300}", None, "the name is too long"),
}  # fmt: skip


def prepare(bad: Bad, folder: Path) -> list[str]:
    """Lays out the file the arguments name (the first with a suffix), and a file and a folder that are in the way."""
    (folder / "file").write_text("precious")
    (folder / "folder").mkdir()
    (folder / "folder" / "thesis.txt").write_text("precious")
    arguments = bad.arguments.split()
    if bad.content is not None:
        name = next(a for a in arguments if a.endswith((".toml", ".csv", ".txt")))
        content = bad.content if isinstance(bad.content, bytes) else bad.content.encode()
        (folder / name).write_bytes(content)
    return arguments


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, every folder with none."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    bad = BAD[name]
    arguments = prepare(bad, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert main(arguments) == BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("pkpd: error: ") and said.err.count("\n") == 1 and said.err.endswith("\n")
    assert bad.where in said.err and bad.message in said.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["trial phase3", "simulate phase3 --out o.parquet", "assay --out d"])
def test_a_prior_is_no_posterior(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "prior").mkdir()
    store.save(made_up.result(draws=20, prior_only=True), tmp_path / "prior")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert main([*command.split(), "--posterior", "prior"]) == BAD_INPUT
    said = capsys.readouterr()
    assert said == ("", "pkpd: error: prior: holds a prior only; legal: a run with a posterior\n")
    assert contents(tmp_path) == before


def test_there_are_enough_of_them():
    assert len(BAD) >= 40 and len({bad[:2] for bad in BAD.values()}) == len(BAD)


@pytest.mark.parametrize(
    ("content", "command"), [(SCENARIO, "s.toml"), (CASE, "c.toml"), (TABLE, "t.csv"), (CONFIG, "f.toml")]
)
def test_what_the_bad_ones_are_made_from_is_good(content, command, tmp_path, capsys):
    (tmp_path / command).write_text(content)
    assert main(["check", str(tmp_path / command)]) == 0
    assert "\nok: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["scenario binary", "config: unknown key", "unknown option", "profile below a file"])
def test_bad_input_to_the_program_itself(name, tmp_path, root):
    bad = BAD[name]
    arguments = prepare(bad, tmp_path)
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "inference", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == BAD_INPUT and done.stdout == ""
    assert done.stderr.count("\n") == 1 and bad.message in done.stderr and "Traceback" not in done.stderr
    assert contents(tmp_path) == before
