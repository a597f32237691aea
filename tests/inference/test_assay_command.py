"""``pkpd assay``: its tables, its picture, and what it prints."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from inference import store
from inference.assay import SHARES, compare, measure, of_run
from inference.cli import main
from inference.config import load
from pkpd import assay
from pkpd.errors import InputError
from pkpd.parameters import load_library
from tests.inference import made_up

TABLES = {"response", "time_course", "summary", "comparison"}


def test_the_command_writes_tables_and_a_picture(tmp_path, capsys):
    out = tmp_path / "dish"
    assert main(["assay", "--out", str(out), "--tpo", "0.5", "--minutes", "20"]) == 0
    printed = capsys.readouterr().out
    ratio = load_library().value("receptor_ec50_nM") / 0.4
    assert " 0.4 " in printed and f" {ratio:.5g} " in printed and "not a plasma EC50" in printed
    assert {f.name for f in out.iterdir()} == {f"{t}.csv" for t in TABLES} | {"assay.png", "manifest.json"}
    assert (out / "assay.png").read_bytes().startswith(b"\x89PNG")

    response = pd.read_csv(out / "response.csv")
    one = response[(response["tpo_relative"] == 0.5) & (response["receptor"] == "yes")].iloc[100]
    p = load_library().parameters(np.float64)
    exact = assay.time_course([20 / 60], 0.5, one["concentration_nM"], p)
    assert one["value"] == pytest.approx(float(getattr(exact, one["readout"])[0]), rel=1e-8)
    assert one["minutes"] == 20
    mass = one["concentration_nM"] * load_library().value("molar_mass_g_per_mol") / 1000
    assert one["concentration_ng_per_ml"] == pytest.approx(mass, rel=1e-8)

    course = pd.read_csv(out / "time_course.csv")
    last = course[course["minutes"] == 20].merge(
        response, on=["medium", "concentration_nM", "readout"], suffixes=("", "_of_response")
    )
    assert len(last) == 3 * 4 * len(assay.Readouts._fields)
    np.testing.assert_allclose(last["value"], last["value_of_response"], rtol=1e-7, atol=1e-8)


def test_media_and_their_potencies():
    result = measure(tpo=1.0, minutes=30.0)
    summary = result.summary.set_index(["medium", "time", "readout"]).sort_index()
    alone, on_top, silent = result.summary["medium"].unique()
    ec50 = load_library().value("receptor_ec50_nM")
    assert summary.loc[(alone, "30 min", "active_receptors"), "EC50_nM"] == pytest.approx(ec50, rel=1e-8)
    assert summary.loc[silent, "EC50_nM"].isna().all()
    assert (summary.loc[on_top, "EC50_nM"] > 0).all()
    assert summary.loc[(on_top, "at rest", "stat5"), "bottom"] > 0 == summary.loc[(alone, "at rest", "stat5"), "bottom"]
    assert list(measure(tpo=0.0, minutes=0.0).summary["medium"].unique()) == ["no TPO", "no receptor, TPO 0 × healthy"]


@pytest.mark.parametrize(("tpo", "minutes"), [(-1.0, 60.0), (np.nan, 60.0), (1.0, -5.0), (1.0, np.inf)])
def test_bad_settings_are_named(tpo, minutes):
    with pytest.raises(InputError, match="legal: a finite number, 0 or more"):
        measure(tpo=tpo, minutes=minutes)


def test_without_tpo_and_time_there_is_still_a_picture(tmp_path):
    assert main(["assay", "--out", str(tmp_path / "d"), "--tpo", "0", "--minutes", "0"]) == 0
    assert (tmp_path / "d" / "assay.png").is_file()


# At the posterior of a run


@pytest.fixture(scope="module")
def fitted():
    return made_up.result(draws=60)


@pytest.fixture(scope="module")
def run(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "run"
    folder.mkdir()
    store.save(fitted, folder)
    return folder


def test_the_fitted_ec50_stands_beside_the_one_in_vitro(run, fitted, tmp_path, capsys):
    out = tmp_path / "dish"
    assert main(["assay", "--out", str(out), "--posterior", str(run), "--minutes", "30"]) == 0
    printed = capsys.readouterr().out
    assert "not a plasma EC50" in printed and f"posterior of {run}: medians" in printed and "of 240 draws" in printed
    assert {f.name for f in out.iterdir()} == {f"{t}.csv" for t in TABLES} | {"assay.png", "manifest.json"}
    assert "posterior" in json.loads((out / "manifest.json").read_text())["sha256"]

    dish, receptor, grown = pd.read_csv(out / "comparison.csv").to_dict("records")
    row = store.summary(fitted).set_index("parameter").loc["receptor_ec50_nM"]
    found = [receptor[column] for column in ("lower_nM", "EC50_nM", "upper_nM")]
    np.testing.assert_allclose(found, row[["q2.5", "q50", "q97.5"]].astype(float), rtol=1e-8)
    assert dish["EC50_nM"] == 0.4 and np.isnan(dish["lower_nM"]) and dish["status"] == "secondary"
    for fit in (receptor, grown):
        assert fit["status"] == "derived" and str(run) in fit["source"] and "protein" in fit["reason"]
        for ratio, value in assay.RATIOS.items():
            assert fit[ratio] == pytest.approx(fit[value] / 0.4, rel=1e-8)
    # the rest of the cell is fixed, so both EC50s scale together, and curves of the median cell have the median EC50s
    assert grown["upper_nM"] / grown["lower_nM"] == pytest.approx(receptor["upper_nM"] / receptor["lower_nM"], rel=1e-6)
    summary = pd.read_csv(out / "summary.csv").set_index(["medium", "time", "readout"])["EC50_nM"]
    assert summary["no TPO", "at rest", "proliferation"] == pytest.approx(grown["EC50_nM"], rel=1e-3)
    assert summary["no TPO", "at rest", "active_receptors"] == pytest.approx(receptor["EC50_nM"], rel=1e-8)


def test_bands_are_quantiles_over_draws(fitted):
    cells = of_run(fitted, load(), "a run")
    response = measure(tpo=1.0, minutes=30.0, cells=cells).response
    for name in ("value", "value_at_rest"):
        assert (response[f"{name}_lower"] <= response[f"{name}_upper"]).all()
        inside = response[name].between(response[f"{name}_lower"] - 1e-4, response[f"{name}_upper"] + 1e-4)
        assert inside.all(), "the typical cell lies within its band"
    alone = response[(response["medium"] == "no TPO") & (response["readout"] == "active_receptors")]
    c, ec50 = alone["concentration_nM"].to_numpy(), np.ravel(fitted.posterior["receptor_ec50_nM"])
    closed = load_library().value("dimer_efficacy") * c / (ec50[:, None] + c)
    for end, q in (("lower", 0.025), ("upper", 0.975)):
        np.testing.assert_allclose(alone[f"value_{end}"], np.quantile(closed, q, axis=0), rtol=1e-10)


def test_a_coarser_step_serves_the_bands(fitted, monkeypatch):
    monkeypatch.setattr("inference.assay.BAND_DRAWS", 20)
    cells = of_run(fitted, load(), "a run")
    coarse = measure(tpo=1.0, minutes=30.0, cells=cells).response
    monkeypatch.setattr("inference.assay.BAND_STEP", assay.STEP)
    fine = measure(tpo=1.0, minutes=30.0, cells=cells).response
    for end in ("value_lower", "value_upper"):
        np.testing.assert_allclose(coarse[end], fine[end], atol=1e-4)


def test_what_a_run_freed_or_fixed_is_followed(fitted):
    drawn = np.random.default_rng(2).dirichlet((5, 2, 3), (4, 60))
    shares = dict(zip(SHARES, drawn.transpose(2, 0, 1), strict=True))
    freed = fitted._replace(posterior={**fitted.posterior, **shares})
    typical = of_run(freed, load(), "a run").typical
    assert sum(float(getattr(typical, name)) for name in shares) == pytest.approx(1.0)
    for name, values in shares.items():
        assert float(getattr(typical, name)) == pytest.approx(np.median(values), abs=0.05)

    left = {name: values for name, values in fitted.posterior.items() if name != "receptor_ec50_nM"}
    kept = [*fitted.fixed, {"name": "receptor_ec50_nM", "value": 18.0}]
    table = compare(of_run(fitted._replace(posterior=left, fixed=kept), load(), "a run"))
    assert table["EC50_nM"][1] == 18 and table[["lower_nM", "upper_nM"]].isna().all(axis=None)
    assert "a run" not in set(table["source"])


def test_a_run_of_another_drug_is_compared_with_its_own_dish(fitted):
    table = compare(of_run(fitted, load(options={"drug": "eltrombopag"}), "a run"))
    assert table["EC50_nM"][0] == 13.4 and set(table["drug"]) == {"eltrombopag"}
