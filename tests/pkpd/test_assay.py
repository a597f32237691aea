"""Cells in a dish: closed forms, accuracy over time, potency, and the two EC50s side by side."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from pkpd import assay, signalling
from pkpd.errors import InputError
from pkpd.parameters import load_library

TPO = np.array([[0.0], [0.3], [1.0], [8.0]])


@pytest.fixture(scope="module")
def p():
    return load_library().parameters(jnp.float64)


@pytest.fixture(scope="module")
def levels(p):
    return float(p.receptor_ec50_nM) * np.concatenate([[0.0], np.logspace(-3, 3, 37)])


def test_receptors_alone_have_the_ec50_of_the_library(p, levels):
    active = assay.time_course([1.0], 0.0, levels, p).active_receptors[0]
    c, ec50 = levels, float(p.receptor_ec50_nM)
    np.testing.assert_allclose(active, float(p.dimer_efficacy) * c / (ec50 + c), rtol=1e-13)
    found = assay.potency(levels, active)
    assert found.ec50_nM == pytest.approx(ec50, rel=1e-8)
    assert found.hill_slope == pytest.approx(1.0, rel=1e-8)
    assert found.top == pytest.approx(float(p.dimer_efficacy), rel=1e-8)


def test_drug_and_tpo_add_as_independent_causes(p, levels):
    both = assay.active_receptors(TPO, levels, p)
    drug, tpo = assay.active_receptors(0.0, levels, p), assay.active_receptors(TPO, 0.0, p)
    np.testing.assert_allclose(both, tpo + drug - tpo * drug, rtol=1e-14)
    assert np.all(both > np.maximum(tpo, drug) - 1e-15)


def test_hours_later_the_cells_rest_where_the_closed_form_says(p, levels):
    late = assay.time_course([500.0], TPO, levels, p)
    active = assay.active_receptors(TPO, levels, p)
    zero = jnp.zeros(())
    healthy = signalling.equilibrium(signalling.active_fraction(zero + 1, zero, p), p).stat5
    x, socs = signalling.quasi_steady(active, healthy, p)
    for name in signalling.Pathways._fields:
        np.testing.assert_allclose(getattr(late, name)[0], getattr(x, name), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(x.stat5, signalling.equilibrium(signalling.jak2_activity(active, socs, p), p).stat5)
    for late_leaf, leaf in zip(late, assay.at_rest(TPO, levels, p), strict=True):
        np.testing.assert_allclose(late_leaf[0], leaf, rtol=1e-10, atol=1e-13)


def test_over_time_as_a_stiff_solver_says(p):
    from scipy.integrate import solve_ivp

    tpo, c, hours = 1.0, float(p.receptor_ec50_nM), np.array([0.0, 0.1, 0.5, 1.0, 4.0, 24.0])
    active = float(assay.active_receptors(tpo, c, p))
    before = float(assay.active_receptors(tpo, 0.0, p))
    kappa, k = np.array(signalling.kappas(p)), np.array(signalling.rates_per_h(p))
    x0 = (1 + kappa) * before / (kappa + before)

    def slope(_, y):
        j = active / (1 + float(p.socs_strength) * (y[4] - 1))
        dx = k * ((1 + kappa) * j / (kappa + j) - y[:4])
        return np.append(dx, float(p.socs_rate_per_h) * (y[1] / x0[1] - y[4]))

    exact = solve_ivp(slope, (0, 24), np.append(x0, 1.0), "Radau", hours, rtol=1e-11, atol=1e-13).y[:4]
    found = assay.time_course(hours, tpo, c, p)
    np.testing.assert_allclose(np.stack(found[1:5]), exact, rtol=2e-8)
    assert found.stat3.dtype == np.float64


def test_a_finer_step_changes_nothing(p, levels):
    hours = [0.25, 1.0, 3.0]
    coarse, fine = (assay.time_course(hours, TPO, levels, p, step=s) for s in (assay.STEP, assay.STEP / 8))
    for a, b in zip(coarse, fine, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)


def test_an_hour_is_not_rest(p, levels):
    early, late = assay.time_course([0.25], 1.0, levels, p), assay.at_rest(1.0, levels, p)
    assert abs(np.asarray(early.stat3[0] - late.stat3)).max() > 0.05


def test_without_receptor_nothing_happens(p, levels):
    silent = assay.time_course([0.0, 0.5, 10.0], TPO, levels, p, receptor=False)
    for name, leaf in silent._asdict().items():
        assert np.all(leaf == (1.0 if name in signalling.Factors._fields else 0.0)), name
    assert all(np.isnan(assay.potency(levels, silent.stat5[2, 1])[2:]))


def test_without_drug_nothing_moves(p):
    still = assay.time_course([0.0, 1.0, 100.0], TPO[:, 0], 0.0, p)
    for leaf in still:
        np.testing.assert_allclose(leaf, np.broadcast_to(leaf[0], leaf.shape), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.stack(still[5:]), 1.0, rtol=1e-12)


@pytest.mark.parametrize("hours", [0.1, 1.0, 6.0, 100.0])
def test_more_drug_does_more(p, levels, hours):
    for leaf in assay.time_course([hours], TPO, levels, p):
        assert np.all(np.diff(leaf[0], axis=-1) > 0)


def test_potency_finds_a_hill_curve_again():
    c = np.concatenate([[0.0], np.logspace(-2, 4, 61)])
    found = assay.potency(c, 3.0 - 2.0 * c**1.7 / (12.0**1.7 + c**1.7))
    np.testing.assert_allclose(found, (3.0, 1.0, 12.0, 1.7, 0.0), rtol=1e-6, atol=1e-9)


def test_many_curves_at_once_have_the_ec50s_of_each(p):
    """SciPy's fit of one curve is the oracle; the curves rise, fall, or do not move."""
    names = ("receptor_ec50_nM", "kappa_stat3", "kappa_stat5", "socs_strength", "dimer_efficacy", "max_stimulation")
    spread = np.exp(0.4 * np.random.default_rng(1).normal(size=(len(names), 30, 1)))
    drawn = {name: float(getattr(p, name)) * s for name, s in zip(names, spread, strict=True)}
    drawn["dimer_efficacy"] = np.minimum(drawn["dimer_efficacy"], 1.0)
    cells = type(p)(*(jnp.broadcast_to(jnp.asarray(leaf), (30, 1)) for leaf in (p._asdict() | drawn).values()))
    c = np.asarray(cells.receptor_ec50_nM) * np.concatenate([[0.0], np.logspace(-3, 3, 73)])
    grown = np.asarray(assay.at_rest(0.0, c, cells).proliferation)
    curves = np.stack([grown, 5 - grown, np.ones_like(grown)])
    expected = [[assay.potency(level, y).ec50_nM for level, y in zip(c, ys, strict=True)] for ys in curves]
    np.testing.assert_allclose(assay.ec50s(c, curves), expected, rtol=1e-7)
    assert np.isnan(expected[2]).all()


def test_many_cells_at_once_do_what_each_does(p, levels):
    ec50, rate = np.array([9.0, 27.0, 60.0]), np.array([1.0, 2.0, 3.0])
    cells = type(p)(*(jnp.broadcast_to(leaf, (3, 1, 1)) for leaf in p))
    cells = cells._replace(
        receptor_ec50_nM=jnp.asarray(ec50)[:, None, None], rate_stat5_per_h=jnp.asarray(rate)[:, None, None]
    )
    both = assay.time_course([0.5, 2.0], TPO, levels, cells)
    assert both.stat5.shape == (2, 3, len(TPO), len(levels))
    for i in range(3):
        one = p._replace(receptor_ec50_nM=jnp.asarray(ec50[i]), rate_stat5_per_h=jnp.asarray(rate[i]))
        for many, leaf in zip(both, assay.time_course([0.5, 2.0], TPO, levels, one), strict=True):
            np.testing.assert_allclose(many[:, i], leaf, rtol=1e-7, atol=1e-8)


def test_both_ec50s_stand_side_by_side(p):
    table = assay.comparison(load_library(), p, 6.0)
    assert table["EC50_nM"][0] == 0.4 == assay.in_vitro_ec50("hetrombopag")["value"]
    assert table["status"][0] == "secondary"
    assert table["EC50_nM"][1] == load_library().value("receptor_ec50_nM")
    np.testing.assert_allclose(table["ratio_to_in_vitro"], [1.0, table["EC50_nM"][1] / 0.4, 15.0])
    assert "protein" in table["reason"][1] and "not a plasma EC50" in table["reason"][1]
    assert table[["lower_nM", "upper_nM", "ratio_lower", "ratio_upper"]].isna().all(axis=None)
    assert assay.in_vitro_ec50("eltrombopag")["value"] == 13.4


def test_draws_of_an_ec50_stand_as_median_and_interval(p):
    own = np.linspace(10.0, 50.0, 401)
    draws = type(p)(*(np.broadcast_to(leaf, own.shape) for leaf in p))._replace(receptor_ec50_nM=own)
    table = assay.comparison(load_library(), draws, own / 4, "somewhere").iloc[1:]
    np.testing.assert_allclose(table[["lower_nM", "EC50_nM", "upper_nM"]], [[11, 30, 49], [2.75, 7.5, 12.25]])
    np.testing.assert_allclose(table[["ratio_lower", "ratio_to_in_vitro", "ratio_upper"]].iloc[0], [27.5, 75, 122.5])
    assert set(table["status"]) == {"derived"} and set(table["source"]) == {"somewhere"}
    fixed = assay.comparison(load_library(), draws._replace(receptor_ec50_nM=0 * own + 27), own / 4, "somewhere")
    assert np.isnan(fixed["lower_nM"][1]) and fixed["status"][1] == "assumed" and fixed["source"][2] == "somewhere"


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda p: assay.time_course([-1.0], 1.0, 1.0, p), "hours = -1"),
        (lambda p: assay.time_course([2.0, 1.0], 1.0, 1.0, p), "increasing order"),
        (lambda p: assay.time_course([1.0], np.nan, 1.0, p), "TPO = nan"),
        (lambda p: assay.time_course([1.0], 1.0, [1.0, -2.0], p), "concentration = -2"),
        (lambda p: assay.in_vitro_ec50("aspirin"), "aspirin"),
    ],
)
def test_bad_input_is_named(p, call, named):
    with pytest.raises(InputError, match=named):
        call(p)
