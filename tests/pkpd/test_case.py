"""Cases: what a good one holds; the bad ones are in tests/inference/test_bad_input.py."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from pkpd.case import load_case
from pkpd.parameters import load_library


def case(tmp_path, text: str):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return load_case(path)


def test_days_are_inclusive_and_overlaps_add(tmp_path):
    rows = "".join(
        f"[[daily_doses]]\nfirst_day = {a}\nlast_day = {b}\nmg = {mg}\n" for a, b, mg in ((0, 2, 5), (2, 9, 2.5))
    )
    doses = case(tmp_path, "times_h = [0, 95.5]\n" + rows).dose_by_day_mg()
    np.testing.assert_array_equal(doses, [5, 5, 7.5, 2.5])


def test_a_dose_at_the_last_time_belongs_to_its_day(tmp_path):
    text = "times_h = [24]\n[[daily_doses]]\nfirst_day = 1\nlast_day = 1\nmg = 5\n"
    np.testing.assert_array_equal(case(tmp_path, text).dose_by_day_mg(), [0, 5])


def test_doses_may_be_absent_and_times_may_start_late_and_repeat(tmp_path):
    found = case(tmp_path, "times_h = [30, 30, 48.5]\n")
    assert found.times_h == (30.0, 30.0, 48.5) and not found.dose_by_day_mg().any()


def test_parameters_replace_those_of_the_typical_patient(tmp_path):
    found = case(tmp_path, "times_h = [0]\n[parameters]\nclearance_l_per_h = 9.0\n")
    typical = load_library().parameters(jnp.float32)
    assert found.patient(jnp.float32)._replace(clearance_l_per_h=typical.clearance_l_per_h) == typical
    assert float(found.patient(jnp.float32).clearance_l_per_h) == 9.0


def test_shares_are_checked_after_the_overrides(tmp_path):
    found = case(
        tmp_path,
        "times_h = [0]\n[parameters]\nshare_proliferation = 0.2\nshare_survival = 0.3\nshare_maturation = 0.5\n",
    )
    assert found.parameters["share_maturation"] == pytest.approx(0.5)


def test_another_drug(tmp_path):
    found = case(tmp_path, "times_h = [0]\ndrug = 'eltrombopag'\n")
    assert float(found.patient(jnp.float32).molar_mass_g_per_mol) == pytest.approx(442.47)
