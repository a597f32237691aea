"""The parameters of the model as pytrees of arrays, and the library they come from.

``load_library`` reads the tables of ``pkpd/library`` into an immutable :class:`Library`; its ``population`` is the
pytree a simulation starts from, its ``parameters`` the typical patient. Names are the file names used everywhere.
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

from pkpd import tables
from pkpd.errors import InputError, nearest
from pkpd.tables import FOLDER, SD_SUFFIX, Entry, Prior, check_rules, check_value, field_of, read_toml, schema

Array = jax.Array


class Parameters(NamedTuple):
    """One patient, or a batch: every field a scalar or [patients]. Units are in the names; see ``schema.toml``."""

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
    """Laws of the covariates and of the baseline count, and the allometric exponents."""

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


class CovariateRatios(NamedTuple):
    """Factors on clearance; 1 switches an effect off. Each goes with the share of the same name in Demography."""

    female_clearance_ratio: Array
    splenectomy_clearance_ratio: Array
    corticosteroid_clearance_ratio: Array
    east_asian_clearance_ratio: Array
    healthy_clearance_ratio: Array
    hepatic_impairment_clearance_ratio: Array


class Population(NamedTuple):
    """Everything random patients are drawn from; leaves scalar, or [patients] where population vectors differ.

    ``correlation_cholesky`` [13, 13] is the lower Cholesky factor of the correlation of the random effects, in the
    order of Variability.
    """

    typical: Parameters
    noise: Noise
    iiv_log_sd: Variability
    correlation_cholesky: Array
    demography: Demography
    covariates: CovariateRatios


class Food(NamedTuple):
    """Factors on bioavailability and on both absorption rates for one meal."""

    fed_bioavailability_ratio: float
    fed_absorption_ratio: float


SD_NAMES = tuple(name + SD_SUFFIX for name in Variability._fields)


@dataclass(frozen=True)
class Library:
    """The parameter tables of one drug in one disease. Immutable; change it with ``load_library(overrides=...)``.

    ``entries`` (typical values and noise), ``sd_entries``, ``demography_entries``, ``covariate_entries``, ``priors``
    (groups included) and ``food_entries`` (by meal) are read-only mappings by name.
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
        """All population parameters a fit may estimate: typical values, noise, interindividual sds."""
        return (*self.entries, *self.sd_entries)

    def entry(self, name: str) -> Entry:
        """The Entry of any name (demography and covariate ratios too); InputError with the nearest if unknown."""
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
        return tuple(n for n in self.names() if self.entry(n).prior is not None and self.entry(n).prior.free)

    def food(self, meal: str) -> Food:
        """Ratios of a meal (``fasted`` gives 1, 1); InputError that lists the meals this drug has numbers for."""
        if meal == "fasted":
            return Food(1.0, 1.0)
        if meal not in self.food_entries:
            raise InputError(f"unknown meal {meal!r}{nearest(str(meal), ('fasted', *self.food_entries))}")
        return Food(**{name: entry.value for name, entry in self.food_entries[meal].items()})

    def parameters(self, dtype: Any = jnp.float32, **overrides: float) -> Parameters:
        """The typical patient (scalars), with values replaced by ``overrides``; rules between them are checked."""
        values = check_parameters({n: self.value(n) for n in Parameters._fields} | overrides, "parameters")
        return Parameters(**{name: _leaf(values[name], dtype) for name in Parameters._fields})

    def population(self, dtype: Any = jnp.float32) -> Population:
        """The population vector of the library, all leaves scalars of ``dtype`` but the [13, 13] Cholesky factor."""
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

    ``overrides`` replaces values by name (parameters, noise, ``<name>_iiv_log_sd``, demography, covariate ratios);
    ``folder`` is searched for tables before the shipped library. Raises InputError, one line that names file, key,
    value and what is legal.
    """
    files = _files(folder)
    physiology = _table(files, f"physiology_{disease}", "physiology", "disease", disease)
    drug_table = _table(files, drug, "drug", "drug", drug)
    where_drug, where_physiology = _where(files[drug]), _where(files[f"physiology_{disease}"])
    groups = schema()

    food = drug_table.pop("food", {})
    covariates = drug_table.pop("covariates", {})
    demography = physiology.pop("demography", {})
    entries = tables.read_entries(drug_table, groups["drug"], where_drug)
    entries |= tables.read_entries(physiology, groups["physiology"], where_physiology)
    entries |= _group(files, "noise", groups["noise"])
    variability = _table(files, "variability", "variability")
    where_variability = _where(files["variability"])
    correlations = _correlations(variability.pop("correlations", []), where_variability)
    sd = groups["interindividual"]
    sd_fields = {name: replace(sd, name=name + SD_SUFFIX) for name in Variability._fields}
    sds = tables.read_entries(variability, sd_fields, where_variability)
    meals = {m: tables.read_entries(t, groups["food"], f"{where_drug}: food.{m}") for m, t in food.items()}
    library = Library(
        drug=drug,
        disease=disease,
        entries=entries,
        sd_entries={name + SD_SUFFIX: entry for name, entry in sds.items()},
        demography_entries=tables.read_entries(demography, groups["demography"], f"{where_physiology}: demography"),
        covariate_entries=tables.read_entries(covariates, groups["covariates"], f"{where_drug}: covariates"),
        food_entries=meals,
        priors={},
        correlations=correlations,
    )
    priors = _table(files, "priors", "priors")
    where_priors = _where(files["priors"])
    library = with_priors(library, priors, where_priors)
    check_rules({n: e.value for n, e in library.entries.items()}, f"{where_drug}, {where_physiology}")
    correlation_cholesky(correlations)
    return with_overrides(library, overrides or {}, "overrides")


def load_centre(name: str = "alternative_centre", folder: str | Path | None = None) -> dict[str, float]:
    """Values of a named set such as ``alternative_centre``, to be given to ``load_library(overrides=...)``."""
    files = _files(folder)
    table = _table(files, name, "centre", "centre", name)
    where = f"{_where(files[name])}"
    fields_of = {key: _field(key, where) for key in table}
    return {key: entry.value for key, entry in tables.read_entries(table, fields_of, where).items()}


def with_overrides(library: Library, overrides: Mapping[str, Any], where: str) -> Library:
    """The library with values replaced by name; InputError for an unknown name or a value out of range."""
    groups: dict[str, dict[str, Entry]] = {}
    for group in ("entries", "sd_entries", "demography_entries", "covariate_entries"):
        groups[group] = dict(getattr(library, group))
    for name, value in overrides.items():
        try:
            old = library.entry(name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        number = check_value(value, field_of(name), f"{where}: {name}")
        new = replace(old, value=number, status="assumed", source=f"override ({where})")
        for group in groups.values():
            if name in group:
                group[name] = new
            elif name == old.name and name.removesuffix(SD_SUFFIX) in group and name.endswith(SD_SUFFIX):
                parameter = name.removesuffix(SD_SUFFIX)
                group[parameter] = replace(group[parameter], iiv_log_sd=number)
    if overrides:
        check_rules({n: e.value for n, e in groups["entries"].items()}, where)
    return _freeze(replace(library, **groups))


def with_priors(library: Library, priors: Mapping[str, Any], where: str) -> Library:
    """The library with priors added or replaced, each a table as in ``priors.toml``; InputError if one is bad."""
    merged = dict(library.priors)
    for name, table in priors.items():
        prior = tables.read_prior(name, table, f"{where}: {name}")
        if not prior.members and name not in library.names():
            raise InputError(f"{where}: unknown parameter {name!r}{nearest(name, library.names())}")
        merged[name] = prior
    by_name = {member: p for p in merged.values() if p.distribution == "dirichlet" for member in p.members}
    by_name |= {name: p for name, p in merged.items() if not p.members}
    sds = {name.removesuffix(SD_SUFFIX): entry.value for name, entry in library.sd_entries.items()}
    return _freeze(
        replace(
            library,
            entries={n: replace(e, prior=by_name.get(n), iiv_log_sd=sds.get(n)) for n, e in library.entries.items()},
            sd_entries={n: replace(e, prior=by_name.get(n)) for n, e in library.sd_entries.items()},
            priors=merged,
        )
    )


def check_parameters(values: Mapping[str, Any], where: str) -> dict[str, float]:
    """Values of typical parameters by name, as floats, each within its range and together obeying the rules.

    For a CASE.toml merge its table over the library's values first, so that shares are checked after overrides.
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
    """The population with leaves replaced by name (``<name>_iiv_log_sd`` too), each a scalar or [patients].

    Works on traced arrays, so values are not checked; an unknown name or a matrix is an InputError.
    """
    parts = {part: {} for part in ("typical", "noise", "iiv_log_sd", "demography", "covariates")}
    for name, value in values.items():
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
            legal = (*Parameters._fields, *Noise._fields, *SD_NAMES, *Demography._fields, *CovariateRatios._fields)
            raise InputError(f"unknown population parameter {name!r}{nearest(str(name), legal)}")
    return population._replace(**{p: getattr(population, p)._replace(**c) for p, c in parts.items() if c})


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
        raise InputError(f"correlations ({pairs}) are not those of any distribution: not positive definite") from None


def _leaf(value: Any, dtype: Any) -> Array:
    if jnp.dtype(dtype) == jnp.float64 and not jax.config.jax_enable_x64:
        raise InputError("dtype float64 needs jax.config.update('jax_enable_x64', True); legal without: float32")
    return jnp.asarray(value, dtype)


def _files(folder: str | Path | None) -> dict[str, Path]:
    """TOML files by stem; those of ``folder`` before the shipped ones."""
    files = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if folder is not None:
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: is not a folder; legal: a folder of library tables (*.toml)")
        files |= {path.stem: path for path in sorted(Path(folder).glob("*.toml"))}
    return files


def _where(path: Path) -> str:
    return path.name if path.parent == FOLDER else str(path)


def _table(files: Mapping[str, Path], stem: str, kind: str, what: str = "", asked: str = "") -> dict[str, Any]:
    """Content of a library file of the given kind, without its ``kind``; InputError lists what exists."""
    if stem not in files or (table := read_toml(files[stem])).get("kind") != kind:
        prefix = "physiology_" if what == "disease" else ""
        legal = [s.removeprefix(prefix) for s, path in files.items() if read_toml(path).get("kind") == kind]
        if what and stem not in files:
            raise InputError(f"unknown {what} {asked!r}{nearest(str(asked), legal)}")
        raise InputError(f"{_where(files[stem])}: kind is not {kind!r}{nearest(str(asked or stem), legal)}")
    table.pop("kind")
    return table


def _group(files: Mapping[str, Path], stem: str, legal: Mapping[str, Any]) -> dict[str, Entry]:
    return tables.read_entries(_table(files, stem, stem), legal, _where(files[stem]))


def _field(name: str, where: str) -> tables.Field:
    try:
        return replace(field_of(name), name=name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _correlations(rows: Any, where: str) -> tuple[tuple[str, str, Entry], ...]:
    if not isinstance(rows, list):
        raise InputError(f"{where}: correlations = {rows!r}: not legal; legal: [[correlations]] tables")
    found: dict[frozenset[str], tuple[str, str, Entry]] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{where}: correlations, number {number}"
        keys = ("between", *tables.ENTRY_KEYS)
        tables.check_keys(row, keys, keys, place)
        pair = row["between"]
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(f"{place}: between = {pair!r}: not legal; legal: two different parameter names")
        for name in pair:
            if name not in Variability._fields:
                raise InputError(f"{place}: unknown parameter {name!r}{nearest(str(name), Variability._fields)}")
        if frozenset(pair) in found:
            raise InputError(f"{place}: between = {pair!r}: given twice")
        field = schema()["interindividual_correlation"]
        entry = tables.read_entry({k: v for k, v in row.items() if k != "between"}, field, place)
        found[frozenset(pair)] = (pair[0], pair[1], entry)
    return tuple(found.values())


def _thaw(value: Any) -> Any:
    return {k: _thaw(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _freeze(library: Library) -> Library:
    def view(value: Any) -> Any:
        return MappingProxyType({k: view(v) for k, v in value.items()}) if isinstance(value, Mapping) else value

    return Library(**{field.name: view(getattr(library, field.name)) for field in fields(library)})


def _rebuild(*values: Any) -> Library:
    return _freeze(Library(*values))
