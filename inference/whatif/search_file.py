"""The file of a search: what is to be best, what must hold, and which values of the scenario may be chosen."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pkpd.errors import InputError, nearest
from pkpd.tomlfile import alternatives, read_toml, shown
from pkpd.validated import List, Table, Text, validate

FOLDER = Path(__file__).parent / "searches"
TRIAL = "whole trial"  # the comparison of figures that are of no arm
RANGE = ("from", "to", "step")
MOST_VALUES = 1000  # of a key
_KEYS = re.compile(r'(?:[^",]|"[^"]*")+')  # what lies between commas outside double quotes
# Keys of how a design is simulated, and of what it is called by: choosing them chooses no design.
NO_DESIGN = ("trial.n_trials", "trial.mc_se_below", "trial.posterior_draws", "trial.name", "trial.description")


class Target(Table):
    """A row of the summary: of an arm, of a comparison (``"ARM vs CONTROL"``), or of neither: of the whole trial.

    quantity ``"power"``: that of the comparison's test, whatever it is. ``"patients"`` of the whole trial is known of
    every design. A ``type_1_error_..`` is of the same design under its null, which is simulated too.
    """

    quantity: Text
    arm: Text | None = None
    comparison: Text | None = None

    @model_validator(mode="after")
    def _of_one(self) -> Target:
        if self.arm is not None and self.comparison is not None:
            raise InputError("arm and comparison exclude each other: the row is of one of the two")
        return self

    @property
    def of(self) -> str:
        """Whose quantity it is, as the summary calls it."""
        return self.arm or self.comparison or TRIAL

    @property
    def null(self) -> bool:
        """Whether it is a quantity of the design under its null."""
        return self.quantity.startswith("type_1_error")

    @property
    def label(self) -> str:
        """Quantity and whose it is."""
        return f"{self.quantity} of {self.of}"


class Objective(Target):
    """What is to be largest or smallest."""

    aim: Literal["max", "min"]

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.aim == "max" else -1


class Constraint(Target):
    """What must hold."""

    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Constraint:
        if (self.at_most is None) == (self.at_least is None):
            raise InputError("at_most or at_least: one of the two is needed, and only one")
        return self

    @property
    def limit(self) -> float:
        """The limit, on whichever side."""
        found = self.at_most if self.at_most is not None else self.at_least
        assert found is not None
        return found

    @property
    def sign(self) -> int:
        """1 where more is worse, -1 where less is."""
        return 1 if self.at_most is not None else -1

    @property
    def text(self) -> str:
        """The constraint in words."""
        return f"{self.label} {'at most' if self.sign > 0 else 'at least'} {self.limit:g}"


class Search(Table):
    """A search, see the module.

    keys: values by key of the scenario as ``--set`` names it, a list or ``{from, to, step}``; a value sets all keys
    that commas separate, or each of them where it is a list with one for each. max_candidates: combinations that are
    simulated at most; of more, a space-filling subset by ``seed``. first_trials: of every candidate in the first round,
    doubled from round to round up to most_trials (default: the scenario's n_trials). budget_trials: of all candidates
    and rounds together. drop_error: chance at most of dropping the best candidate, over all of them and all rounds.
    ties: among candidates within error of the best, the one "closest" to the scenario, or the "best" by its estimate.
    confirm: designs that are confirmed at most, beside the scenario as given.
    """

    objective: Objective
    keys: dict[str, tuple[Any, ...]]
    constraints: List[Constraint] = ()
    max_candidates: int = Field(default=200, ge=2, le=10_000)
    seed: int = Field(default=1, ge=0, lt=2**31)
    first_trials: int = Field(default=100, ge=10, le=10**6)
    most_trials: int | None = Field(default=None, ge=10, le=10**6)
    budget_trials: int = Field(default=50_000, ge=20, le=10**9)
    drop_error: float = Field(default=0.05, gt=0, lt=1)
    ties: Literal["closest", "best"] = "closest"
    confirm: int = Field(default=5, ge=1, le=20)

    @field_validator("keys", mode="before")
    @classmethod
    def _values(cls, table: Any) -> dict[str, tuple[Any, ...]]:
        if not isinstance(table, Mapping) or not table:
            raise ValueError("a table with a key of the scenario at least")
        found: dict[str, tuple[Any, ...]] = {}
        for key, values in _flat(table):
            if key in found:
                raise InputError(f"{key}: given twice; legal: once")
            found[key] = _listed(key, values)
        return found

    @model_validator(mode="after")
    def _trials(self) -> Search:
        if self.most_trials is not None and self.most_trials < self.first_trials:
            raise InputError(
                f"most_trials = {self.most_trials}: fewer than first_trials = {self.first_trials}; legal: not fewer"
            )
        return self

    def most_of(self, n_trials: int) -> int:
        """Trials of a candidate at most, where the scenario has ``n_trials``."""
        return self.most_trials or max(n_trials, self.first_trials)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The objective, then the constraints."""
        return (self.objective, *self.constraints)


def shipped_searches() -> tuple[str, ...]:
    """Names of the searches that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def path_of(name: str) -> Path:
    """The file of a search, or of a shipped one by its name; InputError where there is none."""
    if name in shipped_searches() and not os.path.isfile(name):
        return FOLDER / f"{name}.toml"
    if not os.path.splitext(name)[1] and not os.path.exists(name):
        raise InputError(f"--search {name}: no such file or shipped search{nearest(name, shipped_searches())}")
    return Path(name)


def load_search(name: str) -> Search:
    """The search of a TOML file, or a shipped one by its name; InputError, one line: file, key, value, legal ones."""
    path = path_of(name)
    return validate(Search, read_toml(path), str(path))


def split_keys(key: str) -> list[str]:
    """The keys of the scenario that one key of the search sets.

    >>> split_keys('arms.a.n, arms."x, y".n')
    ['arms.a.n', 'arms."x, y".n']
    """
    return [part.strip() for part in _KEYS.findall(key)]


def _flat(table: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Keys and values, where ``titration.up_below`` without quotes is a table in a table."""
    found = []
    for key, value in table.items():
        path = f"{above}.{_quoted(key)}" if above else key
        if isinstance(value, Mapping) and not (value and set(value) <= set(RANGE)):
            if not value:
                raise InputError(f"{path}: no values; legal: a list of values, or {{from, to, step}}")
            found += _flat(value, path if above else _quoted(key))
        else:
            found.append((_checked(path), value))
    return found


def _quoted(part: str) -> str:
    return part if re.fullmatch(r'[^".\s,]+', part) else f'"{part}"'


def _checked(key: str) -> str:
    for one in split_keys(key) or [key]:
        try:
            name = alternatives(f"{one}=0")[0]
        except InputError:
            raise InputError(f"{shown(key)}: no key of a scenario; legal: such as 'titration.up_below'") from None
        if name in NO_DESIGN:
            raise InputError(f"{name}: says how a design is simulated, not what it is; legal: --set {name}=...")
    return key


def _listed(key: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, Mapping):
        return _range(key, values)
    if not isinstance(values, list) or not values:
        raise InputError(f"{key} = {shown(values)}; legal: a list of values, or {{from, to, step}}")
    if len(values) > MOST_VALUES:
        raise InputError(f"{key}: {len(values)} values; legal: at most {MOST_VALUES}")
    for value in values:
        if not isinstance(value, bool | int | float | str | list | dict):
            raise InputError(f"{key}: {shown(value)} among its values; legal: numbers, words, true, false, lists")
    found = {repr(value): value for value in values}
    if len(found) < len(values):
        again = next(value for value in values if values.count(value) > 1)
        raise InputError(f"{key}: {shown(again)} is among its values twice; legal: once")
    n = len(split_keys(key))
    if n > 1 and any(isinstance(value, list) and len(value) != n for value in values):
        raise InputError(f"{key}: a list of another length than its {n} keys; legal: one value for each, or for all")
    return tuple(values)


def _range(key: str, values: Mapping[str, Any]) -> tuple[Any, ...]:
    missing = [name for name in RANGE if name not in values]
    if missing:
        raise InputError(f"{key}: {missing[0]} is missing; legal: {{from, to, step}}, or a list of values")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{key}.{name} = {shown(value)}; legal: a number")
    first, last, step = (values[name] for name in RANGE)
    if step <= 0 or last < first:
        raise InputError(
            f"{key} from {first:g} to {last:g} by {step:g}: no values; legal: upwards, with a step above 0"
        )
    n = math.floor((last - first) / step + 1e-9) + 1
    if n > MOST_VALUES:
        raise InputError(f"{key} from {first:g} to {last:g} by {step:g}: {n} values; legal: at most {MOST_VALUES}")
    whole = all(isinstance(values[name], int) for name in RANGE)
    at = itertools.count()
    return tuple(first + i * step if whole else round(first + i * step, 12) for i in itertools.islice(at, n))
