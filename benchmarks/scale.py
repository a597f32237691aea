"""Scale: memory and time by number of patients and by days, and two threads against one.

    python -m benchmarks.scale [--patients 10000000] [--long 100000] [--rounds 12] [--json FILE] [--figure FILE.png]

A course is one patient of the phase III arm that starts at 5 mg: daily doses, titration, drift, noise and rescue, in
float32, reduced to a running summary (``pkpd.streaming``). Every case is a process of its own, so that its peak RSS is
its own; the memory a case adds is its peak less the peak after two tiles, when everything is compiled. Threads: two
processes, one held to one core, take turns; the ratio is that of their best turns, and of the medians. Imports JAX,
NumPy and the standard library beside pkpd; the picture needs matplotlib and is left out without it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import phase3
from pkpd import streaming, trial
from pkpd.devices import resolve_engine, tile_width, workers
from pkpd.parameters import load_library

START_MG = 5.0
YEARS_5 = 1826  # days
EVERY = {56: 7}  # days between visits of a course of so many days; else
EVERY_ELSE = 28
DAYS = (56, 182, 364, 728, 1274, YEARS_5)
TURN = 32_768  # patients of one turn of the comparison of threads


def days_of_visits(days: int) -> tuple[int, ...]:
    """Weekly over 8 weeks, every 4 weeks over longer courses, and on the last day."""
    every = EVERY.get(days, EVERY_ELSE)
    return (*range(every, days, every), days)


def peak_rss_mb() -> float:
    """Highest resident memory of this process so far (MB); the kernel counts kB, macOS bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def courses(days: int) -> Callable[[int], tuple[float, float]]:
    """A function that summarises so many patients and returns seconds of wall and of processor time."""
    population, what = load_library().population(), phase3.arm(START_MG)
    visits = days_of_visits(days)

    def run(patients: int) -> tuple[float, float]:
        start, used = time.perf_counter(), time.process_time()
        found = streaming.summarise(trial.roster(population, range(patients)), what, visits, seed=1)
        assert found.patients + found.failed == patients
        return time.perf_counter() - start, time.process_time() - used

    return run


def case(patients: int, days: int) -> dict[str, Any]:
    """The record of one case, measured in this process."""
    run, warm = courses(days), 2 * tile_width("auto")
    first, again = run(warm)[0], run(warm)[0]
    before = peak_rss_mb()
    seconds, processor = run(patients)
    return {
        "system": "pkpd", "device": jax.devices()[0].platform, "cores": len(workers()), "precision": "float32",
        "patients": patients, "patients_per_second": patients / seconds, "error_median": None, "error_p999": None,
        "error_max": None, "seconds_compile": max(first - again, 0.0), "jax_version": jax.__version__,
        "engine": resolve_engine(), "days": days, "visits": len(days_of_visits(days)), "seconds": seconds,
        "processor_seconds": processor, "peak_rss_mb": peak_rss_mb(), "peak_rss_added_mb": peak_rss_mb() - before,
    }  # fmt: skip


def take_turns() -> None:
    """Child: a turn for every line on stdin, its seconds and processor seconds on stdout."""
    run = courses(56)
    run(2 * tile_width("auto"))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(*run(TURN), flush=True)


def child(*arguments: str, cores: int, **kwargs: Any) -> subprocess.Popen:
    """This file in a process of its own, held to ``cores`` cores before it starts a thread."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale", *arguments],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PKPD_THREADS": str(cores)}, **kwargs,
    )  # fmt: skip
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:cores])
    return process


def measured(patients: int, days: int, cores: int) -> dict[str, Any]:
    """The record of one case, from a process of its own."""
    process = child("--case", str(patients), str(days), cores=cores)
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the case of {patients} patients over {days} days ended with {process.returncode}")
    record = json.loads(out)
    print(
        f"{patients:11,d} {days:6d} {record['seconds']:9.1f} {record['patients_per_second']:11,.0f} "
        f"{record['peak_rss_mb']:9.0f} {record['peak_rss_added_mb']:8.0f} {record['seconds_compile']:8.1f}",
        flush=True,
    )
    return record


@contextmanager
def turns(cores: int) -> Iterator[Callable[[], tuple[float, float]]]:
    """A process that takes a turn whenever it is called."""
    process = child("--turns", cores=cores, stdin=subprocess.PIPE)

    def turn() -> tuple[float, float]:
        process.stdin.write("\n")
        process.stdin.flush()
        wall, used = map(float, process.stdout.readline().split())
        return wall, used

    try:
        process.stdout.readline()
        yield turn
    finally:
        process.stdin.close()
        process.wait()


def threads(rounds: int, most: int) -> list[dict[str, Any]]:
    """Records of 1 and of ``most`` threads taking turns: best and median courses a second, processor time a course."""
    with turns(1) as one, turns(most) as many:
        found = np.array([(one(), many()) for _ in range(rounds)])  # [rounds, 1 or many, wall or processor]
    wall, used = found[..., 0], found[..., 1]
    best, median = wall.min(0), np.median(wall, 0)
    each = used.min(0) / TURN * 1e6
    print(f"\n{most} threads against one, {rounds} turns each: best {best[0] / best[1]:.2f}, median of pairs", end=" ")
    print(f"{np.median(wall[:, 0] / wall[:, 1]):.2f} times as fast; processor time a course {each[0]:.1f}", end=" ")
    print(f"and {each[1]:.1f} microseconds, which alone would allow {most * each[0] / each[1]:.2f}")
    common = {"system": "pkpd", "device": "cpu", "precision": "float32", "patients": TURN, "days": 56}
    nothing = dict.fromkeys(("error_median", "error_p999", "error_max", "seconds_compile"))
    return [
        common | nothing | {
            "cores": cores, "patients_per_second": TURN / best[i], "patients_per_second_median": TURN / median[i],
            "processor_seconds": float(used[:, i].min()), "jax_version": jax.__version__, "engine": resolve_engine(),
        } for i, cores in enumerate((1, most))
    ]  # fmt: skip


def draw(by_patients: list[dict], by_days: list[dict], path: Path) -> None:
    """Time by patients and by days and memory by patients, on logarithmic axes, beside lines of proportion."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    panels = (
        (axes[0], by_patients, "patients", "seconds", "patients, 56 days", "time (s)"),
        (axes[1], by_days, "days", "seconds", f"days, {by_days[0]['patients']:,} patients", "time (s)"),
        (axes[2], by_patients, "patients", "peak_rss_mb", "patients, 56 days", "peak memory (MB)"),
    )
    for axis, records, x, y, x_label, y_label in panels:
        xs, ys = ([record[name] for record in records] for name in (x, y))
        axis.loglog(xs, ys, "o", color="C0", label="measured", zorder=3)
        if y == "seconds":
            axis.loglog(xs, [ys[-1] * value / xs[-1] for value in xs], "--", color="0.5", label="proportional")
            axis.legend(frameon=False)
        else:
            axis.set_ylim(100, 10_000)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.grid(alpha=0.3, which="major")
    axes[0].set_title("Time grows with patients,", fontsize=10)
    axes[1].set_title("and with days;", fontsize=10)
    axes[2].set_title("memory does not", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=int, default=10**7, help="largest cohort over 56 days")
    parser.add_argument("--long", type=int, default=10**5, help="patients of the courses of up to 5 years")
    parser.add_argument("--rounds", type=int, default=12, help="turns of one thread and of all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--case", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turns:
        return take_turns()
    if args.case:
        return print(json.dumps(case(*args.case)))
    cores = len(workers())
    print(f"{cores} workers on {jax.devices()[0].device_kind}, engine {resolve_engine()}, JAX {jax.__version__}")
    print(f"{'patients':>11s} {'days':>6s} {'seconds':>9s} {'courses/s':>11s} {'peak MB':>9s} {'added':>8s}", end=" ")
    print(f"{'compile':>8s}", flush=True)
    by_patients = [measured(n, 56, cores) for n in (10**k for k in range(4, 10)) if n <= args.patients]
    by_days = [measured(args.long, days, cores) for days in DAYS]
    records = by_patients + by_days
    if args.rounds and cores > 1 and jax.default_backend() == "cpu":
        records += threads(args.rounds, cores)
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    if args.figure and importlib.util.find_spec("matplotlib"):
        draw(by_patients, by_days, args.figure)


if __name__ == "__main__":
    main()
