"""Layer 2: from receptor to the three factors that drive megakaryopoiesis.

Endogenous TPO and the drug activate TPO-R at different sites; active dimers drive JAK2, which SOCS dampens; JAK2
drives STAT3, STAT5, PI3K-AKT and ERK1/2. Each pathway is a relative activity in [0, 1). Rates are per hour.
Time scales: Swameye 2003, Bachmann 2011, Schilling 2009 (erythropoietin receptor, the best measured relative).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pkpd.parameters import Parameters


class Pathways(NamedTuple):
    """Phosphorylated share of each pathway, relative to its maximum."""

    stat3: Array
    stat5: Array
    akt: Array
    erk: Array


class Factors(NamedTuple):
    """Fold change of proliferation, survival and maturation over the patient's own baseline."""

    proliferation: Array
    survival: Array
    maturation: Array


def active_fraction(tpo: Array, concentration_nM: Array, p: Parameters) -> Array:
    """a = tau + delta - tau delta: share of active receptors when TPO and drug act as independent causes."""
    return active(tpo / (p.tpo_half_activation + tpo), concentration_nM, p)


def _power(x: Array, n: Array | int) -> Array:
    """x^n, 0 below 0 where only rounding leads, with derivative 0 where that of a root is infinite: x = 0, n < 1."""
    if isinstance(n, int):
        return x**n
    x = jnp.where(x < 0, 0, x)
    infinite = (x == 0) & (n < 1)
    return jnp.where(infinite, 0, jnp.where(infinite, 1, x) ** n)


def active(tau: Array, concentration_nM: Array, p: Parameters) -> Array:
    """The same from tau, the share that TPO alone activates."""
    Cn = _power(concentration_nM, p.dimer_hill)
    delta = p.dimer_efficacy * Cn / (p.receptor_ec50_nM**p.dimer_hill + Cn)
    return tau + delta - tau * delta


def jak2_activity(active: Array, socs: Array, p: Parameters) -> Array:
    """j = a/(1 + phi (SOCS - 1))."""
    return active / (1 + p.socs_strength * (socs - 1))


def activation(tau: Array, concentration_nM: Array, p: Parameters) -> tuple[Array, Array]:
    """A and B whose ratio is ``active``: B = EC50^n + C^n, A = tau B + eps C^n (1 - tau)."""
    Cn = _power(concentration_nM, p.dimer_hill)
    B = p.receptor_ec50_nM**p.dimer_hill + Cn
    return tau * B + p.dimer_efficacy * Cn * (1 - tau), B


def driven(activation: tuple[Array, Array], socs_excess: Array, x0: Pathways, p: Parameters) -> Pathways:
    """shares(equilibrium(jak2_activity(A/B, 1 + socs_excess)), x0) with one division a pathway.

    (1 + kappa) j/(kappa + j) with j = A/(s B), s = 1 + phi (SOCS - 1), is (1 + kappa) A/(kappa s B + A).
    """
    A, B = activation
    sB = (1 + p.socs_strength * socs_excess) * B
    return Pathways(*((1 + k) / (1 - b) * A / (k * sB + A) - b / (1 - b) for k, b in zip(kappas(p), x0, strict=True)))


def equilibrium(jak2: Array, p: Parameters) -> Pathways:
    """Pathway activities at rest for a given JAK2 activity: (1 + kappa) j/(kappa + j)."""
    return Pathways(*((1 + k) * jak2 / (k + jak2) for k in kappas(p)))


def kappas(p: Parameters) -> Pathways:
    return Pathways(p.kappa_stat3, p.kappa_stat5, p.kappa_akt, p.kappa_erk)


def rates_per_h(p: Parameters) -> Pathways:
    return Pathways(p.rate_stat3_per_h, p.rate_stat5_per_h, p.rate_akt_per_h, p.rate_erk_per_h)


def rates(x: Pathways, socs: Array, jak2: Array, stat5_at_baseline: Array, p: Parameters) -> tuple[Pathways, Array]:
    """Time derivatives (1/h) of the pathways and of the SOCS feedback."""
    at_rest = equilibrium(jak2, p)
    dx = Pathways(*(k * (e - xi) for k, e, xi in zip(rates_per_h(p), at_rest, x, strict=True)))
    return dx, p.socs_rate_per_h * (x.stat5 / stat5_at_baseline - socs)


def gains(p: Parameters) -> Factors:
    """g = f^w - 1 of each factor: the maximal stimulation f = 1 + Smax shared out by weights that add to 1."""
    f = 1 + p.max_stimulation
    return Factors(
        f**p.share_proliferation - 1,
        f**p.share_survival - 1,
        f**p.share_maturation - 1,
    )


def stimulus(gain: Array, s: Array) -> Array:
    """F(g, s) = 1 + g s for s >= 0 and exp(g s) below: smooth at 0 and never negative. g >= 0."""
    gs = gain * s
    return jnp.where(gs >= 0, 1 + gs, jnp.exp(jnp.minimum(gs, 0)))


def shares(x: Pathways, x0: Pathways) -> Pathways:
    """e = (x - x_0)/(1 - x_0): share of its spare capacity that each pathway has switched on; 0 at rest."""
    return Pathways(*((xi - b) / (1 - b) for xi, b in zip(x, x0, strict=True)))


def of_shares(e: Pathways, x0: Pathways) -> Pathways:
    """The pathways whose ``shares`` are e."""
    return Pathways(*(b + (1 - b) * ei for ei, b in zip(e, x0, strict=True)))


def factors(x: Pathways, x0: Pathways, gain: Factors, p: Parameters) -> Factors:
    """Factors of pathways x, those at rest being x0."""
    return factors_of_shares(shares(x, x0), gain, p)


def factors_of_shares(e: Pathways, gain: Factors, p: Parameters) -> Factors:
    """Factors from the shares that are switched on."""
    w5 = p.stat5_weight
    return Factors(
        stimulus(gain.proliferation, w5 * e.stat5 + (1 - w5) * e.stat3),
        stimulus(gain.survival, e.akt),
        stimulus(gain.maturation, e.erk),
    )


def quasi_steady(active: Array, stat5_at_baseline: Array, p: Parameters) -> tuple[Pathways, Array]:
    """Pathways and SOCS at their equilibrium with the active fraction: the form without signalling delays.

    SOCS = pSTAT5/pSTAT5_0 in j (1 + phi (SOCS - 1)) = a leaves one quadratic in j.
    """
    phi, kappa = p.socs_strength, p.kappa_stat5
    square = (1 - phi) + phi * (1 + kappa) / stat5_at_baseline
    linear = (1 - phi) * kappa - active
    root = jnp.sqrt(linear * linear + 4 * square * kappa * active)
    j = 2 * kappa * active / (linear + root)
    x = equilibrium(j, p)
    return x, x.stat5 / stat5_at_baseline
