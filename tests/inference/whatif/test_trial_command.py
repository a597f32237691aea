"""``pkpd trial`` and ``pkpd check`` on stated outcomes: what they write and print, and exit code 2 on what is bad."""

import json

import pandas as pd
import pytest

from inference.cli import BAD_INPUT, main
from inference.whatif.boundary_table import boundary_table
from pkpd.scenario import load_scenario

SCENARIO = """
[trial]
n_trials = 3000
[[arms]]
name = "a"
n = 30
[[arms]]
name = "b"
n = 30
[outcome.response_probability]
a = 0.5
b = 0.2
[analysis]
test = "fisher"
control = "b"
alpha = 0.05
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def test_a_run_folder_and_its_repetition(here):
    assert main("trial s.toml --out one --seed 4".split()) == 0
    assert main("trial s.toml --out two --seed 4".split()) == 0
    assert (here / "one/summary.csv").read_bytes() == (here / "two/summary.csv").read_bytes()
    assert main("trial s.toml --out other --seed 5 --set arms.a.n=31".split()) == 0
    table = pd.read_csv(here / "one/summary.csv").set_index("quantity")
    assert set(table["n_trials"]) == {3000} and 0.5 < table.loc["power_fisher", "estimate"] < 0.7
    assert table["mc_se"].notna().all() and table.loc["risk_difference_response_bias", "estimate"] < 0.01
    assert pd.read_csv(here / "other/summary.csv").loc[0, "estimate"] != table["estimate"].iloc[0]


def test_the_null_says_so(here):
    assert main("trial s.toml --out null --null".split()) == 0
    table = pd.read_csv(here / "null/summary.csv").set_index("quantity")
    assert set(table["design"]) == {"s, null"} and "power_fisher" not in table.index
    assert 0 < table.loc["type_1_error_fisher", "estimate"] < 0.05
    assert json.loads((here / "null/manifest.json").read_text())["command"] == "trial"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trial s.toml --set analysis.test=bayes", "s.toml: analysis.test = 'bayes'"),
        ("trial s.toml --set outcome.response_probability.a=2", "s.toml: outcome.response_probability.a = 2"),
        ("trial s.toml --set outcome.response_probability.c=0.2", "s.toml: outcome.response_probability: 'c' is not"),
        ("check s.toml --set x=1", "No such option"),
        ("trial s.toml --null --set analysis.test=risk-difference --set analysis.sided=1 --set analysis.margin=-0.3",
         "--null: a response probability of 0.2 under control plus the margin of -0.3"),
        ("trial s.toml --set interims.looks=[0.5,1]", "s.toml: interims.boundary is missing"),
        ("simulate s.toml", "[outcome] states responses, there are no patients to simulate; legal: pkpd trial"),
        ("simulate s.toml --summary x.csv", "[outcome] states responses"),
        ("fit --out r --set scenario=s.toml", "s.toml states outcomes; legal: one with patients"),
    ],
)  # fmt: skip
def test_bad_input(arguments, message, capsys, here):
    assert main(arguments.split()) == BAD_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
    assert [path.name for path in here.iterdir()] == ["s.toml"]


def test_check_prints_the_looks(capsys):
    assert main(["check", "group_sequential"]) == 0
    out = capsys.readouterr().out
    for part in ("interim looks", "2.9626", "0.0015253", "24, 24", "Futility: predictive-power below 0.1, non-binding"):
        assert part in out
    rows = boundary_table(load_scenario("group_sequential"))
    assert [row[0] for row in rows] == [1, 2, 3] and rows[-1][-1] == pytest.approx(0.025, abs=1e-9)
    assert [row[-1] for row in rows] == sorted(row[-1] for row in rows)
