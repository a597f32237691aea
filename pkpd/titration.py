"""Dose rules as data: a ladder of daily doses and a table of count bands with their actions.

A rule is a table. At a visit its rows are read from the top; the first row whose conditions all hold acts,
and no other row does at that visit. Thresholds are strict: "above 250" is not met by 250. A step beyond an
end of the ladder changes nothing. All functions are elementwise over patients and may run inside ``jit`` and
``scan`` with a traced day. To switch changes nothing here: another rule takes over (``pkpd.staged``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pkpd.engine.fusion import once
from pkpd.errors import InputError, nearest

ACTIONS = ("none", "stop", "interrupt", "resume", "resume_lower", "down", "up", "down_or_stop", "switch")
NONE, STOP, INTERRUPT, RESUME, RESUME_LOWER, DOWN, UP, DOWN_OR_STOP, SWITCH = range(len(ACTIONS))
_WORDS = (
    "no change", "stop for good", "interrupt", "resume at the same level", "resume one level lower",
    "one level down", "one level up", "one level down, from the lowest stop", "switch to the second drug",
)  # fmt: skip
OF_PATIENTS = (("weight_from_kg", "weight_below_kg"), ("age_from_y", "age_below_y"))  # whom a row concerns
NEVER = 2**30  # a day later than any visit: no spell at the top level


class Band(NamedTuple):
    """One row of a rule: the action, and the conditions that must all hold. Counts in 1e9/L, times in days.

    while_interrupted: True only while interrupted, False only while not, None either.
    every_d: 0 at any visit, otherwise only on days that are a positive multiple of it.
    min_days_since_change: since the dose given last changed (start, interruption, resumption, a new level).
    min_days_at_top_below: days at the top level so far, every count below ``below``; 0 for no such condition.
    weight_from_kg, weight_below_kg, age_from_y, age_below_y: of the patients whom the row concerns.
    """

    action: str
    above: float = -math.inf
    below: float = math.inf
    while_interrupted: bool | None = False
    every_d: int = 0
    min_days_since_change: int = 0
    min_days_at_top_below: int = 0
    weight_from_kg: float = 0.0
    weight_below_kg: float = math.inf
    age_from_y: float = 0.0
    age_below_y: float = math.inf


class Rule(NamedTuple):
    """A rule as arrays: levels_mg [levels]; all other fields [rows], in the order of reading. Where patients follow
    rules of their own, each has a last axis of patients.

    weight_from_kg, weight_below_kg: None where no row asks for a weight; ages likewise. top: index of the top level
    where the ladder is padded beyond it, else None.
    """

    levels_mg: Any
    action: Any
    above: Any
    below: Any
    while_interrupted: Any  # -1 either, 0 only while not interrupted, 1 only while interrupted
    every_d: Any
    min_days_since_change: Any
    min_days_at_top_below: Any
    weight_from_kg: Any = None
    weight_below_kg: Any = None
    top: Any = None
    age_from_y: Any = None
    age_below_y: Any = None


class Dosing(NamedTuple):
    """Where each patient stands, all [patients]; level indexes the ladder, days count from the first dose."""

    level: jax.Array  # int32
    interrupted: jax.Array  # bool
    stopped: jax.Array  # bool
    last_change_d: jax.Array  # int32, day of the last change of the dose given
    top_since_d: jax.Array  # int32, start of the spell at the top level with every count below the limit


def from_bands(levels_mg: Sequence[float], bands: Sequence[Band]) -> Rule:
    """A rule from its ladder (mg, increasing) and its rows in order. InputError where they are illegal."""
    levels = _ladder(levels_mg)
    for row, band in enumerate(bands, start=1):
        _check_band(f"bands row {row}", band)
    limits = {band.below for band in bands if band.min_days_at_top_below}
    if len(limits) > 1:
        found = ", ".join(f"{limit:g}" for limit in sorted(limits))
        raise InputError(f"bands: rows with min_days_at_top_below must share one value of below, not {found}")

    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(band, name) for band in bands], dtype)

    asked: list[str] = []
    for low, high in OF_PATIENTS:
        if any(getattr(band, low) > 0 or getattr(band, high) < math.inf for band in bands):
            asked += [low, high]
    state = [-1 if band.while_interrupted is None else int(band.while_interrupted) for band in bands]
    return Rule(
        levels_mg=levels,
        action=np.array([ACTIONS.index(band.action) for band in bands], np.int32),
        above=column("above", np.float64),
        below=column("below", np.float64),
        while_interrupted=np.array(state, np.int32),
        every_d=column("every_d", np.int32),
        min_days_since_change=column("min_days_since_change", np.int32),
        min_days_at_top_below=column("min_days_at_top_below", np.int32),
        **{name: column(name, np.float64) for name in asked},
    )


def compact(
    levels_mg: Sequence[float],
    *,
    up_below: float | None = None,
    up_every_d: int | None = None,
    up_min_days_since_change: int | None = None,
    down_above: float | None = None,
    hold_above: float | None = None,
    resume_below: float | None = None,
    stop_after_d: int | None = None,
) -> Rule:
    """The usual rule from its few numbers (counts in 1e9/L, times in days), rows in this order:

    1. stop for good after ``stop_after_d`` at the top level with every count below ``up_below``;
    2. above ``hold_above`` interrupt;
    3. if interrupted and below ``resume_below``, resume one level lower (the lowest stays lowest);
    4. above ``down_above`` one level down, but not while interrupted, when there is no dose to lower;
    5. on days that are a multiple of ``up_every_d``, below ``up_below`` and at least
    ``up_min_days_since_change``
       since the dose given last changed, one level up.

    An action whose keys are absent is not in the rule. Raises InputError on keys that do not fit together.
    """
    given: dict[str, Any] = {
        "up_below": up_below,
        "up_every_d": up_every_d,
        "up_min_days_since_change": up_min_days_since_change,
        "down_above": down_above,
        "hold_above": hold_above,
        "resume_below": resume_below,
        "stop_after_d": stop_after_d,
    }
    given = {key: value for key, value in given.items() if value is not None}
    _check_compact(given)
    bands = []
    if "stop_after_d" in given:
        bands.append(Band("stop", below=given["up_below"], min_days_at_top_below=given["stop_after_d"]))
    if "hold_above" in given:
        bands.append(Band("interrupt", above=given["hold_above"]))
        bands.append(Band("resume_lower", below=given["resume_below"], while_interrupted=True))
    if "down_above" in given:
        bands.append(Band("down", above=given["down_above"]))
    if "up_below" in given:
        every, wait = given["up_every_d"], given["up_min_days_since_change"]
        bands.append(Band("up", below=given["up_below"], every_d=every, min_days_since_change=wait))
    return from_bands(levels_mg, bands)


def fixed(dose_mg: float) -> Rule:
    """A rule with one level and no rows: the same daily dose (mg, zero allowed) throughout."""
    if not _number(dose_mg) or dose_mg < 0:
        raise InputError(f"dose_mg = {dose_mg!r}: a daily dose is a finite number of at least 0 mg")
    return from_bands([1.0], [])._replace(levels_mg=np.array([dose_mg], np.float64))


def held(rule: Rule) -> Rule:
    """The ladder of a rule and none of its rows: every patient keeps the dose."""
    return from_bands([1.0], [])._replace(levels_mg=np.asarray(rule.levels_mg, np.float64))


def level_of(rule: Rule, dose_mg: float) -> int:
    """Index of ``dose_mg`` on the ladder. Raises InputError where it is not one of the levels."""
    levels = np.asarray(rule.levels_mg, np.float64)
    found = np.flatnonzero(np.isclose(levels, dose_mg, rtol=1e-6, atol=0.0))
    if found.size == 0:
        raise InputError(f"start_dose_mg = {dose_mg!r} is not on the ladder of {_listed(levels)} mg")
    return int(found[0])


def top_level(rule: Rule) -> Any:
    """Index of the highest level."""
    return len(rule.levels_mg) - 1 if rule.top is None else rule.top


def start(rule: Rule, level: int | jax.Array, n: int) -> Dosing:
    """State of ``n`` patients on day 0, at ``level`` (index, scalar or [n]); the start counts as a change."""
    level = jnp.broadcast_to(jnp.asarray(level, jnp.int32), (n,))
    no, day_0 = jnp.zeros(n, bool), jnp.zeros(n, jnp.int32)
    at_top = level == top_level(rule)
    return Dosing(level, no, no, last_change_d=day_0, top_since_d=jnp.where(at_top, day_0, NEVER))


def decide(
    rule: Rule,
    dosing: Dosing,
    count: jax.Array,
    day: int | jax.Array,
    weight_kg: jax.Array | None = None,
    age_y: jax.Array | None = None,
) -> Dosing:
    """Decision of the visit on ``day`` (scalar) from its counts [patients], 1e9/L; for that day's dose.

    ``weight_kg`` and ``age_y`` [patients] are needed where the rule asks for them.

    A count that is NaN, as of a patient who has left, meets no condition: the dose stays as it is.
    """
    return decision(rule, dosing, count, day, weight_kg, age_y)[0]


def decision(
    rule: Rule,
    dosing: Dosing,
    count: jax.Array,
    day: int | jax.Array,
    weight_kg: jax.Array | None = None,
    age_y: jax.Array | None = None,
) -> tuple[Dosing, jax.Array]:
    """As ``decide``, and which action [patients] acted."""
    count = jnp.asarray(count)
    day = jnp.asarray(day, jnp.int32)
    top = top_level(rule)
    above, below = (jnp.asarray(limit, count.dtype) for limit in (rule.above, rule.below))
    spell_days = jnp.asarray(rule.min_days_at_top_below, jnp.int32)
    # A count at or above the limit of the top-level row starts the spell anew and lies outside it.
    limit = jnp.max(jnp.where(spell_days > 0, below, -jnp.inf), axis=0, initial=-jnp.inf)
    was_at_top = (dosing.level == top) & ~dosing.interrupted & ~dosing.stopped
    since = jnp.where(was_at_top, jnp.where(count < limit, dosing.top_since_d, day), NEVER)

    action = jnp.full_like(dosing.level, NONE)
    for row in range(len(rule.action)):
        every, state = jnp.asarray(rule.every_d)[row], jnp.asarray(rule.while_interrupted)[row]
        on_calendar = (every == 0) | ((day > 0) & (day % jnp.maximum(every, 1) == 0))
        meets = (count > above[row]) & (count < below[row]) & on_calendar
        meets &= (state < 0) | (dosing.interrupted == (state == 1))
        meets &= day - dosing.last_change_d >= jnp.asarray(rule.min_days_since_change)[row]
        meets &= (spell_days[row] == 0) | (day - since >= spell_days[row])
        if rule.weight_from_kg is not None:
            assert weight_kg is not None
            meets &= (weight_kg >= rule.weight_from_kg[row]) & (weight_kg < rule.weight_below_kg[row])
        if rule.age_from_y is not None:
            assert age_y is not None
            meets &= (age_y >= rule.age_from_y[row]) & (age_y < rule.age_below_y[row])
        action = jnp.where((action == NONE) & meets, jnp.asarray(rule.action)[row], action)
    action = once(jnp.where(dosing.stopped, NONE, action), day >= 0)

    ends = (action == DOWN_OR_STOP) & (dosing.level == 0)
    lower = (action == DOWN) | (action == RESUME_LOWER) | (action == DOWN_OR_STOP)
    level = jnp.clip(dosing.level + (action == UP) - lower, 0, top)
    resumes = (action == RESUME) | (action == RESUME_LOWER)
    stopped = dosing.stopped | (action == STOP) | ends
    interrupted = (dosing.interrupted | (action == INTERRUPT)) & ~resumes & ~stopped
    changed = (level != dosing.level) | (interrupted != dosing.interrupted) | (stopped != dosing.stopped)
    is_at_top = (level == top) & ~interrupted & ~stopped
    after = Dosing(
        level=level,
        interrupted=interrupted,
        stopped=stopped,
        last_change_d=jnp.where(changed, day, dosing.last_change_d),
        top_since_d=jnp.where(is_at_top, jnp.where(was_at_top, since, day), NEVER),
    )
    return after, action


def dose_mg(rule: Rule, dosing: Dosing, dtype: Any = jnp.float32) -> jax.Array:
    """Daily dose now given, mg [patients]: the level's, or 0 while interrupted and after a stop."""
    levels = jnp.asarray(rule.levels_mg, dtype)
    level = levels[dosing.level] if levels.ndim == 1 else jnp.take_along_axis(levels, dosing.level[None], axis=0)[0]
    return jnp.where(dosing.interrupted | dosing.stopped, jnp.zeros((), dtype), level)


def as_text(rule: Rule) -> str:
    """The rule as a protocol prints it: the ladder, then one numbered line a row, in the order of reading."""
    if len(rule.action) == 0 and len(rule.levels_mg) > 1:
        return f"The dose before ({_listed(rule.levels_mg)} mg once daily), which no count changes."
    if len(rule.action) == 0:
        return f"Fixed dose: {_listed(rule.levels_mg)} mg once daily."
    lines = [f"Levels: {_listed(rule.levels_mg)} mg once daily. At a visit the first line that applies acts:"]
    top = f"{float(rule.levels_mg[-1]):g} mg"
    for row in range(len(rule.action)):
        above, below, every = float(rule.above[row]), float(rule.below[row]), int(rule.every_d[row])
        spell, wait = int(rule.min_days_at_top_below[row]), int(rule.min_days_since_change[row])
        when = [f"on days {every}, {2 * every}, {3 * every}, ..."] if every else []
        if spell:
            when.append(f"after {spell} days at {top} with every count below {below:g}")
        elif math.isfinite(below):
            when.append(f"count below {below:g}")
        if math.isfinite(above):
            when.append(f"count above {above:g}")
        if wait:
            when.append(f"at least {wait} days since the dose given last changed")
        if rule.weight_from_kg is not None:
            when += _range("weight", float(rule.weight_from_kg[row]), float(rule.weight_below_kg[row]), "kg")
        if rule.age_from_y is not None:
            when += _range("age", float(rule.age_from_y[row]), float(rule.age_below_y[row]), "y")
        if rule.while_interrupted[row] >= 0 and not spell:
            when.append("while interrupted" if rule.while_interrupted[row] else "while not interrupted")
        lines.append(f"{row + 1}. {', '.join(when) or 'at any visit'}: {_WORDS[int(rule.action[row])]}")
    return "\n".join(lines)


def _range(what: str, low: float, high: float, unit: str) -> list[str]:
    """The condition on a weight or age in words, if there is one."""
    limits = [f"from {low:g}"] * (low > 0) + [f"below {high:g}"] * math.isfinite(high)
    return [f"{what} {' to '.join(limits)} {unit}"] if limits else []


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _listed(levels: Any) -> str:
    return ", ".join(f"{float(level):g}" for level in levels)


def _ladder(levels_mg: Sequence[float]) -> np.ndarray:
    levels = list(levels_mg)
    if not levels:
        raise InputError("levels_mg = []: give at least one dose in mg")
    for level in levels:
        if not _number(level) or level <= 0:
            raise InputError(f"levels_mg: {level!r} is not a dose; doses are finite numbers above 0 mg")
    for low, high in itertools.pairwise(levels):
        if high <= low:
            raise InputError(f"levels_mg must increase: {high:g} follows {low:g}")
    return np.array(levels, np.float64)


def _check_days(where: str, name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 10**6:
        raise InputError(f"{where}{name} = {value!r}: give a whole number of days of at least {least}")


def _check_band(where: str, band: Band) -> None:
    if band.action not in ACTIONS[1:]:
        raise InputError(f"{where}: unknown action {band.action!r}{nearest(str(band.action), ACTIONS[1:])}")
    for name in ("above", "below"):
        value = getattr(band, name)
        if not (_number(value) or value in (-math.inf, math.inf)):
            raise InputError(f"{where}: {name} = {value!r} is not a count in 1e9/L")
    if not band.above < band.below:
        raise InputError(f"{where}: above = {band.above:g} must be smaller than below = {band.below:g}")
    for name in ("every_d", "min_days_since_change", "min_days_at_top_below"):
        _check_days(f"{where}: ", name, getattr(band, name), 0)
    for name, other in OF_PATIENTS:
        low, high = getattr(band, name), getattr(band, other)
        if not (_number(low) and 0 <= low < high):
            raise InputError(f"{where}: {name} = {low:g} must be at least 0 and below {other} = {high:g}")
    either = dict.fromkeys(("stop", "switch"), band.while_interrupted)
    needed = {"resume": True, "resume_lower": True, **either}.get(band.action, False)
    if band.while_interrupted is not needed:
        raise InputError(f"{where}: action {band.action!r} needs while_interrupted = {str(needed).lower()}")
    if band.min_days_at_top_below and (not math.isfinite(band.below) or band.while_interrupted is True):
        raise InputError(f"{where}: min_days_at_top_below needs a limit below, and not while interrupted")


def _check_compact(given: dict[str, Any]) -> None:
    for names in (("up_below", "up_every_d", "up_min_days_since_change"), ("hold_above", "resume_below")):
        missing = [name for name in names if name not in given]
        if missing and len(missing) < len(names):
            raise InputError(f"{missing[0]} is missing: {', '.join(names)} go together")
    if "stop_after_d" in given and "up_below" not in given:
        raise InputError("up_below is missing: stop_after_d counts days at the top level below it")
    if not given:
        raise InputError("no action: give up_below, down_above or hold_above with their keys, or a fixed dose")
    for name in ("up_below", "down_above", "hold_above", "resume_below"):
        if name in given and (not _number(given[name]) or given[name] <= 0):
            raise InputError(f"{name} = {given[name]!r}: give a finite count above 0, in 1e9/L")
    for name in ("up_every_d", "stop_after_d", "up_min_days_since_change"):
        if name in given:
            _check_days("", name, given[name], 0 if name == "up_min_days_since_change" else 1)
    for low, high, strict in (
        ("up_below", "resume_below", True),
        ("up_below", "down_above", True),
        ("up_below", "hold_above", True),
        ("down_above", "hold_above", True),  # else the step down could never be reached
        ("resume_below", "hold_above", False),
    ):
        if low not in given or high not in given:
            continue
        if given[low] > given[high] or (strict and given[low] == given[high]):
            order = f"{low} = {given[low]:g} must be {'below' if strict else 'at most'} {high} = {given[high]:g}"
            raise InputError(f"{order}: thresholds in the wrong order")
