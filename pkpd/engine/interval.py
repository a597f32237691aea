"""Moves a batch of patients through steps, a day, or the days between two visits: one function for all uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
from jax import Array, lax

from pkpd.engine import fast
from pkpd.engine.fast import Carry, Course, Steps
from pkpd.model import Form


def run(
    y: Carry, c: Course, k: Steps, arrival: Array, dose_nmol: Array, immune_log_activity: Array, form: Form
) -> Carry:
    """Moves through the steps ``k``.

    arrival [steps]: share of ``dose_nmol`` [patients] that enters the depot at the start of each step.
    immune_log_activity [patients]: omega, constant over these steps.
    """

    def body(y: Carry, xs: tuple[Steps, Array]) -> tuple[Carry, None]:
        return one_step(y, c, *xs, dose_nmol, immune_log_activity, form), None

    return lax.scan(body, y, (k, arrival))[0]


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
    y: Carry,
    c: Course,
    k: Steps,
    arrival: Array,
    n_days: Array,
    dose_nmol: Array,
    immune_log_activity: Array,
    form: Form,
) -> Carry:
    """Moves through ``n_days`` equal days; AUC and Cmax are those of these days."""

    def one_day(_: Array, y: Carry) -> Carry:
        return run(y, c, k, arrival, dose_nmol, immune_log_activity, form)

    return lax.fori_loop(0, n_days, one_day, fast.new_interval(y))


def jitted_days(form: Form) -> Callable[..., Carry]:
    """``days`` compiled once per shape for a structural form."""
    return jax.jit(partial(days, form=form))
