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
    age_y: None where nothing asks for it. second: parameters with the pharmacology of the second drug of an arm that
    has two.
    """

    parameters: Parameters
    noise: Noise
    weight_kg: Array
    covariates: CovariateRatios
    screened: Screened | None = None
    age_y: Any = None
    second: Parameters | None = None

    @property
    def body(self) -> tuple[Any, Any]:
        """Weight (kg) and age (y), by which dose rules may differ between patients."""
        return self.weight_kg, self.age_y

    @property
    def baseline_1e9_per_l(self) -> Array:
        """The count at entry as measured; the true one where nothing was measured."""
        return self.parameters.baseline_platelets_1e9_per_l if self.screened is None else self.screened.baseline


class Table(NamedTuple):
    """A user's patients [rows], from whom virtual ones take baseline, weight and covariates; None: not in the table."""

    baseline_1e9_per_l: Any
    weight_kg: Any
    covariates: CovariateRatios
    age_y: Any = None


class Limits(NamedTuple):
    """Of simulated patients who may enter, beside the limit of the count: from, and below; None for no limit.

    Ages are drawn where both of their limits are given, 0 and infinity for none.
    """

    baseline_from: Any = None
    weight_from: Any = None
    weight_below: Any = None
    age_from: Any = None
    age_below: Any = None


class Traits(NamedTuple):
    """What is known of patients [patients] before they are treated, and whether the drug acts in them."""

    weight_kg: Array
    baseline_1e9_per_l: Array
    covariates: CovariateRatios
    responds: Array
    age_y: Any = None


def draw(
    population: Population,
    keys: Array,
    baseline_below: Array,
    table: Table | None = None,
    limits: Limits | None = None,
) -> Patients:
    """Patients [n] from their keys [n]. ``baseline_below``: counts at entry are below this (1e9/L). ``limits``: what
    else decides who enters; patients are drawn from the law of those.

    With a ``table`` (whose counts are below that) each patient is one of its rows, drawn with replacement, but for the
    random effects and the covariates that it lacks.
    """
    dtype = population.typical.clearance_l_per_h.dtype
    z = random.normal(keys, 0, "random_effects", (len(Variability._fields),), dtype)
    t = traits(population.demography, keys, baseline_below, dtype, table, limits)
    patients = individuals(population, z, t.weight_kg, t.baseline_1e9_per_l, t.covariates)
    p = patients.parameters
    acts = p._replace(dimer_efficacy=jnp.where(t.responds, p.dimer_efficacy, 0))
    return patients._replace(parameters=acts, age_y=t.age_y)


def traits(
    d: Demography, keys: Array, baseline_below: Array, dtype: Any, table: Table | None, limits: Limits | None
) -> Traits:
    """The traits of patients from their keys; arguments as of ``draw``."""
    limits = limits or Limits()
    if limits.weight_from is None and limits.weight_below is None:
        w = weight(d, random.normal(keys, 0, "weight", dtype=dtype))
    else:
        w = weight_within(d, random.uniform(keys, 0, "weight", dtype=dtype), limits.weight_from, limits.weight_below)
    if limits.baseline_from is not None:
        least = jnp.asarray(limits.baseline_from, dtype)
        d = d._replace(baseline_min_1e9_per_l=jnp.maximum(d.baseline_min_1e9_per_l, least))
    P0 = baseline(d, random.uniform(keys, 0, "baseline", dtype=dtype), baseline_below)
    u = random.uniform(keys, 0, "covariates", (len(CovariateRatios._fields) + 1,), dtype)
    has, responds = indicators(d, u[:-1]), u[-1] >= d.non_responder_share
    years = None
    if limits.age_from is not None:
        years = age(d, random.uniform(keys, 0, "age", dtype=dtype), limits.age_from, limits.age_below)
    if table is not None:
        w, P0, has, years = of_rows(table, random.uniform(keys, 0, "table_row"), has, years, dtype)
    return Traits(w, P0, has, responds, years)


def of_rows(
    table: Table, u: Array, drawn: CovariateRatios, years: Array | None, dtype: Any
) -> tuple[Array, Array, CovariateRatios, Array | None]:
    """Weights, baselines, covariates and ages of rows by uniforms [patients] in float32, so the same in either
    precision; ages only where ``years`` were drawn.
    """
    n = len(table.weight_kg)
    row = jnp.minimum((u * n).astype(jnp.int32), n - 1)  # a product of float32 may be rounded up to n

    def column(values: Any) -> Array:
        return jnp.asarray(values, dtype)[row]

    has = (x if values is None else column(values) for x, values in zip(drawn, table.covariates, strict=True))
    if years is not None and table.age_y is not None:
        years = column(table.age_y)
    return column(table.weight_kg), column(table.baseline_1e9_per_l), CovariateRatios(*has), years


def weight(d: Demography, z: Array) -> Array:
    """Body weight (kg): log-normal, clipped to the range of the demography."""
    return jnp.clip(d.weight_median_kg * jnp.exp(d.weight_log_sd * z), d.weight_min_kg, d.weight_max_kg)


def weight_within(d: Demography, u: Array, low: Any, below: Any) -> Array:
    """The weights of ``weight`` that are from ``low`` and ``below`` (None for no limit), by inversion of a uniform.

    A limit beyond the range to which weights are clipped does not bind.
    """
    low = jnp.asarray(0 if low is None else low, u.dtype)
    below = jnp.asarray(jnp.inf if below is None else below, u.dtype)
    sd = jnp.maximum(d.weight_log_sd, 1e-6)  # all alike: any limit lets in all or none
    z_low = jnp.where(low <= d.weight_min_kg, -jnp.inf, jnp.log(low / d.weight_median_kg) / sd)
    z_below = jnp.where(below > d.weight_max_kg, jnp.inf, jnp.log(below / d.weight_median_kg) / sd)
    w = d.weight_median_kg * jnp.exp(d.weight_log_sd * truncated_normal(u, z_low, z_below))
    least = jnp.maximum(low, d.weight_min_kg)
    return jnp.clip(w, least, jnp.minimum(d.weight_max_kg, jnp.nextafter(below, jnp.zeros_like(below))))


def age(d: Demography, u: Array, low: Any, below: Any) -> Array:
    """Ages (y) from ``low`` and ``below``: log-normal, truncated to the range of the demography."""
    least = jnp.maximum(jnp.asarray(low, u.dtype), d.age_min_y)
    below = jnp.asarray(below, u.dtype)
    most = jnp.minimum(jnp.nextafter(below, jnp.zeros_like(below)), d.age_max_y)
    sd = jnp.maximum(d.age_log_sd, 1e-6)
    z = truncated_normal(u, *(jnp.log(limit / d.age_median_y) / sd for limit in (least, most)))
    return jnp.clip(d.age_median_y * jnp.exp(d.age_log_sd * z), least, most)


def truncated_normal(u: Array, low: Array, high: Array) -> Array:
    """Standard normals between limits, increasing in uniforms u; by the tail in which more digits are left."""
    inside = u + 2.0**-24  # never 0 or 1: a uniform has 23 bits
    upper = low > 0
    a, b = jnp.where(upper, -high, low), jnp.where(upper, -low, high)
    share = jnp.where(upper, 1 - inside, inside)
    z = ndtri(ndtr(a) + share * (ndtr(b) - ndtr(a)))
    return jnp.where(upper, -z, z)


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
