"""The engine: error against work, patients a second, and diffrax on the same recorded courses, in one run.

    python -m benchmarks.engine [--patients 131072] [--replayed 2048] [--peer 128] [--json FILE]

A course is one patient, 56 daily doses, 8 visits, titration, drift, noise and rescue, all 16 states in dynamic form.
Errors are relative, of the true count at the 8 visits and of the free concentration there (above 1e-3 of the patient's
highest), on dose ladders recorded by the engine and replayed by the reference solver at tight tolerance in float64: of
ordinary patients, and of a box with every random effect, drift and baseline uniform over +-4 sd, corners included. The
peer, diffrax, solves the recorded courses at the tolerances its users would choose: it does less, since nothing is
titrated and nothing drawn. All run on all cores; compilation is told apart. Times of a shared machine mean little, the
ratios do.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import phase3
from benchmarks.records import Record, quantiles, timed, write
from pkpd import model, trial
from pkpd.devices import map_tiles, workers
from pkpd.engine import grid, recorded, reference
from pkpd.engine.solver import solver
from pkpd.model import DYNAMIC
from pkpd.parameters import Parameters, load_library

WEEKS = 8
BATCH = 32
EXPLICIT_BELOW_PER_H = 80.0  # fastest rate above which an implicit method is cheaper
DRAWN = Path(__file__).parents[1] / "tests" / "pkpd" / "drawn.py"
GRIDS = {
    "graded 1 + 3": grid.graded(1, 3),
    "graded 2 + 4": grid.graded(2, 4),
    "graded 2 + 6": grid.graded(2, 6),
    "graded 3 + 8": grid.graded(3, 8),
    "default 2 + 6": grid.DEFAULT,
    "default, halved": grid.DEFAULT.refined(2),
    "high (profiles) 24 + 66": grid.accuracy("high"),
}


class Recorded(NamedTuple):
    """Patients with their drift, weekly doses (mg) and the true counts and concentrations (nM), [weeks, patients]."""

    patients: Any
    weekly_mg: np.ndarray
    counts: np.ndarray
    concentration_nM: np.ndarray


def drawers() -> Any:
    """The patients of the tests: one place draws ordinary ones and the box."""
    spec = importlib.util.spec_from_file_location("drawn", DRAWN)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def solve(
    p: Parameters, weekly_mg: np.ndarray, omega: Any, rtol: float, method: str = "fitting"
) -> Callable[[], tuple]:
    """A function that solves recorded courses with diffrax on all cores: counts and concentrations at the visits.

    Patients go in small batches of like stiffness, since a batch goes at the pace of its slowest patient. method: as of
    ``reference.solve``, or "fitting" for what is faster for each batch.
    """
    daily = np.repeat(weekly_mg, 7, axis=0)
    fastest = fastest_rate_per_h(p, weekly_mg, omega)
    order = np.argsort(fastest)
    cuts = np.array_split(order, max(len(workers()), len(order) // BATCH))

    @partial(jax.jit, static_argnames="method")
    def one(p: Parameters, dose_mg: jax.Array, omega: jax.Array, method: str) -> tuple[jax.Array, ...]:
        found = reference.solve(p, reference.days(p, dose_mg, omega), DYNAMIC, method, rtol, 1e-4 * rtol)
        weekly = jax.tree.map(lambda x: x[21::21], found.states)
        return weekly.platelets_1e9_per_l, model.free_concentration_nM(weekly, p), found.status[None]

    def tiles() -> Iterator[tuple]:
        for rows in cuts:
            fitting = "explicit" if fastest[rows].max() < EXPLICIT_BELOW_PER_H else "stiff"
            by_patient = jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[..., rows], (p, daily, omega))
            yield *by_patient, fitting if method == "fitting" else method

    def run() -> tuple[np.ndarray, np.ndarray]:
        counts, concentrations, status = (np.concatenate(x, -1) for x in zip(*map_tiles(one, tiles()), strict=True))
        if status.any():
            raise RuntimeError(f"diffrax failed for {np.count_nonzero(status)} patients")
        back = np.argsort(order)
        return counts[:, back], concentrations[:, back]

    return run


def fastest_rate_per_h(p: Parameters, weekly_mg: np.ndarray, omega: Any) -> np.ndarray:
    """Largest eigenvalue of the rates' Jacobian, its mean over the starts of the weeks of a course, [patients]."""
    weekly = recorded.states(p, np.repeat(weekly_mg, 7, axis=0), omega, DYNAMIC)
    starts = jnp.stack(weekly)[:, : 7 * WEEKS : 7]  # [states, weeks, patients]

    def rates(y: jax.Array, p: Parameters, omega: jax.Array) -> jax.Array:
        b = model.steady_state(p)[1]
        return jnp.stack(model.rates(model.State(*y), p, b, p.absorption_rate_first_per_h, omega))

    by_week = jax.vmap(jax.jacfwd(rates), in_axes=(1, None, 0))
    jacobians = jax.jit(jax.vmap(by_week, in_axes=(2, 0, 1)))(starts, p, omega)
    return np.abs(np.linalg.eigvals(np.asarray(jacobians))).max(-1).mean(-1)


def record(drawn: Any, kind: str, n: int, rtol: float) -> Recorded:
    """n patients titrated by the engine, and their courses by the reference solver."""
    patients = getattr(drawn, kind)(n, seed=41)
    weekly = drawn.titrated(patients)
    return Recorded(patients, weekly, *solve(patients.parameters, weekly, patients.omega, rtol)())


def replayed(drawn: Any, r: Recorded, steps: grid.Grid, dtype: Any, engine: str = "kernel") -> tuple:
    """Counts and concentrations of the recorded courses by the engine."""
    q = drawn.cast(r.patients, dtype)

    @jax.jit
    def run(p: Parameters, omega: jax.Array, doses: jax.Array) -> tuple[jax.Array, jax.Array]:
        move = solver(engine, p, DYNAMIC, steps)

        def week(y: Any, w: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            y = move.advance(y, 7 * w, 7 * w + 7, drawn.to_nmol(doses[w], p), omega)
            now = move.read(y)
            return y, (now.platelets_1e9_per_l, now.concentration_nM)

        return jax.lax.scan(week, move.start, jnp.arange(WEEKS))[1]

    return run(q.parameters, q.omega, jnp.asarray(r.weekly_mg, dtype))


def errors(found: tuple, r: Recorded) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of counts and of the concentrations that are not negligible."""
    of_counts = np.abs(np.asarray(found[0], np.float64) / r.counts - 1)
    C = r.concentration_nM
    there = C > 1e-3 * C.max(0, keepdims=True)
    return of_counts, np.abs(np.asarray(found[1], np.float64)[there] / C[there] - 1)


def courses(dtype: Any, n: int, engine: str, steps: grid.Grid = grid.DEFAULT) -> Callable[[], None]:
    """A function that simulates n whole courses of the phase III arm that starts at 5 mg, and keeps nothing."""
    population, arm = load_library().population(dtype), phase3.arm(5.0)

    def run() -> None:
        for _ in trial.simulate(population, arm, phase3.VISITS_D, 1, np.arange(n), steps=steps, engine=engine):
            pass

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=int, default=131_072)
    parser.add_argument("--replayed", type=int, default=2048)
    parser.add_argument("--peer", type=int, default=128)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    drawn = drawers()
    records: list[Record] = []
    print(f"{len(workers())} workers on {jax.devices()[0].device_kind}, JAX {jax.__version__}", flush=True)

    def note(system: str, precision: str, n: int, rate: float, e: list[float] | None, compile_s: float) -> None:
        median, _, p999, worst = e or (None,) * 4
        device, cores = jax.devices()[0].platform, len(workers())
        records.append(
            Record(system, device, cores, precision, n, rate, median, p999, worst, compile_s, jax.__version__)
        )

    replays = {kind: record(drawn, kind, args.replayed, rtol) for kind, rtol in (("ordinary", 1e-8), ("box", 1e-6))}
    print(f"\nErrors of {args.replayed} patients each, float32: median, 99%, 99.9%, worst")
    print(f"{'steps of a day':26s}{'courses/s':>10s}  {'count, ordinary':38s}{'count, box':38s}concentration, ordinary")
    for name, steps in GRIDS.items():
        found = {kind: errors(replayed(drawn, r, steps, jnp.float32), r) for kind, r in replays.items()}
        n = max(args.patients // 4, 2048)
        _, seconds, compile_s = timed(courses(jnp.float32, n, "auto", steps))
        cells = [quantiles(e) for e in (found["ordinary"][0], found["box"][0], found["ordinary"][1])]
        shown = "".join(" ".join(f"{x:8.1e}" for x in cell) + "   " for cell in cells)
        print(f"{name:26s}{n / seconds:10.0f}  {shown}", flush=True)
        note(f"pkpd, {name}", "float32", n, n / seconds, cells[0], compile_s)

    print(f"\n{'whole courses':34s}{'courses/s':>10s}{'first call, s':>15s}")
    rates = {}
    for engine, dtype in (("kernel", jnp.float32), ("kernel", jnp.float64), ("xla", jnp.float32)):
        n = args.patients if engine == "kernel" else args.patients // 4
        _, seconds, compile_s = timed(courses(dtype, n, engine))
        precision = jnp.dtype(dtype).name
        e = quantiles(errors(replayed(drawn, replays["ordinary"], grid.DEFAULT, dtype, engine), replays["ordinary"])[0])
        rates[engine, precision] = n / seconds
        print(f"{f'pkpd {engine}, {precision}':34s}{n / seconds:10.0f}{compile_s:15.1f}", flush=True)
        note(f"pkpd, {engine}", precision, n, n / seconds, e, compile_s)

    r = jax.tree.map(lambda x: x[..., : args.peer], replays["ordinary"])
    best = 0.0
    for method, name, rtol in (("explicit", "Dopri8", 1e-3), ("explicit", "Dopri8", 1e-5), ("stiff", "Kvaerno5", 1e-3)):
        found, seconds, compile_s = timed(solve(r.patients.parameters, r.weekly_mg, r.patients.omega, rtol, method), 1)
        e, rate = quantiles(errors(found, r)[0]), args.peer / seconds
        best = max(best, rate)
        shown = " ".join(f"{x:8.1e}" for x in e)
        print(f"{f'diffrax {name}, float64, rtol {rtol:g}':34s}{rate:10.0f}{compile_s:15.1f}  {shown}", flush=True)
        note(f"diffrax {name} rtol {rtol:g}", "float64", args.peer, rate, e, compile_s)
    for (engine, precision), rate in rates.items():
        print(f"pkpd {engine} {precision}: {rate / best:.0f} times the fastest setting of diffrax")
    if args.json:
        write(args.json, records)


if __name__ == "__main__":
    main()
