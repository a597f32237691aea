"""The task that every system solves, in NumPy alone: patients as numbers in a file, and the stretches of their course.

Patients of the trial take 5 mg a day for 56 days; nothing is titrated. Counts and free concentrations are read at the
8 weekly visits. Rates change at the arrival of a dose, at the switch of absorption and, with the drift of immune
clearance, once a week: 120 stretches of constant rates, each solved from its start, so no event is stepped over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WEEKS, DAYS_A_WEEK, HOURS_A_DAY = 8, 7, 24.0
DAYS = WEEKS * DAYS_A_WEEK
DOSE_MG = 5.0


class Task(NamedTuple):
    """parameters: by name of ``pkpd.Parameters``, a number or [patients]; omega [weeks, patients].

    counts (1e9/L) and concentration_nM: the truth at the visits of the first patients, [weeks, known].
    """

    parameters: dict[str, np.ndarray]
    omega: np.ndarray
    counts: np.ndarray
    concentration_nM: np.ndarray


class Stretches(NamedTuple):
    """Of one patient after another, [stretches, patients], and what is the same for all, [stretches]."""

    hours: np.ndarray
    ka_per_h: np.ndarray
    arriving_nmol: np.ndarray  # enters the depot at the start
    week: np.ndarray
    visit: np.ndarray  # whether the end is a visit


def save(path: Path, task: Task) -> None:
    """The task as npz; parameters under their own names."""
    arrays: dict[str, Any] = {**task.parameters, **{name: getattr(task, name) for name in Task._fields[1:]}}
    np.savez(path, **arrays)


def load(path: Path) -> Task:
    with np.load(path) as held:
        arrays = dict(held)
    others = {name: arrays.pop(name) for name in Task._fields[1:]}
    return Task(arrays, **others)


def part(task: Task, rows: np.ndarray) -> Task:
    """The patients ``rows``, with the truth of those among them that have one."""
    p = {name: x[rows] if x.ndim else x for name, x in task.parameters.items()}
    with_truth = rows[rows < task.counts.shape[1]]
    return Task(p, task.omega[:, rows], task.counts[:, with_truth], task.concentration_nM[:, with_truth])


def first(task: Task, n: int) -> Task:
    """The first n patients."""
    return part(task, np.arange(n))


def by_patient(task: Task) -> dict[str, np.ndarray]:
    """Parameters by name, all [patients]."""
    return {name: np.broadcast_to(x, task.omega.shape[1:]) for name, x in task.parameters.items()}


def stretches(task: Task) -> Stretches:
    """The course of every patient from the first dose, 0 h, to the last visit, 1,344 h."""
    p = task.parameters
    shape = task.omega.shape[1:]
    lag, switch, ka1, ka2, nmol = (
        np.broadcast_to(x, shape)
        for x in (
            p["lag_time_h"],
            p["absorption_switch_h"],
            p["absorption_rate_first_per_h"],
            p["absorption_rate_second_per_h"],
            p["bioavailability"] * DOSE_MG * 1e6 / p["molar_mass_g_per_mol"],
        )
    )
    none, weeks, visit = np.zeros(shape), [], []
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # start, ka, arriving
    for day in range(DAYS):
        taken = np.full(shape, HOURS_A_DAY * day)
        today = [(taken + lag, ka1, nmol), (taken + lag + switch, ka2, none)]
        if day % DAYS_A_WEEK == 0:
            today.insert(0, (taken, ka2, none))
        rows += today
        weeks += [day // DAYS_A_WEEK] * len(today)
        visit += [False] * (len(today) - 1) + [(day + 1) % DAYS_A_WEEK == 0]
    start, ka, arriving = (np.stack(column) for column in zip(*rows, strict=True))
    end = np.concatenate([start[1:], np.full((1, *shape), HOURS_A_DAY * DAYS)])
    return Stretches(end - start, ka, arriving, np.array(weeks), np.array(visit))


def errors(task: Task, *found: np.ndarray) -> list[np.ndarray]:
    """Relative errors of counts and concentrations [weeks, patients] of the first patients; inf where there is none."""
    truth = (task.counts, task.concentration_nM)
    n = min(found[0].shape[1], task.counts.shape[1])
    relative = (np.abs(np.asarray(x, np.float64)[:, :n] / y[:, :n] - 1) for x, y in zip(found, truth, strict=True))
    return [np.where(np.isfinite(e), e, np.inf) for e in relative]
