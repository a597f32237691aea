"""Who gains and who loses between designs: shares and errors of made-up patients by hand, pairing, and the command."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from inference.cli import main
from inference.whatif import gains
from inference.whatif.designs import Design
from inference.whatif.errors import clustered_se
from pkpd.scenario import load_scenario

TRIALS = 40


def made_up(folder, name, seed, n_draws, n=(30, 20), settings=(), chance=0.5, n_trials=TRIALS):
    """A design and its file of patients: covariates of a fixed seed, outcomes of the given one."""
    sizes = [f"arms.{i}.n={k}" for i, k in enumerate((*n, 5), start=1)]
    scenario = load_scenario("phase3", [*sizes, f"trial.n_trials={n_trials}", *settings])
    who, rng = np.random.default_rng(0), np.random.default_rng(seed)
    parts, first = [], 0
    for arm in scenario.arms:
        trial, place = np.divmod(np.arange(arm.n * n_trials), arm.n)
        m = len(trial)
        draw = trial % n_draws
        parts.append(
            pd.DataFrame(
                {
                    "arm": arm.name,
                    "trial": trial.astype(np.int32),
                    "draw": draw.astype(np.int32),
                    "patient": (first + place).astype(np.int32),
                    "baseline_1e9_per_l": who.uniform(1, 30, m).astype(np.float32),
                    "weight_kg": who.normal(65, 10, m).astype(np.float32),
                    "receptor_ec50_nM": who.lognormal(3, 0.5, m).astype(np.float32),
                    "landmark_response": rng.random(m) < chance,
                    "outcome": np.where(rng.random(m) < 0.05, np.nan, rng.random(m) < chance + 0.2 * np.sin(draw)),
                    "days_above_250": rng.integers(0, 9, m).astype(np.float32),
                }
            )
        )
        first += arm.n
    # by parts of the trials, as runs write them
    rows = pd.concat(parts).assign(part=lambda x: x["trial"] // 7).sort_values("part", kind="stable")
    rows.drop(columns="part").to_parquet(folder / f"{name}.parquet", row_group_size=200, index=False)
    summary = pd.DataFrame({"n_draws": [n_draws]})
    return Design(name, {}, scenario, pd.DataFrame({"trial": np.arange(n_trials)}), summary)


def found(folder, *designs):
    return gains.gains(designs, {d.name: folder / f"{d.name}.parquet" for d in designs})


@pytest.mark.parametrize("n_draws", [1, 8])
def test_shares_and_errors_are_those_of_the_pairs(tmp_path, n_draws, monkeypatch):
    one, other = made_up(tmp_path, "one", 1, n_draws), made_up(tmp_path, "other", 2, n_draws, chance=0.6)
    table = found(tmp_path, one, other)
    assert tuple(table.columns) == gains.COLUMNS and set(table["arm"]) == {"start 2.5 mg", "start 5 mg", "placebo"}
    x, y = (pd.read_parquet(tmp_path / f"{d.name}.parquet") for d in (one, other))
    x, y = (p[p["arm"] == "start 5 mg"].sort_values(["trial", "patient"], ignore_index=True) for p in (x, y))
    known = x["outcome"].notna() & y["outcome"].notna()
    heavy = known & (x["baseline_1e9_per_l"] < 15)
    for band, at in (("all", known), ("baseline_1e9_per_l below 15", heavy)):
        here, there = y["outcome"][at] > 0, x["outcome"][at] > 0
        gain, days = here * 1.0 - there, (y["days_above_250"] - x["days_above_250"])[at]
        cluster = np.unique(x["draw"][at], return_inverse=True)[1]
        row = table[(table["arm"] == "start 5 mg") & (table["band"] == band)].iloc[0]
        assert (row["design"], row["against"], row["endpoint"]) == ("other", "one", "response_week_8")
        assert row["patients"] == at.sum() < 20 * TRIALS and row["both"] == pytest.approx((here & there).mean())
        assert row["only_design"] == pytest.approx((here & ~there).mean())
        assert row["only_against"] == pytest.approx((there & ~here).mean())
        assert row[["both", "only_design", "only_against", "neither"]].sum() == pytest.approx(1)
        assert row["net_gain"] == pytest.approx(gain.mean())
        assert row["net_gain_mc_se"] == pytest.approx(clustered_se(gain.to_numpy(), cluster))
        assert row["days_above_250_change"] == pytest.approx(days.mean())
        assert row["days_above_250_change_mc_se"] == pytest.approx(clustered_se(days.to_numpy(), cluster), rel=1e-5)
    monkeypatch.setattr(gains, "ROWS", 20 * 13)
    fixed = table["band"].str.match("all|baseline")
    again = found(tmp_path, one, other)  # in blocks; the limits of thirds are those of the first of them
    again = again[again["band"].str.match("all|baseline")]
    pd.testing.assert_frame_equal(again.reset_index(drop=True), table[fixed].reset_index(drop=True))


def test_bands_share_out_all_patients_and_thirds_are_thirds(tmp_path):
    one, other = made_up(tmp_path, "one", 1, 1), made_up(tmp_path, "other", 2, 1)
    of_arm = found(tmp_path, one, other).query("arm == 'start 2.5 mg'").set_index("band")["patients"]
    total = of_arm["all"]
    for name, k in (("baseline", 2), ("weight", 3), ("receptor", 3)):
        own = of_arm[of_arm.index.str.startswith(name)]
        assert len(own) == k and own.sum() == total
        assert k == 2 or (abs(own / total - 1 / 3) < 0.02).all()
    same = pd.DataFrame({"baseline_1e9_per_l": [9.0] * 4, "weight_kg": [70.0] * 4, "receptor_ec50_nM": [1.0, 2, 3, 4]})
    assert len(gains.bands_of(same)) == 1 + 2 + 0 + 3


def test_only_arms_whose_patients_have_the_same_numbers_are_paired(tmp_path):
    one, more = made_up(tmp_path, "one", 1, 1), made_up(tmp_path, "more", 2, 1, n=(33, 20))
    assert gains.paired_arms(more.scenario, one.scenario) == {"start 2.5 mg": 30}
    table = found(tmp_path, one, more)
    assert set(table["arm"]) == {"start 2.5 mg"} and table["patients"].max() <= 30 * TRIALS
    fewer = made_up(tmp_path, "fewer", 3, 1, n=(30, 12), n_trials=25)
    table = found(tmp_path, one, fewer).set_index(["arm", "band"])["patients"]
    assert gains.paired_arms(fewer.scenario, one.scenario) == {"start 2.5 mg": 30, "start 5 mg": 12}
    assert 0.8 * 12 * 25 < table["start 5 mg", "all"] <= 12 * 25


def test_designs_of_other_draws_or_endpoints_are_left_out(tmp_path):
    one, draws = made_up(tmp_path, "one", 1, 4), made_up(tmp_path, "draws", 2, 5)
    any_ = made_up(tmp_path, "any", 2, 4, settings=["analysis.endpoint=response_any"])
    same = made_up(tmp_path, "same", 2, 4)
    assert set(found(tmp_path, one, draws, any_, same)["design"]) == {"same"}
    assert found(tmp_path, one, draws).empty


def test_an_endpoint_that_is_not_binary_gives_way_to_the_landmark_response(tmp_path):
    settings = ["analysis.endpoint=days_above_250", "analysis.test=ancova"]
    one, other = (made_up(tmp_path, f"d{seed}", seed, 1, settings=settings) for seed in (1, 2))
    row = found(tmp_path, one, other).iloc[0]
    assert row["endpoint"] == "response_week_8" and row["patients"] == 30 * TRIALS


def test_a_sweep_says_who_gains(tmp_path, capsys):
    sets = ["arms.1.n=40", "arms.2.n=30", "arms.3.n=10", "trial.n_trials=20", "titration.up_below=50,90"]
    out = tmp_path / "s"
    command = ["trial", "phase3", *(x for s in sets for x in ("--set", s)), "--out", str(out)]
    assert main(command) == 0 and not (out / gains.FILE).exists()
    assert main([*command, "--resume"]) == 0 and "unchanged" in capsys.readouterr().out
    assert main([*command, "--patients", "--resume"]) == 0
    said = capsys.readouterr().out
    assert "unchanged" not in said and "patients against phase3-titration.up_below=50" in said
    table = pd.read_csv(out / gains.FILE).set_index(["arm", "band"])
    differences = pd.read_csv(out / "differences.csv").set_index(["comparison", "quantity"])["difference"]
    for arm, n in (("start 2.5 mg", 40), ("start 5 mg", 30), ("placebo", 10)):
        row = table.loc[(arm, "all")]
        assert row["patients"] == 20 * n
        assert row["net_gain"] == pytest.approx(differences[arm, "response_week_8"], abs=1e-9)
        assert row["days_above_250_change"] == pytest.approx(differences[arm, "days_above_250"], abs=1e-6)
    assert table.loc[("start 2.5 mg", "all"), "only_design"] > 0
    assert (table.loc["placebo"][["only_design", "only_against", "days_above_250_change"]] == 0).all(axis=None)
    assert main([*command, "--patients", "--resume"]) == 0 and capsys.readouterr().out.count("unchanged") == 2
