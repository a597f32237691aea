"""The visit loop: published-trial rates, reproducibility to the bit, independence of arms, drift, rescue, dropout."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pkpd import cohort, endpoints, random, titration, trial
from pkpd.engine import recorded
from pkpd.model import DYNAMIC
from pkpd.parameters import load_library, with_values
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario

DAYS = tuple(range(7, 57, 7))

# Rates printed in the design for these conventions (65,536 patients an arm), in the order of endpoints.NAMES.
DESIGN_RATES = {
    "trial's weights": {
        "start 2.5 mg": (0.590, 0.815, 0.397, 0.866, 0.096),
        "start 5 mg": (0.614, 0.857, 0.570, 0.905, 0.078),
        "placebo": (0.046, 0.152, 0.005, 0.261, 0.295),
    },
    "70 kg": {
        "start 2.5 mg": (0.572, 0.797, 0.365, 0.853, 0.101),
        "start 5 mg": (0.599, 0.843, 0.545, 0.895, 0.083),
        "placebo": (0.046, 0.152, 0.005, 0.261, 0.295),
    },
}


def run(planned, patients, seed=1, population=None, days=DAYS, trials=0, **kwargs):
    """All visits of one arm, the tiles joined."""
    parts = list(
        trial.simulate(population or planned.population, planned.arm, days, seed, patients, trial=trials, **kwargs)
    )
    return jax.tree.map(lambda *x: np.concatenate(x, -1), *parts)


@pytest.fixture(scope="module")
def arms():
    return {a.name: a for a in planned_arms(load_scenario("phase3"))}


def rates(v):
    return np.asarray(endpoints.events(v.platelets_observed, v.baseline, v.rescued)).mean(1)


@pytest.mark.parametrize("weights", DESIGN_RATES)
def test_rates_of_the_design_are_reproduced(arms, weights):
    n, worst = 4096, 0.0
    for i, (name, expected) in enumerate(DESIGN_RATES[weights].items()):
        population = arms[name].population
        if weights == "70 kg":
            population = with_values(population, {"weight_median_kg": 70.0, "weight_log_sd": 0.0})
        found = rates(run(arms[name], i * n + np.arange(n), population=population))
        expected = np.asarray(expected)
        allowed = 3 * np.sqrt(expected * (1 - expected) / n) + 0.005
        worst = max(worst, float(np.max(np.abs(found - expected) / allowed)))
    assert worst <= 1


def digest(v):
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in jax.tree.leaves(v))).hexdigest()


def test_same_patients_whatever_the_chunks(arms):
    arm, n = arms["start 5 mg"], 3000
    whole = run(arm, np.arange(n))
    for cuts in ([2048], [1, 700, 2999]):
        parts = [run(arm, part) for part in np.split(np.arange(n), cuts)]
        assert digest(jax.tree.map(lambda *x: np.concatenate(x, -1), *parts)) == digest(whole)


def test_arms_of_a_trial_are_independent(arms):
    """Correlation of two arms' week-8 responders over 2,000 trials: zero within three standard errors."""
    n, trials = 8, 2000
    responders = []
    for i, name in enumerate(("start 2.5 mg", "start 5 mg")):
        number = np.repeat(np.arange(trials), n)
        v = run(arms[name], np.tile(i * n + np.arange(n), trials), trials=number)
        events = np.asarray(endpoints.events(v.platelets_observed, v.baseline, v.rescued))[0]
        responders.append(events.reshape(trials, n).sum(1))
    r = np.corrcoef(responders)[0, 1]
    assert abs(r) < 3 / np.sqrt(trials)


def test_two_designs_see_the_same_patients(arms):
    one, other = run(arms["start 2.5 mg"], np.arange(500)), run(arms["start 5 mg"], np.arange(500))
    for name in ("baseline", "weight_kg", "immune_log_activity"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    # and with another calendar of visits, the noise of the days in common
    fewer = run(arms["start 2.5 mg"]._replace(arm=arms["start 2.5 mg"].arm._replace(dose_scale=0.0)), np.arange(500))
    sparse = run(arms["placebo"], np.arange(500), days=(14, 56))
    assert np.array_equal(fewer.platelets_observed[7], sparse.platelets_observed[1])


def test_seed_draw_and_trial_each_change_the_patients(arms):
    arm, number = arms["start 5 mg"], np.arange(64)
    base = run(arm, number)
    assert not np.array_equal(base.baseline, run(arm, number, seed=2).baseline)
    assert not np.array_equal(base.baseline, run(arm, number, draw=1).baseline)
    assert not np.array_equal(base.baseline, run(arm, number, trials=1).baseline)


def test_drift_is_stationary_with_the_stated_memory():
    noise = load_library().population().noise
    n, weeks = 20_000, 30
    zero = np.zeros(n, np.int32)
    keys = random.patient_keys(random.root(4), zero, zero, np.arange(n))
    omega = np.asarray(trial.drift(noise, keys, weeks, jnp.float32))
    rho = np.exp(-7 / float(noise.immune_drift_time_d))
    s = float(noise.immune_drift_log_sd)
    assert omega[0].std() == pytest.approx(s * np.sqrt(1 - rho**2), rel=0.03)
    assert omega[-1].std() == pytest.approx(s, rel=0.03)
    assert np.corrcoef(omega[-2], omega[-1])[0, 1] == pytest.approx(rho, abs=0.01)


def test_rescue_integrated_out_agrees_with_sampled_rescue(arms):
    """The moments of the surface against the simulated events of the same patients."""
    arm, n, group = arms["placebo"], 8192, 128
    v = run(arm, np.arange(n))
    sampled = np.asarray(endpoints.events(v.platelets_observed, v.baseline, v.rescued)).astype(float)
    parts = list(trial.event_moments(trial.roster(arm.population, np.arange(n)), arm.arm, DAYS, 1, group))
    mean, second, failed = (np.concatenate(x) for x in zip(*parts, strict=True))
    assert mean.shape == (n // group, 5) and second.shape == (n // group, 5, 5) and not failed.any()
    se = sampled.std(1) / np.sqrt(n)
    assert np.all(np.abs(mean.mean(0) - sampled.mean(1)) < 4 * se + 1e-3)
    assert np.allclose(np.einsum("kjj->kj", second), mean, atol=1e-6)


def test_float32_and_float64_agree(arms):
    double = next(a for a in planned_arms(load_scenario("phase3"), jnp.float64) if a.name == "start 5 mg")
    a, b = run(double, np.arange(512)), run(arms["start 5 mg"], np.arange(512))
    assert a.platelets_true.dtype == np.float64 and b.platelets_true.dtype == np.float32
    same = (a.dose_mg == b.dose_mg).all(0)  # a count at a threshold may fall on either side
    assert same.mean() > 0.99
    assert np.median(np.abs(a.platelets_true / b.platelets_true - 1)[:, same]) < 1e-5


def test_placebo_takes_no_drug_and_everyone_stays_in_range(arms):
    v = run(arms["placebo"], np.arange(2048))
    assert not v.dose_mg.any() and not v.cmax_ng_per_ml.any() and not v.failed.any()
    assert np.all((v.baseline >= 1) & (v.baseline < 30)) and np.all((v.weight_kg >= 39) & (v.weight_kg <= 115))
    assert np.median(v.baseline) == pytest.approx(13, abs=1) and np.mean(v.baseline < 10) == pytest.approx(
        0.37, abs=0.03
    )
    assert np.all(v.platelets_observed >= 1)


@pytest.mark.parametrize("half_saturation", [None, 1e5], ids=["saturable", "linear"])
def test_a_drift_beyond_all_bounds_loses_nobody(arms, half_saturation):
    """A log activity of hundreds is no clearance at all, or one that leaves no platelet to be seen."""
    wild = {"immune_drift_log_sd": 300.0} | (
        {"immune_half_saturation_1e9_per_l": half_saturation} if half_saturation else {}
    )
    v = run(arms["start 5 mg"], np.arange(2048), population=with_values(arms["start 5 mg"].population, wild))
    assert not v.failed.any() and np.abs(v.immune_log_activity).max() == trial.LARGEST_OMEGA
    held_high, held_low = ((x * v.immune_log_activity[-3:] == trial.LARGEST_OMEGA).all(0) for x in (1, -1))
    assert held_high.any() and held_low.any()
    assert np.all(v.platelets_true[-1, held_high] < 0.1) and np.all(v.platelets_true[-1, held_low] > 30)


def test_a_rescue_changes_neither_dose_nor_platelets(arms):
    never = with_values(arms["start 5 mg"].population, {"rescue_max_probability_per_week": 0.0})
    with_rescue, without = (
        run(arms["start 5 mg"], np.arange(512)),
        run(arms["start 5 mg"], np.arange(512), population=never),
    )
    assert with_rescue.rescued.any() and not without.rescued.any()
    assert np.array_equal(with_rescue.platelets_observed, without.platelets_observed)
    assert np.array_equal(with_rescue.dose_mg, without.dose_mg)
    assert np.all(np.diff(with_rescue.rescued.astype(int), axis=0) >= 0)


def test_dropout_follows_its_hazard_and_loses_later_visits(arms):
    leaving = arms["start 5 mg"]._replace(arm=arms["start 5 mg"].arm._replace(dropout_hazard_per_week=np.float32(0.1)))
    v = run(leaving, np.arange(8192))
    left = v.dropped.mean(1)
    assert left == pytest.approx(1 - np.exp(-0.1 * np.arange(1, 9)), abs=0.02)
    assert np.array_equal(np.isnan(v.platelets_observed), v.dropped)
    assert not v.dose_mg[1:][v.dropped[:-1]].any()


def test_exposure_is_that_of_the_dose(arms):
    """Fixed dose at steady state: AUC over a week stays below 7 dose/CL, the bound without loss of bound drug."""
    rule = titration.fixed(5.0)
    p = arms["start 5 mg"]
    fixed = p._replace(arm=p.arm._replace(rule=rule, start_level=np.int32(0)))
    still = with_values(p.population, {f"{n}_iiv_log_sd": 0.0 for n in p.population.iiv_log_sd._fields})
    still = with_values(still, {"weight_log_sd": 0.0, "weight_median_kg": 70.0})
    v = run(fixed, np.arange(64), population=still)
    bound = 7 * 5e6 / 7.66 * 1e-3
    assert np.all(v.auc_ng_h_per_ml[-1] < bound) and np.all(v.auc_ng_h_per_ml[-1] > 0.3 * bound)
    assert np.all(v.trough_ng_per_ml[-1] < v.cmax_ng_per_ml[-1])


def test_nothing_recompiles_when_only_values_change(arms):
    planned = arms["start 5 mg"]
    first = run(planned, np.arange(3))
    before = trial._visits._cache_size()
    other = planned._replace(arm=planned.arm._replace(start_level=planned.arm.start_level - 1, dose_scale=0.5))
    population = with_values(planned.population, {"receptor_ec50_nM": 12.0})
    second = run(other, 5 + np.arange(3), seed=2, population=population, trials=7)
    assert trial._visits._cache_size() == before
    assert (first.platelets_true != second.platelets_true).all()


# Treatment that ends, crossover


@pytest.mark.parametrize("treatment_d", [1, 14])
def test_treatment_that_ends_is_a_course_on_recorded_doses(treatment_d):
    """Counts, concentrations and exposure of every interval, against the route that is given every dose."""
    days, n, seed = (1, 7, 14, 28), 16, 3
    population = load_library().population(jnp.float64)
    arm = trial.Arm(titration.fixed(7.5), 0, baseline_below=30.0, treatment_d=np.int32(treatment_d))
    v = next(trial.simulate(population, arm, days, seed, np.arange(n)))
    zero = np.zeros(n, np.int32)
    keys = random.patient_keys(random.root(seed), zero, zero, np.arange(n))
    patients = cohort.draw(population, keys, 30.0)
    doses = np.where(np.arange(28)[:, None] < treatment_d, 7.5, 0.0) * np.ones(n)
    found = recorded.course(patients.parameters, doses, v.immune_log_activity, days, DYNAMIC)
    ng_per_ml = 0.45847
    for one, other in (
        (v.platelets_true, found.platelets_1e9_per_l),
        (v.trough_ng_per_ml, found.concentration_nM * ng_per_ml),
        (v.cmax_ng_per_ml, found.cmax_nM * ng_per_ml),
        (v.auc_ng_h_per_ml, found.auc_nM_h * ng_per_ml),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    assert np.array_equal(
        v.dose_mg > 0, np.broadcast_to(np.array([0, 1, 7, 14])[:, None] < treatment_d, v.dose_mg.shape)
    )


def test_treatment_to_the_last_visit_is_treatment_without_an_end(arms):
    planned = arms["start 5 mg"]
    whole = planned._replace(arm=planned.arm._replace(treatment_d=np.int32(56)))
    # the decision at the last visit acts on nothing that is seen
    assert digest(run(whole, np.arange(300))) == digest(run(planned, np.arange(300)))


def test_a_rule_does_not_act_once_treatment_has_ended(arms):
    planned = arms["start 5 mg"]
    v = run(planned._replace(arm=planned.arm._replace(treatment_d=np.int32(28))), np.arange(2048))
    treated = run(planned, np.arange(2048))
    assert np.array_equal(v.dose_mg[:4], treated.dose_mg[:4]) and not v.dose_mg[4:].any()
    for name in ("interrupted", "stopped"):
        seen = getattr(v, name)
        assert (seen[4:] == seen[4]).all() and (getattr(treated, name)[4:] != getattr(treated, name)[4]).any()
    assert v.platelets_true[7].mean() < treated.platelets_true[7].mean()


def test_periods_of_a_crossover_are_the_same_patients_with_noise_of_their_own(arms):
    planned, n = arms["placebo"], 4096
    one, other = (run(planned._replace(arm=planned.arm._replace(period=np.uint32(i))), np.arange(n)) for i in (0, 1))
    for name in ("baseline", "weight_kg"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    errors = [np.log(v.platelets_observed[3] / v.platelets_true[3])[v.platelets_observed[3] > 1] for v in (one, other)]
    assert [e.std() for e in errors] == pytest.approx([0.21] * 2, rel=0.1)
    both = (one.platelets_observed[3] > 1) & (other.platelets_observed[3] > 1)
    z = [np.log(v.platelets_observed[3] / v.platelets_true[3])[both] for v in (one, other)]
    assert abs(np.corrcoef(z)[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(one.immune_log_activity[2], other.immune_log_activity[2])[0, 1]) < 4 / np.sqrt(n)
