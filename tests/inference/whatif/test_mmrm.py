"""MMRM against a plain restricted likelihood maximised by SciPy, R's nlme::gls (frozen), statsmodels and ANCOVA."""

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import linalg, optimize

from inference.whatif import reml
from inference.whatif.ancova import ancova
from inference.whatif.linear import design_matrix
from inference.whatif.mmrm import mmrm
from tests.inference.whatif.patients import indicators, patients

REFERENCE = Path(__file__).parents[2] / "reference"
COVARIANCE = np.array([[0.2, 0.15, 0.1], [0.15, 0.4, 0.3], [0.1, 0.3, 0.7]])


def trials(seed, n_trials, n, missing, effect=0.5):
    """Patients and log counts [trials, patients, 3 visits]; missing: nothing, dropout (from low values), or any."""
    P = patients(seed, n_trials, n, strata=2)
    y = P.rng.normal(size=(*P.treated.shape, 3)) @ np.linalg.cholesky(COVARIANCE).T
    y = y + (0.5 * P.baseline + 0.3 * P.stratum)[..., None] + effect * P.treated[..., None] * np.arange(1, 4) / 3
    if missing == "dropout":
        gone = P.rng.random(P.treated.shape) < np.where(y[..., 0] < np.median(y[..., 0]), 0.35, 0.1)
        y[gone, 1:] = np.nan
        y[(P.rng.random(P.treated.shape) < 0.1) | gone, 2] = np.nan
    if missing == "any":
        y[P.rng.random(y.shape) < 0.12] = np.nan
    return P, y


def rows_of(P, y, i):
    """Of one trial: y, X [visits seen, 4 columns by visit] and visits of each patient; the treatment comes first."""
    x = np.column_stack([P.treated[i], P.baseline[i], indicators(P.stratum[i])]).astype(float)
    found = []
    for j in np.flatnonzero(P.present[i]):
        seen = np.flatnonzero(np.isfinite(y[i, j]))
        if len(seen):
            found.append((y[i, j, seen], np.kron(np.eye(3)[seen], x[j]), seen))
    return found


def generalised_least_squares(Sigma, rows):
    """log restricted likelihood to a constant, coefficients and their covariance, patient by patient."""
    A, b, value = 0.0, 0.0, 0.0
    for y, X, seen in rows:
        S = Sigma[np.ix_(seen, seen)]
        W = np.linalg.inv(S)
        A, b, value = A + X.T @ W @ X, b + X.T @ W @ y, value - 0.5 * (y @ W @ y + np.linalg.slogdet(S)[1])
    beta = np.linalg.solve(A, b)
    return value + 0.5 * b @ beta - 0.5 * np.linalg.slogdet(A)[1], beta, np.linalg.inv(A)


def plain_reml(rows):
    """Sigma by SciPy's maximiser on its Cholesky factor, with the logarithm of the diagonal."""
    low = np.tril_indices(3)

    def covariance(theta):
        L = np.zeros((3, 3))
        L[low] = theta
        L[np.diag_indices(3)] = np.exp(np.diag(L))
        return L @ L.T

    best = optimize.minimize(lambda t: -generalised_least_squares(covariance(t), rows)[0], np.zeros(6), tol=1e-9)
    return covariance(best.x)


@pytest.mark.parametrize("missing", ["dropout", "any"])
def test_mmrm_is_the_plain_restricted_likelihood(missing):
    P, y = trials(7, 2, 36, missing)
    found = [mmrm(y, P.treated, **P.with_baseline, contrast=c) for c in (np.eye(3)[2], np.eye(3)[0], np.full(3, 1 / 3))]
    for i in range(len(y)):
        rows = rows_of(P, y, i)
        value, beta, cov = generalised_least_squares(plain_reml(rows), rows)
        for f, c in zip(found, (np.eye(3)[2], np.eye(3)[0], np.full(3, 1 / 3)), strict=True):
            c = np.kron(c, np.eye(4)[0])
            assert f.estimate[i] == pytest.approx(c @ beta, abs=2e-5)
            assert f.se[i] == pytest.approx(np.sqrt(c @ cov @ c), rel=1e-4)
        Sigma, _, converged = fitted(P, y)
        assert converged.all() and generalised_least_squares(Sigma[i], rows)[0] >= value - 1e-9


def fitted(P, y):
    """The fit itself: Sigma, state, whether it was found."""
    seen = np.isfinite(y) & P.present[..., None]
    X = design_matrix(P.treated, seen.any(-1), P.stratum, P.baseline[..., None])
    s = reml.sums(X, np.where(seen, y, 0.0), seen)
    return reml.fit(s)


def test_mmrm_is_nlmes_gls():
    table = pd.read_csv(REFERENCE / "repeated_log_counts.csv")
    frozen = tomllib.loads((REFERENCE / "analyses.toml").read_text())["gls"]
    y = table.filter(like="day_").to_numpy()[None]
    given = {"stratum": table.stratum.to_numpy()[None], "covariates": table.log_baseline.to_numpy()[None, :, None]}
    for v in range(4):
        found = mmrm(y, table.treated.to_numpy(bool), **given, contrast=np.eye(4)[v])
        assert found.estimate[0] == pytest.approx(frozen["estimate"][v], abs=1e-6)
        assert found.se[0] == pytest.approx(frozen["se"][v], rel=1e-5)
    X = design_matrix(table.treated.to_numpy(bool)[None], np.ones((1, 48), bool), *given.values())
    s = reml.sums(X, np.nan_to_num(y), np.isfinite(y))
    Sigma, _, _ = reml.fit(s)
    sd = np.sqrt(np.diag(Sigma[0]))
    np.testing.assert_allclose(sd, frozen["sd"], rtol=1e-5)
    np.testing.assert_allclose((Sigma[0] / np.outer(sd, sd))[np.triu_indices(4, 1)], frozen["correlation"], atol=1e-5)


def test_where_nobody_comes_back_it_is_regression_in_sequence():
    """Each visit regressed on those before it and on the columns, by least squares over the patients still there."""
    P, y = trials(15, 5, 60, "dropout")
    found = mmrm(y, P.treated, **P.with_baseline)
    for i in range(len(y)):
        X = np.column_stack([P.treated[i], P.baseline[i], indicators(P.stratum[i])]).astype(float)
        filled = y[i].copy()
        for v in range(3):
            given, there = np.column_stack([X, filled[:, :v]]), np.isfinite(y[i, :, v])
            b = np.linalg.lstsq(given[P.present[i] & there], filled[P.present[i] & there, v], rcond=None)[0]
            filled[~there, v] = given[~there] @ b
        beta = np.linalg.lstsq(X[P.present[i]], filled[P.present[i], 2], rcond=None)[0]
        assert found.estimate[i] == pytest.approx(beta[0], abs=1e-7)


@pytest.mark.parametrize("missing", ["dropout", "any"])
def test_at_its_covariance_it_is_statsmodels_gls(missing):
    P, y = trials(8, 3, 50, missing)
    found, (Sigma, _, _) = mmrm(y, P.treated, **P.with_baseline), fitted(P, y)
    for i in range(len(y)):
        rows = rows_of(P, y, i)
        everything = linalg.block_diag(*(Sigma[i][np.ix_(seen, seen)] for _, _, seen in rows))
        oracle = sm.GLS(np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]), everything).fit()
        assert found.estimate[i] == pytest.approx(oracle.params[8], rel=1e-7)
        assert found.se[i] == pytest.approx(np.sqrt(oracle.normalized_cov_params[8, 8]), rel=1e-7)


@pytest.mark.parametrize("missing", ["dropout", "any"])
def test_satterthwaites_degrees_by_their_definition(missing):
    """2 f^2/(g' I^-1 g): g by finite differences, I_kl = tr(P E_k P E_l)/2 with the matrix P of all observations."""
    P, y = trials(9, 2, 30, missing)
    found, (Sigma, _, _) = mmrm(y, P.treated, **P.with_baseline), fitted(P, y)
    pairs = [(a, b) for a in range(3) for b in range(a + 1)]
    directions = [
        np.maximum(np.outer(np.eye(3)[a], np.eye(3)[b]), np.outer(np.eye(3)[b], np.eye(3)[a])) for a, b in pairs
    ]
    for i in range(len(y)):
        rows = rows_of(P, y, i)

        def whole(matrix, rows=rows):
            return linalg.block_diag(*(matrix[np.ix_(seen, seen)] for _, _, seen in rows))

        def variance(S, rows=rows):
            return generalised_least_squares(S, rows)[2][8, 8]

        X, W = np.concatenate([r[1] for r in rows]), np.linalg.inv(whole(Sigma[i]))
        projection = W - W @ X @ np.linalg.inv(X.T @ W @ X) @ X.T @ W
        moved = [projection @ whole(E) for E in directions]
        information = np.array([[np.sum(a * b.T) / 2 for b in moved] for a in moved])
        h = 1e-5
        g = np.array([(variance(Sigma[i] + h * E) - variance(Sigma[i] - h * E)) / (2 * h) for E in directions])
        f = variance(Sigma[i])
        assert found.df[i] == pytest.approx(2 * f**2 / (g @ np.linalg.solve(information, g)), rel=1e-5)
        between = mmrm(y, P.treated, **P.with_baseline, df="between")
        assert between.df[i] == len(rows) - 4 and between.se[i] == found.se[i]


def test_with_nobody_missing_it_is_ancova_and_the_closed_form():
    P, y = trials(10, 4, 40, None)
    for c in (np.eye(3)[2], np.array([0.2, 0.3, 0.5])):
        found = mmrm(y, P.treated, **P.with_baseline, contrast=c)
        np.testing.assert_allclose(found, ancova(y @ c, P.treated, **P.with_baseline), rtol=1e-12)
        # The iteration itself, of which the answer above makes no use.
        Sigma, state, converged = fitted(P, y)
        assert converged.all()
        np.testing.assert_allclose(state.B[..., -1] @ c, found.estimate, rtol=1e-9)
        for i in range(len(y)):
            kept = P.present[i]
            X = np.column_stack([P.treated[i], P.baseline[i], indicators(P.stratum[i])])[kept].astype(float)
            residual = y[i, kept] - X @ np.linalg.lstsq(X, y[i, kept], rcond=None)[0]
            np.testing.assert_allclose(Sigma[i], residual.T @ residual / (kept.sum() - 4), rtol=1e-8)


def test_one_missing_value_hardly_moves_it_and_its_degrees():
    P, y = trials(11, 5, 60, None)
    whole = mmrm(y, P.treated, **P.with_baseline)
    y[np.arange(5), P.present.argmax(1), 0] = np.nan  # of the first visit, which the last hardly needs
    found = mmrm(y, P.treated, **P.with_baseline)
    np.testing.assert_allclose(found.estimate, whole.estimate, atol=0.05 * whole.se.mean())
    assert (np.abs(found.df - whole.df) < 0.5).all() and (found.df < whole.df + 1e-6).all()


def test_order_units_and_company_do_not_matter():
    P, y = trials(12, 70, 30, "any")
    found = mmrm(y, P.treated, **P.with_baseline)
    other = mmrm(10 + 3 * y[..., ::-1], P.treated, **P.with_baseline, contrast=np.eye(3)[0])
    np.testing.assert_allclose(other.estimate, 3 * found.estimate, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.se, 3 * found.se, rtol=1e-5)
    np.testing.assert_allclose(other.df, found.df, rtol=1e-4)
    some = np.array([0, 5, 69])
    alone = mmrm(y[some], P.treated[some], **{k: v[some] for k, v in P.with_baseline.items()})
    np.testing.assert_allclose(alone, [x[some] for x in found], rtol=1e-9)


def test_what_cannot_be_estimated_is_said_so():
    P, y = trials(13, 4, 40, "any")
    y[0, P.treated[0], 2] = np.nan  # no treated patient at the last visit
    y[1, :, 1] = np.nan  # a visit without anybody
    y[2, np.cumsum(P.present[2]) > 6] = np.nan  # six patients
    y[2, P.present[2].argmax(), 0] = np.nan
    found = mmrm(y, P.treated, **P.with_baseline)
    assert np.isnan(found.estimate[:3]).all() and np.isinf(found.se[:3]).all() and (found.z[:3] == 0).all()
    assert np.isfinite(found.estimate[3])


def test_a_stratum_without_patients_changes_nothing():
    P, y = trials(14, 3, 40, "any")
    found = mmrm(y, P.treated, **P.with_baseline)
    more = mmrm(y, P.treated, present=P.present, stratum=2 * P.stratum, covariates=P.baseline[..., None])
    np.testing.assert_allclose(found, more, rtol=1e-7)
