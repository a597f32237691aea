"""A course on recorded doses, and its derivatives: the route of gradients through the engine.

Doses and immune activity are given day by day and week by week, so nothing is decided on the way: every reading is a
differentiable function of every parameter that acts, of the doses that are taken and of the immune activity, in
reverse mode (``jax.grad``, ``jax.vjp``) and in forward mode (``jax.jvp``, ``jax.jacfwd``). Lag and switch move the
steps of the day grid with them, so their derivatives are as smooth as the others.

Reverse mode keeps the state at the end of each day and goes through the day again, and through each of its steps again,
on its way back: memory grows with the days, and not with the steps of a day times the days.

What is not differentiable: whether a day has a dose (a dose of 0 mg starts no absorption at the first rate, so the
derivative by such a dose is that of a drop more at the second). The peak is the highest of the grid's points, so its
derivative is that of one point, and jumps where the peak passes to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pkpd import pharmacokinetics
from pkpd.engine import fast, grid, interval
from pkpd.engine.derivatives import sparing
from pkpd.engine.grid import DAYS_A_WEEK
from pkpd.engine.solver import Reading
from pkpd.errors import InputError
from pkpd.model import Form, State, steady_state
from pkpd.parameters import Parameters

FORM = Form(hill_is_one=False)  # the form in which every parameter acts

Read = TypeVar("Read")


def course(
    p: Parameters,
    dose_mg: Array,
    immune_log_activity: Array,
    read_days: Sequence[int],
    form: Form = FORM,
    accuracy: str = "default",
) -> Reading:
    """Readings at ``read_days``, each before that day's dose, [reads, patients].

    p: leaves scalar or [patients]. dose_mg [days, patients] taken at 24 d h. immune_log_activity [weeks, patients]:
    omega in force, the patient's own included (so the leaf of that name in ``p`` does not act). read_days: increasing,
    from 1 to the number of days. AUC (nM h) and Cmax (nM) are those of the days since the last reading. The precision
    is that of ``p``. Raises InputError for days or weeks that do not fit and for an unknown ``accuracy``.
    ``read_days``, ``form`` and ``accuracy`` ("default" or "high") are static under ``jit``.
    """
    n_days, at = len(dose_mg), np.asarray(read_days, int)
    if at.ndim != 1 or not at.size or at[0] < 1 or at[-1] > n_days or (np.diff(at) < 1).any():
        raise InputError(f"read_days {tuple(read_days)}: legal: increasing days from 1 to {n_days}")
    return _course(p, dose_mg, immune_log_activity, tuple(at.tolist()), form, accuracy)


@partial(jax.jit, static_argnames=("read_days", "form", "accuracy"))
def _course(
    p: Parameters, dose_mg: Array, omega: Array, read_days: tuple[int, ...], form: Form, accuracy: str
) -> Reading:
    """Compiled by itself, so that derivatives taken outside ``jit`` trace once too."""
    first = np.isin(np.arange(len(dose_mg)), [0, *read_days])
    by_day = _through(p, dose_mg, omega, first, form, accuracy, _reading)[1]
    return Reading(*(leaf[np.array(read_days) - 1] for leaf in by_day))


@partial(jax.jit, static_argnames=("form", "accuracy"))
def states(
    p: Parameters, dose_mg: Array, immune_log_activity: Array, form: Form = FORM, accuracy: str = "default"
) -> State:
    """State at rest and at the end of each day, before the next dose, [days + 1, patients]; see ``course``."""
    first = np.ones(len(dose_mg), bool)
    start, later = _through(p, dose_mg, immune_log_activity, first, form, accuracy, fast.state)
    return State(*(jnp.concatenate([a[None], b]) for a, b in zip(start, later, strict=True)))


def _through(
    p: Parameters,
    dose_mg: Array,
    immune_log_activity: Array,
    first: np.ndarray,
    form: Form,
    accuracy: str,
    read: Callable[[fast.Carry, fast.Course], Read],
) -> tuple[Read, Read]:
    """What ``read`` finds before treatment and at the end of every day; AUC and Cmax start anew on ``first`` days."""
    n_days, n = dose_mg.shape
    weeks = -(-n_days // DAYS_A_WEEK)
    if len(immune_log_activity) < weeks:
        raise InputError(f"immune_log_activity has {len(immune_log_activity)} weeks; {n_days} days need {weeks}")
    dtype = jnp.result_type(*p)
    p = Parameters(*(jnp.broadcast_to(leaf, (n,)).astype(dtype) for leaf in p))
    dose_mg, immune_log_activity = (jnp.asarray(x, dtype) for x in (dose_mg, immune_log_activity))
    steps = grid.accuracy(accuracy)

    def prepared(p: Parameters) -> tuple[fast.Course, fast.Steps, Array]:
        c = fast.course(p)
        hours, ka, ka_none, arrival = grid.day(p, steps)
        return c, fast.steps(c, hours, ka, ka_none), arrival

    true = ~(p.lag_time_h[0] < 0)
    c, k, arrival = sparing(prepared, true, p)
    rows = k, arrival

    @partial(jax.checkpoint, prevent_cse=False)
    def step(y: fast.Carry, c: fast.Course, k: fast.Steps, arrives: Array, dose: Array, omega: Array) -> fast.Carry:
        return sparing(partial(interval.one_step, form=form), true, y, c, k, arrives, dose, omega)

    @partial(jax.checkpoint, prevent_cse=False)
    def day(y: fast.Carry, dose_nmol: Array, omega: Array, first: Array, begins: Array, ends: Array) -> fast.Carry:
        y = y._replace(
            auc_nM_h=jnp.where(first, 0, y.auc_nM_h), cmax_nM=jnp.where(first, y.concentration_nM, y.cmax_nM)
        )

        def row(y: fast.Carry, now: tuple[fast.Steps, Array]) -> fast.Carry:
            return step(y, c, *now, dose_nmol, omega)

        # the steps that every day takes are a scan of their own: in a condition, reverse mode keeps copies
        to_arrival, *_, to_dose, to_next_arrival = (
            jax.tree.map(lambda x, i=i: x[i], rows) for i in range(len(arrival))
        )
        y = lax.cond(begins, row, lambda y, _: y, y, to_arrival)
        y = lax.scan(lambda y, now: (row(y, now), None), y, jax.tree.map(lambda x: x[1:-2], rows))[0]
        return row(y, jax.tree.map(lambda a, b: jnp.where(ends, a, b), to_dose, to_next_arrival))

    def next_day(y: fast.Carry, xs: tuple[Array, ...]) -> tuple[fast.Carry, Read]:
        y = day(y, *xs)
        return y, read(y, c)

    start = fast.carry(steady_state(p)[0], c, form)
    omega = jnp.repeat(immune_log_activity, DAYS_A_WEEK, axis=0)[:n_days]
    weekly = np.arange(n_days + 1) % DAYS_A_WEEK == 0
    begins, ends = first | weekly[:-1], np.append(first[1:], True) | weekly[1:]
    by_day = (pharmacokinetics.arriving_nmol(dose_mg, p), omega, *map(jnp.asarray, (first, begins, ends)))
    return read(start, c), lax.scan(next_day, start, by_day)[1]


def _reading(y: fast.Carry, c: fast.Course) -> Reading:
    return Reading(y.cells.platelets_1e9_per_l, y.concentration_nM, y.auc_nM_h, y.cmax_nM)
