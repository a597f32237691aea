"""Missing values: rules by hand, Rubin's rules of R's mice (frozen), imputations against the model they draw from."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inference.whatif import missing
from inference.whatif.ancova import ancova
from inference.whatif.estimated import p_values
from tests.inference.whatif.test_mmrm import trials

FROZEN = tomllib.loads((Path(__file__).parents[2] / "reference/analyses.toml").read_text())["rubin"]
NAN = np.nan


def last_visit(P):
    """ANCOVA of the last visit, as an analysis of completed values."""
    return lambda y: ancova(y[..., -1], P.treated, **P.with_baseline)


def test_unseen_responses_are_none():
    response, seen = np.array([[True, True, False]]), np.array([[True, False, True]])
    assert missing.non_response(response, seen).tolist() == [[True, False, False]]


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.one_of(st.none(), st.floats(0, 9)), min_size=1, max_size=8))
def test_last_observation_is_a_loop(row):
    value = np.array([NAN if x is None else x for x in row])
    carried, last = [], 7.5
    for x in row:
        last = last if x is None else x
        carried.append(last)
    np.testing.assert_array_equal(missing.last_observation(value[None, None], np.array([[7.5]]))[0, 0], carried)
    bare = missing.last_observation(value)
    assert (np.isnan(bare) == (np.cumsum(np.isfinite(value)) == 0)).all()


def test_rubins_rules_are_those_of_mice():
    estimates, se = np.array(FROZEN["estimates"])[:, None], np.sqrt(FROZEN["variances"])[:, None]
    found = missing.rubin(estimates, se, 40)
    assert found.estimate[0] == pytest.approx(FROZEN["estimate"], rel=1e-9)
    assert found.se[0] ** 2 == pytest.approx(FROZEN["variance"], rel=1e-9)
    assert found.df[0] == pytest.approx(FROZEN["df"], rel=1e-9)
    # Complete data of unlimited degrees of freedom: Rubin's own (1987), (m - 1)(1 + 1/r)^2 with r = (1 + 1/m) B/U.
    r = 1.2 * np.var(FROZEN["estimates"], ddof=1) / np.mean(FROZEN["variances"])
    assert missing.rubin(estimates, se).df[0] == pytest.approx(4 * (1 + 1 / r) ** 2, rel=1e-9)
    same = missing.rubin(np.full((3, 1), 0.5), np.full((3, 1), 0.2), 30)  # nothing between the imputations
    assert same.se[0] == pytest.approx(0.2) and same.df[0] == pytest.approx(30 * 31 / 33)
    with pytest.raises(ValueError, match="2 imputations or more"):
        missing.rubin(estimates[:1], se[:1])


@pytest.mark.parametrize("kind", ["dropout", "any"])
def test_the_same_seed_whatever_the_chunks_and_the_room(kind):
    """Trials 5 to 10 at once, one by one, in another order, and with room for more patients."""
    P, y = trials(21, 6, 30, kind)
    numbers = np.arange(5, 11)
    arguments = {"seed": 3, "imputation": 2, "cycles": 2}
    whole = missing.impute(y, P.treated, trials=numbers, covariates=P.baseline[..., None], **arguments)
    for i in reversed(range(6)):
        alone = missing.impute(
            y[i : i + 1],
            P.treated[i : i + 1],
            trials=numbers[i : i + 1],
            covariates=P.baseline[i : i + 1, :, None],
            **arguments,
        )
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-9)
    more = [(0, 0), (0, 9)]
    padded = missing.impute(
        np.pad(y, [*more, (0, 0)], constant_values=NAN),
        np.pad(P.treated, more),
        trials=numbers,
        present=np.pad(np.ones(P.treated.shape, bool), more),
        covariates=np.pad(P.baseline, more, constant_values=NAN)[..., None],
        **arguments,
    )
    np.testing.assert_allclose(padded[:, :30], whole, rtol=1e-9)
    assert np.isnan(padded[:, 30:]).all() and np.isfinite(whole).all()
    np.testing.assert_array_equal(whole[np.isfinite(y)], y[np.isfinite(y)])
    for change in ({"seed": 4}, {"imputation": 3}):
        other = missing.impute(
            y, P.treated, trials=numbers, covariates=P.baseline[..., None], **{**arguments, **change}
        )
        assert (other[np.isnan(y)] != whole[np.isnan(y)]).all()


def test_kept_regressions_change_nothing():
    P, y = trials(22, 4, 40, "dropout")
    y = np.where(np.isnan(y[..., 1:2]) & (np.arange(3) == 2), NAN, y)  # nobody comes back
    arguments = {"seed": 1, "trials": np.arange(4), "covariates": P.baseline[..., None]}
    found = missing.multiple_imputation(last_visit(P), y, P.treated, **arguments, imputations=4)
    each = [last_visit(P)(missing.impute(y, P.treated, **arguments, imputation=k)) for k in range(4)]
    by_hand = missing.rubin(np.stack([e.estimate for e in each]), np.stack([e.se for e in each]), each[0].df)
    np.testing.assert_allclose(found, by_hand, rtol=1e-12)


def test_draws_have_the_posterior_predictive_law():
    """One visit, one arm with 5 seen: a missing value is t with 4 degrees of freedom around the mean of the seen."""
    n_trials = 1500
    seen = np.array([1.0, 1.5, 2.5, 3.0, 4.5])
    y = np.tile(np.r_[seen, NAN, 2.0, 3.0, 2.5], (n_trials, 1))[..., None]
    drawn = missing.impute(y, np.arange(9) < 6, seed=5, trials=np.arange(n_trials), imputation=0)[:, 5, 0]
    law = stats.t(4, seen.mean(), seen.std(ddof=1) * (1 + 1 / 5) ** 0.5)
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3
    assert stats.kstest(drawn, stats.norm(seen.mean(), seen.std(ddof=1)).cdf).pvalue < 1e-4  # and it is no plug-in


def in_sequence(P, y, i, covariates):
    """Of one trial: each visit's missing values as their mean given what is before, by least squares in each arm."""
    filled = y[i].copy()
    for v in range(filled.shape[-1]):
        X = np.column_stack([np.ones(len(filled)), covariates[i], filled[:, :v]])
        for arm in (True, False):
            members, seen = P.present[i] & (P.treated[i] == arm), np.isfinite(y[i, :, v])
            b = np.linalg.lstsq(X[members & seen], filled[members & seen, v], rcond=None)[0]
            filled[members & ~seen, v] = X[members & ~seen] @ b
    return filled


def test_many_imputations_come_to_sequential_regression():
    """Where nobody comes back: within 4 Monte Carlo errors of imputing means, which has the same estimate."""
    P, y = trials(23, 8, 120, "dropout")
    covariates, m = np.stack([P.baseline, P.stratum], axis=-1), 60
    arguments = {"seed": 1, "trials": np.arange(8), "present": P.present, "covariates": covariates}
    each = [last_visit(P)(missing.impute(y, P.treated, **arguments, imputation=k)) for k in range(m)]
    estimates = np.stack([e.estimate for e in each])
    means = last_visit(P)(np.stack([in_sequence(P, y, i, covariates) for i in range(8)]))
    error = estimates.std(0, ddof=1) / m**0.5
    assert (np.abs(estimates.mean(0) - means.estimate) < 4 * error).all() and (error < 0.03).all()
    # Imputing means once would claim the precision of complete data.
    assert (missing.rubin(estimates, np.stack([e.se for e in each])).se > 1.05 * means.se).all()


def normal_means(Z):
    """Rows [patients, columns] with nan replaced by means under the normal law of largest likelihood (plain EM)."""
    F, mu, S = np.where(np.isnan(Z), np.nanmean(Z, axis=0), Z), np.nanmean(Z, axis=0), np.eye(Z.shape[1])
    for _ in range(60):
        C = np.zeros_like(S)
        for i in np.flatnonzero(np.isnan(Z).any(1)):
            m, o = np.isnan(Z[i]), ~np.isnan(Z[i])
            K = S[np.ix_(m, o)] @ np.linalg.inv(S[np.ix_(o, o)])
            F[i, m] = mu[m] + K @ (Z[i, o] - mu[o])
            C[np.ix_(m, m)] += S[np.ix_(m, m)] - K @ S[np.ix_(o, m)]
        mu = F.mean(0)
        S = ((F - mu).T @ (F - mu) + C) / len(Z)
    return F


def test_chained_equations_come_to_the_normal_law_of_each_arm():
    """With gaps before later visits: within 4 Monte Carlo errors of imputing means by maximum likelihood."""
    P, y = trials(23, 4, 80, "any")
    covariates, m, means = np.stack([P.baseline, P.stratum], axis=-1), 60, y.copy()
    for i in range(4):
        for arm in (True, False):
            members = P.present[i] & (P.treated[i] == arm)
            means[i, members] = normal_means(np.column_stack([covariates[i], y[i]])[members])[:, 2:]
    arguments = {"seed": 1, "trials": np.arange(4), "present": P.present, "covariates": covariates, "cycles": 3}
    each = [last_visit(P)(missing.impute(y, P.treated, **arguments, imputation=k)).estimate for k in range(m)]
    error = np.std(each, axis=0, ddof=1) / m**0.5
    assert (np.abs(np.mean(each, axis=0) - last_visit(P)(means).estimate) < 4 * error).all() and (error < 0.02).all()


def test_few_patients_have_an_imputation_all_the_same():
    y = np.full((1, 8, 3), NAN)
    y[0, :, 0], y[0, 1, 1], y[0, 5:7, 1:] = np.arange(8.0), 2.0, 3.0
    drawn = missing.impute(y, np.arange(8) < 4, seed=1, trials=np.array([0]), imputation=0)
    assert np.isfinite(drawn).all()


def test_a_pooled_answer_has_heavier_tails_than_its_own_normal():
    P, y = trials(24, 5, 60, "dropout")
    arguments = {"seed": 2, "trials": np.arange(5), "covariates": P.baseline[..., None]}
    found = missing.multiple_imputation(last_visit(P), y, P.treated, **arguments, imputations=5, cycles=2)
    assert (found.df < 57).all() and (p_values(found, 2) > 2 * stats.norm.sf(np.abs(found.z))).all()
