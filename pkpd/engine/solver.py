"""One interface over the solvers: a batch of patients through whole days at one dose, and what a visit reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pkpd.devices import resolve_engine
from pkpd.engine import fast, grid, interval, reference
from pkpd.engine.grid import DAYS_A_WEEK
from pkpd.model import Form, State, free_concentration_nM, steady_state
from pkpd.parameters import Parameters


class Reading(NamedTuple):
    """What is read at a visit, [patients]; AUC and Cmax are those of the interval that ends there."""

    platelets_1e9_per_l: Array
    concentration_nM: Array
    auc_nM_h: Array
    cmax_nM: Array


class Solver(NamedTuple):
    """A solver for one batch. ``advance(y, first_day, day, dose_nmol, omega)`` moves to the dose time of ``day``.

    dose_nmol [patients] arrives on each of these days; omega [weeks, patients] is the immune log activity. unpack,
    pack: what the solver moves as a pytree whose leaves are [patients], and back.
    """

    start: Any
    advance: Callable[[Any, Array, Array, Array, Array], Any]
    read: Callable[[Any], Reading]
    unpack: Callable[[Any], Any] = lambda y: y
    pack: Callable[[Any], Any] = lambda y: y


class Stepper(NamedTuple):
    """The fast engine a step at a time, for curves within a day.

    hours [steps] or [steps, patients] of a day's steps; ``one(y, i, dose_nmol, omega)`` does step ``i`` of a day with
    that dose and immune log activity, both [patients]; ``read`` gives the carried state of the patients;
    ``new_interval`` starts AUC and peak anew.
    """

    start: Any
    hours: Array
    one: Callable[[Any, Array, Array, Array], Any]
    read: Callable[[Any], fast.Carry]
    new_interval: Callable[[Any], Any]


def stepper(engine: str, p: Parameters, form: Form, steps: grid.Grid) -> Stepper:
    """The stepper of a batch at rest before treatment; on a GPU that of XLA, whatever the engine."""
    by_kernel = resolve_engine(engine) == "kernel" and jax.default_backend() != "gpu"
    return (_kernel_stepper if by_kernel else _fast_stepper)(p, form, steps, _at_rest(p))


def _fast_stepper(p: Parameters, form: Form, steps: grid.Grid, at_rest: State) -> Stepper:
    c = fast.course(p)
    hours, ka, ka_none, arrival = grid.day(p, steps)
    k = fast.steps(c, hours, ka, ka_none)

    def one(y: fast.Carry, i: Array, dose_nmol: Array, omega: Array) -> fast.Carry:
        step, arrives = jax.tree.map(lambda leaf: leaf[i], (k, arrival))
        return interval.one_step(y, c, step, arrives, dose_nmol, omega, form)

    return Stepper(fast.carry(at_rest, c, form), hours[:-1], one, lambda y: y, fast.new_interval)


def _kernel_stepper(p: Parameters, form: Form, steps: grid.Grid, at_rest: State) -> Stepper:
    """Every step is a day of one step to the vector code, the row after it the alternative that is not taken."""
    from pkpd.engine.vector import groups, kernel

    filled, n = _filling(at_rest)
    to_read = grid.day(p, steps)[0][:-1]
    p = filled(p)
    c = fast.course(p)
    hours, ka, ka_none, arrival = grid.day(p, steps)
    start = fast.carry(filled(at_rest), c, form)
    k = kernel.prepare(c, hours, ka, ka_none, len(start.concentration_nM))
    packed = groups.pack(c, len(start.concentration_nM), kernel.lanes(start.concentration_nM.dtype))
    no_day, one_day = jnp.int32(0), jnp.int32(1)

    def one(y: groups.Packed, i: Array, dose_nmol: Array, omega: Array) -> groups.Packed:
        own, shared = (lax.dynamic_slice_in_dim(x, i, 2, axis) for x, axis in ((k.by_group, 1), (k.shared, 0)))
        step, arrives = k._replace(by_group=own, shared=shared), lax.dynamic_slice_in_dim(arrival, i, 2)
        dose_nmol, omega = filled((dose_nmol, omega))
        return kernel.advance(y, packed, step, arrives, no_day, one_day, dose_nmol, omega[None], form)

    def read(y: groups.Packed) -> fast.Carry:
        return jax.tree.map(lambda leaf: leaf[:n], groups.unpack(y))

    return Stepper(kernel.start(start), to_read, one, read, kernel.new_interval)


def solver(engine: str, p: Parameters, form: Form, steps: grid.Grid) -> Solver:
    """The solver of that name (``devices.resolve_engine``) for a batch at rest before treatment."""
    engine = resolve_engine(engine)
    return {"kernel": _kernel, "xla": _fast, "reference": _reference}[engine](p, form, steps, _at_rest(p))


def _at_rest(p: Parameters) -> State:
    """The state before treatment, every leaf [patients]."""
    shape = jnp.broadcast_shapes(*(jnp.shape(leaf) for leaf in p))
    return State(*(jnp.broadcast_to(leaf, shape) for leaf in steady_state(p)[0]))


def _filling(at_rest: State) -> tuple[Callable[[Any], Any], int]:
    """What fills arrays [..., patients] up to whole groups with the last patient, and the number of patients."""
    from pkpd.engine.vector import kernel

    n = at_rest.platelets_1e9_per_l.shape[0]
    missing = -n % kernel.lanes(at_rest.platelets_1e9_per_l.dtype)

    def fill(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, missing)], mode="edge") if jnp.ndim(leaf) else leaf

    return lambda values: jax.tree.map(fill, values) if missing else values, n


def _kernel(p: Parameters, form: Form, steps: grid.Grid, at_rest: State) -> Solver:
    """Vector code on a CPU, its last group filled up with the last patient; Pallas on a GPU."""
    if jax.default_backend() == "gpu":
        from pkpd.engine import pallas

        return pallas.solver(p, form, steps, at_rest)
    from pkpd.engine.vector import groups, kernel

    filled, n = _filling(at_rest)
    p = filled(p)
    c = fast.course(p)
    hours, ka, ka_none, arrival = grid.day(p, steps)
    start = fast.carry(filled(at_rest), c, form)
    k = kernel.prepare(c, hours, ka, ka_none, len(start.concentration_nM))

    packed = groups.pack(c, len(start.concentration_nM), kernel.lanes(start.concentration_nM.dtype))

    def advance(y: groups.Packed, first: Array, day: Array, dose_nmol: Array, omega: Array) -> groups.Packed:
        dose_nmol, omega = filled((dose_nmol, omega))
        return kernel.advance(kernel.new_interval(y), packed, k, arrival, first, day, dose_nmol, omega, form)

    def read(y: groups.Packed) -> Reading:
        return Reading(*(leaf[:n] for leaf in _fast_reading(groups.unpack(y))))

    def unpack(y: groups.Packed) -> fast.Carry:
        return jax.tree.map(lambda leaf: leaf[:n], groups.unpack(y))

    return Solver(kernel.start(start), advance, read, unpack, lambda y: kernel.start(filled(y)))


def _fast(p: Parameters, form: Form, steps: grid.Grid, at_rest: State) -> Solver:
    c = fast.course(p)
    hours, ka, ka_none, arrival = grid.day(p, steps)
    k = fast.steps(c, hours, ka, ka_none)

    def advance(y: fast.Carry, first: Array, day: Array, dose_nmol: Array, omega: Array) -> fast.Carry:
        return interval.days(y, c, k, arrival, first, day, dose_nmol, omega, form)

    return Solver(fast.carry(at_rest, c, form), advance, _fast_reading)


def _fast_reading(y: fast.Carry) -> Reading:
    return Reading(y.cells.platelets_1e9_per_l, y.concentration_nM, y.auc_nM_h, y.cmax_nM)


def _reference(p: Parameters, form: Form, steps: grid.Grid, at_rest: State) -> Solver:
    """The peak is the highest concentration at the ends of the fast engine's steps; the AUC is exact."""
    *by_step, arrival = (x[:-1] for x in grid.day(p, steps))
    hours, ka, ka_none = (x if x.ndim == 2 else x[:, None] for x in by_step)  # [steps, patients or 1]
    zero = jnp.zeros_like(at_rest.platelets_1e9_per_l)
    by_patient = zero.shape

    def advance(y: tuple, first: Array, day: Array, dose_nmol: Array, omega: Array) -> tuple:
        rate = jnp.where(dose_nmol > 0, ka, ka_none)
        amount = arrival[:, None] * dose_nmol

        def one_day(d: Array, y: tuple) -> tuple:
            s, auc, cmax = y
            week = jnp.broadcast_to(_week(omega, d), (len(hours), *by_patient))
            stretches = reference.Segments(
                jnp.broadcast_to(hours, week.shape), jnp.broadcast_to(rate, week.shape), amount, week
            )
            found = reference.solve(p, stretches, form, method="explicit", start=s)
            C = free_concentration_nM(found.states, p)
            last = jax.tree.map(lambda x: x[-1], found.states)
            return last, auc + found.eliminated_nmol[-1] / p.clearance_l_per_h, jnp.maximum(cmax, C.max(0))

        return lax.fori_loop(first, day, one_day, (y[0], zero, free_concentration_nM(y[0], p)))

    def read(y: tuple) -> Reading:
        s, auc, cmax = y
        return Reading(s.platelets_1e9_per_l, free_concentration_nM(s, p), auc, cmax)

    return Solver((at_rest, zero, zero), advance, read)


def _week(omega: Array, day: Array) -> Array:
    return lax.dynamic_index_in_dim(omega, day // DAYS_A_WEEK, keepdims=False)
