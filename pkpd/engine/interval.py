"""The step that every engine runs, and with XLA a day and the days between two visits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from pkpd.engine import fast, grid
from pkpd.engine.fast import Carry, Course, Steps
from pkpd.model import Form


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


def days(
    y: Carry, c: Course, k: Steps, arrival: Array, first: Array, last: Array, dose_nmol: Array, omega: Array, form: Form
) -> Carry:
    """Moves through the days from ``first`` up to ``last`` at one dose; AUC and Cmax are those of these days.

    k, arrival: of the rows of ``grid.day``. dose_nmol [patients]; omega [weeks, patients] is the immune log activity.
    """
    rows = arrival.shape[0]

    def one_day(d: Array, y: Carry) -> Carry:
        week = lax.dynamic_index_in_dim(omega, d // grid.DAYS_A_WEEK, keepdims=False)
        begins, ends = grid.stretch(d, first, last)

        def step(s: Array, y: Carry) -> Carry:
            at = grid.row(s, rows, ends)
            own, arrives = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, at, keepdims=False), (k, arrival))
            return one_step(y, c, own, arrives, dose_nmol, week, form)

        return lax.fori_loop(1 - begins.astype(jnp.int32), rows - 1, step, y)

    return lax.fori_loop(first, last, one_day, fast.new_interval(y))
