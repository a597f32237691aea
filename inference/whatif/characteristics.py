"""Operating characteristics: a row for every figure of a design, with its Monte Carlo error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from inference.whatif.counts import Counts, sizes_at_looks, stated_probabilities
from inference.whatif.decisions import Decisions, columns_of, decide
from inference.whatif.errors import NORMAL_95, clustered_se, quantile_with_se, wilson
from inference.whatif.intervals import INTERVALS

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

SUMMARY_COLUMNS = (
    "design", "comparison", "quantity", "estimate", "mc_se", "lower", "upper", "n_trials", "n_draws",
)  # fmt: skip
TRIAL = "whole trial"  # the comparison of figures that are of no arm


class Rows:
    """Rows of the summary as they are found: a mean or share of trials, or quantiles over them."""

    def __init__(self, design: str, n_trials: int, n_draws: int) -> None:
        self.design, self.n_trials, self.n_draws = design, n_trials, n_draws
        self.cluster = np.arange(n_trials) % n_draws
        self.rows: list[tuple[object, ...]] = []

    def add(self, comparison: str, quantity: str, per_trial: np.ndarray) -> None:
        """The mean over trials, of a share (bool) with Wilson's bounds."""
        estimate, se = float(per_trial.mean()), clustered_se(per_trial, self.cluster)
        bounds = (estimate - NORMAL_95 * se, estimate + NORMAL_95 * se)
        if per_trial.dtype == bool:
            bounds = wilson(estimate, se, self.n_trials)
        self._append(comparison, quantity, estimate, se, *bounds)

    def add_quantiles(self, comparison: str, quantity: str, per_trial: np.ndarray) -> None:
        """The 2.5% and 97.5% quantiles of what one trial reports."""
        for q in (0.025, 0.975):
            value, se = quantile_with_se(per_trial, q)
            bounds = (value - NORMAL_95 * se, value + NORMAL_95 * se)
            self._append(comparison, f"{quantity}_q{100 * q:g}", value, se, *bounds)

    def _append(self, *figures: object) -> None:
        self.rows.append((self.design, *figures, self.n_trials, self.n_draws))


def table(design: Scenario, counts: Counts, n_draws: int, null: bool = False) -> pd.DataFrame:
    """The summary of trials: by arm the rate of each endpoint, by comparison what the analysis finds and decides.

    With ``null`` the trials are of the null, and what would be a power is a type I error.
    """
    n_trials = len(next(iter(counts.by_arm.values())))
    rows = Rows(design.trial.name + (", null" if null else ""), n_trials, min(n_draws, n_trials))
    for arm in design.arms:
        for j, name in enumerate(counts.names):
            rate = counts.by_arm[arm.name][:, j] / arm.n
            rows.add(arm.name, name, rate)
            rows.add_quantiles(arm.name, name, rate)
    if design.analysis is not None:
        assert counts.analysed is not None
        decisions = decide(design, counts.analysed)
        _by_comparison(design, counts.analysed, decisions, rows, "type_1_error" if null else "power")
        _of_the_trial(design, decisions, rows, "type_1_error" if null else "power")
    return pd.DataFrame(rows.rows, columns=SUMMARY_COLUMNS)


def _by_comparison(design: Scenario, analysed: np.ndarray, found: Decisions, rows: Rows, chance: str) -> None:
    analysis, (control, active) = design.analysis, columns_of(design)
    assert analysis is not None
    sizes = sizes_at_looks(design)
    for i, arm in enumerate(active):
        comparison = f"{design.arms[arm].name} vs {analysis.control}"
        look = found.look[:, i]
        difference, low, high = estimated(design, analysed[:, :, [arm, control]], sizes[:, [arm, control]], look)
        quantity = f"risk_difference_{analysis.endpoint}"
        rows.add(comparison, quantity, difference)
        rows.add_quantiles(comparison, quantity, difference)
        truth = _true_difference(design, arm, control)
        if truth is not None:
            rows.add(comparison, f"{quantity}_bias", difference - truth)
            # a bound that is the truth but for rounding covers it
            covered = (low <= truth + 1e-12) & (high >= truth - 1e-12)
            rows.add(comparison, f"coverage_{analysis.interval}", covered)
        rows.add(comparison, f"width_{analysis.interval}", high - low)
        rows.add(comparison, f"{chance}_{analysis.test}", found.rejected[:, i])
        if design.interims is None:
            continue
        if chance == "type_1_error" and design.interims.futility != "none":
            ignoring = found.rejected_ignoring_futility[:, i]
            rows.add(comparison, f"{chance}_{analysis.test}_futility_ignored", ignoring)
        for k in range(len(sizes)):
            rows.add(comparison, f"rejected_at_look_{k + 1}", found.rejected[:, i] & (look == k))
            if design.interims.futility != "none" and k + 1 < len(sizes):
                rows.add(comparison, f"futile_at_look_{k + 1}", found.futile[:, i] & (look == k))


def _of_the_trial(design: Scenario, found: Decisions, rows: Rows, chance: str) -> None:
    control, active = columns_of(design)
    if len(active) > 1:
        rows.add(TRIAL, f"{chance}_any", found.rejected.any(axis=1))
        rows.add(TRIAL, f"{chance}_all", found.rejected.all(axis=1))
    if design.interims is not None:
        sizes = sizes_at_looks(design)
        patients = sum(sizes[found.look[:, i], arm] for i, arm in enumerate(active))
        patients = patients + sizes[found.look.max(axis=1), control]  # as long as any comparison goes on
        rows.add(TRIAL, "patients", patients.astype(np.float64))


def estimated(
    design: Scenario, analysed: np.ndarray, sizes: np.ndarray, look: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risk difference and its interval at the look that ended the comparison, unadjusted for earlier looks."""
    assert design.analysis is not None
    interval, confidence = INTERVALS[design.analysis.interval], design.analysis.confidence
    difference, low, high = np.empty((3, len(look)))
    for k, (n, n0) in enumerate(sizes.tolist()):
        at = look == k
        y, y0 = analysed[at, k].T
        difference[at] = y / n - y0 / n0
        low[at], high[at] = interval(y, n, y0, n0, confidence)
    return difference, low, high


def _true_difference(design: Scenario, arm: int, control: int) -> float | None:
    """The stated difference of the analysis' endpoint; None where patients are simulated."""
    if design.outcome is None or design.analysis is None:
        return None
    names, probabilities = stated_probabilities(design)
    j = names.index(design.analysis.endpoint)
    return probabilities[design.arms[arm].name][j] - probabilities[design.arms[control].name][j]
