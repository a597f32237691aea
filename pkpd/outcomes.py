"""What a patient's course counts as in an analysis: endpoints by name, each of its kind.

Arrays are [visits, patients] of NumPy, baseline excluded; counts in 1e9/L, times in days from the first dose. A visit's
day is that of the calendar, whatever its window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pkpd import protocol
from pkpd.endpoints import LOW_RESPONSE_COUNT, LOW_RESPONSE_FOLD, RESPONSE_COUNT, visits_for_75
from pkpd.estimands import Read
from pkpd.trial import Visits

OVERSHOOTS = (250.0, 400.0)  # 1e9/L
DURABLE = (6, 8)  # responses at 6 or more of the last 8 visits
KINDS: dict[str, tuple[str, ...]] = {
    "binary": (
        "response_any", "response_75", "response_30_doubled", "durable_response", "rescue", "relapse", "overshoot_250",
        "overshoot_400",
    ),
    "time": ("time_to_first_response", "time_to_relapse", "time_to_rescue"),
    "value": ("longest_response_d", "total_response_d", "days_above_250", "days_above_400", "share_in_range"),
    "repeated": ("log_counts",),
}  # fmt: skip
# Of the interval that ends with the visit of a week: exposure (free drug; the area is that of a mean day) and dose.
EXPOSURE = {
    "auc_ng_h_per_ml_week_": "auc_ng_h_per_ml", "cmax_ng_per_ml_week_": "cmax_ng_per_ml",
    "trough_ng_per_ml_week_": "trough_ng_per_ml", "dose_mg_week_": "dose_mg",
}  # fmt: skip
_OF_WEEK = {
    "response_week_": "binary", "log_count_week_": "value", "log_fold_week_": "value",
    **dict.fromkeys(EXPOSURE, "value"),
}  # fmt: skip
_WEEK = re.compile(f"({'|'.join(_OF_WEEK)})([1-9][0-9]?[0-9]?)")
# Decided by counts and failures alone.
OF_COUNTS = (
    "response_any",
    "response_75",
    "response_30_doubled",
    "durable_response",
    "longest_response_d",
    "total_response_d",
)
# Of all visits of a window, which may start later than the trial.
_OF_WINDOW = (
    *OF_COUNTS, "overshoot_250", "overshoot_400", "days_above_250", "days_above_400",
    "share_in_range", "log_counts",
)  # fmt: skip
GOOD_EVENTS = ("time_to_first_response",)  # an earlier event is better
# Fewer is better: one-sided tests, posterior probabilities and the ranking of arms are for fewer than the control.
LESS_IS_BETTER = ("rescue", "relapse", "overshoot_250", "overshoot_400", "days_above_250", "days_above_400")


class Outcome(NamedTuple):
    """An endpoint of patients: value [patients], or [visits, patients] where repeated; event [patients] where it is a
    time; present [patients]: whom it is of.
    """

    value: np.ndarray
    present: np.ndarray
    event: np.ndarray | None = None


def names() -> tuple[str, ...]:
    """All endpoints without a week, and one with a week of each kind."""
    return (*(f"{prefix}8" for prefix in _OF_WEEK), *(name for of_kind in KINDS.values() for name in of_kind))


def week_of(name: str) -> int | None:
    """Week of an endpoint that has one."""
    found = _WEEK.fullmatch(name)
    return int(found[2]) if found else None


def kind(name: str) -> str | None:
    """binary, time, value or repeated; None for no endpoint."""
    found = _WEEK.fullmatch(name)
    if found:
        return _OF_WEEK[found[1]]
    return next((kind for kind, of_kind in KINDS.items() if name in of_kind), None)


def of_counts_alone(name: str) -> bool:
    """Whether counts and failures alone decide an endpoint of one value, so that imputed counts decide it too."""
    found = _WEEK.fullmatch(name)
    return name in OF_COUNTS or (found is not None and found[1] not in EXPOSURE)


def reads(name: str) -> str:
    """What of an estimand decides an endpoint: "responses" (all of it), "counts" (which of them are missing; a failure
    is no count), or "nothing": harms, events, doses and exposure are of what was observed.
    """
    if name.startswith("log_"):
        return "counts"
    return "responses" if of_counts_alone(name) or name == "time_to_first_response" else "nothing"


def starts_later(name: str) -> bool:
    """Whether an endpoint can be of visits that start later than the trial."""
    return name in _OF_WINDOW


def responses(r: Read) -> np.ndarray:
    """Response at each visit: a count of at least 50 and no failure by then."""
    return (np.nan_to_num(r.counts) >= RESPONSE_COUNT) & ~r.failed


def outcome(
    name: str, v: Visits, r: Read, days: Sequence[int], until: int, stages: protocol.Stage | None = None, start: int = 0
) -> Outcome:
    """The endpoint of that name over the visits from ``start`` to before ``until``; a relapse (which needs ``stages``)
    over all. Who failed before ``start`` has failed throughout.
    """
    everybody = np.ones(r.counts.shape[1], bool)
    if name == "relapse":
        _, entered, relapsed = _relapses(v, days, stages)
        return Outcome(relapsed, entered)
    if name == "time_to_relapse":
        return _time_to_relapse(v, days, stages)
    if (exposure := _exposure_of(name)) is not None:
        at = list(days).index(7 * (week_of(name) or 0))
        value = daily_auc(v, days)[at] if exposure == "auc_ng_h_per_ml" else np.asarray(getattr(v, exposure))[at]
        return Outcome(np.where(np.asarray(v.dropped)[at], np.nan, value), everybody)
    before = days[start - 1] if start else 0
    r, days = Read(r.counts[start:until], r.failed[start:until]), days[start:until]
    observed, rescued = np.asarray(v.platelets_observed)[start:until], np.asarray(v.rescued)[start:until]
    if kind(name) == "time":
        return _time(responses(r) if name == "time_to_first_response" else rescued, observed, r, days, name)
    if name == "rescue":
        return Outcome(rescued[-1], everybody)
    if name.startswith(("overshoot_", "days_above_")) or name == "share_in_range":
        return Outcome(_range(name, np.nan_to_num(observed), days, before), everybody)
    value = of_counts(name, r, np.asarray(v.baseline), days)
    return Outcome(value, everybody)


def of_counts(name: str, r: Read, baseline: np.ndarray, days: Sequence[int]) -> np.ndarray:
    """Endpoints that counts and failures alone decide, [patients], or [visits, patients] of ``log_counts``."""
    if name == "log_counts":
        return np.log(r.counts)
    week, responds = week_of(name), responses(r)
    if week is not None:
        at = list(days).index(7 * week)
        if name.startswith("response"):
            return responds[at]
        return np.log(r.counts[at]) - (np.log(baseline) if name.startswith("log_fold") else 0)
    if name == "response_any":
        return np.any(responds, axis=0)
    if name == "response_75":
        return responds.sum(axis=0) >= visits_for_75(len(responds))
    if name == "response_30_doubled":
        count = np.nan_to_num(r.counts)
        return np.any((count >= LOW_RESPONSE_COUNT) & (count >= LOW_RESPONSE_FOLD * baseline) & ~r.failed, axis=0)
    if name == "durable_response":
        needed, of = DURABLE
        return responds[-of:].sum(axis=0) >= needed
    if name in ("longest_response_d", "total_response_d"):
        return durations(responds, days)[name == "total_response_d"]
    raise ValueError(f"{name!r} is not decided by counts")


def daily_auc(v: Visits, days: Sequence[int]) -> np.ndarray:
    """Mean area under the curve a day (ng h/mL) of the interval that ends with each visit, on the day it took place."""
    return np.asarray(v.auc_ng_h_per_ml) / np.diff(visit_days(v, days), axis=0, prepend=0)


def visit_days(v: Visits, days: Sequence[int]) -> np.ndarray:
    """Day on which each visit takes place, [visits, patients] or [visits, 1]."""
    return np.asarray(days)[:, None] if v.visit_d is None else np.asarray(v.visit_d)


def _exposure_of(name: str) -> str | None:
    """The field of visits that an endpoint of exposure reads."""
    found = _WEEK.fullmatch(name)
    return EXPOSURE.get(found[1]) if found else None


def _range(name: str, observed: np.ndarray, days: Sequence[int], before: int = 0) -> np.ndarray:
    """Overshoot, days above a count, share of the time from 50 to 250: a visit stands for the days since the last, the
    first one for those since day ``before``."""
    gaps = np.diff([before, *days])[:, None]
    if name == "share_in_range":
        inside = (observed >= RESPONSE_COUNT) & (observed <= OVERSHOOTS[0])
        return (inside * gaps).sum(axis=0) / gaps.sum()
    above = observed > float(name.rpartition("_")[2])
    return np.any(above, axis=0) if name.startswith("overshoot_") else (above * gaps).sum(axis=0)


def durations(responds: np.ndarray, days: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Longest continuous and total response, days [patients]; as ``endpoints.run_durations``."""
    inside = (responds[1:] & responds[:-1]) * np.diff(days)[:, None]
    run = longest = np.zeros(responds.shape[1], np.int64)
    for gap in inside:
        run = np.where(gap > 0, run + gap, 0)
        longest = np.maximum(longest, run)
    return longest, inside.sum(axis=0)


def _time(happens: np.ndarray, observed: np.ndarray, r: Read, days: Sequence[int], name: str) -> Outcome:
    """Time to the first visit with the event, censored at the last visit that was observed (day 0 if none was)."""
    day = np.asarray(days)[:, None]
    event, until = np.any(happens, axis=0), _last_observed(observed, day)
    if name == "time_to_first_response":
        # Who failed cannot respond any more, which is no censoring: at risk to the end.
        until = np.where(np.any(r.failed, axis=0), day[-1], until)
    return Outcome(np.where(event, _first(happens, day), until), np.ones(event.shape, bool), event)


def _time_to_relapse(v: Visits, days: Sequence[int], stages: protocol.Stage | None) -> Outcome:
    day = np.asarray(days)[:, None]
    began, entered, relapsed = _relapses(v, days, stages)
    happens = np.zeros(np.shape(v.dropped), bool) if v.relapsed is None else np.asarray(v.relapsed)
    until = np.where(relapsed, _first(happens, day), _last_observed(np.asarray(v.platelets_observed), day))
    return Outcome(np.maximum(until - began, 0), entered, relapsed)


def _first(happens: np.ndarray, day: np.ndarray) -> np.ndarray:
    return np.where(happens, day, np.iinfo(np.int64).max).min(axis=0)


def _last_observed(observed: np.ndarray, day: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(observed), day, 0).max(axis=0)


def _relapses(
    v: Visits, days: Sequence[int], stages: protocol.Stage | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Day on which each patient's time off treatment began, who entered it, and who relapsed, [patients].

    Entered: observed at one visit or more of a stage off treatment with a limit of relapse.
    """
    n = v.baseline.shape[0]
    if v.stage is None or stages is None or not np.any(np.asarray(stages.relapse_below) > 0):
        no = np.zeros(n, bool)
        return np.zeros(n, np.int64), no, no
    off = (np.asarray(stages.relapse_below) > 0)[np.asarray(v.stage if v.regimen is None else v.regimen)]
    entered = (off & ~np.asarray(v.dropped)).any(axis=0)
    before = np.array([0, *days[:-1]])[:, None]
    began = np.where(off, before, np.iinfo(np.int64).max).min(axis=0)
    return np.where(entered, began, 0), entered, np.asarray(v.relapsed)[-1] & entered
