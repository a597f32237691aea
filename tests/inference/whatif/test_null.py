"""The null of non-inferiority: arms whose true difference is the margin, in every draw."""

import numpy as np
import pytest

from inference import trials
from inference.whatif import null
from inference.whatif.null import under_null
from pkpd.errors import InputError
from pkpd.scenario import load_scenario
from pkpd.scenario_text import describe

DRAWS = {"receptor_ec50_nM": np.array([8.0, 13.0, 30.0])}
SMALL = ["arms.1.n=50", "arms.2.n=50", "trial.n_trials=90"]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(null, "OF_A_DRAW", 4000)
    monkeypatch.setattr(null, "OF_ALL", 4000)


def difference(design, draws):
    """Mean difference of the responses at week 8 by draw, and patients of a draw and arm."""
    n = 3 * 90
    counts = trials.patient_blocks(design, draws, 5, "auto", trials.silent)(0, n)
    rate = {name: y[:, 0] / 50 for name, y in counts.by_arm.items()}
    by_trial = rate["hetrombopag"] - rate["eltrombopag"]
    n_draws = trials.number_of(draws)
    return np.array([by_trial[np.arange(n) % n_draws == d].mean() for d in range(n_draws)]), 50 * n / n_draws


@pytest.mark.parametrize("draws", [{}, DRAWS])
def test_the_true_difference_is_the_margin_in_every_draw(draws):
    design = load_scenario("non_inferiority", SMALL)
    at = under_null(design, draws, seed=5)
    found, patients = difference(at, draws)
    error = np.sqrt(2 * 0.25 / patients + 2 * 0.25 / 4000)
    np.testing.assert_allclose(found, -0.15, atol=4 * error)
    free, _ = difference(design, draws)
    assert (np.abs(free + 0.15) > 4 * error).any()  # which it is not by itself
    ratio = np.array(at.arms[0].ec50_ratio)
    assert len(ratio) == len(found) and (np.diff(ratio) < 0).all() and at.arms[1] == design.arms[1]
    assert under_null(at, draws, seed=5) is at


def test_type_1_error_of_non_inferiority_is_the_level():
    table = trials.run_trial(load_scenario("non_inferiority", [*SMALL, "trial.n_trials=1500"]), seed=2, null=True)
    row = table.set_index("quantity")["estimate"]
    assert row["type_1_error_risk-difference"] == pytest.approx(0.025, abs=0.015)
    assert row["risk_difference_response_week_8"] == pytest.approx(-0.15, abs=0.03)


def test_means_have_margins_too():
    settings = ["analysis={endpoint='log_count_week_8', test='ancova', control='eltrombopag', margin=-0.2, sided=1,"
                "alpha=0.025, estimand={missing='last-observation'}}"]  # fmt: skip
    at = under_null(load_scenario("non_inferiority", [*SMALL, *settings]), seed=5)
    row = trials.run_trial(at, seed=5).set_index("quantity")
    found = row.loc["mean_difference_log_count_week_8"]
    assert found["estimate"] == pytest.approx(-0.2, abs=4 * np.hypot(found["mc_se"], 0.02))


def test_a_margin_out_of_reach_and_a_drug_of_another_potency():
    design = load_scenario("non_inferiority", [*SMALL, "analysis.margin=-0.9"])
    with pytest.raises(
        InputError, match="hetrombopag: no EC50 from 1/32 to 32 times its own makes the true difference"
    ):
        under_null(design, seed=5)
    with pytest.raises(InputError, match=r"arms\[3\]: ec50_ratio: placebo has no EC50"):
        load_scenario("phase3", ["arms.3.ec50_ratio=2"])
    with pytest.raises(InputError, match=r"arms\[1\].ec50_ratio"):
        load_scenario("phase3", ["arms.1.ec50_ratio=[1.0, 2.0]"])
    weak, drawn = (
        load_scenario("non_inferiority", [*SMALL, "arms.1.ec50_ratio=2"]),
        {"receptor_ec50_nM": np.array([9.0])},
    )
    halved, _ = difference(weak, drawn)
    other, _ = difference(load_scenario("non_inferiority", SMALL), {"receptor_ec50_nM": np.array([18.0])})
    np.testing.assert_array_equal(halved, other)


def test_what_was_done_to_a_drug_is_said():
    design = load_scenario("non_inferiority", [*SMALL, "arms.1.ec50_ratio=2"])
    assert "hetrombopag, start 5 mg, fasted, EC50 2 times its own" in describe(design)
    at = under_null(load_scenario("non_inferiority", SMALL), seed=5)
    assert "EC50 changed in every draw until the true difference is the margin" in describe(at)


@pytest.mark.parametrize("draws", [{}, DRAWS])
def test_ratios_that_the_scenario_states_are_kept_and_searched_around(draws):
    """An arm's own ratio ends where the arm without one does, and the control's is part of the truth."""
    plain, weaker = (load_scenario("non_inferiority", [*SMALL, *more]) for more in ([], ["arms.1.ec50_ratio=2"]))
    found = [np.array(under_null(design, draws, seed=5).arms[0].ec50_ratio) for design in (plain, weaker)]
    np.testing.assert_allclose(found[1], found[0], rtol=0.02)
    of_control = under_null(load_scenario("non_inferiority", [*SMALL, "arms.2.ec50_ratio=2"]), draws, seed=5)
    assert of_control.arms[1].ec50_ratio == 2
    assert (np.array(of_control.arms[0].ec50_ratio) > 1.2 * found[0]).all()  # down to a weaker control less the margin
    difference_, patients = difference(of_control, draws)
    np.testing.assert_allclose(difference_, -0.15, atol=4 * np.sqrt(0.5 / patients + 0.5 / 4000))


def test_what_an_analysis_imputes_is_not_missing_in_the_truth():
    """The mean of the imputed differences is the margin, not that of responses with leaving as non-response."""
    settings = ["dropout.hazard_per_week=0.08", "trial.n_trials=250", "trial.missed_visit_share=0.05",
                "analysis={endpoint='response_week_8', test='risk-difference', control='eltrombopag', margin=-0.25, "
                "sided=1, alpha=0.025, estimand={discontinuation='hypothetical', rescue='treatment-policy', "
                "missing='multiple-imputation', imputations=2}}"]  # fmt: skip
    design = load_scenario("non_inferiority", [*SMALL, *settings])
    at = under_null(design, seed=5)
    assert at.dropout == design.dropout and at.analysis == design.analysis
    truth = null.as_estimated(design)
    assert truth.dropout.hazard_per_week == truth.trial.missed_visit_share == 0
    row = trials.run_trial(at, seed=5).set_index("quantity").loc["risk_difference_response_week_8"]
    assert row["estimate"] == pytest.approx(-0.25, abs=4 * np.hypot(row["mc_se"], 0.01))


def test_leaving_that_is_no_response_stays_in_the_truth():
    design = load_scenario("non_inferiority", [*SMALL, "dropout.hazard_per_week=0.08"])
    assert null.as_estimated(design) is design
