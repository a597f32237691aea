"""What a trial estimates is the same to the bit whatever trials are analysed beside it."""

from __future__ import annotations

import numpy as np
import pytest

from inference.whatif import effects
from inference.whatif.effects import Patients
from pkpd.scenario import Scenario, load_scenario

TRIALS, N, SEED = 1000, (18, 16), 3
DAYS = "trial.visits_d=[7,14,28,56]"
STRATA = "analysis.strata={baseline_1e9_per_l=[8.0, 38.0]}"  # few trials have anybody above the second limit
ARMS = "arms=[{name='new',drug='hetrombopag',n=18,start_dose_mg=5.0},{name='placebo',drug='placebo',n=16}]"
IMPUTED = "analysis.estimand={missing='multiple-imputation',discontinuation='hypothetical',imputations=2}"
WAYS = {
    "cochran-mantel-haenszel": ["analysis.endpoint=response_week_8", "analysis.test=cochran-mantel-haenszel"],
    "risk-difference": ["analysis.endpoint=response_week_8", "analysis.test=risk-difference"],
    "logistic": ["analysis.endpoint=response_week_8", "analysis.test=logistic", "analysis.covariates=['log_baseline']"],
    "log-rank": ["analysis.endpoint=time_to_first_response", "analysis.test=log-rank"],
    "cox": ["analysis.endpoint=time_to_first_response", "analysis.test=cox", "analysis.covariates=['log_baseline']"],
    "cox alone": ["analysis.endpoint=time_to_first_response", "analysis.test=cox"],
    "logistic alone": ["analysis.endpoint=response_week_8", "analysis.test=logistic"],
    "ancova": ["analysis.endpoint=log_count_week_8", "analysis.test=ancova"],
    "mmrm": ["analysis.endpoint=log_counts", "analysis.test=mmrm"],
    "imputation": ["analysis.endpoint=log_count_week_8", "analysis.test=ancova", IMPUTED],
}


def made_up(scenario: Scenario, rng: np.random.Generator, n: int) -> Patients:
    """Outcomes of one arm: counts that fall missing for a visit or for good, times with ties and censoring."""
    log_baseline = rng.normal(2.6, 0.35, (TRIALS, n))
    logs = log_baseline[..., None] + rng.normal(0.5, 0.6, (TRIALS, n, 1)) + rng.normal(0, 0.4, (TRIALS, n, 4))
    logs[rng.random(logs.shape) < 0.04] = np.nan
    logs[np.arange(4) >= rng.geometric(0.08, (TRIALS, n, 1))] = np.nan
    test, endpoint = scenario.analysis.test, scenario.analysis.endpoint
    kind = {"log_counts": logs, "log_count_week_8": logs[..., -1]}
    kind |= {
        "response_week_8": np.nan_to_num(logs[..., -1]) > 3.2,
        "time_to_first_response": rng.integers(1, 9, (TRIALS, n)) * 7,
    }
    imputed = scenario.analysis.estimand.missing == "multiple-imputation"
    return Patients(
        value=kind[endpoint],
        present=rng.random((TRIALS, n)) < 0.97,
        log_baseline=log_baseline,
        stratum=np.searchsorted([8.0, 38.0], np.exp(log_baseline), side="right"),
        covariates=log_baseline[..., None] if effects.covariates_of(scenario.analysis) else None,
        event=rng.random((TRIALS, n)) < 0.7 if test in ("log-rank", "cox") else None,
        counts=np.exp(logs) if imputed else None,
        failed=np.zeros(logs.shape, bool) if imputed else None,
    )


@pytest.mark.parametrize("way", WAYS)
def test_estimates_have_the_same_bits_in_chunks_of_any_size(way):
    scenario = load_scenario("phase3", [ARMS, DAYS, STRATA, "analysis.multiplicity=none", *WAYS[way]])
    rng = np.random.default_rng(1)
    arms = [made_up(scenario, rng, n) for n in N]
    highest = np.maximum(*(arm.stratum.max(axis=1) for arm in arms))
    assert {1, 2} <= set(highest)

    def chunk(first: int, size: int) -> np.ndarray:
        some = [Patients(*(None if x is None else x[first : first + size] for x in arm)) for arm in arms]
        return effects.effects(scenario, some, SEED, first)

    whole = chunk(0, TRIALS)
    assert np.isfinite(whole[:, 0, 0, 0]).mean() > 0.5
    for size in (7, 100, 250):
        trials = range(0, 140, 7) if size == 7 else range(0, TRIALS, size)
        found = np.concatenate([chunk(first, size) for first in trials])
        np.testing.assert_array_equal(found, whole[: len(found)], err_msg=f"chunks of {size}")
