"""The file of a search and its candidates: keys, ranges, subsets, distances, and the scenario that is written."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cli import BAD_INPUT, main
from inference.whatif.candidates import candidates, raw_scenario, value_at
from inference.whatif.scenario_file import as_toml, value_text
from inference.whatif.search_file import Search, load_search, shipped_searches, split_keys
from pkpd.scenario import FOLDER, build, shipped
from pkpd.tomlfile import read_toml
from pkpd.validated import validate
from tests.inference.whatif.test_trial_command import SCENARIO

SEARCH = """
[objective]
comparison = "a vs b"
quantity = "power_fisher"
aim = "max"
[[constraints]]
quantity = "patients"
at_most = 80
[keys]
"arms.a.n" = [20, 30, 40]
"""
PHASE3 = raw_scenario("phase3", [])


def search(keys: dict, **more) -> Search:
    return validate(Search, {"objective": {"quantity": "patients", "aim": "min"}, "keys": keys, **more}, "q.toml")


def test_keys_are_written_in_quotes_or_without():
    quoted = search({"titration.up_below": [30, 50], 'arms."start 5 mg".n': [10]})
    nested = search({"titration": {"up_below": [30, 50]}, "arms": {"start 5 mg": {"n": [10]}}})
    assert quoted.keys == nested.keys == {"titration.up_below": (30, 50), 'arms."start 5 mg".n': (10,)}


def test_a_range_has_both_ends_and_stays_whole():
    found = search({"a.b": {"from": 30, "to": 100, "step": 10}, "c": {"from": 0.1, "to": 0.35, "step": 0.1}}).keys
    assert found["a.b"] == (30, 40, 50, 60, 70, 80, 90, 100) and all(isinstance(x, int) for x in found["a.b"])
    assert found["c"] == (0.1, 0.2, 0.3)


def test_a_value_sets_all_keys_that_commas_separate_or_each():
    assert split_keys('arms."a, b".n,c.d') == ['arms."a, b".n', "c.d"]
    both = "titration.up_every_d, titration.up_min_days_since_change"
    first, second = candidates(search({both: [7, [14, 28]]}), PHASE3, "phase3").found
    rules = [
        (c.design.titration[""].up_every_d, c.design.titration[""].up_min_days_since_change) for c in (first, second)
    ]
    assert rules == [(7, 7), (14, 28)]
    assert first.distance == pytest.approx(7 / 21) and second.distance == pytest.approx((0 + 14 / 21) / 2)


def test_candidates_are_all_combinations_that_are_scenarios():
    found = candidates(search({"titration.up_below": [30, 50], "titration.down_above": [150, 200, 250]}), PHASE3, "p")
    assert found.combinations == 6 and len(found.found) == 4 and found.skipped == 2
    assert "down_above = 250 must be below hold_above = 250" in found.why
    assert [c.distance for c in found.found] == pytest.approx([1.5, 1, 0.5, 0])
    assert found.found[3].design == found.start.design and found.start.values == {
        "titration.up_below": 50, "titration.down_above": 200,
    }  # fmt: skip


def test_distances_count_words_as_one_and_what_is_not_there_alike():
    keys = {"analysis.test": ["cochran-mantel-haenszel", "fisher"], "trial.missed_visit_share": [0.0, 0.1]}
    assert [c.distance for c in candidates(search(keys), PHASE3, "p").found] == [1, 1, 2, 2]
    assert value_at(PHASE3, 'arms."start 5 mg".start_dose_mg') == 5.0
    assert value_at(PHASE3, "trial.missed_visit_share") is None and value_at(PHASE3, "arms.nobody.n") is None
    assert value_at({"a": [{"n": 1}, {"n": None}]}, "a.2.n") is None and value_at({"a": {}}, "a.b.c") is None


def test_of_more_combinations_a_space_filling_subset_is_taken():
    """15 of 9 x 9, and the scenario itself: each third of either key is tried in each third of the other."""
    keys = {
        "titration.up_below": {"from": 42, "to": 58, "step": 2},
        "titration.down_above": {"from": 160, "to": 240, "step": 10},
    }
    found, again, other = (
        candidates(search(keys, max_candidates=16, seed=seed), PHASE3, "p") for seed in (1, 1, 2)
    )  # fmt: skip
    values = [tuple(c.values.values()) for c in found.found]
    assert len(set(values)) == 16 and values[0] == (50, 200) and found.combinations == 81
    assert values == [tuple(c.values.values()) for c in again.found] != [tuple(c.values.values()) for c in other.found]
    cells = {((x - 42) // 6, (y - 160) // 30) for x, y in values}
    assert len(cells) == 9


def test_a_huge_grid_is_no_trouble_and_invalid_ones_are_replaced():
    keys = {
        f"titration.{name}": {"from": 100, "to": 300, "step": 1}
        for name in ("down_above", "hold_above", "resume_below")
    }
    found = candidates(search(keys, max_candidates=20), PHASE3, "p")
    assert len(found.found) == 20 and found.combinations == 201**3 and found.skipped > 5


@pytest.mark.parametrize("name", shipped())
def test_a_scenario_is_written_as_it_was_read(name):
    tables = read_toml(FOLDER / f"{name}.toml")
    assert tomllib.loads(as_toml(tables)) == tables
    text = as_toml(raw_scenario(name, []))
    assert build(tomllib.loads(text), name).arms == build(raw_scenario(name, []), name).arms
    assert "[[arms]]" in text and "{name" not in text


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_any_tables_are_written_as_they_are(tables):
    assert tomllib.loads(as_toml(tables)) == tables
    for value in tables.values():
        assert tomllib.loads(f"v = {value_text(value)}") == {"v": value}


def test_shipped_searches_are_searches():
    assert "dose_rule" in shipped_searches()
    for name in shipped_searches():
        assert load_search(name).keys and candidates(load_search(name), PHASE3, "phase3").found


def test_a_table_of_patients_is_found_from_wherever_the_scenario_is_written(tmp_path):
    (tmp_path / "people.csv").write_text("baseline_1e9_per_l,weight_kg\n10,60\n12,70\n")
    tables = {**PHASE3, "entry": {"platelets_below_1e9_per_l": 30, "patients": "people.csv"}}
    (tmp_path / "s.toml").write_text(as_toml(tables))
    raw = raw_scenario(str(tmp_path / "s.toml"), ["trial.n_trials=7"])
    assert raw["entry"]["patients"] == str(tmp_path / "people.csv") and raw["trial"]["n_trials"] == 7
    assert "published" not in raw_scenario("eltrombopag_773a", []) and "published" in read_toml(
        FOLDER / "eltrombopag_773a.toml"
    )


def bad(old: str, new: str, message: str) -> tuple[str, str, str]:
    assert old in SEARCH
    return SEARCH.replace(old, new, 1), "", message


BAD = [
    bad('aim = "max"', 'aim = "high"', "objective.aim = 'high': legal: 'max' or 'min'"),
    bad('aim = "max"', "", "objective.aim is missing"),
    bad("[objective]", "[objectives]", "unknown key 'objectives'; did you mean 'objective'?"),
    bad('quantity = "power_fisher"\n', "", "objective.quantity is missing"),
    bad(
        'comparison = "a vs b"', 'comparison = "a vs b"\narm = "a"', "objective: arm and comparison exclude each other"
    ),
    bad("at_most = 80", "", "constraints[1]: at_most or at_least: one of the two is needed"),
    bad("at_most = 80", "at_most = 80\nat_least = 3", "constraints[1]: at_most or at_least: one of the two"),
    bad("at_most = 80", "at_most = '80'", "constraints[1].at_most = '80': legal: a valid number"),
    bad("at_most", "at_mots", "constraints[1]: unknown key 'at_mots'; did you mean 'at_most'?"),
    bad('"arms.a.n" = [20, 30, 40]', "", "keys = {}: legal: a table with a key of the scenario at least"),
    bad("[20, 30, 40]", "20", "keys: arms.a.n = 20; legal: a list of values, or {from, to, step}"),
    bad("[20, 30, 40]", "[]", "keys: arms.a.n = []; legal: a list of values"),
    bad("[20, 30, 40]", "[20, 30, 20]", "keys: arms.a.n: 20 is among its values twice; legal: once"),
    bad("[20, 30, 40]", "[1979-05-27]", "among its values; legal: numbers, words, true, false, lists"),
    bad("[20, 30, 40]", "{from = 20, to = 40}", "keys: arms.a.n: step is missing; legal: {from, to, step}"),
    bad(
        "[20, 30, 40]", "{from = 20, to = 10, step = 5}", "keys: arms.a.n from 20 to 10 by 5: no values; legal: upwards"
    ),
    bad("[20, 30, 40]", "{from = 20, to = 90, step = 0}", "by 0: no values; legal: upwards, with a step above 0"),
    bad("[20, 30, 40]", "{from = 20, to = 40, step = 'x'}", "keys: arms.a.n.step = 'x'; legal: a number"),
    bad("[20, 30, 40]", "{from = 0, to = 1, step = 1e-6}", "1000001 values; legal: at most 1000"),
    bad('"arms.a.n"', '"arms.a..n"', "no key of a scenario; legal: such as 'titration.up_below'"),
    bad('"arms.a.n"', '"trial.n_trials"', "trial.n_trials: says how a design is simulated, not what it is"),
    bad(
        '"arms.a.n"',
        '"arms.c.n"',
        "all 3 combinations that were tried are no scenarios; the first: 'arms.c.n=20'",
    ),
    bad('"arms.a.n"', '"arms.a.m"', "all 3 combinations that were tried are no scenarios; the first: s.toml: arms[1]"),
    bad('"arms.a.n" = [20', '"arms.a.n, arms.b.n" = [[20]', "a list of another length than its 2 keys"),
    bad("[objective]", "first_trials = 5\n[objective]", "first_trials = 5: legal: greater than or equal to 10"),
    bad("[objective]", "most_trials = 50\n[objective]", "most_trials = 50: fewer than first_trials = 100"),
    bad("[objective]", "budget_trials = 1.5\n[objective]", "budget_trials = 1.5: legal: a valid integer"),
    bad("[objective]", "ties = 'any'\n[objective]", "ties = 'any': legal: 'closest' or 'best'"),
    bad("[objective]", "[objective", "malformed TOML"),
    (
        SEARCH.replace("a vs b", "a vs c"),
        "",
        "power_fisher of a vs c: no arm or comparison 'a vs c'; did you mean 'a vs b'?",
    ),
    (SEARCH.replace("power_fisher", "power_fish"), "", "the summary has no such row; did you mean 'power_fisher'?"),
    (SEARCH, "--set arms.a.n=20,30", "--search: 2 designs by --set; legal: one value of each key"),
    (SEARCH, "--null", "--search: --null does not go with it"),
    (SEARCH, "--find-n 0.8", "--search: --find-n does not go with it"),
    (SEARCH, "--patients --out o", "--search: --patients does not go with it"),
    (SEARCH, "--resume", "--resume: nothing is kept of a search without --out"),
    (SEARCH, "--posterior nowhere", "[outcome] states responses; legal: without --posterior"),
    (SEARCH, "--search none", "--search none: no such file or shipped search; legal names: dose_rule"),
    (SEARCH, "--search q.tml", "q.tml: no such file"),
    (
        SEARCH.replace("at_most = 80", "at_most = 10"),
        "",
        "all 3 designs clearly violate a constraint (patients of whole",
    ),
]


@pytest.mark.parametrize(("text", "more", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_clear_line(text, more, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO.replace("3000", "200"))
    (tmp_path / "q.toml").write_text(text)
    assert main(["trial", "s.toml", "--search", "q.toml", *more.split()]) == BAD_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err, json.dumps(err)
    assert "q.toml: " in err or "--" in err or "q.tml: " in err
    assert {path.name for path in tmp_path.iterdir()} == {"s.toml", "q.toml"}


def test_the_sobol_points_are_spread():
    """Of 64 points in 8 by 8 bins, each row and column of bins has exactly 8."""
    keys = {"titration.up_below": list(range(41, 49)), "titration.down_above": list(range(190, 198))}
    found = candidates(search(keys, max_candidates=32), PHASE3, "p").found
    counts = np.zeros((8, 8), int)
    for c in found:
        x, y = c.values.values()
        counts[x - 41, y - 190] += 1
    assert counts.max() == 1 and counts.sum() == 32 and np.ptp(counts.sum(axis=0)) <= 3
