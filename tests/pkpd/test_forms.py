"""The quasi-steady form of signalling: solved the same by both solvers, and how far it lies from the dynamic one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from pkpd import model, signalling
from pkpd.case import Case, DailyDoses
from pkpd.model import Form
from pkpd.profile import run_case

DYNAMIC, QUASI_STEADY = (Form(signalling=name, hill_is_one=False) for name in ("dynamic", "quasi-steady"))
PATHWAYS = ["pstat3", "pstat5", "pakt", "perk", "socs"]


def run(mg: float, times_h, form: Form, solver: str = "fast", **parameters) -> pd.DataFrame:
    days = int(times_h[-1] // 24)
    return run_case(
        Case("hetrombopag", tuple(float(t) for t in times_h), (DailyDoses(0, days, mg),), parameters), solver, form
    )


def test_both_solvers_solve_the_quasi_steady_form():
    times = [0, 0.5, 2, 6, 24, 30, 48, 72, 96]
    a, b = (run(7.5, times, QUASI_STEADY, solver).to_numpy() for solver in ("fast", "reference"))
    assert (np.abs(a - b).max(axis=0) <= 1e-4 * np.abs(b).max(axis=0)).all()


def test_quasi_steady_pathways_are_at_equilibrium_with_drug_and_tpo():
    found = run(7.5, [3, 9, 24], QUASI_STEADY)
    p = Case("hetrombopag", (0.0,), (), {}).patient(jnp.float64)
    at = {name: jnp.asarray(found[name]) for name in found.columns}
    active = signalling.active_fraction(at["tpo_relative"], at["free_concentration_nM"], p)
    x, socs = signalling.quasi_steady(active, model.baseline(p)[0].pathways.stat5, p)
    for name, expected in zip(PATHWAYS, (*x, socs), strict=True):
        # the engine's drive uses the TPO it expects at the end of a step
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


@pytest.mark.parametrize("mg", [2.5, 5.0, 7.5])
def test_at_clinical_doses_the_forms_differ_by_less_than_1_percent_in_the_count(mg):
    """What delays of hours in signalling do to a count that moves over days."""
    visits = 168.0 * np.arange(1, 9)
    dynamic, quasi = (run(mg, visits, form)["platelets_1e9_per_l"].to_numpy() for form in (DYNAMIC, QUASI_STEADY))
    difference = quasi / dynamic - 1
    print(f"\n{mg} mg: quasi-steady over dynamic - 1 at the visits:", difference.round(4))
    assert 0 < np.abs(difference).max() < 0.01


def test_ever_faster_pathways_make_the_forms_one():
    """Stiff: rates of 1,000 per hour, with the implicit solver."""
    quick = {f"rate_{name}_per_h": 1000.0 for name in ("stat3", "stat5", "akt", "erk")} | {"socs_rate_per_h": 1000.0}
    times = [4, 24, 48]
    dynamic, quasi = (
        run(5.0, times, form, "reference", **quick)["platelets_1e9_per_l"] for form in (DYNAMIC, QUASI_STEADY)
    )
    slow = run(5.0, times, DYNAMIC, "reference")["platelets_1e9_per_l"]
    assert np.abs(dynamic / quasi - 1).max() < 0.03 * np.abs(slow / quasi - 1).max()
