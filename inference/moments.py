"""Simulation for the arm-level fit: moments of the events at many population vectors, and the error of a surface."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inference.progress import Progress
from pkpd import endpoints, trial
from pkpd.devices import tile_width
from pkpd.errors import InputError
from pkpd.parameters import with_values

if TYPE_CHECKING:
    from inference.population import Plan

# Which random streams a part of the fit uses: nothing shares a key.
ROUNDS, CHECK, POSTERIOR, PRIOR, CORRECTION, DIRECT, BANK = range(7)
PARTS = 8  # streams of a replicate
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
    checkpoint: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Means [K, A, 5] and second moments [K, A, 5, 5] of the events at K population vectors, all arms on the same
    patients (common random numbers). ``part`` and ``draw`` name the random streams. Nothing is as long as the cohort.
    """
    K = len(next(iter(values.values())))
    width = tile_width(p.config.engine)
    group = math.gcd(patients, width)
    total = len(p.arms) * -(-K * patients // width)
    done, means, seconds = 0, [], []
    for i, a in enumerate(p.arms):
        file = checkpoint / f"part-{part}-{draw}-arm-{i}.npz" if checkpoint is not None else None
        if file is not None and file.exists():
            with np.load(file) as kept:
                means.append(kept["mean"])
                seconds.append(kept["second"])
            done += total // len(p.arms)
            continue
        people = trial.vectors_roster(with_values(a.population, values), K, patients, draw, part)
        parts = []
        for tile in trial.event_moments(
            people, a.arm, p.days, p.config.seed, group, p.landmark, p.form, engine=p.config.engine
        ):
            parts.append(tile)
            done += 1
            progress(stage, done, total)
        mean, second, failed = (np.concatenate(x) for x in zip(*parts, strict=True))
        if failed.any():
            raise InputError(
                f"{int(failed.sum())} of {K * patients} patients of arm '{a.name}' left the range of the solver"
            )
        mean, second = (x.reshape(K, -1, *x.shape[1:]).mean(1) for x in (mean, second))
        if file is not None:
            np.savez(file.with_suffix(".part.npz"), mean=mean, second=second)
            file.with_suffix(".part.npz").replace(file)
        means.append(mean)
        seconds.append(second)
    return np.stack(means, 1), np.stack(seconds, 1)


def grouped(
    p: Plan, theta: np.ndarray, patients: int, groups: int, part: int, draw: int, progress: Progress, stage: str
) -> tuple[np.ndarray, np.ndarray]:
    """The same at coordinates theta [K, d] by independent groups of ``patients``: [groups, K, A, 5] and [.., 5, 5]."""
    values = {n: np.repeat(np.asarray(v), groups) for n, v in p.prior.constrained(theta).items()}
    mean, second = moments(p, values, patients, part, draw, progress, stage)
    arms, events = len(p.arms), len(endpoints.NAMES)
    return (
        np.moveaxis(mean.reshape(len(theta), groups, arms, events), 1, 0),
        np.moveaxis(second.reshape(len(theta), groups, arms, events, events), 1, 0),
    )


def fresh(p: Plan, theta: np.ndarray, replicate: int, draw: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Fresh simulations that surfaces are checked by, at points theta [F, d]: as of ``grouped``."""
    patients = CHECK_PATIENTS_QUICK if p.config.quick else CHECK_PATIENTS
    return grouped(p, theta, patients, CHECK_GROUPS, stream(CHECK, replicate), draw, progress, "surface check")
