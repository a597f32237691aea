"""What trials count: responders by arm, endpoint and look, from stated probabilities or from simulated patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from scipy import stats

from pkpd import random
from pkpd.interims import patients_at

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

CELL = 1000  # trials that share a generator
SECONDARY, MAX_ARMS = 1 << 22, 1 << 12  # a secondary endpoint's place in keys, where the number of an arm stands


class Counts(NamedTuple):
    """Responders of trials.

    names: endpoints that are reported. by_arm: counts [trials, endpoints] at the end of each arm. analysed: responders
    of the analysis' endpoint among the patients of each row of ``sizes_analysed`` (the looks, then what a re-estimation
    may ask for) [trials, rows, arms], cumulative; None without analysis, or where that needs each patient's outcome:
    then effects [trials, rows, comparisons, 4] are estimate, se, z against
    the margin and degrees of freedom of each comparison. sums and numbers: by arm [trials, further endpoints], of
    ``further``: sums over patients, and numbers of the patients they are of. calendar: see ``calendar``.
    secondary: by secondary endpoint what ``analysed`` or ``effects`` is for the primary, see ``by_endpoint``.
    """

    names: tuple[str, ...]
    by_arm: dict[str, np.ndarray]
    analysed: np.ndarray | None
    effects: np.ndarray | None = None
    sums: dict[str, np.ndarray] | None = None
    numbers: dict[str, np.ndarray] | None = None
    calendar: np.ndarray | None = None
    secondary: dict[str, np.ndarray] | None = None


def by_endpoint(design: Scenario, counts: Counts) -> list[tuple[Scenario, Counts]]:
    """The design and its counts for the primary endpoint, then those of each secondary as if it were the primary."""
    found = [(design, counts)]
    for one in design.tested[1:]:
        assert one.analysis is not None and design.analysis is not None and counts.secondary is not None
        own = counts.secondary[design.analysis.secondary[len(found) - 1].label]
        by_patient = one.analysis.by_patient
        alone = counts._replace(analysed=None if by_patient else own, effects=own if by_patient else None)
        found.append((one, alone._replace(secondary=None)))
    return found


def looks_of(design: Scenario) -> tuple[float, ...]:
    """Information fractions at which the trial is analysed: 1 alone without interims."""
    return design.interims.looks if design.interims else (1.0,)


def sizes_at_looks(design: Scenario) -> np.ndarray:
    """Patients [looks, arms] of each arm at each look."""
    return np.array([patients_at(looks_of(design), arm.n) for arm in design.arms]).T


def sizes_analysed(design: Scenario) -> np.ndarray:
    """Patients [rows, arms] of each arm at each look, then at each size that a re-estimation may choose."""
    grow = design.interims.reestimate if design.interims else None
    more = [patients_at(grow.factors if grow else (), arm.n) for arm in design.arms]
    return np.concatenate([sizes_at_looks(design), np.array(more, int).T])


def endpoint_of_visit(day: int) -> str:
    """Name of the response at the visit of a day."""
    weeks, rest = divmod(day, 7)
    return f"response_day_{day}" if rest else f"response_week_{weeks}"


def stated_probabilities(design: Scenario) -> tuple[tuple[str, ...], dict[str, tuple[float, ...]]]:
    """Endpoints of a stated outcome, and their probabilities by name of arm."""
    outcome = design.outcome
    assert outcome is not None
    if outcome.response_profile:
        return tuple(map(endpoint_of_visit, design.trial.visits_d)), dict(outcome.response_profile)
    assert design.analysis is not None
    every = {design.analysis.endpoint: outcome.response_probability, **outcome.secondary}
    return tuple(every), {name: tuple(p[name] for p in every.values()) for name in outcome.response_probability}


def stated(design: Scenario, seed: int, first: int, n_trials: int) -> Counts:
    """Binomial counts of trials ``first`` to ``first + n_trials`` of a stated outcome.

    A count is the inverse of its binomial law at a uniform of (seed, trial, arm, look): it depends on no other trial or
    arm, and two designs share their random numbers. Visits of a profile share them too: each has its own law only. The
    uniforms of secondary endpoints have the stated correlation to those of the primary, as normal quantiles.
    """
    names, probabilities = stated_probabilities(design)
    sizes, planned = sizes_analysed(design), len(looks_of(design)) - 1
    cells = np.arange(first // CELL, -(-(first + n_trials) // CELL))
    skipped = first - CELL * int(cells[0])
    by_arm, analysed = {}, []
    assert design.outcome is not None
    endpoints = [one.analysis.endpoint for one in design.tested if one.analysis]
    if design.outcome.response_probability:
        endpoints = list(names)
    for index, arm in enumerate(design.arms):
        u = _uniforms(seed, index, cells, len(sizes))[:, skipped : skipped + n_trials]
        new = np.diff(sizes[:, index], prepend=0)
        counts = {}
        for j, (name, p) in enumerate(zip(names, probabilities[arm.name], strict=True)):
            own = u
            if j and design.outcome.response_probability:
                place = SECONDARY + j * MAX_ARMS + index
                other = _uniforms(seed, place, cells, len(sizes))[:, skipped : skipped + n_trials]
                own = correlated(u, other, design.outcome.correlation)
            counts[name] = np.cumsum([binomial_quantile(own[k], int(n), p) for k, n in enumerate(new)], axis=0)
        by_arm[arm.name] = np.stack([counts[name][planned] for name in names], axis=1)
        analysed.append([counts[name].T for name in endpoints])
    if not endpoints:
        return Counts(names, by_arm, None)
    found = [np.stack(of_arms, axis=2) for of_arms in zip(*analysed, strict=True)]
    labels = [second.label for second in design.analysis.secondary] if design.analysis else []
    return Counts(names, by_arm, found[0], secondary=dict(zip(labels, found[1:], strict=True)) if labels else None)


def correlated(u: np.ndarray, other: np.ndarray, correlation: float) -> np.ndarray:
    """Uniforms whose normal quantiles have a correlation with those of u; ``other`` are independent of u."""
    if correlation == 0:
        return other
    z, e = stats.norm.ppf(u), stats.norm.ppf(other)
    return np.asarray(stats.norm.cdf(correlation * z + np.sqrt(1 - correlation**2) * e))


def _uniforms(seed: int, arm: int, cells: np.ndarray, looks: int) -> np.ndarray:
    """Uniforms [looks, trials of the cells]; the first look's are the same however many follow."""
    n = len(cells)
    keys = random.patient_keys(random.root(seed), np.zeros(n, int), cells, np.full(n, arm))
    drawn = [random.generator(key).random((looks, CELL)) for key in jax.device_put(keys, jax.devices("cpu")[0])]
    return np.concatenate(drawn, axis=1)


def binomial_quantile(u: np.ndarray, n: int, p: float) -> np.ndarray:
    """The smallest count whose cumulative probability exceeds u, of Binomial(n, p)."""
    below = stats.binom.cdf(np.arange(n), n, p)  # of 0 to n - 1; n has the rest
    return np.searchsorted(below, u, side="right").astype(np.int32)
