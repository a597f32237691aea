"""Rows of the summary from running sums, so that memory does not grow with the number of trials.

Sums are taken trial after trial, in order, so they are the same to the bit in whatever parts the trials come. Of a
figure whose quantiles are wanted its values are kept, each different one once: rates and differences of rates have few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from inference.whatif.errors import NORMAL_95, quantile_with_se, wilson

SUMMARY_COLUMNS = (
    "design", "comparison", "quantity", "estimate", "mc_se", "lower", "upper", "n_trials", "n_draws",
)  # fmt: skip
QUANTILES = (0.025, 0.975)
ROUNDING = 1e-12  # a bound that is the truth but for rounding covers it
LEAST_MERGED = 2**14  # values that are kept as they came
Row = tuple[object, ...]  # quantity, estimate, mc_se, lower, upper


class Mean:
    """The mean y/x of numbers y and x of trials; x is 1 where a figure is of the trial itself."""

    def __init__(self, n_draws: int) -> None:
        self.by_draw = np.zeros((6, n_draws))  # y, x, yy, yx, xx, trials
        self.shift: float | None = None  # near the mean, so that squares lose no digits
        self.share = False

    def add(self, draw: np.ndarray, y: np.ndarray, x: np.ndarray | None = None) -> None:
        """Adds trials of these draws, all [trials]."""
        self.share = y.dtype == bool and (x is None or x.dtype == bool)  # of all trials, or of some
        y, x = np.asarray(y, np.float64), np.ones(len(y)) if x is None else np.asarray(x, np.float64)
        if self.shift is None and np.any(x > 0):
            first = np.argmax(x > 0)
            self.shift = 0.0 if self.share else float(y[first] / x[first])
        y = y - (self.shift or 0.0) * x
        for total, of_trials in zip(self.by_draw, (y, x, y * y, y * x, x * x, np.ones(len(y))), strict=True):
            np.add.at(total, draw, of_trials)  # one after the other

    def with_error(self) -> tuple[float, float]:
        """The estimate and its standard error, clustered by draw; nan where no x is above 0."""
        y, x, yy, yx, xx, trials = self.by_draw[:, self.by_draw[5] > 0]
        if not x.sum() > 0:
            return float("nan"), float("nan")
        slope, n, draws = y.sum() / x.sum(), trials.sum(), len(trials)
        estimate = float(slope + (self.shift or 0.0))
        # A ratio of means: its error is that of the deviations y - slope x, by the delta method.
        if draws > 1:
            deviations = y - slope * x
            return estimate, float(np.sqrt(draws / (draws - 1) * (deviations**2).sum()) / x.sum())
        squares = max(0.0, float(yy.sum() - 2 * slope * yx.sum() + slope**2 * xx.sum()))
        return estimate, float(np.sqrt(squares * n / (n - 1)) / x.sum()) if n > 1 else float("nan")

    def rows(self, quantity: str) -> list[Row]:
        """A row with bounds of 95%: Wilson's of a share."""
        estimate, se = self.with_error()
        bounds = (estimate - NORMAL_95 * se, estimate + NORMAL_95 * se)
        if self.share and np.isfinite(estimate):
            bounds = wilson(estimate, se, int(self.by_draw[1].sum()))
        return [(quantity, estimate, se, *bounds)]


class Quantiles:
    """Quantiles of what one trial reports, from its different values and how often each came."""

    def __init__(self) -> None:
        self.values, self.times = np.empty(0), np.empty(0, np.int64)
        self.new: list[np.ndarray] = []

    def add(self, x: np.ndarray) -> None:
        """Adds values [trials]."""
        self.new.append(np.asarray(x, np.float64))
        if sum(map(len, self.new)) > max(len(self.values), LEAST_MERGED):
            self._merge()

    def _merge(self) -> None:
        n_new = sum(map(len, self.new))
        times = np.concatenate([np.ones(n_new, np.int64), self.times])
        self.values, place = np.unique(np.concatenate([*self.new, self.values]), return_inverse=True)
        self.times, self.new = np.bincount(place, times, len(self.values)).astype(np.int64), []

    def share(self, of: Callable[[np.ndarray], np.ndarray]) -> float:
        """Share of the values for which ``of`` is true."""
        self._merge()
        return float(self.times[of(self.values)].sum() / self.times.sum())

    def rows(self, quantity: str) -> list[Row]:
        """A row for each of QUANTILES."""
        self._merge()
        sample = np.repeat(self.values, self.times)
        found: list[Row] = []
        for q in QUANTILES:
            value, se = quantile_with_se(sample, q)
            found.append((f"{quantity}_q{100 * q:g}", value, se, value - NORMAL_95 * se, value + NORMAL_95 * se))
        return found


class Estimate:
    """An estimate of the trials that have one: separated or empty data have none."""

    def __init__(self, n_draws: int) -> None:
        self.finite, self.mean, self.quantiles = Mean(n_draws), Mean(n_draws), Quantiles()

    def add(self, draw: np.ndarray, estimate: np.ndarray, finite: np.ndarray) -> None:
        """Adds trials of these draws, all [trials]."""
        self.finite.add(draw, finite)
        self.mean.add(draw, np.where(finite, estimate, 0.0), finite)
        self.quantiles.add(estimate[finite])

    def rows(self, quantity: str) -> list[Row]:
        """Mean and quantiles; where trials have no estimate their share, and the mean of the others."""
        if self.finite.with_error()[0] == 1:
            return [*self.mean.rows(quantity), *self.quantiles.rows(quantity)]
        return [*self.finite.rows(f"{quantity}_estimable"), *self.mean.rows(quantity)]


class Coverage:
    """Share of the trials whose interval holds the mean of all estimates: the truth where no trial is biased.

    Of one draw: others have truths of their own. The mean's own Monte Carlo error, small against a trial's, is ignored.
    """

    def __init__(self, n_draws: int) -> None:
        self.one_draw, self.mean = n_draws == 1, Mean(n_draws)
        self.low, self.high = Quantiles(), Quantiles()

    def add(self, draw: np.ndarray, estimate: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Adds trials with an estimate, all [trials]."""
        if self.one_draw:
            self.mean.add(draw, estimate)
            self.low.add(low)
            self.high.add(high)

    def rows(self, quantity: str) -> list[Row]:
        """One row, with Wilson's bounds; none of several draws."""
        truth, n = self.mean.with_error()[0], self.mean.by_draw[5].sum()
        if not n > 0:
            return []
        # an interval misses on one side only: bounds need not be kept in pairs; rounding does not decide
        missed = self.low.share(lambda low: low > truth + ROUNDING) + self.high.share(
            lambda high: high < truth - ROUNDING
        )
        covered = 1 - missed
        se = float(np.sqrt(covered * (1 - covered) / n))
        return [(quantity, covered, se, *wilson(covered, se, int(n)))]


class Rows:
    """Rows of the summary as trials come: ``begin`` a part of them, then add its figures, the same ones of each part.

    They come in the order in which they were first added.
    """

    def __init__(self, design: str, n_draws: int, null: bool = False) -> None:
        self.design, self.n_draws, self.null, self.n_trials = design, n_draws, null, 0
        self.draw = np.empty(0, np.int64)
        self.found: dict[tuple[str, str, type], Mean | Quantiles | Estimate | Coverage] = {}

    def begin(self, n_trials: int) -> None:
        """The next so many trials; trial t is of draw t modulo their number."""
        self.draw = (self.n_trials + np.arange(n_trials)) % self.n_draws
        self.n_trials += n_trials

    def add(self, comparison: str, quantity: str, per_trial: np.ndarray) -> None:
        """The mean over trials, of a share (bool) with Wilson's bounds."""
        self._kept(comparison, quantity, Mean).add(self.draw, per_trial)

    def add_mean(self, comparison: str, quantity: str, sums: np.ndarray, numbers: np.ndarray) -> None:
        """The mean over patients, from their sums and numbers in each trial; trials without any say nothing."""
        self._kept(comparison, quantity, Mean).add(self.draw, sums, numbers)

    def add_quantiles(self, comparison: str, quantity: str, per_trial: np.ndarray) -> None:
        """The 2.5% and 97.5% quantiles of what one trial reports."""
        self._kept(comparison, quantity, Quantiles).add(per_trial)

    def add_estimate(self, comparison: str, quantity: str, estimate: np.ndarray, finite: np.ndarray) -> None:
        """What trials estimate, and whether they have an estimate."""
        self._kept(comparison, quantity, Estimate).add(self.draw, estimate, finite)

    def add_coverage(
        self, comparison: str, quantity: str, estimate: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        """Intervals [trials with an estimate], where no truth is stated."""
        draw = np.zeros(len(estimate), np.int64)
        self._kept(comparison, quantity, Coverage).add(draw, estimate, low, high)

    def _kept(self, comparison: str, quantity: str, kind: type) -> Any:
        key = (comparison, quantity, kind)
        if key not in self.found:
            self.found[key] = kind() if kind is Quantiles else kind(self.n_draws)
        return self.found[key]

    def table(self) -> pd.DataFrame:
        """The summary of all trials so far."""
        last = (self.n_trials, min(self.n_draws, self.n_trials))
        rows = [
            (self.design, comparison, *row, *last)
            for (comparison, quantity, _), kept in self.found.items()
            for row in kept.rows(quantity)
        ]
        return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)
