"""A case: one patient with explicit times, doses and parameters, read from a TOML file and checked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pkpd.errors import InputError
from pkpd.parameters import Parameters, check_parameters, load_library
from pkpd.tables import check_keys
from pkpd.tomlfile import read_toml, shown

KEYS = ("times_h", "daily_doses", "parameters", "drug")
DOSE_KEYS = ("first_day", "last_day", "mg")
HOURS_A_DAY = 24
MAX_DAY = 3660
MAX_TIMES = 1_000_000
MAX_MG = 10_000.0


@dataclass(frozen=True)
class DailyDoses:
    """``mg`` at hour 0 of every day from ``first_day`` to ``last_day``, both included."""

    first_day: int
    last_day: int
    mg: float


@dataclass(frozen=True)
class Case:
    """Times of output (h, sorted, the first dose is at 0), doses, and parameters of the typical patient replaced."""

    drug: str
    times_h: tuple[float, ...]
    daily_doses: tuple[DailyDoses, ...]
    parameters: Mapping[str, float]

    def dose_by_day_mg(self) -> np.ndarray:
        """Doses [days] in mg, of day 0 to the day of the last time; rows that overlap add up."""
        doses = np.zeros(int(self.times_h[-1] // HOURS_A_DAY) + 1)
        for row in self.daily_doses:
            doses[row.first_day : row.last_day + 1] += row.mg
        return doses

    def patient(self, dtype: Any) -> Parameters:
        """The patient's parameters: the library's typical values with those of the case."""
        return load_library(self.drug).parameters(dtype, **self.parameters)


def load_case(path: str | Path) -> Case:
    """The Case of a TOML file; InputError, one line that names file, key, value and what is legal."""
    raw, where = read_toml(path), str(path)
    check_keys(raw, KEYS, ("times_h",), where)
    rows = raw.get("daily_doses", [])
    if not isinstance(rows, list):
        raise InputError(f"{where}: daily_doses = {shown(rows)}: not legal; legal: [[daily_doses]] tables")
    drug, parameters = raw.get("drug", "hetrombopag"), raw.get("parameters", {})
    if not isinstance(drug, str):
        raise InputError(f"{where}: drug = {shown(drug)}: not legal; legal: the name of a drug of the library")
    check_keys(parameters, Parameters._fields, (), f"{where}: parameters")
    try:
        library = load_library(drug)
    except InputError as error:
        raise InputError(f"{where}: drug: {error}") from None
    typical = {name: library.value(name) for name in Parameters._fields}
    checked = check_parameters(typical | parameters, f"{where}: parameters")
    return Case(
        drug=drug,
        times_h=_times(raw["times_h"], f"{where}: times_h"),
        daily_doses=tuple(_doses(row, f"{where}: daily_doses[{i}]") for i, row in enumerate(rows, start=1)),
        parameters={name: checked[name] for name in parameters},
    )


def _times(values: Any, where: str) -> tuple[float, ...]:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_TIMES:
        raise InputError(f"{where} = {shown(values)}: not legal; legal: a list of 1 to {MAX_TIMES} times")
    last = HOURS_A_DAY * MAX_DAY
    times = tuple(_number(value, 0, last, f"{where}[{i}]") for i, value in enumerate(values, start=1))
    for i, (before, after) in enumerate(itertools.pairwise(times), start=2):
        if after < before:
            raise InputError(f"{where}[{i}] = {after:g}: earlier than {before:g} before it; legal: sorted times")
    return times


def _doses(row: Any, where: str) -> DailyDoses:
    check_keys(row, DOSE_KEYS, DOSE_KEYS, where)
    first, last = (_day(row[key], f"{where}.{key}") for key in DOSE_KEYS[:2])
    if last < first:
        raise InputError(f"{where}.last_day = {last}: before first_day = {first}; legal: the same day or later")
    return DailyDoses(first, last, _number(row["mg"], 0, MAX_MG, f"{where}.mg"))


def _day(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_DAY:
        raise InputError(f"{where} = {shown(value)}: not legal; legal: a whole number from 0 to {MAX_DAY}")
    return value


def _number(value: Any, low: float, high: float, where: str) -> float:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{where} = {shown(value)}: not legal; legal: a number from {low:g} to {high:g}")
    return float(value)
