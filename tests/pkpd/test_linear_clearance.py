"""Immune clearance half saturated far above any count: linear, at rest before treatment, and solved as well."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pkpd import thrombopoiesis, trial
from pkpd.parameters import load_library, with_values
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario

KIM = "immune_half_saturation_1e9_per_l"
LINEAR = 1e5
N = 128


def courses(dtype, engine, dose_scale=1.0, **values):
    low, *_ = planned_arms(load_scenario("phase3"), dtype)
    population = with_values(low.population, {KIM: LINEAR, **values})
    arm = low.arm._replace(dose_scale=np.float32(dose_scale))
    return next(trial.simulate(population, arm, (7, 14, 28, 56), 5, range(N), engine=engine))


def test_the_capacity_keeps_patients_at_rest():
    quiet = {"immune_drift_log_sd": 0.0}
    v = courses(np.float32, "xla", dose_scale=0.0, **quiet)
    np.testing.assert_allclose(v.platelets_true, np.broadcast_to(v.baseline, v.platelets_true.shape), rtol=2e-5)


def test_the_loss_is_proportional_to_the_count():
    p = load_library(overrides={KIM: LINEAR}).parameters()
    t = thrombopoiesis.turnover(p)
    counts = np.array([5.0, 50.0, 500.0])
    loss = float(t.immune_capacity) * counts / (LINEAR + counts)
    np.testing.assert_allclose(loss / counts, float(p.production_1e9_per_l_per_h) / 15 - 1 / 216, rtol=0.006)


@pytest.mark.slow
def test_the_fast_engine_agrees_with_the_tight_one():
    jax.config.update("jax_enable_x64", True)
    fast, tight = courses(np.float32, "xla"), courses(np.float64, "reference")
    same = (fast.dose_mg == tight.dose_mg).all(axis=0)  # a count on a threshold may titrate differently
    assert same.mean() > 0.97 and not fast.failed.any()
    error = np.abs(fast.platelets_true / tight.platelets_true - 1)[:, same]
    assert np.quantile(error, 0.999) < 2e-3
    assert tight.platelets_true.max() > 60, "the drug acts"
