"""SciPy: patients one by one (right-hand side compiled by numba where installed, else Python), or stacked.

Stacked, the right-hand side is NumPy over all patients of a core and the solver's steps are common to them; its error
norm is a mean over patients, so tolerances are tighter. Several cores: a process each, forked for the call.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.integrate import odeint, solve_ivp

from benchmarks.systems import rates
from benchmarks.systems import task as tasks
from benchmarks.systems.measured import Measured, Setting, fastest

ATOL = 0.1  # of rtol
MAX_STEPS = 100_000
PLATELETS = 14
NUMBA = importlib.util.find_spec("numba") is not None
BEST = "numba" if NUMBA else "Python"


def _settings() -> Iterator[Setting]:
    for form, method, rtol, n in (
        (BEST, "odeint (LSODA)", 1e-2, 128),
        (BEST, "odeint (LSODA)", 1e-3, 128),
        (BEST, "odeint (LSODA)", 1e-4, 128),
        ("Python", "odeint (LSODA)", 1e-3, 64),
        (BEST, "LSODA", 1e-3, 32),
        (BEST, "DOP853", 1e-3, 16),
        (BEST, "BDF", 1e-3, 8),
        (BEST, "Radau", 1e-3, 8),
        ("stacked", "DOP853", 1e-4, 256),
        ("stacked", "RK45", 1e-5, 512),
        ("stacked", "RK23", 1e-4, 512),
        ("stacked", "RK23", 1e-5, 512),
    ):
        yield Setting(f"{method} {form}, rtol {rtol:g}", "float64", n, (form, method, rtol))


SETTINGS = tuple(dict.fromkeys(_settings()))


@cache
def compiled() -> Callable:
    """f(t, y, constants) of one patient, compiled."""
    import numba

    right_hand_side, _ = rates.compiled()

    @numba.njit
    def derivatives(t, y, k):  # type: ignore[no-untyped-def]
        d = right_hand_side(y, k)
        dy = np.empty(rates.STATES)
        for i in range(rates.STATES):
            dy[i] = d[i]
        return dy

    derivatives(0.0, np.ones(rates.STATES), np.ones(len(rates.Constants._fields)))
    return derivatives


def interpreted(t: float, y: np.ndarray, k: list[float]) -> tuple:
    """The same in Python: lists and floats are faster there than arrays of 16."""
    return rates.rates(y.tolist(), k)


def stacked(t: float, y: np.ndarray, k: rates.Constants) -> np.ndarray:
    """All patients as one system, y [16 * patients]."""
    return np.concatenate(rates.rates_of_arrays(y.reshape(rates.STATES, -1), k))


def advance(method: str, f: Callable, y: np.ndarray, hours: float, k: Any, rtol: float, atol: float) -> np.ndarray:
    """The state after ``hours``."""
    if method.startswith("odeint"):
        return odeint(f, y, (0, hours), args=(k,), tfirst=True, rtol=rtol, atol=atol, mxstep=MAX_STEPS)[1]
    return solve_ivp(f, (0, hours), y, method=method, t_eval=(hours,), args=(k,), rtol=rtol, atol=atol).y[:, -1]


def one_by_one(t: tasks.Task, form: str, method: str, rtol: float, atol: float | None = None) -> tuple:
    """Counts and concentrations of the patients of ``t``."""
    n = t.omega.shape[1]
    course, constants = tasks.stretches(t), rates.constants(t.parameters)
    immune = constants.immune * np.exp(t.omega)[course.week]
    by_patient = np.stack([np.broadcast_to(np.asarray(x, np.float64), (n,)) for x in constants], 1)
    f = compiled() if form == "numba" else interpreted
    found = np.empty((n, course.visit.sum(), rates.STATES))
    for i, y in enumerate(rates.at_rest(t.parameters, n).T):
        week = 0
        for s in range(len(course.hours)):
            y = y.copy()
            y[0] += course.arriving_nmol[s, i]
            k = by_patient[i]
            k[:2] = course.ka_per_h[s, i], immune[s, i]
            y = advance(
                method, f, y, course.hours[s, i], k if form == "numba" else k.tolist(), rtol, atol or ATOL * rtol
            )
            if course.visit[s]:
                found[i, week] = y
                week += 1
    return read(found.T.swapaxes(1, 0), constants)


def together(t: tasks.Task, method: str, rtol: float) -> tuple:
    """The same with all patients stacked in one system; their events must fall at the same times."""
    n = t.omega.shape[1]
    course, k = tasks.stretches(t), rates.constants(t.parameters)
    if np.ptp(course.hours, axis=1).any():
        raise ValueError("lag and switch differ between patients: they cannot be one system")
    y, found = rates.at_rest(t.parameters, n).ravel(), []
    for s in range(len(course.hours)):
        y[:n] += course.arriving_nmol[s]
        now = k._replace(ka_per_h=course.ka_per_h[s], immune=k.immune * np.exp(t.omega[course.week[s]]))
        y = advance(method, stacked, y, course.hours[s, 0], now, rtol, ATOL * rtol)
        if course.visit[s]:
            found.append(y.reshape(rates.STATES, n))
    return read(np.stack(found), k)


def read(y: np.ndarray, k: rates.Constants) -> tuple[np.ndarray, np.ndarray]:
    """Counts and concentrations from states [weeks, 16, patients]."""
    return y[:, PLATELETS], rates.concentration_of_arrays(y[:, 1], y[:, 3], k.V, k.Kss)


def solve(s: Setting, t: tasks.Task) -> tuple:
    form, method, rtol = s.options
    with np.errstate(invalid="ignore"):  # a step that is rejected may have left the range of the square root
        return together(t, method, rtol) if form == "stacked" else one_by_one(t, form, method, rtol)


def measured(task: tasks.Task, cores: int, settings: Sequence[Setting]) -> Iterator[Measured]:
    start = time.perf_counter()
    if NUMBA:
        compiled()
    seconds_compile = time.perf_counter() - start
    for s in settings:
        parts = [tasks.part(task, rows) for rows in np.array_split(np.arange(s.patients), cores)]

        def run(s: Setting = s, parts: list = parts) -> tuple:
            if cores == 1:
                return solve(s, parts[0])
            with multiprocessing.get_context("fork").Pool(cores) as pool:
                found = pool.map(partial(solve, s), parts, chunksize=1)
            return tuple(np.concatenate(x, -1) for x in zip(*found, strict=True))

        (counts, C), seconds = fastest(run, cores)
        yield Measured(s, counts, C, seconds, seconds_compile if s.options[0] == "numba" else 0.0)
