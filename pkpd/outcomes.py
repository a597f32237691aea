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
_OF_WEEK = {"response_week_": "binary", "log_count_week_": "value", "log_fold_week_": "value"}
_WEEK = re.compile(r"(response_week_|log_count_week_|log_fold_week_)([1-9][0-9]?[0-9]?)")
GOOD_EVENTS = ("time_to_first_response",)  # an earlier event is better


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


def responses(r: Read) -> np.ndarray:
    """Response at each visit: a count of at least 50 and no failure by then."""
    return (np.nan_to_num(r.counts) >= RESPONSE_COUNT) & ~r.failed


def outcome(
    name: str, v: Visits, r: Read, days: Sequence[int], until: int, stages: protocol.Stage | None = None
) -> Outcome:
    """The endpoint of that name over the first ``until`` visits; a relapse (which needs ``stages``) over all."""
    everybody = np.ones(r.counts.shape[1], bool)
    if "relapse" not in name:
        v = v._replace(platelets_observed=v.platelets_observed[:until], rescued=v.rescued[:until])
        r, days = Read(r.counts[:until], r.failed[:until]), days[:until]
    if name == "log_counts":
        return Outcome(_log(r.counts), everybody)
    if kind(name) == "time":
        return _time(name, v, r, days, stages)
    if name == "relapse":
        _, entered, relapsed = _relapses(v, days, stages)
        return Outcome(relapsed, entered)
    week = week_of(name)
    if week is not None:
        at = list(days).index(7 * week)
        if name.startswith("response"):
            return Outcome(responses(r)[at], everybody)
        change = _log(r.counts[at]) - (np.log(v.baseline) if name.startswith("log_fold") else 0)
        return Outcome(change, everybody)
    return Outcome(_over_visits(name, v, r, days), everybody)


def _over_visits(name: str, v: Visits, r: Read, days: Sequence[int]) -> np.ndarray:
    """Endpoints over all visits, [patients]."""
    responds = responses(r)
    if name == "response_any":
        return np.any(responds, axis=0)
    if name == "response_75":
        return responds.sum(axis=0) >= visits_for_75(len(responds))
    if name == "response_30_doubled":
        count = np.nan_to_num(r.counts)
        return ((count >= LOW_RESPONSE_COUNT) & (count >= LOW_RESPONSE_FOLD * v.baseline) & ~r.failed).any(axis=0)
    if name == "durable_response":
        needed, of = DURABLE
        return responds[-of:].sum(axis=0) >= needed
    if name == "rescue":
        return np.asarray(v.rescued)[-1]
    if name in ("longest_response_d", "total_response_d"):
        return durations(responds, days)[name == "total_response_d"]
    gaps = np.diff([0, *days])[:, None]  # a visit stands for the days since the one before
    observed = np.nan_to_num(np.asarray(v.platelets_observed))
    if name.startswith(("overshoot_", "days_above_")):
        above = observed > float(name.rpartition("_")[2])
        return np.any(above, axis=0) if name.startswith("overshoot_") else (above * gaps).sum(axis=0)
    assert name == "share_in_range"
    inside = (observed >= RESPONSE_COUNT) & (observed <= OVERSHOOTS[0])
    return (inside * gaps).sum(axis=0) / gaps.sum()


def durations(responds: np.ndarray, days: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Longest continuous and total response, days [patients]; as ``endpoints.run_durations``."""
    inside = (responds[1:] & responds[:-1]) * np.diff(days)[:, None]
    run = longest = np.zeros(responds.shape[1], np.int64)
    for gap in inside:
        run = np.where(gap > 0, run + gap, 0)
        longest = np.maximum(longest, run)
    return longest, inside.sum(axis=0)


def _time(name: str, v: Visits, r: Read, days: Sequence[int], stages: protocol.Stage | None) -> Outcome:
    """Time to the first visit with the event, censored at the last visit that was observed (day 0 if none was)."""
    everybody = np.ones(r.counts.shape[1], bool)
    day = np.asarray(days)[:, None]
    if name == "time_to_relapse":
        began, entered, relapsed = _relapses(v, days, stages)
        happens, start = np.asarray(v.relapsed), began
        last = _last_observed(v, day)
        return Outcome(np.maximum(np.where(relapsed, _first(happens, day), last) - start, 0), entered, relapsed)
    happens = responses(r) if name == "time_to_first_response" else np.asarray(v.rescued)
    event = np.any(happens, axis=0)
    # A patient who failed cannot respond any more but did not leave: at risk to the end.
    until = np.where(r.failed.any(axis=0), day[-1], _last_observed(v, day))
    if name == "time_to_rescue":
        until = _last_observed(v, day)
    return Outcome(np.where(event, _first(happens, day), until), everybody, event)


def _first(happens: np.ndarray, day: np.ndarray) -> np.ndarray:
    return np.where(happens, day, np.iinfo(np.int64).max).min(axis=0)


def _last_observed(v: Visits, day: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(v.platelets_observed), day, 0).max(axis=0)


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
    off = (np.asarray(stages.relapse_below) > 0)[np.asarray(v.stage)]
    entered = (off & ~np.asarray(v.dropped)).any(axis=0)
    before = np.array([0, *days[:-1]])[:, None]
    began = np.where(off, before, np.iinfo(np.int64).max).min(axis=0)
    return np.where(entered, began, 0), entered, np.asarray(v.relapsed)[-1] & entered


def _log(count: np.ndarray) -> np.ndarray:
    return np.log(count)
