"""What hangs on assumptions: which are varied and how far, and that their changes are those of paired trials."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inference.checkpoint import Checkpoint
from inference.cli import main
from inference.report import sensitivity as shown
from inference.trials import run_trial
from inference.whatif import assumed, per_trial, sensitivity
from pkpd.errors import InputError
from pkpd.parameters import load_library
from pkpd.scenario import load_scenario
from pkpd.tables import check_rules, check_value, field_of, schema
from tests.inference.test_report import Page
from tests.inference.whatif.designs import design as stated
from tests.pkpd import test_switches as switches

SMALL = ["arms.1.n=10", "arms.2.n=10", "arms.3.n=10", "trial.n_trials=12"]


def by_key(design, draws=None) -> dict[tuple[str, str], assumed.Assumed]:
    return {(a.of, a.key): a for a in assumed.assumptions(design, draws or {})}


# What is assumed


def test_every_assumed_value_of_the_library_that_acts_is_varied():
    design, library = load_scenario("phase3"), load_library()
    found = by_key(design)
    names = {key for _, key in found}
    groups = (library.entries, library.sd_entries, library.demography_entries, library.covariate_entries)
    every = {name: entry for group in groups for name, entry in group.items()}
    assert names <= {name for name, entry in every.items() if entry.status == "assumed"}
    left_out = {name for name, entry in every.items() if entry.status == "assumed"} - names
    no_part = {n for n in left_out if n.endswith(("_share", "_clearance_ratio"))}
    # the molar mass is derived, and nothing in this trial depends on ages
    assert left_out - no_part == assumed.DEFINED - {"molar_mass_g_per_mol"} | {"age_log_sd"}
    by_age = load_scenario("phase3", ["analysis.strata={age_y=[40]}"])
    assert ("patients", "age_log_sd") in by_key(by_age)
    assert "female_clearance_ratio" in names and "east_asian_clearance_ratio" not in names  # all are, so none differs


def test_what_a_posterior_replaces_is_not_varied():
    found = by_key(load_scenario("phase3"), {"receptor_ec50_nM": np.ones(1), "max_stimulation": np.ones(1)})
    assert ("hetrombopag", "receptor_ec50_nM") not in found and ("patients", "max_stimulation") not in found
    assert ("hetrombopag", "target_baseline_nM") in found


def test_each_drug_has_its_own_pharmacology():
    found = by_key(load_scenario("non_inferiority"))
    own, other = found["hetrombopag", "dimer_efficacy"], found["eltrombopag", "dimer_efficacy"]
    assert set(own.draws[0]) == {"dimer_efficacy"} and set(other.draws[0]) == {"eltrombopag.dimer_efficacy"}
    assert ("eltrombopag", "quasi_steady_state_constant_nM") not in found  # without a target it is without effect
    assert [of for of, key in found if key == "production_1e9_per_l_per_h"] == ["patients"]


def test_values_of_the_scenario_are_varied_where_they_are_set():
    design = load_scenario("phase3_stages", ["parameters={immune_drift_log_sd=0.4}"])
    found = by_key(design)
    missed = found["scenario", "trial.missed_visit_share"]
    assert missed.change(design, missed.high).trial.missed_visit_share == pytest.approx(0.04 / 1.02)
    hazard = found["scenario", "dropout.hazard_per_week"]
    assert hazard.change(design, hazard.low).dropout.hazard_per_week == 0.0025
    assert ("scenario", "dropout.low_count_hazard_ratio") in found
    doses = found["scenario", "arms.adherence.missed_share"]
    changed = doses.change(design, doses.high)
    assert [arm.adherence.missed_share for arm in changed.arms] == pytest.approx([0.1 / 1.05] * 3)
    weaker = by_key(load_scenario("phase3", ["arms.1.ec50_ratio=1.5"]))["scenario", "arms.start 2.5 mg.ec50_ratio"]
    assert [arm.ec50_ratio for arm in weaker.change(design, weaker.low).arms] == [0.75, 1, 1]
    own = found["scenario", "immune_drift_log_sd"]
    assert own.value == 0.4 and own.change(design, own.high).parameters["immune_drift_log_sd"] == own.high
    assert ("patients", "immune_drift_log_sd") not in found
    assert not {"dropout.hazard_per_week", "trial.missed_visit_share"} & {k for _, k in by_key(load_scenario("phase3"))}


def test_ranges_are_those_of_priors_or_the_stated_ones():
    found = {key: a for (_, key), a in by_key(load_scenario("phase3")).items()}
    ec50 = found["receptor_ec50_nM"]
    assert (ec50.low, ec50.high) == pytest.approx((27 / np.exp(1.959964 * 0.7), 27 * np.exp(1.959964 * 0.7)), rel=1e-6)
    assert (ec50.range, found["lag_time_h"].range) == (assumed.PRIOR, assumed.HALF)
    assert (found["lag_time_h"].low, found["lag_time_h"].high) == (0.25, 1.0)
    weight = found["stat5_weight"]
    assert (weight.low, weight.high) == pytest.approx(tuple(stats.beta(14, 6).ppf([0.025, 0.975])))
    share = found["share_survival"]
    assert (share.low, share.high) == pytest.approx(tuple(stats.beta(8, 32).ppf([0.025, 0.975])))
    efficacy = found["dimer_efficacy"]
    assert efficacy.low / (1 - efficacy.low) == pytest.approx(0.5 * 19)
    assert efficacy.high / (1 - efficacy.high) == pytest.approx(2 * 19)
    assert found["non_responder_share"].low == 0  # the value itself lies outside its prior's middle


def test_every_range_is_legal_and_shares_still_add_to_one():
    for name in ("phase3", "non_inferiority", "food_effect"):
        for a in assumed.assumptions(load_scenario(name), {}):
            assert a.low <= a.value <= a.high and a.low < a.high
            library = load_library(a.of) if a.of == "eltrombopag" else load_library()
            for moved in a.draws:
                values = {key.rpartition(".")[2]: x for key, x in moved.items()}
                for key, x in values.items():
                    check_value(x, field_of(key), key)
                group = next((g for g in schema()["rules"]["add_to_1"] if a.key in g), [])
                assert set(group) <= set(values)
                known = {**{n: e.value for n, e in library.entries.items()}, **values}
                check_rules(known, a.key)


@settings(deadline=None, derandomize=True)
@given(st.floats(1e-6, 1 - 1e-6), st.floats(0.01, 100))
def test_odds_move_by_their_factor(p, factor):
    moved = assumed.of_odds(p, factor)
    assert 0 < moved < 1 and moved / (1 - moved) == pytest.approx(factor * p / (1 - p), rel=1e-5)


def test_what_is_held_are_the_values_of_the_disease_of_the_trial():
    design, volunteers = load_scenario("food_effect"), load_library("hetrombopag", "healthy")
    found = assumed.assumptions(design, {})
    held = assumed.centres(found, design.entry.disease)
    assert {a.key: held[a.key] for a in found if a.draws[0]} == {a.key: a.value for a in found if a.draws[0]}
    assert held["baseline_log_mean"] == volunteers.value("baseline_log_mean") > 5


# What it does to trials


def test_of_stated_responses_the_change_is_the_exact_one():
    """Of the risk difference and of each arm's rate; power rises with the active arm's response and falls with the
    control's."""
    table = sensitivity.sensitivity(stated(n=(40, 40), p=(0.5, 0.2), trial={"n_trials": 4000}))
    row = table.set_index(["assumption", "setting", "comparison", "quantity"])
    own = ("outcome.response_probability.a", "outcome.response_probability.control")
    assert set(table["assumption"]) == set(own)
    exact = {(own[0], "low"): 1 / 3 - 0.5, (own[0], "high"): 2 / 3 - 0.5, (own[1], "low"): 0.2 - 1 / 9,
             (own[1], "high"): 0.2 - 1 / 3}  # fmt: skip
    for key, difference in exact.items():
        found = row.loc[(*key, "a vs control", "risk_difference")]
        assert abs(found["difference"] - difference) < 4 * found["mc_se"] < 0.02
        power = row.loc[(*key, "a vs control", "power")]
        assert np.sign(power["difference"]) == np.sign(difference) and not power["within_2_errors"]
    still = row.loc[(own[0], "low", "control", "cured")]
    assert still["difference"] == 0 == still["mc_se"] and still["within_2_errors"]


CHOSEN = ("receptor_ec50_nM", "share_survival", "dropout.hazard_per_week")


def of_three(design, **options) -> pd.DataFrame:
    """The sensitivity to three assumptions only."""
    every = assumed.assumptions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "assumptions", lambda *a: [x for x in every(*a) if x.key in CHOSEN])
        return sensitivity.sensitivity(design, seed=5, **options)


def test_under_the_null_the_arms_stay_equal_and_a_margin_is_refused():
    """What moves of stated responses is the common probability: the active arm's own has no part in the null."""
    table = sensitivity.sensitivity(stated(n=(40, 40), p=(0.5, 0.2), trial={"n_trials": 500}), null=True)
    row = table.set_index(["assumption", "setting", "comparison", "quantity"])
    still = row.loc["outcome.response_probability.a"]
    assert (still["difference"] == 0).all()
    both = [row.loc[("outcome.response_probability.control", "high", arm, "cured")] for arm in ("a", "control")]
    assert all(abs(x["difference"] - (1 / 3 - 0.2)) < 4 * x["mc_se"] for x in both)
    with pytest.raises(InputError, match="moved to the margin"):
        sensitivity.check(load_scenario("non_inferiority"), null=True)


@pytest.fixture(scope="module")
def few():
    """A small design and its sensitivity."""
    design = load_scenario("phase3", [*SMALL, "dropout.hazard_per_week=0.02"])
    return design, of_three(design)


def test_the_changes_are_those_of_the_scenario_with_that_value(few, tmp_path):
    """The library's value replaced as a user would: the same trials, so exactly the same differences."""
    _, table = few
    row = table.set_index(["assumption", "setting", "comparison", "quantity"])
    ec50 = row.loc[("receptor_ec50_nM", "high", "start 5 mg", "response_week_8")]
    shown_by = []
    for k, settings_ in enumerate(([], [f"parameters={{receptor_ec50_nM={float(ec50['at'])!r}}}"])):
        (tmp_path / str(k)).mkdir()
        scenario = load_scenario("phase3", [*SMALL, "dropout.hazard_per_week=0.02", *settings_])
        run_trial(scenario, seed=5, folder=tmp_path / str(k))
        shown_by.append(pd.read_parquet(tmp_path / str(k) / per_trial.FILE)["start 5 mg: response_week_8"] / 10)
    assert ec50["difference"] == pytest.approx((shown_by[1] - shown_by[0]).mean(), abs=1e-12)
    assert ec50["n_trials"] == 12 and ec50["difference"] < 0
    placebo = row.loc[("receptor_ec50_nM", "high", "placebo", "response_week_8")]
    assert placebo["difference"] == 0 and placebo["within_2_errors"]
    assert set(table["assumption"]) == set(CHOSEN)


def test_kept_values_are_not_simulated_again(few, tmp_path, monkeypatch):
    design, table = few
    keep, calls = Checkpoint(tmp_path / "kept"), []
    simulate = sensitivity._trials
    monkeypatch.setattr(sensitivity, "_trials", lambda *a: calls.append(a) or simulate(*a))
    assert of_three(design, keep=keep).equals(table) and len(calls) == 7
    told = []
    again = of_three(design, keep=keep, progress=lambda *a: told.append(a))
    assert again.equals(table) and len(calls) == 7
    assert told[0] == ("sensitivity", 0, 7) and told[-1] == ("sensitivity", 7, 7)


def test_fewer_trials_than_the_run_where_many_values_are_varied():
    big = load_scenario("phase3", ["trial.n_trials=10000"])
    n = sensitivity.trials_of_each(big, 121)
    assert sensitivity.FEWEST <= n <= sensitivity.MOST and n * 121 * 424 * 56 <= sensitivity.PATIENT_DAYS
    assert sensitivity.trials_of_each(load_scenario("phase3", ["trial.n_trials=7"]), 121) == 7
    assert sensitivity.trials_of_each(load_scenario("phase3_stages"), 10**6) == sensitivity.FEWEST


# What the page shows


def test_the_largest_change_comes_first_and_noise_is_marked(few):
    design, table = few
    quantities = shown.shown(design, table)
    rows = shown.rows(table, quantities)
    assert [row.largest for row in rows] == sorted((row.largest for row in rows), reverse=True)
    assert rows[0].name == "receptor_ec50_nM" and rows[0].largest > 5
    told = table[(table["comparison"] == "start 2.5 mg") & (table["quantity"] == "response_week_8")]
    for row in told.itertuples():
        own = next(x for x in rows if x.name == row.assumption)
        change = own.changes["start 2.5 mg", "response_week_8"][row.setting == "high"]
        assert change.points == pytest.approx(100 * row.difference) and change.noise == row.within_2_errors
        assert change.noise == (abs(row.difference) <= 2 * row.mc_se)
    assert not set(quantities) & set(shown.unmoved(design, table))


SCENARIO = """
[trial]
n_trials = 2000
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


def test_the_command_writes_table_and_section(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO)
    assert main("trial s.toml --sensitivity".split()) == 2
    assert "--sensitivity: the table is written to the folder of --out" in capsys.readouterr().err
    assert main("trial s.toml --out run --sensitivity".split()) == 0
    table = pd.read_csv(tmp_path / "run" / sensitivity.FILE)
    assert list(table.columns) == list(sensitivity.COLUMNS) and set(table["setting"]) == {"low", "high"}
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert "What hangs on the assumptions" in page.text and "outcome.response_probability.a" in page.text
    assert "figure-sensitivity" in page.all("figure", "id") and not (tmp_path / "run" / "checkpoint").exists()
    assert main("trial s.toml --out plain".split()) == 0
    without = Page((tmp_path / "plain" / "report.html").read_text())
    assert "What hangs on the assumptions" not in without.text and "What was assumed" in without.text
    assert main("trial s.toml --out null --null --sensitivity".split()) == 0
    null = pd.read_csv(tmp_path / "null" / sensitivity.FILE)
    assert "type_1_error" in set(null["quantity"]) and "power" not in set(null["quantity"])
    assert main("trial s.toml --out sweep --sensitivity --set arms.a.n=20,30".split()) == 0
    assert len(list((tmp_path / "sweep").glob("*/sensitivity.csv"))) == 2


def test_a_second_drug_of_an_arm_has_its_own_pharmacology_too():
    """Patients who switch to eltrombopag: the other drug's own numbers move, those of the disease once."""
    design = switches.scenario(
        arms=switches.ARMS, stages=switches.STAGES, titration=switches.RULES, trial={"visits_d": switches.VISITS}
    )
    found = by_key(design)
    assert {"hetrombopag", "eltrombopag"} <= {of for of, key in found if key == "dimer_efficacy"}
    assert [of for of, key in found if key == "max_stimulation"] == ["patients"]
    known = by_key(design, {"eltrombopag.dimer_efficacy": np.ones(1)})
    assert ("eltrombopag", "dimer_efficacy") not in known and ("hetrombopag", "dimer_efficacy") in known
