"""Analyses of simulated patients in a scenario, against libraries that analyse one trial after the other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from lifelines import CoxPHFitter
from lifelines.statistics import logrank_test
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable

from inference import trials
from inference.progress import silent
from inference.whatif import characteristics, effects
from inference.whatif.counts import Counts
from inference.whatif.decisions import decide, effects_at
from inference.whatif.estimated import p_values
from pkpd.errors import InputError
from pkpd.planned import planned_arms
from pkpd.scenario import Scenario, load_scenario

TRIALS, SEED = 6, 3
SMALL = ["arms.1.n=35", "arms.2.n=40", "arms.3.n=45", "dropout.hazard_per_week=0.02", f"trial.n_trials={TRIALS}"]


def design(**analysis: str) -> Scenario:
    settings = {"endpoint": '"response_week_8"', "test": '"cochran-mantel-haenszel"', **analysis}
    return load_scenario("phase3", [*SMALL, *(f"analysis.{key}={value}" for key, value in settings.items())])


def counted(scenario: Scenario) -> Counts:
    return trials.patient_blocks(scenario, {}, SEED, "auto", silent)(0, TRIALS)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """A row a patient of all trials, made without the code under test."""
    scenario, rows = design(), []
    for a in planned_arms(scenario):
        for _, number, v in trials.courses(scenario, a, {}, TRIALS, SEED, "auto"):
            responds = (v.platelets_observed >= 50) & ~v.rescued
            first = np.where(responds.any(0), 7 * (1 + responds.argmax(0)), 56)
            seen = np.isfinite(v.platelets_observed)
            last = np.where(seen, np.arange(7, 57, 7)[:, None], 0).max(0)
            never = ~responds.any(0) & ~(v.rescued | v.dropped).any(0)
            rows.append(
                pd.DataFrame(
                    {
                        "trial": number, "arm": a.name, "baseline": v.baseline, "response": responds[-1],
                        "time": np.where(never, last, first), "event": responds.any(0),
                        "log_8": np.log(v.platelets_observed[-1]),
                        "female": v.covariates[0].astype(float),
                        "splenectomy": v.covariates[1].astype(float),
                    }
                )
            )  # fmt: skip
    whole = pd.concat(rows, ignore_index=True)
    return whole.assign(high=(whole["baseline"] >= 15).astype(int), order=whole.groupby(["trial", "arm"]).cumcount())


def of_trial(frame: pd.DataFrame, trial: int, arm: str, patients: float = np.inf) -> pd.DataFrame:
    two = frame[(frame["trial"] == trial) & frame["arm"].isin([arm, "placebo"]) & (frame["order"] < patients)]
    return two.assign(treated=(two["arm"] == arm).astype(int), log_baseline=np.log(two["baseline"].astype(float)))


def compared(scenario: Scenario, frame: pd.DataFrame, library) -> None:
    """Estimates, errors and p of every trial and comparison, as far as the library gives them."""
    counts = counted(scenario)
    assert counts.analysed is None and counts.effects is not None
    assert counts.effects.shape == (TRIALS, 1, 2, 4)
    found = effects_at(counts, 0)
    p = p_values(found, 2)
    for trial in range(TRIALS):
        for i, arm in enumerate(("start 2.5 mg", "start 5 mg")):
            told = library(of_trial(frame, trial, arm))
            own = {"estimate": found.estimate[trial, i], "se": found.se[trial, i], "p": p[trial, i]}
            for name, value in told.items():
                assert own[name] == pytest.approx(value, rel=1e-4, abs=1e-9), (trial, arm, name)


def test_a_stratified_test_is_that_of_the_library(frame):
    def library(two: pd.DataFrame) -> dict[str, float]:
        tables = [pd.crosstab(x["treated"], x["response"]).reindex([1, 0]).reindex(columns=[True, False], fill_value=0)
                  for _, x in two.groupby("high")]  # fmt: skip
        table = StratifiedTable([t.to_numpy() for t in tables])
        return {"estimate": table.logodds_pooled, "p": table.test_null_odds(correction=False).pvalue}

    compared(design(strata="{baseline_1e9_per_l=[15.0]}"), frame, library)


def test_logistic_regression_is_that_of_the_library(frame):
    def library(two: pd.DataFrame) -> dict[str, float]:
        full = sm.add_constant(two[["high", "log_baseline", "treated"]].astype(float))
        y = two["response"].astype(float)
        fits = [sm.Logit(y, x).fit(disp=0, tol=1e-10) for x in (full, full.drop(columns="treated"))]
        if two.loc[two["treated"] == 0, "response"].sum() == 0:  # the odds ratio has no finite maximum
            return {"estimate": np.inf}
        return {"estimate": fits[0].params["treated"], "p": stats.chi2.sf(2 * (fits[0].llf - fits[1].llf), 1)}

    strata = "{baseline_1e9_per_l=[15.0]}"
    compared(design(test='"logistic"', covariates='["log_baseline"]', strata=strata), frame, library)


def test_regressions_on_covariates_of_patients_are_those_of_the_library(frame):
    def ols(two: pd.DataFrame) -> dict[str, float]:
        seen = two[np.isfinite(two["log_8"])].astype({"treated": float})
        fit = sm.OLS(seen["log_8"].astype(float), sm.add_constant(seen[[*names, "log_baseline", "treated"]])).fit()
        return {"estimate": fit.params["treated"], "se": fit.bse["treated"], "p": fit.pvalues["treated"]}

    def cox(two: pd.DataFrame) -> dict[str, float]:
        row = CoxPHFitter().fit(two[["time", "event", "treated", *names]], "time", "event").summary.loc["treated"]
        return {"estimate": row["coef"], "se": row["se(coef)"], "p": row["p"]}

    names = ["female", "splenectomy"]
    asked = "['female', 'splenectomy']"
    compared(design(test='"ancova"', endpoint='"log_count_week_8"', covariates=asked), frame, ols)
    names = ["female"]
    compared(design(test='"cox"', endpoint='"time_to_first_response"', covariates="['female']"), frame, cox)


def test_strata_of_covariates_are_those_of_the_library(frame):
    def library(two: pd.DataFrame) -> dict[str, float]:
        counts = [pd.crosstab(x["treated"], x["response"]).reindex([1, 0]).reindex(columns=[True, False], fill_value=0)
                  for _, x in two.groupby(["high", "female"])]  # fmt: skip
        table = StratifiedTable([t.to_numpy() for t in counts])
        return {"estimate": table.logodds_pooled, "p": table.test_null_odds(correction=False).pvalue}

    compared(design(strata="{baseline_1e9_per_l=[15.0], female=true}"), frame, library)


def test_logrank_and_cox_are_those_of_the_library(frame):
    def logrank(two: pd.DataFrame) -> dict[str, float]:
        one, none = two[two["treated"] == 1], two[two["treated"] == 0]
        return {"p": logrank_test(one["time"], none["time"], one["event"], none["event"]).p_value}

    def cox(two: pd.DataFrame) -> dict[str, float]:
        fit = CoxPHFitter().fit(two[["time", "event", "treated", "log_baseline"]], "time", "event")
        row = fit.summary.loc["treated"]
        return {"estimate": row["coef"], "se": row["se(coef)"], "p": row["p"]}

    compared(design(test='"log-rank"', endpoint='"time_to_first_response"'), frame, logrank)
    compared(design(test='"cox"', endpoint='"time_to_first_response"', covariates='["log_baseline"]'), frame, cox)


def test_ancova_is_that_of_the_library(frame):
    def library(two: pd.DataFrame) -> dict[str, float]:
        seen = two[np.isfinite(two["log_8"])]
        fit = sm.OLS(
            seen["log_8"].astype(float), sm.add_constant(seen[["log_baseline", "treated"]].astype(float))
        ).fit()
        return {"estimate": fit.params["treated"], "se": fit.bse["treated"], "p": fit.pvalues["treated"]}

    compared(design(test='"ancova"', endpoint='"log_count_week_8"'), frame, library)


def test_at_a_look_the_first_patients_of_each_arm_take_part(frame):
    settings = ["interims={looks=[0.4,1.0],boundary='pocock'}", "arms.3.n=40", "arms.1.n=40"]
    strata = "analysis.strata={baseline_1e9_per_l=[15.0]}"
    scenario = load_scenario("phase3", [*SMALL[3:], *settings, "arms.2.n=40", strata])
    found = counted(scenario)
    plain = load_scenario("phase3", [*SMALL[3:], "arms.1.n=16", "arms.2.n=16", "arms.3.n=16", strata])
    assert found.effects.shape == (TRIALS, 2, 2, 4)
    parts = []
    for a in planned_arms(scenario):
        tiles = trials.courses(scenario, a, {}, TRIALS, SEED, "auto")
        parts.append(effects.arranged([effects.observed(scenario, a, v) for _, _, v in tiles], 40))
    first = [effects.Patients(*(None if x is None else x[:, :16] for x in part)) for part in parts]
    np.testing.assert_allclose(found.effects[:, 0], effects.effects(plain, first, SEED, 0)[:, 0], rtol=1e-12)
    decided = decide(scenario, found)
    assert decided.rejected.shape == (TRIALS, 2) and set(np.unique(decided.look)) <= {0, 1}


def test_imputation_and_mmrm_give_an_effect_between_those_of_the_extremes(frame):
    def mean(**analysis: str) -> np.ndarray:
        return effects_at(counted(design(**analysis)), 0).estimate.mean(axis=0)

    as_failures = np.array([
        frame[frame["arm"] == arm]["response"].mean() - frame[frame["arm"] == "placebo"]["response"].mean()
        for arm in ("start 2.5 mg", "start 5 mg")
    ])  # fmt: skip
    imputed = mean(
        test='"risk-difference"',
        estimand="{missing='multiple-imputation',imputations=5,discontinuation='hypothetical'}",
    )
    # About 15% leave by week 8: counted as failures they lower the difference by about as much.
    assert np.all(imputed > 1.05 * as_failures) and np.all(imputed < 1.4 * as_failures)
    repeated = mean(test='"mmrm"', endpoint='"log_counts"')
    at_8 = mean(test='"ancova"', endpoint='"log_count_week_8"')
    np.testing.assert_allclose(repeated, at_8, atol=0.15)


def test_the_summary_names_the_effect_and_its_interval():
    scenario = design(test='"logistic"')
    counts = counted(scenario)
    table = characteristics.table(scenario, counts, 1)
    of = table[table["comparison"] == "start 5 mg vs placebo"].set_index("quantity")
    assert "power_logistic" in of.index and of.loc["width_interval", "estimate"] > 0
    name = "log_odds_ratio_response_week_8"
    finite = np.isfinite(counts.effects[:, 0, 1, :2]).all(axis=1)
    if finite.all():
        assert of.loc[name, "estimate"] == pytest.approx(counts.effects[:, 0, 1, 0].mean())
    else:
        assert of.loc[f"{name}_estimable", "estimate"] == finite.mean()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["analysis.endpoint='time_to_first_response'"], "is not for time_to_first_response; legal: 'log-rank', 'cox'"),
        (["analysis.test='mmrm'"], "is not for response_week_8"),
        (["analysis.endpoint='response_week_9'"], "needs a visit on day 63"),
        (["analysis.endpoint='durable'"], "durable_response"),
        (["analysis.endpoint='relapse'"], "no stage of [[stages]] has relapse_below_1e9_per_l"),
        (["analysis.until_d=50"], "legal: a day of trial.visits_d"),
        (["analysis.until_d=49"], "has a visit of its own"),
        (["analysis.test='fisher'", "analysis.strata={baseline_1e9_per_l=[15.0]}"], "test = 'fisher' has none"),
        (["analysis.strata={baseline_1e9_per_l=[15.0,10.0]}"], "limits that increase"),
        (["analysis.strata={}"], "no strata"),
        (["analysis.strata='as-randomised'"], "legal: a table of strata, or 'as randomised'"),
        (["analysis.covariates=['log_baseline']"], "legal: test = 'logistic', 'cox', 'ancova', 'mmrm'"),
        (["analysis.test='logistic'", "analysis.interval='newcombe'"], "legal: without interval"),
        (["analysis.test='logistic'", "analysis.margin=-0.1", "analysis.sided=1"], "tests for no difference"),
        (["analysis.estimand={missing='multiple-imputation'}", "analysis.test='fisher'"], "is not available"),
        (["analysis.estimand={missing='multiple-imputation'}", "analysis.endpoint='rescue'"], "do not decide rescue"),
        (["analysis.estimand={rescue='hypothetical'}"], "legal: missing = 'last-observation'"),
        (
            ["analysis.endpoint='log_counts'", "analysis.test='mmrm'", "analysis.estimand={rescue='composite'}"],
            "rescue = 'composite': log_counts is a count",
        ),
        (
            ["analysis.endpoint='rescue'", "analysis.estimand={treatment_stop='composite'}"],
            "rescue is of what is observed",
        ),
        (
            [
                "analysis.endpoint='rescue'",
                "analysis.test='risk-difference'",
                "analysis.margin=-0.1",
                "analysis.sided=1",
            ],
            "margin = -0.1: fewer is better of rescue",
        ),
    ],
)
def test_bad_analyses_are_one_clear_error(settings, told):
    with pytest.raises(InputError) as error:
        load_scenario("phase3", settings)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "analysis",
    [
        {"endpoint": '"days_above_250"', "test": '"ancova"'},
        {"endpoint": '"rescue"', "strata": "{baseline_1e9_per_l=[15.0]}"},
    ],
)
def test_of_a_harm_one_side_is_for_fewer(analysis):
    """The estimate keeps its sign, a positive statistic is better: more days above 250 are worse, fewer rescues not."""
    found = effects_at(counted(design(sided="1", alpha="0.025", **analysis)), 0)
    assert (found.estimate * found.z < 0).all()
    ancova = analysis["endpoint"] == '"days_above_250"'
    assert np.all(found.estimate > 0) if ancova else np.all(found.estimate < 0)
    p = p_values(found, 1)
    assert np.all(p > 0.5) if ancova else np.all(p < 0.5)
