"""The step that every engine runs, and with XLA a day and the days between two visits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from jax import Array, lax

from pkpd.engine import fast, grid
from pkpd.engine.fast import Carry, Course, Steps
from pkpd.model import Form

State = TypeVar("State")


def one_step(
    y: Carry,
    c: Course,
    k: Steps,
    arrival: Array,
    dose_nmol: Array,
    immune_log_activity: Array,
    form: Form,
    plain: bool = False,
) -> Carry:
    """Moves through one step, at whose start ``arrival * dose_nmol`` enters the depot: what every back end runs."""
    drug = y.drug._replace(depot_nmol=y.drug.depot_nmol + arrival * dose_nmol)
    return fast.step(k, y._replace(drug=drug), c, dose_nmol > 0, immune_log_activity, form, plain)


def day(step: Callable[..., State], y: State, rows: tuple[Any, ...], begins: Array, ends: Array) -> State:
    """Moves through a day of a stretch; ``step(y, *row)`` moves through one of ``grid.day``'s rows, [rows, ...]."""

    def body(y: State, xs: tuple[Array, tuple]) -> tuple[State, None]:
        acts, row = xs
        return lax.cond(acts, step, lambda y, *row: y, y, *row), None

    return lax.scan(body, y, (grid.acts(len(rows[-1]), begins, ends), rows))[0]


def days(
    y: Carry, c: Course, k: Steps, arrival: Array, first: Array, last: Array, dose_nmol: Array, omega: Array, form: Form
) -> Carry:
    """Moves through the days from ``first`` up to ``last`` at one dose; AUC and Cmax are those of these days.

    k, arrival: of the rows of ``grid.day``. dose_nmol [patients]; omega [weeks, patients] is the immune log activity.
    """

    def one_day(d: Array, y: Carry) -> Carry:
        week = lax.dynamic_index_in_dim(omega, d // grid.DAYS_A_WEEK, keepdims=False)

        def step(y: Carry, k: Steps, arrives: Array) -> Carry:
            return one_step(y, c, k, arrives, dose_nmol, week, form)

        return day(step, y, (k, arrival), *grid.stretch(d, first, last))

    return lax.fori_loop(first, last, one_day, fast.new_interval(y))
