"""Operating characteristics: a row for every figure of a design, with its Monte Carlo error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inference.whatif import further
from inference.whatif.calendar import DAYS_A_WEEK
from inference.whatif.counts import Counts, looks_of, sizes_analysed, stated_probabilities
from inference.whatif.decisions import Decisions, columns_of, decide
from inference.whatif.estimated import Estimated, bounds
from inference.whatif.intervals import INTERVALS
from inference.whatif.summed import Rows

if TYPE_CHECKING:
    import pandas as pd

    from pkpd.analysis import Analysis
    from pkpd.scenario import Scenario

# What a test estimates where it needs the outcome of each patient.
EFFECTS = {
    "cochran-mantel-haenszel": "log_odds_ratio", "risk-difference": "risk_difference", "logistic": "log_odds_ratio",
    "log-rank": "log_hazard_ratio", "cox": "log_hazard_ratio", "ancova": "mean_difference", "mmrm": "mean_difference",
}  # fmt: skip
TRIAL = "whole trial"  # the comparison of figures that are of no arm


def begun(design: Scenario, n_draws: int, null: bool = False) -> Rows:
    """The summary of a design before its first trial, for ``add``.

    With ``null`` the trials are of the null, and what would be a power is a type I error.
    """
    return Rows(design.trial.name + (", null" if null else ""), n_draws, null)


def add(rows: Rows, design: Scenario, counts: Counts) -> None:
    """The next trials: by arm the rate of each endpoint, by comparison what the analysis finds and decides."""
    rows.begin(len(next(iter(counts.by_arm.values()))))
    for arm in design.arms:
        for j, name in enumerate(counts.names):
            rate = counts.by_arm[arm.name][:, j] / arm.n
            rows.add(arm.name, name, rate)
            rows.add_quantiles(arm.name, name, rate)
        if counts.sums is not None and counts.numbers is not None:
            for j, name in enumerate(further.names(design)):
                rows.add_mean(arm.name, name, counts.sums[arm.name][:, j], counts.numbers[arm.name][:, j])
    if design.analysis is not None:
        decisions, chance = decide(design, counts), "type_1_error" if rows.null else "power"
        _by_comparison(design, counts, decisions, rows, chance)
        _of_the_trial(design, decisions, rows, chance)
    if counts.calendar is not None:
        _of_the_calendar(design, counts.calendar, decisions.look.max(axis=1) if design.analysis else None, rows)


def table(design: Scenario, counts: Counts, n_draws: int, null: bool = False) -> pd.DataFrame:
    """The summary of trials that were counted all at once."""
    rows = begun(design, n_draws, null)
    add(rows, design, counts)
    return rows.table()


def _by_comparison(design: Scenario, counts: Counts, found: Decisions, rows: Rows, chance: str) -> None:
    analysis, (control, active) = design.analysis, columns_of(design)
    assert analysis is not None
    last = len(looks_of(design)) - 1
    for i, arm in enumerate(active):
        comparison = f"{design.arms[arm].name} vs {analysis.control}"
        look = found.look[:, i]
        difference, low, high = estimated(design, counts, i, look)
        quantity, interval = f"{effect_of(analysis)}_{analysis.endpoint}", interval_of(analysis)
        finite = np.isfinite(difference) & np.isfinite(low) & np.isfinite(high)
        rows.add_estimate(comparison, quantity, difference, finite)
        truth = _true_difference(design, arm, control)
        if truth is not None:
            rows.add(comparison, f"{quantity}_bias", difference - truth)
            # a bound that is the truth but for rounding covers it
            covered = (low <= truth + 1e-12) & (high >= truth - 1e-12)
            rows.add(comparison, f"coverage_{interval}", covered)
        else:
            rows.add_coverage(comparison, f"coverage_{interval}", difference[finite], low[finite], high[finite])
        rows.add_mean(comparison, f"width_{interval}", np.where(finite, high - low, 0.0), finite)
        rows.add(comparison, f"{chance}_{analysis.test}", found.rejected[:, i])
        if design.interims is None:
            continue
        if chance == "type_1_error" and design.interims.futility != "none":
            ignoring = found.rejected_ignoring_futility[:, i]
            rows.add(comparison, f"{chance}_{analysis.test}_futility_ignored", ignoring)
        for k in range(last + 1):
            rows.add(comparison, f"rejected_at_look_{k + 1}", found.rejected[:, i] & (np.minimum(look, last) == k))
            if design.interims.futility != "none" and k < last:
                rows.add(comparison, f"futile_at_look_{k + 1}", found.futile[:, i] & (look == k))
        if design.interims.drop_losers is not None:
            at = design.interims.drop_losers.at_look
            rows.add(comparison, f"dropped_at_look_{at}", found.dropped[:, i])
            rows.add(comparison, f"kept_at_look_{at}", look >= at)
        if design.interims.reestimate is not None:
            extended = look > last
            rows.add(comparison, f"extended_at_look_{design.interims.reestimate.at_look}", extended)
            rows.add_mean(comparison, "rejected_if_extended", found.rejected[:, i] & extended, extended)


def _of_the_trial(design: Scenario, found: Decisions, rows: Rows, chance: str) -> None:
    if len(design.active_arms) > 1:
        rows.add(TRIAL, f"{chance}_any", found.rejected.any(axis=1))
        rows.add(TRIAL, f"{chance}_all", found.rejected.all(axis=1))
    if design.interims is not None:
        rows.add(TRIAL, "patients", patients(design, found).astype(np.float64))


def patients(design: Scenario, found: Decisions) -> np.ndarray:
    """Patients [trials] whose outcomes a sequential trial uses; the control goes on as long as any comparison."""
    sizes, (control, active) = sizes_analysed(design), columns_of(design)
    of_arms = np.stack([sizes[found.look[:, i], arm] for i, arm in enumerate(active)])
    return np.asarray(of_arms.sum(axis=0) + sizes[found.look.max(axis=1), control])


def _of_the_calendar(design: Scenario, calendar: np.ndarray, last: np.ndarray | None, rows: Rows) -> None:
    """When looks can be taken, and how long the trial lasts and whom it takes in if it ends with look ``last``."""
    assert design.accrual is not None
    end = np.full(len(calendar), calendar.shape[1] - 1) if last is None else last
    for k in range(len(looks_of(design)) if design.interims else 0):
        rows.add(TRIAL, f"week_of_look_{k + 1}", calendar[:, k, 0] / DAYS_A_WEEK)
        rows.add(TRIAL, f"randomised_by_look_{k + 1}", calendar[:, k, 1])
    day, randomised = calendar[np.arange(len(calendar)), end].T
    rows.add(TRIAL, "weeks", day / DAYS_A_WEEK)
    rows.add_quantiles(TRIAL, "weeks", day / DAYS_A_WEEK)
    rows.add(TRIAL, "randomised", randomised)
    rows.add(TRIAL, "screened", randomised / (1 - design.accrual.screen_failure_share))


def effect_of(analysis: Analysis) -> str:
    """What the analysis estimates, as its quantities are called."""
    return EFFECTS[analysis.test] if analysis.by_patient else "risk_difference"


def interval_of(analysis: Analysis) -> str:
    """Name of the interval."""
    return "interval" if analysis.by_patient else analysis.interval


def estimated(
    design: Scenario, counts: Counts, comparison: int, look: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effect of a comparison and its interval at the look that ended it, unadjusted for earlier looks."""
    analysis, (control, active) = design.analysis, columns_of(design)
    assert analysis is not None
    effect, low, high = np.empty((3, len(look)))
    for k, sizes in enumerate(sizes_analysed(design)):
        at = look == k
        if counts.effects is not None:
            found = Estimated(*counts.effects[at, k, comparison].T)
            effect[at], (low[at], high[at]) = found.estimate, bounds(found, analysis.confidence)
            continue
        assert counts.analysed is not None
        n, n0 = sizes[[active[comparison], control]].tolist()
        y, y0 = counts.analysed[at, k][:, [active[comparison], control]].T
        effect[at] = y / n - y0 / n0
        low[at], high[at] = INTERVALS[analysis.interval](y, n, y0, n0, analysis.confidence)
    return effect, low, high


def _true_difference(design: Scenario, arm: int, control: int) -> float | None:
    """The stated difference of the analysis' endpoint; None where patients are simulated."""
    if design.outcome is None or design.analysis is None:
        return None
    names, probabilities = stated_probabilities(design)
    j = names.index(design.analysis.endpoint)
    return probabilities[design.arms[arm].name][j] - probabilities[design.arms[control].name][j]
