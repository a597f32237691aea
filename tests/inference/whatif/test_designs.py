"""Several designs: differences under common random numbers, their errors, and the command that sweeps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from inference.cli import main
from inference.trials import run_trial
from inference.whatif import per_trial
from inference.whatif.designs import (
    Design,
    curves,
    differences,
    overview,
    overview_of_differences,
    swept_labels,
)  # fmt: skip
from pkpd.scenario import load_scenario

SMALL = ["arms.1.n=30", "arms.2.n=30", "arms.3.n=20", "trial.n_trials=150"]


def simulated(folder, name: str, settings: list[str], seed: int = 1) -> Design:
    scenario = load_scenario("phase3", [*SMALL, *settings])
    folder = folder / f"{name}-{seed}"
    folder.mkdir()
    summary = run_trial(scenario, seed=seed, folder=folder)
    return Design(name, {"start": name}, scenario, pd.read_parquet(folder / per_trial.FILE), summary)


@pytest.fixture(scope="module")
def designs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("designs")
    one = simulated(folder, "usual", [])
    other = simulated(folder, "higher up", ["titration.up_below=80"])
    fresh = simulated(folder, "higher up", ["titration.up_below=80"], seed=2)
    return one, other, fresh


def test_the_error_of_a_difference_is_that_of_the_pairs(designs):
    one, other, fresh = designs
    paired = differences(other, one).set_index(["comparison", "quantity"])
    x, y = (d.trials["start 5 mg: response_week_8"] / 30 for d in (other, one))
    row = paired.loc[("start 5 mg", "response_week_8")]
    assert row["difference"] == pytest.approx((x - y).mean())
    assert row["mc_se"] == pytest.approx((x - y).std(ddof=1) / np.sqrt(150))
    assert row["mc_se_if_independent"] == pytest.approx(np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 150))
    assert (
        row["trials_saved"] == pytest.approx((row["mc_se_if_independent"] / row["mc_se"]) ** 2)
        and row["n_trials"] == 150
    )
    # The same patients in both: far less noise than between fresh ones, whose error is what independence says.
    assert row["trials_saved"] > 2
    unpaired = differences(fresh, one).set_index(["comparison", "quantity"]).loc[("start 5 mg", "response_week_8")]
    assert unpaired["trials_saved"] == pytest.approx(1, abs=0.35)


def test_an_arm_that_does_not_change_has_no_difference(designs):
    one, other, _ = designs
    found = differences(other, one)
    of_placebo = found[found["comparison"] == "placebo"]
    assert len(of_placebo) > 10 and (of_placebo["difference"] == 0).all() and (of_placebo["mc_se"] == 0).all()
    assert found["trials_saved"].isna().sum() >= len(of_placebo)


def test_quantities_of_arms_and_comparisons_have_differences(designs):
    one, other, _ = designs
    found = differences(other, one)
    assert {"power", "risk_difference", "days_above_250", "dose_at_end_mg"} <= set(found["quantity"])
    moved = found.set_index(["comparison", "quantity"])["difference"]
    assert moved["start 2.5 mg", "dose_at_end_mg"] > 0 and moved["start 2.5 mg", "days_above_250"] > 0
    table = curves([one, other])
    assert set(table["start"]) == {"usual", "higher up"} and set(table.columns) >= {"estimate", "mc_se", "comparison"}


SWEEP = ["trial", "group_sequential", "--set", "trial.n_trials=2000", "--set", "arms.active.n=20,48"]


def test_a_sweep_is_a_folder_of_designs_with_their_differences(tmp_path, capsys):
    out = tmp_path / "sweep"
    assert main([*SWEEP, "--out", str(out)]) == 0
    names = [f"group_sequential-arms.active.n={n}" for n in (20, 48)]
    summary = pd.read_csv(out / "summary.csv")
    assert list(dict.fromkeys(summary["design"])) == names
    powers = summary[summary["quantity"] == "power_risk-difference"].set_index("design")["estimate"]
    assert powers[names[1]] > powers[names[0]] + 0.1
    own = pd.read_csv(out / names[1] / "summary.csv")
    assert own["estimate"].to_numpy() == pytest.approx(summary[summary["design"] == names[1]]["estimate"])
    found = pd.read_csv(out / "differences.csv")
    assert set(found["against"]) == {names[0]} and (found[found["quantity"] == "power"]["mc_se"] > 0).all()
    assert (out / "power.png").read_bytes().startswith(b"\x89PNG") and (out / names[0] / "report.html").exists()
    capsys.readouterr()
    before = (out / names[0] / "summary.csv").stat().st_mtime_ns
    assert main([*SWEEP, "--out", str(out)]) == 2  # what is there is not overwritten
    assert "exists" in capsys.readouterr().err
    assert main([*SWEEP[:-1], "arms.active.n=20,48,30", "--out", str(out), "--resume"]) == 0
    said = capsys.readouterr().out
    assert said.count("unchanged") == 2 and (out / names[0] / "summary.csv").stat().st_mtime_ns == before
    assert main([*SWEEP, "--set", "arms.placebo.n=40", "--out", str(out), "--resume"]) == 0
    assert "unchanged" not in capsys.readouterr().out


def test_a_sweep_without_a_folder_or_with_a_bad_value_is_one_clear_error(tmp_path, capsys):
    assert main(SWEEP) == 2
    assert "2 designs, and each has a folder; legal: with --out" in capsys.readouterr().err
    assert main([*SWEEP[:-1], "arms.active.n=20,-4", "--out", str(tmp_path / "s")]) == 2
    assert "arms[1].n = -4" in capsys.readouterr().err and not (tmp_path / "s").exists()


def test_the_overview_has_the_figures_of_summary_and_differences(designs):
    one, other, _ = designs
    one, other = (
        d._replace(swept={"arms.1.start": d.name, "titration.up_below": v}) for d, v in ((one, 50), (other, 80))
    )
    rates = overview([one, other])
    assert list(rates.columns) == [
        "start", "up_below", "arm", "response_week_8", "rescue", "share_in_range", "overshoot_400", "power",
    ]  # fmt: skip
    assert list(rates["arm"]) == 2 * [arm.name for arm in one.scenario.arms]
    summary = one.summary.set_index(["comparison", "quantity"])
    for quantity in ("response_week_8", "rescue"):
        figures = 100 * summary.loc[("start 2.5 mg", quantity), ["estimate", "mc_se"]]
        assert rates[quantity][0] == "{:.1f}% ({:.1f})".format(*figures)
    assert rates["power"][0].endswith(")") and rates["power"][2] == ""  # none of placebo
    found = differences(other, one)
    less = overview_of_differences([one, other], found)
    assert list(less["arm"]) == ["start 2.5 mg", "start 5 mg"]  # placebo is the same in both
    row = found.set_index(["comparison", "quantity"]).loc[("start 5 mg", "response_week_8")]
    assert less["response_week_8"][1].startswith(f"{100 * row['difference']:+.1f} (")
    assert less["trials_saved"][1] == f"{row['trials_saved']:.1f} times"


def test_keys_that_end_alike_are_told_apart(designs):
    one = designs[0]._replace(swept={"arms.1.n": 30, "arms.2.n": 30})
    assert swept_labels([one])(one) == {"arms.1.n": "30", "arms.2.n": "30"}
