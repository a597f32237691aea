"""Virtual patients of a design, reduced to what its pictures show.

They are patients of the simulated trials themselves (same seed, posterior and numbers), spread evenly over as many
trials as a bound on the patient-days allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from inference import trials
from pkpd import endpoints, outcomes, trial
from pkpd.estimands import Estimand, read
from pkpd.planned import planned_arms

if TYPE_CHECKING:
    from pkpd.planned import PlannedArm
    from pkpd.scenario import Scenario

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

KEPT = 2048  # patients of each arm whose courses are kept
PATIENT_DAYS = 4e6  # that may be simulated in all, but at least those of KEPT patients an arm: seconds
MIN_TRIALS = 20  # whole trials from which a range over trials is told
PARTS = 200  # trials over which patients of an arm too large for whole trials are spread


class Courses(NamedTuple):
    """Courses of the kept patients, [visits, patients] unless said; doses and exposure are of the interval that ends
    at the visit. Counts are as observed, 1e9/L, NaN once a patient has left; auc_24h: mean over the interval."""

    baseline: Floats  # [patients]
    platelets: Floats
    dose_mg: Floats
    interrupted: Bools
    stopped: Bools
    rescued: Bools
    dropped: Bools
    relapsed: Bools
    response: Bools
    cmax_ng_per_ml: Floats
    auc_24h_ng_h_per_ml: Floats
    trough_ng_per_ml: Floats
    second: Bools  # whether dose and exposure are of the arm's second drug


class Relapse(NamedTuple):
    """Days from the end of treatment to a relapse or the last visit, [trials, patients]; ``entered``: whom it is of."""

    time_d: Floats
    event: Bools
    entered: Bools


class VirtualArm(NamedTuple):
    """One arm as the pictures need it; ``rates`` [trials, visits] of response, whole: each of a trial of full size.

    relapse is of all who were simulated; None where the design has no relapse.
    """

    name: str
    drug: str
    meal: str
    courses: Courses
    rates: Floats
    whole: bool
    simulated: int
    second_drug: str = ""
    n: int = 0
    relapse: Relapse | None = None

    @property
    def patients(self) -> int:
        """Patients whose courses were kept."""
        return len(self.courses.baseline)

    @property
    def response(self) -> Floats:
        """Share of responders [visits] among all that were simulated."""
        return self.rates.mean(axis=0)

    @property
    def response_range(self) -> Floats | None:
        """2.5% and 97.5% quantiles [2, visits] of the rate one trial reports; None from too few whole trials."""
        enough = self.whole and len(self.rates) >= MIN_TRIALS
        return np.quantile(self.rates, (0.025, 0.975), axis=0) if enough else None


def cohort(design: Scenario, draws: Mapping[str, np.ndarray], seed: int, engine: str) -> list[VirtualArm]:
    """The virtual patients of every arm; ``draws`` as the trials had them."""
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    budget = 0.0 if engine == "reference" else PATIENT_DAYS / design.trial.visits_d[-1] / len(arms)
    meals = {arm.name: " or ".join(arm.meals) or arm.meal for arm in design.arms}
    return [_simulated(design, a, meals[a.name], draws, int(max(budget, KEPT)), seed, engine) for a in arms]


def spread(n: int, n_trials: int, most: int) -> tuple[int, int]:
    """Number of trials, and of patients of each, for up to about ``most`` patients of an arm of ``n``."""
    if n * min(MIN_TRIALS, n_trials) <= most:
        return max(min(most // n, n_trials), 1), n
    parts = min(PARTS, n_trials)
    return parts, min(n, -(-most // parts))


def _simulated(
    design: Scenario, a: PlannedArm, meal: str, draws: Mapping[str, np.ndarray], most: int, seed: int, engine: str
) -> VirtualArm:
    days = np.array(design.trial.visits_d)
    n_trials, each = spread(a.n, design.trial.n_trials, most)
    total = n_trials * each
    everyone = trials.roster(a, draws, n_trials, seed=seed)
    people = trial.Roster(total, lambda rows: everyone.who(rows // each * a.n + rows % each))
    kept = np.unique(np.linspace(0, total - 1, min(total, KEPT)).astype(int))
    responders, parts, first = np.zeros((n_trials, len(days))), [], 0
    relapses: list[Relapse] = []
    form = trials.form_of(a, draws)
    for v in trial.visits_of(people, a.arm, tuple(design.trial.visits_d), seed, form, engine=engine):
        rows = first + np.arange(len(v.baseline))
        response = np.asarray(endpoints.response(v.platelets_observed, v.rescued))
        np.add.at(responders, rows // each, response.T)
        own = kept[(kept >= first) & (kept <= rows[-1])] - first
        parts.append(_courses(v, response, days, own))
        relapses += _relapses(a, v, design.trial.visits_d)
        first += len(rows)
    courses = Courses(*(np.concatenate(x, axis=-1) for x in zip(*parts, strict=True)))
    off = [np.concatenate(x).reshape(n_trials, each) for x in zip(*relapses, strict=True)]
    relapse = Relapse(*off) if off else None
    return VirtualArm(a.name, a.drug, meal, courses, responders / each, each == a.n, total, a.second_drug, a.n, relapse)


def _relapses(a: PlannedArm, v: trial.Visits, days: Sequence[int]) -> list[Relapse]:
    """Times to relapse of a tile, where a stage of the arm has one: as ``time_to_relapse`` of an analysis."""
    stages = a.arm.protocol.stages if a.arm.protocol is not None else None
    if stages is None or not np.any(np.asarray(stages.relapse_below) > 0):
        return []
    found = outcomes.outcome("time_to_relapse", v, read(v, Estimand()), days, len(days), stages)
    assert found.event is not None
    return [Relapse(found.value.astype(np.float64), found.event, found.present)]


def _courses(v: trial.Visits, response: Bools, days: np.ndarray, own: np.ndarray) -> Courses:
    length = np.diff(days[:, None] if v.visit_d is None else np.asarray(v.visit_d), axis=0, prepend=0)
    relapsed = np.zeros_like(v.rescued) if v.relapsed is None else v.relapsed
    auc = np.asarray(v.auc_ng_h_per_ml) / length
    found = (
        v.baseline, v.platelets_observed, v.dose_mg, v.interrupted, v.stopped, v.rescued, v.dropped, relapsed, response,
        v.cmax_ng_per_ml, auc, v.trough_ng_per_ml, np.zeros_like(v.rescued) if v.second is None else v.second,
    )  # fmt: skip
    return Courses(*(np.asarray(x)[..., own] for x in found))


# What the pictures and tables show of the courses


def count_quantiles(c: Courses, q: tuple[float, ...]) -> Floats:
    """Quantiles [quantiles, 1 + visits] of the counts at baseline and the visits, of the patients seen there."""
    columns = [np.asarray(c.baseline), *np.asarray(c.platelets)]
    seen = [x[np.isfinite(x)] for x in columns]
    return np.stack([np.quantile(x, q) if len(x) else np.full(len(q), np.nan) for x in seen], axis=1)


def states(c: Courses, levels_mg: np.ndarray, second_mg: np.ndarray | None = None) -> Floats:
    """Share of patients [4 + levels, visits] in each interval: left, stopped, interrupted, no drug, at each level, and
    at each of ``second_mg`` of the second drug."""
    left = np.concatenate([np.zeros_like(c.dropped[:1]), c.dropped[:-1]])
    stopped = c.stopped & ~left
    interrupted = c.interrupted & ~left & ~stopped
    takes = (c.dose_mg > 0) & ~left
    none = ~(left | stopped | interrupted | takes)
    rows = [left, stopped, interrupted, none]
    for second, ladder in (False, levels_mg), (True, second_mg):
        if ladder is not None and len(ladder):
            level = np.argmin(np.abs(c.dose_mg[..., None] - ladder), axis=-1)
            rows += [takes & (c.second == second) & (level == i) for i in range(len(ladder))]
    return np.stack(rows).mean(axis=-1)


def days_above(c: Courses, days: np.ndarray, limit: float) -> Floats:
    """Days [patients] of the intervals that end with a count above ``limit``."""
    return np.diff(days, prepend=0) @ (np.nan_to_num(c.platelets) > limit)


def exposure(arm: VirtualArm, second: bool = False) -> dict[float, Floats]:
    """By dose (mg) of the first drug, or of the second: Cmax, daily AUC and trough [3, patients] of each patient's last
    interval on it."""
    c, found = arm.courses, {}
    last, own = len(c.dose_mg) - 1, (arm.courses.dose_mg > 0) & (arm.courses.second == second)
    for dose in np.unique(c.dose_mg[own]):
        on = own & (c.dose_mg == dose)
        who = np.flatnonzero(on.any(axis=0))
        at = last - np.argmax(on[::-1, who], axis=0)
        measures = (c.cmax_ng_per_ml, c.auc_24h_ng_h_per_ml, c.trough_ng_per_ml)
        found[float(dose)] = np.stack([x[at, who] for x in measures])
    return found
