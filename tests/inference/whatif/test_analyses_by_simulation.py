"""Size and coverage of the analyses of patients: 4,000 simulated trials, within 3 standard errors of nominal."""

import numpy as np
import pytest
from scipy import stats

from inference.whatif.ancova import ancova
from inference.whatif.estimated import against, p_values
from inference.whatif.logistic import METHODS, logistic
from inference.whatif.mantel_haenszel import cochran_mantel_haenszel, risk_difference
from inference.whatif.missing import multiple_imputation
from inference.whatif.mmrm import mmrm
from inference.whatif.survival import cox, logrank
from tests.inference.whatif.patients import patients

TRIALS = 4000
P = patients(31, TRIALS, 300, strata=2)
RATE = 0.25 + 0.15 * P.stratum


def error(p, n=TRIALS):
    return 3 * np.sqrt(p * (1 - p) / n)


def assert_nominal(found, truth=0.0):
    """Two-sided rejection of the truth at 0.05, and one-sided at 0.025 in either direction."""
    test = against(found, truth) if truth else found
    assert (p_values(test, 2) < 0.05).mean() == pytest.approx(0.05, abs=error(0.05))
    one_sided = p_values(test, 1)
    assert (one_sided < 0.025).mean() == pytest.approx(0.025, abs=error(0.025))
    assert (one_sided > 0.975).mean() == pytest.approx(0.025, abs=error(0.025))


@pytest.mark.parametrize("method", METHODS)
def test_size_of_logistic_regression(method):
    response = P.rng.random(P.treated.shape) < RATE
    assert_nominal(logistic(response, P.treated, **P.common, method=method))


def test_size_and_coverage_of_mantel_haenszel():
    assert_nominal(cochran_mantel_haenszel(P.rng.random(P.treated.shape) < RATE, P.treated, **P.common))
    assert_nominal(risk_difference(P.rng.random(P.treated.shape) < RATE + 0.3 * P.treated, P.treated, **P.common), 0.3)


def test_size_and_coverage_of_survival():
    """Seen weekly for 8 weeks: a hazard in weeks, so that the log hazard ratio of grouped times is a little off 0.5."""
    time = P.rng.exponential(8, P.treated.shape) / (1 + P.stratum)
    seen, event = np.minimum(np.ceil(time), 8), time < 8
    for analysis in (logrank, cox):
        assert_nominal(analysis(seen, event, P.treated, **P.common))
    halved = time * np.exp(-0.5 * P.treated)
    assert_nominal(cox(np.minimum(halved, 8), halved < 8, P.treated, **P.common), 0.5)


def test_size_and_coverage_of_ancova_in_small_trials():
    """Exact at any size: 14 patients."""
    small = patients(32, TRIALS, 14, strata=2)
    value = small.baseline + small.stratum + 0.4 * small.treated + small.rng.normal(size=small.treated.shape)
    assert_nominal(ancova(value, small.treated, **small.with_baseline), 0.4)


def repeated(seed, n_trials, n):
    """Three correlated visits under the null; patients with low counts leave for good, more so if treated."""
    P = patients(seed, n_trials, n, strata=2)
    y = P.rng.normal(size=(*P.treated.shape, 3)) @ np.linalg.cholesky(0.3 * np.eye(3) + 0.7).T + P.baseline[..., None]
    for v in (1, 2):
        leaves = P.rng.random(P.treated.shape) < np.where(y[..., v - 1] < 2.5, 0.15 + 0.3 * P.treated, 0.05)
        y[leaves | np.isnan(y[..., v - 1]), v] = np.nan
    return P, y


def test_size_of_mmrm_where_those_who_do_badly_leave():
    """Missing at random: MMRM keeps its level, and an ANCOVA of those who stayed does not."""
    P, y = repeated(33, TRIALS, 100)
    assert_nominal(mmrm(y, P.treated, **P.with_baseline))
    stayed = ancova(y[..., 2], P.treated, **{**P.with_baseline, "present": P.present & np.isfinite(y[..., 2])})
    assert (p_values(stayed, 2) < 0.05).mean() > 0.05 + error(0.05)


def test_size_and_coverage_of_multiple_imputation():
    """300 trials of 100 patients: rejections are not unlikely, to 3 standard errors, of a binomial at the level."""
    P, y = repeated(34, 300, 100)
    covariates = np.stack([P.baseline, P.stratum], axis=-1)
    found = multiple_imputation(
        lambda filled: ancova(filled[..., 2], P.treated, **P.with_baseline),
        y,
        P.treated,
        seed=1,
        trials=np.arange(300),
        present=P.present,
        covariates=covariates,
        imputations=10,
    )
    rejected = (p_values(found, 2) < 0.05).sum()
    assert stats.binom.sf(rejected - 1, 300, 0.05) > 0.00135 and stats.binom.cdf(rejected, 300, 0.05) > 0.00135
    assert found.estimate.mean() == pytest.approx(0, abs=3 * found.estimate.std() / 300**0.5)
