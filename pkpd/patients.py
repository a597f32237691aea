"""A user's own table of patients, from which virtual ones take baseline count, weight and covariates.

A CSV file with a row a patient: ``baseline_1e9_per_l`` and ``weight_kg``, ``age_y`` where something asks for ages, and
as many of the columns ``COVARIATES`` (0 or 1) as are known. Covariates without a column, and all random effects, are
drawn as without a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from pkpd.datatables import records
from pkpd.errors import InputError
from pkpd.tomlfile import shown
from pkpd.validated import List, Table

if TYPE_CHECKING:
    from pkpd import cohort

LARGEST = {"baseline_1e9_per_l": 10_000.0, "weight_kg": 1_000.0, "age_y": 150.0}  # of numbers, all above 0
NEEDED = ("baseline_1e9_per_l", "weight_kg")
COVARIATES = ("female", "splenectomy", "corticosteroid", "east_asian", "hepatic_impairment")
MAX_ROWS = 100_000  # a patient's row is drawn by one uniform of 23 bits
T = TypeVar("T")


class PatientTable(Table):
    """Columns of a table of patients; ``file`` as the scenario names it. ``covariates``: 0 or 1, by column."""

    file: str
    baseline_1e9_per_l: List[float]
    weight_kg: List[float]
    covariates: dict[str, List[int]]
    age_y: List[float] | None = None

    @property
    def rows(self) -> int:
        """Number of patients."""
        return len(self.weight_kg)

    def __repr__(self) -> str:
        """With a hash of the content: scenarios are told apart by their text."""
        content = hashlib.sha256(self.model_dump_json(exclude={"file"}).encode()).hexdigest()
        return f"PatientTable(file={self.file!r}, rows={self.rows}, sha256={content!r})"


def read_patients(name: Any, folder: Path) -> PatientTable:
    """The table of a CSV file, checked; InputError that names file, line (the header is 1), column and value."""
    if isinstance(name, PatientTable):
        return name
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{shown(name)}: legal: the path of a CSV file")
    path = folder / name
    if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe would wait for a writer
        raise InputError(f"{path}: is no regular file; a CSV file is expected")
    found = records(path, NEEDED, ("age_y", *COVARIATES))
    if not 0 < len(found) <= MAX_ROWS:
        raise InputError(f"{path}: {len(found)} rows below the header; legal: from 1 to {MAX_ROWS}")

    def column(name: str, read: Callable[[str], T | None], legal: str) -> tuple[T, ...]:
        values = [(line, row[name], read(row[name])) for line, row in found]
        for line, text, value in values:
            if value is None:
                raise InputError(f"{path}: line {line}: {name} = {shown(text)}; legal: {legal}")
        return tuple(value for _, _, value in values if value is not None)

    def number(name: str) -> tuple[float, ...]:
        most = LARGEST[name]
        return column(name, lambda text: _positive(text, most), f"a number above 0 and at most {most:g}")

    return PatientTable(
        file=name,
        baseline_1e9_per_l=number("baseline_1e9_per_l"),
        weight_kg=number("weight_kg"),
        covariates={name: column(name, _yes_or_no, "0 or 1") for name in COVARIATES if name in found[0][1]},
        age_y=number("age_y") if "age_y" in found[0][1] else None,
    )


def _positive(text: str, most: float) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < np.float32(value) and value <= most else None  # single precision, as it is used


def _yes_or_no(text: str) -> int | None:
    return {"0": 0, "1": 1}.get(text)


class Conditions(NamedTuple):
    """Who may enter. ranges: by column the least value and the one it has to be below, None for no limit. has: whether
    patients have a covariate, by its name.
    """

    ranges: Mapping[str, tuple[float | None, float | None]]
    has: Mapping[str, bool]


WORDS = {"baseline_1e9_per_l": ("platelets", " x 10^9/L"), "weight_kg": ("weight", " kg"), "age_y": ("age", " y")}


def in_words(conditions: Conditions) -> list[str]:
    """Each condition in words."""
    found = []
    for name, (low, below) in conditions.ranges.items():
        what, unit = WORDS[name]
        limits = [f"{word} {x:g}" for word, x in (("from", low), ("below", below)) if x is not None]
        found += [f"{what} {' to '.join(limits)}{unit}"] if limits else []
    names = {name: name.replace("_", " ") for name in conditions.has}
    return found + [names[name] if wanted else f"no {names[name]}" for name, wanted in conditions.has.items()]


def _meet(table: PatientTable, conditions: Conditions) -> dict[str, np.ndarray]:
    """Whether each row meets each condition that is of a column of the table, by its words."""
    found: dict[str, np.ndarray] = {}
    for name, (low, below) in conditions.ranges.items():
        if getattr(table, name) is None:
            continue
        values = np.asarray(getattr(table, name), np.float32)  # in single precision as the engine compares them
        one = Conditions({name: (low, below)}, {})
        inside = np.ones(len(values), bool) if low is None else values >= np.float32(low)
        found |= dict.fromkeys(in_words(one), inside if below is None else inside & (values < np.float32(below)))
    for name, wanted in conditions.has.items():
        if name in table.covariates:
            found |= dict.fromkeys(in_words(Conditions({}, {name: wanted})), np.equal(table.covariates[name], wanted))
    return found


def eligible(table: PatientTable, conditions: Conditions) -> PatientTable:
    """The patients who meet the conditions on the columns that the table has; InputError where there are none."""
    meets = _meet(table, conditions)
    rows = np.flatnonzero(np.all([np.ones(table.rows, bool), *meets.values()], axis=0))
    if not len(rows):
        each = ", ".join(f"{words} ({int(inside.sum())})" for words, inside in meets.items())
        raise InputError(
            f"patients = {shown(table.file)}: none of {table.rows} patients is eligible, the lowest baseline count is "
            f"{min(table.baseline_1e9_per_l):g}; who meet each condition: {each}; legal: one at least who meets all"
        )
    numbers = {name: getattr(table, name) for name in LARGEST}
    return table.model_copy(
        update={
            **{name: None if x is None else tuple(x[i] for i in rows) for name, x in numbers.items()},
            "covariates": {name: tuple(column[i] for i in rows) for name, column in table.covariates.items()},
        }
    )


def as_arrays(table: PatientTable) -> cohort.Table:
    """The patients as the engine draws them, in single precision for either precision of the courses."""
    from pkpd import cohort
    from pkpd.parameters import CovariateRatios

    def column(values: Sequence[float] | None) -> Any:
        return None if values is None else np.asarray(values, np.float32)

    names = (name.removesuffix("_clearance_ratio") for name in CovariateRatios._fields)
    has = CovariateRatios(*(column(table.covariates.get(name)) for name in names))
    return cohort.Table(column(table.baseline_1e9_per_l), column(table.weight_kg), has, column(table.age_y))


def describe(table: PatientTable, conditions: Conditions) -> str:
    """Who of the table is drawn, on one line."""
    used = eligible(table, conditions)
    left_out = table.rows - used.rows
    also = "" if used.age_y is None else f", age {np.median(used.age_y):.4g} y"
    also += "".join(f", {100 * np.mean(column):.3g}% {name}" for name, column in used.covariates.items())
    middle = (
        f"median baseline {np.median(used.baseline_1e9_per_l):.4g}, weight {np.median(used.weight_kg):.4g} kg{also}"
    )
    return f"Patients: drawn from {used.rows} of {table.file} ({left_out} not eligible, left out), {middle}"
