"""ANCOVA, and what all analyses share, against statsmodels and SciPy."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from inference.whatif.ancova import ancova
from inference.whatif.estimated import Estimated, against, estimated, normal_z, p_values
from inference.whatif.linear import solve
from tests.inference.whatif.patients import indicators, patients

P = patients(1, 12, 40)
VALUE = 3 + 0.6 * P.baseline + 0.4 * P.stratum + 0.5 * P.treated + P.rng.normal(0, 0.8, P.treated.shape)


def test_ancova_is_statsmodels():
    value = np.where(P.present, VALUE, np.nan)  # what is not in the analysis may be anything
    found = ancova(value, P.treated, **P.with_baseline)
    for i in range(len(value)):
        kept = P.present[i]
        X = np.column_stack([P.treated[i], P.baseline[i], indicators(P.stratum[i])])[kept]
        oracle = sm.OLS(value[i, kept], X.astype(float)).fit()
        np.testing.assert_allclose(found.estimate[i], oracle.params[0], rtol=1e-9)
        np.testing.assert_allclose(found.se[i], oracle.bse[0], rtol=1e-9)
        assert found.df[i] == oracle.df_resid
        assert p_values(found, 2)[i] == pytest.approx(oracle.pvalues[0], rel=1e-8)


def test_without_covariates_it_is_students_t_test():
    found = ancova(VALUE, P.treated)
    for i in range(len(VALUE)):
        oracle = stats.ttest_ind(VALUE[i, P.treated[i]], VALUE[i, ~P.treated[i]], alternative="greater")
        assert found.z[i] == pytest.approx(oracle.statistic, rel=1e-9)
        assert p_values(found, 1)[i] == pytest.approx(oracle.pvalue, rel=1e-8)


def test_change_from_baseline_has_the_same_effect():
    value, change = (ancova(x, P.treated, **P.with_baseline) for x in (VALUE, VALUE - P.baseline))
    np.testing.assert_allclose(value[:3], change[:3], rtol=1e-9)


def test_an_arm_that_is_missing_is_not_estimable():
    treated = P.treated.copy()
    treated[0] = True
    found = ancova(VALUE, treated, **P.with_baseline)
    assert np.isnan(found.estimate[0]) and found.se[0] == np.inf and p_values(found, 2)[0] == 1
    assert np.isfinite(found.estimate[1:]).all()


def test_a_covariate_that_says_nothing_new_changes_nothing():
    twice = np.stack([P.baseline, 2 * P.baseline + 1], axis=-1)
    found = ancova(VALUE, P.treated, **P.common, covariates=twice)
    for a, b in zip(found, ancova(VALUE, P.treated, **P.with_baseline), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7)


def test_margins_tails_and_nothing_that_varies():
    found = estimated(np.array([0.5, -0.2, 0.0, 0.3, np.nan]), np.array([0.25, 0.1, 0.0, 0.0, 1.0]), 7.0)
    np.testing.assert_allclose(found.z, [2, -2, 0, np.inf, 0])
    np.testing.assert_allclose(against(found, 0.25).z[:2], [1, -4.5])
    np.testing.assert_allclose(p_values(found, 1), [stats.t.sf(2, 7), stats.t.cdf(2, 7), 0.5, 0, 0.5])
    np.testing.assert_allclose(stats.norm.sf(normal_z(found)), p_values(found, 1), atol=1e-15)
    normal = Estimated(*(np.array([x]) for x in (1.0, 0.5, 2.0, np.inf)))
    assert p_values(normal, 2)[0] == pytest.approx(2 * stats.norm.sf(2)) and normal_z(normal)[0] == 2


def test_solve_is_numpys_and_names_the_column_that_depends_on_others():
    X = P.rng.normal(size=(5, 30, 4))
    A, b = X.swapaxes(1, 2) @ X, P.rng.normal(size=(5, 4))
    found = solve(A, b)
    np.testing.assert_allclose(found.x, np.linalg.solve(A, b[..., None])[..., 0], rtol=1e-9)
    np.testing.assert_allclose(found.inverse, np.linalg.inv(A), rtol=1e-8)
    np.testing.assert_allclose(found.explained, (b * found.x).sum(1), rtol=1e-9)
    X[:, :, 2] = X[:, :, 0] - 3 * X[:, :, 1]
    assert solve(X.swapaxes(1, 2) @ X, b).aliased.tolist() == [[False, False, True, False]] * 5
