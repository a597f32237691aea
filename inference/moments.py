"""Simulation for the arm-level fit: moments of the events at many population vectors, and the error of a surface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from inference.checkpoint import NOTHING_KEPT, Checkpoint
from inference.progress import Progress
from pkpd import endpoints, trial
from pkpd.devices import tile_width
from pkpd.errors import InputError
from pkpd.parameters import with_values

if TYPE_CHECKING:
    from inference.population import Plan
    from pkpd.planned import PlannedArm

# Which random streams a part of the fit uses: nothing shares a key.
ROUNDS, CHECK, POSTERIOR, PRIOR, CORRECTION = range(5)
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
        people = trial.vectors_roster(with_values(a.population, values), K, patients, draw, part)
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
) -> tuple[np.ndarray, np.ndarray]:
    """The same at coordinates theta [K, d] by independent groups of ``patients``: [groups, K, A, 5] and [.., 5, 5]."""
    values = {n: np.repeat(np.asarray(v), groups) for n, v in p.prior.constrained(theta).items()}
    mean, second = moments(p, values, patients, part, draw, progress, stage, keep)
    arms, events = len(p.arms), len(endpoints.NAMES)
    return (
        np.moveaxis(mean.reshape(len(theta), groups, arms, events), 1, 0),
        np.moveaxis(second.reshape(len(theta), groups, arms, events, events), 1, 0),
    )


def fresh(
    p: Plan, theta: np.ndarray, replicate: int, draw: int, progress: Progress, keep: Checkpoint = NOTHING_KEPT
) -> tuple[np.ndarray, np.ndarray]:
    """Fresh simulations that surfaces are checked by, at points theta [F, d]: as of ``grouped``."""
    patients = CHECK_PATIENTS_QUICK if p.config.quick else CHECK_PATIENTS
    part = stream(CHECK, replicate)
    return grouped(p, theta, patients, CHECK_GROUPS, part, draw, progress, "surface check", keep)
