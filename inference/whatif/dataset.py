"""One simulated trial as a data set that NONMEM, Monolix, nlmixr2 or Stan read, to be analysed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
import pandas as pd

from inference.whatif.effects import traits
from pkpd.errors import InputError
from pkpd.planned import PlannedArm, planned_arms
from pkpd.trial import Visits

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

# Of the covariates 0 or 1, as ``pkpd.patients`` names them.
HAS = {
    "FEMALE": "female", "SPLENECT": "splenectomy", "STEROID": "corticosteroid", "EASTASIA": "east_asian",
    "HEPATIC": "hepatic_impairment",
}  # fmt: skip
COLUMNS = (
    "ID", "TIME", "AMT", "II", "ADDL", "EVID", "DV", "MDV", "ARM", "VISIT", "DOSE", "RESCUED", "BLPLT", "WT", *HAS,
)  # fmt: skip
DRUGS = {"hetrombopag": 1, "eltrombopag": 2}
MISSING = "."  # as NONMEM has it
HOURS_A_DAY = 24


def check_number(design: Scenario, number: int) -> None:
    """InputError where a run of the design has no simulated patients, or no trial of that number."""
    design.need_patients()
    if not 0 <= number < design.trial.n_trials:
        raise InputError(f"--dataset {number}: no such trial; legal: from 0 to {design.trial.n_trials - 1}")


def dataset(design: Scenario, draws: Mapping[str, np.ndarray], number: int, seed: int, engine: str) -> pd.DataFrame:
    """Trial ``number`` (from 0) of a run as records in the order of patient and time.

    ID: number of the patient from 1. TIME: hours from the first dose; a count at the time of a dose comes before it.
    AMT: mg, of doses (EVID 1) with II hours between ADDL more of them. DV: observed count, 1e9/L (EVID 0); MDV 1 where
    a visit has none. ARM: number of the arm from 1. VISIT: number of the visit, 0 at baseline. DOSE: mg prescribed
    before the visit. RESCUED: 1 from the visit of the rescue on. BLPLT: baseline count. WT: kg. FEMALE to
    HEPATIC: 1 for who has it; AGE: years, where the design asks for ages. Where an arm has two drugs, DRUG: 1 for
    hetrombopag, 2 for eltrombopag, of AMT or DOSE. nan is written as ".". After a screening its
    counts stand in place of the baseline: VISIT -1 is the last of them, TIME is at most 0, and BLPLT is what the
    scenario's criterion reads of them. Of a crossover a patient's periods follow each other in the order of ARM, each
    with TIME from 0, all but the first after a reset (EVID 3).
    InputError where the run has no such trial.
    """
    from inference.trials import courses, numbers_of

    check_number(design, number)
    parts = []
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    for index, a in enumerate(arms, start=1):
        first, own = 0, numbers_of(a, draws, seed)
        for _, trials, v in courses(design, a, draws, 1, seed, engine, number):
            ids = own(trials, first + np.arange(len(trials))) + 1
            parts.append(_records(design, a, v, ids).assign(ARM=index))
            first += len(trials)
    whole = pd.concat(parts, ignore_index=True).sort_values(["ID", "TIME", "EVID"], kind="stable", ignore_index=True)
    columns = [*COLUMNS, *(["AGE"] if "AGE" in whole else []), *(["DRUG"] if any(a.second_drug for a in arms) else [])]
    return (_by_period(whole) if design.trial.design == "crossover" else whole)[columns]


def _by_period(whole: pd.DataFrame) -> pd.DataFrame:
    """The records of a crossover, a patient's periods one after the other: each begins from rest."""
    baseline = whole[(whole["EVID"] == 0) & (whole["VISIT"] == 0) & (whole["ARM"] > 1)]
    resets = baseline.assign(EVID=3, DV=np.nan, MDV=1, VISIT=np.nan, DOSE=np.nan, RESCUED=np.nan)
    return pd.concat([resets, whole]).sort_values(["ID", "ARM"], kind="stable", ignore_index=True)


def _records(design: Scenario, a: PlannedArm, v: Visits, ids: np.ndarray) -> pd.DataFrame:
    """Counts and doses of the patients of a tile, whose ``ids`` increase."""
    known = traits(v)
    same = {"BLPLT": np.asarray(v.baseline, np.float64), "WT": np.asarray(v.weight_kg, np.float64)}
    same |= {column: known[name].astype(int) for column, name in HAS.items()}
    same |= {"AGE": known["age_y"]} if "age_y" in known else {}
    whole = pd.concat([_counts(design, a, v, ids), _doses(design, a, v, ids)], ignore_index=True)
    patient = np.searchsorted(ids, whole["ID"].to_numpy())
    return whole.assign(**{name: values[patient] for name, values in same.items()})


def _drug(a: PlannedArm, second: np.ndarray) -> np.ndarray:
    """Number of the drug, 0 for placebo, from whether it is the arm's second."""
    first, other = (DRUGS.get(name, 0) for name in (a.drug, a.second_drug))
    return np.where(second, other, first)


def _counts(design: Scenario, a: PlannedArm, v: Visits, ids: np.ndarray) -> pd.DataFrame:
    """The baseline, or the counts of a screening, and every visit until the patient leaves."""
    days = np.broadcast_to(np.asarray(design.trial.visits_d)[:, None], v.dose_mg.shape)
    before_d, before, numbers = [0], np.asarray(v.baseline)[None], [0]
    if design.screening is not None and v.screened is not None:
        before_d, before = list(design.screening.visits_d), np.asarray(v.screened.counts)
        numbers = list(range(-len(before_d), 0))
    first = np.broadcast_to(np.array(before_d, np.float64)[:, None], before.shape)
    day = np.concatenate([first, days if v.visit_d is None else np.asarray(v.visit_d)])
    count = np.concatenate([before, np.asarray(v.platelets_observed)]).astype(np.float64)
    zero = np.zeros(before.shape)
    kept = np.concatenate([np.ones(before.shape, bool), ~np.asarray(v.dropped)])
    second = np.zeros(count.shape, bool)
    if v.second is not None:
        second[-len(v.second) :] = v.second
    visit = np.broadcast_to(np.array([*numbers, *range(1, 1 + len(days))])[:, None], count.shape)
    columns = {
        "ID": np.broadcast_to(ids, count.shape), "TIME": day * HOURS_A_DAY, "DV": count, "MDV": np.isnan(count) * 1,
        "VISIT": visit, "DOSE": np.concatenate([zero, v.dose_mg]), "RESCUED": np.concatenate([zero, v.rescued]),
        "DRUG": _drug(a, second),
    }  # fmt: skip
    rows = pd.DataFrame({name: values[kept] for name, values in columns.items()})
    return rows.assign(EVID=0, AMT=np.nan, II=np.nan, ADDL=np.nan)


def _doses(design: Scenario, a: PlannedArm, v: Visits, ids: np.ndarray) -> pd.DataFrame:
    """A record for each stretch of equal daily doses, as taken (a meal changes what is absorbed of them)."""
    if a.arm.protocol is None:
        ends, mg = np.asarray(design.trial.visits_d), np.asarray(v.dose_mg)
    else:
        assert v.segment_mg is not None
        ends, mg = np.asarray(a.arm.protocol.ends), np.asarray(v.segment_mg)
    starts = np.concatenate([[0], ends[:-1]])
    second = np.zeros(mg.shape, bool) if v.segment_second is None else np.asarray(v.segment_second)
    drug = _drug(a, second)
    new = np.concatenate([np.ones((1, len(ids)), bool), (mg[1:] != mg[:-1]) | (drug[1:] != drug[:-1])])
    rows = []
    for i, person in enumerate(ids):
        begins = np.flatnonzero(new[:, i])
        last = np.concatenate([ends[begins[1:] - 1], ends[-1:]])
        days = last - starts[begins]
        for k, segment in enumerate(begins):
            if mg[segment, i] > 0:
                start_h, amount = float(starts[segment] * HOURS_A_DAY), float(mg[segment, i])
                rows.append((person, start_h, amount, int(days[k]) - 1, drug[segment, i]))
    columns = ["ID", "TIME", "AMT", "ADDL", "DRUG"]
    found = pd.DataFrame(rows, columns=columns).astype(np.float64).astype({"ID": ids.dtype, "DRUG": int})
    fixed = {"II": HOURS_A_DAY, "EVID": 1, "DV": np.nan, "MDV": 1, "VISIT": np.nan, "DOSE": np.nan, "RESCUED": np.nan}
    return found.assign(**fixed)
