"""The smallest trial whose power reaches a target: bisection under common random numbers, then fresh trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from inference.whatif.characteristics import TRIAL
from pkpd.errors import InputError
from pkpd.interims import check_interims

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

MAX_PATIENTS = 10_000  # of the largest trial that is tried, in all arms
SEARCH_TRIALS = 2000  # of a size on the way, at most
CONFIRMATIONS = 10  # sizes that are confirmed in turn, at most
SEEDS = 2**31  # seeds are below it
UP = 0.02  # share of the patients by which an unconfirmed size grows

Simulate = Callable[["Scenario", int], pd.DataFrame]  # a design and a seed to its table of characteristics


class Tried(NamedTuple):
    """A size that was simulated: its design, role, seed, and the row of its power."""

    design: Scenario
    role: str
    seed: int
    power: float
    mc_se: float
    lower: float
    upper: float
    n_trials: int


def resized(design: Scenario, n: int) -> Scenario | None:
    """The design with n patients in its smallest arm and the others in proportion, as whole patients; None where a
    look would have no new patient."""
    smallest = min(arm.n for arm in design.arms)
    arms = tuple(arm.model_copy(update={"n": max(1, math.floor(arm.n * n / smallest + 0.5))}) for arm in design.arms)
    found = design.model_copy(update={"arms": arms})
    if design.interims is not None:
        try:
            check_interims(design.interims, design.analysis, {arm.name: arm.n for arm in arms})
        except InputError:
            return None
    return found


def power_of(design: Scenario, table: pd.DataFrame) -> pd.Series:
    """The row of the power: of any rejection where there are several comparisons."""
    assert design.analysis is not None
    several = len(design.active_arms) > 1
    quantity = "power_any" if several else f"power_{design.analysis.test}"
    at = table["quantity"] == quantity
    return table[at & (table["comparison"] == TRIAL) if several else at].iloc[0]


def check(design: Scenario, power: float) -> None:
    """InputError where there is nothing to search."""
    if not 0 < power < 1:
        raise InputError(f"--find-n {power:g}: no power to reach; legal: above 0 and below 1")
    if design.analysis is None:
        raise InputError(f"{design.trial.name}: --find-n: [analysis] is missing; a power is that of a test")
    if sum(arm.n for arm in design.arms) > MAX_PATIENTS:
        raise InputError(f"--find-n: it starts at the scenario's own size; legal: at most {MAX_PATIENTS} patients")


def find_n(design: Scenario, power: float, seed: int, simulate: Simulate) -> Iterator[Tried]:
    """Sizes as they are tried: ``searched`` on the way, ``confirmed`` (or ``not confirmed``) at the end.

    From the scenario's size up or down by factors of 2 until the target lies between two sizes, then by halves. Every
    size of the search has the same trials as to their random numbers (``seed``), at most SEARCH_TRIALS of them. Power
    is taken to grow with the size; that of exact tests has teeth, so that a smaller size may reach the target too.

    The smallest size found looks better than it is, having been chosen. So it is simulated again, with as many trials
    as the scenario says and another seed. Where its power then falls below the target by more than its Monte Carlo
    error, the next step up (2% of the patients, one at least) is simulated with a seed of its own, and so on.
    """
    check(design, power)
    total, smallest = sum(arm.n for arm in design.arms), min(arm.n for arm in design.arms)
    most = smallest * MAX_PATIENTS // total
    few = design.trial.model_copy(update={"n_trials": min(design.trial.n_trials, SEARCH_TRIALS), "mc_se_below": None})
    searched = design.model_copy(update={"trial": few})
    low, high, n = 0, None, smallest  # no power at low, enough at high
    while high is None or high - low > 1:
        sized = resized(searched, n)
        enough = False
        if sized is not None:
            tried = _tried(sized, "searched", seed, simulate)
            yield tried
            enough = tried.power >= power
        if enough:
            high = n
        else:
            low = n
        if high is None and low >= most:
            raise _out_of_reach(power, tried)
        n = min(2 * n, most) if high is None else max(n // 2, 1) if low == 0 else (low + high) // 2
    n = high
    for k in range(1, CONFIRMATIONS + 1):
        sized = resized(design, n)
        assert sized is not None
        tried = _tried(sized, "confirmed", (seed + k) % SEEDS, simulate)
        if tried.power + tried.mc_se >= power:
            yield tried
            return
        yield tried._replace(role="not confirmed")
        n += max(1, round(UP * n))
        if n > most:
            raise _out_of_reach(power, tried)
    raise InputError(
        f"--find-n {power:g}: {CONFIRMATIONS} sizes up to {_sizes(tried.design)} were not confirmed on fresh trials; "
        "legal: a scenario with more trials (trial.n_trials)"
    )


def _tried(design: Scenario, role: str, seed: int, simulate: Simulate) -> Tried:
    row = power_of(design, simulate(design, seed))
    power, mc_se, lower, upper = (float(row[key]) for key in ("estimate", "mc_se", "lower", "upper"))
    return Tried(design, role, seed, power, mc_se, lower, upper, int(row["n_trials"]))


def _sizes(design: Scenario) -> str:
    return ", ".join(f"{arm.n} {arm.name}" for arm in design.arms)


def _out_of_reach(power: float, last: Tried) -> InputError:
    return InputError(
        f"--find-n {power:g}: not reached within {MAX_PATIENTS} patients: {_sizes(last.design)} have a power of "
        f"{last.power:.3g}; legal: a lower power, or a design with a larger effect"
    )


def table(found: list[Tried]) -> pd.DataFrame:
    """A row a size in the order they were tried: patients by arm and in all, power with its error and bounds."""
    rows = []
    for t in found:
        sizes = {f"{arm.name}: n": arm.n for arm in t.design.arms}
        figures = {key: getattr(t, key) for key in ("power", "mc_se", "lower", "upper", "n_trials", "seed", "role")}
        rows.append({**sizes, "patients": sum(sizes.values()), **figures})
    return pd.DataFrame(rows)
