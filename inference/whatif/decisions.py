"""What each trial decides about each arm: at one analysis, or look by look."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from inference.whatif import adaptive, bayes, boundaries, estimated, multiplicity
from inference.whatif.counts import Counts, looks_of, sizes_analysed
from inference.whatif.two_by_two import p_values, z_values

if TYPE_CHECKING:
    from pkpd.scenario import Scenario


class Decisions(NamedTuple):
    """Arrays [trials, comparisons]: whether the null was rejected, the look that ended the comparison (a row of
    ``sizes_analysed``: one past the looks is a last look at a re-estimated size), whether it ended as futile, whether
    it would be rejected were futility ignored, and whether the arm was dropped."""

    rejected: np.ndarray
    look: np.ndarray
    futile: np.ndarray
    rejected_ignoring_futility: np.ndarray
    dropped: np.ndarray


def decide(design: Scenario, counts: Counts) -> Decisions:
    """Decisions on the effects or the responders of trials, a column for each active arm in order."""
    if design.interims is not None:
        return _sequential(design, counts)
    rejected = _fixed(design, counts)
    nothing = np.zeros(rejected.shape, bool)
    return Decisions(rejected, np.zeros(rejected.shape, np.int64), nothing, rejected, nothing)


def columns_of(design: Scenario) -> tuple[int, list[int]]:
    """Column of the control, and those of the active arms."""
    assert design.analysis is not None
    names = [arm.name for arm in design.arms]
    control = names.index(design.analysis.control)
    return control, [column for column in range(len(names)) if column != control]


def level_of(design: Scenario) -> float:
    """Level of one comparison in a sequential trial."""
    assert design.analysis is not None
    shared = len(design.active_arms) if design.analysis.multiplicity == "bonferroni" else 1
    return design.analysis.alpha / shared


def critical_values(design: Scenario) -> tuple[float, ...]:
    """Critical value of each look of a sequential trial."""
    interims, analysis = design.interims, design.analysis
    assert interims is not None and analysis is not None
    return boundaries.critical_values(
        interims.boundary, interims.looks, level_of(design), analysis.sided, interims.spending_parameter
    )


def _p_values(design: Scenario, counts: Counts, look: int) -> np.ndarray:
    """p [trials, comparisons] at a look."""
    analysis = design.analysis
    assert analysis is not None
    if counts.effects is not None:
        return estimated.p_values(effects_at(counts, look), analysis.sided)
    tables = _tables(design, counts, look)
    return np.stack([p_values(analysis.test, *table, analysis.sided, analysis.margin) for table in tables], axis=1)


def _z_values(design: Scenario, counts: Counts, look: int) -> np.ndarray:
    """Standard normal statistics [trials, comparisons] at a look."""
    analysis = design.analysis
    assert analysis is not None
    if counts.effects is not None:
        return estimated.normal_z(effects_at(counts, look))
    tables = _tables(design, counts, look)
    return np.stack([z_values(analysis.test, *table, analysis.margin) for table in tables], axis=1)


def effects_at(counts: Counts, look: int) -> estimated.Estimated:
    """The effects at a look, each [trials, comparisons]."""
    assert counts.effects is not None
    return estimated.Estimated(*np.moveaxis(counts.effects[:, look], -1, 0))


def _tables(design: Scenario, counts: Counts, look: int) -> list[tuple[np.ndarray, int, np.ndarray, int]]:
    """Responders and patients of each active arm and of the control at a look."""
    assert counts.analysed is not None
    sizes, (control, active) = sizes_analysed(design)[look], columns_of(design)
    y, n = counts.analysed[:, look], sizes.tolist()
    return [(y[:, arm], n[arm], y[:, control], n[control]) for arm in active]


def _fixed(design: Scenario, counts: Counts) -> np.ndarray:
    analysis = design.analysis
    assert analysis is not None
    if analysis.test == "bayesian":
        prior = analysis.prior
        tables = _tables(design, counts, -1)
        shown = [bayes.posterior_probability(*table, analysis.margin, prior.a, prior.b) for table in tables]
        return np.stack(shown, axis=1) > analysis.threshold
    p = _p_values(design, counts, -1)
    if analysis.graph is not None:
        names, graph = design.active_arms, analysis.graph
        weights = np.array([graph.weights.get(name, 0.0) for name in names])
        rows = [[graph.transitions.get(name, {}).get(other, 0.0) for other in names] for name in names]
        return multiplicity.graphical(p, analysis.alpha, weights, np.array(rows))
    return multiplicity.METHODS[analysis.multiplicity](p, analysis.alpha)


def _sequential(design: Scenario, counts: Counts) -> Decisions:
    """Each comparison by itself: it ends at the first look that rejects, is futile or drops it, and at the last."""
    assert design.interims is not None
    found = _look_by_look(design, counts, binding=True)
    if design.interims.futility_below is None:
        return found
    return found._replace(rejected_ignoring_futility=_look_by_look(design, counts, binding=False).rejected)


def _look_by_look(design: Scenario, counts: Counts, binding: bool) -> Decisions:
    """The decisions; not ``binding``: futility is ignored."""
    analysis, interims = design.analysis, design.interims
    assert analysis is not None and interims is not None
    critical, looks = critical_values(design), looks_of(design)
    levels, last = boundaries.nominal_levels(critical, analysis.sided), len(looks) - 1
    shape = _p_values(design, counts, 0).shape
    open_, rejected, futile, dropped = np.ones(shape, bool), *np.zeros((3, *shape), bool)
    look, final = np.zeros(shape, np.int64), np.full(shape, last)  # rows of sizes_analysed
    for k, t in enumerate(looks):
        p = _p_values(design, counts, k) if k < last else _p_at(design, counts, final)
        look = np.where(open_, k if k < last else final, look)
        crossed = open_ & (p <= levels[k])
        rejected |= crossed
        open_ &= ~crossed
        if binding and interims.futility_below is not None and k < last:
            z = _z_values(design, counts, k)
            hopeless = open_ & (power_to_come(z, t, critical[-1], interims.futility) < interims.futility_below)
            futile |= hopeless
            open_ &= ~hopeless
        if interims.drop_losers is not None and k + 1 == interims.drop_losers.at_look:
            lost = open_ & ~adaptive.best(_merit(design, counts, k), open_, interims.drop_losers.keep)
            dropped |= lost
            open_ &= ~lost
        if interims.reestimate is not None and k + 1 == interims.reestimate.at_look:
            info, z = adaptive.information(design), _z_values(design, counts, k)
            power = interims.reestimate.conditional_power
            final = last + adaptive.promising_step(z, info[k], info[last:], critical[-1], analysis.sided, power)
    return Decisions(rejected, look, futile, rejected, dropped)


def _p_at(design: Scenario, counts: Counts, row: np.ndarray) -> np.ndarray:
    """p [trials, comparisons] with the patients of a row of ``sizes_analysed`` each, ``row`` of that shape."""
    p = np.empty(row.shape)
    for k in np.unique(row):
        p = np.where(row == k, _p_values(design, counts, k), p)
    return p


def _merit(design: Scenario, counts: Counts, look: int) -> np.ndarray:
    """What arms are ranked by at a look, [trials, comparisons]: response rate, or statistic of estimated effects."""
    if counts.effects is not None:
        return _z_values(design, counts, look)
    return np.stack([y / n for y, n, _, _ in _tables(design, counts, look)], axis=1)


def power_to_come(z: np.ndarray, t: float, critical: float, kind: str) -> np.ndarray:
    """Chance that the last look alone rejects for the arm, given z at information fraction t < 1.

    conditional-power: were the effect the one seen, z/sqrt(t). predictive-power: averaged over that effect's posterior
    under a flat prior, which has variance 1/t.
    """
    B = z * np.sqrt(t)
    variance = 1 - t if kind == "conditional-power" else (1 - t) / t
    return stats.norm.sf((critical - B / t) / np.sqrt(variance))
