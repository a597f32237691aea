"""Virtual patients: covariates, truncated baseline count, correlated random effects (design section 2.4).

Individual parameter = typical value * covariate effects * exp(eta), eta = sd * (Cholesky factor of the correlation) z.
In non-responders, a share of all that is 0 unless a config says otherwise, the drug forms no dimers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr, ndtri

from pkpd import random
from pkpd.parameters import CovariateRatios, Demography, Noise, Parameters, Population, Variability

if TYPE_CHECKING:
    from pkpd.screening import Screened


class Patients(NamedTuple):
    """A batch of virtual patients; every leaf [patients] or scalar.

    covariates: 1 where the patient has it, in the order of ``CovariateRatios``. screened: None without a screening.
    """

    parameters: Parameters
    noise: Noise
    weight_kg: Array
    covariates: CovariateRatios
    screened: Screened | None = None

    @property
    def baseline_1e9_per_l(self) -> Array:
        """The count at entry as measured; the true one where nothing was measured."""
        return self.parameters.baseline_platelets_1e9_per_l if self.screened is None else self.screened.baseline


class Table(NamedTuple):
    """A user's patients [rows], from whom virtual ones take baseline, weight and covariates; None: not in the table."""

    baseline_1e9_per_l: Any
    weight_kg: Any
    covariates: CovariateRatios


def draw(population: Population, keys: Array, baseline_below: Array, table: Table | None = None) -> Patients:
    """Patients [n] from their keys [n]. ``baseline_below``: counts at entry are below this (1e9/L).

    With a ``table`` (whose counts are below that) each patient is one of its rows, drawn with replacement, but for the
    random effects and the covariates that it lacks.
    """
    dtype = population.typical.clearance_l_per_h.dtype
    d = population.demography
    z = random.normal(keys, 0, "random_effects", (len(Variability._fields),), dtype)
    w = weight(d, random.normal(keys, 0, "weight", dtype=dtype))
    P0 = baseline(d, random.uniform(keys, 0, "baseline", dtype=dtype), baseline_below)
    u = random.uniform(keys, 0, "covariates", (len(CovariateRatios._fields) + 1,), dtype)
    has, responds = indicators(d, u[:-1]), u[-1] >= d.non_responder_share
    if table is not None:
        w, P0, has = of_rows(table, random.uniform(keys, 0, "table_row"), has, dtype)
    patients = individuals(population, z, w, P0, has)
    p = patients.parameters
    return patients._replace(parameters=p._replace(dimer_efficacy=jnp.where(responds, p.dimer_efficacy, 0)))


def of_rows(table: Table, u: Array, drawn: CovariateRatios, dtype: Any) -> tuple[Array, Array, CovariateRatios]:
    """Weights, baselines and covariates of rows by uniforms [patients] in float32, so the same in either precision."""
    n = len(table.weight_kg)
    row = jnp.minimum((u * n).astype(jnp.int32), n - 1)  # a product of float32 may be rounded up to n

    def column(values: Any) -> Array:
        return jnp.asarray(values, dtype)[row]

    has = (x if values is None else column(values) for x, values in zip(drawn, table.covariates, strict=True))
    return column(table.weight_kg), column(table.baseline_1e9_per_l), CovariateRatios(*has)


def weight(d: Demography, z: Array) -> Array:
    """Body weight (kg): log-normal, clipped to the range of the demography."""
    return jnp.clip(d.weight_median_kg * jnp.exp(d.weight_log_sd * z), d.weight_min_kg, d.weight_max_kg)


def baseline(d: Demography, u: Array, below: Array) -> Array:
    """Baseline count (1e9/L): log-normal truncated to [baseline_min, below), by inversion of a uniform."""
    low, high = (
        ndtr((jnp.log(limit) - d.baseline_log_mean) / d.baseline_log_sd) for limit in (d.baseline_min_1e9_per_l, below)
    )
    P0 = jnp.exp(d.baseline_log_mean + d.baseline_log_sd * ndtri(low + u * (high - low)))
    return jnp.clip(P0, d.baseline_min_1e9_per_l, jnp.nextafter(jnp.asarray(below, P0.dtype), jnp.zeros_like(P0)))


def indicators(d: Demography, u: Array) -> CovariateRatios:
    """1 where a patient has a covariate, from uniforms [covariates, patients] and the shares of the demography."""
    shares = (getattr(d, name.replace("_clearance_ratio", "_share")) for name in CovariateRatios._fields)
    return CovariateRatios(*((ui < share).astype(ui.dtype) for ui, share in zip(u, shares, strict=True)))


def individuals(population: Population, z: Array, weight_kg: Array, P0: Array, has: CovariateRatios) -> Patients:
    """Patients with given standard normals z [13, patients], weights, baselines and covariates."""
    d, p = population.demography, population.typical
    root = population.correlation_cholesky
    if root.ndim == 3:  # a matrix for each patient
        z = jnp.einsum("pij,jp->ip", root, z, precision="highest")
    else:
        z = jnp.matmul(root, z, precision="highest")  # a GPU's default keeps 10 bits
    eta = Variability(*(sd * e for sd, e in zip(population.iiv_log_sd, z, strict=True)))
    size = weight_kg / d.reference_weight_kg
    flow, volume = size**d.allometric_flow_exponent, size**d.allometric_volume_exponent
    clearance_ratio = jnp.ones_like(weight_kg)
    for ratio, indicator in zip(population.covariates, has, strict=True):
        clearance_ratio *= 1 + indicator * (ratio - 1)
    parameters = p._replace(
        clearance_l_per_h=p.clearance_l_per_h * flow * clearance_ratio * jnp.exp(eta.clearance_l_per_h),
        central_volume_l=p.central_volume_l * volume * jnp.exp(eta.central_volume_l),
        intercompartmental_clearance_l_per_h=p.intercompartmental_clearance_l_per_h * flow,
        peripheral_volume_l=p.peripheral_volume_l * volume,
        target_degradation_per_h=p.target_degradation_per_h * jnp.exp(eta.target_degradation_per_h),
        receptor_ec50_nM=p.receptor_ec50_nM * jnp.exp(eta.receptor_ec50_nM),
        max_stimulation=p.max_stimulation * jnp.exp(eta.max_stimulation),
        mean_transit_time_h=p.mean_transit_time_h * jnp.exp(-eta.mean_transit_time_h),  # eta is that of ktr
        production_1e9_per_l_per_h=p.production_1e9_per_l_per_h * jnp.exp(eta.production_1e9_per_l_per_h),
        immune_half_saturation_1e9_per_l=p.immune_half_saturation_1e9_per_l
        * jnp.exp(eta.immune_half_saturation_1e9_per_l),
        baseline_platelets_1e9_per_l=P0,
    )
    noise = Noise(*(v * jnp.exp(getattr(eta, name)) for name, v in zip(Noise._fields, population.noise, strict=True)))
    return Patients(parameters, noise, weight_kg, has)
