"""Assurance: power averaged over draws, its clustered error, and independence of arms against pairing of designs."""

import jax
import numpy as np
import pytest
from scipy import stats

from inference import trials
from inference.trials import courses, patient_blocks, run_trial
from inference.whatif.counts import Counts
from inference.whatif.decisions import decide
from inference.whatif.summed import Rows
from inference.whatif.two_by_two import p_values
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario
from tests.inference.whatif.designs import design

ONE = {"receptor_ec50_nM": 13.0, "max_stimulation": 6.0, "residual_log_sd": 0.25, "receptor_ec50_nM_iiv_log_sd": 0.5}
SMALL = ["trial.n_trials=60", "arms.1.n=20", "arms.2.n=20", "arms.3.n=20"]


def test_assurance_of_one_draw_is_power_at_that_draw(monkeypatch):
    """Exactly: the same patients, so the same count in every trial, and the same row of the summary."""
    at = load_scenario("phase3", SMALL)
    fixed = load_scenario("phase3", [*SMALL, *(f"parameters.{name}={value}" for name, value in ONE.items())])
    draws = {name: np.array([value]) for name, value in ONE.items()}
    by_draw, by_value = (
        patient_blocks(scenario, values, 3, "auto", trials.silent)(0, 60)
        for scenario, values in ((at, draws), (fixed, {}))
    )
    assert np.array_equal(by_draw.analysed, by_value.analysed)
    assert all(np.array_equal(by_draw.by_arm[name], by_value.by_arm[name]) for name in by_draw.by_arm)
    monkeypatch.setattr(trials, "posterior_draws", lambda run, n: draws)
    assurance = run_trial(at, seed=3)
    monkeypatch.undo()
    assert assurance.equals(run_trial(fixed, seed=3)) and not assurance.equals(run_trial(at, seed=3))


def test_clustered_error_covers_a_known_assurance():
    """400 runs of 80 draws with 25 trials each; a response probability from a Beta makes counts beta-binomial.

    The assurance is the sum over all tables. The summary's bounds must hold it in 92 to 98% of the runs.
    """
    runs, n_draws, each, n, p0, (a, b) = 400, 80, 25, 24, 0.2, (4.0, 5.0)
    y, y0 = np.divmod(np.arange((n + 1) ** 2), n + 1)
    chance = stats.betabinom.pmf(y, n, a, b) * stats.binom.pmf(y0, n, p0)
    assurance = chance @ (p_values("risk-difference", y, n, y0, n, 2) <= 0.05)
    rng = np.random.default_rng(11)
    draw = np.arange(n_draws * each) % n_draws
    p = rng.beta(a, b, (runs, n_draws))[:, draw]
    counts = np.stack([rng.binomial(n, p), rng.binomial(n, p0, p.shape)], axis=-1)
    scenario = design(n=(n, n), trial={"n_trials": n_draws * each})
    rejected = decide(scenario, Counts((), {}, counts.reshape(-1, 1, 2))).rejected[:, 0].reshape(runs, -1)

    def covered(n_draws):  # 1: as if all trials were of one draw
        inside = []
        for one in rejected:
            rows = Rows("known", n_draws)
            rows.begin(len(one))
            rows.add("a", "power", one)
            row = rows.table().iloc[0]
            inside.append(row["lower"] <= assurance <= row["upper"])
        return np.mean(inside)

    assert 0.3 < assurance < 0.9 and rejected.mean() == pytest.approx(assurance, abs=4 * 0.5 / np.sqrt(runs * n_draws))
    assert 0.92 <= covered(n_draws) <= 0.98 and covered(1) < 0.7


def test_arms_of_a_trial_are_independent():
    """2,000 trials of three arms: responders of no two arms are correlated, beyond 3 standard errors."""
    scenario = load_scenario("phase3", ["trial.n_trials=2000", "arms.1.n=12", "arms.2.n=12", "arms.3.n=12"])
    counts = patient_blocks(scenario, {}, 7, "auto", trials.silent)(0, 2000)
    by_arm = np.stack([counts.by_arm[arm.name] for arm in scenario.arms])  # [arms, trials, endpoints]
    for endpoint in (counts.names.index("response_any"), counts.names.index("rescue")):
        correlations = np.corrcoef(by_arm[:, :, endpoint])[np.triu_indices(3, 1)]
        assert (np.abs(correlations) < 3 / np.sqrt(2000)).all()


def test_designs_share_their_patients_and_random_numbers():
    """Another start dose: the same baselines, and the same noise of every count; another seed: other patients."""

    def seen(start_mg, seed):
        scenario = load_scenario("phase3", [f"arms.1.start_dose_mg={start_mg}"])
        arm = planned_arms(scenario)[0]
        return next(jax.device_get(v) for _, _, v in courses(scenario, arm, {}, 3, seed, "auto"))

    low, high, other = seen(2.5, 1), seen(5.0, 1), seen(2.5, 2)
    noise = [np.log(v.platelets_observed / v.platelets_true) for v in (low, high, other)]
    both = (low.platelets_observed > 1) & (high.platelets_observed > 1)  # counts are at least 1
    assert np.array_equal(low.baseline, high.baseline) and np.array_equal(low.weight_kg, high.weight_kg)
    np.testing.assert_allclose(noise[0][both], noise[1][both], atol=2e-6)
    assert not np.array_equal(low.baseline, other.baseline) and abs(np.corrcoef(noise[0][0], noise[2][0])[0, 1]) < 0.2
    assert low.platelets_true[2].mean() < high.platelets_true[2].mean()
    placebo = [
        patient_blocks(load_scenario("phase3", [f"arms.1.start_dose_mg={mg}"]), {}, 1, "auto", trials.silent)(0, 20)
        for mg in (2.5, 5.0)
    ]
    assert np.array_equal(placebo[0].by_arm["placebo"], placebo[1].by_arm["placebo"])
    assert not np.array_equal(placebo[0].by_arm["start 2.5 mg"], placebo[1].by_arm["start 2.5 mg"])
