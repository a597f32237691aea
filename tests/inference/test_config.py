"""The config of a fit: files, settings and options become one frozen object, and back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inference.config import QUICK, Config, Round, dump_toml, load, plan
from pkpd.errors import InputError
from pkpd.validated import validate


def read_back(config: Config) -> Config:
    return validate(Config, tomllib.loads(config.to_toml()), "written")


def test_without_a_file_everything_has_a_default():
    assert load() == Config()
    asked = plan(Config())
    assert asked.fitted.arms == asked.data.arms == tuple(arm.name for arm in asked.scenario.arms)
    assert set(asked.prior.names) == set(asked.library.free_names())


def test_options_beat_settings_beat_the_file(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text("seed = 1\nwidening = 1.5\n[sampler]\nchains = 8\ndraws = 100\n")
    config = load(path, ["seed=2", "sampler.draws=200"], {"seed": 3})
    assert (config.seed, config.widening) == (3, 1.5)
    assert (config.sampler.chains, config.sampler.draws) == (8, 200)


def test_quick_changes_only_what_nobody_chose(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text("[sampler]\nchains = 8\n")
    quick = load(path, options={"quick": True})
    assert quick.rounds == tuple(Round(**size) for size in QUICK["rounds"])
    assert quick.sampler.chains == 8 and quick.sampler.draws == QUICK["sampler"]["draws"]
    assert load(path, ["quick=true"]) == quick
    patients = sum(size.vectors * size.patients for size in quick.rounds)
    assert patients < sum(size.vectors * size.patients for size in Config().rounds)


def test_files_named_in_a_config_lie_beside_it(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text("scenario = 'mine.toml'\n[data]\ntable = 'mine.csv'\n")
    config = load(path)
    assert (config.scenario, config.data.table) == (str(tmp_path / "mine.toml"), str(tmp_path / "mine.csv"))
    path.write_text("scenario = 'phase3'\n")
    assert load(path).scenario == "phase3"


def test_free_and_fix_reach_the_prior():
    asked = plan(load(None, ["free=['dimer_hill']", "fix=['clearance_l_per_h']", "priors.dimer_hill.log_sd=0.2"]))
    assert "dimer_hill" in asked.prior.names and "clearance_l_per_h" not in asked.prior.names


def test_another_centre_and_single_values_reach_the_library():
    asked = plan(load(None, ["centre=alternative_centre", "parameters.max_stimulation=7.0"]))
    usual = plan(Config())
    assert asked.library.value("max_stimulation") == 7.0
    assert asked.library.value("receptor_ec50_nM") != usual.library.value("receptor_ec50_nM")


def test_an_arm_left_out_is_predicted_not_fitted():
    asked = plan(load(None, ["data.leave_out=['placebo']"]))
    assert "placebo" in asked.data.arms and "placebo" not in asked.fitted.arms


def test_arms_of_the_data_must_be_those_of_the_scenario(tmp_path):
    scenario = tmp_path / "s.toml"
    scenario.write_text(
        "[trial]\nvisits_d = [56]\n[entry]\nplatelets_below_1e9_per_l = 30\n"
        '[[arms]]\nname = "placebo"\ndrug = "placebo"\nn = 84\n'
    )
    with pytest.raises(InputError, match="n = 85, but 84"):
        plan(load(None, [f'scenario="{scenario}"']))


def test_a_config_is_frozen():
    with pytest.raises(ValidationError):
        Config().seed = 2


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["quick=true", "data.leave_out=['placebo']"],
        ["priors.receptor_ec50_nM.log_sd=0.9", "priors.stimulation_shares.free=true"],
        ["rounds=[{vectors=99, patients=8}]"],
        ['scenario="C:\\\\a folder\\\\\\"quoted\\".toml"', "parameters.bioavailability=0.5"],
    ],
)  # fmt: skip
def test_what_is_written_reads_back_equal(settings):
    config = load(None, settings)
    assert read_back(config) == config


SCALARS = st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.text())
VALUES = st.recursive(SCALARS, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(), v, max_size=3)))


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_toml_of_anything_reads_back_equal(table):
    assert tomllib.loads(dump_toml(table)) == table


def test_a_correction_by_too_few_draws_is_told():
    assert load(None, ["correction.draws=50"]).correction.draws == 50
    with pytest.raises(InputError, match=r"correction.draws = 20; legal: 0, or 50 and more"):
        load(None, ["correction.draws=20"])


def test_the_structure_of_omega():
    block = plan(load(None, ['omega.blocks=[["receptor_ec50_nM","clearance_l_per_h"]]'])).prior
    assert block.names[-1] == "correlation[clearance_l_per_h,receptor_ec50_nM]" and block.dimension == 27
    assert plan(load(None, ["omega.full=true"])).prior.dimension == 26 + 13 * 12 // 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('omega.blocks=[["lag_time_h","clearance_l_per_h"]]', "'lag_time_h' does not vary"),
        ('omega.blocks=[["clearance_l_per_h"]]', "blocks of two parameters or more"),
        ('omega={full=true,blocks=[["receptor_ec50_nM","clearance_l_per_h"]]}', "blocks of two parameters or more"),
        ('omega.blocks=[["receptor_ec50_nM","receptor_ec50_nM"]]', "stands twice"),
        ("omega.concentration=0", "concentration"),
    ],
)
def test_an_omega_that_makes_no_sense_is_told(setting, message):
    with pytest.raises(InputError, match=message):
        load(None, [setting])
