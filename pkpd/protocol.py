"""The protocol of an arm as arrays: stages in sequence, doses between the visits, and what keeps patients from them.

Times are whole days from the first dose. A stage begins with a visit: that visit's count decides who enters and, for
those who carry on with their dose, the first decision of the stage's rule acts on that day's dose. With visit windows a
patient's stage begins on the day on which that visit takes place, and dose rules count in days of the calendar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pkpd import titration

WHO = ("all", "responders", "non-responders")
ALL, RESPONDERS, NON_RESPONDERS = range(len(WHO))
OTHERS = ("leave", "off", "stay")
LEAVE, OFF, STAY_ON = range(len(OTHERS))
AT_RELAPSE = ("stay", "restart", "leave")
STAY, RESTART, LEAVE_AT_RELAPSE = range(len(AT_RELAPSE))
CARRIED_ON = -1  # start level of a stage that goes on with the dose of the one before
# Why a patient is no longer in the trial.
REASONS = ("in the trial", "dropped out", "not eligible for a stage", "relapsed")
IN_TRIAL, DROPPED_OUT, NOT_ELIGIBLE, RELAPSED = range(len(REASONS))


class Stage(NamedTuple):
    """What the patients of an arm take in a stage, or all that is possible with a leading axis [regimens].

    Mostly one regimen a stage. There are more where some patients of the arm carry on as before, or have switched.

    rule: padded to one size by ``stacked``. start_level: index on its ladder, or ``CARRIED_ON``. dose_scale: 1, or 0
    for placebo. treated: whether the drug is given at all. who, others: codes of ``WHO`` and ``OTHERS``. relapse_below:
    count (1e9/L) below which a patient off treatment relapses, 0 for none; at_relapse: code of ``AT_RELAPSE``.
    dose_every_d: 1 for daily doses. loading_mg for the first loading_d days of the stage. second: whether the drug is
    the second of the arm's two; None in an arm of one.
    """

    rule: titration.Rule
    start_level: Any
    dose_scale: Any
    treated: Any
    who: Any = ALL
    others: Any = LEAVE
    relapse_below: Any = 0.0
    at_relapse: Any = STAY
    dose_every_d: Any = 1
    loading_mg: Any = 0.0
    loading_d: Any = 0
    second: Any = None


class Adherence(NamedTuple):
    """Missed doses: a chain of days with ``missed_share`` of them missed, in runs of ``mean_run_d`` days on average.

    logit_sd: interindividual sd of the logit of the share, whose median is ``missed_share``.
    """

    missed_share: Any
    mean_run_d: Any
    logit_sd: Any


class Meals(NamedTuple):
    """Cumulative shares [meals] of the days, and each meal's factor on bioavailability relative to the arm's own."""

    cumulative: Any
    bioavailability_ratio: Any


class Protocol(NamedTuple):
    """A protocol; a pytree, so nothing recompiles when only values change.

    Courses move from end to end of the segments. ends [segments]: their last days; visit [segments]: index of the visit
    that may take place on that day, -1 for none; stage_of_visit [visits]: the stage in force from that visit on.
    stages [regimens], of which patients begin with the first. enters, others [stages, regimens]: the regimen of who
    enters a stage, and of who stays in the trial without entering it, by the regimen before; None where all patients of
    a stage have one regimen, of its index. switches_to [regimens]: that of who switches by rule; None where no rule
    says so.
    early_d, late_d: days by which a visit may differ from its day, each day as likely as the others. dropout: the
    hazard is ``low_count_hazard_ratio`` times as high after a count below ``low_count_1e9_per_l``.
    """

    ends: Any
    visit: Any
    stages: Stage
    stage_of_visit: Any
    begins: Any  # [visits], bool: a stage begins with this visit
    enters: Any = None
    others: Any = None
    switches_to: Any = None
    early_d: Any = 0
    late_d: Any = 0
    missed_visit_share: Any = 0.0
    low_count_1e9_per_l: Any = 0.0
    low_count_hazard_ratio: Any = 1.0
    adherence: Adherence | None = None
    meals: Meals | None = None


def segments(visits_d: Sequence[int], early_d: int, late_d: int, daily: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ends and visits of the segments: from visit to visit where nothing happens in between, else from day to day.

    ``daily``: doses differ between the days of an interval.
    """
    possible = {day + shift: v for v, day in enumerate(visits_d) for shift in range(-early_d, late_d + 1)}
    last = max(possible)
    ends = range(1, last + 1) if daily else sorted(possible)
    return np.array(list(ends), np.int32), np.array([possible.get(day, -1) for day in ends], np.int32)


def doses_mg(stages: Stage, second: bool = False) -> np.ndarray:
    """All doses above 0 (mg, increasing) that a patient may have prescribed of the first drug, or of the ``second``."""
    levels = np.asarray(stages.rule.levels_mg, np.float32) * np.asarray(stages.dose_scale, np.float32)[:, None]
    given = np.asarray(stages.treated, bool)
    given = given & ((np.zeros_like(given) if stages.second is None else np.asarray(stages.second, bool)) == second)
    return np.unique(levels[given][levels[given] > 0])


def stacked(stages: Sequence[Stage]) -> Stage:
    """Stages with a leading axis; shorter ladders repeat their top, shorter rules end in rows that are never met."""
    levels = max(len(s.rule.levels_mg) for s in stages)
    rows = max(len(s.rule.action) for s in stages)
    asked = [pair for pair in titration.OF_PATIENTS if any(getattr(s.rule, pair[0]) is not None for s in stages)]
    padded = [s._replace(rule=_padded(s.rule, levels, rows, asked)) for s in stages]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *padded)


def _padded(rule: titration.Rule, levels: int, rows: int, asked: Sequence[tuple[str, str]]) -> titration.Rule:
    missing = rows - len(rule.action)

    def fill(column: Any, value: Any) -> np.ndarray:
        return np.concatenate([column, np.full(missing, value, np.asarray(column).dtype)])

    ladder = np.asarray(rule.levels_mg)
    filled = titration.Rule(
        levels_mg=np.concatenate([ladder, np.full(levels - len(ladder), ladder[-1])]),
        action=fill(rule.action, titration.NONE),
        above=fill(rule.above, math.inf),
        below=fill(rule.below, -math.inf),
        while_interrupted=fill(rule.while_interrupted, -1),
        every_d=fill(rule.every_d, 0),
        min_days_since_change=fill(rule.min_days_since_change, 0),
        min_days_at_top_below=fill(rule.min_days_at_top_below, 0),
        top=np.int32(len(ladder) - 1),
    )
    for name, other in asked:
        low, high = getattr(rule, name), getattr(rule, other)
        low = np.zeros(len(rule.action)) if low is None else low
        high = np.full(len(rule.action), math.inf) if high is None else high
        filled = filled._replace(**{name: fill(low, 0.0), other: fill(high, math.inf)})
    return filled
