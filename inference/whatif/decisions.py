"""What each trial decides about each arm: at one analysis, or look by look."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from inference.whatif import bayes, boundaries, multiplicity
from inference.whatif.counts import looks_of, sizes_at_looks
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


def decide(design: Scenario, analysed: np.ndarray) -> Decisions:
    """Decisions on responders [trials, looks, arms], a column for each active arm in order."""
    if design.interims is not None:
        return _sequential(design, analysed)
    rejected = _fixed(design, analysed[:, -1])
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


def _fixed(design: Scenario, counts: np.ndarray) -> np.ndarray:
    analysis, (control, active) = design.analysis, columns_of(design)
    assert analysis is not None
    n = [arm.n for arm in design.arms]
    tables = [(counts[:, arm], n[arm], counts[:, control], n[control]) for arm in active]
    if analysis.test == "bayesian":
        prior = analysis.prior
        shown = [bayes.posterior_probability(*table, analysis.margin, prior.a, prior.b) for table in tables]
        return np.stack(shown, axis=1) > analysis.threshold
    p = np.stack([p_values(analysis.test, *table, analysis.sided, analysis.margin) for table in tables], axis=1)
    if analysis.graph is not None:
        names, graph = design.active_arms, analysis.graph
        weights = np.array([graph.weights.get(name, 0.0) for name in names])
        rows = [[graph.transitions.get(name, {}).get(other, 0.0) for other in names] for name in names]
        return multiplicity.graphical(p, analysis.alpha, weights, np.array(rows))
    return multiplicity.METHODS[analysis.multiplicity](p, analysis.alpha)


def _sequential(design: Scenario, analysed: np.ndarray) -> Decisions:
    """Each comparison by itself: it ends at the first look that rejects or is futile, and at the last."""
    analysis, interims, (control, active) = design.analysis, design.interims, columns_of(design)
    assert analysis is not None and interims is not None
    sizes, critical = sizes_at_looks(design), critical_values(design)
    levels = boundaries.nominal_levels(critical, analysis.sided)
    shape = (len(analysed), len(active))
    open_, open_ignoring = np.ones(shape, bool), np.ones(shape, bool)
    rejected, futile, ignoring = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
    look = np.full(shape, len(sizes) - 1)
    for k, t in enumerate(looks_of(design)):
        tables = [(analysed[:, k, arm], int(sizes[k, arm]), analysed[:, k, control], int(sizes[k, control])) for arm in active]  # fmt: skip  # noqa: E501
        p = [p_values(analysis.test, *table, analysis.sided, analysis.margin) for table in tables]
        crossed = np.stack(p, axis=1) <= levels[k]
        ignoring |= open_ignoring & crossed
        open_ignoring &= ~crossed
        rejected |= open_ & crossed
        ends = open_ & crossed
        if interims.futility_below is not None and t < 1:
            z = np.stack([z_values(analysis.test, *table, analysis.margin) for table in tables], axis=1)
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
