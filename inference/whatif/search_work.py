"""Simulates the trials of many designs, more of each from round to round; kept on disk, here or on a cluster."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inference.checkpoint import Checkpoint
from inference.drawn import draws_of
from inference.progress import Progress, silent
from inference.trials import Plan, block_of, number_of
from inference.whatif import cluster, figures, runs
from inference.whatif.counts import Counts
from inference.whatif.figures import Figure
from inference.whatif.null import under_null
from inference.whatif.search_file import Target

if TYPE_CHECKING:
    from distributed import Future

    from pkpd.scenario import Scenario

SEARCH_DRAWS = 2  # seed of the posterior draws of a search; those of pkpd trial have 1
GOLDEN = (np.sqrt(5) - 1) / 2


class Task(NamedTuple):
    """Some trials of a design, by its number; ``null``: under the null of its analysis."""

    design: int
    null: bool
    chunk: runs.Chunk


Work = Callable[[Sequence[Task]], Generator[tuple[Task, Counts], None, None]]  # in any order
Workers = Callable[[Callable[[Task], Plan]], Work]  # from what a task is of to the work


def search_draws(run: Path | None, n: int) -> dict[str, np.ndarray]:
    """About n draws of a run's population parameters, between those that ``pkpd trial`` takes.

    So a confirmation is on other draws too, as far as the run has as many. In an order of which any first few are
    spread over all; {} without a run.
    """
    if run is None:
        return {}
    from inference import store

    draws = draws_of(store.load_fitted(run), max(2 * n - 1, 3), SEARCH_DRAWS)
    between = {name: values[1::2] for name, values in draws.items()}
    m = number_of(between)
    order = np.argsort(np.argsort(np.arange(1, m + 1) * GOLDEN % 1))
    return {name: values[order] for name, values in between.items()}


@contextmanager
def workers(scheduler: str | None, plan: Plan) -> Iterator[tuple[dict[str, Any], Workers]]:
    """What the trials are computed with, and who computes them: this process, or the workers of a Dask scheduler."""
    if scheduler is None:
        yield runs.kind_here(plan.engine), _here
        return
    with cluster.workers(scheduler, plan) as (kind, _):
        pass  # says what is wrong before anything else is sent
    with cluster.connected(scheduler) as client, cluster.explained(scheduler):
        yield kind, lambda plan_of: _on_cluster(client, plan_of, kind)


def _here(plan_of: Callable[[Task], Plan]) -> Work:
    def work(tasks: Sequence[Task]) -> Generator[tuple[Task, Counts], None, None]:
        for task in tasks:
            yield task, block_of(plan_of(task))(*task.chunk)

    return work


def _on_cluster(client: Any, plan_of: Callable[[Task], Plan], kind: Mapping[str, Any]) -> Work:
    """As ``cluster.work_of``, of tasks with plans of their own: all workers are busy however short each task is."""
    from distributed import as_completed

    def work(tasks: Sequence[Task]) -> Generator[tuple[Task, Counts], None, None]:
        todo, at_work = iter(tasks), {}

        def send(n: int) -> list[Future]:
            new = {}
            for task in islice(todo, n):
                plan = pickle.dumps(plan_of(task))
                name = hashlib.sha256(plan + repr(sorted(kind.items())).encode()).hexdigest()[:32]
                key = f"pkpd-trials-{name}-{task.chunk.first}-{task.chunk.n}"
                new[client.submit(cluster.count, plan, tuple(task.chunk), kind, key=key, retries=cluster.RETRIES)] = (
                    task
                )
            at_work.update(new)
            return list(new)

        try:
            done = as_completed(send(cluster.AHEAD))
            for future in done:
                told = future.result()
                cluster.refuse_others(told, kind, "the first worker")
                done.update(send(1))
                yield at_work.pop(future), told.counts
        finally:
            client.cancel(list(at_work))

    return work


class Simulated:
    """The trials of designs so far, all with the same random numbers; ``figures`` simulates those that are missing.

    name: of their pieces in the checkpoint. targets: whose figures are asked for.
    """

    def __init__(
        self,
        designs: Sequence[Scenario],
        targets: Sequence[Target],
        *,
        name: str,
        draws: Mapping[str, np.ndarray],
        seed: int,
        engine: str,
        by: Workers,
        keep: Checkpoint,
    ) -> None:
        self.designs, self.targets, self.draws = designs, targets, draws
        self.name, self.seed, self.engine, self.keep = name, seed, engine, keep
        self.hypotheses = (False, True) if any(t.null for t in targets) else (False,)
        self.work = by(self._plan)
        self.counts: dict[tuple[int, bool], Counts] = {}
        self.nulls: dict[int, Scenario] = {}

    @property
    def n_draws(self) -> int:
        """Number of posterior draws that the trials take in turn."""
        return number_of(self.draws)

    def _plan(self, task: Task) -> Plan:
        design = self.designs[task.design]
        if task.null and task.design not in self.nulls:
            self.nulls[task.design] = under_null(design, self.draws, self.seed, self.engine)
        return Plan(self.nulls[task.design] if task.null else design, self.draws, self.seed, self.engine)

    def simulate(self, numbers: Sequence[int], n_trials: int, progress: Progress = silent, stage: str = "") -> None:
        """Counts the trials up to ``n_trials`` of the designs of these numbers, as far as they are not there yet."""
        width = runs.kind_here(self.engine)["tile_width"]
        parts: dict[tuple[int, bool], list[Task]] = {}
        for i in numbers:
            for null in self.hypotheses:
                first, size = self._there(i, null), runs.trials_a_chunk(self.designs[i], width)
                starts = range(first, n_trials, size)
                parts[i, null] = [Task(i, null, runs.Chunk(k, min(size, n_trials - k))) for k in starts]
        every = [task for tasks in parts.values() for task in tasks]
        found: dict[Task, Counts] = {}
        for task in every:
            arrays = self.keep.kept(self._piece(task))
            if arrays is not None:
                found[task] = runs.unpacked(arrays)
        total, done = sum(task.chunk.n for task in every), sum(task.chunk.n for task in found)
        progress(stage, done, total)
        for task, counts in self.work([task for task in every if task not in found]):
            self.keep.keep(self._piece(task), runs.packed(counts))
            found[task] = counts
            done += task.chunk.n
            progress(stage, done, total)
        for key, tasks in parts.items():
            before = [self.counts[key]] if key in self.counts else []
            if tasks:
                self.counts[key] = runs.joined([*before, *(found[task] for task in tasks)])

    def figures(
        self, numbers: Sequence[int], n_trials: int, progress: Progress = silent, stage: str = ""
    ) -> list[list[Figure]]:
        """The figures of the targets over the first ``n_trials`` of each of these designs."""
        self.simulate(numbers, n_trials, progress, stage)
        return [self._figures(i) for i in numbers]

    def _figures(self, number: int) -> list[Figure]:
        design = self.designs[number]
        found = {
            null: figures.figures(design, self.counts[number, null], self.n_draws, null) for null in self.hypotheses
        }
        return [figures.pick(target, design, found[target.null]) for target in self.targets]

    def _there(self, number: int, null: bool) -> int:
        counts = self.counts.get((number, null))
        return 0 if counts is None else len(next(iter(counts.by_arm.values())))

    def _piece(self, task: Task) -> str:
        return f"{self.name}-{task.design}{'-null' if task.null else ''}-{runs.name_of(task.chunk)}"
