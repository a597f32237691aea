"""Simulation for the arm-level fit: moments of the events at many population vectors, and the error of a surface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from inference.checkpoint import NOTHING_KEPT, Checkpoint
from inference.further import FurtherMoments
from inference.progress import Progress
from inference.studies import outputs
from pkpd import trial
from pkpd.devices import tile_width
from pkpd.errors import InputError
from pkpd.parameters import with_values

if TYPE_CHECKING:
    from inference.population import Plan
    from inference.studies import Study
    from pkpd.planned import PlannedArm

# Which random streams a part of the fit uses: nothing shares a key.
ROUNDS, CHECK, POSTERIOR, PRIOR, CORRECTION, DIRECT, BANK = range(7)
PARTS = 8  # streams of a replicate
BLOCK = 2**20  # patients of an arm in one piece of the checkpoint, some seconds of work
CHECK_GROUPS = 2
CHECK_PATIENTS, CHECK_PATIENTS_QUICK = 4096, 256  # 1,024 of 50 points left a standard error as large as the limit


def stream(part: int, replicate: int = 0) -> int:
    """Number of the stream of a part of a replicate."""
    return part + PARTS * replicate


def moments(
    p: Plan,
    values: Mapping[str, np.ndarray],
    patients: int,
    part: int,
    draw: int,
    progress: Progress,
    stage: str,
    keep: Checkpoint = NOTHING_KEPT,
) -> tuple[np.ndarray, np.ndarray]:
    """Means [K, A, 5] and second moments [K, A, 5, 5] of the events at K population vectors, all arms on the same
    patients (common random numbers). ``part`` and ``draw`` name the random streams. Nothing is as long as the cohort.

    ``keep`` gets a piece for every BLOCK patients of an arm. InputError where the solver loses a patient.
    """
    K = len(next(iter(values.values())))
    width = tile_width(p.config.engine)
    group, block = math.gcd(patients, width), max(BLOCK // width, 1) * width
    total, done = len(p.arms) * -(-K * patients // width), 0
    arms = []
    for i, a in enumerate(p.arms):
        people = trial.vectors_roster(with_values(a.population, p.values(a, values)), K, patients, draw, part)
        blocks = []
        for first in range(0, people.n, block):
            some = trial.part_of(people, first, block)
            tell = partial(_tell, progress, stage, total, done)
            blocks.append(keep.piece(f"arm-{i}-block-{first // block}", partial(_simulate, p, a, some, group, tell)))
            done += -(-some.n // width)
        mean, second, failed = (np.concatenate([b[name] for b in blocks]) for name in ("mean", "second", "failed"))
        if failed.any():
            raise InputError(
                f"{int(failed.sum())} of {K * patients} patients of arm '{a.name}' left the range of the solver"
            )
        arms.append([x.reshape(K, -1, *x.shape[1:]).mean(1) for x in (mean, second)])
    progress(stage, total, total)
    means, seconds = zip(*arms, strict=True)
    return np.stack(means, 1), np.stack(seconds, 1)


def _simulate(
    p: Plan, a: PlannedArm, people: trial.Roster, group: int, tell: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Moments of consecutive groups of an arm's patients, and how many of each the solver lost."""
    tiles = []
    settings = {"engine": p.config.engine}
    for tile in trial.event_moments(people, a.arm, p.days, p.config.seed, group, p.landmark, p.form, **settings):
        tiles.append(tile)
        tell(len(tiles))
    return dict(zip(("mean", "second", "failed"), map(np.concatenate, zip(*tiles, strict=True)), strict=True))


def further_moments(
    p: Plan,
    values: Mapping[str, np.ndarray],
    patients: int,
    part: int,
    draw: int,
    progress: Progress,
    stage: str,
    keep: Checkpoint = NOTHING_KEPT,
) -> FurtherMoments:
    """The same patients through the arms of all further studies; arguments and errors as of ``moments``."""
    K = len(next(iter(values.values())))
    width = tile_width(p.config.engine)
    group, block = math.gcd(patients, width), max(BLOCK // width, 1) * width
    total, done = len(p.studies) * -(-K * patients // width), 0
    found = []
    for i, s in enumerate(p.studies):
        people = {
            name: trial.vectors_roster(with_values(a.population, p.values(a, values, s.name)), K, patients, draw, part)
            for name, a in s.arms.items()
        }
        blocks = []
        for first in range(0, K * patients, block):
            some = {name: trial.part_of(roster, first, block) for name, roster in people.items()}
            tell = partial(_tell, progress, stage, total, done)
            make = partial(_simulate_study, p, s, some, group, tell)
            blocks.append(keep.piece(f"study-{i}-block-{first // block}", make))
            done += -(-min(block, K * patients - first) // width)
        joined = (np.concatenate([b[name] for b in blocks]) for name in FurtherMoments._fields)
        found.append(FurtherMoments(*(x.reshape(K, -1, *x.shape[1:]).mean(1) for x in joined)))
    E = [len(s.outputs) for s in p.studies]
    second = np.zeros((K, sum(E), sum(E)))
    for start, size, of in zip(np.cumsum([0, *E])[:-1], E, found, strict=True):
        second[:, start : start + size, start : start + size] = of.second
    none = np.zeros((K, 0))
    successes, trials = (
        np.concatenate([none, *(getattr(of, name) for of in found)], 1) for name in ("successes", "trials")
    )
    return FurtherMoments(successes, trials, second)


def _simulate_study(
    p: Plan, s: Study, people: Mapping[str, trial.Roster], group: int, tell: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """``FurtherMoments`` of consecutive groups of patients, who go through all arms of a study."""
    key = {"engine": p.config.engine}
    arms = [trial.visits_of(people[n], a.arm, s.days, p.config.seed, s.form, **key) for n, a in s.arms.items()]
    parts = []
    for seen in zip(*arms, strict=True):
        lost = sum(int(np.asarray(v.failed).sum()) for v in seen)
        if lost:
            raise InputError(f"{lost} patients of study '{s.name}' left the range of the solver")
        each = outputs(s, dict(zip(s.arms, seen, strict=True)))
        parts.append([np.moveaxis(x.reshape(*x.shape[:-1], -1, group).mean(-1), -1, 0) for x in each])
        tell(len(parts))
    return dict(zip(FurtherMoments._fields, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def _tell(progress: Progress, stage: str, total: int, before: int, tiles: int) -> None:
    progress(stage, before + tiles, total)


def grouped(
    p: Plan,
    theta: np.ndarray,
    patients: int,
    groups: int,
    part: int,
    draw: int,
    progress: Progress,
    stage: str,
    keep: Checkpoint = NOTHING_KEPT,
) -> tuple[np.ndarray, np.ndarray, FurtherMoments]:
    """The same at coordinates theta [K, d] by independent groups of ``patients``: [groups, K, ..] of all moments."""
    values = {n: np.repeat(np.asarray(v), groups) for n, v in p.prior.constrained(theta).items()}
    mean, second = moments(p, values, patients, part, draw, progress, stage, keep)
    more = further_moments(p, values, patients, part, draw, progress, f"{stage}, further studies", keep)

    def apart(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x.reshape(len(theta), groups, *x.shape[1:]), 1, 0)

    return apart(mean), apart(second), FurtherMoments(*map(apart, more))


def fresh(
    p: Plan, theta: np.ndarray, replicate: int, draw: int, progress: Progress, keep: Checkpoint = NOTHING_KEPT
) -> tuple[np.ndarray, np.ndarray, FurtherMoments]:
    """Fresh simulations that surfaces are checked by, at points theta [F, d]: as of ``grouped``."""
    patients = CHECK_PATIENTS_QUICK if p.config.quick else CHECK_PATIENTS
    part = stream(CHECK, replicate)
    return grouped(p, theta, patients, CHECK_GROUPS, part, draw, progress, "surface check", keep)
