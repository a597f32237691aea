"""What each trial decides about each arm: at one analysis, or look by look."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from inference.whatif import bayes, boundaries, estimated, multiplicity
from inference.whatif.counts import Counts, looks_of, sizes_at_looks
from inference.whatif.two_by_two import p_values, z_values

if TYPE_CHECKING:
    from pkpd.scenario import Scenario


class Decisions(NamedTuple):
    """Arrays [trials, comparisons]: whether the null was rejected, the index of the look that ended the comparison,
    whether it ended as futile, and whether it would be rejected were futility ignored."""

    rejected: np.ndarray
    look: np.ndarray
    futile: np.ndarray
    rejected_ignoring_futility: np.ndarray


def decide(design: Scenario, counts: Counts) -> Decisions:
    """Decisions on the effects or the responders of trials, a column for each active arm in order."""
    if design.interims is not None:
        return _sequential(design, counts)
    rejected = _fixed(design, counts)
    nothing = np.zeros(rejected.shape, bool)
    return Decisions(rejected, np.zeros(rejected.shape, np.int64), nothing, rejected)


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
    sizes, (control, active) = sizes_at_looks(design)[look], columns_of(design)
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
    """Each comparison by itself: it ends at the first look that rejects or is futile, and at the last."""
    analysis, interims = design.analysis, design.interims
    assert analysis is not None and interims is not None
    critical = critical_values(design)
    levels = boundaries.nominal_levels(critical, analysis.sided)
    shape = _p_values(design, counts, 0).shape
    open_, open_ignoring = np.ones(shape, bool), np.ones(shape, bool)
    rejected, futile, ignoring = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
    look = np.full(shape, len(levels) - 1)
    for k, t in enumerate(looks_of(design)):
        crossed = _p_values(design, counts, k) <= levels[k]
        ignoring |= open_ignoring & crossed
        open_ignoring &= ~crossed
        rejected |= open_ & crossed
        ends = open_ & crossed
        if interims.futility_below is not None and t < 1:
            z = _z_values(design, counts, k)
            hopeless = power_to_come(z, t, critical[-1], interims.futility) < interims.futility_below
            futile |= open_ & ~crossed & hopeless
            ends |= open_ & hopeless
        look = np.where(ends, k, look)
        open_ &= ~ends
    return Decisions(rejected, look, futile, ignoring)


def power_to_come(z: np.ndarray, t: float, critical: float, kind: str) -> np.ndarray:
    """Chance that the last look alone rejects for the arm, given z at information fraction t < 1.

    conditional-power: were the effect the one seen, z/sqrt(t). predictive-power: averaged over that effect's posterior
    under a flat prior, which has variance 1/t.
    """
    B = z * np.sqrt(t)
    variance = 1 - t if kind == "conditional-power" else (1 - t) / t
    return stats.norm.sf((critical - B / t) / np.sqrt(variance))
