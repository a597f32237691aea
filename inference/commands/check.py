"""``pkpd check``: says what kind of file it is, validates it, and prints what it holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.config import Config, load, plan
from inference.console import say, show_table
from inference.whatif.search_file import load_search, shipped_searches
from pkpd.case import load_case
from pkpd.datatables import data_folder, read_table, table_names
from pkpd.errors import InputError
from pkpd.patients import NEEDED, Conditions, read_patients
from pkpd.patients import describe as describe_table
from pkpd.scenario import load_scenario, shipped
from pkpd.scenario_text import describe
from pkpd.tomlfile import read_toml

SHOWN = ("study", "arm", "n", "quantity", "value", "unit", "time_d", "status", "source")
# A TOML file is told by keys that only its kind has.
CASE_KEYS = ("times_h", "daily_doses")
SCENARIO_KEYS = (
    "trial", "arms", "entry", "titration", "analysis", "rescue", "dropout", "published", "predictions", "outcome",
    "interims",
)  # fmt: skip
SEARCH_KEYS = ("objective", "constraints", "keys")


def run(file: Path) -> None:
    """Validates ``file``, or what ships under that name, and prints what it holds; InputError says what is wrong."""
    if str(file) in table_names() and not file.exists():
        file = data_folder() / f"{file}.csv"
    if str(file) in shipped() and not file.exists():
        return _scenario(file)
    if str(file) in shipped_searches() and not file.exists():
        return _search(file)
    if file.suffix.lower() == ".csv":
        return _patients(file) if _is_of_patients(file) else _table(file)
    if file.suffix.lower() != ".toml" and not file.is_dir() and file.exists():
        raise InputError(
            f"{file}: unknown kind of file; legal: a table (.csv), or a config, scenario, search or case (.toml)"
        )
    return kind_of(read_toml(file), file)(file)


def kind_of(raw: dict[str, Any], file: Path) -> Callable[[Path], None]:
    """The check for a TOML file, told from its keys; InputError if they are of no kind."""
    kinds = ((CASE_KEYS, _case), (SCENARIO_KEYS, _scenario), (SEARCH_KEYS, _search), (Config.model_fields, _config))
    for keys, check in kinds:
        if any(key in keys for key in raw):
            return check
    raise InputError(
        f"{file}: is neither a config, a scenario, a search nor a case; legal: a config has keys such as seed and "
        "data, a scenario trial and arms, a search objective and keys, a case times_h"
    )


def is_other(file: Path) -> bool:
    """Whether a TOML file is a scenario, a search or a case by its keys, and no config at all."""
    try:
        keys = set(read_toml(file))
    except InputError:
        return False  # whoever reads it as a config says what is wrong
    return bool(keys & {*CASE_KEYS, *SCENARIO_KEYS, *SEARCH_KEYS}) and not keys & set(Config.model_fields)


def _is_of_patients(file: Path) -> bool:
    """Whether a table is one of patients, by its header; whoever reads it says what else is wrong."""
    try:
        with file.open(encoding="utf-8-sig") as text:
            names = {name.strip().strip('"') for name in text.readline().split(",")}
    except (OSError, UnicodeDecodeError):
        return False
    return bool(names & set(NEEDED))


def _patients(file: Path) -> None:
    table = read_patients(file.name, file.parent)
    say(describe_table(table, Conditions({}, {})))
    say(f"ok: table of {table.rows} patients")


def _search(file: Path) -> None:
    from inference.whatif.candidates import text_of

    search = load_search(str(file))
    say(f"Objective: {search.objective.aim} {search.objective.label}")
    for constraint in search.constraints:
        say(f"Constraint: {constraint.text}")
    show_table("keys", ("key", "values"), [(key, ", ".join(map(text_of, v))) for key, v in search.keys.items()])
    combinations = math.prod(len(values) for values in search.keys.values())
    said = f", of which {search.max_candidates:,} are tried" if combinations > search.max_candidates else ""
    say(f"Trials: {search.first_trials:,} of each at first, {search.budget_trials:,} of all together at most")
    say(f"ok: search of {combinations:,} combinations{said}; a scenario decides whether its keys and rows exist")


def _table(file: Path) -> None:
    table = read_table(file)
    text = table[list(SHOWN)].astype(object).where(table[list(SHOWN)].notna(), "")
    show_table(f"data table {file}", SHOWN, text.itertuples(index=False))
    counts = ", ".join(f"{n} {status}" for status, n in table["status"].value_counts().items())
    say(f"ok: {len(table)} rows, {table['study'].nunique()} studies; {counts}")


def _scenario(file: Path) -> None:
    scenario = load_scenario(file)
    say(describe(scenario))
    if scenario.interims is not None:
        from inference.whatif.boundary_table import COLUMNS, boundary_table

        show_table("interim looks", COLUMNS, boundary_table(scenario))
    say(f"ok: scenario with {len(scenario.arms)} arms, {sum(arm.n for arm in scenario.arms)} patients")


def _config(file: Path) -> None:
    config = load(file)
    asked = plan(config, str(file))
    say(config.to_toml())
    arms = [
        (arm, int(n), *map(int, y))
        for arm, n, y in zip(asked.fitted.arms, asked.fitted.n, asked.fitted.counts, strict=True)
    ]
    from inference.priors import law_of
    from inference.studies import read_as
    from pkpd.endpoints import NAMES

    show_table("counts fitted", ("arm", "n", *NAMES), arms)
    for s in asked.studies:
        rows = [(t.arm, t.n, t.published, t.observed, t.unit, read_as(s, t), t.status) for t in s.targets]
        columns = ("arm", "n", "quantity", "value", "unit", "read as", "status")
        show_table(f"further study fitted: {s.name}", columns, rows)
    show_table("free parameters", ("name", "prior"), [law_of(e) for e in asked.prior.elements])
    numbers = sum(len(s.targets) for s in asked.studies)
    more = f", {numbers} numbers of {len(asked.studies)} further studies" if numbers else ""
    say(f"ok: config with {asked.prior.dimension} free coordinates, {len(asked.fitted.arms)} arms{more}")


def _case(file: Path) -> None:
    case = load_case(file)
    times = case.times_h
    rows = [(d.first_day, d.last_day, d.mg) for d in case.daily_doses]
    show_table(f"case {file}", ("first day", "last day", "mg a day"), rows)
    show_table("parameters set", ("name", "value"), case.parameters.items())
    say(f"ok: case with {len(times)} times from {times[0]:g} to {times[-1]:g} h, {len(rows)} rows of doses")
