"""Relapse after treatment ended: Kaplan-Meier curves of the virtual patients, numbers at risk and their bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inference.report.virtual import MIN_TRIALS
from inference.whatif.errors import NORMAL_95
from inference.whatif.survival import kaplan_meier

if TYPE_CHECKING:
    from inference.report.virtual import VirtualArm
    from pkpd.scenario import Scenario

PARTS = 4  # of the follow-up, at whose ends the table reads the curves


class RelapseCurve(NamedTuple):
    """Share without relapse of an arm at each of the days ``at_d`` after treatment ended, se (Greenwood's, of all
    virtual patients) and band, and how many of one trial are at risk.

    over_trials: the band is the middle 95% of single trials; else Greenwood's 95% interval of the curve itself.
    """

    arm: str
    at_d: np.ndarray
    share: np.ndarray
    se: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray
    over_trials: bool
    entered: int
    simulated: int


def curves(arms: Sequence[VirtualArm]) -> list[RelapseCurve]:
    """The curve of every arm some of whose patients entered a stage off treatment with a limit of relapse."""
    return [_curve(a) for a in arms if a.relapse is not None and a.relapse.entered.any()]


def _curve(a: VirtualArm) -> RelapseCurve:
    r = a.relapse
    assert r is not None
    at = np.unique(np.concatenate([[0.0], r.time_d[r.entered]]))
    whole = (r.time_d.reshape(1, -1), r.event.reshape(1, -1), r.entered.reshape(1, -1))
    share, se = (x[0] for x in kaplan_meier(whole[0], whole[1], at, present=whole[2]))
    some = r.entered.any(axis=1)  # a trial in which nobody came so far has no curve
    over_trials = a.whole and some.sum() >= MIN_TRIALS
    if over_trials:
        single, _ = kaplan_meier(r.time_d[some], r.event[some], at, present=r.entered[some])
        low, high = np.quantile(single, (0.025, 0.975), axis=0)
    else:
        low, high = np.clip(share - NORMAL_95 * se, 0, 1), np.clip(share + NORMAL_95 * se, 0, 1)
    numbers = (whole[0][whole[2]][:, None] >= at).sum(axis=0)
    at_risk = numbers * a.n / a.simulated
    return RelapseCurve(a.name, at, share, se, low, high, at_risk, bool(over_trials), int(whole[2].sum()), a.simulated)


def value_at(c: RelapseCurve, values: np.ndarray, day: float) -> float:
    """A step function of the curve, such as its share, at a day after treatment ended."""
    return float(values[np.searchsorted(c.at_d, day, side="right") - 1])


def at_risk(c: RelapseCurve, day: float) -> float:
    """Mean number of one trial still at risk just before a day."""
    place = np.searchsorted(c.at_d, day)
    return float(c.at_risk[place]) if place < len(c.at_d) else 0.0


def median_d(c: RelapseCurve) -> float | None:
    """First day by which half have relapsed; None where fewer have."""
    below = np.flatnonzero(c.share <= 0.5)
    return float(c.at_d[below[0]]) if len(below) else None


def days_read(found: Sequence[RelapseCurve]) -> list[float]:
    """Days at which the table reads the curves: quarters of the longest follow-up, in whole weeks where it has them."""
    last = max(float(c.at_d[-1]) for c in found)
    unit = 7.0 if last >= 7 * PARTS else 1.0
    return sorted({max(unit, unit * round(last * k / PARTS / unit)) for k in range(1, PARTS)} | {last})


def rows(found: Sequence[RelapseCurve]) -> list[dict[str, Any]]:
    """The table: whom a curve is of, its median, and its share with error on the days of ``days_read``."""
    return [
        {
            "arm": c.arm,
            "entered": c.entered / c.simulated,
            "median_d": median_d(c),
            "shares": [(value_at(c, c.share, d), value_at(c, c.se, d)) for d in days_read(found)],
        }
        for c in found
    ]


def limits(design: Scenario) -> str:
    """Counts below which a relapse is told, in words."""
    found = sorted({s.relapse_below_1e9_per_l for s in design.stages if s.relapse_below_1e9_per_l is not None})
    return " or ".join(f"{x:g}" for x in found)
