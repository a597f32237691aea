"""Kaplan-Meier, log-rank and Cox against lifelines and statsmodels: weekly visits (heavy ties) and continuous times."""

import lifelines
import numpy as np
import pandas as pd
import pytest
from lifelines.statistics import logrank_test
from scipy import optimize
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import survdiff

from inference.whatif import survival
from inference.whatif.estimated import p_values
from tests.inference.whatif.patients import patients

# lifelines 0.30 calls pandas in a way that pandas 4 will not take.
pytestmark = pytest.mark.filterwarnings("ignore:.*all arguments of .* will be keyword-only")
P = patients(4, 6, 90)
CONTINUOUS = P.rng.exponential(1, P.treated.shape) * 6 * np.exp(0.5 * P.treated - 0.3 * (P.baseline - 2.5))
CENSORED = P.rng.uniform(2, 11, P.treated.shape)
EVENT = CENSORED > CONTINUOUS
TIMES = {"continuous": np.minimum(CONTINUOUS, CENSORED), "weekly": np.ceil(np.minimum(CONTINUOUS, CENSORED))}


def frame(time, i, **more):
    table = {"time": time[i], "event": EVENT[i], "treated": P.treated[i].astype(float), "stratum": P.stratum[i], **more}
    return pd.DataFrame(table)[P.present[i]]


@pytest.mark.parametrize("kind", TIMES)
def test_kaplan_meier_is_lifelines(kind):
    at = np.array([0.0, 1.0, 2.5, 4.0, 6.0, 9.0])
    curve, se = survival.kaplan_meier(TIMES[kind], EVENT, at, present=P.present)
    for i in range(len(curve)):
        table = frame(TIMES[kind], i)
        oracle = lifelines.KaplanMeierFitter().fit(table.time, table.event)
        np.testing.assert_allclose(curve[i], oracle.survival_function_at_times(at), rtol=1e-9)
        by_time = (oracle.event_table.observed, oracle.event_table.at_risk)
        greenwood = [
            sum(d / (n * (n - d)) for t, d, n in zip(by_time[0].index, *by_time, strict=True) if t <= x) for x in at
        ]
        np.testing.assert_allclose(se[i], curve[i] * np.sqrt(greenwood), rtol=1e-9)


@pytest.mark.parametrize("kind", TIMES)
def test_logrank_is_lifelines_and_stratified_is_statsmodels(kind):
    plain = survival.logrank(TIMES[kind], EVENT, P.treated, present=P.present)
    stratified = survival.logrank(TIMES[kind], EVENT, P.treated, **P.common)
    for i in range(len(EVENT)):
        table = frame(TIMES[kind], i)
        a, b = table[table.treated == 1], table[table.treated == 0]
        oracle = logrank_test(a.time, b.time, a.event, b.event)
        assert plain.z[i] ** 2 == pytest.approx(oracle.test_statistic, rel=1e-9)
        statistic, _ = survdiff(table.time, table.event.astype(int), table.treated, strata=table.stratum)
        assert stratified.z[i] ** 2 == pytest.approx(statistic, rel=1e-9)


@pytest.mark.parametrize("kind", TIMES)
def test_cox_is_lifelines(kind):
    """Efron's ties, strata, a covariate."""
    found = survival.cox(TIMES[kind], EVENT, P.treated, **P.with_baseline)
    ratio = survival.cox(TIMES[kind], EVENT, P.treated, **P.with_baseline, test="likelihood-ratio")
    for i in range(len(EVENT)):
        table = frame(TIMES[kind], i, baseline=P.baseline[i])
        options = {"precision": 1e-12}
        oracle = lifelines.CoxPHFitter().fit(table, "time", "event", strata=["stratum"], fit_options=options)
        null = lifelines.CoxPHFitter().fit(
            table.drop(columns="treated"), "time", "event", strata=["stratum"], fit_options=options
        )
        assert found.estimate[i] == pytest.approx(oracle.params_["treated"], abs=5e-7)
        assert found.se[i] == pytest.approx(oracle.standard_errors_["treated"], rel=1e-6)
        assert p_values(found, 2)[i] == pytest.approx(oracle.summary.p["treated"], rel=1e-5)
        assert ratio.z[i] ** 2 == pytest.approx(2 * (oracle.log_likelihood_ - null.log_likelihood_), abs=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_of_either_method_of_ties_is_statsmodels(ties):
    found = survival.cox(TIMES["weekly"], EVENT, P.treated, **P.with_baseline, ties=ties)
    for i in range(len(EVENT)):
        table = frame(TIMES["weekly"], i, baseline=P.baseline[i])
        X = table[["treated", "baseline"]].to_numpy()
        oracle = PHReg(table.time, X, status=table.event, strata=table.stratum.to_numpy(), ties=ties).fit(tol=1e-12)
        assert found.estimate[i] == pytest.approx(oracle.params[0], rel=1e-6)
        assert found.se[i] == pytest.approx(oracle.bse[0], rel=1e-6)


def test_signs_longer_under_treatment_is_positive_unless_the_event_is_good():
    for analysis in (survival.logrank, survival.cox):
        relapse = analysis(TIMES["weekly"], EVENT, P.treated, **P.common)
        response = analysis(TIMES["weekly"], EVENT, P.treated, **P.common, event_is_good=True)
        np.testing.assert_array_equal(relapse.z, -response.z)
        np.testing.assert_array_equal(relapse.estimate, response.estimate)
        assert (np.sign(relapse.z) == -np.sign(relapse.estimate)).all()
    assert survival.cox(TIMES["weekly"], EVENT, P.treated).z.mean() > 0.5  # treated times are longer by construction


def test_cox_score_at_zero_is_the_logrank_test():
    """Without ties the score test of Cox's likelihood and log-rank are one; the likelihood by finite differences."""
    t, e, x = TIMES["continuous"][0], EVENT[0], P.treated[0]

    def likelihood(b):
        return sum(b * x[i] - np.log(np.exp(b * x[t >= t[i]]).sum()) for i in np.flatnonzero(e))

    h = 1e-4
    slope = (likelihood(h) - likelihood(-h)) / (2 * h)
    curvature = -(likelihood(h) - 2 * likelihood(0) + likelihood(-h)) / h**2
    found = survival.logrank(t[None], e[None], x[None])
    assert -found.z[0] == pytest.approx(slope / curvature**0.5, rel=1e-5)
    best = optimize.minimize_scalar(lambda b: -likelihood(b), bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    assert survival.cox(t[None], e[None], x[None]).estimate[0] == pytest.approx(best.x, abs=1e-6)


def test_an_arm_without_events_is_infinite_and_still_tested():
    time = np.tile(np.arange(1.0, 41.0), (3, 1))
    treated = np.arange(40) % 2 == 0
    event = np.stack([~treated, treated, np.ones(40, bool)])
    for test in ("wald", "likelihood-ratio"):
        found = survival.cox(time, event, treated, test=test)
        assert found.estimate[:2].tolist() == [-np.inf, np.inf] and np.isinf(found.se[:2]).all()
        assert found.z[0] > 3 and found.z[1] < -3 and np.isfinite(found.estimate[2])
    log_ratio = 2 * sum(np.log((41 - t) / (~treated[t - 1 :]).sum()) for t in range(2, 41, 2))
    assert found.z[0] ** 2 == pytest.approx(log_ratio, rel=1e-6)


def test_no_events_no_patients_and_one_arm_say_nothing():
    for analysis in (survival.logrank, survival.cox):
        none = analysis(TIMES["weekly"], np.zeros(EVENT.shape, bool), P.treated)
        one_arm = analysis(TIMES["weekly"], EVENT, np.ones(90, bool))
        nobody = analysis(TIMES["weekly"], EVENT, P.treated, present=np.zeros(EVENT.shape, bool))
        for found in (none, one_arm, nobody):
            assert np.isnan(found.estimate).all() and (p_values(found, 2) == 1).all()
    curve, se = survival.kaplan_meier(TIMES["weekly"], EVENT, np.array([5.0]), present=np.zeros(EVENT.shape, bool))
    assert (curve == 1).all() and (se == 0).all()


def test_a_trial_alone_has_the_answer_it_has_among_others():
    for analysis in (survival.logrank, survival.cox):
        together = analysis(TIMES["weekly"], EVENT, P.treated, **P.common)
        for i in range(len(EVENT)):
            arguments = {k: v[i : i + 1] for k, v in P.common.items()}
            alone = analysis(TIMES["weekly"][i : i + 1], EVENT[i : i + 1], P.treated[i : i + 1], **arguments)
            np.testing.assert_allclose(np.ravel(alone), [x[i] for x in together], rtol=1e-8)
