"""The comparison with other solvers: their right-hand sides are the model's, their course is the reference's; JSON."""

from __future__ import annotations

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.records import Record, write
from benchmarks.systems import rates, with_scipy
from benchmarks.systems import task as tasks
from pkpd import model, random
from pkpd.cohort import draw
from pkpd.engine import reference
from pkpd.parameters import Parameters, load_library

N = 24


@pytest.fixture(scope="module")
def patients() -> tasks.Task:
    """Ordinary patients with one drift each and no truth."""
    keys = random.patient_keys(random.root(3), *np.broadcast_arrays(0, 0, np.arange(N)))
    p = draw(load_library().population(jnp.float64), keys, jnp.asarray(30.0)).parameters
    omega = np.random.default_rng(3).normal(0, 0.5, (tasks.WEEKS, N))
    nothing = np.empty((tasks.WEEKS, 0))
    return tasks.Task({name: np.asarray(x) for name, x in p._asdict().items()}, omega, nothing, nothing)


@pytest.fixture(scope="module")
def states(patients) -> np.ndarray:
    """Random states [16, patients]: both branches of the stimulus and of the binding occur."""
    rng = np.random.default_rng(4)
    y = rates.at_rest(patients.parameters, N) * rng.uniform(0.3, 1.7, (rates.STATES, N))
    y[:3] = rng.lognormal(6, 2, (3, N))
    y[4:8] = rng.uniform(0.05, 0.95, (4, N))
    return y


def jax_parameters(task: tasks.Task) -> Parameters:
    return Parameters(**{name: jnp.asarray(x) for name, x in tasks.by_patient(task).items()})


def of_the_model(task: tasks.Task, y: np.ndarray, ka: float, omega: np.ndarray) -> np.ndarray:
    p = jax_parameters(task)
    return np.stack(model.rates(model.State(*jnp.asarray(y)), p, model.steady_state(p)[1], ka, jnp.asarray(omega)))


def test_both_branches_are_met(patients, states):
    k = rates.constants(patients.parameters)
    b = states[1] / k.V - states[3] - k.Kss
    assert 0 < (b < 0).sum() < N
    for x, x0 in zip(states[4:8], (k.x0_3, k.x0_5, k.x0_a, k.x0_e), strict=True):
        assert 0 < (x < x0).sum() < N


def test_states_before_treatment_are_those_of_the_model(patients):
    at_rest, _ = model.steady_state(jax_parameters(patients))
    np.testing.assert_allclose(rates.at_rest(patients.parameters, N), np.stack(at_rest), rtol=1e-13)


def test_the_right_hand_side_over_arrays_is_the_models(patients, states):
    ka, omega = 0.31, patients.omega[0]
    k = rates.constants(patients.parameters, ka, omega)
    found = np.stack(rates.rates_of_arrays(states, k))
    expected = of_the_model(patients, states, ka, omega)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max(1).min())
    C = rates.concentration_of_arrays(states[1], states[3], k.V, k.Kss)
    p = jax_parameters(patients)
    np.testing.assert_allclose(C, model.free_concentration_nM(model.State(*jnp.asarray(states)), p), rtol=1e-13)


@pytest.mark.parametrize("form", ["Python", "numba"])
def test_the_right_hand_side_of_scalars_is_the_models(patients, states, form):
    if form == "numba" and importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed")
    f, _ = rates.compiled() if form == "numba" else (rates.rates, None)
    ka, omega = 0.05, patients.omega[1]
    k = np.stack([np.broadcast_to(x, (N,)) for x in rates.constants(patients.parameters, ka, omega)])
    found = np.stack([f(states[:, i].copy(), k[:, i].copy()) for i in range(N)], -1)
    expected = of_the_model(patients, states, ka, omega)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max(1).min())


def test_stretches_cover_the_course_and_hold_every_event(patients):
    course = tasks.stretches(patients)
    np.testing.assert_allclose(course.hours.sum(0), 24.0 * tasks.DAYS, rtol=1e-12)
    assert (course.hours > 0).all() and course.visit.sum() == tasks.WEEKS and course.visit[-1]
    assert ((course.arriving_nmol > 0).sum(0) == tasks.DAYS).all()
    ends = np.cumsum(course.hours, 0)[course.visit]
    np.testing.assert_allclose(ends, np.broadcast_to(168.0 * np.arange(1, 9)[:, None], ends.shape), rtol=1e-12)


def test_scipy_solves_the_course_that_the_reference_solves(patients):
    task = tasks.first(patients, 2)
    counts, C = with_scipy.one_by_one(task, "Python", "odeint (LSODA)", 1e-8, 1e-8)
    p = jax_parameters(task)
    dose = jnp.full((tasks.DAYS, 2), tasks.DOSE_MG)
    found = reference.solve(p, reference.days(p, dose, jnp.asarray(task.omega)), model.DYNAMIC, "explicit", 1e-8, 1e-12)
    weekly = jax.tree.map(lambda x: x[21::21], found.states)
    np.testing.assert_allclose(counts, weekly.platelets_1e9_per_l, rtol=1e-5)
    np.testing.assert_allclose(C, model.free_concentration_nM(weekly, p), rtol=1e-5)


def test_errors_take_a_lost_patient_for_infinitely_wrong(patients):
    truth = np.ones((tasks.WEEKS, 2))
    task = patients._replace(counts=truth, concentration_nM=truth)
    counts = np.full((tasks.WEEKS, N), 1.5)
    counts[3, 1] = np.nan
    of_counts, _ = tasks.errors(task, counts, np.ones((tasks.WEEKS, N)))
    assert of_counts.shape == (tasks.WEEKS, 2) and np.isinf(of_counts[3, 1]) and (of_counts[:, 0] == 0.5).all()


def test_records_are_written_with_the_keys_that_readers_expect(tmp_path):
    record = Record("pkpd", "cpu", 2, "float32", 8, 100.0, 1e-5, 1e-3, 2e-3, 3.0, jax.__version__)
    write(tmp_path / "records.json", [record, record._replace(system="diffrax", error_median=None)])
    found = json.loads((tmp_path / "records.json").read_text())
    keys = {
        "system", "device", "cores", "precision", "patients", "patients_per_second", "error_median", "error_p999",
        "error_max", "seconds_compile", "jax_version",
    }  # fmt: skip
    assert [set(r) for r in found] == [keys, keys] and found[0]["cores"] == 2 and found[1]["error_median"] is None
