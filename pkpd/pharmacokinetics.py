"""Layer 1: target-mediated disposition with dual sequential first-order absorption.

Quasi-steady-state binding after Gibiansky, Gibiansky, Kakkar and Ma, J Pharmacokinet Pharmacodyn 2008;35:573;
the published hetrombopag model (Wang 2022, doi 10.1111/bcp.15130) is of this family.
Units: hours, nmol, nmol/L, litres. Every function works on scalars or on arrays whose last axis is patients.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pkpd.parameters import Parameters


class Disposition(NamedTuple):
    """Drug and target of a patient: depot A_d, central total A_c, peripheral A_p (nmol), target R (nmol/L)."""

    depot_nmol: Array
    central_nmol: Array
    peripheral_nmol: Array
    target_nM: Array


def nmol_per_mg(molar_mass_g_per_mol: Array) -> Array:
    """nmol in 1 mg of free acid."""
    return 1e6 / molar_mass_g_per_mol


def ng_per_ml(concentration_nM: Array, molar_mass_g_per_mol: Array) -> Array:
    """Concentration in ng/mL from nmol/L."""
    return concentration_nM * molar_mass_g_per_mol * 1e-3


def arriving_nmol(dose_mg: Array, p: Parameters) -> Array:
    """Amount that a dose adds to the depot at its arrival, ``lag`` hours after it was taken: F D 1e6 / molar mass."""
    return p.bioavailability * dose_mg * nmol_per_mg(p.molar_mass_g_per_mol)


def free_concentration(total_nM: Array, target_nM: Array, kss_nM: Array) -> Array:
    """Free concentration C (nM) at quasi-steady-state binding of C_tot to R: the positive root of
    C^2 - (C_tot - R - Kss) C - Kss C_tot = 0, in the form that does not cancel on either side of b = 0."""
    b = total_nM - target_nM - kss_nM
    root = jnp.sqrt(b * b + 4 * kss_nM * total_nM)
    return jnp.where(b < 0, 2 * kss_nM * total_nM / (root - jnp.minimum(b, 0)), (b + root) / 2)


def target_at_rest(concentration_nM: Array, p: Parameters) -> Array:
    """Target R (nM) that a constant free concentration would lead to."""
    bound_share = concentration_nM / (p.quasi_steady_state_constant_nM + concentration_nM)
    kept = 1 - p.complex_internalisation_per_h / p.target_degradation_per_h
    return p.target_baseline_nM / (1 - kept * bound_share)


def _clearance(concentration_nM: Array, p: Parameters) -> Array:
    """Loss of drug (nmol/h) per free concentration (nM), that of the bound drug included."""
    bound = target_at_rest(concentration_nM, p) / (p.quasi_steady_state_constant_nM + concentration_nM)
    return p.clearance_l_per_h + p.complex_internalisation_per_h * p.central_volume_l * bound


def equipotent(d: Disposition, p: Parameters, other: Parameters) -> tuple[Disposition, Array]:
    """What is left of a drug (p) as an equipotent amount of the ``other``, and its free concentration (nM).

    It occupies as many receptors now, and over the time that it is left: the area under what is left of its
    concentration relative to EC50 stays, which is the amount over the clearance, of the bound drug too at half of
    today's concentration. So the depot is scaled by that area, plasma by the concentration, and tissue holds the rest.
    Two drugs compete for one site, so that amounts of one in terms of the other add up where their Hill coefficients
    are 1 and their efficacies are equal. What is neglected: that the rest washes out with the time course of the other
    drug, and the share of the area that plasma alone would exceed.
    """
    C = free_concentration(d.central_nmol / p.central_volume_l, d.target_nM, p.quasi_steady_state_constant_nM)
    potency = other.receptor_ec50_nM / p.receptor_ec50_nM
    same_slope = p.dimer_hill == other.dimer_hill
    relative = jnp.where(same_slope, 1.0, C / p.receptor_ec50_nM)  # no power where none is needed
    taken = jnp.where(same_slope, C * potency, other.receptor_ec50_nM * relative ** (p.dimer_hill / other.dimer_hill))
    has_target = p.target_baseline_nM > 0
    excess = jnp.where(has_target, d.target_nM / jnp.where(has_target, target_at_rest(C, p), 1), 1)
    target = excess * target_at_rest(taken, other)
    central = other.central_volume_l * taken * (1 + target / (other.quasi_steady_state_constant_nM + taken))
    scale = potency * _clearance(taken / 2, other) / _clearance(C / 2, p)
    depot = scale * d.depot_nmol
    tissue = jnp.maximum(scale * (d.depot_nmol + d.central_nmol + d.peripheral_nmol) - depot - central, 0)
    return Disposition(depot, central, tissue, target), taken


def rates(d: Disposition, ka_per_h: Array, p: Parameters) -> Disposition:
    """Time derivatives (per hour) of drug and target; ``ka_per_h`` is the absorption rate in force."""
    CL, V = p.clearance_l_per_h, p.central_volume_l
    Q, Vp = p.intercompartmental_clearance_l_per_h, p.peripheral_volume_l
    kdeg, kint = p.target_degradation_per_h, p.complex_internalisation_per_h
    R, R0 = d.target_nM, p.target_baseline_nM
    C_tot = d.central_nmol / V
    C = free_concentration(C_tot, R, p.quasi_steady_state_constant_nM)
    RC = C_tot - C  # = R C/(Kss + C): C_tot is free plus bound
    exchange = Q * (C - d.peripheral_nmol / Vp)
    absorbed = ka_per_h * d.depot_nmol
    return Disposition(
        depot_nmol=-absorbed,
        central_nmol=absorbed - CL * C - exchange - kint * RC * V,
        peripheral_nmol=exchange,
        target_nM=kdeg * R0 - kdeg * (R - RC) - kint * RC,
    )
