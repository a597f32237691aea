"""The calibration of the arm-level fit in its reduced form: 30 data sets, and one fit that is wrong on purpose."""

from __future__ import annotations

import json

import pytest

from benchmarks import calibration as command

FITS = ("right", "prior counted twice")


@pytest.mark.slow
def test_thirty_data_sets(tmp_path):
    work, record = tmp_path / "work", tmp_path / "record.json"

    def run(data_sets):
        where = ["--work", str(work), "--json", str(record), "--figure", str(tmp_path / "figure.png")]
        return command.main([*where, "--data-sets", str(data_sets), "--fits", *FITS])

    run(2)  # as if interrupted there
    kept = {f.name: f.stat().st_mtime_ns for f in work.glob("0*.json")}
    assert len(kept) == 4
    run(30)
    assert all((work / name).stat().st_mtime_ns == when for name, when in kept.items())

    fits = json.loads(record.read_text())["fits"]
    right, twice = (fits[name] for name in FITS)
    assert right["fits"] == twice["fits"] == 30
    assert not right["without_ranks"]
    assert len(right["p"]) == 32  # 26 coordinates, two densities, three rates and their distance
    # not each envelope: of 32 at 99%, one in four times one is left by chance
    assert min(right["holm"].values()) > 0.01
    assert twice["p"]["log prior density"] < 1e-3
