"""Which runs a command asks for, and their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.config import load
from inference.sweeps import Job, expand, run_name, sweep
from pkpd.errors import InputError
from pkpd.tomlfile import alternatives, apply_settings, value_of


def test_one_config_and_no_sweep_is_one_run_with_its_settings():
    assert expand({"a": Path("a.toml")}, sweep(["seed=1", "quick=true"])) == [
        Job("a", Path("a.toml"), ("seed=1", "quick=true"), {})
    ]


def test_configs_are_crossed_with_all_values_and_the_last_key_moves_fastest():
    jobs = expand({"a": Path("a.toml"), "b": Path("b.toml")}, sweep(["seed=1,2", "quick=true", "widening=1.5,2"]))
    assert [job.name for job in jobs] == [
        f"{stem}-seed={seed}-widening={width}" for stem in "ab" for seed in (1, 2) for width in ("1.5", "2")
    ]
    assert jobs[1].settings == ("seed=1", "quick=true", "widening=2")
    assert jobs[1].swept == {"seed": 1, "widening": 2}


def test_a_key_given_again_is_a_sweep_and_the_same_value_again_is_not():
    assert sweep(["seed=1", "seed=2", "seed=1", " seed = 2,3 "]) == {"seed": ["1", "2", "3"]}
    assert sweep(["seed=1", "seed=1"]) == {"seed": ["1"]}
    assert sweep(['"seed"=1', "seed=2"]) == {"seed": ["1", "2"]}


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("free=['a','b']", [["a", "b"]]),
        ("free=['a','b'],['c']", [["a", "b"], ["c"]]),
        ("free=[],['c']", [[], ["c"]]),
        ("rounds=[{vectors=99,patients=8}],[{vectors=16,patients=8}]",
         [[{"vectors": 99, "patients": 8}], [{"vectors": 16, "patients": 8}]]),
        ("centre=alternative_centre,''", ["alternative_centre", ""]),
        ('data.table="a,b.csv"', ["a,b.csv"]),
        ('data.table="a,b.csv","c\\",d.csv"', ["a,b.csv", 'c",d.csv']),
        ("data.table='a,]b.csv', c.csv", ["a,]b.csv", "c.csv"]),
        ("quick=true,false", [True, False]),
    ],
)  # fmt: skip
def test_values_are_taken_apart_at_commas_outside_brackets_and_quotes(setting, values):
    key, texts = alternatives(setting)
    assert key == setting.partition("=")[0] and [value_of(text) for text in texts] == values


@given(st.recursive(st.integers() | st.text("a,b]['\"{\\ ", max_size=4), lambda v: st.lists(v, max_size=3)))
@settings(deadline=None, derandomize=True)
def test_what_is_one_toml_value_is_never_taken_apart(value):
    from inference.config import dump_toml

    text = dump_toml({"x": value}).strip()
    assert alternatives(text) == ("x", [text.partition("=")[2].strip()])
    twice = f"{text},{text.partition('=')[2]}"
    assert [apply_settings({}, [f"x={one}"]) for one in alternatives(twice)[1]] == [{"x": value}] * 2


@pytest.mark.parametrize("setting", ["seed", "seed=", "seed=1,", "seed=,1", "seed=1,[2", "a b=1,2", "seed=1,#2"])
def test_what_is_no_setting_is_said(setting):
    with pytest.raises(InputError, match="--set"):
        sweep([setting])


def test_the_settings_of_a_run_are_read_as_they_were_meant():
    jobs = expand({"a": None}, sweep(["data.leave_out=['placebo'],[]", "seed=1"]))
    assert [load(None, job.settings).data.leave_out for job in jobs] == [("placebo",), ()]
    assert [job.swept for job in jobs] == [{"data.leave_out": "['placebo']"}, {"data.leave_out": "[]"}]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)
SIMILAR = st.text("a.-_=/'[1", min_size=1, max_size=4)  # chosen to make the same name twice, if that can be


@given(st.lists(st.tuples(NAMES | SIMILAR, SIMILAR, SIMILAR), unique=True, min_size=2, max_size=30))
@settings(deadline=None, derandomize=True)
def test_names_are_fit_for_files_and_never_the_same(runs):
    names = [run_name(stem, {"seed": one, "data.table": two}) for stem, one, two in runs]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_+=-][A-Za-z0-9_.+=-]*", name) and len(name) < 140 for name in names)


@pytest.mark.parametrize("stem", ["summary.csv", "a.log", "a.LOG", "..", ".a", "a" * 300, "a b", "é"])
def test_names_of_other_files_and_unfit_ones_get_a_hash(stem):
    assert re.search(r"-[0-9a-f]{8}$", run_name(stem, {}))
    assert run_name(stem, {}) == run_name(stem, {})
