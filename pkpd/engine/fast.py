"""The fast engine: fixed work a step, no iteration, stable for any step and any patient.

Each step: disposition twice (exact linear part, binding implicit), pathways and megakaryocytes by exponential
relaxation towards a parabolic drive, platelets by an L-stable third-order implicit method whose stages are
quadratics in closed form. Patients are the last axis of every array.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pkpd import signalling, thrombopoiesis
from pkpd.engine import disposition, relaxation
from pkpd.engine.fusion import once
from pkpd.model import Baseline, Form, State, baseline, free_concentration_nM
from pkpd.parameters import Parameters

# Alexander, SIAM J Numer Anal 1977;14:1006: three-stage, third-order, L-stable, stiffly accurate DIRK.
GAMMA = 0.435866521508459
STAGE_2 = (1 + GAMMA) / 2
A_21 = (1 - GAMMA) / 2
B_1 = -(6 * GAMMA**2 - 16 * GAMMA + 1) / 4
B_2 = (6 * GAMMA**2 - 20 * GAMMA + 5) / 4
# Weights of its value half-way: sum b = 1/2, sum b c = 1/8, sum b c^2 = 1/24, so exact for parabolic derivatives.
NODES = np.array([GAMMA, STAGE_2, 1])
MIDDLE = tuple(float(b) for b in np.linalg.solve([NODES**0, NODES, NODES**2], [1 / 2, 1 / 8, 1 / 24]))


class Course(NamedTuple):
    """What stays the same through a patient's whole course."""

    parameters: Parameters
    baseline: Baseline
    modes: disposition.Modes


class Steps(NamedTuple):
    """Coefficients of a sequence of steps; leading axis is the step."""

    hours: Array
    disposition: disposition.Coefficients
    absorption: disposition.Absorption  # with the absorption rate in force after a dose
    no_dose_absorption: disposition.Absorption  # the same step on a day without a dose
    pathways: tuple[relaxation.Weights, ...]
    socs: relaxation.Weights
    transit: relaxation.Weights


class Carry(NamedTuple):
    """State as the engine carries it; ``auc_nM_h`` and ``cmax_nM`` accumulate over an interval."""

    drug: disposition.Drug
    concentration_nM: Array
    pathways: signalling.Pathways
    socs: Array
    cells: thrombopoiesis.Megakaryopoiesis
    factors: signalling.Factors
    auc_nM_h: Array
    cmax_nM: Array


def course(p: Parameters) -> Course:
    return Course(p, baseline(p)[0], disposition.modes(p))


def steps(c: Course, hours: Array, ka_per_h: Array, no_dose_ka_per_h: Array) -> Steps:
    """Coefficients of steps of ``hours`` [steps] with absorption rates, each [steps] or [steps, patients]."""
    return jax.vmap(partial(one_step_coefficients, c))(hours, ka_per_h, no_dose_ka_per_h)


def one_step_coefficients(c: Course, h: Array, ka_per_h: Array, no_dose_ka_per_h: Array) -> Steps:
    """Coefficients of one step of ``h`` hours."""
    p = c.parameters
    return Steps(
        h,
        disposition.coefficients(p, c.modes, h / 2),
        disposition.absorption(p, c.modes, ka_per_h, h / 2),
        disposition.absorption(p, c.modes, no_dose_ka_per_h, h / 2),
        tuple(relaxation.weights(k, h) for k in signalling.rates_per_h(p)),
        relaxation.weights(p.socs_rate_per_h, h),
        relaxation.weights(c.baseline.turnover.ktr_per_h, h),
    )


def carry(s: State, c: Course) -> Carry:
    """Engine state of a model state."""
    p = c.parameters
    u = s.central_nmol / p.central_volume_l
    C = free_concentration_nM(s, p)
    mode_1, mode_2 = disposition.to_modes(u, s.peripheral_nmol / p.peripheral_volume_l, c.modes)
    x = signalling.Pathways(*s[4:8])
    return Carry(
        disposition.Drug(s.depot_nmol, mode_1, mode_2, s.target_nM, u - C),
        C,
        x,
        s.socs,
        thrombopoiesis.Megakaryopoiesis(*s[9:16]),
        signalling.factors(x, c.baseline.pathways, c.baseline.gain, p),
        jnp.zeros_like(C),
        C,
    )


def state(y: Carry, c: Course) -> State:
    """Model state of an engine state."""
    p, d = c.parameters, y.drug
    r1, r2 = c.modes.peripheral
    central = (d.mode_1 + d.mode_2) * p.central_volume_l
    peripheral = (r1 * d.mode_1 + r2 * d.mode_2) * p.peripheral_volume_l
    return State(d.depot_nmol, central, peripheral, d.target_nM, *y.pathways, y.socs, *y.cells)


def _pathways(k: Steps, y: Carry, C: tuple, tau: tuple, c: Course, form: Form, true: Array) -> tuple[Any, Any, Array]:
    """Pathways at the middle and at the end of the step, and SOCS at its end."""
    p, x, x5_0 = c.parameters, y.pathways, c.baseline.pathways.stat5
    hill = p._replace(dimer_hill=1) if form.hill_is_one else p
    if form.signalling == "quasi-steady":
        (x_middle, _), (x_end, socs) = (
            signalling.quasi_steady(signalling.active(tau[i], C[i], hill), x5_0, p) for i in (1, 2)
        )
        return x_middle, x_end, socs
    start, middle, end = (signalling.activation(t, Ci, hill) for t, Ci in zip(tau, C, strict=True))
    drive = signalling.driven(start, y.socs, p)
    # SOCS is predicted with STAT5 on its way to the drive at the start, then corrected with the STAT5 of that SOCS
    stat5_m, stat5_e = relaxation.relax(k.pathways[1], x.stat5, *(drive.stat5,) * 3)
    socs_m, socs_e = relaxation.relax(k.socs, y.socs, x.stat5 / x5_0, stat5_m / x5_0, stat5_e / x5_0)
    ahead = (signalling.driven(at, S, p).stat5 for at, S in ((middle, socs_m), (end, socs_e)))
    stat5_m, stat5_e = relaxation.relax(k.pathways[1], x.stat5, drive.stat5, *ahead)
    socs_m, socs_e = once(relaxation.relax(k.socs, y.socs, x.stat5 / x5_0, stat5_m / x5_0, stat5_e / x5_0), true)
    drives = once((drive, signalling.driven(middle, socs_m, p), signalling.driven(end, socs_e, p)), true)
    moved = [relaxation.relax(k.pathways[i], x[i], *(d[i] for d in drives)) for i in range(4)]
    x_middle, x_end = (signalling.Pathways(*v) for v in zip(*moved, strict=True))
    return x_middle, x_end, socs_e


def _platelets(
    P: Array, made: tuple[Array, Array, Array], h: Array, ksen: Array, v: Array, K: Array, true: Array
) -> tuple[Array, Array]:
    """P' = made(t) - ksen P - v P/(K + P) over ``h`` hours: P half-way and at the end.

    Each implicit stage is a quadratic in the change of P, whose constant vanishes at rest: rounding moves nothing.
    """
    q = GAMMA * h
    A, W = 1 + q * ksen, K + P
    v_W = v / W
    lost = P * (ksen + v_W)
    turnover, four = A * W + q * K * v_W, 4 * A * W

    tiny = float(jnp.finfo(P.dtype).tiny)  # in place of 0, where a root has no derivative

    def stage(g: Array) -> Array:
        b = turnover - g
        root = jnp.sqrt(jnp.maximum(b * b + four * g, tiny))
        return jnp.where(b > 0, 2 * W * g / (jnp.abs(b) + root), (root - b) / (2 * A))

    def net(t: float) -> Array:
        start, middle, end = made
        return q * ((1 - t) * (1 - 2 * t) * start + 4 * t * (1 - t) * middle + t * (2 * t - 1) * end - lost)

    d1 = once(stage(net(GAMMA)), true)
    f1 = d1 / GAMMA
    d2 = once(stage(A_21 * f1 + net(STAGE_2)), true)
    f2 = (d2 - A_21 * f1) / GAMMA
    d3 = stage(B_1 * f1 + B_2 * f2 + q * (made[2] - lost))
    f3 = (d3 - B_1 * f1 - B_2 * f2) / GAMMA
    lowest = 1e-3 * (P + d1)  # the first stage is positive whatever the step
    return jnp.maximum(P + MIDDLE[0] * f1 + MIDDLE[1] * f2 + MIDDLE[2] * f3, lowest), jnp.maximum(P + d3, lowest)


def _tpo_ahead(P: Array, M: Array, y: Carry, h: Array, v: Array, loss: Array, c: Course) -> Array:
    """TPO at the end of the step, its uptake taken linear in time towards what it will be there.

    Platelets ahead are one linearly implicit Euler step, so that they stay bounded where they turn over within it.
    """
    p, t, f, K = c.parameters, c.baseline.turnover, y.factors, c.parameters.immune_half_saturation_1e9_per_l
    M0, *_, M4 = y.cells[:5]
    there = K + P
    dP = (f.maturation * t.ktr_per_h * M4 - p.senescence_per_h * P) * there - v * P
    square = there * there
    P_end = jnp.maximum(P + h * dP * there / (square + h * (p.senescence_per_h * square + v * K)), 0)
    dM = t.production * f.proliferation + t.ktr_per_h * ((f.survival - 1) * M0 - M4)
    return _tpo(y.cells.tpo_relative, (loss + thrombopoiesis.tpo_loss(P_end, jnp.maximum(M + h * dM, 0), p)) / 2, h, p)


def _tpo(T: Array, mean_loss: Array, h: Array, p: Parameters) -> Array:
    """T after ``h`` hours of T' = kT (1 - loss T) at a constant loss, by the (1, 2) Pade form of the exponential."""
    made = p.tpo_turnover_per_h * h
    z = made * mean_loss
    share = (1 + z / 6) / (1 + z * (2 / 3 + z / 6))
    return jnp.maximum(T + (made - z * T) * share, made * share)  # the second only where z > 3


def step(
    k: Steps, y: Carry, c: Course, dosed: Array, immune_log_activity: Array, form: Form, plain: bool = False
) -> Carry:
    """Moves a batch of patients over one step.

    k: coefficients of this step. dosed [patients]: whether the day had a dose. immune_log_activity [patients].
    plain: for kernels of straight-line code, which need nothing that keeps XLA from repeating work.
    """
    p, t = c.parameters, c.baseline.turnover
    true = None if plain else jnp.ravel(k.hours)[0] >= 0
    a = jax.tree.map(lambda x, z: jnp.where(dosed, x, z), k.absorption, k.no_dose_absorption)
    drug, C1, C2 = disposition.step(k.disposition, a, y.drug, true)
    drug, C1, C2 = once((drug, C1, C2), true)
    drug, C3, C4 = disposition.step(k.disposition, a, drug, true)
    drug, C3, C4 = once((drug, C3, C4), true)

    M0, M1, M2, M3, M4, P, T = y.cells
    M = M0 + M1 + M2 + M3 + M4
    v = t.immune_capacity * jnp.exp(immune_log_activity)
    loss = thrombopoiesis.tpo_loss(P, M, p)
    T_ahead = _tpo_ahead(P, M, y, k.hours, v, loss, c)
    tau_start, tau_end = (Ti / (p.tpo_half_activation + Ti) for Ti in (T, T_ahead))
    tau = once((tau_start, (tau_start + tau_end) / 2, tau_end), true)

    x_middle, x_end, socs = _pathways(k, y, (y.concentration_nM, C2, C4), tau, c, form, true)
    f_middle, f_end = once(
        tuple(signalling.factors(x, c.baseline.pathways, c.baseline.gain, p) for x in (x_middle, x_end)), true
    )
    f = (y.factors, f_middle, f_end)

    ktr, r0 = t.ktr_per_h, t.production
    m0 = relaxation.relax(k.transit, M0, *(r0 / ktr * fi.proliferation for fi in f))
    m1 = relaxation.relax(k.transit, M1, *(fi.survival * m for fi, m in zip(f, (M0, *m0), strict=True)))
    m2 = relaxation.relax(k.transit, M2, M1, *m1)
    m3 = relaxation.relax(k.transit, M3, M2, *m2)
    m4 = relaxation.relax(k.transit, M4, M3, *m3)
    m0, m1, m2, m3, m4 = once((m0, m1, m2, m3, m4), true)
    made = tuple(ktr * fi.maturation * m for fi, m in zip(f, (M4, *m4), strict=True))
    K = p.immune_half_saturation_1e9_per_l
    P_middle, P_end = once(_platelets(P, made, k.hours, p.senescence_per_h, v, K, true), true)

    loss_middle, loss_end = (
        thrombopoiesis.tpo_loss(Pi, m0[i] + m1[i] + m2[i] + m3[i] + m4[i], p) for i, Pi in ((0, P_middle), (1, P_end))
    )
    T_end = _tpo(T, (loss + 4 * loss_middle + loss_end) / 6, k.hours, p)
    return Carry(
        drug,
        C4,
        x_end,
        socs,
        thrombopoiesis.Megakaryopoiesis(m0[1], m1[1], m2[1], m3[1], m4[1], P_end, T_end),
        f_end,
        y.auc_nM_h + k.hours / 12 * (y.concentration_nM + 4 * C1 + 2 * C2 + 4 * C3 + C4),
        jnp.maximum(y.cmax_nM, jnp.maximum(jnp.maximum(C1, C2), jnp.maximum(C3, C4))),
    )
