"""``pkpd assay``: its tables, its picture, and what it prints."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from inference.assay import measure
from inference.cli import main
from pkpd import assay
from pkpd.errors import InputError
from pkpd.parameters import load_library

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
