"""The visit loop: a batch of virtual patients through a titrated, observed and rescued course (design section 2.4).

The first dose is at day 0. A visit on day v reads the state before that day's dose; its decision first acts on it.

Nothing here is differentiable. Titration and rescue read counts against thresholds, so doses, interruptions, stops and
rescues are piecewise constant functions of every parameter: their derivatives are 0 or none, and a derivative of the
counts would be that of one path at its decisions, not that of an expected endpoint, which moves with the patients who
cross a threshold. So ``jax.grad``, ``jax.jvp`` and their kin raise InputError by population, patients or arm. What is
differentiable is a course on recorded doses, ``pkpd.engine.recorded.course``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pkpd import cohort, endpoints, pharmacokinetics, random, titration
from pkpd.devices import AUTOMATIC, map_tiles, tile_width
from pkpd.engine import derivatives, grid
from pkpd.engine.grid import DAYS_A_WEEK
from pkpd.engine.solver import solver
from pkpd.model import DYNAMIC, Form
from pkpd.parameters import Parameters, Population
from pkpd.protocol import Protocol

if TYPE_CHECKING:
    from pkpd.screening import Screen, Screened

NO_DERIVATIVE = (
    "the titrated course has no derivative: its doses and rescues jump where an observed count crosses a threshold."
    " Use pkpd.recorded_course (pkpd.engine.recorded.course) with the doses that were taken"
)
Numbers = np.ndarray | range  # of patients, draws, trials
# Log immune activity beyond which nothing changes: the count is that without immune clearance, or far below 1. Wide
# priors of the drift draw patients beyond it, whose rates no solver follows.
LARGEST_OMEGA = 12.0
# Folded into a patient's key with the number of a period: beyond the counters of every other random number.
PERIODS = np.uint32(2**31)


class RescueRule(NamedTuple):
    """Rescue by rule: a count below ``below`` (1e9/L) at a visit on day ``from_d`` or later, in place of the chance."""

    below: Any
    from_d: Any


class Arm(NamedTuple):
    """What a patient of an arm gets; a pytree, so nothing recompiles when only values change.

    dose_scale: 1, or 0 for placebo. baseline_below: entry criterion (1e9/L). Fed ratios: 1 when fasted. treatment_d:
    days of treatment, the last dose on the day before; a visit falls on it; None: to the end. period: number of the
    period of a crossover, in which the same patient has noise of its own; None: each patient is in one arm. protocol:
    stages and what else is not one daily dose from visit to visit; rule, start_level and dose_scale are then those of
    its first stage, and treatment_d is None. table: whose baselines, weights and covariates the patients have. screen:
    measurements before the first dose to which ``baseline_below`` is applied; None: it is applied to the true count.
    limits: of entry, beside that of the baseline. rescue: None: by the library's chance, which grows as counts fall.
    """

    rule: titration.Rule
    start_level: Any
    dose_scale: Any = 1.0
    fed_bioavailability_ratio: Any = 1.0
    fed_absorption_ratio: Any = 1.0
    baseline_below: Any = np.inf
    dropout_hazard_per_week: Any = 0.0
    treatment_d: Any = None
    period: Any = None
    protocol: Protocol | None = None
    table: cohort.Table | None = None
    limits: cohort.Limits | None = None
    screen: Screen | None = None
    rescue: RescueRule | None = None


class Visits(NamedTuple):
    """Courses as seen at the visits, [visits, patients] unless said.

    dose_mg, interrupted, stopped, cmax, auc: of the interval that ends at the visit. rescued: True from the visit of
    the rescue on. dropped: True from the first visit after the patient left on, with observed counts NaN. trough: at
    the visit. The fields from ``visit_d`` to ``segment_second`` are those of an arm with a protocol: day on which the
    visit takes place, whether it was missed, index of the stage that ends with it, dose taken since the last visit in
    all, whether the patient had relapsed, code of ``protocol.REASONS``; and the dose taken on each day of each segment.
    regimen: before the visit, index of ``Protocol.stages``; None where it is that of the stage. second, segment_second:
    whether what is said of an interval is of the arm's second drug; None in an arm of one. baseline: the count at
    entry, as ``screened`` measured it where there was a screening, else the true one.
    """

    platelets_true: Array
    platelets_observed: Array
    dose_mg: Array
    interrupted: Array
    stopped: Array
    rescue_probability: Array
    rescued: Array
    dropped: Array
    cmax_ng_per_ml: Array
    auc_ng_h_per_ml: Array
    trough_ng_per_ml: Array
    immune_log_activity: Array  # [weeks, patients]
    baseline: Array  # [patients]
    weight_kg: Array  # [patients]
    failed: Array  # [patients], True where a count is not finite and positive
    visit_d: Array | None = None
    missed: Array | None = None
    stage: Array | None = None
    taken_mg: Array | None = None
    relapsed: Array | None = None
    reason: Array | None = None
    segment_mg: Array | None = None  # [segments, patients]
    regimen: Array | None = None
    second: Array | None = None
    segment_second: Array | None = None  # [segments, patients]
    covariates: Any = None  # [covariates, patients], bool, in the order of CovariateRatios
    age_y: Any = None  # [patients], where it is drawn
    screened: Screened | None = None

    @property
    def baseline_true(self) -> Array:
        """True count [patients] at the first dose."""
        return self.baseline if self.screened is None else self.screened.at_rest


def drift(noise: Any, keys: Array, n_weeks: int, dtype: Any) -> Array:
    """omega [weeks, patients]: omega_w = rho omega_(w-1) + s sqrt(1 - rho^2) z_w, from 0 before treatment."""
    rho = jnp.exp(-DAYS_A_WEEK / noise.immune_drift_time_d)
    kick = noise.immune_drift_log_sd * jnp.sqrt(1 - rho * rho)

    def week(omega: Array, z: Array) -> tuple[Array, Array]:
        omega = rho * omega + kick * z
        return omega, omega

    zero = jnp.zeros(keys.shape, dtype)
    z = random.normal(keys, DAYS_A_WEEK * jnp.arange(1, n_weeks + 1), "drift", dtype=dtype)
    return lax.scan(week, zero, z)[1]


def immune_activity(noise: Any, p: Parameters, keys: Array, n_weeks: int, dtype: Any) -> Array:
    """omega [weeks, patients] within the range in which it matters."""
    return jnp.clip(drift(noise, keys, n_weeks, dtype) + p.immune_log_activity, -LARGEST_OMEGA, LARGEST_OMEGA)


def fed(p: Parameters, arm: Arm) -> Parameters:
    """The parameters of patients who take their doses as the arm does."""
    dtype = p.clearance_l_per_h.dtype
    absorption = jnp.asarray(arm.fed_absorption_ratio, dtype)
    return p._replace(
        bioavailability=p.bioavailability * jnp.asarray(arm.fed_bioavailability_ratio, dtype),
        absorption_rate_first_per_h=p.absorption_rate_first_per_h * absorption,
        absorption_rate_second_per_h=p.absorption_rate_second_per_h * absorption,
    )


def drawn(
    population: Population,
    keys: Array,
    baseline_below: Array,
    table: cohort.Table | None,
    screen: Screen | None,
    limits: cohort.Limits | None = None,
) -> cohort.Patients:
    """The patients of an arm: as ``cohort.draw`` has them, or those who pass a screening."""
    patients = cohort.draw(population, keys, baseline_below, table, limits)
    if screen is None:
        return patients
    from pkpd import screening

    return screening.enter(population, patients, keys, screen, baseline_below)


def rescue_probability(arm: Arm, noise: Any, count: Array, day: Array, interval_d: Array) -> Array:
    """Probability of rescue at a visit on ``day`` with this count (1e9/L), so long after the one before: [patients]."""
    if arm.rescue is not None:
        limit = jnp.asarray(arm.rescue.below, count.dtype)
        return ((count < limit) & (day >= arm.rescue.from_d)).astype(count.dtype)
    p_max, c = noise.rescue_max_probability_per_week, noise.rescue_count_1e9_per_l
    return endpoints.rescue_probability(count, p_max, c, interval_d)


def simulate_tile(
    population: Population,
    arm: Arm,
    keys: Array,
    days: Array,
    n_weeks: int,
    form: Form = DYNAMIC,
    steps: grid.Grid = grid.DEFAULT,
    engine: str = AUTOMATIC,
) -> Visits:
    """Courses of one batch. ``keys`` [patients]; ``days`` [visits] increasing; ``n_weeks`` covers the last day.

    Pure and traceable, not differentiable (InputError; see the module); ``form``, ``n_weeks``, ``steps`` and ``engine``
    are static. ``simulate`` takes any number.
    """
    patients = drawn(population, keys, arm.baseline_below, arm.table, arm.screen, arm.limits)
    if population.second is not None:  # the same keys: the same patients
        other = drawn(population.second, keys, arm.baseline_below, arm.table, arm.screen, arm.limits)
        patients = patients._replace(second=other.parameters)
    if arm.period is not None:
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, PERIODS + jnp.asarray(arm.period, jnp.uint32))
    return course(patients, arm, keys, days, n_weeks, form, steps, engine)


def course(
    patients: cohort.Patients,
    arm: Arm,
    keys: Array,
    days: Array,
    n_weeks: int,
    form: Form,
    steps: grid.Grid,
    engine: str,
) -> Visits:
    """Courses of given patients; see ``simulate_tile``."""
    patients, arm = derivatives.without((patients, arm), NO_DERIVATIVE)
    if arm.protocol is not None:
        from pkpd import staged

        visits = staged.course(patients, arm, keys, days, n_weeks, form, steps, engine)
        return visits._replace(covariates=jnp.stack(patients.covariates) > 0, age_y=patients.age_y)
    p, noise = fed(patients.parameters, arm), patients.noise
    dtype = p.clearance_l_per_h.dtype
    move = solver(engine, p, form, steps)
    omega = immune_activity(noise, p, keys, n_weeks, dtype)
    ng_per_ml = pharmacokinetics.ng_per_ml(jnp.ones((), dtype), p.molar_mass_g_per_mol)
    n = keys.shape[0]

    def visit(loop: tuple, xs: tuple) -> tuple[tuple, tuple]:
        y, dosing, rescued, dropped = loop
        before, day, z, u_rescue, u_dropout = xs
        dose_mg = titration.dose_mg(arm.rule, dosing, dtype) * jnp.asarray(arm.dose_scale, dtype) * ~dropped
        if arm.treatment_d is not None:
            dose_mg = dose_mg * (before < arm.treatment_d)
        dose_nmol = pharmacokinetics.arriving_nmol(dose_mg, p)
        y = move.advance(y, before, day, dose_nmol, omega)
        now = move.read(y)
        P = now.platelets_1e9_per_l
        count = jnp.maximum(1, P * jnp.exp(noise.residual_log_sd * z))
        chance = rescue_probability(arm, noise, count, day, (day - before).astype(dtype))
        leaves = -jnp.expm1(-jnp.asarray(arm.dropout_hazard_per_week, dtype) * (day - before) / 7)
        dropped = dropped | (u_dropout < leaves)
        count = jnp.where(dropped, jnp.nan, count)
        chance = jnp.where(dropped, 0, chance)
        rescued = rescued | (u_rescue < chance)
        seen = (
            P, count, dose_mg, dosing.interrupted, dosing.stopped, chance, rescued, dropped,
            *(x * ng_per_ml for x in (now.cmax_nM, now.auc_nM_h, now.concentration_nM)),
        )  # fmt: skip
        decided = titration.decide(arm.rule, dosing, count, day, *patients.body)
        if arm.treatment_d is not None:  # a rule acts on a dose, and there is none any more
            decided = jax.tree.map(partial(jnp.where, day < arm.treatment_d), decided, dosing)
        return (y, decided, rescued, dropped), seen

    none = jnp.zeros(n, bool)
    loop = (move.start, titration.start(arm.rule, arm.start_level, n), none, none)
    before = jnp.concatenate([jnp.zeros(1, days.dtype), days[:-1]])
    z = random.normal(keys, days, "residual", dtype=dtype)
    chances = (random.uniform(keys, days, purpose, dtype=dtype) for purpose in ("rescue", "dropout"))
    _, seen = lax.scan(visit, loop, (before, days, z, *chances))
    P = seen[0]
    failed = ~jnp.all(jnp.isfinite(P) & (P > 0), axis=0)
    visits = Visits(*(*seen, omega, patients.baseline_1e9_per_l, patients.weight_kg, failed))
    return visits._replace(
        covariates=jnp.stack(patients.covariates) > 0, age_y=patients.age_y, screened=patients.screened
    )


@partial(jax.jit, static_argnames=("n_weeks", "form", "steps", "engine"))
def _visits(population, arm, key, draw, trial, patient, days, n_weeks, form, steps, engine):
    return simulate_tile(
        population, arm, random.patient_keys(key, draw, trial, patient), days, n_weeks, form, steps, engine
    )


@partial(jax.jit, static_argnames=("group", "landmark"))
def _moments(v: Visits, group: int, landmark: int) -> tuple[Array, Array, Array]:
    """Apart from the courses, so that simulation and moments share one compiled program of them."""
    counts, chance = endpoints.until(landmark, v.platelets_observed, v.rescue_probability)
    mean, second = endpoints.expected_events(counts, v.baseline, chance)

    def grouped(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, group).mean(-1), -1, 0)

    return grouped(mean), grouped(second), v.failed.reshape(-1, group).sum(-1)


class Roster(NamedTuple):
    """Who is simulated: ``who(rows)`` gives population, draw, trial and patient number of rows [tile] out of n.

    A function, so that no array is as long as the cohort. Leaves of the population: scalar, or [tile].
    """

    n: int
    who: Callable[[np.ndarray], tuple[Population, np.ndarray, np.ndarray, np.ndarray]]


def roster(population: Population, patient: Numbers, draw: Numbers | int = 0, trial: Numbers | int = 0) -> Roster:
    """The roster of patients with the given numbers; see ``simulate``."""
    n, population = len(patient), jax.device_get(population)

    def numbers(a: Numbers | int, rows: np.ndarray) -> np.ndarray:
        if isinstance(a, range):
            return (a.start + a.step * rows).astype(np.int32)
        a = np.asarray(a, np.int32)
        return a[rows] if a.ndim else np.full(len(rows), a)

    def who(rows: np.ndarray) -> tuple[Population, np.ndarray, np.ndarray, np.ndarray]:
        own = jax.tree.map(lambda leaf: leaf[rows] if _by_patient(leaf, n) else leaf, population)
        return own, numbers(draw, rows), numbers(trial, rows), numbers(patient, rows)

    return Roster(n, who)


def _by_patient(leaf: Any, n: int) -> bool:
    """Whether a leaf of a population is one number (or one matrix of correlations) for each of n."""
    return n > 1 and np.ndim(leaf) in (1, 3) and np.shape(leaf)[0] == n


def vectors_roster(population: Population, vectors: int, patients: int, draw: int = 0, trial: int = 0) -> Roster:
    """``patients`` patients of each of ``vectors`` population vectors, numbered through; leaves scalar or [vectors]."""
    population = jax.device_get(population)

    def who(rows: np.ndarray) -> tuple[Population, np.ndarray, np.ndarray, np.ndarray]:
        vector = rows // patients
        own = jax.tree.map(lambda leaf: leaf[vector] if _by_patient(leaf, vectors) else leaf, population)
        return own, np.full(len(rows), draw, np.int32), np.full(len(rows), trial, np.int32), rows.astype(np.int32)

    return Roster(vectors * patients, who)


def part_of(people: Roster, first: int, n: int) -> Roster:
    """Up to ``n`` rows of a roster from row ``first`` on: the same patients."""
    return Roster(min(n, people.n - first), lambda rows: people.who(rows + first))


def over_tiles(
    reduce: Callable[[Visits, int], Any],
    people: Roster,
    arm: Arm,
    days: tuple[int, ...],
    seed: int,
    form: Form = DYNAMIC,
    steps: grid.Grid = grid.DEFAULT,
    engine: str = AUTOMATIC,
) -> Iterator[Any]:
    """``reduce(visits, there)`` of every tile, in order, on the host; nothing else of a tile is kept.

    The last tile is padded with its last patient: ``there`` of a tile's patients are real. Patients whose course fails
    in float32 are solved again in float64 where JAX has it (same random numbers); those that fail again stay flagged.
    """
    key, width = random.root(seed), tile_width(engine)
    last_day = max(days) if arm.protocol is None else int(arm.protocol.ends[-1])
    days_and_weeks = np.asarray(days, np.int32), -(-last_day // DAYS_A_WEEK)

    def visits(population, draw, trial, patient):
        return _visits(population, arm, key, draw, trial, patient, *days_and_weeks, form, steps, engine)

    def one(there, population, *numbers):
        v = visits(population, *numbers)
        if v.screened is not None:
            from pkpd.screening import check_places

            check_places(v.screened.candidates)
        if v.baseline.dtype == jnp.float32 and jax.config.read("jax_enable_x64") and np.asarray(v.failed).any():
            again = visits(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), population), *numbers)
            v = jax.tree.map(lambda a, b: jnp.where(v.failed, b.astype(a.dtype), a), v, again)
        return reduce(v, there)

    rows = (np.arange(first, first + width) for first in range(0, people.n, width))
    last = people.n - 1
    return map_tiles(one, ((min(width, people.n - r[0]), *people.who(np.minimum(r, last))) for r in rows))


def simulate(
    population: Population,
    arm: Arm,
    days: tuple[int, ...],
    seed: int,
    patient: Numbers,
    draw: Numbers | int = 0,
    trial: Numbers | int = 0,
    form: Form = DYNAMIC,
    steps: grid.Grid = grid.DEFAULT,
    engine: str = AUTOMATIC,
) -> Iterator[Visits]:
    """Courses of patients with the given numbers, tile by tile in order (host arrays).

    population: leaves scalar, or [n] where population vectors differ between patients. patient, draw, trial: integers
    [n] or a range (draw and trial may be scalars) that name each patient's random stream. days: visit days,
    increasing, >= 1. The precision is that of the population's leaves.
    """
    return visits_of(roster(population, patient, draw, trial), arm, days, seed, form, steps, engine)


def visits_of(people: Roster, *args: Any, **kwargs: Any) -> Iterator[Visits]:
    """Courses of a roster, tile by tile in order (host arrays); arguments as for ``over_tiles``."""
    for v, there in over_tiles(lambda v, there: (v, there), people, *args, **kwargs):
        yield jax.tree.map(lambda leaf, there=there: leaf[..., :there], v)


def event_moments(
    people: Roster,
    arm: Arm,
    days: tuple[int, ...],
    seed: int,
    group: int,
    landmark: int = -1,
    form: Form = DYNAMIC,
    steps: grid.Grid = grid.DEFAULT,
    engine: str = AUTOMATIC,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Moments of the events of consecutive groups of patients, rescue integrated out, tile by tile (host arrays).

    Yields means [groups, 5], second moments [groups, 5, 5] and numbers of failed patients [groups]. ``group`` divides
    the engine's tile width and the number of ``people``; other arguments as for ``simulate``.
    """

    def reduce(v: Visits, there: int) -> tuple[Any, int]:
        return _moments(v, group, landmark), there // group

    for result, groups in over_tiles(reduce, people, arm, days, seed, form, steps, engine):
        yield tuple(x[:groups] for x in result)
