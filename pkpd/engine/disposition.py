"""Drug and target over one step: linear part exact in its two modes, binding implicit in closed form.

With total concentration u = A_c/V, c = A_p/Vp and bound drug X = RC = u - C, the equations of design 2.1 are
linear in (u, c, R) with X as their only nonlinear drive:

    u' = input/V - (k10 + k12) u + k12 c + (k10 + k12 - kint) X
    c' = k21 (u - c) - k21 X
    R' = kdeg (R0 - R) + (kdeg - kint) X

(u, c) is split into its two modes, so three scalar relaxations share one drive. A step takes X linear in time up
to its middle, then a parabola through start, middle and end; X at the new time enters linearly, so quasi-steady
binding X (Kss + u - X) = R (u - X) is one quadratic in X: no iteration, and no limit on the step.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pkpd.engine.fusion import once
from pkpd.engine.relaxation import phi
from pkpd.parameters import Parameters


class Modes(NamedTuple):
    """Eigen-decomposition of the linear two-compartment part; patients last."""

    rate: tuple[Array, Array]  # 1/h, fast and slow
    peripheral: tuple[Array, Array]  # c in units of u carried by each mode
    from_input: tuple[Array, Array]  # share of an input into u that enters each mode
    from_bound: tuple[Array, Array]  # drive of each mode per unit of X, 1/h


class Drug(NamedTuple):
    """Disposition of a patient as the fast engine carries it."""

    depot_nmol: Array
    mode_1: Array
    mode_2: Array
    target_nM: Array
    bound_nM: Array


class Linear(NamedTuple):
    """Weights of one scalar relaxation y' = -k y + g X over half and the whole of a step."""

    half: tuple[Array, Array, Array]  # y, X_start, X_middle
    full: tuple[Array, Array, Array, Array]  # y, X_start, X_middle, X_end


class Absorption(NamedTuple):
    """Response to the depot (nmol at the start of the step) over half and the whole of a step."""

    half: tuple[Array, Array]  # nM in modes 1 and 2 per nmol
    full: tuple[Array, Array]
    left: Array  # share of the depot left at the end


class Coefficients(NamedTuple):
    mode_1: Linear
    mode_2: Linear
    target: Linear
    target_input: tuple[Array, Array]  # nM of R made from R0 over half and the whole of the step
    kss_nM: Array


def modes(p: Parameters) -> Modes:
    """The two modes of the linear part, in forms that do not cancel."""
    k10 = p.clearance_l_per_h / p.central_volume_l
    k12 = p.intercompartmental_clearance_l_per_h / p.central_volume_l
    k21 = p.intercompartmental_clearance_l_per_h / p.peripheral_volume_l
    d = k10 + k12 - k21
    root = jnp.sqrt(d * d + 4 * k12 * k21)
    excess = jnp.where(d > 0, (jnp.abs(d) + root) / 2, 2 * k12 * k21 / (jnp.abs(d) + root))  # fast rate - k21
    fast = excess + k21
    slow = k10 * k21 / fast
    r1, r2 = -k21 / excess, excess / k12
    share_1, share_2 = r2 / (r2 - r1), -r1 / (r2 - r1)
    g_u, g_c = k10 + k12 - p.complex_internalisation_per_h, -k21
    per_c = 1 / (r2 - r1)
    return Modes(
        (fast, slow),
        (r1, r2),
        (share_1, share_2),
        (share_1 * g_u - per_c * g_c, share_2 * g_u + per_c * g_c),
    )


def _linear(rate: Array, drive: Array, h: Array) -> Linear:
    z = rate * h
    f1, f2, f3 = phi(z)
    g1, g2, _ = phi(z / 2)
    return Linear(
        half=(jnp.exp(-z / 2), drive * h / 2 * (g1 - g2), drive * h / 2 * g2),
        full=(
            jnp.exp(-z),
            drive * h * (f1 - 3 * f2 + 4 * f3),
            drive * h * (4 * f2 - 8 * f3),
            drive * h * (4 * f3 - f2),
        ),
    )


def coefficients(p: Parameters, m: Modes, h: Array) -> Coefficients:
    """Weights of the linear parts for a step of ``h`` hours."""
    kdeg, R0 = p.target_degradation_per_h, p.target_baseline_nM
    return Coefficients(
        _linear(m.rate[0], m.from_bound[0], h),
        _linear(m.rate[1], m.from_bound[1], h),
        _linear(kdeg, kdeg - p.complex_internalisation_per_h, h),
        (-R0 * jnp.expm1(-kdeg * h / 2), -R0 * jnp.expm1(-kdeg * h)),
        p.quasi_steady_state_constant_nM,
    )


def absorption(p: Parameters, m: Modes, ka_per_h: Array, h: Array) -> Absorption:
    """Exact response of both modes to first-order absorption over half and the whole of a step."""

    def response(i: int, t: Array) -> Array:
        apart = jnp.abs(m.rate[i] - ka_per_h) * t
        both = jnp.exp(-jnp.minimum(m.rate[i], ka_per_h) * t) * t * phi(apart)[0]
        return m.from_input[i] * ka_per_h / p.central_volume_l * both

    return Absorption(
        (response(0, h / 2), response(1, h / 2)), (response(0, h), response(1, h)), jnp.exp(-ka_per_h * h)
    )


def to_modes(total_nM: Array, peripheral_nM: Array, m: Modes) -> tuple[Array, Array]:
    r1, r2 = m.peripheral
    mode_2 = (peripheral_nM - r1 * total_nM) / (r2 - r1)
    return total_nM - mode_2, mode_2


def bound(alpha: Array, beta: Array, a_R: Array, b_R: Array, kss: Array) -> Array:
    """X that solves X (Kss + C) = R C with C = alpha - beta X and R = a_R + b_R X (smaller root)."""
    alpha, a_R = (jnp.where(x < 0, 0, x) for x in (alpha, a_R))  # maximum would halve the derivative at 0
    p, q = alpha * (1 - b_R), a_R * beta
    root = jnp.sqrt((p - q) ** 2 + kss * (kss + 2 * (p + q)))
    return 2 * a_R * alpha / (kss + p + q + root)


def step(k: Coefficients, a: Absorption, d: Drug, true: Array) -> tuple[Drug, Array, Array]:
    """One step. Returns the new state and free concentration (nM) at the middle and at the end."""
    X = d.bound_nM

    (e1, s1, m1), (e2, s2, m2), (eR, sR, mR) = k.mode_1.half, k.mode_2.half, k.target.half
    a1 = e1 * d.mode_1 + s1 * X + a.half[0] * d.depot_nmol
    a2 = e2 * d.mode_2 + s2 * X + a.half[1] * d.depot_nmol
    aR = eR * d.target_nM + sR * X + k.target_input[0]
    alpha, beta = a1 + a2, 1 - (m1 + m2)
    alpha, Xm = once((alpha, bound(alpha, beta, aR, mR, k.kss_nM)), true)
    Cm = alpha - beta * Xm

    (e1, s1, m1, n1), (e2, s2, m2, n2), (eR, sR, mR, nR) = k.mode_1.full, k.mode_2.full, k.target.full
    a1 = e1 * d.mode_1 + s1 * X + m1 * Xm + a.full[0] * d.depot_nmol
    a2 = e2 * d.mode_2 + s2 * X + m2 * Xm + a.full[1] * d.depot_nmol
    aR = eR * d.target_nM + sR * X + mR * Xm + k.target_input[1]
    alpha, beta = a1 + a2, 1 - (n1 + n2)
    a1, a2, aR, alpha = once((a1, a2, aR, alpha), true)
    Xe = once(bound(alpha, beta, aR, nR, k.kss_nM), true)
    new = Drug(a.left * d.depot_nmol, a1 + n1 * Xe, a2 + n2 * Xe, aR + nR * Xe, Xe)
    return new, Cm, alpha - beta * Xe
