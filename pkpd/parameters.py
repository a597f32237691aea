"""The parameters of the model as pytrees of arrays, and the library they come from.

``load_library`` reads the tables of ``pkpd/library`` into an immutable :class:`Library`; its ``population``
is the pytree a simulation starts from, its ``parameters`` the typical patient. Names are those used in every
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pkpd import loading, tables
from pkpd.errors import InputError, nearest
from pkpd.tables import SD_SUFFIX, Entry, Prior, check_rules, check_value, field_of

Array = jax.Array


class Parameters(NamedTuple):
    """One patient, or a batch: every field a scalar or [patients]; units and ranges in ``schema.toml``."""

    molar_mass_g_per_mol: Array
    bioavailability: Array
    lag_time_h: Array
    absorption_rate_first_per_h: Array
    absorption_rate_second_per_h: Array
    absorption_switch_h: Array
    clearance_l_per_h: Array
    central_volume_l: Array
    intercompartmental_clearance_l_per_h: Array
    peripheral_volume_l: Array
    target_baseline_nM: Array
    target_degradation_per_h: Array
    quasi_steady_state_constant_nM: Array
    complex_internalisation_per_h: Array
    receptor_ec50_nM: Array
    dimer_efficacy: Array
    dimer_hill: Array
    kappa_stat3: Array
    kappa_stat5: Array
    kappa_akt: Array
    kappa_erk: Array
    rate_stat3_per_h: Array
    rate_stat5_per_h: Array
    rate_akt_per_h: Array
    rate_erk_per_h: Array
    socs_strength: Array
    socs_rate_per_h: Array
    max_stimulation: Array
    share_proliferation: Array
    share_survival: Array
    share_maturation: Array
    stat5_weight: Array
    production_1e9_per_l_per_h: Array
    mean_transit_time_h: Array
    healthy_mean_transit_time_h: Array
    senescence_per_h: Array
    immune_half_saturation_1e9_per_l: Array
    immune_log_activity: Array
    baseline_platelets_1e9_per_l: Array
    tpo_turnover_per_h: Array
    tpo_sink_constant: Array
    tpo_sink_platelets: Array
    tpo_sink_megakaryocytes: Array
    healthy_platelets_1e9_per_l: Array
    tpo_half_activation: Array


class Noise(NamedTuple):
    """Residual error, drift of immune clearance, rescue: every field a scalar or [patients]."""

    residual_log_sd: Array
    immune_drift_log_sd: Array
    immune_drift_time_d: Array
    rescue_max_probability_per_week: Array
    rescue_count_1e9_per_l: Array


class Variability(NamedTuple):
    """Interindividual sds on the log scale; the population names are ``<field>_iiv_log_sd``."""

    clearance_l_per_h: Array
    central_volume_l: Array
    target_degradation_per_h: Array
    receptor_ec50_nM: Array
    max_stimulation: Array
    mean_transit_time_h: Array
    production_1e9_per_l_per_h: Array
    immune_half_saturation_1e9_per_l: Array
    residual_log_sd: Array
    immune_drift_log_sd: Array
    immune_drift_time_d: Array
    rescue_max_probability_per_week: Array
    rescue_count_1e9_per_l: Array


class Demography(NamedTuple):
    """Laws of the covariates and of the baseline count, the allometric exponents, and the share of patients in whom the
    drug does nothing.
    """

    weight_median_kg: Array
    weight_log_sd: Array
    weight_min_kg: Array
    weight_max_kg: Array
    reference_weight_kg: Array
    allometric_flow_exponent: Array
    allometric_volume_exponent: Array
    baseline_log_mean: Array
    baseline_log_sd: Array
    baseline_min_1e9_per_l: Array
    female_share: Array
    splenectomy_share: Array
    corticosteroid_share: Array
    east_asian_share: Array
    healthy_share: Array
    hepatic_impairment_share: Array
    non_responder_share: Array
    age_median_y: Array
    age_log_sd: Array
    age_min_y: Array
    age_max_y: Array


class CovariateRatios(NamedTuple):
    """Factors on clearance, 1 for no effect; each goes with the share of the same name in Demography."""

    female_clearance_ratio: Array
    splenectomy_clearance_ratio: Array
    corticosteroid_clearance_ratio: Array
    east_asian_clearance_ratio: Array
    healthy_clearance_ratio: Array
    hepatic_impairment_clearance_ratio: Array


class Population(NamedTuple):
    """Everything random patients are drawn from; leaves scalar, or [patients] where vectors differ.

    ``correlation_cholesky`` [13, 13], or [patients, 13, 13], is the lower Cholesky factor of the correlation of the
    random effects, in the order of Variability. second: the same patients with the pharmacology of the second drug of
    an arm that has two.
    """

    typical: Parameters
    noise: Noise
    iiv_log_sd: Variability
    correlation_cholesky: Array
    demography: Demography
    covariates: CovariateRatios
    second: Any = None


class Food(NamedTuple):
    """Factors on bioavailability and on both absorption rates for one meal."""

    fed_bioavailability_ratio: float
    fed_absorption_ratio: float


CORRELATION = "correlation["  # and two random effects: the name of their correlation
SECOND = "second."  # and a name: of the population with the second drug
SD_NAMES = tuple(name + SD_SUFFIX for name in Variability._fields)


@dataclass(frozen=True)
class Library:
    """The parameter tables of one drug in one disease, immutable.

    ``entries`` (typical values and noise), ``sd_entries``, ``demography_entries``, ``covariate_entries``,
    ``priors`` (groups included) and ``food_entries`` (by meal) are read-only mappings by name.
    """

    drug: str
    disease: str
    entries: Mapping[str, Entry]
    sd_entries: Mapping[str, Entry]
    demography_entries: Mapping[str, Entry]
    covariate_entries: Mapping[str, Entry]
    food_entries: Mapping[str, Mapping[str, Entry]]
    priors: Mapping[str, Prior]
    correlations: tuple[tuple[str, str, Entry], ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # read-only views cannot be pickled, and workers need the library
        thawed = [_thaw(getattr(self, field.name)) for field in fields(self)]
        return _rebuild, tuple(thawed)

    def names(self) -> tuple[str, ...]:
        """All population parameters a fit may estimate: typical values, noise, interindividual sds, and what of the
        demography has a prior.
        """
        return (*self.entries, *self.sd_entries, *(n for n, e in self.demography_entries.items() if e.prior))

    def entry(self, name: str) -> Entry:
        """The Entry of any name, demography and covariate ratios too; InputError if unknown."""
        for group in (self.entries, self.sd_entries, self.demography_entries, self.covariate_entries):
            if name in group:
                return group[name]
        legal = (*self.names(), *self.demography_entries, *self.covariate_entries)
        raise InputError(f"unknown parameter {name!r}{nearest(str(name), legal)}")

    def value(self, name: str) -> float:
        """The value of any name; InputError with the nearest legal name if it is unknown."""
        return self.entry(name).value

    def free_names(self) -> tuple[str, ...]:
        """Population parameters that are estimated by default, in the order of ``names``."""
        priors = {name: self.entry(name).prior for name in self.names()}
        return tuple(name for name, prior in priors.items() if prior is not None and prior.free)

    def food(self, meal: str) -> Food:
        """Ratios of a meal (``fasted`` gives 1, 1); InputError if the drug has no numbers for it."""
        if meal == "fasted":
            return Food(1.0, 1.0)
        if meal not in self.food_entries:
            raise InputError(f"unknown meal {meal!r}{nearest(str(meal), ('fasted', *self.food_entries))}")
        return Food(**{name: entry.value for name, entry in self.food_entries[meal].items()})

    def parameters(self, dtype: Any = jnp.float32, **overrides: float) -> Parameters:
        """The typical patient (scalars), values replaced by ``overrides``; rules between them are checked."""
        values = check_parameters({n: self.value(n) for n in Parameters._fields} | overrides, "parameters")
        return Parameters(**{name: _leaf(values[name], dtype) for name in Parameters._fields})

    def population(self, dtype: Any = jnp.float32) -> Population:
        """The population vector of the library: scalars of ``dtype`` and the [13, 13] Cholesky factor."""
        return Population(
            typical=self.parameters(dtype),
            noise=Noise(*(_leaf(self.value(n), dtype) for n in Noise._fields)),
            iiv_log_sd=Variability(*(_leaf(self.value(n), dtype) for n in SD_NAMES)),
            correlation_cholesky=_leaf(correlation_cholesky(self.correlations), dtype),
            demography=Demography(*(_leaf(self.value(n), dtype) for n in Demography._fields)),
            covariates=CovariateRatios(*(_leaf(self.value(n), dtype) for n in CovariateRatios._fields)),
        )


def load_library(
    drug: str = "hetrombopag",
    disease: str = "itp",
    overrides: Mapping[str, float] | None = None,
    folder: str | Path | None = None,
) -> Library:
    """Reads and validates the tables of ``drug`` and ``disease`` (``itp`` or ``healthy``).

    ``overrides`` replaces values by name (parameters, noise, ``<name>_iiv_log_sd``, demography, covariate
    ratios); ``folder`` is searched for tables before the shipped library. Raises InputError, one line that
    names file, key, value and what is legal.
    """
    found = loading.read_library(drug, disease, folder)
    priors, where_priors = found.pop("priors"), found.pop("where_priors")
    library = Library(drug=drug, disease=disease, priors={}, **found)
    correlation_cholesky(library.correlations)
    library = with_priors(library, priors, where_priors)
    return with_overrides(library, overrides or {}, "overrides")


def load_centre(name: str = "alternative_centre", folder: str | Path | None = None) -> dict[str, float]:
    """Values of a named set such as ``alternative_centre``, for ``load_library(overrides=...)``."""
    return loading.read_centre(name, folder)


def with_overrides(library: Library, overrides: Mapping[str, Any], where: str) -> Library:
    """The library with values replaced by name; InputError for an unknown name or a value out of range."""
    parts = ("entries", "sd_entries", "demography_entries", "covariate_entries")
    groups = {part: dict(getattr(library, part)) for part in parts}
    for name, value in overrides.items():
        try:
            old = library.entry(name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        number = check_value(value, field_of(name), f"{where}: {name}")
        home = next(group for group in groups.values() if name in group)
        home[name] = replace(old, value=number, status="assumed", source=f"set by the user ({where})")
    check_rules({n: e.value for group in groups.values() for n, e in group.items()}, where)
    changed: dict[str, Any] = dict(groups)
    return _linked(replace(library, **changed), where)


def with_priors(library: Library, priors: Mapping[str, Any], where: str) -> Library:
    """The library with priors added or replaced, each a table as in ``priors.toml``; InputError if bad."""
    merged = dict(library.priors)
    for name, table in priors.items():
        prior = tables.read_prior(name, table, f"{where}: {name}")
        legal = (*library.names(), *library.demography_entries)
        if not prior.members and name not in legal:
            raise InputError(f"{where}: unknown parameter {name!r}{nearest(name, legal)}")
        merged[name] = prior
    return _linked(replace(library, priors=merged), where)


def _linked(library: Library, where: str) -> Library:
    """Read-only library whose entries carry their prior and interindividual sd.

    What of the demography has a prior is listed by ``Library.names``: a fit may estimate it.
    """
    by_name = {m: p for p in library.priors.values() if p.distribution == "dirichlet" for m in p.members}
    by_name |= {name: p for name, p in library.priors.items() if not p.members}

    def prior(entry: Entry, name: str) -> Prior | None:
        found = by_name.get(name)
        if found is None or found.distribution == "beta" or entry.value > 0:
            return found
        if found.free:  # neither a log-normal nor a Dirichlet can be centred on 0
            raise InputError(f"{where}: {name} = {entry.value:g}: a {found.distribution} prior needs a value > 0")
        return None

    sds = {name.removesuffix(SD_SUFFIX): entry.value for name, entry in library.sd_entries.items()}
    entries = {n: replace(e, prior=prior(e, n), iiv_log_sd=sds.get(n)) for n, e in library.entries.items()}
    changed: dict[str, Any] = {
        part: {n: replace(e, prior=prior(e, n)) for n, e in getattr(library, part).items()}
        for part in ("sd_entries", "demography_entries")
    }
    return _freeze(replace(library, entries=entries, **changed))


def check_parameters(values: Mapping[str, Any], where: str) -> dict[str, float]:
    """Values of typical parameters by name as floats, each within its range and together obeying the rules.

    For a CASE.toml merge its table over the library's values first: shares are checked after overrides.
    Raises InputError that starts with ``where`` and names key, value and what is legal.
    """
    checked = {}
    for name, value in values.items():
        if name not in Parameters._fields:
            raise InputError(f"{where}: unknown parameter {name!r}{nearest(str(name), Parameters._fields)}")
        checked[name] = check_value(value, field_of(name), f"{where}: {name}")
    check_rules(checked, where)
    return checked


def with_values(population: Population, values: Mapping[str, Any]) -> Population:
    """The population with leaves replaced by name, ``<name>_iiv_log_sd`` and ``correlation[A,B]`` too, each a scalar or
    [patients]. Names after ``second.`` are of the population with the second drug.

    Works on traced arrays, so values are not checked; an unknown name or a matrix is an InputError.
    """
    if of_second := {name.removeprefix(SECOND): v for name, v in values.items() if name.startswith(SECOND)}:
        population = population._replace(second=with_values(population.second, of_second))
        values = {name: v for name, v in values.items() if not name.startswith(SECOND)}
    parts: dict[str, dict[str, Array]] = {
        part: {} for part in ("typical", "noise", "iiv_log_sd", "demography", "covariates")
    }
    correlations = {name: value for name, value in values.items() if name.startswith(CORRELATION)}
    for name, value in values.items():
        if name in correlations:
            continue
        sd = name.removesuffix(SD_SUFFIX) if name in SD_NAMES else None
        for part, changed in parts.items():
            key = sd if part == "iiv_log_sd" else name
            if key is not None and key in getattr(population, part)._fields:
                leaf = jnp.asarray(value, getattr(getattr(population, part), key).dtype)
                if leaf.ndim > 1:
                    raise InputError(f"{name}: array of shape {leaf.shape}; legal: a scalar or [patients]")
                changed[key] = leaf
                break
        else:
            legal = (*Parameters._fields, *Noise._fields, *SD_NAMES, *Demography._fields)
            legal += CovariateRatios._fields
            raise InputError(f"unknown population parameter {name!r}{nearest(str(name), legal)}")
    if correlations:
        population = population._replace(
            correlation_cholesky=_with_correlations(population.correlation_cholesky, correlations)
        )
    return population._replace(**{p: getattr(population, p)._replace(**c) for p, c in parts.items() if c})


def correlation_name(first: str, second: str) -> str:
    """Name of the correlation of two random effects, as ``with_values`` takes it."""
    return f"{CORRELATION}{first},{second}]"


def _with_correlations(root: Array, values: Mapping[str, Any]) -> Array:
    """The Cholesky factor with correlations replaced by name: [13, 13], or [patients, 13, 13] of arrays [patients].

    The caller sees to it that the matrix stays positive definite.
    """
    matrix = root @ jnp.swapaxes(root, -1, -2)
    shape = jnp.broadcast_shapes(*(jnp.shape(v) for v in values.values()))
    matrix = jnp.broadcast_to(matrix, (*shape, *matrix.shape[-2:]))
    for name, value in values.items():
        pair = name.removeprefix(CORRELATION).removesuffix("]").split(",")
        if len(pair) != 2 or any(member not in Variability._fields for member in pair):
            raise InputError(f"unknown population parameter {name!r}; legal: {CORRELATION}A,B] of two random effects")
        i, j = (Variability._fields.index(member) for member in pair)
        value = jnp.asarray(value, matrix.dtype)
        matrix = matrix.at[..., i, j].set(value).at[..., j, i].set(value)
    return jnp.linalg.cholesky(matrix)


def correlation_cholesky(correlations: tuple[tuple[str, str, Entry], ...]) -> np.ndarray:
    """Lower Cholesky factor [13, 13] of the correlation matrix; InputError if it is not positive definite."""
    order = Variability._fields
    matrix = np.eye(len(order))
    for first, second, entry in correlations:
        i, j = order.index(first), order.index(second)
        matrix[i, j] = matrix[j, i] = entry.value
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        pairs = ", ".join(f"{a} with {b}: {e.value:g}" for a, b, e in correlations)
        raise InputError(f"correlations ({pairs}): the matrix is not positive definite") from None


def _leaf(value: Any, dtype: Any) -> Array:
    if jnp.dtype(dtype) == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise InputError("dtype float64 needs jax.config.update('jax_enable_x64', True); else use float32")
    return jnp.asarray(value, dtype)


def _thaw(value: Any) -> Any:
    return {k: _thaw(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _freeze(library: Library) -> Library:
    def view(value: Any) -> Any:
        if isinstance(value, Mapping):
            return MappingProxyType({k: view(v) for k, v in value.items()})
        return value

    return Library(**{field.name: view(getattr(library, field.name)) for field in fields(library)})


def _rebuild(*values: Any) -> Library:
    return _freeze(Library(*values))
