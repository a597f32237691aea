"""The 16-state model: state, steady state before treatment, rates. Composes the three layers."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pkpd import pharmacokinetics, signalling, thrombopoiesis
from pkpd.parameters import Parameters


class State(NamedTuple):
    """State of a patient in the order of the files: nmol (drug), nM (target), relative activities, 10^9/L."""

    depot_nmol: Array
    central_nmol: Array
    peripheral_nmol: Array
    target_nM: Array
    pstat3: Array
    pstat5: Array
    pakt: Array
    perk: Array
    socs: Array
    progenitors: Array
    mk1: Array
    mk2: Array
    mk3: Array
    mk4: Array
    platelets_1e9_per_l: Array
    tpo_relative: Array


class Baseline(NamedTuple):
    """What the patient's own resting state fixes for the whole course."""

    pathways: signalling.Pathways
    gain: signalling.Factors
    turnover: thrombopoiesis.Turnover


class Form(NamedTuple):
    """Structural choices, static under ``jit``.

    signalling: "dynamic" (the equations of the pathways) or "quasi-steady" (pathways and SOCS at equilibrium).
    hill_is_one: True spares the power C^n where every patient has n = 1.
    """

    signalling: str = "dynamic"
    hill_is_one: bool = True


DYNAMIC = Form()


def split(
    s: State,
) -> tuple[pharmacokinetics.Disposition, signalling.Pathways, Array, thrombopoiesis.Megakaryopoiesis]:
    """The state by layer: disposition, pathways, SOCS, megakaryopoiesis."""
    return (
        pharmacokinetics.Disposition(*s[0:4]),
        signalling.Pathways(*s[4:8]),
        s[8],
        thrombopoiesis.Megakaryopoiesis(*s[9:16]),
    )


def baseline(p: Parameters) -> tuple[Baseline, thrombopoiesis.Megakaryopoiesis]:
    """Resting pathways, gains and turnover, with the resting megakaryopoiesis they belong to."""
    m = thrombopoiesis.steady_state(p)
    tau = m.tpo_relative / (p.tpo_half_activation + m.tpo_relative)
    return Baseline(signalling.equilibrium(tau, p), signalling.gains(p), thrombopoiesis.turnover(p)), m


def steady_state(p: Parameters) -> tuple[State, Baseline]:
    """State before treatment, in closed form: no drug, SOCS = 1, everything at rest at the patient's own P0.

    All leaves are broadcast to the common shape of the parameters ([patients], or scalar).
    """
    b, m = baseline(p)
    shape = jnp.broadcast_shapes(*(jnp.shape(leaf) for leaf in p))
    dtype = jnp.result_type(m.tpo_relative)
    zero = jnp.zeros((), dtype)
    s = State(zero, zero, zero, p.target_baseline_nM, *b.pathways, zero + 1, *m)
    return State(*(jnp.broadcast_to(jnp.asarray(leaf, dtype), shape) for leaf in s)), b


def rates(s: State, p: Parameters, b: Baseline, ka_per_h: Array, immune_log_activity: Array) -> State:
    """Time derivatives (per hour) of the dynamic form: the right-hand side of design sections 2.1 to 2.3.

    ka_per_h: absorption rate in force. immune_log_activity: omega of the current interval.
    """
    d, x, socs, m = split(s)
    C = free_concentration_nM(s, p)
    j = signalling.jak2_activity(signalling.active_fraction(m.tpo_relative, C, p), socs, p)
    dx, dsocs = signalling.rates(x, socs, j, b.pathways.stat5, p)
    f = signalling.factors(x, b.pathways, b.gain, p)
    dm = thrombopoiesis.rates(m, f, b.turnover, immune_log_activity, p)
    return State(*pharmacokinetics.rates(d, ka_per_h, p), *dx, dsocs, *dm)


def free_concentration_nM(s: State, p: Parameters) -> Array:
    """Free plasma concentration C (nM), the one that is reported and that acts on the receptor."""
    return pharmacokinetics.free_concentration(
        s.central_nmol / p.central_volume_l, s.target_nM, p.quasi_steady_state_constant_nM
    )
