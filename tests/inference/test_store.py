"""The run folder: what is saved is read back, what is damaged is said, and the summary against closed forms."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from inference import store
from pkpd.endpoints import NAMES
from pkpd.errors import InputError
from tests.inference import made_up

GROUPS = {"posterior", "prior", "sample_stats", "posterior_predictive", "prior_predictive", "observed_data",
          "constant_data", "log_likelihood", "surface", "courses", "examples", "rounds",
          "fixed_parameters"}  # fmt: skip


@pytest.fixture(scope="module")
def result():
    return made_up.result(draws=40, leave_out=("placebo",))


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store.save(result, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def same(found, expected) -> bool:
    if isinstance(expected, np.ndarray):
        return np.array_equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], v) for k, v in expected.items())
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected


@pytest.mark.parametrize("prior_only", [False, True])
def test_what_is_saved_is_read_back(tmp_path, prior_only):
    result = made_up.result(draws=40, prior_only=prior_only, leave_out=("start 5 mg",))
    store.save(result, tmp_path)
    found = store.load(tmp_path)
    wrong = [name for name in result._fields if not same(getattr(found, name), getattr(result, name))]
    assert wrong == []
    assert found.prior_only is prior_only
    assert list(found.posterior) == list(result.posterior), "the order of the parameters is kept"


def test_an_order_that_is_not_that_of_the_alphabet_is_kept(result, tmp_path):
    rows = [{"zeta": 1, "alpha": 2.5}, {"zeta": 3}]
    store.save(result._replace(rounds=rows, fixed=[]), tmp_path)
    assert store.load(tmp_path).rounds == rows
    assert store.load(tmp_path).fixed == []


def test_the_posterior_follows_the_schema_of_arviz(result, folder):
    with xr.open_datatree(folder / store.POSTERIOR, engine="h5netcdf") as tree:
        assert set(tree.children) == GROUPS
        posterior = tree["posterior"].to_dataset()
        assert set(posterior) == set(result.posterior), "population parameters only"
        assert posterior["receptor_ec50_nM"].attrs["unit"] == "nM"
        assert dict(posterior.sizes) == {"chain": 4, "draw": 40}
        assert tree["posterior_predictive/count"].dims == ("chain", "draw", "arm", "quantity")
        assert tree["observed_data/count"].sel(arm="placebo", quantity="rescue") == 32
        assert tree["constant_data/fitted"].values.tolist() == [True, True, False]
        assert tree["courses/platelets_quantiles"].attrs["unit"] == "1e9/L"
        assert tree["courses"]["day"].values.tolist() == [0, 7, 14, 21, 28, 35, 42, 49, 56]
        assert tree["sample_stats/diverging"].dtype == bool
        assert tree["log_likelihood/count"].dims == ("chain", "draw", "arm")
        np.testing.assert_array_equal(tree["log_likelihood/count"], result.log_likelihood)


def test_no_manifest_is_made_up(result, tmp_path):
    store.save(result._replace(manifest={}), tmp_path)
    assert not (tmp_path / store.RUN_MARK).exists()


def test_the_summary_has_its_columns_and_units(result, folder):
    table = pd.read_csv(folder / store.SUMMARY)
    assert ",".join(table.columns) == (
        "parameter,unit,mean,sd,q2.5,q50,q97.5,rhat,ess_bulk,ess_tail,prior_sd,contraction"
    )
    assert table["parameter"].tolist() == list(result.posterior)
    units = dict(zip(table["parameter"], table["unit"], strict=True))
    assert (units["clearance_l_per_h"], units["immune_drift_time_d"]) == ("L/h", "d")
    draws = result.posterior["max_stimulation"]
    row = table.set_index("parameter").loc["max_stimulation"]
    assert row["mean"] == pytest.approx(draws.mean(), rel=1e-5)
    assert row["q97.5"] == pytest.approx(np.quantile(draws, 0.975), rel=1e-5)
    assert row["prior_sd"] == pytest.approx(np.std(result.prior["max_stimulation"], ddof=1), rel=1e-5)


def test_contraction_is_taken_on_the_log_scale():
    prior = np.exp(np.random.default_rng(1).normal(0.0, 1.0, 1000))
    assert store.contraction(prior**0.5, prior) == pytest.approx(0.75)
    assert store.contraction(7.0 * prior, prior) == pytest.approx(0.0, abs=1e-12), "a change of unit teaches nothing"
    assert store.contraction(prior**2, prior) == pytest.approx(-3.0)
    signed = np.log(prior)
    assert store.contraction(0.5 * signed, signed) == pytest.approx(0.75), "what may be negative keeps its scale"


def test_when_only_the_prior_was_drawn_the_summary_is_the_priors(tmp_path):
    result = made_up.result(draws=40, prior_only=True)
    table = store.summary(result)
    assert table[["rhat", "ess_bulk", "ess_tail", "contraction"]].isna().all(axis=None)
    assert np.array_equal(table["sd"], table["prior_sd"])
    store.save(result, tmp_path)
    assert store.load(tmp_path).posterior == {}


def test_convergence_notices_a_chain_of_its_own():
    result = made_up.result(draws=200)
    stuck = dict(result.posterior)
    stuck["max_stimulation"] = stuck["max_stimulation"] * np.array([1, 1, 1, 9.0])[:, None]
    table = store.summary(result._replace(posterior=stuck)).set_index("parameter")
    assert table.loc["max_stimulation", "rhat"] > 1.2 > 1.05 > table.loc["clearance_l_per_h", "rhat"]
    assert table.loc["max_stimulation", "ess_bulk"] < 50 < table.loc["clearance_l_per_h", "ess_bulk"]


def test_diagnostics_are_plain_json(result, tmp_path):
    odd = {"rhat_max": np.float64(1.5), "by_arm": np.array([1, 2]), "khat": np.nan, "nested": {"x": np.inf}, "ok": True}
    store.save(result._replace(diagnostics=odd), tmp_path)
    content = json.loads((tmp_path / store.DIAGNOSTICS).read_text(), parse_constant=pytest.fail)
    assert content["verdict"] == "preliminary" and content["reasons"] == result.reasons
    assert content["rhat_max"] == 1.5 and content["by_arm"] == [1, 2] and content["ok"] is True
    assert content["khat"] is None and content["nested"] == {"x": None}
    assert store.load(tmp_path).diagnostics["khat"] is None


MISFITS = {
    "observed": lambda r: r._replace(observed=r.observed[:2]),
    "posterior_predictive": lambda r: r._replace(posterior_predictive=r.posterior_predictive[..., :4]),
    "platelets_quantiles": lambda r: r._replace(platelets_quantiles=r.platelets_quantiles[:, 1:]),
    "median_quantiles": lambda r: r._replace(median_quantiles=r.platelets_quantiles),
    "level_share": lambda r: r._replace(level_share=r.level_share[..., 1:]),
    "fitted": lambda r: r._replace(fitted=(True,)),
    "logits": lambda r: r._replace(logits=r.logits[:, 1:]),
    "posterior": lambda r: r._replace(posterior={**r.posterior, "max_stimulation": np.ones((3, 40))}),
    "quantities": lambda r: r._replace(quantities=NAMES[::-1]),
    "prior": lambda r: r._replace(prior={}),
}


@pytest.mark.parametrize("name", MISFITS)
def test_arrays_that_do_not_fit_together_are_refused(result, tmp_path, name):
    with pytest.raises(ValueError, match=name):
        store.save(MISFITS[name](result), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", store.NEEDED)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        store.load(folder)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        store.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not the run folder of a fit"):
        store.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        store.load(tmp_path / "file")


@pytest.mark.parametrize("name", [n for n in store.NEEDED if n != store.SUMMARY])
@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "another"])
def test_a_damaged_file_is_named_in_one_line(folder, name, damage):
    path = folder / name
    whole = path.read_bytes()
    other = {store.DIAGNOSTICS: b'{"verdict": 3}', store.RUN_MARK: b"[1, 2]"}.get(name, b"\xff\xfe\x00")
    path.write_bytes({"empty": b"", "noise": bytes(range(256)) * 20, "cut": whole[: len(whole) // 2],
                      "another": other}[damage])  # fmt: skip
    if name == store.CONFIG and damage in ("empty", "cut"):
        assert store.load(folder).config_toml == path.read_text(), "what a config means is not this file's business"
        return
    with pytest.raises(InputError) as error:
        store.load(folder)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_posterior_of_other_arms_is_noticed(folder, result):
    broken = store.tree(result).copy()
    broken["courses"] = broken["courses"].to_dataset().isel(arm=[0, 1])
    (folder / store.POSTERIOR).write_bytes(store._netcdf(broken))
    with pytest.raises(InputError, match="platelets_quantiles"):
        store.load(folder)


def test_what_cannot_be_written_is_said_and_leaves_nothing(result, tmp_path):
    (tmp_path / store.POSTERIOR).mkdir()
    with pytest.raises(InputError, match=store.POSTERIOR):
        store.save(result, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
