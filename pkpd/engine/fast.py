"""The fast engine: fixed work a step, no iteration, stable for any step and any patient.

Each step: disposition (exact linear part, binding implicit) at its nodes, pathways by exponential relaxation towards
a cubic drive through these, megakaryocytes towards a parabolic one, platelets along the chord of their saturable loss.
Patients are the last axis of every array.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pkpd import signalling, thrombopoiesis
from pkpd.engine import disposition, platelets, relaxation
from pkpd.engine.fusion import once
from pkpd.model import Baseline, Form, State, baseline, free_concentration_nM
from pkpd.parameters import Parameters

NODES = disposition.NODES
AUC = relaxation.quadrature(NODES)


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
    """State as the engine carries it; ``auc_nM_h`` and ``cmax_nM`` accumulate over an interval.

    shares: of their spare capacity that the pathways have switched on. drive: where these are heading now, the last of
    one step and the first of the next. socs_excess: SOCS - 1. All three are 0 at rest.
    """

    drug: disposition.Drug
    concentration_nM: Array
    shares: signalling.Pathways
    drive: signalling.Pathways
    socs_excess: Array
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
        disposition.coefficients(p, c.modes, h),
        disposition.absorption(p, c.modes, ka_per_h, h),
        disposition.absorption(p, c.modes, no_dose_ka_per_h, h),
        tuple(relaxation.weights(k, h, NODES, zero_at_rest=True) for k in signalling.rates_per_h(p)),
        relaxation.weights(p.socs_rate_per_h, h, zero_at_rest=True),
        relaxation.weights(c.baseline.turnover.ktr_per_h, h),
    )


def _with_hill(p: Parameters, form: Form) -> Parameters:
    return p._replace(dimer_hill=1) if form.hill_is_one else p


def carry(s: State, c: Course, form: Form) -> Carry:
    """Engine state of a model state."""
    p = c.parameters
    u = s.central_nmol / p.central_volume_l
    C = free_concentration_nM(s, p)
    mode_1, mode_2 = disposition.to_modes(u, s.peripheral_nmol / p.peripheral_volume_l, c.modes)
    x0 = c.baseline.pathways
    e = signalling.shares(signalling.Pathways(*s[4:8]), x0)
    tau = s.tpo_relative / (p.tpo_half_activation + s.tpo_relative)
    return Carry(
        disposition.Drug(s.depot_nmol, mode_1, mode_2, s.target_nM, u - C),
        C,
        e,
        signalling.driven(signalling.activation(tau, C, _with_hill(p, form)), s.socs - 1, x0, p),
        s.socs - 1,
        thrombopoiesis.Megakaryopoiesis(*s[9:16]),
        signalling.factors_of_shares(e, c.baseline.gain, p),
        jnp.zeros_like(C),
        C,
    )


def new_interval(y: Carry) -> Carry:
    """AUC from 0 and the peak from what is there now."""
    return y._replace(auc_nM_h=jnp.zeros_like(y.auc_nM_h), cmax_nM=y.concentration_nM)


def state(y: Carry, c: Course) -> State:
    """Model state of an engine state."""
    p, d = c.parameters, y.drug
    r1, r2 = c.modes.peripheral
    central = (d.mode_1 + d.mode_2) * p.central_volume_l
    peripheral = (r1 * d.mode_1 + r2 * d.mode_2) * p.peripheral_volume_l
    x = signalling.of_shares(y.shares, c.baseline.pathways)
    return State(d.depot_nmol, central, peripheral, d.target_nM, *x, 1 + y.socs_excess, *y.cells)


def _pathways(
    k: Steps, y: Carry, C: list[Array], tau: list[Array], c: Course, form: Form, true: Array | None
) -> tuple[signalling.Pathways, signalling.Pathways, signalling.Pathways, Array]:
    """Shares at the middle and at the end of the step, their drive and the excess of SOCS at its end.

    C (nM), tau: free concentration and the share that TPO alone activates, at the nodes after the start.
    """
    p, e, w0, x0 = c.parameters, y.shares, y.socs_excess, c.baseline.pathways
    hill = _with_hill(p, form)
    if form.signalling == "quasi-steady":
        later = []
        for t, Ci in zip(tau, C, strict=True):
            x, socs = signalling.quasi_steady(signalling.active(t, Ci, hill), x0.stat5, p)
            later.append(signalling.shares(x, x0))
        e_middle = signalling.Pathways(*(relaxation.middle(v, NODES) for v in zip(e, *later, strict=True)))
        return e_middle, later[-1], later[-1], socs - 1
    at_nodes = once([signalling.activation(t, Ci, hill) for t, Ci in zip(tau, C, strict=True)], true)
    of_stat5 = (1 - x0.stat5) / x0.stat5  # pSTAT5/pSTAT5_0 - 1 for its share

    def feedback(middle: Array, end: Array) -> tuple[Array, Array]:
        """Excess of SOCS from the shares of STAT5."""
        return once(relaxation.relax(k.socs, w0, *(of_stat5 * x for x in (e.stat5, middle, end))), true)

    def drives(middle: Array, end: Array) -> list[signalling.Pathways]:
        """At the nodes after the start, the excess of SOCS taken as a parabola."""
        early, late = middle - w0, end - middle
        between = (w0 + n * ((3 - 2 * n) * early + (2 * n - 1) * late) for n in NODES[1:-1])
        return [signalling.driven(a, w, x0, p) for a, w in zip(at_nodes, (*between, end), strict=True)]

    # SOCS is predicted with STAT5 on its way to the drive at the start, then with the STAT5 of that SOCS
    now = y.drive.stat5
    ahead = feedback(*relaxation.towards(k.pathways[1], e.stat5, now))
    ahead = feedback(*relaxation.relax(k.pathways[1], e.stat5, now, *(d.stat5 for d in drives(*ahead))))
    drive = once(drives(*ahead), true)
    moved = [relaxation.relax(k.pathways[i], e[i], y.drive[i], *(d[i] for d in drive)) for i in range(4)]
    e_middle, e_end = (signalling.Pathways(*v) for v in zip(*once(moved, true), strict=True))
    return e_middle, e_end, drive[-1], feedback(e_middle.stat5, e_end.stat5)[1]


def _tpo_ahead(y: Carry, P_end: Array, M: Array, h: Array, loss: Array, c: Course) -> Array:
    """TPO at the end of the step, its uptake taken linear in time towards what it will be there.

    Platelets ahead are one linearly implicit step, so that they stay bounded where they turn over within it.
    """
    p, t, f = c.parameters, c.baseline.turnover, y.factors
    M0, *_, M4 = y.cells[:5]
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
    drug, C = once(disposition.step(k.disposition, a, y.drug, p, true), true)

    M0, M1, M2, M3, M4, P, T = y.cells
    M = M0 + M1 + M2 + M3 + M4
    v = t.immune_capacity * jnp.exp(immune_log_activity)
    loss = thrombopoiesis.tpo_loss(P, M, p)
    K = p.immune_half_saturation_1e9_per_l
    saturable = platelets.loss(P, k.hours, p.senescence_per_h, v, K)
    T_ahead = _tpo_ahead(y, P + saturable.guess(y.factors.maturation * t.ktr_per_h * M4), M, k.hours, loss, c)
    tau_start, tau_end = once([Ti / (p.tpo_half_activation + Ti) for Ti in (T, T_ahead)], true)
    tau = [tau_start + node * (tau_end - tau_start) for node in NODES[1:-1]] + [tau_end]

    e_middle, e_end, drive, socs = _pathways(k, y, C, tau, c, form, true)
    f_middle, f_end = once(tuple(signalling.factors_of_shares(e, c.baseline.gain, p) for e in (e_middle, e_end)), true)
    f = (y.factors, f_middle, f_end)

    ktr, r0 = t.ktr_per_h, t.production
    m0 = relaxation.relax(k.transit, M0, *(r0 / ktr * fi.proliferation for fi in f))
    m1 = relaxation.relax(k.transit, M1, *(fi.survival * m for fi, m in zip(f, (M0, *m0), strict=True)))
    m2 = relaxation.relax(k.transit, M2, M1, *m1)
    m3 = relaxation.relax(k.transit, M3, M2, *m2)
    m4 = relaxation.relax(k.transit, M4, M3, *m3)
    m0, m1, m2, m3, m4 = once((m0, m1, m2, m3, m4), true)
    made = tuple(ktr * fi.maturation * m for fi, m in zip(f, (M4, *m4), strict=True))
    P_middle, P_end = once(platelets.step(saturable, made), true)

    loss_middle, loss_end = (
        thrombopoiesis.tpo_loss(Pi, m0[i] + m1[i] + m2[i] + m3[i] + m4[i], p) for i, Pi in ((0, P_middle), (1, P_end))
    )
    T_end = _tpo(T, (loss + 4 * loss_middle + loss_end) / 6, k.hours, p)
    mean_nM = sum(w * Ci for w, Ci in zip(AUC, (y.concentration_nM, *C), strict=True))
    return Carry(
        drug,
        C[-1],
        e_end,
        drive,
        socs,
        thrombopoiesis.Megakaryopoiesis(m0[1], m1[1], m2[1], m3[1], m4[1], P_end, T_end),
        f_end,
        y.auc_nM_h + k.hours * mean_nM,
        reduce(jnp.maximum, C, y.cmax_nM),
    )
