"""Screening: who enters a trial whose limit on the count is applied to counts as measured before the first dose.

Each place of a trial has a queue of candidates of its own, and the first who passes fills it: exactly a draw from the
law of those who pass, and the length of the queue is what had to be screened. Candidate j of a patient has random
numbers of (patient, j) alone, so nobody's depend on the batch, on other patients or on another arm.

A candidate is a whole person: random effects, true count at rest (P0) and what is measured at the visits. A visit on
day -d measures P exp(sigma z), at least 1, with the candidate's own sigma; P is the count that the immune activity of
that week makes of P0. Before treatment the activity is the model's own drift, seen backwards from omega = 0 on day 0 (a
stationary AR(1) is the same in both directions): omega_-w = rho omega_-(w-1) + s sqrt(1 - rho^2) z_w over the week that
ends 7 w days before the first dose. In the last week omega = 0 and P = P0, so the course starts at rest as without
screening. Count under omega: platelets relax to the equilibrium of a constant production; feedback through TPO is
neglected. Against the engine, one, two and four weeks from rest, this makes the sd of the log count 5, 9 and 13% too
large where P0 is 10 to 30 (3, 5 and 6% below 10; 9, 16 and 21% from 30 to 100).

ASSUMED: P0 of candidates follows the library's log-normal law of baseline counts, cut off where the disease ends
(``ITP_BELOW``), not at the limit of entry. Above that limit the law is an extrapolation, and so is the number screened.
What the library has it from, counts of patients who had entered phase III (median 13, 37% below 10), are measured
ones: a visit on day 0 alone gives these again (13.0, 37%), visits before it lower counts (day -7: 12.0, 42%; mean of
days -14 and -7: 12.1, 41%). With baseline_log_mean = 3.32 and baseline_log_sd = 1.05 that mean has 13.0 and 37%.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from pydantic import Field, field_validator

from pkpd import cohort, random, thrombopoiesis
from pkpd.engine.grid import DAYS_A_WEEK
from pkpd.errors import InputError
from pkpd.parameters import CovariateRatios, Library, Noise, Parameters, Population, Variability
from pkpd.tomlfile import shown
from pkpd.trial import LARGEST_OMEGA
from pkpd.validated import Count, List, Table

if TYPE_CHECKING:
    from pkpd.scenario_tables import Entry

CRITERIA = ("mean", "last", "every")
MEAN, LAST, EVERY = range(len(CRITERIA))
ITP_BELOW = 100.0  # 1e9/L, the definition of ITP: Rodeghiero 2009 Blood 113:2386, doi 10.1182/blood-2008-07-162503
MOST_CANDIDATES = 2000  # of one place; with LEAST_PASSING a place stays empty once in 1e17
LEAST_PASSING = 0.02
MAX_VISITS, EARLIEST_D = 12, -182
HOURS_A_DAY = 24.0


class Screening(Table):
    """Counts measured before the first dose (day 0), of which ``criterion`` lies below the limit of ``[entry]``.

    visits_d: days up to 0. criterion: their geometric mean, the last, or every one of them. The baseline count that
    analyses read is that mean, or the last count. other_failure_share: of the candidates, who fail for a reason that
    has nothing to do with counts. candidates_below_1e9_per_l: true counts of who is screened at all; without it below
    100 in ITP, any count in healthy volunteers.
    """

    visits_d: List[int]
    criterion: Literal["mean", "last", "every"] = "last"
    other_failure_share: float = Field(default=0.0, ge=0, le=0.9)
    candidates_below_1e9_per_l: Count | None = None

    @field_validator("visits_d")
    @classmethod
    def _before_the_first_dose(cls, days: tuple[int, ...]) -> tuple[int, ...]:
        if not 1 <= len(days) <= MAX_VISITS:
            raise ValueError(f"from 1 to {MAX_VISITS} visits")
        for day in days:
            if not EARLIEST_D <= day <= 0:
                raise ValueError(f"days from {EARLIEST_D} to 0, the first dose, but {shown(day)} is among them")
        for first, second in itertools.pairwise(days):
            if second <= first:
                raise ValueError(f"days that increase, but {second} follows {first}")
        return days

    def candidates_below(self, entry: Entry) -> float:
        """Counts (1e9/L) at rest of the candidates are below this."""
        if self.candidates_below_1e9_per_l is not None:
            return self.candidates_below_1e9_per_l
        return ITP_BELOW if entry.disease == "itp" else float("inf")


class Screen(NamedTuple):
    """A screening as arrays. week: of each visit [visits], 0 for that of the first dose; since_h: hours from that
    week's start to the visit. weeks: 1, 2, .. to one before the first visit's, whose length is what matters.
    """

    week: Any
    since_h: Any
    weeks: Any
    criterion: Any
    candidates_below: Any
    other_failure_share: Any


class Screened(NamedTuple):
    """What the screening found of those who entered. at_rest: P0 [patients]; true and counts [visits, patients];
    baseline [patients] as analyses read it; candidates [patients] screened for each place, 0 where all failed.
    """

    at_rest: Array
    true: Array
    counts: Array
    baseline: Array
    candidates: Array


def screen_of(screening: Screening, entry: Entry) -> Screen:
    """The arrays of a table."""
    before = -np.array(screening.visits_d)
    week = before // DAYS_A_WEEK
    return Screen(
        week=week.astype(np.int32),
        since_h=(HOURS_A_DAY * (DAYS_A_WEEK * (week + 1) - before)).astype(np.float32),
        weeks=np.arange(1, week.max() + 2, dtype=np.int32),
        criterion=np.int32(CRITERIA.index(screening.criterion)),
        candidates_below=np.float32(screening.candidates_below(entry)),
        other_failure_share=np.float32(screening.other_failure_share),
    )


def enter(population: Population, patients: cohort.Patients, keys: Array, s: Screen, below: Array) -> cohort.Patients:
    """``patients`` with the random effects and counts of those who enter: whose measured counts are ``below``.

    Candidates are judged in float32 for either precision of the courses, so both have the same patients.
    """
    dtype = population.typical.clearance_l_per_h.dtype
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), population)

    def candidate(j: Array) -> tuple[Array, Screened]:
        z, found, passes = _candidate(single, keys, s, below, j)
        return z, found._replace(candidates=jnp.where(passes, j + 1, 0))

    def judge(loop: tuple[Array, tuple[Array, Screened]]) -> tuple[Array, tuple[Array, Screened]]:
        j, kept = loop
        return j + 1, jax.tree.map(partial(jnp.where, kept[1].candidates > 0), kept, candidate(j))

    def more(loop: tuple[Array, tuple[Array, Screened]]) -> Array:
        j, (_, found) = loop
        return (j < MOST_CANDIDATES) & jnp.any(found.candidates == 0)

    first = jnp.zeros((), jnp.int32)
    nobody = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(candidate, first))
    _, (z, found) = lax.while_loop(more, judge, (first, nobody))
    found = Screened(*(*(x.astype(dtype) for x in found[:-1]), found.candidates))
    own = cohort.individuals(population, z.astype(dtype), patients.weight_kg, found.at_rest, patients.covariates)
    # whether the drug acts in a patient is drawn with the covariates
    parameters = own.parameters._replace(dimer_efficacy=patients.parameters.dimer_efficacy)
    return patients._replace(parameters=parameters, noise=own.noise, screened=found)


def _candidate(population: Population, keys: Array, s: Screen, below: Array, j: Array) -> tuple[Array, Screened, Array]:
    """Random effects of candidate ``j`` of every place, what is measured, and whether the candidate passes."""
    d, n = population.demography, keys.shape[0]
    z = random.normal(keys, j, "random_effects", (len(Variability._fields),))
    P0 = cohort.baseline(d, random.uniform(keys, j, "baseline"), jnp.asarray(s.candidates_below))
    none = CovariateRatios(*[jnp.zeros(n, jnp.float32)] * len(CovariateRatios._fields))
    person = cohort.individuals(population, z, jnp.broadcast_to(d.reference_weight_kg, (n,)), P0, none)
    weeks, visits = s.weeks.shape[0], s.week.shape[0]
    error = random.normal(keys, j, "screening", (weeks + visits,))
    true = _counts(person.parameters, activity(person.noise, error[:weeks]), s)
    counts = jnp.maximum(1, true * jnp.exp(person.noise.residual_log_sd * error[weeks:]))
    mean = jnp.exp(jnp.mean(jnp.log(counts), axis=0))
    code = jnp.asarray(s.criterion)
    judged = jnp.select([code == MEAN, code == LAST], [mean, counts[-1]], jnp.max(counts, axis=0))
    fails = random.uniform(keys, j, "other_failure") < s.other_failure_share
    read = jnp.where(code == MEAN, mean, counts[-1])
    return z, Screened(P0, true, counts, read, jnp.zeros(n, jnp.int32)), (judged < below) & ~fails


def activity(noise: Noise, z: Array) -> Array:
    """omega [1 + weeks, patients] of the weeks that end 0, 7, 14, .. days before the first dose, from normals z."""
    rho = jnp.exp(-DAYS_A_WEEK / noise.immune_drift_time_d)
    kick = noise.immune_drift_log_sd * jnp.sqrt(1 - rho * rho)
    omega = [jnp.zeros_like(z[0])]
    for earlier in z:
        omega.append(rho * omega[-1] + kick * earlier)
    return jnp.stack(omega)


def _counts(p: Parameters, omega: Array, s: Screen) -> Array:
    """True counts [visits, patients] at the visits, under omega as of ``activity``.

    The earliest week is before that of the first visit: at its end the count is in equilibrium.
    """
    hours = HOURS_A_DAY * DAYS_A_WEEK
    P0 = p.baseline_platelets_1e9_per_l
    begins = equilibrium(p, omega[-1])[0]
    starts = [begins]  # counts at the start of each week, the latest last
    for w in range(omega.shape[0] - 2, 0, -1):
        begins = after(p, omega[w], begins, hours)
        starts.append(begins)
    start = jnp.stack([P0, *starts[::-1]])[s.week]
    during = after(p, omega[s.week], start, jnp.asarray(s.since_h)[:, None])
    return jnp.where(jnp.asarray(s.week)[:, None] == 0, P0, during)


def after(p: Parameters, omega: Array, count: Array, hours: Array | float) -> Array:
    """Count (1e9/L) some hours later under a constant omega: it relaxes to the equilibrium at the rate found there."""
    end, rate = equilibrium(p, omega)
    return end + (count - end) * jnp.exp(-rate * hours)


def equilibrium(p: Parameters, omega: Array) -> tuple[Array, Array]:
    """Count Q at which r0 = ksen Q + Vim exp(omega) Q/(Kim + Q), and the rate (1/h) of return to it."""
    t, Kim, ksen = thrombopoiesis.turnover(p), p.immune_half_saturation_1e9_per_l, p.senescence_per_h
    omega = jnp.clip(omega, -LARGEST_OMEGA, LARGEST_OMEGA)
    capacity = t.immune_capacity * jnp.exp(omega)
    b = ksen * Kim + capacity - t.production
    root = jnp.sqrt(b * b + 4 * ksen * t.production * Kim)
    Q = jnp.where(b > 0, 2 * t.production * Kim / (root + jnp.abs(b)), (root - b) / (2 * ksen))
    return Q, ksen + capacity * Kim / (Kim + Q) ** 2


def describe(screening: Screening, entry: Entry) -> str:
    """The screening in words, on one line."""
    days = [f"{day}" for day in screening.visits_d]
    said = f"day {days[0]}" if len(days) == 1 else f"days {', '.join(days[:-1])} and {days[-1]}"
    which = {"mean": "their geometric mean", "last": "the last", "every": "every one"}[screening.criterion]
    words = [f"counts on {said}, {which} below {entry.platelets_below_1e9_per_l:g}"]
    if screening.other_failure_share:
        words.append(f"{100 * screening.other_failure_share:g}% fail for other reasons")
    below = screening.candidates_below(entry)
    words += [f"of candidates with true counts below {below:g}"] if below < float("inf") else []
    return "Screening: " + "; ".join(words)


def check(screening: Screening, entry: Entry) -> None:
    """InputError where the table does not fit that of entry."""
    if entry.patients is not None:
        raise InputError("screening: the patients of entry.patients have entered already; legal: one of the two")
    below, limit = screening.candidates_below(entry), entry.platelets_below_1e9_per_l
    if below < limit and screening.candidates_below_1e9_per_l is not None:
        raise InputError(
            f"screening.candidates_below_1e9_per_l = {below:g}: below the limit of entry; legal: at least {limit:g}"
        )
    if below < limit:
        raise InputError(
            f"screening.candidates_below_1e9_per_l is {below:g} of patients with ITP where it is not given, below the "
            f"limit of entry; legal: at least {limit:g}"
        )


def check_enough_pass(screening: Screening, entry: Entry, library: Library) -> None:
    """InputError where hardly anybody would pass. Errors of measurement apart: they help as many as they hinder."""
    lowest, mean, sd = (library.value(f"baseline_{x}") for x in ("min_1e9_per_l", "log_mean", "log_sd"))
    bottom, limit, top = (
        NormalDist(mean, sd).cdf(math.log(x)) if x < math.inf else 1.0
        for x in (lowest, entry.platelets_below_1e9_per_l, screening.candidates_below(entry))
    )
    share = (limit - bottom) / (top - bottom) * (1 - screening.other_failure_share)
    if share < LEAST_PASSING:
        raise InputError(
            f"screening: some {100 * share:.2g}% of candidates pass; legal: criteria that {100 * LEAST_PASSING:g}% pass"
        )


def check_places(candidates: Any) -> None:
    """InputError where a place stayed empty, none of its candidates having passed."""
    empty = int(np.sum(np.asarray(candidates) == 0))
    if empty:
        raise InputError(
            f"screening: for {empty} patients none of {MOST_CANDIDATES} candidates passed; legal: a criterion that "
            f"more than {100 * LEAST_PASSING:g}% pass"
        )
