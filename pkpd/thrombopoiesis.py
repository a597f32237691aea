"""Layer 3: megakaryocyte progenitors, transit, platelets with saturable immune clearance, endogenous TPO.

Platelets in 10^9/L, hours. Saturable clearance by macrophages is what reconciles healthy volunteers and patients
with one drug potency; TPO falls as platelets and megakaryocytes take it up (Mukai 1996 for its level in ITP).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pkpd.parameters import Parameters
from pkpd.signalling import Factors


class Megakaryopoiesis(NamedTuple):
    """Progenitors M0, transit M1..M4 (10^9/L of platelets to be), platelets P (10^9/L), TPO T relative to healthy."""

    progenitors: Array
    mk1: Array
    mk2: Array
    mk3: Array
    mk4: Array
    platelets_1e9_per_l: Array
    tpo_relative: Array


class Turnover(NamedTuple):
    """Rates fixed by the patient's own baseline: production r0 and immune capacity Vim (10^9/L/h), ktr (1/h)."""

    production: Array
    immune_capacity: Array
    ktr_per_h: Array


def turnover(p: Parameters) -> Turnover:
    """Vim = (r0 - ksen P0)(Kim + P0)/P0; where r0 <= ksen P0 there is no immune clearance and r0 = ksen P0."""
    P0, Kim = p.baseline_platelets_1e9_per_l, p.immune_half_saturation_1e9_per_l
    senescent = p.senescence_per_h * P0
    r0 = jnp.maximum(p.production_1e9_per_l_per_h, senescent)
    return Turnover(r0, (r0 - senescent) * (Kim + P0) / P0, 5 / p.mean_transit_time_h)


def tpo_loss(platelets: Array, megakaryocytes: Array, p: Parameters) -> Array:
    """Relative TPO uptake c0 + cP P/P_h + cM sum(M)/M_h; 1 in a healthy person."""
    P_h = p.healthy_platelets_1e9_per_l
    M_h = P_h * p.senescence_per_h * p.healthy_mean_transit_time_h  # 5 compartments of P_h ksen MTT_h/5
    return (
        p.tpo_sink_constant + p.tpo_sink_platelets * platelets / P_h + p.tpo_sink_megakaryocytes * megakaryocytes / M_h
    )


def steady_state(p: Parameters) -> Megakaryopoiesis:
    """State at rest before treatment, in closed form: M_i = r0/ktr, P = P0, T = 1/loss."""
    t = turnover(p)
    M = t.production / t.ktr_per_h
    P = p.baseline_platelets_1e9_per_l
    T = 1 / tpo_loss(P, 5 * M, p)
    return Megakaryopoiesis(M, M, M, M, M, P, T)


def rates(m: Megakaryopoiesis, f: Factors, t: Turnover, immune_log_activity: Array, p: Parameters) -> Megakaryopoiesis:
    """Time derivatives (per hour)."""
    M0, M1, M2, M3, M4, P, T = m
    ktr = t.ktr_per_h
    immune = t.immune_capacity * jnp.exp(immune_log_activity) * P / (p.immune_half_saturation_1e9_per_l + P)
    return Megakaryopoiesis(
        progenitors=t.production * f.proliferation - ktr * M0,
        mk1=ktr * (f.survival * M0 - M1),
        mk2=ktr * (M1 - M2),
        mk3=ktr * (M2 - M3),
        mk4=ktr * (M3 - M4),
        platelets_1e9_per_l=f.maturation * ktr * M4 - p.senescence_per_h * P - immune,
        tpo_relative=p.tpo_turnover_per_h * (1 - T * tpo_loss(P, M0 + M1 + M2 + M3 + M4, p)),
    )
