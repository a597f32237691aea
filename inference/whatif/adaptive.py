"""What an adaptive trial chooses at a look: the arms that go on, or how many patients it takes.

Dropping losers with multiplicity = "bonferroni", each of m comparisons at alpha/m: a comparison that ends early is not
rejected, so the choice, whatever it follows from, only takes rejections away from m group-sequential tests at alpha/m.
The familywise error is at most alpha by Bonferroni's inequality, and below it: conservative. The closed tests of
``whatif.closed`` use alpha up.

Re-estimation is the promising zone of Mehta and Pocock (Statistics in Medicine 2011; 30: 3267-84). The last test keeps
its statistic, of all patients, and its critical value. More patients are taken only where, given the statistic at the
look, the chance under the null that this test rejects is no larger at the new size than at the planned one. So the
chance is at most that of the planned trial at every statistic at the look, and thus over all of them: the type I error
is not raised (Chen, DeMets and Lan 2004; Gao, Ware and Mehta 2008; the principle is that of Mueller and Schaefer 2001).
This is so for statistics that move as Brownian motion, which those of counts do to the extent that the test keeps its
level at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from inference.whatif.counts import looks_of, sizes_analysed

if TYPE_CHECKING:
    from pkpd.scenario import Scenario


def best(value: np.ndarray, eligible: np.ndarray, keep: int) -> np.ndarray:
    """Which comparisons [trials, comparisons] are the ``keep`` best by value of the eligible; ties to the earlier."""
    order = np.argsort(np.where(eligible, -value, np.inf), axis=1, kind="stable")
    place = np.argsort(order, axis=1, kind="stable")
    return eligible & (place < keep)


def information(design: Scenario) -> np.ndarray:
    """Information of two arms [rows of ``sizes_analysed``], as a share of that planned for the last look."""
    total = 1 / (1 / sizes_analysed(design)).sum(axis=1)
    return np.asarray(total / total[len(looks_of(design)) - 1])


def conditional_error(z: np.ndarray, t: float, r: np.ndarray | float, critical: float, sided: int) -> np.ndarray:
    """Chance under the null of rejecting at information r with the critical value, given z at information t < r."""
    B, sd = z * np.sqrt(t), np.sqrt(np.asarray(r) - t)
    edge = critical * np.sqrt(r)
    tail = stats.norm.sf((edge - B) / sd)
    return np.asarray(tail + stats.norm.cdf((-edge - B) / sd) if sided == 2 else tail)


def promising_step(
    z: np.ndarray, t: float, r: np.ndarray, critical: float, sided: int, conditional_power: float
) -> np.ndarray:
    """Index in r of the information that the last look will have, given z at information t; 0 where nothing changes.

    r: what may be chosen, ascending, the planned 1 first. The size aimed at is that of Mehta and Pocock: at which the
    test that keeps the conditional error of the planned trial has the conditional power at the effect seen.
    """
    drift = z / np.sqrt(t)  # per unit of information
    quantile = (critical - z * np.sqrt(t)) / np.sqrt(1 - t)  # of the conditional error
    hopeful = (drift > 0) & (stats.norm.sf(quantile - drift * np.sqrt(1 - t)) < conditional_power)
    needed = t + ((quantile + stats.norm.ppf(conditional_power)) / np.where(hopeful, drift, 1)) ** 2
    step = np.minimum(np.searchsorted(r, needed - 1e-9), len(r) - 1)  # a size short of it by rounding is enough
    error = conditional_error(z, t, r[step], critical, sided)
    promising = hopeful & (error <= conditional_error(z, t, 1.0, critical, sided))
    return np.where(promising, step, 0)
