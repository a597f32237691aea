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
