"""numbalsoda: LSODA (C++) and DOP853 (Fortran) called from a compiled loop over patients, one thread a core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numba
import numpy as np
from numbalsoda import dop853, lsoda, lsoda_sig

from benchmarks.systems import rates
from benchmarks.systems import task as tasks
from benchmarks.systems.measured import Measured, Setting, compilation, fastest

METHODS = {"LSODA": lsoda, "DOP853": dop853}
MAX_STEPS = 100_000
ATOL = 0.1  # of rtol: 1e-4 to 1 of it give the same speed and nearly the same error
SETTINGS = tuple(
    Setting(f"{method}, rtol {rtol:g}", "float64", 256, (method, rtol))
    for method, tolerances in (("LSODA", (1e-2, 1e-3, 1e-4, 1e-6)), ("DOP853", (1e-2, 1e-3, 1e-4, 1e-6)))
    for rtol in tolerances
)
right_hand_side, concentration = rates.compiled()
STATES, PLATELETS = rates.STATES, 14
V, KSS = rates.Constants._fields.index("V"), rates.Constants._fields.index("Kss")


@numba.cfunc(lsoda_sig)
def derivatives(t, y, dy, k):  # type: ignore[no-untyped-def]
    d = right_hand_side(y, k)
    for i in range(STATES):
        dy[i] = d[i]


def loop(solve: Callable, cores: int) -> Callable:
    """Compiled loop over patients and stretches with numbalsoda's ``lsoda`` or ``dop853``."""

    @numba.njit(parallel=cores > 1)
    def run(address, start, constants, hours, ka, arriving, immune, visit, rtol):  # type: ignore[no-untyped-def]
        n = start.shape[1]
        counts = np.full((visit.sum(), n), np.nan)
        C = np.full_like(counts, np.nan)
        for i in numba.prange(n):
            y, k, times, week = start[:, i].copy(), constants[:, i].copy(), np.zeros(2), 0
            for s in range(hours.shape[0]):
                y[0] += arriving[s, i]
                k[0], k[1], times[1] = ka[s, i], immune[s, i], hours[s, i]
                found, good = solve(address, y, times, k, rtol, ATOL * rtol, MAX_STEPS)
                if not good:
                    break
                y = found[1].copy()
                if visit[s]:
                    counts[week, i], C[week, i] = y[PLATELETS], concentration(y[1], y[3], k[V], k[KSS])
                    week += 1
        return counts, C

    return run


def measured(task: tasks.Task, cores: int, settings: Sequence[Setting]) -> Iterator[Measured]:
    numba.set_num_threads(cores)
    loops = {method: loop(solve, cores) for method, solve in METHODS.items()}

    def solver(s: Setting, n: int) -> Callable[[], tuple]:
        t = tasks.first(task, n)
        course, method, rtol = tasks.stretches(t), *s.options
        k = rates.constants(t.parameters)
        constants = np.stack([np.broadcast_to(np.asarray(x, np.float64), (n,)) for x in k])
        immune = k.immune * np.exp(t.omega)[course.week]
        start = rates.at_rest(t.parameters, n)
        by_patient = (np.ascontiguousarray(x) for x in (course.hours, course.ka_per_h, course.arriving_nmol, immune))
        arguments = (derivatives.address, start, constants, *by_patient, course.visit, rtol)
        return lambda: loops[method](*arguments)

    compiled = {s.options[0]: s for s in settings}
    seconds_compile = {method: compilation(solver(s, cores), cores) for method, s in compiled.items()}
    for s in settings:
        (counts, C), seconds = fastest(solver(s, s.patients), cores)
        yield Measured(s, counts, C, seconds, seconds_compile[s.options[0]])
