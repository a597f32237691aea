"""Whole trials simulated many times: operating characteristics of a design, and the virtual cohort itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from inference import checkpoint
from inference.checkpoint import NOTHING_KEPT
from inference.drawn import NEW
from inference.output import CHECKPOINT
from inference.progress import Progress, silent
from inference.studies import values_of
from inference.whatif import characteristics, effects, further, per_trial, runs
from inference.whatif.calendar import calendar
from inference.whatif.counts import Counts, sizes_analysed, stated
from inference.whatif.decisions import decide
from inference.whatif.errors import cautious_se, clustered_se, quantile_with_se, wilson
from inference.whatif.null import under_null
from inference.whatif.summed import SUMMARY_COLUMNS
from inference.whatif.two_by_two import p_values
from pkpd import endpoints, notebook, randomisation, streaming, trial
from pkpd.devices import AUTOMATIC, tile_width
from pkpd.errors import InputError
from pkpd.model import Form
from pkpd.parameters import SECOND, Demography, Population, with_values
from pkpd.planned import COMPARATOR, PlannedArm, planned_arms

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

EC50 = "receptor_ec50_nM"

__all__ = [
    "SUMMARY_COLUMNS", "Plan", "block_of", "clustered_se", "cohort_table", "courses", "form_of", "number_of",
    "p_values", "patient_blocks", "posterior_draws", "quantile_with_se", "roster", "run_trial", "simulate_cohort",
    "summarise_cohort", "wilson", "with_draws",
]  # fmt: skip


def posterior_draws(run: Path | None, n: int) -> dict[str, np.ndarray]:
    """n draws [n] of every population parameter of a run, see ``drawn.draws_of``; {} without a run."""
    if run is None:
        return {}
    from inference import store
    from inference.drawn import draws_of

    return draws_of(store.load_fitted(run), n)


def with_draws(a: PlannedArm, draws: Mapping[str, np.ndarray], rows: np.ndarray) -> Population:
    """The arm's population with row ``rows`` [patients] of the draws, which are of hetrombopag in ITP.

    A comparator drug keeps its own pharmacology unless the draws hold it, healthy volunteers their production, counts
    and lack of immune clearance, and every arm what its scenario sets.
    """
    values = values_of(NEW, a, COMPARATOR, {name: v[rows] for name, v in draws.items()})
    for name, own in (EC50, a.population), (SECOND + EC50, a.population.second):
        if np.ndim(a.ec50_ratio) and own is not None:
            values[name] = values.get(name, np.asarray(own.typical.receptor_ec50_nM)) * a.ec50_ratio[rows]
        elif name in values:
            values[name] = values[name] * a.ec50_ratio
    return with_values(a.population, values)


def numbers_of(a: PlannedArm, draws: Mapping[str, np.ndarray], seed: int) -> randomisation.Numbers:
    """A function of trials and places in an arm that gives the numbers its patients have in their trial."""
    if a.allocation is None:
        return lambda number, place: a.first_patient + place
    by_count = a.arm.screen is not None  # who passes depends on all that decides a count
    needed = {name: values for name, values in draws.items() if by_count or name in Demography._fields}
    return randomisation.numbering(a.allocation, partial(with_draws, a, needed), a.arm, number_of(draws), seed)


def roster(
    a: PlannedArm, draws: Mapping[str, np.ndarray], n_trials: int, first: int = 0, seed: int | None = None
) -> trial.Roster:
    """Patients of one arm over ``n_trials`` trials from ``first`` on; trial t uses draw t modulo their number.

    seed: that of the courses, which an arm of randomised patients needs.
    """
    n_draws = number_of(draws)
    if seed is None and a.allocation is not None:
        raise ValueError(f"{a.name}: who is in the arm depends on the seed")
    own = numbers_of(a, draws, seed or 0)

    def who(rows: np.ndarray) -> tuple[Population, np.ndarray, np.ndarray, np.ndarray]:
        number, place = np.divmod(rows, a.n)
        number = number + first
        draw = number % n_draws
        population = jax.device_get(with_draws(a, draws, draw))
        return population, *(x.astype(np.int32) for x in (draw, number // n_draws, own(number, place)))

    return trial.Roster(a.n * n_trials, who)


def number_of(draws: Mapping[str, np.ndarray]) -> int:
    """Number of draws of the population parameters: 1 without a posterior."""
    return len(next(iter(draws.values()))) if draws else 1


def form_of(a: PlannedArm, draws: Mapping[str, np.ndarray]) -> Form:
    """The cheaper form of the model where the Hill coefficient is 1 in the arm and in every draw."""
    population = with_draws(a, draws, np.arange(number_of(draws)))
    drugs = [population, population.second] if population.second else [population]
    return Form(hill_is_one=all(bool(np.all(np.asarray(x.typical.dimer_hill) == 1)) for x in drugs))


def courses(
    design: Scenario,
    a: PlannedArm,
    draws: Mapping[str, np.ndarray],
    n_trials: int,
    seed: int,
    engine: str,
    first_trial: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray, trial.Visits]]:
    """Tiles of one arm over ``n_trials`` trials: draw and trial number of each patient, and their visits.

    Trials are numbered from ``first_trial`` on; trial t uses draw t modulo the number of draws, and its own patients.
    """
    people, days = roster(a, draws, n_trials, first_trial, seed), tuple(design.trial.visits_d)
    first = 0
    for visits in trial.visits_of(people, a.arm, days, seed, form_of(a, draws), engine=engine):
        number = first_trial + np.arange(first, first + visits.baseline.shape[-1]) // a.n
        yield number % number_of(draws), number, visits
        first += len(number)


class Plan(NamedTuple):
    """All that the trials of a run follow from; draws: population parameters [draws], see ``posterior_draws``."""

    design: Scenario
    draws: Mapping[str, np.ndarray]
    seed: int
    engine: str


def run_trial(
    design: Scenario,
    *,
    posterior: Path | None = None,
    seed: int = 1,
    engine: str = AUTOMATIC,
    null: bool = False,
    progress: Progress = silent,
    folder: Path | None = None,
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Operating characteristics of a design, a row a quantity (columns of design section 5).

    By arm: the expected rate of every endpoint, and the 2.5% and 97.5% quantiles of the rate one trial reports. By
    comparison with the control: what the analysis of the scenario finds and decides. ``lower`` and ``upper`` bound the
    estimate's Monte Carlo error (95%, Wilson's for a power); it is clustered by posterior draw. ``null``: the same
    under the null of the analysis, see ``whatif.null``. Outcomes that the scenario states are drawn without patients.

    folder: gets the table of single trials (``whatif.per_trial``), and keeps what was counted in ``checkpoint/``, from
    which the same run goes on. scheduler: address of a Dask scheduler whose workers count the trials; the result is
    the same to the bit on machines of one kind.
    """
    if design.outcome is not None and posterior is not None:
        raise InputError(f"{design.trial.name}: [outcome] states responses; legal: without --posterior")
    draws = posterior_draws(posterior, min(design.trial.posterior_draws, design.trial.n_trials))
    if null:
        design = under_null(design, draws, seed, engine)
    plan, n_draws = Plan(design, draws, seed, engine), number_of(draws)
    with ExitStack() as held:
        if scheduler is None:
            kind, work = runs.kind_here(engine), runs.here(block_of(plan, progress))
        else:
            from inference.whatif import cluster

            kind, work = held.enter_context(cluster.workers(scheduler, plan))
        keep = NOTHING_KEPT
        if folder is not None:
            keep = checkpoint.begin(folder / CHECKPOINT, runs.identity(plan, kind, null))
        n_trials = design.trial.n_trials
        parts = runs.chunks(n_trials, runs.trials_a_chunk(design, kind["tile_width"]))
        rows = characteristics.begun(design, n_draws, null)
        write = None
        if folder is not None:
            write = held.enter_context(per_trial.writing(folder / per_trial.FILE, design, n_draws))
        until = _until(design, n_draws)
        for counts in runs.consecutive(parts, work, keep, until, lambda n: progress("trials", n, n_trials)):
            characteristics.add(rows, design, counts)
            if write is not None:
                write(counts)
    progress("trials", 1, 1)
    return rows.table()


def _until(design: Scenario, n_draws: int) -> runs.Until | None:
    """When the error of every power is as small as the scenario wants it; None where it wants all trials."""
    if design.trial.mc_se_below is None:
        return None

    def error(rejected: np.ndarray) -> float:
        return max(cautious_se(x, np.arange(len(x)) % n_draws) for x in rejected.T)

    def decided(counts: Counts) -> np.ndarray:
        found = decide(design, counts)
        return np.concatenate([found.rejected, found.secondary.reshape(len(found.rejected), -1)], axis=1)

    return runs.Until(decided, error, design.trial.mc_se_below)


def block_of(plan: Plan, progress: Progress = silent) -> Callable[[int, int], Counts]:
    """A function of first trial and number that counts these trials."""
    if plan.design.outcome is not None:
        block: Callable[[int, int], Counts] = partial(stated, plan.design, plan.seed)
    else:
        block = patient_blocks(plan.design, plan.draws, plan.seed, plan.engine, progress)

    def counted(first: int, n: int) -> Counts:
        counts = block(first, n)
        drops = plan.design.accrual and plan.design.interims and plan.design.interims.drop_losers
        look = decide(plan.design, counts).look if drops else None
        return counts._replace(calendar=calendar(plan.design, plan.seed, first, n, look))

    return counted


def patient_blocks(
    design: Scenario, draws: Mapping[str, np.ndarray], seed: int, engine: str, progress: Progress
) -> Callable[[int, int], Counts]:
    """A function of first trial and number that simulates these trials and counts responders."""
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    groups, sizes, names = list(_groups(design, arms)), sizes_analysed(design), design.endpoint_names
    total = sum(a.n for _, a, _ in groups)
    tested = design.tested if design.analysis is not None else ()
    by_patient = [one.analysis is not None and one.analysis.by_patient for one in tested]

    def block(first: int, n: int) -> Counts:
        by_arm = {a.name: np.zeros((n, len(names)), np.int32) for a in arms}
        sums = {a.name: np.zeros((n, len(further.names(design)))) for a in arms}
        numbers = {a.name: np.zeros(x.shape, np.int32) for a, x in zip(arms, sums.values(), strict=True)}
        by_look = [np.zeros((n, len(sizes), len(arms)), np.int64) for _ in tested]
        patients: list[list[effects.Patients]] = [[] for _ in tested]
        done = 0
        for index, a, start in groups:
            row = 0
            outcomes: list[list[effects.Patients]] = [[] for _ in tested]
            for _, number, v in courses(design, a, draws, n, seed, engine, first):
                at = number - first
                if start == 0:
                    seen, rescued = endpoints.until(design.landmark, v.platelets_observed, v.rescued)
                    np.add.at(by_arm[a.name], at, np.asarray(endpoints.events(seen, v.baseline, rescued)).T)
                    values, present = further.values(design, a, v)
                    _add(sums[a.name], at, values)
                    _add(numbers[a.name], at, present)
                for k, one in enumerate(tested):
                    own = effects.observed(one, a, v)
                    if by_patient[k]:
                        outcomes[k].append(own)
                        continue
                    place = start + (row + np.arange(len(number))) % a.n
                    look = np.searchsorted(sizes[:, index], place, side="right")
                    np.add.at(by_look[k][:, :, index], (at, look), own.value & own.present)
                row += len(number)
                done += len(number)
                progress("trials", first + done // total, design.trial.n_trials)
            for k in range(len(tested)):
                if not by_patient[k]:
                    continue
                new = effects.arranged(outcomes[k], a.n)
                if start == 0:
                    patients[k].append(new)
                else:
                    patients[k][index] = effects.with_later(patients[k][index], new)
        counts = Counts(names, by_arm, None, None, sums, numbers)
        if design.analysis is None:
            return counts
        found = [
            effects.effects(one, patients[k], seed, first) if by_patient[k] else by_look[k].cumsum(axis=1)
            for k, one in enumerate(tested)
        ]
        counts = counts._replace(**{"effects" if by_patient[0] else "analysed": found[0]})
        labels = [second.label for second in design.analysis.secondary]
        return counts._replace(secondary=dict(zip(labels, found[1:], strict=True))) if labels else counts

    return block


def _groups(design: Scenario, arms: Sequence[PlannedArm]) -> Iterator[tuple[int, PlannedArm, int]]:
    """Each arm by its number, then who a re-estimation may ask for beyond its n: (arm, patients, place of the first).

    The latter are numbered after all others, so that the planned patients are those of the same design without it.
    """
    yield from ((index, a, 0) for index, a in enumerate(arms))
    first = sum(a.n for a in arms)
    later = [most - a.n for a, most in zip(arms, sizes_analysed(design)[-1].tolist(), strict=True)]
    own = randomisation.allocations(design.randomisation, later, first)
    for index, (a, more) in enumerate(zip(arms, later, strict=True)):
        if more > 0:
            yield index, a._replace(n=more, first_patient=first, allocation=own[index]), a.n
            first += more


def _add(total: np.ndarray, at: np.ndarray, values: np.ndarray) -> None:
    """Adds values [k, patients] to the rows ``at`` [patients] (ascending) of ``total`` [trials, k]."""
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    total[at[starts]] += np.add.reduceat(values, starts, axis=1).T.astype(total.dtype)


def simulate_cohort(
    design: Scenario,
    *,
    posterior: Path | None = None,
    seed: int = 1,
    engine: str = AUTOMATIC,
    progress: Progress = silent,
) -> Iterator[pd.DataFrame]:
    """The virtual cohort of a scenario, part by part: a row a patient and visit; visit 0 is the baseline.

    One trial for each posterior draw (one in all without a posterior). dose_mg, interrupted, stopped, cmax and auc are
    of the interval that ends at the visit; concentrations are free, in ng/mL (auc in ng h/mL). Those with a protocol
    have more columns: whether the visit was missed, the stage that ends with it (from 0), the dose taken since the last
    visit in all, and whether the patient had relapsed; their times are those of the patient's own visits. Where an arm
    has two drugs, ``drug`` is the one of which doses and concentrations are. Counts of a screening come first, numbered
    .., -2, -1; visit 0 is then the true count at the first dose and, as observed, what the criterion reads of the
    screening.
    """
    draws = posterior_draws(posterior, design.trial.posterior_draws)
    n_draws = number_of(draws)
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    total = sum(-(-a.n * n_draws // tile_width(engine)) for a in arms)
    done, two_drugs = 0, any(a.second_drug for a in arms)
    hours = 24.0 * np.array([*(design.screening.visits_d if design.screening else ()), 0, *design.trial.visits_d])
    for a in arms:
        first, own = 0, numbers_of(a, draws, seed)
        for draw, number, v in courses(design, a, draws, n_draws, seed, engine):
            patient = own(number, (first + np.arange(len(draw))) % a.n)
            first += len(draw)
            yield cohort_table(a.name, draw, patient, hours, v, (a.drug, a.second_drug) if two_drugs else None)
            done += 1
            progress("patients", done, total)


def summarise_cohort(
    design: Scenario,
    *,
    posterior: Path | None = None,
    seed: int = 1,
    engine: str = AUTOMATIC,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The cohort of ``simulate_cohort`` as a table of shares, moments and quantiles; memory does not grow with it."""
    draws = posterior_draws(posterior, design.trial.posterior_draws)
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    rosters = {a.name: roster(a, draws, number_of(draws), seed=seed) for a in arms}
    total, done, summaries = sum(people.n for people in rosters.values()), 0, {}
    for a in arms:
        before = done

        def tell(patients: int, before: int = before) -> None:
            progress("patients", before + patients, total)

        summaries[a.name] = streaming.summarise(
            rosters[a.name], a.arm, tuple(design.trial.visits_d), seed, design.landmark, form_of(a, draws),
            engine=engine, progress=tell,
        )  # fmt: skip
        done += rosters[a.name].n
    return notebook.summary_table(notebook.summary_dataset(design, arms, summaries))


def cohort_table(
    arm: str,
    draw: np.ndarray,
    patient: np.ndarray,
    hours: np.ndarray,
    v: trial.Visits,
    drugs: tuple[str, str] | None = None,
) -> pd.DataFrame:
    """One tile of patients as a table, patient by patient and visit by visit; with the drug where ``drugs``, the arm's
    first and second, are given."""
    n, visits = len(draw), len(hours)
    true, count = [v.baseline_true[None], v.platelets_true], [v.baseline[None], v.platelets_observed]
    if v.screened is not None:
        true, count = [v.screened.true, *true], [v.screened.counts, *count]
    before = visits - len(v.platelets_observed)

    def by_row(values: np.ndarray, at_baseline: Any) -> np.ndarray:
        first = np.full((before, n), at_baseline, values.dtype)
        return np.concatenate([first, values]).T.reshape(-1)

    response = np.asarray(endpoints.response(v.platelets_observed, v.rescued))
    when, own = np.tile(hours, n), {}
    if v.visit_d is not None:  # visits have days of their own, and the arm has stages
        first = np.broadcast_to(hours[:before, None], (before, n))
        when = np.concatenate([first, 24.0 * np.asarray(v.visit_d)]).T.reshape(-1)
        own = {
            "missed": by_row(v.missed, False),
            "stage": by_row(v.stage, 0),
            "taken_mg": by_row(v.taken_mg, np.nan),
            "relapsed": by_row(v.relapsed, False),
        }
    if drugs is not None:
        second = np.zeros((visits, n), np.int8) if v.second is None else by_row(v.second, False).astype(np.int8)
        own["drug"] = pd.Categorical.from_codes(second.reshape(-1), [drug for drug in drugs if drug])
    return pd.DataFrame(
        {
            "arm": pd.Categorical.from_codes(np.zeros(n * visits, np.int8), [arm]),
            "draw": np.repeat(draw, visits).astype(np.int32),
            "patient": np.repeat(patient, visits).astype(np.int32),
            "visit": np.tile(np.arange(visits, dtype=np.int32) - np.int32(before - 1), n),
            "time_h": when,
            "dose_mg": by_row(v.dose_mg, np.nan),
            "platelets_true": np.concatenate(true).T.reshape(-1),
            "platelets_observed": np.concatenate(count).T.reshape(-1),
            "interrupted": by_row(v.interrupted, False),
            "stopped": by_row(v.stopped, False),
            "rescued": by_row(v.rescued, False),
            "response": by_row(response, False),
            "cmax": by_row(v.cmax_ng_per_ml, np.nan),
            "auc": by_row(v.auc_ng_h_per_ml, np.nan),
            "trough": by_row(v.trough_ng_per_ml, 0.0),
            **own,
        }
    )
