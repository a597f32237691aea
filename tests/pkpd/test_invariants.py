"""What must hold whatever the numbers: bounds, limits, symmetries, weights of the integrators."""

from __future__ import annotations

from functools import partial
from math import factorial

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq

from pkpd import pharmacokinetics, signalling, thrombopoiesis
from pkpd.case import Case, DailyDoses
from pkpd.engine import disposition, fast, grid, interval, relaxation
from pkpd.model import DYNAMIC, steady_state
from pkpd.parameters import Parameters, load_library
from pkpd.profile import run_case

example = settings(deadline=None, max_examples=50, derandomize=True)
few = settings(deadline=None, max_examples=15, derandomize=True)


def positive(low: float, high: float):
    """Floats spread evenly over decades."""
    return st.floats(np.log10(low), np.log10(high)).map(lambda x: 10.0**x)


def typical(**values) -> Parameters:
    return load_library().parameters(jnp.float64, **values)


# Layer 1


@example
@given(positive(1e-6, 1e6), positive(1e-6, 1e6) | st.just(0.0), positive(1e-6, 1e12))
def test_free_concentration_is_the_root_of_binding(total, target, kss):
    exact = brentq(lambda C: C + target * C / (kss + C) - total, 0, total, xtol=1e-300, rtol=1e-14)
    for dtype, tolerance in ((jnp.float64, 1e-9), (jnp.float32, 2e-4)):
        C = float(pharmacokinetics.free_concentration(*(jnp.asarray(x, dtype) for x in (total, target, kss))))
        # where nearly all is bound, C hangs on the difference of total and target: that is the problem's own condition
        condition = max(1.0, abs(total - target) and (total + target + kss) / (abs(total - target - kss) + kss))
        assert C == pytest.approx(exact, rel=tolerance * condition)
        assert 0 <= C <= total * (1 + 1e-6)


@few
@given(positive(0.1, 1e3), st.floats(0.1, 10))
def test_without_a_target_amounts_scale_with_the_dose(mg, factor):
    one, more = (course([3, 30, 70], mg * f, target_baseline_nM=0.0) for f in (1, factor))
    for name in ("depot_nmol", "central_nmol", "peripheral_nmol", "free_concentration_nM"):
        np.testing.assert_allclose(more[name], factor * one[name], rtol=1e-9)


def course(times_h, mg: float, first_day: int = 0, **parameters):
    doses = (DailyDoses(first_day, first_day + 1, mg),)
    return run_case(Case("hetrombopag", tuple(float(t) for t in times_h), doses, parameters))


@few
@given(st.integers(1, 8), positive(1, 40))
def test_a_course_does_not_know_the_date(first_day, mg):
    """At rest until the first dose, so a later start only shifts the course."""
    times = np.array([0.0, 2, 24, 60, 96])
    now = course(times, mg)
    later = course(times + 24 * first_day, mg, first_day)
    np.testing.assert_allclose(later.iloc[:, 1:], now.iloc[:, 1:], rtol=1e-8, atol=1e-9)


def test_more_drug_means_more_of_everything():
    doses = np.linspace(0, 60, 25)
    found = np.stack([course([6, 40, 200], mg).iloc[:, 1:].to_numpy() for mg in doses])
    names = list(course([6], 1.0).columns[1:])
    for name in ("central_nmol", "peripheral_nmol", "free_concentration_nM", "pstat5", "perk", "mk1"):
        assert (np.diff(found[:, :2, names.index(name)], axis=0) > 0).all(), name
    assert (np.diff(found[:, 2, names.index("platelets_1e9_per_l")], axis=0) > 0).all()
    assert (np.diff(found[:, 2, names.index("tpo_relative")], axis=0) < 0).all(), "more platelets take up more TPO"


# Layer 2


@example
@given(positive(1e-3, 1e3), positive(1e-6, 1e6) | st.just(0.0), st.floats(0.5, 4), positive(0.05, 20))
def test_the_receptor_adds_independent_causes_and_every_pathway_stays_on_its_scale(tpo, C, n, kappa):
    p = typical(dimer_hill=n, kappa_stat3=kappa)
    both, tpo_alone, drug_alone = (float(signalling.active_fraction(*tc, p)) for tc in ((tpo, C), (tpo, 0.0), (0.0, C)))
    assert 0 <= max(tpo_alone, drug_alone) <= both < 1
    assert 1 - both == pytest.approx((1 - tpo_alone) * (1 - drug_alone), abs=1e-12)
    x5_0 = signalling.equilibrium(jnp.asarray(tpo_alone), p).stat5
    x, socs = signalling.quasi_steady(jnp.asarray(both), x5_0, p)
    assert all(0 <= float(xi) < 1.1 for xi in x), "SOCS can only raise JAK2 where it fell below its baseline"
    j = signalling.jak2_activity(both, socs, p)
    for at_rest, xi in zip(signalling.equilibrium(j, p), x, strict=True):
        assert float(xi) == pytest.approx(float(at_rest), rel=1e-9)
    assert float(socs) == pytest.approx(float(x.stat5 / x5_0), rel=1e-9)


@example
@given(positive(0.1, 100), st.floats(-3, 3))
def test_a_factor_is_positive_smooth_at_0_and_rises(gain, s):
    F = partial(signalling.stimulus, jnp.asarray(gain))
    assert float(F(jnp.asarray(s))) > 0
    assert float(F(jnp.asarray(s + 1e-3))) > float(F(jnp.asarray(s)))
    assert float(F(jnp.asarray(0.0))) == 1
    left, right = (float(jax.grad(F)(jnp.asarray(at))) for at in (-1e-12, 1e-12))
    assert left == pytest.approx(right, rel=1e-9)


def test_at_rest_every_factor_is_1_and_fully_on_they_multiply_to_f():
    p = typical()
    tau = jnp.asarray(0.3)
    x0 = signalling.equilibrium(tau, p)
    gain = signalling.gains(p)
    assert [float(f) for f in signalling.factors(x0, x0, gain, p)] == [1, 1, 1]
    on = signalling.factors(signalling.Pathways(*(jnp.ones(()) for _ in x0)), x0, gain, p)
    assert float(on.proliferation * on.survival * on.maturation) == pytest.approx(1 + float(p.max_stimulation))


# Layer 3


@example
@given(positive(0.5, 400), positive(0.05, 5), positive(2, 200))
def test_the_baseline_count_is_kept_whatever_the_production(P0, r0, Kim):
    p = typical(baseline_platelets_1e9_per_l=P0, production_1e9_per_l_per_h=r0, immune_half_saturation_1e9_per_l=Kim)
    m, t = thrombopoiesis.steady_state(p), thrombopoiesis.turnover(p)
    assert float(t.immune_capacity) >= 0 and float(t.production) >= float(p.senescence_per_h) * P0 * (1 - 1e-12)
    one = jnp.ones(())
    change = thrombopoiesis.rates(m, signalling.Factors(one, one, one), t, jnp.zeros(()), p)
    assert all(abs(float(c)) < 1e-10 * float(t.production) for c in change[:6])
    more = thrombopoiesis.rates(m, signalling.Factors(one, one, one), t, jnp.asarray(0.5), p)
    assert float(more.platelets_1e9_per_l) <= float(change.platelets_1e9_per_l)


# The steps of the fast engine


@example
@given(positive(1e-9, 1e4) | st.just(0.0))
def test_phi_functions(z):
    split = [max(0.0, 1 - 50 / z)] if z > 100 else None
    for j, found in enumerate(relaxation.phi(jnp.asarray(z), 5), start=1):

        def kernel(s, j=j):
            return np.exp(-z * (1 - s)) * s ** (j - 1) / factorial(j - 1)

        exact, _ = quad(kernel, 0, 1, epsabs=1e-14, limit=200, points=split)
        assert float(found) == pytest.approx(exact, rel=1e-9)
    for a, b in zip(relaxation.phi(jnp.float32(z), 5), relaxation.phi(jnp.asarray(z), 5), strict=True):
        assert float(a) == pytest.approx(float(b), rel=5e-6)


@example
@given(
    positive(1e-3, 100), positive(1e-3, 24), st.lists(st.floats(-2, 2), min_size=4, max_size=4), st.floats(0, 3),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_relaxation_is_exact_for_a_polynomial_drive(k, h, powers, y0, cubic, zero_at_rest):
    """At the end; and the middle gives the exact mean by Simpson's rule. Exact: its integral, by quadrature."""
    nodes = disposition.NODES if cubic else relaxation.PARABOLA
    a, z = np.array(powers) * (1, 1, 1, cubic), k * h
    split = [max(0.0, 1 - 50 / z)] if z > 100 else None

    def integral(kernel):
        return quad(lambda s: kernel(1 - s) * np.polyval(a[::-1], s), 0, 1, epsabs=1e-13, limit=200, points=split)[0]

    end = y0 * np.exp(-z) + integral(lambda left: z * np.exp(-z * left))
    mean = -y0 * np.expm1(-z) / z + integral(lambda left: -np.expm1(-z * left))
    w = relaxation.weights(jnp.asarray(k), jnp.asarray(h), nodes, zero_at_rest)
    assert float(sum(w.end)) == pytest.approx(-np.expm1(-z), abs=1e-12)
    found = relaxation.relax(w, y0, *(np.polyval(a[::-1], node) for node in nodes))
    assert float(found[1]) == pytest.approx(end, abs=1e-10)
    assert float(y0 + 4 * found[0] + found[1]) / 6 == pytest.approx(mean, abs=1e-10)


@example
@given(positive(1e-3, 100), positive(1e-3, 24), st.floats(-2, 2), st.floats(-2, 2))
def test_relaxation_towards_a_constant_is_that_of_a_constant_drive(k, h, y0, drive):
    w = relaxation.weights(jnp.asarray(k), jnp.asarray(h), disposition.NODES, zero_at_rest=True)
    for one, other in zip(relaxation.towards(w, y0, drive), relaxation.relax(w, y0, *[drive] * 4), strict=True):
        assert float(one) == pytest.approx(float(other), abs=1e-12)


@example
@given(positive(1e-3, 100), positive(1e-3, 24), positive(1e-3, 3))
def test_rest_is_kept_to_the_last_bit(k, h, y):
    w = relaxation.weights(jnp.float32(k), jnp.float32(h))
    y = jnp.float32(y)
    assert all(float(found) == float(y) for found in relaxation.relax(w, y, y, y, y))


def test_the_middle_of_known_values_has_their_mean():
    values = np.polyval([2.0, -1.0, 0.5, 3.0], disposition.NODES)
    middle = relaxation.middle(values, disposition.NODES)
    assert (values[0] + 4 * middle + values[-1]) / 6 == pytest.approx(2 / 4 - 1 / 3 + 0.5 / 2 + 3)


@example
@given(positive(1e-6, 1e6), st.floats(0, 1), positive(1e-3, 1e6), st.floats(-0.5, 0.9), positive(1e-3, 1e4))
def test_implicit_binding_solves_its_equation(alpha, beta, a_R, b_R, kss):
    """X (Kss + C) = R C with C = alpha - beta X, R = a_R + b_R X; neither drug nor target is overdrawn."""
    X = float(disposition.bound(*(jnp.asarray(x) for x in (alpha, beta, a_R, b_R, kss))))
    C, R = alpha - beta * X, a_R + b_R * X
    assert X >= 0 and C >= -1e-9 * alpha
    assert X * (kss + C) == pytest.approx(R * C, rel=1e-6, abs=1e-9 * (alpha * a_R + kss * alpha))


@partial(jax.jit, static_argnames="n_steps")
def one_day(p: Parameters, dose_nmol, omega, n_steps: int):
    """One day in ``n_steps`` equal steps with a dose at its start, whatever that does to accuracy."""
    c = fast.course(p)
    s = steady_state(p)[0]
    ka = jnp.stack([p.absorption_rate_first_per_h] * n_steps)
    k = fast.steps(c, jnp.full(n_steps, 24.0 / n_steps, omega.dtype), ka, ka)
    arrival = jnp.zeros(n_steps, omega.dtype).at[0].set(1)

    def step(y, row):
        return interval.one_step(y, c, *row, dose_nmol, omega, DYNAMIC), None

    return fast.state(jax.lax.scan(step, fast.carry(s, c, DYNAMIC), (k, arrival))[0], c)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_no_step_is_too_long(n_steps):
    """Even one step a day keeps every state of every patient of the box finite, non-negative and on its scale."""
    patients = drawn.cast(drawn.box(4096, seed=7), jnp.float32)
    for mg, omega in ((0.0, 3.0), (7.5, -3.0), (500.0, 3.0)):
        p = patients.parameters
        dose = drawn.to_nmol(jnp.full(4096, mg, jnp.float32), p)
        s = one_day(p, dose, jnp.full(4096, omega, jnp.float32), n_steps)
        for name, column in zip(s._fields, s, strict=True):
            smallest = 0 if name != "peripheral_nmol" else -1e-3 * (1 + mg)  # two modes of opposite sign
            assert np.isfinite(column).all() and (np.asarray(column) >= smallest).all(), (name, mg, n_steps)
        assert (np.asarray(s.platelets_1e9_per_l) > 0).all() and (np.asarray(s.tpo_relative) > 0).all()
        for x in s[4:8]:
            assert np.asarray(x).max() < 1.5


def test_every_effect_of_a_weeks_course_stays_on_its_scale():
    patients = drawn.cast(drawn.box(2048, seed=8), jnp.float32)
    p = patients.parameters
    c = fast.course(p)
    k = fast.steps(c, *grid.day(p)[:3])
    arrival, dose = grid.day(p)[3], drawn.to_nmol(jnp.full(2048, 40.0, jnp.float32), p)
    week = jax.jit(partial(interval.days, form=DYNAMIC))
    y = week(fast.carry(steady_state(p)[0], c, DYNAMIC), c, k, arrival, 0, 7, dose, patients.omega)
    s = fast.state(y, c)
    assert all(np.isfinite(column).all() for column in s)
    assert all((np.asarray(column) >= 0).all() for column in s)
    assert all(np.asarray(x).max() < 1.1 for x in s[4:8])
    most = np.maximum(1, np.asarray(p.target_degradation_per_h / p.complex_internalisation_per_h))
    assert (np.asarray(s.target_nM) <= 1.001 * np.asarray(p.target_baseline_nM) * most).all()
    assert (np.asarray(y.cmax_nM) >= np.asarray(y.concentration_nM)).all() and (np.asarray(y.auc_nM_h) > 0).all()
