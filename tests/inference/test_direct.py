"""The direct route on the engine: what a likelihood depends on, and a small run."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from inference import direct, population
from inference.config import load
from pkpd.errors import InputError
from pkpd.parameters import load_library

FREE = "rescue_max_probability_per_week"
PATIENTS = 1024


@pytest.fixture(scope="module")
def plan():
    """The placebo arm alone is fitted, one parameter free."""
    fix = [n for n in load_library().free_names() if n != FREE]
    return population.plan(load(options={"fix": fix, "data": {"leave_out": ["start 2.5 mg", "start 5 mg"]}}))


@pytest.fixture(scope="module")
def estimate(plan):
    return direct.likelihood(plan, jax.random.key(0), PATIENTS, replicate=2)


def at(plan, *values):
    return np.asarray(plan.prior.unconstrained({FREE: np.array(values)}))


def test_a_row_depends_on_its_own_patients_alone(plan, estimate):
    two = estimate(at(plan, 0.085, 0.2), 3)
    np.testing.assert_array_equal(estimate(at(plan, 0.085, 0.05), 3)[0], two[0])
    assert two[0] != two[1]


def test_every_evaluation_row_and_replicate_has_patients_of_its_own(plan, estimate):
    same = at(plan, 0.085, 0.085)
    other = direct.likelihood(plan, jax.random.key(0), PATIENTS, replicate=3)
    seen = np.concatenate([estimate(same, 0), estimate(same, 1), other(same, 0)])
    assert len(set(seen)) == 6
    np.testing.assert_array_equal(estimate(same, 1), seen[2:4])


def test_the_likelihood_peaks_where_the_rescues_are(plan, estimate):
    """32 of 85 placebo patients were rescued; the library's 0.085 a week gives 29%, so a little more is likelier."""
    low, middle, high = estimate(at(plan, 0.03, 0.12, 0.6), 5)
    assert middle > low + 5 and middle > high + 5


def test_a_small_run(plan):
    settings = {"patients": PATIENTS, "particles": 40, "moves": 3, "replicate": 1}
    found = direct.direct(plan, jax.random.key(1), **settings)
    assert found.samples[FREE].shape == (40,) and found.temperatures[-1] == 1
    stages = len(found.temperatures)
    assert found.courses == (40 + 30 * stages + direct.PILOTS) * PATIENTS * 3
    assert 0.09 < found.samples[FREE].mean() < 0.16 and np.isfinite(found.log_evidence)


def test_a_cohort_that_is_too_small_is_refused(plan):
    with pytest.raises(InputError, match="patients = 800 an arm for a trial with 85; legal: at least 850"):
        direct.direct(plan, jax.random.key(0), patients=800)
