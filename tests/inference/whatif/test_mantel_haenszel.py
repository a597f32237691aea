"""Mantel-Haenszel analyses of patients against statsmodels, R's metafor (frozen) and plain sums."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import StratifiedTable

from inference.whatif import mantel_haenszel as mh
from inference.whatif import two_by_two
from inference.whatif.estimated import p_values
from tests.inference.whatif.patients import patients

FROZEN = tomllib.loads((Path(__file__).parents[2] / "reference/analyses.toml").read_text())["mantel_haenszel"]
P = patients(2, 30, 60)
RESPONSE = P.rng.random(P.treated.shape) < np.where(P.treated, 0.5, 0.25) + 0.1 * P.stratum


def strata_of(i):
    """Tables [[responders, others] under treatment, under control] of a trial's strata."""
    kept = P.present[i]
    found = []
    for s in np.unique(P.stratum[i, kept]):
        rows = [RESPONSE[i, kept & (P.stratum[i] == s) & (P.treated[i] == arm)] for arm in (True, False)]
        found.append(np.array([[row.sum(), (~row).sum()] for row in rows]))
    return found


def test_cmh_and_common_odds_ratio_are_statsmodels():
    found = mh.cochran_mantel_haenszel(RESPONSE, P.treated, **P.common)
    for i in range(len(RESPONSE)):
        oracle = StratifiedTable(strata_of(i))
        assert found.z[i] ** 2 == pytest.approx(oracle.test_null_odds(correction=False).statistic, rel=1e-9)
        assert found.estimate[i] == pytest.approx(oracle.logodds_pooled, rel=1e-9)
        assert found.se[i] == pytest.approx(oracle.logodds_pooled_se, rel=1e-9)
    assert (np.sign(found.z) == np.sign(found.estimate)).all() and (found.z > 1).any()


def patients_of(y, n, y0, n0):
    """Patients in rows that make these tables: response, treated, stratum [patients]."""
    rows = [
        (response, arm, s)
        for s in range(len(y))
        for arm, (a, m) in ((True, (y[s], n[s])), (False, (y0[s], n0[s])))
        for response in [True] * a + [False] * (m - a)
    ]
    return tuple(np.array(column)[None] for column in zip(*rows, strict=True))


def test_risk_difference_and_odds_ratio_are_those_of_r():
    response, treated, stratum = patients_of(*(FROZEN[k] for k in ("y", "n", "y0", "n0")))
    risk = mh.risk_difference(response, treated, stratum=stratum)
    odds = mh.cochran_mantel_haenszel(response, treated, stratum=stratum)
    assert risk.estimate[0] == pytest.approx(FROZEN["risk_difference"], rel=1e-9)
    assert risk.se[0] == pytest.approx(FROZEN["risk_difference_se"], rel=1e-9)
    assert odds.estimate[0] == pytest.approx(FROZEN["log_odds_ratio"], rel=1e-9)
    assert odds.se[0] == pytest.approx(FROZEN["log_odds_ratio_se"], rel=1e-9)
    assert odds.z[0] ** 2 == pytest.approx(FROZEN["cmh"], rel=1e-9)


def test_one_stratum_is_the_test_of_counts():
    found = mh.cochran_mantel_haenszel(RESPONSE, P.treated, present=P.present)
    t = mh.tables(RESPONSE, P.treated, present=P.present)
    for i in range(len(RESPONSE)):
        args = (t.y[i, 0], t.n[i, 0], t.y0[i, 0], t.n0[i, 0])
        assert found.z[i] == pytest.approx(two_by_two.z_values("cochran-mantel-haenszel", *args), rel=1e-12)
    d = mh.risk_difference(RESPONSE, P.treated, present=P.present, margin=-0.1)
    np.testing.assert_allclose(d.estimate, (t.y / t.n - t.y0 / t.n0)[:, 0])
    np.testing.assert_allclose(d.z, (d.estimate + 0.1) / d.se)


def test_many_small_strata_have_the_variance_that_is_seen():
    """200 strata of 3 or 4 patients: over 3,000 trials the mean of Sato's variance is that of the estimates."""
    rng, trials = np.random.default_rng(3), 3000
    stratum = np.arange(700) // 3.5
    treated = np.arange(700) % 2 == 0
    p = 0.2 + 0.3 * rng.random(200)[stratum.astype(int)] + 0.15 * treated
    found = mh.risk_difference(rng.random((trials, 700)) < p, treated, stratum=stratum.astype(int))
    assert found.estimate.mean() == pytest.approx(0.15, abs=3 * found.estimate.std() / trials**0.5)
    assert (found.se**2).mean() == pytest.approx(found.estimate.var(), rel=3 * (2 / trials) ** 0.5)


def test_empty_strata_absent_patients_and_trials_without_response():
    more = P.stratum + 2 * (P.stratum > 0)  # strata 1 and 2 are empty
    for analysis in (mh.cochran_mantel_haenszel, mh.risk_difference):
        a = analysis(RESPONSE, P.treated, present=P.present, stratum=P.stratum)
        b = analysis(RESPONSE, P.treated, present=P.present, stratum=more)
        np.testing.assert_allclose(a, b, rtol=1e-12)
        nothing = analysis(np.zeros((2, 60), bool), P.treated[0], stratum=P.stratum[0])
        assert (p_values(nothing, 2) == 1).all()
