"""Finds and reads the library files of a drug and a disease into groups of entries, checked one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkpd import tables
from pkpd.errors import InputError, nearest
from pkpd.tables import (
    FOLDER,
    SD_SUFFIX,
    Entry,
    Field,
    check_rules,
    field_of,
    read_entries,
    read_toml,
    schema,
)


def read_library(drug: str, disease: str, folder: str | Path | None) -> dict[str, Any]:
    """The tables of one drug and disease by group; priors are still raw, since they can refer to any entry.

    ``folder`` is searched before the shipped library. Raises InputError that names file, key and value.
    """
    files = library_files(folder)
    names = {"drug": drug, "physiology": f"physiology_{disease}"}
    drug_table = _read_kind(files, drug, "drug", f"unknown drug {drug!r}")
    physiology = _read_kind(files, names["physiology"], "physiology", f"unknown disease {disease!r}", "physiology_")
    variability = _read_kind(files, "variability", "variability")
    noise = _read_kind(files, "noise", "noise")
    priors = _read_kind(files, "priors", "priors")
    at = {
        kind: _label(files[names.get(kind, kind)]) for kind in ("drug", "physiology", "variability", "noise", "priors")
    }

    covariates, demography = drug_table.pop("covariates", {}), physiology.pop("demography", {})
    food = drug_table.pop("food", {})
    if not isinstance(food, dict):
        raise InputError(f"{at['drug']}: food = {food!r}: not a table; legal: a table for each meal")
    correlations = _read_correlations(variability.pop("correlations", []), at["variability"])
    fields = schema()
    sd_fields = {name: replace(fields["interindividual"], name=name + SD_SUFFIX) for name in fields["varying"]}

    entries = read_entries(drug_table, fields["drug"], at["drug"])
    entries |= read_entries(physiology, fields["physiology"], at["physiology"])
    entries |= read_entries(noise, fields["noise"], at["noise"])
    sds = read_entries(variability, sd_fields, at["variability"])
    laws = read_entries(demography, fields["demography"], f"{at['physiology']}: demography")
    check_rules(_values(entries | laws), f"{at['drug']} with {at['physiology']}")
    return {
        "entries": entries,
        "sd_entries": {entry.name: entry for entry in sds.values()},
        "demography_entries": laws,
        "covariate_entries": read_entries(covariates, fields["covariates"], f"{at['drug']}: covariates"),
        "food_entries": {m: read_entries(t, fields["food"], f"{at['drug']}: food.{m}") for m, t in food.items()},
        "correlations": correlations,
        "priors": priors,
        "where_priors": at["priors"],
    }


def read_centre(name: str, folder: str | Path | None) -> dict[str, float]:
    """Values by name of a file of kind ``centre``; InputError as for any table, or if it does not exist."""
    files = library_files(folder)
    table = _read_kind(files, name, "centre", f"unknown centre {name!r}")
    where = _label(files[name])
    fields: dict[str, Field] = {}
    for key in table:
        try:
            fields[key] = replace(field_of(key), name=key)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return _values(read_entries(table, fields, where))


def library_files(folder: str | Path | None = None) -> dict[str, Path]:
    """TOML files by stem, those of ``folder`` before the shipped ones; InputError if it is not a folder."""
    files = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if folder is not None:
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: is not a folder; legal: a folder of library tables (*.toml)")
        files |= {path.stem: path for path in sorted(Path(folder).glob("*.toml"))}
    return files


def drugs(folder: str | Path | None = None) -> tuple[str, ...]:
    """Names of all drugs in the library."""
    return _of_kind(library_files(folder), "drug")


def diseases(folder: str | Path | None = None) -> tuple[str, ...]:
    """Names of all diseases in the library; ``healthy`` is one of them."""
    return _of_kind(library_files(folder), "physiology", "physiology_")


def _of_kind(files: Mapping[str, Path], kind: str, prefix: str = "") -> tuple[str, ...]:
    return tuple(stem.removeprefix(prefix) for stem, path in files.items() if read_toml(path).get("kind") == kind)


def _read_kind(files: Mapping[str, Path], stem: str, kind: str, unknown: str = "", prefix: str = "") -> dict[str, Any]:
    """Content of a file of the given kind, without its ``kind``; InputError suggests the nearest."""
    if stem not in files:
        asked = str(stem).removeprefix(prefix)
        raise InputError(f"{unknown}{nearest(asked, _of_kind(files, kind, prefix))}")
    table = read_toml(files[stem])
    if table.get("kind") != kind:
        legal = nearest(stem.removeprefix(prefix), _of_kind(files, kind, prefix))
        raise InputError(f"{_label(files[stem])}: kind = {table.get('kind')!r}: not {kind!r}{legal}")
    del table["kind"]
    return table


def _read_correlations(rows: Any, where: str) -> tuple[tuple[str, str, Entry], ...]:
    """(parameter, parameter, Entry of their correlation) for each ``[[correlations]]`` table."""
    if not isinstance(rows, list):
        raise InputError(f"{where}: correlations = {rows!r}: not legal; legal: [[correlations]] tables")
    legal: Iterable[str] = schema()["varying"]
    found: dict[frozenset[str], tuple[str, str, Entry]] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{where}: correlations, number {number}"
        keys = ("between", *tables.ENTRY_KEYS)
        tables.check_keys(row, keys, keys, place)
        pair = row.pop("between")
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(f"{place}: between = {pair!r}: not legal; legal: two different parameter names")
        for name in pair:
            if name not in legal:
                raise InputError(f"{place}: unknown parameter {name!r}{nearest(str(name), legal)}")
        if frozenset(pair) in found:
            raise InputError(f"{place}: between = {pair!r}: given twice")
        entry = tables.read_entry(row, schema()["interindividual_correlation"], place)
        found[frozenset(pair)] = (pair[0], pair[1], entry)
    return tuple(found.values())


def _values(entries: Mapping[str, Entry]) -> dict[str, float]:
    return {name: entry.value for name, entry in entries.items()}


def _label(path: Path) -> str:
    """A file as messages name it: shipped ones by name, others by path."""
    return path.name if path.parent == FOLDER else str(path)
