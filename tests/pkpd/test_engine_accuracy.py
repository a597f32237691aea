"""The fast engine against the reference solver on titrated dose histories with drift."""

from __future__ import annotations

import drawn
import jax.numpy as jnp
import numpy as np
import pytest

from pkpd.engine import grid, reference
from pkpd.parameters import Parameters

ORDINARY, WORST = 2e-3, 1e-2  # relative error of the count at a visit: 99.9% of visits, any visit


def exact_counts(patients: drawn.Patients, weekly_mg: np.ndarray, rtol: float = 1e-8) -> np.ndarray:
    """Counts at the visits [weeks, patients] by the reference solver, in one piece from day 0 to day 56."""
    p = patients.parameters
    found = reference.solve(
        p,
        reference.days(p, np.repeat(weekly_mg, 7, axis=0), patients.omega),
        method="explicit",
        rtol=rtol,
        atol=1e-4 * rtol,
    )
    assert (np.asarray(found.status) == reference.OK).all()
    return np.asarray(found.states.platelets_1e9_per_l)[21::21]


def relative_error(patients: drawn.Patients, weekly_mg: np.ndarray, exact: np.ndarray, dtype) -> np.ndarray:
    found = drawn.counts("kernel", drawn.cast(patients, dtype), weekly_mg)
    assert np.isfinite(found).all() and (found > 0).all()
    return np.abs(found / exact - 1)


def report(error: np.ndarray, patients: drawn.Patients, weekly_mg: np.ndarray, title: str) -> None:
    """Prints quantiles of the error and the worst patient, for whoever reads the test's output."""
    week, i = np.unravel_index(error.argmax(), error.shape)
    print(f"\n{title}: median {np.median(error):.1e}, 99% {np.quantile(error, 0.99):.1e}, worst {error.max():.1e}")
    varying = ("clearance_l_per_h", "central_volume_l", "target_degradation_per_h", "receptor_ec50_nM")
    varying += ("max_stimulation", "mean_transit_time_h", "production_1e9_per_l_per_h")
    varying += ("immune_half_saturation_1e9_per_l", "baseline_platelets_1e9_per_l")
    at = {name: float(getattr(patients.parameters, name)[i]) for name in varying}
    print(f"worst at week {week + 1}, doses {weekly_mg[:, i]}:", ", ".join(f"{k} {v:.3g}" for k, v in at.items()))


@pytest.fixture(scope="module")
def ordinary():
    return solved(drawn.ordinary(16, seed=11))


def solved(patients: drawn.Patients, rtol: float = 1e-8) -> tuple[drawn.Patients, np.ndarray, np.ndarray]:
    """Patients, their titrated doses, and their counts by the reference solver."""
    weekly_mg = drawn.titrated(patients)
    return patients, weekly_mg, exact_counts(patients, weekly_mg, rtol)


def check_ordinary(patients, weekly_mg, exact) -> None:
    assert len(np.unique(weekly_mg)) == 5, "the histories should visit every level and an interruption"
    for dtype in (jnp.float64, jnp.float32):
        error = relative_error(patients, weekly_mg, exact, dtype)
        report(error, patients, weekly_mg, f"{exact.shape[1]} ordinary patients, {dtype.__name__}")
        assert np.quantile(error, 0.999) < ORDINARY and error.max() < WORST


def check_box(patients, weekly_mg, exact) -> None:
    for dtype in (jnp.float64, jnp.float32):
        error = relative_error(patients, weekly_mg, exact, dtype)  # finite and positive
        report(error, patients, weekly_mg, f"{exact.shape[1]} patients of the +-4 sd box, {dtype.__name__}")
        assert np.median(error) < ORDINARY


def test_ordinary_patients(ordinary):
    check_ordinary(*ordinary)


@pytest.mark.slow
def test_100_ordinary_patients():
    check_ordinary(*solved(drawn.ordinary(100, seed=21)))


def test_every_effect_within_4_sd():
    check_box(*solved(drawn.box(8, seed=12), rtol=1e-6))


@pytest.mark.slow
def test_100_patients_within_4_sd():
    check_box(*solved(drawn.box(100, seed=22)))


def test_many_patients_of_the_box_stay_finite_and_positive():
    for seed in range(2):
        patients = drawn.cast(drawn.box(4096, seed), jnp.float32)
        ladder = np.random.default_rng(seed).choice([0, 2.5, 3.75, 5, 7.5, 75.0], (drawn.WEEKS, 4096))
        found = drawn.counts("kernel", patients, ladder)
        assert np.isfinite(found).all() and (found > 0).all()


def test_the_error_falls_at_least_with_the_square_of_the_step(ordinary):
    patients, weekly_mg, exact = ordinary
    errors = [np.abs(drawn.counts("kernel", patients, weekly_mg, grid.DEFAULT.refined(k)) / exact - 1) for k in (1, 2)]
    assert errors[1].max() < errors[0].max() / 4 and np.median(errors[1]) < np.median(errors[0]) / 4


def test_both_methods_of_the_reference_solver_agree():
    """An implicit and an explicit method that share only the rates, on stiff patients over two days."""
    patients = drawn.box(2, seed=3)
    p = patients.parameters
    segments = reference.days(p, np.full((2, 2), 7.5), patients.omega[:1])
    stiff, explicit = (reference.solve(p, segments, method=m) for m in reference.METHODS)
    assert (np.asarray(stiff.status) == reference.OK).all()
    for name, a, b in zip(stiff.states._fields, stiff.states, explicit.states, strict=True):
        scale = np.abs(np.asarray(b)).max(axis=0)
        assert (np.abs(np.asarray(a) - np.asarray(b)) <= 2e-7 * scale).all(), name


def test_trouble_of_one_patient_is_told_and_the_others_are_solved():
    p = Parameters(*(leaf[:2] for leaf in drawn.ordinary(2, seed=1).parameters))
    p = p._replace(clearance_l_per_h=jnp.asarray([jnp.nan, p.clearance_l_per_h[1]]))
    found = reference.solve(p, reference.days(p, np.full((1, 2), 5.0), np.zeros((1, 2))), method="explicit")
    assert found.status[0] != reference.OK and found.status[1] == reference.OK
    assert np.isfinite(np.asarray(found.states.platelets_1e9_per_l)[:, 1]).all()
