"""Trials from Python: the same figures as the command's, and one clear error for a wrong design."""

import json
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

from inference import Trial
from inference.cli import main
from pkpd.errors import InputError

SMALL = {"trial.n_trials": 20, "arms.1.n": 12, "arms.2.n": 10, "arms.3.n": 8}
STATED = {
    "trial": {"n_trials": 3000, "visits_d": [28]},
    "arms": [{"name": "a", "n": 30}, {"name": "b", "n": 30}],
    "outcome": {"response_probability": {"a": 0.6, "b": 0.3}},
    "analysis": {"test": "fisher", "control": "b", "alpha": 0.05, "endpoint": "response_week_4"},
}


def test_a_trial_finds_what_the_command_writes(tmp_path):
    words = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    assert main(["trial", "phase3", *words, "--seed", "7", "--out", str(tmp_path / "r"), "--dataset", "3"]) == 0
    trial = Trial("phase3", SMALL, seed=7)
    found = trial.run()
    written = pd.read_csv(tmp_path / "r" / "summary.csv")
    assert found.summary["estimate"].to_numpy() == pytest.approx(written["estimate"], rel=1e-9, nan_ok=True)
    pd.testing.assert_frame_equal(found.trials, pd.read_parquet(tmp_path / "r" / "trials.parquet"))
    records = pd.read_csv(tmp_path / "r" / "trial-3.csv", na_values=".")
    assert trial.dataset(3)["DV"].to_numpy() == pytest.approx(records["DV"], nan_ok=True)
    trial.report(found, tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()


def test_a_changed_trial_has_the_same_patients():
    trial = Trial("phase3", SMALL)
    other = trial.changed({"titration.up_below": 80, "trial.n_trials": 20})
    assert other.settings == {**SMALL, "titration.up_below": 80} and trial.settings == SMALL
    one, two = (t.patients() for t in (trial, other))
    first = one["visit"] == 0
    assert (one[first]["platelets_true"].to_numpy() == two[first]["platelets_true"].to_numpy()).all()
    less = other.run().less(trial.run()).set_index(["comparison", "quantity"])
    assert less.loc[("start 2.5 mg", "dose_at_end_mg"), "difference"] > 0
    assert less.loc[("placebo", "response_week_8"), "difference"] == 0


def test_tables_may_be_written_in_python():
    trial = Trial(STATED)
    power = trial.run().summary.set_index("quantity")["estimate"]["power_fisher"]
    assert 0.4 < power < 0.7 and "fisher" in str(trial)
    strata = Trial(STATED, {"outcome": {"response_profile": {"a": [0.6], "b": [0.3]}}})
    assert strata.design.outcome.response_profile == {"a": (0.6,), "b": (0.3,)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trial("phase3", {"arms.1.nn": 3}), "arms[1]: unknown key 'nn'; did you mean 'n'?"),
        (lambda: Trial("phase4"), "phase4: no such file or shipped scenario; did you mean 'phase3'?"),
        (lambda: Trial("phase3", {"arms.1.n": {1, 2}}), "{1, 2}: legal: a number, text, true or false"),
        (lambda: Trial("phase3", seed=-1), "seed = -1; legal: from 0 to"),
        (lambda: Trial({**STATED, "arm": []}), "the design: unknown key 'arm'; did you mean 'arms'?"),
        (lambda: Trial("phase3", posterior="nowhere").run(), "nowhere"),
        (lambda: Trial("phase3").dataset(5000), "5000: no such trial; legal: from 0 to 999"),
    ],
)
def test_what_is_wrong_is_one_clear_line(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_notebook_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    path = Path(__file__).parents[2] / "inference" / "whatif" / "examples" / "trial.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict = {}
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert len(cells) >= 5 and len(names["table"]) == 4  # two start doses by two intervals
    assert names["table"]["response_week_8"].between(0.3, 0.8).all()
    assert set(names["records"].columns) >= {"ID", "TIME", "AMT", "EVID", "DV", "MDV", "ARM"}
