"""What each trial decides about each arm: at one analysis, or look by look."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from inference.whatif import adaptive, bayes, boundaries, closed, estimated, gatekeeping
from inference.whatif.counts import Counts, by_endpoint, looks_of, sizes_analysed
from inference.whatif.two_by_two import p_values, z_values
from pkpd import outcomes

if TYPE_CHECKING:
    from pkpd.scenario import Scenario


class Decisions(NamedTuple):
    """Arrays [trials, comparisons]: whether the null was rejected, the look that ended the comparison (a row of
    ``sizes_analysed``: one past the looks is a last look at a re-estimated size), whether it ended as futile, whether
    it would be rejected were futility ignored, and whether the arm was dropped. secondary [trials, comparisons,
    secondary endpoints]: whether their nulls were rejected, at the same look."""

    rejected: np.ndarray
    look: np.ndarray
    futile: np.ndarray
    rejected_ignoring_futility: np.ndarray
    dropped: np.ndarray
    secondary: np.ndarray


def decide(design: Scenario, counts: Counts) -> Decisions:
    """Decisions on the effects or the responders of trials, a column for each active arm in order."""
    if design.interims is not None:
        return _sequential(design, counts)
    every = _fixed(design, counts)
    rejected = every[:, :, 0]
    nothing = np.zeros(rejected.shape, bool)
    return Decisions(rejected, np.zeros(rejected.shape, np.int64), nothing, rejected, nothing, every[:, :, 1:])


def columns_of(design: Scenario) -> tuple[int, list[int]]:
    """Column of the control, and those of the active arms."""
    assert design.analysis is not None
    names = [arm.name for arm in design.arms]
    control = names.index(design.analysis.control)
    return control, [column for column in range(len(names)) if column != control]


def level_of(design: Scenario) -> float:
    """Level of one comparison in a sequential trial; of a closed test that of every intersection."""
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
    """Patients with the better outcome, and all, of each active arm and of the control at a look."""
    assert counts.analysed is not None
    sizes, (control, active) = sizes_analysed(design)[look], columns_of(design)
    y, n = _better(design, counts.analysed[:, look], sizes), sizes.tolist()
    return [(y[:, arm], n[arm], y[:, control], n[control]) for arm in active]


def _better(design: Scenario, y: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Patients [trials, arms] with the better outcome, of y with the endpoint among n: of a rescue those without."""
    assert design.analysis is not None
    return n - y if design.analysis.endpoint in outcomes.LESS_IS_BETTER else y


def _fixed(design: Scenario, counts: Counts) -> np.ndarray:
    """Which nulls one analysis rejects, [trials, comparisons, endpoints], the primary endpoint first."""
    analysis = design.analysis
    assert analysis is not None
    if analysis.test == "bayesian":
        prior = analysis.prior
        tables = _tables(design, counts, -1)
        shown = [bayes.posterior_probability(*table, analysis.margin, prior.a, prior.b) for table in tables]
        return np.stack(shown, axis=1)[:, :, None] > analysis.threshold
    if analysis.multiplicity in closed.KINDS:
        test = _closed_test(design, counts)
        return _stage(design, counts, 0, test, np.ones((test.trials, test.arms), bool))[:, :, None]
    p = np.stack([_p_values(*endpoint, -1) for endpoint in by_endpoint(design, counts)], axis=2)
    return gatekeeping.rejections(design, p)


def _closed_test(design: Scenario, counts: Counts) -> closed.ClosedTest:
    """The closed test of a design before its first stage."""
    assert design.analysis is not None
    trials, arms = _p_values(design, counts, 0).shape
    return closed.ClosedTest(trials, arms, design.analysis.multiplicity)


def _stage(design: Scenario, counts: Counts, look: int, test: closed.ClosedTest, open_: np.ndarray) -> np.ndarray:
    """Which nulls a closed test rejects at a look, [trials, comparisons], with the patients since the last one."""
    analysis, looks = design.analysis, looks_of(design)
    assert analysis is not None
    new, (control, active) = np.diff(sizes_analysed(design), axis=0, prepend=0)[look], columns_of(design)
    before = looks[look - 1] if look else 0.0
    if counts.effects is not None:
        # The score, z times the root of information, grows by what the new patients say.
        grown = _z_values(design, counts, look) * np.sqrt(looks[look])
        earlier = _z_values(design, counts, look - 1) * np.sqrt(before) if look else 0.0
        with np.errstate(invalid="ignore"):
            z = np.nan_to_num((grown - earlier) / np.sqrt(looks[look] - before), nan=0.0)
        p = stats.norm.sf(z)
    else:
        assert counts.analysed is not None
        stage = _better(design, np.diff(counts.analysed, axis=1, prepend=0)[:, look], new)
        tables = [(stage[:, arm], int(new[arm]), stage[:, control], int(new[control])) for arm in active]
        z = np.stack([z_values(analysis.test, *table, analysis.margin) for table in tables], axis=1)
        p = np.stack([p_values(analysis.test, *table, 1, analysis.margin) for table in tables], axis=1)
    shares = new[active] / (new[active] + new[control])
    critical = critical_values(design)[look] if design.interims else stats.norm.isf(analysis.alpha)
    return test.add(z, p, open_, shares, looks[look] - before, critical)


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
    further = by_endpoint(design, counts)[1:]
    secondary = np.zeros((*shape, len(further)), bool)
    test = _closed_test(design, counts) if analysis.multiplicity in closed.KINDS else None
    for k, t in enumerate(looks):
        look = np.where(open_, k if k < last else final, look)
        if test is not None:
            crossed = open_ & _stage(design, counts, k, test, open_)
        else:
            crossed = open_ & (
                (_p_values(design, counts, k) if k < last else _p_at(design, counts, final)) <= levels[k]
            )
        if further and crossed.any():
            p = np.stack([_p_values(*endpoint, k) for endpoint in further], axis=2)
            secondary |= gatekeeping.at_the_look(crossed, p, levels[k])
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
    return Decisions(rejected, look, futile, rejected, dropped, secondary)


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


def powers_to_come(design: Scenario, counts: Counts, look: int, kind: str) -> np.ndarray:
    """Chance [trials, comparisons], as seen at a look before the last, that the last look rejects, see below."""
    return power_to_come(_z_values(design, counts, look), looks_of(design)[look], critical_values(design)[-1], kind)


def power_to_come(z: np.ndarray, t: float, critical: float, kind: str) -> np.ndarray:
    """Chance that the last look alone rejects for the arm, given z at information fraction t < 1.

    conditional-power: were the effect the one seen, z/sqrt(t). predictive-power: averaged over that effect's posterior
    under a flat prior, which has variance 1/t.
    """
    B = z * np.sqrt(t)
    variance = 1 - t if kind == "conditional-power" else (1 - t) / t
    return stats.norm.sf((critical - B / t) / np.sqrt(variance))
