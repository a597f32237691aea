"""Courses of the typical patient: published anchors, closed forms of the linear limit, bands over draws."""

from __future__ import annotations

import numpy as np
import pytest

from inference import curves
from pkpd.parameters import load_library

LINEAR = {"target_baseline_nM": 0.0}


@pytest.fixture(scope="module")
def courses():
    return curves.typical_courses(load_library(), {})


@pytest.fixture(scope="module")
def single():
    return curves.single_doses(load_library(disease="healthy"), {})


@pytest.fixture(scope="module")
def linear():
    return curves.single_doses(load_library(disease="healthy", overrides=LINEAR), {})


def test_untitrated_platelets_settle_where_the_design_says(courses):
    at_end = dict(zip(courses.doses_mg, courses.daily["platelets"][:, -1, 1], strict=True))
    assert at_end[2.5] == pytest.approx(54.2, rel=2e-3)
    assert at_end[5.0] == pytest.approx(146.7, rel=2e-3)
    assert at_end[7.5] == pytest.approx(273.4, rel=2e-3)


def test_everything_starts_at_rest(courses):
    start = {name: values[:, 0] for name, values in courses.daily.items()}
    assert np.all(start["concentration"] == 0)
    assert np.all(start["platelets"] == 15)
    for factor in ("proliferation", "survival", "maturation"):
        assert np.all(start[factor] == 1)
    for name, values in courses.dosing_day.items():
        assert np.allclose(values[:, 0, 0], start[name]), "the first dosing day starts where the weeks start"


def test_a_dosing_day_at_steady_state_ends_as_it_began(courses):
    day = courses.dosing_day["concentration"][:, 1, :, 1]
    assert np.allclose(day[:, 0], day[:, -1], rtol=1e-3)
    assert np.allclose(day[:, -1], courses.exposure["trough"][:, 1])
    assert np.all(day.max(1) <= 1.0001 * courses.exposure["cmax"][:, 1])
    assert np.allclose(np.trapezoid(day, courses.hours, axis=1), courses.exposure["auc"][:, 1], rtol=5e-3)


def test_daily_means_lie_within_the_day(courses):
    for name in curves.PATHWAYS:
        day, mean = courses.dosing_day[name][:, 1, :, 1], courses.daily[name][:, -1, 1]
        assert np.all((day.min(1) < mean) & (mean < day.max(1)))
        assert np.allclose(np.trapezoid(day, courses.hours, axis=1) / 24, mean, rtol=2e-3)


def test_exposure_rises_more_than_in_proportion_to_the_dose(single):
    assert single.auc_ratio[1] >= 1.3
    assert single.auc_ratio[1] == pytest.approx(single.auc_per_mg[-1, 1] / single.auc_per_mg[0, 1])
    assert np.all(np.diff(single.auc_per_mg[:, 1]) > 0)
    assert np.allclose(single.half_life_h[:, 1], 25, atol=1)
    assert single.half_life_assay_h[0, 1] < 6 < 20 < single.half_life_assay_h[-1, 1] < 24


def test_without_a_target_clearance_alone_decides(linear):
    library = load_library(disease="healthy")
    assert np.allclose(linear.auc_per_mg[:, 1], 1e3 / library.value("clearance_l_per_h"), rtol=1e-4)
    assert linear.auc_ratio[1] == pytest.approx(1, abs=1e-6)
    assert linear.cmax_ratio[1] == pytest.approx(1, abs=1e-6)
    k10, k12, k21 = (
        library.value(a) / library.value(b)
        for a, b in (
            ("clearance_l_per_h", "central_volume_l"),
            ("intercompartmental_clearance_l_per_h", "central_volume_l"),
            ("intercompartmental_clearance_l_per_h", "peripheral_volume_l"),
        )
    )
    slow = np.linalg.eigvals(np.array([[-k10 - k12, k21], [k12, -k21]])).max()
    assert np.allclose(linear.half_life_h[:, 1], np.log(2) / -slow, rtol=1e-3)


def test_half_life_above_the_limit_of_an_assay():
    hours = np.array([1.0, 2, 4, 8, 16, 32, 64])
    fast, slow = (100 * np.exp(-np.log(2) * hours / h) for h in (4.0, 40.0))
    never = np.full(7, 0.5)
    late = np.array([1.0, 2, 3, 4, 5, 6, 7])  # still rising: no sample after the peak
    found = curves.assay_half_life(hours, np.stack([fast, slow, never, late], axis=1))
    assert found[:2] == pytest.approx([4, 40])
    assert np.isnan(found[2:]).all()


def test_draws_become_bands_and_keep_to_their_dose():
    clearance = np.array([6.0, 7.66, 10.0])
    banded = curves.single_doses(load_library(disease="healthy", overrides=LINEAR), {"clearance_l_per_h": clearance})
    expected = np.quantile(1e3 / clearance, curves.BANDS)
    assert np.allclose(banded.auc_per_mg, expected[None], rtol=1e-3)


def test_a_lag_that_differs_between_draws_is_followed():
    draws = {"lag_time_h": np.array([0.25, 0.5, 1.0])}
    courses = curves.typical_courses(load_library(), draws, doses_mg=(5.0,))
    early = courses.dosing_day["concentration"][0, 0]
    assert np.all(early[1] == 0), "0.25 h after the first dose none has arrived"
    low, middle, high = early[3]
    assert low < 0.1 * middle < 0.1 * high, "at 0.75 h two of three have"


def test_noise_and_variability_do_not_touch_the_typical_patient():
    tiled = curves._parameters(load_library(), {"clearance_l_per_h": np.arange(1.0, 4)}, 2)
    assert tiled.clearance_l_per_h.tolist() == [1, 2, 3, 1, 2, 3]
    p = curves._parameters(
        load_library(), {"residual_log_sd": np.ones(3), "clearance_l_per_h_iiv_log_sd": np.ones(3)}, 2
    )
    assert p.clearance_l_per_h.shape == ()


def test_draws_are_thinned_evenly():
    draws = {"a": np.arange(400.0).reshape(4, 100), "b": -np.arange(400.0).reshape(4, 100)}
    thin = curves.thinned(draws, 5)
    assert thin["a"].tolist() == [0, 99, 199, 299, 399]
    assert np.array_equal(thin["a"], -thin["b"])
    assert len(curves.thinned({"a": np.arange(3.0)}, 5)["a"]) == 3
