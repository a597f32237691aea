"""Long runs of trials: chunks that any process may count in any order, kept on disk one by one as they come.

A trial's random numbers follow from seed, draw, trial, arm and patient alone, so its counts are the same whatever the
chunk that holds it, and a run is the same to the bit in chunks of any size, in any order, by any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inference import manifest
from inference.checkpoint import NOTHING_KEPT, Arrays, Checkpoint
from inference.whatif.counts import CELL, Counts, sizes_analysed
from pkpd.devices import GPU_TILE, REFERENCE_TILE, TILE, resolve_engine, tile_width

if TYPE_CHECKING:
    from inference.trials import Plan
    from pkpd.scenario import Scenario

# Patients of a chunk by the width of the engine's tile: some seconds of work, which is what a kill may lose.
COURSES = {REFERENCE_TILE: 2**11, TILE: 2**19, GPU_TILE: 2**22}
DECISIVE = ("python", "jax", "jaxlib", "numpy", "scipy", "llvmlite")  # packages whose versions may move a bit
STATED = 100 * CELL  # trials of a chunk without patients
NAMES = "names"  # the field of Counts that is of no trial


class Chunk(NamedTuple):
    """Trials ``first`` to ``first + n``."""

    first: int
    n: int


Work = Callable[[Iterable[Chunk]], Generator[tuple[Chunk, Counts], None, None]]  # counts chunks, in any order


class Until(NamedTuple):
    """When fewer trials are enough: the ``error`` of what all trials so far ``decided`` [trials, ..] is below a limit.

    It is looked at after every CELL of trials, so where a run ends does not depend on its chunks.
    """

    decided: Callable[[Counts], np.ndarray]
    error: Callable[[np.ndarray], float]
    limit: float


def patients_of(design: Scenario) -> int:
    """Patients of one trial, in all arms, with those of a re-estimation."""
    return int(sizes_analysed(design)[-1].sum())


def trials_a_chunk(design: Scenario, width: int = TILE) -> int:
    """Trials of a chunk, where the engine's tile has ``width`` patients: a multiple of CELL, or a divisor."""
    if design.trial.mc_se_below is not None and design.outcome is not None:
        return CELL
    if design.outcome is not None:
        return STATED
    most = max(1, COURSES[width] // patients_of(design))
    if most >= CELL:
        return CELL if design.trial.mc_se_below is not None else most - most % CELL
    return max(k for k in range(1, most + 1) if CELL % k == 0)


def chunks(n_trials: int, size: int) -> list[Chunk]:
    """All trials in chunks of ``size``, the last as long as is left."""
    return [Chunk(first, min(size, n_trials - first)) for first in range(0, n_trials, size)]


def here(block: Callable[[int, int], Counts]) -> Work:
    """The work done in this process, chunk after chunk; ``block`` counts a first trial and a number of them."""

    def work(todo: Iterable[Chunk]) -> Generator[tuple[Chunk, Counts], None, None]:
        for chunk in todo:
            yield chunk, block(*chunk)

    return work


@lru_cache
def kind_here(engine: str) -> dict[str, Any]:
    """What decides, beside the plan of a run, the numbers that this process computes. Starts JAX's back end."""
    import jax

    versions = manifest.versions()
    return {
        "code": manifest.code_hash(),
        "library": manifest.library_hash(),
        "versions": {name: versions[name] for name in DECISIVE},
        "device": jax.default_backend(),
        "engine": resolve_engine(engine),
        "tile_width": tile_width(engine),
    }


def identity(plan: Plan, kind: Mapping[str, Any], null: bool) -> dict[str, Any]:
    """What everything kept of a run follows from, for ``checkpoint.begin``."""
    draws = hashlib.sha256()
    for name, values in sorted(plan.draws.items()):
        draws.update(name.encode() + b"\0" + np.ascontiguousarray(values, np.float64).tobytes())
    return {
        "hypothesis": "null" if null else "as stated",
        "scenario": hashlib.sha256(plan.design.model_dump_json().encode()).hexdigest(),
        "seed": plan.seed,
        "posterior": draws.hexdigest() if plan.draws else "none",
        **kind,
    }


def consecutive(
    parts: Sequence[Chunk],
    work: Work,
    keep: Checkpoint = NOTHING_KEPT,
    until: Until | None = None,
    progress: Callable[[int], None] = lambda trials: None,
) -> Generator[Counts, None, None]:
    """Counts of consecutive chunks, in order: those that are kept, and the others by ``work``, kept as they come.

    Memory holds those that came before their turn. With ``until`` the trials end where they are enough. ``progress`` is
    told the number of trials done.
    """
    kept = {chunk for chunk in parts if keep.kept(name_of(chunk)) is not None}
    done = sum(chunk.n for chunk in kept)
    progress(done)
    early: dict[Chunk, Counts] = {}
    enough = _enough(until, parts[-1].first + parts[-1].n)
    with closing(work([chunk for chunk in parts if chunk not in kept])) as results:
        for chunk in parts:
            while chunk not in kept and chunk not in early:
                other, counts = next(results)
                keep.keep(name_of(other), packed(counts))
                early[other] = counts
                done += other.n
                progress(done)
            counts = early.pop(chunk) if chunk in early else unpacked(keep.kept(name_of(chunk)) or {})
            n = enough(chunk, counts)
            yield counts if n is None else trials_of(counts, Chunk(0, n - chunk.first))
            if n is not None:
                return


def _enough(until: Until | None, last: int) -> Callable[[Chunk, Counts], int | None]:
    """A function that is told consecutive chunks, and answers with the number of trials that is enough, or None."""
    decided: list[np.ndarray] = []

    def enough(chunk: Chunk, counts: Counts) -> int | None:
        if until is None:
            return None
        decided[:] = [np.concatenate([*decided, until.decided(counts)])]
        for n in range(chunk.first + 1, chunk.first + chunk.n + 1):
            if (n % CELL == 0 or n == last) and until.error(decided[0][:n]) < until.limit:
                return n
        return None

    return enough


def joined(parts: Sequence[Counts]) -> Counts:
    """Counts of consecutive trials, from those of their parts."""
    return _over_trials(lambda *arrays: np.concatenate(arrays), *parts)


def trials_of(counts: Counts, chunk: Chunk) -> Counts:
    """Counts of some of the trials."""
    return _over_trials(lambda array: array[chunk.first : chunk.first + chunk.n], counts)


def _over_trials(function: Callable[..., np.ndarray], *parts: Counts) -> Counts:
    """``function`` of every array [trials, ..] of counts, and of all parts' at once."""
    flat = [packed(part) for part in parts]
    arrays = {key: function(*(part[key] for part in flat)) for key in flat[0] if key != NAMES}
    return unpacked({NAMES: flat[0][NAMES], **arrays})


def name_of(chunk: Chunk) -> str:
    """Name of the piece of a checkpoint that holds a chunk."""
    return f"trials-{chunk.first}-{chunk.n}"


def packed(counts: Counts) -> Arrays:
    """Counts as arrays for a checkpoint, by field, or by field and name of arm; ``unpacked`` gives them back."""
    arrays = {NAMES: np.array(counts.names)}
    for field, value in counts._asdict().items():
        if isinstance(value, dict):
            arrays |= {f"{field}/{name}": array for name, array in value.items()}
        elif isinstance(value, np.ndarray):
            arrays[field] = value
    return arrays


def unpacked(arrays: Arrays) -> Counts:
    """The counts that were ``packed``."""
    found: dict[str, Any] = {**dict.fromkeys(Counts._fields), NAMES: tuple(map(str, arrays[NAMES]))}
    for key, array in arrays.items():
        field, _, name = key.partition("/")
        if name:
            found[field] = (found[field] or {}) | {name: array}
        elif field != NAMES:
            found[field] = array
    return Counts(**found)
