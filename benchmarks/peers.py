"""The same task with pkpd and with the solvers its users come from: error against cost, and ratios at matched error.

    pip install '.[peers]' && python -m benchmarks.peers --json FILE --picture benchmarks/figures/peers.png

The task (benchmarks/systems/task.py): patients of the trial, 5 mg on each of 56 days and no titration, drift of immune
clearance constant within a week, all 16 states in dynamic form, count and free concentration at 8 weekly visits. It is
drawn once and exported; every system reads the same numbers, restarts at every event and is timed warm, in a process
of its own that is bound to one core, then to two. On one core the clock is processor time. Errors are relative to
pkpd's reference solver at 1e-10, which SciPy's LSODA at 1e-11 checks. A system that is not installed is left out, with
the reason. Matched error: the fastest setting whose 99.9% error of the count is no larger than that of pkpd's default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.records import Record, write
from benchmarks.systems import task as tasks
from benchmarks.systems.with_pkpd import DEFAULT
from pkpd import cohort, random, trial
from pkpd.devices import map_tiles
from pkpd.engine import reference
from pkpd.model import DYNAMIC, free_concentration_nM
from pkpd.parameters import Parameters, load_library

SYSTEMS = ("pkpd", "diffrax", "numbalsoda", "mrgsolve", "scipy")
SEED = 1
DRAWN = 32_768  # the first are those of every system; only pkpd takes all
BATCH = 32
CHECKED = 4
BASELINE_BELOW = 30.0  # 1e9/L, entry criterion of the trial
RTOL, ATOL = 1e-10, 1e-14  # of the truth; ATOL in units of each state's own scale
CHECK_RTOL = 1e-11


def draw(known: int) -> tasks.Task:
    """Patients as the trial draws them, and the truth of the first ``known`` of them."""
    keys = random.patient_keys(random.root(SEED), *jnp.broadcast_arrays(0, 0, jnp.arange(DRAWN)))
    drawn = cohort.draw(load_library().population(jnp.float64), keys, jnp.asarray(BASELINE_BELOW))
    omega = np.asarray(trial.drift(drawn.noise, keys, tasks.WEEKS, jnp.float64))
    p = {name: np.asarray(x) for name, x in drawn.parameters._asdict().items()}
    nothing = np.empty((tasks.WEEKS, 0))
    task = tasks.Task(p, omega, nothing, nothing)
    return task._replace(**dict(zip(("counts", "concentration_nM"), truth(tasks.first(task, known)), strict=True)))


def truth(task: tasks.Task) -> tuple:
    """Counts and concentrations by the reference solver, [weeks, patients]."""
    n = task.omega.shape[1]

    @jax.jit
    def solve(p: Parameters, omega: jax.Array) -> tuple:
        daily = jnp.full((tasks.DAYS, omega.shape[1]), tasks.DOSE_MG)
        found = reference.solve(p, reference.days(p, daily, omega), DYNAMIC, "explicit", RTOL, ATOL)
        weekly = jax.tree.map(lambda x: x[3 * tasks.DAYS_A_WEEK :: 3 * tasks.DAYS_A_WEEK], found.states)
        return weekly.platelets_1e9_per_l, free_concentration_nM(weekly, p)

    def tiles() -> Iterator[tuple]:
        for i in range(0, n, BATCH):
            t = tasks.part(task, np.arange(i, min(i + BATCH, n)))
            yield Parameters(**{name: jnp.asarray(x) for name, x in tasks.by_patient(t).items()}), t.omega

    return tuple(np.concatenate(x, -1) for x in zip(*map_tiles(solve, tiles()), strict=True))


def check(task: tasks.Task) -> str:
    """How far the truth is from SciPy's LSODA with the Python right-hand side, at a few patients."""
    from benchmarks.systems import with_scipy

    t = tasks.first(task, CHECKED)
    found = with_scipy.one_by_one(t, "Python", "odeint (LSODA)", CHECK_RTOL, CHECK_RTOL)
    count, C = (f"{e.max():.1e}" for e in tasks.errors(t, *found))
    return (
        f"truth against SciPy's LSODA at {CHECK_RTOL:g}, {CHECKED} patients: count {count}, concentration {C} at worst"
    )


def measured(system: str, file: Path, cpus: list[int], setting: str = "") -> Iterator[dict[str, Any]]:
    """Rows of ``benchmarks.systems.measure``, in a process bound to ``cpus``; of one setting where it is named."""
    command = [sys.executable, "-m", "benchmarks.systems.measure", system, str(file), ",".join(map(str, cpus))]
    with subprocess.Popen([*command, *filter(None, [setting])], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"{system} ended with exit status {process.returncode}")


def table(system: str, file: Path, cores_at_hand: list[list[int]]) -> list[dict[str, Any]]:
    """The tuning table of a system, printed row by row; empty where the system does not run here."""
    rows = []
    for cpus in cores_at_hand:
        for row in measured(system, file, cpus):
            if "missing" in row:
                print(f"{system}: not run, {row['missing']}", flush=True)
                return []
            show(row)
            rows.append(row)
    return rows


def show(row: dict[str, Any]) -> None:
    errors = " ".join(f"{x:8.1e}" for x in (*row["count"], row["concentration"][2]))
    print(
        f"{row['system']:11s}{row['setting']:36s}{row['precision']:10s}{row['cores']:5d}{row['patients']:9d}"
        f"{row['rate']:10.1f}  {errors} {row['seconds_compile']:11.1f}",
        flush=True,
    )


def best(rows: list[dict[str, Any]], limit: float, known: int) -> dict[str, dict[str, Any]]:
    """Of each system its fastest setting on one core with a 99.9% error of at most ``limit`` over all ``known``."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in rows:
        good = row["count"][2] <= limit and row["patients"] >= known
        if row["cores"] == 1 and good and row["rate"] > chosen.get(row["system"], {"rate": 0.0})["rate"]:
            chosen[row["system"]] = row
    return chosen


def is_default(row: dict[str, Any]) -> bool:
    return row["system"] == "pkpd" and row["setting"] == DEFAULT


def ratios(rows: list[dict[str, Any]], known: int, file: Path, cores_at_hand: list[list[int]]) -> None:
    """Prints pkpd's default over each peer at matched error, both measured again, one right after the other."""
    ours = [row for row in rows if is_default(row) and row["cores"] == 1]
    limit = max(row["count"][2] for row in ours)
    print(f"\npkpd's default over the fastest setting with a 99.9% error of the count up to {limit:.1e}, side by side")
    columns = (f"{row['precision']}, {len(cpus)} v {len(cpus)}" for cpus in cores_at_hand for row in ours)
    print(f"{'peer and setting':56s}" + "".join(f"{column:>16s}" for column in columns))
    chosen = best(rows, limit, known)
    for system, row in chosen.items():
        if system == "pkpd":
            continue
        print(f"{system + ' ' + row['setting'] + ', ' + row['precision']:56s}", end="", flush=True)
        for cpus in cores_at_hand:
            mine = list(measured("pkpd", file, cpus, DEFAULT))
            theirs = next(r for r in measured(system, file, cpus, row["setting"]) if r["precision"] == row["precision"])
            print("".join(f"{r['rate'] / theirs['rate']:16.1f}" for r in mine), end="", flush=True)
        print()
    for system in sorted({row["system"] for row in rows} - set(chosen)):
        print(f"{system}: no setting is that exact")


def picture(rows: list[dict[str, Any]], file: Path) -> None:
    """Error against cost on one core, all systems; a line joins the settings of one method and precision."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(SYSTEMS, ("#c0392b", "#1f77b4", "#2e8b57", "#8e44ad", "#555555"), strict=True))
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["cores"] == 1 and np.isfinite(row["count"][2]):
            parts = row["setting"].split(", ") if row["system"] != "pkpd" else []
            method = [part for part in parts if not part.startswith("rtol")]
            curves.setdefault((row["system"], ", ".join([*method, row["precision"]])), []).append(row)

    figure, axes = plt.subplots(figsize=(10.5, 6.2), constrained_layout=True)
    markers: dict[str, Iterator[str]] = {system: iter("os^vDPX*<>hp") for system in SYSTEMS}
    for (system, label), curve in curves.items():
        axes.plot(
            [1e3 / row["rate"] for row in curve],
            [row["count"][2] for row in curve],
            "--" if "float64" in label and system in ("pkpd", "diffrax") else "-",
            marker=next(markers[system]),
            color=colours[system],
            markersize=5,
            linewidth=1.2,
            label=f"{'SciPy' if system == 'scipy' else system}: {label}",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="cost, ms of one core per course",
        ylabel="relative error of the count, 99.9% of visits are below",
        title="Error against cost of a course: one patient, 56 doses, 8 visits, 16 states; one core",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    figure.savefig(file, dpi=130)


def versions() -> str:
    def one(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} not installed"

    return ", ".join(map(one, ("jax", "diffrax", "scipy", "numpy", "numba", "numbalsoda")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--known", type=int, default=256, help="patients whose truth is computed")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--export", type=Path, help="where to keep the task as npz")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    cores_at_hand = [cpus[-n:] for n in (1, 2) if n <= len(cpus)]
    print(f"{versions()}; {jax.devices()[0].device_kind}, {len(cpus)} cores, load {os.getloadavg()[0]:.1f}", flush=True)

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = args.export or Path(folder) / "task.npz"
        task = draw(args.known)
        tasks.save(file, task)
        print(f"{args.known} patients with truth; {check(task)}\n", flush=True)
        print(
            f"{'system':11s}{'setting':36s}{'precision':10s}{'cores':>5s}{'patients':>9s}{'courses/s':>10s}"
            "  count: median, 99%, 99.9%, worst   conc. 99.9%  compile, s"
        )
        for system in args.systems:
            rows += table(system, file, cores_at_hand)
        if any(map(is_default, rows)):
            ratios(rows, args.known, file, cores_at_hand)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    if args.json:
        write(args.json, [record(row) for row in rows])
    if args.picture:
        picture(rows, args.picture)


def record(row: dict[str, Any]) -> Record:
    median, _, p999, worst = row["count"]
    system = "pkpd" if is_default(row) else f"{row['system']}, {row['setting']}"
    device = jax.devices()[0].platform if row["system"] in ("pkpd", "diffrax") else "cpu"
    return Record(
        system, device, row["cores"], row["precision"], row["patients"], row["rate"], median, p999, worst,
        row["seconds_compile"], jax.__version__,
    )  # fmt: skip


if __name__ == "__main__":
    main()
