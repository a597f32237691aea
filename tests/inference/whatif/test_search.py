"""The search for the smallest size: against exact power, what it writes, and when it does not confirm or cannot."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from inference.cli import BAD_INPUT, main
from inference.trials import run_trial
from inference.whatif import search
from inference.whatif.search import find_n, resized
from inference.whatif.two_by_two import p_values
from pkpd.scenario import load_scenario
from tests.inference.whatif.designs import design
from tests.inference.whatif.test_trial_command import SCENARIO


def simulate(scenario, seed):
    return run_trial(scenario, seed=seed)


def exact_power(n, n0, p, p0, alpha=0.05):
    """Of the two-sided score test, by enumeration."""
    y, y0 = (x.ravel() for x in np.mgrid[: n + 1, : n0 + 1])
    reject = p_values("risk-difference", y, n, y0, n0, 2) <= alpha
    return float((stats.binom.pmf(y, n, p) * stats.binom.pmf(y0, n0, p0))[reject].sum())


@pytest.mark.parametrize("start", [(40, 20), (300, 150)])
def test_the_size_found_has_the_power(start):
    """From below and from above, arms 2 to 1: exact power at the size near the target, and short of it 10% lower."""
    *on_the_way, last = find_n(design(n=start, p=(0.5, 0.3)), 0.8, 1, simulate)
    n, n0 = (arm.n for arm in last.design.arms)
    assert n == 2 * n0 and last.role == "confirmed" and last.n_trials == 20_000 and last.seed != 1
    assert exact_power(n, n0, 0.5, 0.3) == pytest.approx(last.power, abs=3 * last.mc_se)
    assert exact_power(n, n0, 0.5, 0.3) > 0.8 - 4 * last.mc_se
    assert exact_power(round(0.9 * n), round(0.9 * n0), 0.5, 0.3) < 0.8
    assert {t.seed for t in on_the_way if t.role == "searched"} == {1} and len(on_the_way) < 20


def test_sizes_keep_the_allocation_ratio_in_whole_patients():
    scenario = design(n=(34, 17, 9), p=(0.5, 0.2, 0.4), interims={"looks": [0.2, 1.0], "boundary": "pocock"})
    assert [arm.n for arm in resized(scenario, 18).arms] == [68, 34, 18]
    assert [arm.n for arm in resized(scenario, 5).arms] == [19, 9, 5]
    assert resized(scenario, 2) is None  # 20% of 2 patients: nobody at the first look


def test_several_comparisons_and_a_small_design():
    """Power of any rejection; where one patient an arm already has it, that is the answer."""
    *_, last = find_n(design(n=(10, 10, 10), p=(0.5, 0.2, 0.5), multiplicity="holm"), 0.7, 2, simulate)
    table = simulate(last.design, last.seed).set_index("quantity")
    assert table.loc["power_any", "estimate"] == last.power > table.loc["power_risk-difference", "estimate"].max()
    *_, least = find_n(design(n=(10, 10), p=(1.0, 0.0), alpha=0.2, sided=1), 0.5, 2, simulate)
    assert [arm.n for arm in least.design.arms] == [1, 1]


def test_a_size_that_is_not_confirmed_goes_one_step_up():
    """Trials on fresh keys that say 0.05 less than those of the search: steps of 2% until they reach the target."""

    def optimistic(scenario, seed):
        sizes = {arm.name: arm.n for arm in scenario.arms}
        power = min(0.99, sizes["a"] / 200 + (0.05 if seed == 1 else 0.0))
        row = ("x", "a vs control", "power_risk-difference", power, 0.001, power, power, 1000, 1)
        return pd.DataFrame([row], columns=search_columns())

    found = list(find_n(design(n=(100, 100)), 0.8, 1, optimistic))
    confirmations = [(t.design.arms[0].n, t.role) for t in found if t.role != "searched"]
    assert [n for n, _ in confirmations] == [150, 153, 156, 159, 162]
    assert [role for _, role in confirmations] == ["not confirmed"] * 4 + ["confirmed"]
    assert len({t.seed for t in found if t.role != "searched"}) == 5


def search_columns():
    from inference.whatif.summed import SUMMARY_COLUMNS

    return SUMMARY_COLUMNS


def test_patients_are_simulated_too():
    settings = ["trial.n_trials=60", "trial.visits_d=[14,28]", "analysis.endpoint=response_week_4",
                "arms.1.n=12", "arms.2.n=12", "arms.3.n=6"]  # fmt: skip
    *_, last = find_n(load_scenario("phase3", settings), 0.6, 1, simulate)
    assert last.role == "confirmed" and last.power + last.mc_se >= 0.6
    assert [arm.n for arm in last.design.arms][:2] == [2 * last.design.arms[2].n] * 2


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def test_the_command_writes_what_it_tried(here, capsys):
    assert main("trial s.toml --find-n 0.8 --out r --seed 4".split()) == 0
    out = capsys.readouterr().out
    assert "on fresh trials; 95% interval" in out and "r/search.csv" in out
    table = pd.read_csv(here / "r/search.csv")
    assert {"a: n", "b: n", "patients", "power", "mc_se", "role"} <= set(table.columns)
    assert list(table["role"])[-1] == "confirmed" and (table["mc_se"] > 0).all()
    summary = pd.read_csv(here / "r/summary.csv").set_index("quantity")
    assert summary.loc["power_fisher", "estimate"] == table["power"].iloc[-1]
    assert main("trial s.toml --find-n 0.8 --out r --seed 4 --force".split()) == 0
    assert pd.read_csv(here / "r/search.csv").equals(table)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--find-n 0", "--find-n 0: no power to reach; legal: above 0 and below 1"),
        ("--find-n 1", "--find-n 1: no power to reach"),
        ("--find-n 80", "--find-n 80: no power to reach"),
        ("--find-n high", "Invalid value for '--find-n'"),
        ("--find-n 0.8 --null", "--find-n: --null does not go with it"),
        ("--find-n 0.8 --dataset 0", "--find-n: --dataset does not go with it"),
        ("--find-n 0.8 --resume", "--find-n: --resume does not go with it"),
        ("--find-n 0.8 --set arms.a.n=20,30", "--find-n: 2 designs by --set; legal: one value of each key"),
        ("--find-n 0.8 --set arms.a.n=20000", "legal: at most 10000 patients"),
        (
            "--find-n 0.8 --set analysis.test=risk-difference --set outcome.response_probability.a=0.21",
            "--find-n 0.8: not reached within 10000 patients",
        ),
    ],
)
def test_bad_input(more, message, here, capsys):
    assert main(["trial", "s.toml", *more.split()]) == BAD_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


def test_a_search_needs_a_test(here, capsys):
    settings = "--set trial.visits_d=[7] --set outcome={response_profile={a=[0.5],b=[0.2]}}".split()
    text = (here / "s.toml").read_text()
    (here / "s.toml").write_text(text[: text.index("[analysis]")])
    assert main(["trial", "s.toml", "--find-n", "0.8", *settings]) == BAD_INPUT
    assert "--find-n: [analysis] is missing" in capsys.readouterr().err
    assert search.MAX_PATIENTS == 10_000
