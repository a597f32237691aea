"""The patients of all trials of a run, a row each: who they are, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from inference.progress import Progress, silent
from inference.whatif import effects, further
from inference.whatif.runs import Chunk, chunks, trials_a_chunk
from pkpd import cohort, endpoints, outcomes, random, trial
from pkpd.devices import tile_width
from pkpd.parameters import CovariateRatios, Population
from pkpd.planned import PlannedArm, planned_arms
from pkpd.trial import drawn

if TYPE_CHECKING:
    from pkpd.scenario import Scenario
    from pkpd.screening import Screen

FILE = "patients.parquet"
INDIVIDUAL = (
    "clearance_l_per_h", "receptor_ec50_nM", "max_stimulation", "mean_transit_time_h",
    "immune_half_saturation_1e9_per_l",
)  # fmt: skip
FURTHER = ("longest_response_d", "days_above_250", "days_above_400", "dose_at_end_mg", "in_trial_at_end")


def outcome_name(design: Scenario) -> str:
    """The endpoint in the column ``outcome``: the analysis' own, or the landmark response where that is none a patient
    has one value of.
    """
    if design.analysis is None or outcomes.kind(design.analysis.endpoint) == "repeated":
        return design.endpoint_names[0]
    return design.analysis.endpoint


def parts(
    design: Scenario,
    draws: Mapping[str, np.ndarray],
    n_trials: int,
    seed: int,
    engine: str,
    progress: Progress = silent,
) -> Iterator[pd.DataFrame]:
    """The patients of a run tile by tile, simulated again from the numbers of the run: by parts of the trials, in those
    by arm, trial and patient. Columns, in this order:

    arm. trial: number from 0. draw: of the posterior, 0 without one. patient: number in the trial, over all arms.
    baseline_1e9_per_l, weight_kg; after a screening also baseline_true_1e9_per_l, and age_y where the design asks for
    ages. Covariates (0 or 1). INDIVIDUAL: the patient's own parameters. drug_acts: whether the drug does anything in
    the patient. landmark_response. outcome: value of ``outcome_name``, nan where it is of nobody; for a time,
    outcome_event tells an event from censoring. rescued: by the last visit. FURTHER: as in ``whatif.further``, nan
    where it is of nobody.
    """
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    total, done = n_trials * sum(a.n for a in arms), 0
    for chunk in chunks(n_trials, trials_a_chunk(design, tile_width(engine))):
        for a in arms:
            for table in _of_arm(design, a, draws, chunk, seed, engine):
                yield table
                done += len(table)
                progress("patients", done, total)


def _of_arm(
    design: Scenario, a: PlannedArm, draws: Mapping[str, np.ndarray], chunk: Chunk, seed: int, engine: str
) -> Iterator[pd.DataFrame]:
    from inference.trials import courses, roster

    people, key = roster(a, draws, chunk.n, chunk.first, seed), random.root(seed)
    rows = np.arange(tile_width(engine))
    for draw, number, v in courses(design, a, draws, chunk.n, seed, engine, chunk.first):
        population, *numbers = people.who(np.minimum(rows, people.n - 1))  # of one length, so that it compiles once
        entrance = a.arm.baseline_below, a.arm.table, a.arm.screen, a.arm.limits
        drawn = _drawn(population, key, *numbers, *entrance)
        here = slice(len(number))
        same = {"arm": pd.Categorical.from_codes(np.zeros(len(number), np.int8), [a.name])}
        who = {"trial": number.astype(np.int32), "draw": draw.astype(np.int32), "patient": numbers[2][here]}
        yield pd.DataFrame(same | who | _person(drawn, here) | _course(design, a, v))
        rows = rows + len(number)


@jax.jit
def _drawn(
    population: Population,
    key: Array,
    draw: Array,
    trial: Array,
    patient: Array,
    below: Array,
    table: cohort.Table | None,
    screen: Screen | None,
    limits: cohort.Limits | None,
) -> cohort.Patients:
    """The patients whose courses ``trial.over_tiles`` simulates, apart from these, whose program stays as it is."""
    return drawn(population, random.patient_keys(key, draw, trial, patient), below, table, screen, limits)


def _person(drawn: cohort.Patients, here: slice) -> dict[str, np.ndarray]:
    p = drawn.parameters
    found = {"baseline_1e9_per_l": drawn.baseline_1e9_per_l, "weight_kg": drawn.weight_kg}
    if drawn.screened is not None:
        found["baseline_true_1e9_per_l"] = drawn.screened.at_rest
    found |= {} if drawn.age_y is None else {"age_y": drawn.age_y}
    numbers = found | {name: getattr(p, name) for name in INDIVIDUAL}
    columns = {name: np.asarray(values, np.float32)[here] for name, values in numbers.items()}
    has = {
        name.removesuffix("_clearance_ratio"): np.asarray(values)[here].astype(np.int8)
        for name, values in zip(CovariateRatios._fields, drawn.covariates, strict=True)
    }
    return columns | has | {"drug_acts": np.asarray(p.dimer_efficacy)[here] > 0}


def _course(design: Scenario, a: PlannedArm, v: trial.Visits) -> dict[str, np.ndarray]:
    seen, rescued = endpoints.until(design.landmark, v.platelets_observed, v.rescued)
    landmark = np.asarray(endpoints.events(seen, v.baseline, rescued))[0]
    columns = {"landmark_response": landmark}
    if design.analysis is None or outcome_name(design) != design.analysis.endpoint:
        columns["outcome"] = landmark.astype(np.float32)
    else:
        own = effects.observed(design, a, v)
        columns["outcome"] = np.where(own.present, own.value, np.nan).astype(np.float32)
        if own.event is not None:
            columns["outcome_event"] = np.asarray(own.event, bool) & own.present
    columns["rescued"] = np.asarray(v.rescued)[-1]
    values, present = further.values(design, a, v)
    at = partial(further.names(design).index)
    more = {name: np.where(present[at(name)], values[at(name)], np.nan).astype(np.float32) for name in FURTHER}
    return columns | more | {"in_trial_at_end": more["in_trial_at_end"] > 0}
