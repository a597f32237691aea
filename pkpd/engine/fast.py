"""The fast engine: fixed work a step, no iteration, stable for any step and any patient.

Each step: disposition twice (exact linear part, binding implicit), pathways and megakaryocytes by exponential
relaxation towards a parabolic drive, platelets by an L-stable third-order implicit method whose stages are
quadratics in closed form. Patients are the last axis of every array.
"""

from __future__ import annotations

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
    auc_nM_h: Array
    cmax_nM: Array


def course(p: Parameters) -> Course:
    return Course(p, baseline(p)[0], disposition.modes(p))


def steps(c: Course, hours: Array, ka_per_h: Array, no_dose_ka_per_h: Array) -> Steps:
    """Coefficients of steps of ``hours`` [steps] with absorption rates [steps] or [steps, patients]."""
    p = c.parameters
    ktr = c.baseline.turnover.ktr_per_h

    def one(h: Array, ka: Array, ka_none: Array) -> Steps:
        return Steps(
            h,
            disposition.coefficients(p, c.modes, h / 2),
            disposition.absorption(p, c.modes, ka, h / 2),
            disposition.absorption(p, c.modes, ka_none, h / 2),
            tuple(relaxation.weights(k, h) for k in signalling.rates_per_h(p)),
            relaxation.weights(p.socs_rate_per_h, h),
            relaxation.weights(ktr, h),
        )

    return jax.vmap(one)(hours, ka_per_h, no_dose_ka_per_h)


def carry(s: State, c: Course) -> Carry:
    """Engine state of a model state."""
    p = c.parameters
    u = s.central_nmol / p.central_volume_l
    C = free_concentration_nM(s, p)
    mode_1, mode_2 = disposition.to_modes(u, s.peripheral_nmol / p.peripheral_volume_l, c.modes)
    drug = disposition.Drug(s.depot_nmol, mode_1, mode_2, s.target_nM, u - C)
    return Carry(
        drug,
        C,
        signalling.Pathways(*s[4:8]),
        s.socs,
        thrombopoiesis.Megakaryopoiesis(*s[9:16]),
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


def _pathway_drive(C: Array, tpo: Array, socs: Array, p: Parameters, form: Form) -> signalling.Pathways:
    hill = p._replace(dimer_hill=1) if form.hill_is_one else p
    j = signalling.jak2_activity(signalling.active_fraction(tpo, C, hill), socs, p)
    return signalling.equilibrium(j, p)


def _pathways(k: Steps, y: Carry, C: tuple, tpo: tuple, c: Course, form: Form, true: Array) -> tuple[Any, Array]:
    """Pathways and SOCS at start, middle and end of the step."""
    p, x, x5_0 = c.parameters, y.pathways, c.baseline.pathways.stat5
    if form.signalling == "quasi-steady":
        at = tuple(
            signalling.quasi_steady(signalling.active_fraction(t, Ci, p), x5_0, p) for Ci, t in zip(C, tpo, strict=True)
        )
        return tuple(a[0] for a in at), at[2][1]
    start = _pathway_drive(C[0], tpo[0], y.socs, p, form)
    # SOCS is predicted with STAT5 on its way to the drive at the start, then corrected with the STAT5 of that SOCS
    stat5_m, stat5_e = relaxation.relax(k.pathways[1], x.stat5, *(start.stat5,) * 3)
    socs_m, socs_e = relaxation.relax(k.socs, y.socs, x.stat5 / x5_0, stat5_m / x5_0, stat5_e / x5_0)
    ahead = (_pathway_drive(C[i], tpo[i], s, p, form).stat5 for i, s in ((1, socs_m), (2, socs_e)))
    stat5_m, stat5_e = relaxation.relax(k.pathways[1], x.stat5, start.stat5, *ahead)
    socs_m, socs_e = once(relaxation.relax(k.socs, y.socs, x.stat5 / x5_0, stat5_m / x5_0, stat5_e / x5_0), true)
    middle = _pathway_drive(C[1], tpo[1], socs_m, p, form)
    end = _pathway_drive(C[2], tpo[2], socs_e, p, form)
    start, middle, end = once((start, middle, end), true)
    moved = [relaxation.relax(k.pathways[i], x[i], start[i], middle[i], end[i]) for i in range(4)]
    return (
        x,
        signalling.Pathways(*(m for m, _ in moved)),
        signalling.Pathways(*(e for _, e in moved)),
    ), socs_e


def _platelets(
    P: Array, made: tuple[Array, Array, Array], h: Array, ksen: Array, v: Array, K: Array, true: Array
) -> tuple[Array, Array]:
    """P' = made(t) - ksen P - v P/(K + P) over ``h`` hours: P half-way and at the end.

    Each implicit stage is a quadratic in P.
    """
    q = GAMMA * h
    A = 1 + q * ksen

    def stage(b: Array) -> Array:
        B = A * K + q * v - b
        root = jnp.sqrt(jnp.maximum(B * B + 4 * A * K * b, 0))
        return jnp.where(B > 0, 2 * K * b / (jnp.abs(B) + root), (root - B) / (2 * A))

    def at(t: float) -> Array:
        start, middle, end = made
        return (1 - t) * (1 - 2 * t) * start + 4 * t * (1 - t) * middle + t * (2 * t - 1) * end

    Y1 = once(stage(P + q * at(GAMMA)), true)
    f1 = (Y1 - P) / GAMMA
    Y2 = once(stage(P + A_21 * f1 + q * at(STAGE_2)), true)
    f2 = (Y2 - P - A_21 * f1) / GAMMA
    Y3 = stage(P + B_1 * f1 + B_2 * f2 + q * made[2])
    f3 = (Y3 - P - B_1 * f1 - B_2 * f2) / GAMMA
    lowest = 1e-3 * Y1  # the first stage is positive whatever the step
    return jnp.maximum(P + MIDDLE[0] * f1 + MIDDLE[1] * f2 + MIDDLE[2] * f3, lowest), jnp.maximum(Y3, lowest)


def _tpo_ahead(
    cells: thrombopoiesis.Megakaryopoiesis, f: signalling.Factors, loss: Array, h: Array, v: Array, c: Course
) -> tuple[Array, Array, Array]:
    """TPO at start, middle and end of the step, its uptake taken linear in time towards what it will be at the end.

    Platelets ahead are one linearly implicit Euler step, so that they stay bounded where they turn over within it.
    """
    p, t, K = c.parameters, c.baseline.turnover, c.parameters.immune_half_saturation_1e9_per_l
    M0, M1, M2, M3, M4, P, T = cells
    leaving = 1 / (K + P)
    dP = f.maturation * t.ktr_per_h * M4 - (p.senescence_per_h + v * leaving) * P
    P_end = jnp.maximum(P + h * dP / (1 + h * (p.senescence_per_h + v * K * leaving * leaving)), 0)
    dM = t.production * f.proliferation + t.ktr_per_h * ((f.survival - 1) * M0 - M4)
    M_end = jnp.maximum(M0 + M1 + M2 + M3 + M4 + h * dM, 0)
    change = thrombopoiesis.tpo_loss(P_end, M_end, p) - loss
    return T, _tpo(T, loss + change / 4, h / 2, p), _tpo(T, loss + change / 2, h, p)


def _tpo(T: Array, mean_loss: Array, h: Array, p: Parameters) -> Array:
    """T after ``h`` hours at a constant loss."""
    level = 1 / mean_loss
    return level + (T - level) * jnp.exp(-p.tpo_turnover_per_h * mean_loss * h)


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
    C = (y.concentration_nM, C2, C4)

    M0, M1, M2, M3, M4, P, T = y.cells
    v = t.immune_capacity * jnp.exp(immune_log_activity)
    loss = thrombopoiesis.tpo_loss(P, M0 + M1 + M2 + M3 + M4, p)
    f_now = signalling.factors(y.pathways, c.baseline.pathways, c.baseline.gain, p)
    tpo = once(_tpo_ahead(y.cells, f_now, loss, k.hours, v, c), true)

    x, socs = _pathways(k, y, C, tpo, c, form, true)
    f = once([signalling.factors(xi, c.baseline.pathways, c.baseline.gain, p) for xi in x], true)

    ktr, r0 = t.ktr_per_h, t.production
    m0 = relaxation.relax(k.transit, M0, *(r0 / ktr * fi.proliferation for fi in f))
    m1 = relaxation.relax(k.transit, M1, f[0].survival * M0, f[1].survival * m0[0], f[2].survival * m0[1])
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
        x[2],
        socs,
        thrombopoiesis.Megakaryopoiesis(m0[1], m1[1], m2[1], m3[1], m4[1], P_end, T_end),
        y.auc_nM_h + k.hours / 12 * (C[0] + 4 * C1 + 2 * C2 + 4 * C3 + C4),
        jnp.maximum(y.cmax_nM, jnp.maximum(jnp.maximum(C1, C2), jnp.maximum(C3, C4))),
    )
