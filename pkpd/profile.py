"""One patient's whole course at the times of a case, by the fast engine or the reference solver."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array, lax

from pkpd import model, pharmacokinetics
from pkpd.case import Case, load_case
from pkpd.engine import fast, grid, reference
from pkpd.errors import InputError, nearest
from pkpd.model import Form, State
from pkpd.parameters import Parameters

SOLVERS = ("fast", "reference")
COLUMNS = ("time_h", *State._fields, "free_concentration_nM")
TICKS_AN_HOUR = 2**33  # times are equal, hence one boundary, if they round to the same 1.2e-10 h
FORM = Form(hill_is_one=False)
DAY_GRID = grid.ACCURACY["high"]
BLOCKS = {"fast": 512, "reference": 64}  # steps are padded to a multiple, so that most cases share one program


class Schedule(NamedTuple):
    """A course cut at every event, output and grid point (NumPy).

    hours, ka_per_h, dose_mg [steps]: length, absorption rate in force, dose that arrives at the start of the step.
    output [times]: boundary at which each requested time is read, before what arrives there.
    """

    hours: np.ndarray
    ka_per_h: np.ndarray
    dose_mg: np.ndarray
    output: np.ndarray


def read_case(path: str | Path) -> Case:
    """The Case of a TOML file; InputError, one line that names file, key, value and what is legal."""
    return load_case(path)


def run_case(
    case: Case | str | Path, solver: str = "fast", form: Form = FORM, steps: grid.Grid = DAY_GRID
) -> pd.DataFrame:
    """State and free concentration at the times of ``case``, a row each, with the columns of ``COLUMNS``.

    solver: "fast" in float64 where it is enabled, else float32; or "reference" (diffrax, needs float64). ``steps``
    is the day grid of the fast solver. Raises InputError for a bad case, an unknown solver, missing float64 or a
    course that leaves the range of the numbers.
    """
    if solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}{nearest(str(solver), SOLVERS)}")
    where = "case" if isinstance(case, Case) else str(case)
    case = case if isinstance(case, Case) else load_case(case)
    p = case.patient(jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32)
    times, doses = np.asarray(case.times_h), case.dose_by_day_mg()
    plan = schedule(times, doses, p, steps if solver == "fast" else None)
    solve = _fast_course if solver == "fast" else _reference_course
    course = solve(p, *(jnp.asarray(column, p.clearance_l_per_h.dtype) for column in _columns(plan, solver)), form)
    values = np.stack([np.asarray(column)[plan.output] for column in course], axis=1)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"{where}: {COLUMNS[1 + column]} is not finite at {times[row]:g} h with solver {solver}:"
            " doses or parameters are too extreme; legal: values nearer to those of the library"
        )
    return pd.DataFrame(np.column_stack([times, values]), columns=list(COLUMNS))


def schedule(times_h: np.ndarray, dose_mg: np.ndarray, p: Parameters, steps: grid.Grid | None) -> Schedule:
    """Cuts the time from 0 to the last of ``times_h`` [times] at every output, arrival and switch of absorption.

    dose_mg [days]: dose at 24 d h. ``steps`` adds the boundaries of the day grid; None adds none. A dose arrives
    ``lag`` hours after it was taken; absorption is at its first rate for ``switch`` hours after the latest arrival.
    """
    lag, switch = float(p.lag_time_h), float(p.absorption_switch_h)
    outputs = _ticks(times_h)
    dosed = np.flatnonzero(dose_mg)
    arrivals = _ticks(grid.HOURS_A_DAY * dosed + lag)
    turns = arrivals + _ticks(switch)
    days = np.zeros(0, np.int64) if steps is None else _day_boundaries(len(dose_mg), lag, switch, steps)
    boundaries = np.unique(np.concatenate([[0], outputs, arrivals, turns, days]).astype(np.int64))
    boundaries = boundaries[boundaries <= outputs[-1]]
    starts = boundaries[:-1]
    latest = np.searchsorted(arrivals, starts, side="right") - 1
    early = latest >= 0
    early[early] = starts[early] < turns[latest[early]]
    mg = np.zeros(len(starts))
    in_time = arrivals < outputs[-1]
    mg[np.searchsorted(starts, arrivals[in_time])] = dose_mg[dosed[in_time]]
    return Schedule(
        hours=np.diff(boundaries) / TICKS_AN_HOUR,
        ka_per_h=np.where(early, float(p.absorption_rate_first_per_h), float(p.absorption_rate_second_per_h)),
        dose_mg=mg,
        output=np.searchsorted(boundaries, outputs),
    )


def _ticks(hours: Any) -> np.ndarray:
    return np.rint(np.asarray(hours) * TICKS_AN_HOUR).astype(np.int64)


def _day_boundaries(n_days: int, lag: float, switch: float, steps: grid.Grid) -> np.ndarray:
    """Boundaries of the engine's day grid of all days, in ticks; none where a dose is taken: nothing changes then."""
    before = lag + switch * np.cumsum(steps.before_switch)
    rest = grid.HOURS_A_DAY - lag - switch
    after = lag + switch + rest * np.cumsum(steps.after_switch[:-1])
    day = np.concatenate([[lag], before, after])
    return _ticks(grid.HOURS_A_DAY * np.arange(n_days)[:, None] + day).ravel()


def _columns(plan: Schedule, solver: str) -> tuple[np.ndarray, ...]:
    """hours, ka_per_h and dose_mg, padded with steps of no length after the last output."""
    n, block = len(plan.hours), BLOCKS[solver]
    padding = (0, max(1, -(-n // block)) * block - n)
    return tuple(np.pad(column, padding) for column in plan[:3])


@partial(jax.jit, static_argnames="form")
def _fast_course(p: Parameters, hours: Array, ka_per_h: Array, dose_mg: Array, form: Form) -> tuple[Array, ...]:
    """States and concentration at the boundaries of steps, [steps + 1] each."""
    c = fast.course(p)
    start = fast.carry(model.steady_state(p)[0], c, form)
    arriving = pharmacokinetics.arriving_nmol(dose_mg, p)

    def body(y: fast.Carry, xs: tuple[Array, Array, Array]) -> tuple[fast.Carry, tuple[Array, ...]]:
        h, ka, arrives = xs
        k = jax.tree.map(lambda leaf: leaf[0], fast.steps(c, h[None], ka[None], ka[None]))
        y = y._replace(drug=y.drug._replace(depot_nmol=y.drug.depot_nmol + arrives))
        y = fast.step(k, y, c, jnp.asarray(True), p.immune_log_activity, form)
        return y, (*fast.state(y, c), y.concentration_nM)

    _, later = lax.scan(body, start, (hours, ka_per_h, arriving))
    now = (*fast.state(start, c), start.concentration_nM)
    return tuple(jnp.concatenate([first[None], rest]) for first, rest in zip(now, later, strict=True))


@partial(jax.jit, static_argnames="form")
def _reference_course(p: Parameters, hours: Array, ka_per_h: Array, dose_mg: Array, form: Form) -> tuple[Array, ...]:
    """The same by the reference solver; NaN where it failed."""
    amount = pharmacokinetics.arriving_nmol(dose_mg, p)
    omega = jnp.broadcast_to(p.immune_log_activity, hours.shape)
    found = reference.solve(p, reference.Segments(hours, ka_per_h, amount, omega), form)
    states = State(*(jnp.where(found.status == reference.OK, column, jnp.nan) for column in found.states))
    return (*states, model.free_concentration_nM(states, p))
