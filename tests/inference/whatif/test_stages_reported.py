"""What is reported and analysed of a stage, against the cohort's own rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from inference import trials
from inference.progress import silent
from inference.whatif import further
from inference.whatif.ancova import ancova
from pkpd.errors import InputError
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario
from pkpd.scenario_text import describe

SMALL = ["arms.1.n=14", "arms.2.n=15", "arms.3.n=13", "trial.n_trials=2", "dropout.hazard_per_week=0.02"]
EXTENSION = ["analysis.endpoint=share_in_range", "analysis.test=ancova", "analysis.stage=extension"]


@pytest.fixture(scope="module")
def cohort():
    """Rows of patients and visits of two trials, by arm."""
    scenario = load_scenario("phase3_stages", SMALL)
    hours, parts = 24.0 * np.concatenate([[0], scenario.trial.visits_d]), {}
    for a in planned_arms(scenario):
        first, tables = 0, []
        for draw, number, v in trials.courses(scenario, a, {}, 2, 1, "auto"):
            rows = trials.cohort_table(a.name, draw, first + np.arange(len(draw)), hours, v)
            left = np.concatenate([np.zeros((1, len(draw)), bool), np.asarray(v.dropped)]).T.ravel()
            tables.append(
                rows.assign(trial=np.repeat(number, len(hours)), left=left, weight=np.repeat(v.weight_kg, len(hours)))
            )
            first += len(draw)
        parts[a.name] = pd.concat(tables, ignore_index=True)
    return scenario, parts


def by_stage(scenario, rows, name):
    """Values of patients of one stage, from their rows; the last of a frame is the visit that ends the stage."""
    ends = [0, *(stage.until_d for stage in scenario.stages)]
    k = [stage.name for stage in scenario.stages].index(name) + 1
    nominal = np.concatenate([[0], scenario.trial.visits_d])
    first, last = (int(np.flatnonzero(nominal == end)[0]) for end in (ends[k - 1], ends[k]))
    found = []
    for _, own in rows.groupby("patient"):
        own = own.set_index("visit")
        seen = own.loc[first + 1 : last]
        days = np.diff(nominal[first : last + 1])
        count = seen["platelets_observed"].fillna(0).to_numpy()
        responds = seen["response"].to_numpy() & ~seen["left"].to_numpy()
        found.append(
            {
                "trial": own["trial"].iloc[0],
                "response_any": responds.any(), "response_end": responds[-1],
                "share_in_range": days[(count >= 50) & (count <= 250)].sum() / days.sum(),
                "taken_mg": seen.loc[~seen["left"], "taken_mg"].sum(),
                "in": not seen["left"].iloc[-1],
                "dose_at_end_mg": seen["dose_mg"].iloc[-1], "cmax_ng_per_ml": seen["cmax"].max(),
                "auc_ng_h_per_ml": seen["auc"].sum() / (own.loc[last, "time_h"] - own.loc[first, "time_h"]) * 24,
                "trough_ng_per_ml": seen["trough"].iloc[-1],
                "durable_response": responds[-8:].sum() >= 6,
            }
        )  # fmt: skip
    return pd.DataFrame(found)


def test_figures_of_a_stage_are_those_of_its_rows(cohort):
    scenario, parts = cohort
    names = further.names(scenario)
    assert len(set(names)) == len(names) and "durable_response_taper" not in names
    for a in planned_arms(scenario):
        (v,) = (v for _, _, v in trials.courses(scenario, a, {}, 2, 1, "auto"))
        value, present = further.values(scenario, a, v)
        for stage in ("double-blind", "open-label", "extension"):
            rows = by_stage(scenario, parts[a.name], stage)
            for name in further.OF_STAGE:
                if name in ("total_response_d",) or f"{name}_{stage}" not in names:
                    continue
                at = names.index(f"{name}_{stage}")
                stays = name.endswith(("_ml", "end_mg"))
                of = rows["in"].to_numpy() if stays else np.ones(len(rows), bool)
                np.testing.assert_array_equal(present[at], of, err_msg=f"{name} {stage}")
                expected = rows[name].to_numpy(np.float64)
                np.testing.assert_allclose(value[at][of], expected[of], rtol=2e-5, atol=1e-6, err_msg=f"{name} {stage}")


def test_an_analysis_of_a_stage_is_of_its_visits(cohort):
    scenario = load_scenario("phase3_stages", [*SMALL, *EXTENSION])
    assert (scenario.first_visit_counted, scenario.visits_counted, scenario.endpoint_d) == (23, 35, 380)
    counts = trials.patient_blocks(scenario, {}, 1, "auto", silent)(0, 2)
    _, parts = cohort
    value, log_baseline, treated = [], [], []
    for arm in ("start 5 mg", "placebo"):
        rows = by_stage(scenario, parts[arm], "extension")
        value.append(rows["share_in_range"].to_numpy().reshape(2, -1))
        first = parts[arm].query("visit == 0")["platelets_observed"].to_numpy(np.float64)
        log_baseline.append(np.log(first).reshape(2, -1))
        treated += [arm == "start 5 mg"] * value[-1].shape[1]
    known = ancova(
        np.concatenate(value, axis=1), np.array(treated), covariates=np.concatenate(log_baseline, axis=1)[..., None]
    )
    np.testing.assert_allclose(counts.effects[:, 0, 1, 0], known.estimate, rtol=1e-6)
    assert "Endpoint of the visits of stage extension" in describe(scenario)


def test_from_d_and_until_d_are_the_same_window():
    stage = load_scenario("phase3_stages", [*SMALL, *EXTENSION])
    days = load_scenario("phase3_stages", [*SMALL, *EXTENSION[:2], "analysis.from_d=224", "analysis.until_d=378"])
    assert (days.first_visit_counted, days.visits_counted) == (stage.first_visit_counted, stage.visits_counted)
    first = load_scenario("phase3_stages", [*SMALL, *EXTENSION[:2], "analysis.stage=double-blind"])
    assert (first.first_visit_counted, first.visits_counted) == (0, 10)


def test_exposure_at_a_week_is_analysed():
    settings = [*SMALL[:3], "trial.n_trials=4", "analysis.test=ancova", "analysis.multiplicity=none"]
    for name in ("auc_ng_h_per_ml_week_8", "cmax_ng_per_ml_week_8", "trough_ng_per_ml_week_8", "dose_mg_week_8"):
        scenario = load_scenario("phase3", [*settings, f"analysis.endpoint={name}"])
        table = trials.run_trial(scenario).set_index(["comparison", "quantity"])["estimate"]
        high, low = (table["start 5 mg vs placebo", f"mean_difference_{name}"], table["placebo", "dose_at_end_mg"])
        end = {
            "auc": "auc_at_end_ng_h_per_ml",
            "cma": "cmax_at_end_ng_per_ml",
            "tro": "trough_at_end_ng_per_ml",
            "dos": "dose_at_end_mg",
        }
        per_day = 7 if name.startswith("auc") else 1
        assert low == 0 and high == pytest.approx(table["start 5 mg", end[name[:3]]] / per_day, rel=0.15)


BAD = {
    ("analysis.stage=extensoin",): "did you mean 'extension'",
    ("analysis.stage=extension", "analysis.until_d=70"): "legal: without from_d and until_d",
    ("analysis.from_d=71", "analysis.until_d=84"): "analysis.from_d = 71: no visit",
    ("analysis.from_d=84", "analysis.until_d=70"): "from_d = 84: after until_d = 70",
    ("analysis.from_d=84",): "until_d is missing, and the landmark comes before it",
    ("analysis.stage=extension", "analysis.endpoint=response_week_8", "analysis.test=fisher"): "has a visit of its own",
    ("analysis.stage=extension", "analysis.endpoint=rescue", "analysis.test=fisher"): "rescue is of the trial from its",
    ("analysis.stage=taper", "analysis.endpoint=durable_response", "analysis.test=fisher"): "needs 8 visits, and there",
    ("analysis.from_d='week 8'",): "analysis.from_d",
    ("analysis.endpoint=dose_mg_week_55",): "needs a visit on day 385",
    ("analysis.endpoint=dose_mg_week_8", "analysis.test=fisher"): "is not for dose_mg_week_8; legal: 'ancova'",
    ("analysis.endpoint=auc_week_8",): "'auc_week_8' is unknown",
    ("analysis.endpoint=dose_mg_week_8", "analysis.estimand={missing='multiple-imputation'}"): "do not decide dose_mg",
}


@pytest.mark.parametrize("settings", BAD, ids=" ".join)
def test_bad_windows_are_one_clear_error(settings):
    with pytest.raises(InputError) as refused:
        load_scenario("phase3_stages", [*EXTENSION[:2], *settings])
    assert BAD[settings] in str(refused.value) and "\n" not in str(refused.value)


def test_without_stages_there_is_none_to_name():
    with pytest.raises(InputError, match="'extension' is not the name of a stage; the scenario has none"):
        load_scenario("phase3", EXTENSION)
