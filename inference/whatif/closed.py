"""Closed tests of several arms over the stages of a trial, whatever it does to its arms in between.

Every intersection of arms' nulls has a test of its own, and an arm's null is rejected once all intersections with it
are. An intersection's stages are combined by the inverse normal method (Lehmacher and Wassmer 1999): sum of
sqrt(information of the stage, as planned) times the normal quantile of its one-sided p, against the group-sequential
boundary at the full alpha. A stage's p is of the patients of that stage alone: of the arms of the intersection that
were still open, Dunnett's p for their largest statistic, or Simes' for their p-values; 1 where none of them was open.
Given the stages before, it is no smaller than uniform under the null, whatever they made the trial choose, so the
family-wise error is at most alpha in the strong sense (Bauer and Kieser 1999; Posch et al. 2005, Statistics in Medicine
24: 3697-714; Bretz et al. 2006, Biometrical Journal 48: 623-34).

Dunnett's law is that of normal statistics which share a control, of sizes in these proportions. Simes' test keeps its
level for such statistics, whose correlations are positive. Without looks the two are step-down Dunnett and Hommel
tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import interpolate, stats

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # of the mean over a standard normal variable
SMALLEST = 1e-300  # p, whose quantile is finite
STEP, FARTHEST = 1 / 16, 9.0  # of the grid on which Dunnett's p is computed, in standard deviations

KINDS = ("closed-dunnett", "closed-simes")

Arms = tuple[int, ...]


def dunnett(z: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Probability under the null that the largest of the statistics is z or more.

    shares: of each arm n/(n + n0); the statistics correlate by the square root of their product. Between the points of
    a grid the normal quantile of p is a cubic spline.
    """
    grid = np.arange(-FARTHEST, FARTHEST + STEP, STEP)
    below = np.ones((len(grid), len(NODES)))
    for share in shares:
        below *= stats.norm.cdf((grid[:, None] - np.sqrt(share) * NODES) / np.sqrt(1 - share))
    # beyond 8 standard deviations 1 less the mean is rounding, and p that of one arm
    p = np.clip(1 - below @ WEIGHTS, stats.norm.sf(grid), 1 - 1e-16)
    quantile = interpolate.CubicSpline(grid, stats.norm.isf(p))
    return np.asarray(stats.norm.sf(quantile(np.clip(z, -FARTHEST, FARTHEST))))


def simes(p: np.ndarray) -> np.ndarray:
    """Simes' p of hypotheses [trials, k]."""
    k = p.shape[1]
    return np.asarray((np.sort(p, axis=1) * (k / np.arange(1, k + 1))).min(axis=1))


def intersections(arms: int) -> list[Arms]:
    """Every set of arms."""
    return [s for k in range(1, arms + 1) for s in itertools.combinations(range(arms), k)]


class ClosedTest:
    """What a closed test knows of every intersection after the stages so far: its combined statistic, and whether it
    has been rejected; arrays [trials] by intersection."""

    def __init__(self, trials: int, arms: int, kind: str) -> None:
        self.trials, self.arms, self.kind, self.information = trials, arms, kind, 0.0
        self.sums = {s: np.zeros(trials) for s in intersections(arms)}
        self.rejected = {s: np.zeros(trials, bool) for s in self.sums}

    def add(
        self, z: np.ndarray, p: np.ndarray, open_: np.ndarray, shares: np.ndarray, information: float, critical: float
    ) -> np.ndarray:
        """Which arms' nulls [trials, arms] are rejected by now, with a further stage.

        z and p: of the stage's own patients, one-sided, [trials, arms]. open_: arms that took part in it. shares: of
        each arm n/(n + n0) in it. information: share of the whole trial's that was planned for it. critical: value of
        the look at its end.
        """
        self.information += information
        known = {s: self._stage_p(s, z, p, shares) for s in self.sums}
        for s, total in self.sums.items():
            with np.errstate(invalid="ignore"):  # an intersection without arms stays at minus infinity
                total += np.sqrt(information) * stats.norm.isf(_of_open(s, known, open_))
            self.rejected[s] |= total >= critical * np.sqrt(self.information)
        return np.stack([self._all_with(arm) for arm in range(self.arms)], axis=1)

    def _stage_p(self, s: Arms, z: np.ndarray, p: np.ndarray, shares: np.ndarray) -> np.ndarray:
        at = list(s)
        if self.kind == "closed-simes":
            return np.maximum(simes(p[:, at]), SMALLEST)
        if len(s) == 1:
            return np.maximum(p[:, at[0]], SMALLEST)
        return np.maximum(dunnett(z[:, at].max(axis=1), shares[at]), SMALLEST)

    def _all_with(self, arm: int) -> np.ndarray:
        return np.logical_and.reduce([found for s, found in self.rejected.items() if arm in s])


def _of_open(s: Arms, known: Mapping[Arms, np.ndarray], open_: np.ndarray) -> np.ndarray:
    """p of the arms of s that are open in each trial: that of the smaller intersection, 1 of none."""
    found = np.ones(len(open_))
    for k in range(1, len(s) + 1):
        for part in itertools.combinations(s, k):
            found = np.where(_exactly(s, part, open_), known[part], found)
    return found


def _exactly(s: Arms, part: Sequence[int], open_: np.ndarray) -> np.ndarray:
    """Trials in which the open arms of s are those of ``part``."""
    return (open_[:, list(s)] == np.isin(s, part)).all(axis=1)
