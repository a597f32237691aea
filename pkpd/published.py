"""What was published of a scenario's trial, and the simulated statistic that predicts each number.

A scenario names table, study and quantity; the numbers themselves are read from the table (``data/*.csv`` or a file of
one's own with the same columns), so none is copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from pkpd.errors import InputError, nearest
from pkpd.statistics import STATISTICS
from pkpd.tomlfile import shown
from pkpd.validated import MAX_DAY, List, Table, Text

if TYPE_CHECKING:
    import pandas as pd

    from pkpd.scenario import Scenario


INTERVALS = {"ci90": 1.6448536269514722, "ci95": 1.959963984540054}  # half-widths in standard errors


class Published(Table):
    """Where the trial's numbers stand: a shipped data table by name, or a CSV file, and the study in it."""

    table: Text
    study: Text


class Prediction(Table):
    """One published quantity and the statistic that predicts it, in every arm that the table has it for.

    statistic: of the quantity's name unless given. day: of the visit at which, or up to which, it is taken; unless
    given the row's own, else the last visit. arms: of the scenario, by default all that the table has. published_arm:
    the arm of the table that ``arms`` together are. reference: the arm that a change is against, and
    within_subject_log_sd the sd of a subject's log ratio beside the model's. note: the likely reason where it misses.
    seen: how the number was used when parameters were set, blank if it was not.
    """

    quantity: Text
    statistic: Text | None = None
    day: Annotated[int, Field(ge=1, le=MAX_DAY)] | None = None
    arms: List[Text] = ()
    published_arm: Text | None = None
    reference: Text | None = None
    within_subject_log_sd: float = Field(default=0.0, ge=0, le=10)
    note: str = ""
    seen: str = ""


class Target(NamedTuple):
    """One published number and what predicts it. ``arms``: of the scenario, taken together; ``last``: of the visits."""

    study: str
    arm: str
    arms: tuple[str, ...]
    published: str  # the quantity in the table
    quantity: str  # what predicts it, with its day
    observed: float
    n: int
    unit: str
    statistic: str
    last: int
    reference: str | None
    within_subject_log_sd: float
    standard_error: float | None  # of the published number, in its unit; None where neither sd nor interval is printed
    note: str
    seen: str
    row_note: str  # of the table
    status: str
    source: str
    doi: str


def targets(scenario: Scenario) -> list[Target]:
    """Every published number that the scenario predicts; InputError where the two do not fit together."""
    from pkpd.datatables import published, read_table

    if scenario.published is None:
        return []
    name, study = scenario.published.table, scenario.published.study
    try:
        table = read_table(name) if name.endswith(".csv") else published(name)
    except InputError as error:
        raise InputError(f"published.table: {error}") from None
    rows = table[table["study"] == study]
    if rows.empty:
        raise InputError(f"published.study = {shown(study)} is not in {name}{nearest(study, set(table['study']))}")
    found = []
    for number, wanted in enumerate(scenario.predictions, start=1):
        try:
            found += _targets(scenario, wanted, rows)
        except InputError as error:
            raise InputError(f"predictions[{number}].{error}") from None
    return found


def _targets(scenario: Scenario, wanted: Prediction, rows: pd.DataFrame) -> list[Target]:
    own = rows[rows["quantity"] == wanted.quantity]
    if own.empty:
        hint = nearest(wanted.quantity, set(rows["quantity"]))
        raise InputError(f"quantity = {shown(wanted.quantity)} is not reported for this study{hint}")
    names = [arm.name for arm in scenario.arms]
    for arm in wanted.arms:
        if arm not in names:
            raise InputError(f"arms: {shown(arm)} is not the name of an arm{nearest(arm, names)}")
    reported = set(own["arm"])
    if wanted.published_arm is not None:
        pairs = [(wanted.published_arm, wanted.arms or tuple(names))]
    else:
        pairs = [(arm, (arm,)) for arm in wanted.arms or [name for name in names if name in reported]]
    if not pairs:
        raise InputError(f"quantity = {shown(wanted.quantity)}: no arm of the scenario is among {_listed(reported)}")
    found = []
    for published_arm, arms in pairs:
        if published_arm not in reported:
            key = "arms" if wanted.published_arm is None else "published_arm"
            raise InputError(f"{key} = {shown(published_arm)} is not reported{nearest(published_arm, reported)}")
        found.append(_target(scenario, wanted, own[own["arm"] == published_arm], arms))
    return found


def _target(scenario: Scenario, wanted: Prediction, rows: pd.DataFrame, arms: tuple[str, ...]) -> Target:
    import pandas as pd

    from pkpd.datatables import quantities

    if len(rows) > 1:
        days = _listed(f"{day:g}" for day in rows["time_d"])
        rows = rows[rows["time_d"] == wanted.day]
        if len(rows) != 1:
            raise InputError(f"day = {wanted.day}: {wanted.quantity} is reported several times; legal: one of {days}")
    row = rows.iloc[0]
    name = wanted.statistic or wanted.quantity
    if name not in STATISTICS:
        raise InputError(f"statistic = {shown(name)} is not simulated{nearest(name, STATISTICS)}")
    statistic, unit = STATISTICS[name], quantities()[wanted.quantity].unit
    if statistic.unit != unit:
        raise InputError(f"statistic = {shown(name)} is in {statistic.unit}, {wanted.quantity} in {unit}")
    day = wanted.day or (scenario.trial.visits_d[-1] if math.isnan(row["time_d"]) else row["time_d"])
    if day not in scenario.trial.visits_d:
        raise InputError(f"day = {day:g}: no visit; legal: a day of trial.visits_d")
    size = {arm.name: arm.n for arm in scenario.arms}
    n = sum(size[arm] for arm in arms)
    if pd.notna(row["n"]) and int(row["n"]) != n:
        raise InputError(
            f"quantity = {shown(wanted.quantity)}: published of n = {row['n']}, but {_listed(arms)}: n = {n}"
        )
    _check_reference(scenario, wanted, statistic.relative, name, arms)
    return Target(
        study=str(row["study"]),
        arm=str(row["arm"]),
        arms=arms,
        published=wanted.quantity,
        quantity=statistic.label.format(day=f"{day:g}"),
        observed=float(row["value"]),
        n=n,
        unit=unit,
        statistic=name,
        last=scenario.trial.visits_d.index(int(day)),
        reference=wanted.reference,
        within_subject_log_sd=wanted.within_subject_log_sd,
        standard_error=_standard_error(row, n),
        note=wanted.note,
        seen=wanted.seen,
        row_note=str(row["note"]),
        status=str(row["status"]),
        source=str(row["source"]),
        doi=str(row["doi"]),
    )


def _standard_error(row: pd.Series, n: int) -> float | None:
    """Of a mean, from the sd, standard error, coefficient of variation or confidence interval printed beside it."""
    kind, spread = row["spread_type"], float(row["spread"])
    if kind in INTERVALS:
        return float(row["upper"] - row["lower"]) / (2 * INTERVALS[kind])
    by_kind = {"se": spread, "sd": spread / math.sqrt(n), "cv_percent": row["value"] * spread / 100 / math.sqrt(n)}
    return float(by_kind[kind]) if kind in by_kind else None


def _check_reference(scenario: Scenario, wanted: Prediction, relative: bool, name: str, arms: tuple[str, ...]) -> None:
    if not relative:
        for key in ("reference", "within_subject_log_sd"):
            if getattr(wanted, key):
                raise InputError(f"{key} = {shown(getattr(wanted, key))}: {name} is no change against another arm")
        return
    drugs = {arm.name: arm.drug for arm in scenario.arms}
    if wanted.reference is None:
        raise InputError(f"reference is missing: {name} is a change against another arm")
    if wanted.reference not in drugs:
        raise InputError(
            f"reference = {shown(wanted.reference)} is not the name of an arm{nearest(wanted.reference, drugs)}"
        )
    if scenario.trial.design != "crossover":
        raise InputError(f"statistic = {shown(name)} compares periods of a subject; legal: trial.design = 'crossover'")
    for arm in (*arms, wanted.reference):
        if drugs[arm] == "placebo":
            raise InputError(f"statistic = {shown(name)}: arm {shown(arm)} takes no drug")
    if len(arms) > 1 or arms[0] == wanted.reference:
        raise InputError(f"reference = {shown(wanted.reference)}: legal: one arm against another")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names) if isinstance(names, set) else names)
