"""Rounds of simulation, surface and NUTS, until the surface is near enough (design 4.1); one replicate of a fit.

A round draws its population vectors from the prior or, widened, from the posterior of the round before. Those that the
config lists are always run; then rounds grow by the measured error of the surface until it meets the config's limit.
Nothing here looks at the clock.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference.arm_model import fit_arms
from inference.checkpoint import Checkpoint
from inference.config import MAX_ROUNDS, Config, Round
from inference.further import FurtherMoments
from inference.moments import ROUNDS, fresh, further_moments, moments, stream
from inference.progress import Progress
from inference.surface import Floats, Surface, SurfaceError, fit_surface, n_terms, surface_error, widened
from pkpd import random
from pkpd.endpoints import NAMES

if TYPE_CHECKING:
    from inference.population import Plan

CHECK_POINTS = 50
SHAPE = 100  # added to the number of a round: draws of the points by which its shape is chosen
LARGEST_FACTOR = 10.0  # by which a surface's covariance is multiplied, where fresh points find its errors too small
VECTORS_A_TERM = 1.5  # at least: with fewer the regression follows the noise of every batch
AIM = 0.75  # of the limit of the surface's error: what the next round is to reach
GROWTH = (2.0, 8.0)  # least and most of a round's patients, in those of the round before


class Fit(NamedTuple):
    """A round of a replicate: draws by name [chains, draws], their statistics, logits [chains, draws, A, 6]."""

    samples: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    logits: np.ndarray
    coordinates: np.ndarray  # [chains draws, d]
    points: np.ndarray  # [CHECK_POINTS, d] of them, by which the shape of the next round is chosen
    surface: Surface
    error: SurfaceError  # not a number where it was not measured
    rounds: list[dict[str, Any]]


def next_round(config: Config, rows: list[dict[str, Any]], further: int = 0) -> Round | None:
    """Size of the round after those in ``rows``; None where the surface is near enough or may not grow.

    ``further`` rounds follow, each of twice the patients, that the correction asked for.
    """
    if len(rows) < len(config.rounds):
        return config.rounds[len(rows)]
    last, refine = rows[-1], config.refine
    error, patients = last["surface_error_rms"], last["vectors"] * last["patients"]
    near = error <= refine.surface_error or patients >= refine.patients
    if len(rows) >= MAX_ROUNDS or (near and further <= sum(row["further"] for row in rows)):
        return None
    growth = GROWTH[0] if near else np.clip((error / (AIM * refine.surface_error)) ** 2, *GROWTH)
    vectors = math.ceil(min(growth * patients, max(refine.patients, patients)) / last["patients"])
    return Round(vectors=vectors, patients=last["patients"])


def replicate(
    p: Plan,
    number: int,
    key: jax.Array,
    keep: Checkpoint,
    progress: Progress,
    corrected: Sequence[Floats] = (),
) -> Fit:
    """All rounds of one replicate; ``keep`` gets the pieces it goes on from.

    Each of ``corrected``, coordinates [draws, d] of a posterior that simulation has corrected, asks for a further round
    that draws its vectors from it.
    """
    rows: list[dict[str, Any]] = []
    last: Fit | None = None
    while (size := next_round(p.config, rows, len(corrected))) is not None:
        r = len(rows)
        size = Round(vectors=max(size.vectors, least_vectors(p.prior.dimension)), patients=size.patients)
        asked = sum(row["further"] for row in rows)
        further = r >= len(p.config.rounds) and next_round(p.config, rows, asked) is None
        start = corrected[asked] if further else None if last is None else last.coordinates
        name = f"round-{r + 1}"
        make = partial(one_round, p, number, key, rows, size, further, start, last, keep.at(name), progress)
        last = from_arrays(keep.piece(name, partial(_as_piece, make)))
        keep.drop(name)
        rows = last.rounds
    assert last is not None  # a config has a round at least
    return last


def least_vectors(d: int) -> int:
    """Population vectors that determine a quadratic surface over d coordinates."""
    return math.ceil(VECTORS_A_TERM * n_terms(d))


def one_round(
    p: Plan,
    number: int,
    key: jax.Array,
    before: list[dict[str, Any]],
    size: Round,
    further: bool,
    start: Floats | None,
    last: Fit | None,
    keep: Checkpoint,
    progress: Progress,
) -> Fit:
    """The round after those of ``before``: simulation at vectors from the prior or, widened, from ``start``; surface;
    NUTS; and, from the config's last round on, the choice of the shape and the error of the surface.

    From the second round on the covariance of the surface is multiplied by the ratio of squared error to claimed
    variance at fresh points of the posterior before, where that exceeds 1: regression takes lack of fit for noise that
    averages out, and it does not.
    """
    config, r = p.config, len(before)
    where = f"run {number + 1}, " if config.replicates > 1 else ""
    stage = f"{where}round {r + 1}: "
    row: dict[str, Any] = {"replicate": number + 1, "round": r + 1, **size.model_dump(), "further": int(further)}
    own = jax.random.fold_in(key, 100 + r)
    if start is None:
        theta = np.asarray(p.prior.unconstrained(p.prior.draws(own, size.vectors)), np.float64)
    else:
        theta = widened(own, start, size.vectors, config.widening)
    values = {n: np.asarray(v) for n, v in p.prior.constrained(theta).items()}
    with timed(row, "seconds_simulation"):
        mean, second = moments(
            p, values, size.patients, stream(ROUNDS, number), r, progress, stage + "simulation", keep.at("simulation")
        )
        more = further_moments(
            p, values, size.patients, stream(ROUNDS, number), r, progress, stage + "further studies",
            keep.at("simulation"),
        )  # fmt: skip
    settings = {"near": p.data, "further": more, "further_n": p.further_n}
    with timed(row, "seconds_regression"):
        surface = fit_surface(theta, mean, second, size.patients, **settings)
    if last is not None:
        with timed(row, "seconds_check"):
            seen = fresh(p, last.points, number, SHAPE + r, progress, keep.at("shape"))
        found = error_at(p, surface, last.points, seen)
        if r + 1 >= len(config.rounds) and config.refine.cubic:
            with timed(row, "seconds_regression"):
                cubic = fit_surface(theta, mean, second, size.patients, cubic=config.refine.cubic, **settings)
            richer = error_at(p, cubic, last.points, seen)
            row |= {"error_quadratic": found.rms, "error_cubic": richer.rms}
            surface, found = (cubic, richer) if richer.rms < found.rms else (surface, found)
        row["covariance_factor"] = float(np.clip(np.nan_to_num(found.chi_square), 1.0, LARGEST_FACTOR))
        surface = surface._replace(covariance=row["covariance_factor"] * surface.covariance)
    row["terms"] = surface.coefficients.shape[1]
    with timed(row, "seconds_nuts"):
        result = fit_arms(
            p.prior,
            surface,
            [a.name for a in p.arms],
            p.fitted,
            jax.random.fold_in(own, 1),
            **sampler_settings(config),
            studies=p.studies,
            progress=partial(progress, stage + "NUTS"),
            keep=keep.at("nuts"),
        )
    samples = {n: result.samples[n] for n in p.prior.names}
    coordinates = np.asarray(p.prior.unconstrained(samples), np.float64).reshape(-1, p.prior.dimension)
    if last is not None:
        shift = np.abs(coordinates.mean(0) - last.coordinates.mean(0)) / coordinates.std(0)
        row["shift_of_means_in_sd"] = float(shift.max())
    some = random.generator(jax.random.fold_in(own, 2)).choice(len(coordinates), 2 * CHECK_POINTS, replace=False)
    here, points = np.split(coordinates[some], 2)  # for this surface, and for the shape of the next
    error = SurfaceError(math.nan, math.nan, np.full((len(p.arms), len(NAMES)), math.nan), math.nan)
    if r + 1 >= len(config.rounds):
        with timed(row, "seconds_check"):
            seen = fresh(p, here, number, r, progress, keep.at("check"))
            error = error_at(p, surface, here, seen)
        row |= {"surface_error_rms": error.rms, "surface_chi_square": error.chi_square}
    rows = [*before, row]
    return Fit(samples, result.sample_stats, result.samples["logits"], coordinates, points, surface, error, rows)


def error_at(p: Plan, surface: Surface, points: Floats, seen: tuple[Floats, Floats, FurtherMoments]) -> SurfaceError:
    """Error of a surface against what ``fresh`` saw at points [F, d]."""
    mean, second, more = seen
    return surface_error(surface, points, mean, second, p.data.n, more, p.further_n)


def to_arrays(fit: Fit) -> dict[str, np.ndarray]:
    """A round as a piece of the checkpoint."""
    tables = {name: getattr(fit, name) for name in ("samples", "sample_stats")}
    arrays = {f"{table}.{name}": values for table, columns in tables.items() for name, values in columns.items()}
    for table, record in (("surface", fit.surface._asdict()), ("error", fit.error._asdict())):
        arrays |= {f"{table}.{name}": np.asarray(values) for name, values in record.items()}
    plain = {name: getattr(fit, name) for name in ("logits", "coordinates", "points")}
    return arrays | plain | {"rounds": np.asarray(json.dumps(fit.rounds))}


def _as_piece(make: Callable[[], Fit]) -> dict[str, np.ndarray]:
    return to_arrays(make())


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Fit:
    """The round that ``to_arrays`` kept."""
    tables: dict[str, dict[str, Any]] = {"samples": {}, "sample_stats": {}, "surface": {}, "error": {}}
    for name, values in arrays.items():
        table, _, column = name.partition(".")
        if column:
            tables[table][column] = values
    error = {name: values if name == "by_count" else float(values) for name, values in tables["error"].items()}
    return Fit(
        tables["samples"],
        tables["sample_stats"],
        arrays["logits"],
        arrays["coordinates"],
        arrays["points"],
        Surface(**{name: jnp.asarray(values) for name, values in tables["surface"].items()}),
        SurfaceError(**error),
        json.loads(str(arrays["rounds"])),
    )


def sampler_settings(config: Config) -> dict[str, Any]:
    """NUTS as the config has it."""
    return config.sampler.model_dump()


@contextmanager
def timed(seconds: dict[str, Any], name: str) -> Iterator[None]:
    """Adds the wall time of the block to ``seconds[name]``."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
