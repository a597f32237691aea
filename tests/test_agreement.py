"""The agreement of routes: what a scatter of replicates allows to conclude, and that a stopped run goes on."""

from __future__ import annotations

import numpy as np
import pytest

agreement = pytest.importorskip("benchmarks.agreement")

NAMES = ("a", "b")


def replicates(mean, error_sd, n=4, sd=(2.0, 0.1)):
    """Replicates whose mean and error are those given, by parameter, the error in posterior sds."""
    unit = np.linspace(-1, 1, n)
    unit /= unit.std(ddof=1) / np.sqrt(n)
    return [
        {"means": {k: m + e * s * u for k, m, e, s in zip(NAMES, mean, error_sd, sd, strict=True)},
         "sds": dict(zip(NAMES, sd, strict=True)), "courses": 10, "seconds": 2.0, "processor_seconds": 4.0}
        for u in unit
    ]  # fmt: skip


def estimate(*args, **kwargs):
    return agreement.estimate(replicates(*args, **kwargs), NAMES)


def test_an_estimate_is_the_mean_of_the_replicates_and_their_scatter():
    e = estimate((5.0, 1.0), (0.03, 0.01))
    np.testing.assert_allclose(e.mean, [5, 1])
    np.testing.assert_allclose(e.error, [0.03 * 2.0, 0.01 * 0.1])
    np.testing.assert_allclose(e.sd, [2.0, 0.1])


@pytest.mark.parametrize(
    ("apart_sd", "error_sd", "verdict"),
    [
        (0.0, 0.03, "agree"),
        (0.22, 0.03, "agree"),  # allowed: 0.1 + 3 sqrt(2) 0.03 = 0.227
        (-0.24, 0.03, "disagree"),
        (0.1, 0.04, "inconclusive"),  # the error of the difference is 0.057
        (0.5, 0.04, "disagree"),
    ],
)
def test_what_follows_from_a_difference(apart_sd, error_sd, verdict):
    first = estimate((5.0, 1.0), (error_sd, 0.01))
    second = estimate((5.0 + apart_sd * 2.0, 1.0), (error_sd, 0.01))
    row, other = agreement.compare(first, second, NAMES)
    assert row["verdict"] == verdict and other["verdict"] == "agree"
    assert row["difference_sd"] == pytest.approx(apart_sd) and row["error_sd"] == pytest.approx(error_sd * np.sqrt(2))


def test_the_summary_pools_both_cohorts_and_counts_effective_draws():
    with_evidence = [r | {"log_evidence": -40.0 + 0.1 * i} for i, r in enumerate(replicates((5.0, 1.0), (0.02, 0.02)))]
    found = {
        "surface": replicates((5.0, 1.0), (0.02, 0.02)),
        "bank": replicates((5.0, 1.0), (0.03, 0.04)),
        "direct, 10": with_evidence,
        "direct, 20": with_evidence,
    }
    record = agreement.summary(found, NAMES)
    assert record["verdict"] == "agree" and len(record["pairs"]) == 3
    assert [r["effective_draws"] for r in record["routes"]] == pytest.approx([2500, 800, 2500, 2500])
    assert record["routes"][0]["effective_draws_per_second"] == pytest.approx(2500 / 8)
    error = record["pairs"]["surface and direct"][0]["error_sd"]
    assert error == pytest.approx(np.hypot(0.02, 0.02 / np.sqrt(2)), rel=0.1)
    found["bank"] = replicates((6.0, 1.0), (0.03, 0.04))
    assert agreement.summary(found, NAMES)["verdict"] == "disagree"


def test_a_finished_replicate_is_read_and_one_of_other_settings_refused(tmp_path, capsys):
    made = []

    def make():
        made.append(1)
        return {"samples": {"a": np.array([1.0, 3.0])}, "courses": 7}

    file = tmp_path / "bank-1.json"
    first = agreement.kept(file, {"seed": 1}, make)
    assert first["means"] == {"a": 2.0} and first["sds"] == {"a": 1.0} and first["courses"] == 7
    assert agreement.kept(file, {"seed": 1}, make) == first and len(made) == 1
    assert "bank-1: 7 courses" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other settings or code"):
        agreement.kept(file, {"seed": 2}, make)
    assert list(tmp_path.iterdir()) == [file]
