"""The calibration's command on made-up outcomes: what it reads, says, stores and refuses. No fit is run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import calibration as command
from pkpd.errors import InputError

NAMES = ("log a", *{wrong.quantity: None for wrong in command.WRONG.values()})
CHAINS = {"rhat_max": 1.02, "ess_bulk_min": 400.0, "divergences": 0.0, "covariance_share": 0.1}


@pytest.fixture
def work(tmp_path):
    command.open_work(tmp_path / "work", {"seed": 1})
    return tmp_path / "work"


def fill(work, name, n, rng, *, shifted=None, failures=()):
    """Outcomes of n fits with uniform ranks; those of the quantity ``shifted`` are low."""
    for number in range(n):
        ranks = {q: int(rng.integers(0, 30 if q == shifted else 100)) for q in NAMES}
        outcome = {"status": "fitted", "ranks": ranks, "figures": CHAINS}
        if number in failures:
            outcome = {"status": "refused", "message": "it would not"}
        times = {"data_set": number, "fit": name, "counts": [[1] * 5], "seconds": 9.0, "processor_seconds": 12.0}
        command.file_of(work, number, name).write_text(json.dumps(times | outcome))


def run(work, *more):
    record, figure = work.parent / "record.json", work.parent / "figure.png"
    code = command.main(
        [
            "--work",
            str(work),
            "--only-report",
            "--json",
            str(record),
            "--figure",
            str(figure),
            "--data-sets",
            "60",
            *more,
        ]
    )
    return code, json.loads(record.read_text()) if record.exists() else None


def test_what_is_right_passes_and_what_is_wrong_is_told(work, capsys):
    rng = np.random.default_rng(0)
    fill(work, "right", 60, rng, failures=[7])
    fill(work, "large surface covariance", 60, rng)
    for name, wrong in command.WRONG.items():
        fill(work, name, 60, rng, shifted=wrong.quantity)
    code, record = run(work)
    said = capsys.readouterr().out
    assert code == 0 and record["passed"] and said.rstrip().endswith("passed")
    assert "data set 7 refused: it would not" in said
    assert record["fits"]["right"]["without_ranks"][0]["data_set"] == 7
    assert len(record["fits"]["right"]["ranks"]["log a"]) == 59
    assert (work.parent / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "spoil, message",
    [
        ({"shifted": "log a"}, "log a: Holm-adjusted p"),
        ({"failures": (1, 2)}, "3.3% of the fits failed or were refused, above 2%"),
    ],
)
def test_a_right_fit_that_is_not_calibrated_does_not_pass(work, capsys, spoil, message):
    fill(work, "right", 60, np.random.default_rng(1), **spoil)
    code, record = run(work, "--fits", "right")
    assert code == 1 and not record["passed"] and message in capsys.readouterr().out


def test_a_wrong_fit_that_nobody_notices_does_not_pass(work, capsys):
    fill(work, "prior counted twice", 60, np.random.default_rng(2))
    assert run(work, "--fits", "prior counted twice")[0] == 1
    assert "not below 0.001" in capsys.readouterr().out


def test_what_is_not_finished_does_not_pass(work, capsys):
    fill(work, "right", 40, np.random.default_rng(3))
    assert run(work, "--fits", "right")[0] == 1
    assert "40 of 60 fits are done" in capsys.readouterr().out


def test_a_work_folder_goes_on_only_with_its_own_settings(work):
    command.open_work(work, {"seed": 1})
    with pytest.raises(InputError, match="begun with seed = 1, not 2; choose another --work"):
        command.open_work(work, {"seed": 2})


def test_a_fit_that_stops_is_an_outcome():
    def refuses():
        raise InputError("no")

    assert command.attempt(refuses)["status"] == "refused"
    outcome = command.attempt(lambda: 1 // 0)
    assert outcome["status"] == "failed" and outcome["message"].startswith("ZeroDivisionError")


def test_nothing_to_report(tmp_path, capsys):
    assert command.main(["--work", str(tmp_path), "--only-report"]) == 2
    assert "no calibration was begun here" in capsys.readouterr().err


def test_seeds_of_data_sets_differ():
    from benchmarks.calibration_cases import seed_of

    seeds = {seed_of(base, number) for base in (1, 2) for number in range(1000)}
    assert len(seeds) == 2000 and all(0 <= s < 2**31 for s in seeds)
