"""The designs among which a search chooses: combinations of values that are scenarios."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import qmc

from inference.whatif.scenario_file import value_text
from inference.whatif.search_file import Search, split_keys
from pkpd import scenario as scenarios
from pkpd.errors import InputError
from pkpd.tomlfile import apply_settings, read_toml, shown

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

MARK = "the value at this place"
TRIES = 50  # combinations that are tried for each candidate of a subset, at most


class Candidate(NamedTuple):
    """A design: its values by key, its tables and scenario, and its distance from the scenario as given.

    distance: sum over keys of the change, as a share of the key's range of values; 1 for one that is no number.
    """

    values: dict[str, Any]
    data: dict[str, Any]
    design: Scenario
    distance: float


class Candidates(NamedTuple):
    """The scenario as given and all candidates; how many combinations there are, were no scenario, and why not."""

    start: Candidate
    found: tuple[Candidate, ...]
    combinations: int
    skipped: int
    why: str


def raw_scenario(path: str, settings: Sequence[str]) -> dict[str, Any]:
    """The tables of a scenario file (or a shipped one), changed by settings; files it names by their whole path.

    Without published numbers, which are of the trial as it was done.
    """
    own = path not in scenarios.shipped() or os.path.isfile(path)
    data = apply_settings(read_toml(path if own else scenarios.FOLDER / f"{path}.toml"), settings)
    entry = data.get("entry")
    if isinstance(entry, Mapping) and isinstance(entry.get("patients"), str):
        folder = os.path.dirname(path) if own else ""
        data["entry"] = {**entry, "patients": os.path.abspath(os.path.join(folder, entry["patients"]))}
    return {key: value for key, value in data.items() if key not in ("published", "predictions")}


def candidates(search: Search, data: Mapping[str, Any], where: str) -> Candidates:
    """All combinations that are scenarios, or a space-filling subset; InputError where none is.

    The scenario itself is among them where its values are on the lists.
    """
    given = {key: tuple(value_at(data, one) for one in split_keys(key)) for key in search.keys}
    start = Candidate(
        {key: _shared(values) for key, values in given.items()}, dict(data), _design(data, where), 0.0
    )  # fmt: skip
    sizes = [len(values) for values in search.keys.values()]
    combinations = math.prod(sizes)
    rows: Iterator[tuple[int, ...]] = itertools.product(*map(range, sizes))
    if combinations > search.max_candidates:
        first = _start_row(search, given)
        rows = itertools.chain(first, _space_filling(sizes, search, first))
    found: list[Candidate] = []
    skipped, why = 0, ""
    for row in rows:
        values = {key: of[i] for (key, of), i in zip(search.keys.items(), row, strict=True)}
        try:
            tables = changed(data, values)
            design = _design(tables, where)
        except InputError as error:
            skipped, why = skipped + 1, why or str(error)
            continue
        found.append(Candidate(values, tables, design, _distance(search, given, values)))
        if len(found) == search.max_candidates:
            break
    if not found:
        raise InputError(f"keys: all {skipped} combinations that were tried are no scenarios; the first: {why}")
    return Candidates(start, tuple(found), combinations, skipped, why)


def changed(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The tables with the values of a combination; InputError where there is no such place."""
    settings = []
    for key, value in values.items():
        keys = split_keys(key)
        each = value if len(keys) > 1 and isinstance(value, list) else [value] * len(keys)
        settings += [f"{one}={value_text(v)}" for one, v in zip(keys, each, strict=True)]
    try:
        return apply_settings(data, settings)
    except InputError as error:
        raise InputError(str(error).removeprefix("--set ")) from None


def value_at(data: Mapping[str, Any], key: str) -> Any:
    """What the tables hold at a key of ``--set``; None where they hold nothing there."""
    try:
        return _original(data, apply_settings(data, [f'{key}="{MARK}"']))
    except InputError:
        return None


def text_of(value: Any) -> str:
    """A value of a key on one line; of several keys with values of their own, all of them."""
    return shown(value) if isinstance(value, str) else "" if value is None else value_text(value)


def _original(before: Any, after: Any) -> Any:
    """What stood where ``after`` has the mark."""
    if isinstance(after, str) and after == MARK:
        return before
    inside = after.items() if isinstance(after, dict) else enumerate(after) if isinstance(after, list) else ()
    for key, value in inside:
        if isinstance(before, dict):
            old = before.get(key)
        else:
            old = before[key] if isinstance(before, list) and key < len(before) else None
        if value is not old and value != old:
            return _original(old, value)
    return None


def _design(data: Mapping[str, Any], where: str) -> Scenario:
    """The scenario of tables; its trials are as many as it says, whatever their error."""
    design = scenarios.build(data, where)
    return design.model_copy(update={"trial": design.trial.model_copy(update={"mc_se_below": None})})


def _shared(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else list(values)


def _distance(search: Search, given: Mapping[str, Sequence[Any]], values: Mapping[str, Any]) -> float:
    total = 0.0
    for key, value in values.items():
        own = _each(value, len(given[key]))
        numbers = [x for v in search.keys[key] for x in _each(v, len(own)) if _is_number(x)]
        numbers += [x for x in given[key] if _is_number(x)]
        width = max(numbers) - min(numbers) if numbers else 0
        for old, new in zip(given[key], own, strict=True):
            if _is_number(old) and _is_number(new) and width:
                total += abs(new - old) / width / len(own)
            else:
                total += (new != old) / len(own)
    return total


def _each(value: Any, n: int) -> list[Any]:
    return value if n > 1 and isinstance(value, list) else [value] * n


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _start_row(search: Search, given: Mapping[str, Sequence[Any]]) -> list[tuple[int, ...]]:
    """The combination that is the scenario as given, where it is one."""
    row = []
    for key, values in search.keys.items():
        at = [i for i, value in enumerate(values) if _each(value, len(given[key])) == list(given[key])]
        if not at:
            return []
        row.append(at[0])
    return [tuple(row)]


def _space_filling(sizes: Sequence[int], search: Search, first: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Different combinations in the order of a scrambled Sobol sequence: any first few are spread over all."""
    sobol, n = qmc.Sobol(len(sizes), scramble=True, rng=search.seed), math.ceil(math.log2(search.max_candidates))
    seen = set(first)
    for _ in range(TRIES):
        for row in (sobol.random(2**n) * np.array(sizes)).astype(int).tolist():
            if tuple(row) not in seen:
                seen.add(tuple(row))
                yield tuple(row)
