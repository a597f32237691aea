"""Many fits at once, each a ``pkpd fit`` of its own; what has not changed since it was run is not run again."""

from __future__ import annotations

import signal
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from inference import batch_summary, output, store, workers
from inference.batch_summary import FAILED, Outcome
from inference.config import Config, inputs, load, plan
from inference.manifest import hashes
from inference.resources import share
from inference.sweeps import Job
from pkpd.errors import InputError

MOST_KEYS = 3  # of a config, named where they changed


class Options(NamedTuple):
    """Of the command line, for every job: those that change the config, cores and memory, what to do with old runs."""

    config: Mapping[str, Any]
    jobs: int | None = None
    memory_gb: float | None = None
    resume: bool = False
    force: bool = False


def run(jobs: Sequence[Job], out: Path, options: Options) -> int:
    """Run the jobs that need it, several at a time, and summarise all; the exit code: 1 if any of them failed.

    Every config is read before anything runs, and what is wrong with one stops that one only. ``out`` gets a run
    folder and a log a job, and the tables of ``batch_summary``. InputError for what concerns all of them.
    """
    share(1, options.jobs, options.memory_gb)  # what is not legal is said at once
    batch_summary.check(out)
    outcomes = {}
    for job in jobs:
        try:
            outcomes[job.name] = examine(job, out / job.name, options)
        except InputError as error:
            outcomes[job.name] = Outcome(FAILED, str(error))
        if outcomes[job.name].status in (FAILED, "unchanged"):
            tell(f"{job.name}: {': '.join(filter(None, outcomes[job.name]))}")
    todo = [job for job in jobs if outcomes[job.name].status in ("new", "changed")]
    finished: dict[str, Outcome] = {}
    out.mkdir(parents=True, exist_ok=True)
    try:
        if todo:
            _work(todo, outcomes, finished, out, options)
    finally:
        outcomes |= {job.name: finished.get(job.name, Outcome("not finished")) for job in todo}
        summary = batch_summary.write(out, [(job, outcomes[job.name]) for job in jobs])
        if len(finished) < len(todo):
            tell(f"{len(todo) - len(finished)} not finished; the same command with --resume goes on")
    batch_summary.show(out, summary)
    return int((summary[["status", "verdict"]] == FAILED).any(axis=None))


def examine(job: Job, folder: Path, options: Options) -> Outcome:
    """Read a job and what lies in its folder: "new", "changed" or "unchanged"; InputError if it may not be run."""
    config = load(job.file, job.settings, options.config)
    plan(config, str(job.file or "config"))
    output.refuse_existing_run(folder, force=True)
    finished = (folder / output.RUN_MARK).exists()
    why = changes(folder, config) if finished else ""
    if finished and not (why or options.force):
        return Outcome("unchanged")
    if output.staging_of(folder).exists() and not (options.resume or options.force):
        raise InputError(f"{folder}: an unfinished run; continue it with --resume, or drop it with --force")
    return Outcome("changed", why or "--force") if finished else Outcome("new")


def changes(folder: Path, config: Config) -> str:
    """What differs between a finished run and what the config would be run with now; empty where nothing does."""
    try:
        batch_summary.results(folder)
        kept = dict(store.read_json(folder / output.RUN_MARK)["sha256"])
        text = (folder / store.CONFIG).read_text(encoding="utf-8")
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return "damaged"
    now = hashes(inputs(config))
    names = {"data": "published data", "config": f"config ({_differing_keys(text, config)})"}
    return ", ".join(names.get(key, key) for key in (now | kept) if now.get(key) != kept.get(key))


def command(job: Job, folder: Path, options: Options, *, replace: bool) -> list[str]:
    """Arguments of the ``pkpd fit`` of a job."""
    words = ["fit", "--out", str(folder)]
    words += [word for setting in job.settings for word in ("--set", setting)]
    for key, value in options.config.items():
        words += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    words += ["--resume"] * options.resume + ["--force"] * replace
    return words + (["--", str(job.file)] if job.file else [])


def cause(code: int, log: Path) -> str:
    """Why a worker failed: its last message, or the signal that ended it."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("pkpd: ")]
    last = (said or lines or ["no message"])[-1].removeprefix("pkpd: ").removeprefix("error: ")
    if code >= 0:
        return last
    name = signal.Signals(-code).name
    return f"ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else f": {last}")


def time_to_go(took: Sequence[float], ages: Sequence[float], waiting: int, at_once: int) -> float:
    """Seconds that a batch still needs if the others take as long as those that are over, by mean."""
    usual = sum(took) / len(took)
    return (usual * waiting + sum(max(usual - age, 0.0) for age in ages)) / at_once


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def tell(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def _work(
    todo: Sequence[Job], asked: Mapping[str, Outcome], finished: dict[str, Outcome], out: Path, options: Options
) -> None:
    """Runs the jobs; what became of each is entered in ``finished`` as it ends."""
    at_once, threads = share(len(todo), options.jobs, options.memory_gb)
    tell(f"{len(todo)} to run: {at_once} at a time, {threads} thread{'s' * (threads > 1)} each")
    tasks = []
    for job in todo:
        replace = options.force or asked[job.name].status == "changed"
        words = command(job, out / job.name, options, replace=replace)
        tasks.append(workers.Task(words, out / f"{job.name}.log"))
    before = [_stamp(out / job.name) for job in todo]
    begun: dict[int, float] = {}
    took: list[float] = []
    with closing(workers.run(tasks, at_once, threads)) as events:
        for event in events:
            if isinstance(event, int):
                begun[event] = time.monotonic()
                tell(f"{todo[event].name}: starts, {': '.join(filter(None, asked[todo[event].name]))}")
                continue
            job, log = todo[event.number], tasks[event.number].log
            if event.code in (0, 1) and _stamp(out / job.name) != before[event.number]:
                finished[job.name] = asked[job.name]
                became = batch_summary.results(out / job.name)[0]["verdict"]
            else:
                finished[job.name] = Outcome(FAILED, f"{cause(event.code, log)}; see {log}")
                became = f"{FAILED}: {cause(event.code, log)}"
            del begun[event.number]
            took.append(event.seconds)
            ages = [time.monotonic() - start for start in begun.values()]
            waiting = len(todo) - len(took) - len(ages)
            left = f"; {len(ages) + waiting} to go, about {duration(time_to_go(took, ages, waiting, at_once))}"
            tell(f"{job.name}: {became}, {duration(event.seconds)}" + left * (len(took) < len(todo)))


def _stamp(folder: Path) -> tuple[int, int] | None:
    """What tells the manifest of one run from that of the next in the same folder."""
    try:
        status = (folder / output.RUN_MARK).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _differing_keys(text: str, config: Config) -> str:
    try:
        before, now = _flat(tomllib.loads(text)), _flat(tomllib.loads(config.to_toml()))
    except tomllib.TOMLDecodeError:
        return "unreadable"
    keys = [key for key in (now | before) if now.get(key) != before.get(key)]
    return ", ".join(keys[:MOST_KEYS]) + f" and {len(keys) - MOST_KEYS} more" * (len(keys) > MOST_KEYS)


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat
