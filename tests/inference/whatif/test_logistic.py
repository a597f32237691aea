"""Logistic regression against statsmodels; Firth's penalty against SciPy's optimiser and its closed form."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize

from inference.whatif.estimated import p_values
from inference.whatif.logistic import METHODS, logistic
from tests.inference.whatif.patients import indicators, patients

P = patients(3, 10, 80)
RESPONSE = P.rng.random(P.treated.shape) < 1 / (1 + np.exp(-(-3 + 0.8 * P.baseline + P.treated - 0.5 * P.stratum)))


def columns(i, treatment=True):
    kept = P.present[i]
    parts = [P.treated[i]] if treatment else []
    return np.column_stack([*parts, P.baseline[i], indicators(P.stratum[i])])[kept].astype(float)


def test_wald_and_likelihood_ratio_are_statsmodels():
    wald = logistic(RESPONSE, P.treated, **P.with_baseline)
    ratio = logistic(RESPONSE, P.treated, **P.with_baseline, method="likelihood-ratio")
    for i in range(len(RESPONSE)):
        y = RESPONSE[i, P.present[i]].astype(float)
        oracle = sm.GLM(y, columns(i), family=sm.families.Binomial()).fit(tol=1e-12)
        null = sm.GLM(y, columns(i, treatment=False), family=sm.families.Binomial()).fit(tol=1e-12)
        for found in (wald, ratio):
            assert found.estimate[i] == pytest.approx(oracle.params[0], rel=1e-6)
            assert found.se[i] == pytest.approx(oracle.bse[0], rel=1e-6)
        assert p_values(wald, 2)[i] == pytest.approx(oracle.pvalues[0], rel=1e-5)
        assert ratio.z[i] ** 2 == pytest.approx(2 * (oracle.llf - null.llf), rel=1e-5, abs=1e-8)
    assert (np.sign(ratio.z) == np.sign(wald.z)).all()


def penalised(b, X, y):
    """Minus the log likelihood and half the log determinant of the information."""
    eta = X @ b
    w = 1 / (2 + np.exp(eta) + np.exp(-eta))
    return np.logaddexp(0, eta).sum() - y @ eta - 0.5 * np.linalg.slogdet(X.T @ (X * w[:, None]))[1]


def test_firth_maximises_the_penalised_likelihood():
    found = logistic(RESPONSE, P.treated, **P.with_baseline, method="firth")
    for i in range(4):
        X, y = columns(i), RESPONSE[i, P.present[i]].astype(float)
        options = {"method": "BFGS", "options": {"gtol": 1e-9}}
        full = optimize.minimize(penalised, np.zeros(X.shape[1]), (X, y), **options)
        null = optimize.minimize(
            lambda b, X, y: penalised(np.r_[0, b], X, y), np.zeros(X.shape[1] - 1), (X, y), **options
        )
        assert found.estimate[i] == pytest.approx(full.x[0], abs=1e-5)
        assert found.z[i] == pytest.approx(np.sign(full.x[0]) * np.sqrt(2 * (null.fun - full.fun)), abs=1e-4)


@pytest.mark.parametrize("table", [(7, 12, 3, 9), (12, 12, 3, 9), (5, 5, 0, 6), (0, 8, 2, 8)])
def test_firth_of_a_two_by_two_table_adds_a_half_to_each_cell(table):
    y, n, y0, n0 = table
    response = np.r_[np.arange(n) < y, np.arange(n0) < y0][None]
    found = logistic(response, np.arange(n + n0) < n, method="firth")
    a, b, c, d = y + 0.5, n - y + 0.5, y0 + 0.5, n0 - y0 + 0.5
    assert found.estimate[0] == pytest.approx(np.log(a * d / (b * c)), abs=1e-7)


def separated():
    """Trials: all of the treated respond; none of them; all controls; no control; nobody in stratum 2; a plain one."""
    treated, stratum = np.arange(60) % 2 == 0, np.arange(60) // 20
    base = np.random.default_rng(5).random(60) < 0.4
    response = np.stack([base | treated, base & ~treated, base | ~treated, base & treated, base & (stratum < 2), base])
    return response, treated, np.broadcast_to(stratum, response.shape)


def test_separation_is_infinite_and_still_tested():
    response, treated, stratum = separated()
    for method in ("wald", "likelihood-ratio"):
        found = logistic(response, treated, stratum=stratum, method=method)
        assert found.estimate[:4].tolist() == [np.inf, -np.inf, -np.inf, np.inf] and np.isinf(found.se[:4]).all()
        assert np.isfinite(found.estimate[4:]).all() and np.isfinite(found.se[4:]).all()
        assert (np.sign(found.estimate[:4]) * found.z[:4] > 3).all() and np.isfinite(found.z).all()
    # The likelihood ratio by hand: with everyone of an arm responding, the full model says so and loses nothing there.
    by_hand = 0.0
    for s in range(3):
        y = response[0, (stratum[0] == s)]
        y0 = y[~treated[stratum[0] == s]]
        for part, sign in ((y0, 2), (y, -2)):
            p = part.mean()
            by_hand += sign * (part.sum() * np.log(p) + (~part).sum() * np.log1p(-p) if 0 < p < 1 else 0)
    one = logistic(response[:1], treated, stratum=stratum[:1])
    assert one.z[0] ** 2 == pytest.approx(by_hand, rel=1e-6)


def test_a_stratum_without_response_leaves_the_others_answer():
    response, treated, stratum = separated()
    found = logistic(response[4:5], treated, stratum=stratum[4:5])
    without = logistic(response[4:5], treated, stratum=stratum[4:5], present=stratum[4:5] < 2)
    np.testing.assert_allclose(found, without, rtol=1e-5)


def test_every_method_of_nothing_that_differs_says_nothing():
    for method in METHODS:
        everyone = logistic(RESPONSE, np.ones(80, bool), method=method)
        assert np.isnan(everyone.estimate).all() and (p_values(everyone, 2) == 1).all()
        same = logistic(np.tile([True, True, False, False], 15)[None], np.arange(60) % 2 == 0, method=method)
        assert same.z[0] == pytest.approx(0, abs=1e-6) and same.estimate[0] == pytest.approx(0, abs=1e-8)


def test_a_trial_alone_has_the_answer_it_has_among_others():
    response, treated, stratum = separated()
    for method in METHODS:
        together = logistic(response, treated, stratum=stratum, method=method)
        for i in range(len(response)):
            alone = logistic(response[i : i + 1], treated, stratum=stratum[i : i + 1], method=method)
            np.testing.assert_allclose(np.ravel(alone), [x[i] for x in together], rtol=1e-12)


def test_walds_statistic_falls_behind_the_likelihood_ratios_far_out():
    """Hauck and Donner: of 20 patients an arm, wherever the odds ratio is finite and the ratio's z is beyond 2."""
    rng = np.random.default_rng(8)
    response, treated = rng.random((2000, 40)) < np.where(np.arange(40) < 20, 0.9, 0.6), np.arange(40) < 20
    wald, ratio = (logistic(response, treated, method=m) for m in ("wald", "likelihood-ratio"))
    far = np.isfinite(ratio.estimate) & (np.abs(ratio.z) > 2)
    assert far.sum() > 100 and (np.abs(wald.z[far]) < np.abs(ratio.z[far])).all()
