"""Reads the parameter tables of ``pkpd/library``: one entry is a value with its unit, source and status.

Every check of a number a user may write lives here, driven by ``library/schema.toml`` (unit and physical
range of each name), so that no number of the model is in Python. Errors are :class:`pkpd.errors.InputError`,
one line that names file, key, value and what is legal.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pkpd.errors import InputError, nearest

FOLDER = Path(__file__).parent / "library"
STATUSES = ("published", "secondary", "derived", "assumed")
ENTRY_KEYS = ("value", "unit", "status", "source")
# What each prior distribution needs beside free, status and source; True where it spans several parameters.
DISTRIBUTIONS = {
    "lognormal": (("log_sd",), False),
    "beta": (("alpha", "beta"), False),
    "dirichlet": (("concentration",), True),
    "halfnormal": (("scale",), True),
}
SD_SUFFIX = "_iiv_log_sd"


@dataclass(frozen=True)
class Field:
    """What the schema says of one name: its only legal unit and its physical range."""

    name: str
    unit: str
    description: str
    lower: float
    upper: float
    symbol: str = ""
    lower_open: bool = False
    upper_open: bool = False

    def range_text(self) -> str:
        """The legal range in words, such as ``a number > 0 and <= 1 (unit -)``."""
        low = f"{'>' if self.lower_open else '>='} {self.lower:g}"
        high = f"{'<' if self.upper_open else '<='} {self.upper:g}"
        return f"a number {low} and {high} (unit {self.unit})"


@dataclass(frozen=True)
class Prior:
    """Prior of one population parameter, or of a group (``members``); numbers it does not use are None.

    lognormal: ``log_sd`` about the log of the library's value. beta: ``alpha``, ``beta``. dirichlet:
    ``concentration`` times the value of each member. halfnormal: ``scale`` of the sd of a study's log shift.
    ``free`` tells whether a fit estimates it by default.
    """

    name: str
    distribution: str
    free: bool
    status: str
    source: str
    log_sd: float | None = None
    alpha: float | None = None
    beta: float | None = None
    concentration: float | None = None
    scale: float | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One number of the library and its origin; ``iiv_log_sd`` is None where individuals do not differ."""

    name: str
    value: float
    unit: str
    status: str
    source: str
    iiv_log_sd: float | None = None
    prior: Prior | None = None


def read_toml(path: Path) -> dict[str, Any]:
    """Content of a TOML file; InputError if it is missing, unreadable, a folder, binary or malformed."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; a TOML file is expected") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text (UTF-8); a TOML file is expected") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: malformed TOML: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=1)
def schema() -> Mapping[str, Any]:
    """The schema by group: Fields by name, but a table in ``rules`` and names in ``varying``."""
    raw = read_toml(FOLDER / "schema.toml")
    single = ("interindividual", "interindividual_correlation")
    groups: dict[str, Any] = {name: Field(name, **raw.pop(name)) for name in single}
    groups["rules"] = raw.pop("rules")
    groups["varying"] = tuple(raw.pop("varying")["names"])
    for group, fields in raw.items():
        groups[group] = {name: Field(name, **table) for name, table in fields.items()}
    return groups


def field_of(name: str) -> Field:
    """The schema's field of any population name, ``<name>_iiv_log_sd`` included; InputError if unknown."""
    groups = schema()
    for group in ("drug", "physiology", "noise", "demography", "covariates", "food"):
        if name in groups[group]:
            return groups[group][name]
    if name.endswith(SD_SUFFIX):
        return groups["interindividual"]
    raise InputError(f"unknown name {name!r}{nearest(name, all_names())}")


def all_names() -> list[str]:
    """Every name the schema knows a unit and range for, without interindividual sds."""
    groups = schema()
    return [n for group in ("drug", "physiology", "noise", "demography", "covariates") for n in groups[group]]


def check_value(value: Any, field: Field, where: str) -> float:
    """``value`` as a float if it is a finite number inside the field's range, else InputError."""
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        number = float(value)  # NumPy and JAX scalars are numbers too
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where} = {value!r}: not a number; legal: {field.range_text()}") from None
    below = number <= field.lower if field.lower_open else number < field.lower
    above = number >= field.upper if field.upper_open else number > field.upper
    if not math.isfinite(number) or below or above:
        raise InputError(f"{where} = {number:g}: out of range; legal: {field.range_text()}")
    return number


def check_keys(table: Any, legal: Iterable[str], required: Iterable[str], where: str) -> None:
    """InputError unless ``table`` is a table with all ``required`` keys and none but ``legal`` ones."""
    legal = tuple(legal)
    if not isinstance(table, dict):
        raise InputError(f"{where} = {table!r}: not a table; legal: a table with {', '.join(legal)}")
    for key in table:
        if key not in legal:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, legal)}")
    for key in required:
        if key not in table:
            raise InputError(f"{where}: missing key {key!r}")


def check_origin(table: Mapping[str, Any], where: str) -> tuple[str, str]:
    """(status, source) of a table; InputError unless the status is legal and the source is not empty."""
    status, source = table["status"], table["source"]
    if status not in STATUSES:
        hint = nearest(status, STATUSES) if isinstance(status, str) else ""
        raise InputError(f"{where}: status = {status!r}: not legal; legal: {', '.join(STATUSES)}{hint}")
    if not isinstance(source, str) or not source.strip():
        raise InputError(f"{where}: source = {source!r}: a {status} number needs the words of its source")
    return status, source


def read_entry(table: Any, field: Field, where: str) -> Entry:
    """The Entry of one table of value, unit, status and source; InputError says what is wrong with it."""
    check_keys(table, ENTRY_KEYS, ENTRY_KEYS, where)
    value = check_value(table["value"], field, f"{where}: value")
    if table["unit"] != field.unit:
        raise InputError(f"{where}: unit = {table['unit']!r}: wrong unit; legal: {field.unit!r}")
    status, source = check_origin(table, where)
    return Entry(field.name, value, field.unit, status, source)


def read_entries(tables: Any, fields: Mapping[str, Field], where: str) -> dict[str, Entry]:
    """All entries of a group, in the schema's order; unknown and missing names are InputErrors."""
    check_keys(tables, fields, fields, where)
    return {name: read_entry(tables[name], field, f"{where}: {name}") for name, field in fields.items()}


def read_prior(name: str, table: Any, where: str) -> Prior:
    """The Prior of one table; InputError for an unknown distribution, a bad number or no source."""
    common = ("distribution", "free", "status", "source")
    every = (*common, "members", *(n for numbers, _ in DISTRIBUTIONS.values() for n in numbers))
    check_keys(table, every, common, where)
    distribution, free = table["distribution"], table["free"]
    if distribution not in DISTRIBUTIONS:
        hint = nearest(distribution, DISTRIBUTIONS) if isinstance(distribution, str) else ""
        legal = ", ".join(DISTRIBUTIONS)
        raise InputError(f"{where}: distribution = {distribution!r}: not legal; legal: {legal}{hint}")
    numbers, grouped = DISTRIBUTIONS[distribution]
    keys = (*common, *numbers, *(("members",) if grouped else ()))
    check_keys(table, keys, keys, f"{where} ({distribution})")
    if not isinstance(free, bool):
        raise InputError(f"{where}: free = {free!r}: not legal; legal: true or false")
    status, source = check_origin(table, where)
    positive = Field("", "-", "", 0.0, math.inf, lower_open=True, upper_open=True)
    values = {n: check_value(table[n], positive, f"{where}: {n}") for n in numbers}
    members = table.get("members", [])
    if not isinstance(members, list) or (grouped and not members):
        raise InputError(f"{where}: members = {members!r}: not legal; legal: a list of parameter names")
    for member in members:
        if member not in all_names():
            hint = nearest(str(member), all_names())
            raise InputError(f"{where}: members: unknown name {member!r}{hint}")
    return Prior(name, distribution, free, status, source, **values, members=tuple(members))


def check_rules(values: Mapping[str, float], where: str) -> None:
    """Rules between parameters: shares that add to 1, values in order, phases that fit into a day.

    ``values`` maps names to numbers; a rule whose names are not all there is not checked.
    """
    rules = schema()["rules"]

    def complete(kind: str) -> list[list[str]]:
        return [group for group in rules[kind] if all(name in values for name in group)]

    def text(group: list[str], sign: str) -> str:
        return sign.join(f"{name} ({values[name]:g})" for name in group)

    for group in complete("add_to_1"):
        total = math.fsum(values[name] for name in group)
        if abs(total - 1.0) > rules["tolerance"]:
            raise InputError(f"{where}: {text(group, ' + ')} = {total:g}: must add to 1")
    for group in complete("within_a_day"):
        total = math.fsum(values[name] for name in group)
        if total > rules["day_h"]:
            raise InputError(f"{where}: {text(group, ' + ')} = {total:g} h: must be at most {rules['day_h']:g} h")
    for group in complete("increasing"):
        if any(values[a] > values[b] for a, b in pairwise(group)):
            raise InputError(f"{where}: {text(group, ', ')}: must be in increasing order")
