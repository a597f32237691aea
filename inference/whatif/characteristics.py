"""Operating characteristics: a row for every figure of a design, with its Monte Carlo error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inference.whatif import closed, further
from inference.whatif.calendar import DAYS_A_WEEK
from inference.whatif.counts import Counts, by_endpoint, looks_of, sizes_analysed, stated_probabilities
from inference.whatif.decisions import Decisions, columns_of, decide, powers_to_come
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
    n_trials = len(next(iter(counts.by_arm.values())))
    rows.begin(n_trials)
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
        _of_secondary(design, counts, decisions, rows, chance)
        _of_the_trial(design, decisions, rows, chance)
    if counts.calendar is not None:
        _of_the_calendar(design, counts, decisions.look.max(axis=1) if design.analysis else None, rows)
    elif design.screening is not None:
        planned = np.full(n_trials, sum(arm.n for arm in design.arms))
        entered = patients(design, decisions) if design.interims else planned
        _of_the_screening(entered, screened_per_patient(design, counts), rows)


def table(design: Scenario, counts: Counts, n_draws: int, null: bool = False) -> pd.DataFrame:
    """The summary of trials that were counted all at once."""
    rows = begun(design, n_draws, null)
    add(rows, design, counts)
    return rows.table()


def _by_comparison(design: Scenario, counts: Counts, found: Decisions, rows: Rows, chance: str) -> None:
    analysis, (_, active) = design.analysis, columns_of(design)
    assert analysis is not None
    last = len(looks_of(design)) - 1
    for i, arm in enumerate(active):
        comparison = f"{design.arms[arm].name} vs {analysis.control}"
        look = found.look[:, i]
        _estimate(design, counts, i, look, comparison, rows)
        rows.add(comparison, f"{chance}_{analysis.test}", found.rejected[:, i])
        if analysis.secondary:
            everything = found.rejected[:, i] & found.secondary[:, i].all(axis=1)
            rows.add(comparison, f"{chance}_primary_and_all_secondary", everything)
        if design.interims is None:
            continue
        if chance == "type_1_error" and design.interims.futility != "none":
            ignoring = found.rejected_ignoring_futility[:, i]
            rows.add(comparison, f"{chance}_{analysis.test}_futility_ignored", ignoring)
        for k in range(last + 1):
            rows.add(comparison, f"rejected_at_look_{k + 1}", found.rejected[:, i] & (np.minimum(look, last) == k))
            if design.interims.futility != "none" and k < last:
                rows.add(comparison, f"futile_at_look_{k + 1}", found.futile[:, i] & (look == k))
            if k < last and analysis.multiplicity not in closed.KINDS:
                going_on = look > k
                for kind in ("conditional-power", "predictive-power"):
                    to_come = np.where(going_on, powers_to_come(design, counts, k, kind)[:, i], 0.0)
                    rows.add_mean(comparison, f"{kind.replace('-', '_')}_after_look_{k + 1}", to_come, going_on)
        if design.interims.drop_losers is not None:
            at = design.interims.drop_losers.at_look
            rows.add(comparison, f"dropped_at_look_{at}", found.dropped[:, i])
            rows.add(comparison, f"kept_at_look_{at}", look >= at)
        if design.interims.reestimate is not None:
            extended = look > last
            rows.add(comparison, f"extended_at_look_{design.interims.reestimate.at_look}", extended)
            rows.add_mean(comparison, "rejected_if_extended", found.rejected[:, i] & extended, extended)


def _estimate(design: Scenario, counts: Counts, i: int, look: np.ndarray, comparison: str, rows: Rows) -> None:
    """What the analysis estimates of a comparison at the look that ended it: effect, its bias, and its interval."""
    analysis, (control, active) = design.analysis, columns_of(design)
    assert analysis is not None
    difference, low, high = estimated(design, counts, i, look)
    quantity, interval = f"{effect_of(analysis)}_{analysis.endpoint}", interval_of(analysis)
    finite = np.isfinite(difference) & np.isfinite(low) & np.isfinite(high)
    rows.add_estimate(comparison, quantity, difference, finite)
    truth = _true_difference(design, active[i], control)
    if truth is not None:
        rows.add(comparison, f"{quantity}_bias", difference - truth)
        # a bound that is the truth but for rounding covers it
        covered = (low <= truth + 1e-12) & (high >= truth - 1e-12)
        rows.add(comparison, f"coverage_{interval}", covered)
    else:
        rows.add_coverage(comparison, f"coverage_{interval}", difference[finite], low[finite], high[finite])
    rows.add_mean(comparison, f"width_{interval}", np.where(finite, high - low, 0.0), finite)


def _of_secondary(design: Scenario, counts: Counts, found: Decisions, rows: Rows, chance: str) -> None:
    """What is found and decided of secondary endpoints, each at the look that ended the arm's comparison."""
    endpoints, (_, active) = by_endpoint(design, counts)[1:], columns_of(design)
    for i, arm in enumerate(active):
        for k, (one, own) in enumerate(endpoints):
            assert one.analysis is not None and design.analysis is not None
            label = design.analysis.secondary[k].label
            comparison = f"{design.arms[arm].name} vs {one.analysis.control}: {label}"
            _estimate(one, own, i, found.look[:, i], comparison, rows)
            won = found.secondary[:, i, k]
            rows.add(comparison, f"{chance}_{one.analysis.test}", won)
            won_first = found.rejected[:, i]
            rows.add_mean(comparison, f"{chance}_if_the_primary_is_won", won & won_first, won_first)


def _of_the_trial(design: Scenario, found: Decisions, rows: Rows, chance: str) -> None:
    if found.secondary.shape[2]:
        any_, all_ = found.secondary.any(axis=(1, 2)), found.secondary.all(axis=(1, 2))
        rows.add(TRIAL, f"{chance}_any_endpoint", found.rejected.any(axis=1) | any_)
        rows.add(TRIAL, f"{chance}_every_endpoint", found.rejected.all(axis=1) & all_)
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


def _of_the_calendar(design: Scenario, counts: Counts, last: np.ndarray | None, rows: Rows) -> None:
    """When looks can be taken, and how long the trial lasts and whom it takes in if it ends with look ``last``."""
    calendar = counts.calendar
    assert design.accrual is not None and calendar is not None
    end = np.full(len(calendar), calendar.shape[1] - 1) if last is None else last
    for k in range(len(looks_of(design)) if design.interims else 0):
        rows.add(TRIAL, f"week_of_look_{k + 1}", calendar[:, k, 0] / DAYS_A_WEEK)
        rows.add(TRIAL, f"randomised_by_look_{k + 1}", calendar[:, k, 1])
    day, randomised = calendar[np.arange(len(calendar)), end, :2].T
    rows.add(TRIAL, "weeks", day / DAYS_A_WEEK)
    rows.add_quantiles(TRIAL, "weeks", day / DAYS_A_WEEK)
    rows.add(TRIAL, "randomised", randomised)
    if design.screening is None:
        rows.add(TRIAL, "screened", randomised / (1 - design.accrual.screen_failure_share))
    else:
        _of_the_screening(randomised, screened_per_patient(design, counts), rows)
    if calendar.shape[2] > 2:
        rows.add(TRIAL, "randomised_beyond_the_last_look_of_their_arm", calendar[np.arange(len(calendar)), end, 2])


def screened_per_patient(design: Scenario, counts: Counts) -> np.ndarray:
    """How many were screened [trials] for each patient who entered, failures included."""
    assert counts.sums is not None and counts.numbers is not None
    j = further.names(design).index("screened_per_patient")
    total, n = (sum(x[:, j] for x in found.values()) for found in (counts.sums, counts.numbers))
    return np.asarray(total / n)


def _of_the_screening(entered: np.ndarray, per_patient: np.ndarray, rows: Rows) -> None:
    """Who had to be screened for the patients who entered a trial."""
    rows.add(TRIAL, "screened", entered * per_patient)
    rows.add_quantiles(TRIAL, "screened", entered * per_patient)
    rows.add(TRIAL, "screen_failures", entered * (per_patient - 1))
    rows.add(TRIAL, "screen_failure_share", 1 - 1 / per_patient)


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
