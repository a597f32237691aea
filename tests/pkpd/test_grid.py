"""The rows of steps that days take: no time is lost between readings, whenever these come."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkpd.engine import grid
from pkpd.errors import InputError
from pkpd.parameters import load_library

HOURS, KA, KA_NO_DOSE, ARRIVAL = (np.asarray(x) for x in grid.day(load_library().population(jnp.float64).typical))
LAG = HOURS[0]


def taken(first: int, last: int) -> list[np.ndarray]:
    """Rows of each day from ``first`` up to ``last``."""
    found = []
    for d in range(first, last):
        begins, ends = grid.stretch(d, first, last)
        steps = np.arange(0 if begins else 1, len(HOURS) - 1)
        found.append(np.asarray(grid.row(steps, len(HOURS), ends)))
    return found


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 60), st.integers(1, 40))
def test_steps_fill_the_days_between_readings(first, n_days):
    by_day = taken(first, first + n_days)
    assert np.concatenate([HOURS[rows] for rows in by_day]).sum() == pytest.approx(24 * n_days, rel=1e-5)
    now = 24.0 * first
    for d, rows in zip(range(first, first + n_days), by_day, strict=True):
        for row in rows:
            if ARRIVAL[row]:
                assert now == pytest.approx(24 * d + LAG, abs=1e-3)
            now += HOURS[row]
        assert ARRIVAL[rows].sum() == 1
        if d + 1 == first + n_days or (d + 1) % 7 == 0:  # a reading, or another immune activity
            assert now == pytest.approx(24 * (d + 1), abs=1e-3)


@pytest.mark.parametrize("n_days", [1, 6, 7, 8, 56, 59])
def test_steps_of_a_course_are_counted_as_they_are_taken(n_days):
    weeks = [(first, min(first + 7, n_days)) for first in range(0, n_days, 7)]
    counted = sum(len(rows) for week in weeks for rows in taken(*week))
    assert grid.steps_of(grid.DEFAULT, n_days) == counted


def test_absorption_is_at_its_first_rate_only_between_arrival_and_switch_of_a_dose():
    p = load_library().population(jnp.float64).typical
    first, second = float(p.absorption_rate_first_per_h), float(p.absorption_rate_second_per_h)
    switched = 1 + len(grid.DEFAULT.before_switch)
    np.testing.assert_allclose(KA, [second, *[first] * (switched - 1), *[second] * (len(KA) - switched)])
    np.testing.assert_allclose(KA_NO_DOSE, second)
    assert HOURS[1:switched].sum() == pytest.approx(float(p.absorption_switch_h), rel=1e-6)


def test_an_unknown_accuracy_is_named():
    with pytest.raises(InputError, match=r"accuracy 'hihg'.*high"):
        grid.accuracy("hihg")


def test_a_refined_grid_has_the_same_boundaries_and_more():
    fine = grid.DEFAULT.refined(3)
    for coarse, part in zip(grid.DEFAULT, fine, strict=True):
        np.testing.assert_allclose(np.cumsum(part)[2::3], jnp.cumsum(jnp.asarray(coarse)), rtol=1e-6)
