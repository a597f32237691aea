"""Rounds of simulation, surface and NUTS, until the surface is near enough (design 4.1); one replicate of a fit.

A round draws its population vectors from the prior or, widened, from the posterior of the round before. Those that the
config lists are always run; then rounds grow by the measured error of the surface until it meets the config's limit.
Nothing here looks at the clock.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from inference.arm_model import fit_arms
from inference.config import MAX_ROUNDS, Config, Round
from inference.manifest import code_hash
from inference.moments import ROUNDS, fresh, moments, stream
from inference.progress import Progress
from inference.surface import Surface, SurfaceError, fit_surface, surface_error, widened
from pkpd import random
from pkpd.errors import InputError

if TYPE_CHECKING:
    from inference.population import Plan

CHECK_POINTS = 50
SHAPE = 100  # added to the number of a round: draws of the points by which its shape is chosen
AIM = 0.75  # of the limit of the surface's error: what the next round is to reach
GROWTH = (2.0, 8.0)  # least and most of a round's patients, in those of the round before


class Fit(NamedTuple):
    """The last round of a replicate: draws by name [chains, draws], their statistics, logits [chains, draws, A, 6]."""

    samples: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    logits: np.ndarray
    coordinates: np.ndarray  # [chains draws, d]
    surface: Surface
    error: SurfaceError
    rounds: list[dict[str, Any]]


def next_round(config: Config, rows: list[dict[str, Any]]) -> Round | None:
    """Size of the round after those in ``rows``; None where the surface is near enough or may not grow."""
    if len(rows) < len(config.rounds):
        return config.rounds[len(rows)]
    last, refine = rows[-1], config.refine
    error, patients = last["surface_error_rms"], last["vectors"] * last["patients"]
    if error <= refine.surface_error or len(rows) >= MAX_ROUNDS or patients >= refine.patients:
        return None
    growth = np.clip((error / (AIM * refine.surface_error)) ** 2, *GROWTH)
    vectors = math.ceil(min(growth * patients, refine.patients) / last["patients"])
    return Round(vectors=vectors, patients=last["patients"])


def replicate(
    p: Plan, number: int, key: jax.Array, checkpoint: Path, progress: Progress, seconds: dict[str, float]
) -> Fit:
    """All rounds of one replicate; what it has simulated is kept in ``checkpoint``, and goes on from there."""
    config, where = p.config, f"run {number + 1}, " if p.config.replicates > 1 else ""
    checkpoint.mkdir(parents=True, exist_ok=True)
    theta, rows, before, points = resume(checkpoint)
    coordinates = None
    while (size := next_round(config, rows)) is not None:
        r = len(rows)
        stage = f"{where}round {r + 1}: "
        row: dict[str, Any] = {"replicate": number + 1, "round": r + 1, **size.model_dump()}
        own = jax.random.fold_in(key, 100 + r)
        if theta is None and coordinates is None:
            theta = np.asarray(p.prior.unconstrained(p.prior.draws(own, size.vectors)), np.float64)
        elif theta is None:
            theta = widened(own, coordinates, size.vectors, config.widening)
        remember(checkpoint, theta, rows, before, points)
        values = {n: np.asarray(v) for n, v in p.prior.constrained(theta).items()}
        with timed(row, "seconds_simulation"):
            mean, second = moments(
                p, values, size.patients, stream(ROUNDS, number), r, progress, stage + "simulation", checkpoint
            )
        with timed(row, "seconds_regression"):
            surface = fit_surface(theta, mean, second, size.patients, near=p.data)
        if r + 1 >= len(config.rounds) and config.refine.cubic and points is not None:
            with timed(row, "seconds_regression"):
                cubic = fit_surface(theta, mean, second, size.patients, near=p.data, cubic=config.refine.cubic)
            with timed(row, "seconds_check"):
                seen = fresh(p, points, number, SHAPE + r, progress)
            errors = [surface_error(s, points, *seen, p.data.n).rms for s in (surface, cubic)]
            row |= {"error_quadratic": errors[0], "error_cubic": errors[1]}
            surface = cubic if errors[1] < errors[0] else surface
        row["terms"] = surface.coefficients.shape[1]
        with timed(row, "seconds_nuts"):
            result = fit_arms(
                p.prior,
                surface,
                [a.name for a in p.arms],
                p.fitted,
                jax.random.fold_in(own, 1),
                **sampler_settings(config),
                progress=partial(progress, stage + "NUTS"),
            )
        samples = {n: result.samples[n] for n in p.prior.names}
        coordinates = np.asarray(p.prior.unconstrained(samples), np.float64).reshape(-1, p.prior.dimension)
        if before is not None:
            row["shift_of_means_in_sd"] = float(np.max(np.abs(coordinates.mean(0) - before) / coordinates.std(0)))
        some = random.generator(jax.random.fold_in(own, 2)).choice(len(coordinates), 2 * CHECK_POINTS, replace=False)
        here, points = np.split(coordinates[some], 2)  # for this surface, and for the shape of the next
        if r + 1 >= len(config.rounds):
            with timed(row, "seconds_check"):
                error = surface_error(surface, here, *fresh(p, here, number, r, progress), p.data.n)
            row |= {"surface_error_rms": error.rms, "surface_chi_square": error.chi_square}
        before, theta = coordinates.mean(0), None
        rows.append(row)
        for name in ("simulation", "regression", "nuts", "check"):
            shown = {"nuts": "NUTS", "check": "surface check"}.get(name, name)
            seconds[shown] = seconds.get(shown, 0.0) + row.get(f"seconds_{name}", 0.0)
    return Fit(samples, result.sample_stats, result.samples["logits"], coordinates, surface, error, rows)


def sampler_settings(config: Config) -> dict[str, int]:
    """NUTS as the config has it."""
    return config.sampler.model_dump()


def remember(
    checkpoint: Path,
    theta: np.ndarray,
    rows: list[dict[str, Any]],
    before: np.ndarray | None,
    points: np.ndarray | None,
) -> None:
    """Keep the vectors of a round, the rows of those before it and what the round takes from the last posterior: its
    means and points. With the version of the code that made them.
    """
    last = {} if before is None or points is None else {"before": before, "points": points}
    temporary = checkpoint / "round.part.npz"
    np.savez(temporary, theta=theta, rows=json.dumps(rows), code=code_hash(), **last)
    temporary.replace(checkpoint / "round.npz")


def resume(checkpoint: Path) -> tuple[np.ndarray | None, list[dict[str, Any]], np.ndarray | None, np.ndarray | None]:
    """Vectors, rows, means and points that ``remember`` kept of the interrupted round; nothing where it kept none."""
    file = checkpoint / "round.npz"
    if not file.exists():
        return None, [], None, None
    with np.load(file) as saved:
        if str(saved["code"]) != code_hash():
            run = checkpoint.parent.parent
            raise InputError(f"{run}: begun by another version of the code; drop it with --force")
        before, points = (saved[name] if name in saved else None for name in ("before", "points"))
        return saved["theta"], json.loads(str(saved["rows"])), before, points


@contextmanager
def timed(seconds: dict[str, Any], name: str) -> Iterator[None]:
    """Adds the wall time of the block to ``seconds[name]``."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
