"""The engine as vector code: one compiled loop over groups of patients, days and steps.

Two custom calls. ``prepare`` writes the coefficients of all steps of a patient, once a course, group by group so that
a group's stay in the cache; ``advance`` moves a group through all days of an interval with its state in registers and
on the stack. What is one number in the population stays one number. Both are written from the jaxprs of
``fast.steps`` and ``interval.one_step``: the model is written once, in JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr
from jax.interpreters import partial_eval
from llvmlite import ir

from pkpd.engine import fast, grid, interval
from pkpd.engine.vector import custom_call
from pkpd.engine.vector.elementary import FORMATS, Vectors
from pkpd.engine.vector.lowering import emit, trace
from pkpd.model import Form, State
from pkpd.parameters import Parameters

INDEX = ir.IntType(64)
DAYS_A_WEEK = 7
REGISTERS = 1  # processor registers that one value of a group fills


def lanes(dtype: Any) -> int:
    """Patients in a group: those whose values fill the registers of one value."""
    return REGISTERS * custom_call.register_bytes() // np.dtype(dtype).itemsize


class Coefficients(NamedTuple):
    """Coefficients of all steps: those that differ between patients, in groups, and those that do not."""

    by_group: Array  # [groups, steps, leaves, lanes]
    shared: Array  # [steps, leaves]
    differs: tuple[bool, ...]  # of each leaf of fast.Steps


class Loop(NamedTuple):
    """A counted loop being written: its index, and how to close it."""

    index: ir.Value
    head: ir.Block
    after: ir.Block


def _loop(b: ir.IRBuilder, first: ir.Value, end: ir.Value, carried: Sequence[ir.Value]) -> tuple[Loop, list]:
    """Opens a loop from ``first`` below ``end``; the builder stands in its body, given the carried values."""
    before = b.block
    head, body, after = (b.append_basic_block(name) for name in ("loop", "body", "after"))
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(INDEX)
    index.add_incoming(first, before)
    values = []
    for value in carried:
        phi = b.phi(value.type)
        phi.add_incoming(value, before)
        values.append(phi)
    b.cbranch(b.icmp_signed("<", index, end), body, after)
    b.position_at_end(body)
    return Loop(index, head, after), values


def _close(b: ir.IRBuilder, loop: Loop, phis: Sequence[ir.Value], values: Sequence[ir.Value]) -> None:
    """Ends the body with the new carried values; the builder stands after the loop, where ``phis`` are the last ones."""
    loop.index.add_incoming(b.add(loop.index, INDEX(1)), b.block)
    for phi, value in zip(phis, values, strict=True):
        phi.add_incoming(value, b.block)
    b.branch(loop.head)
    b.position_at_end(loop.after)


class Memory(NamedTuple):
    """Loads and stores of groups at element offsets."""

    v: Vectors

    def _place(self, base: ir.Value, element: ir.Value) -> ir.Value:
        return self.v.b.gep(base, [element], source_etype=self.v.format.scalar)

    @property
    def _align(self) -> int:
        return self.v.format.integer.width // 8  # XLA promises no more than an element's own

    def group(self, base: ir.Value, element: ir.Value) -> ir.Value:
        return self.v.b.load(self._place(base, element), align=self._align, typ=self.v.type)

    def shared(self, base: ir.Value, element: ir.Value) -> ir.Value:
        number = self.v.b.load(self._place(base, element), align=self._align, typ=self.v.format.scalar)
        one = self.v.b.insert_element(ir.Constant(self.v.type, ir.Undefined), number, ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.v.lanes), [0] * self.v.lanes)
        return self.v.b.shuffle_vector(one, ir.Constant(self.v.type, ir.Undefined), mask)

    def put(self, value: ir.Value, base: ir.Value, element: ir.Value) -> None:
        self.v.b.store(value, self._place(base, element), align=self._align)


def _needed(closed: ClosedJaxpr, outputs: Sequence[bool]) -> tuple[ClosedJaxpr, list[bool]]:
    """The jaxpr for the wanted outputs only, and which inputs it reads."""
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, list(outputs))
    return ClosedJaxpr(jaxpr, closed.consts), list(used)


def _is_by_patient(leaf: Any, n: int) -> bool:
    return np.ndim(leaf) > 0 and np.shape(leaf)[-1] == n and n > 1


def _write(
    name: str, dtype: str, n_results: int, n_arguments: int, body: Callable[[Memory, list, list], None]
) -> str:
    module = ir.Module()

    def write(b: ir.IRBuilder, arguments: list, results: list) -> None:
        body(Memory(Vectors(b, dtype, lanes(dtype))), arguments, results)

    custom_call.handler(module, name, n_arguments, n_results, write)
    return custom_call.register(module, name)


def prepare(c: fast.Course, hours: Array, ka: Array, ka_none: Array) -> Coefficients:
    """Coefficients of the steps ``hours`` [steps] or [steps, patients] for every patient of the course."""
    n = c.baseline.turnover.ktr_per_h.shape[-1]
    dtype, L, S = hours.dtype.name, lanes(hours.dtype), hours.shape[0]
    shapes = jax.eval_shape(fast.steps, c, hours, ka, ka_none)
    differs = tuple(leaf.shape[-1:] == (n,) and leaf.ndim == 2 for leaf in jax.tree.leaves(shapes))
    shared = [leaf for leaf, own in zip(jax.tree.leaves(fast.steps(c, hours, ka, ka_none)), differs, strict=True) if not own]
    shared = jnp.stack([leaf.reshape(S) for leaf in shared], -1) if shared else jnp.zeros((S, 1), dtype)
    if not any(differs):
        return Coefficients(jnp.zeros((1,), dtype), shared, differs)

    def one(c: fast.Course, h: Array, ka: Array, none: Array) -> list:
        return jax.tree.leaves(fast.one_step_coefficients(c, h, ka, none))

    inputs = jax.tree.leaves((c, hours, ka, ka_none))
    n_course = len(inputs) - 3
    closed, used = _needed(trace(one, c, hours, ka, ka_none)[0], differs)
    read = [i for i, is_used in enumerate(used) if is_used]
    arrays = [jnp.asarray(inputs[i], dtype) for i in read]
    stepped = [i >= n_course for i in read]
    K = sum(differs)

    def body(m: Memory, arguments: list, results: list) -> None:
        b = m.v.b
        own = [_is_by_patient(a, n) for a in arrays]
        constants = {j: m.shared(p, INDEX(0)) for j, p in enumerate(arguments) if not own[j] and not stepped[j]}
        groups, _ = _loop(b, INDEX(0), INDEX(n // L), [])
        at = b.mul(groups.index, INDEX(L))
        constants |= {j: m.group(p, at) for j, p in enumerate(arguments) if own[j] and not stepped[j]}
        steps, _ = _loop(b, INDEX(0), INDEX(S), [])
        for j, p in enumerate(arguments):
            if stepped[j]:
                row = b.mul(steps.index, INDEX(n))
                constants[j] = m.group(p, b.add(row, at)) if own[j] else m.shared(p, steps.index)
        found = emit(m.v, closed, [constants[j] for j in range(len(arguments))])
        start = b.mul(b.add(b.mul(groups.index, INDEX(S)), steps.index), INDEX(K * L))
        for k, value in enumerate(found):
            m.put(value, results[0], b.add(start, INDEX(k * L)))
        _close(b, steps, [], [])
        _close(b, groups, [], [])

    target = _write("prepare", dtype, 1, len(arrays), body)
    shape = jax.ShapeDtypeStruct((n // L, S, K, L), dtype)
    return Coefficients(custom_call.call(target, [shape], *arrays)[0], shared, differs)


def advance(
    y: fast.Carry,
    c: fast.Course,
    k: Coefficients,
    arrival: Array,
    first: Array,
    day: Array,
    dose_nmol: Array,
    omega: Array,
    form: Form,
) -> fast.Carry:
    """Moves through the days from ``first`` to ``day``; as ``interval.run`` on each of them.

    Every leaf of ``y`` is [patients], a multiple of the lanes; omega [weeks, patients].
    """
    n, dtype = dose_nmol.shape[0], dose_nmol.dtype.name
    L, S, K, shared = lanes(dtype), k.shared.shape[0], sum(k.differs), k.shared.shape[1]
    one_step_k = jax.eval_shape(fast.one_step_coefficients, c, *(jax.ShapeDtypeStruct((), dtype),) * 3)

    def one(y: fast.Carry, c: fast.Course, k: fast.Steps, arrival: Array, dose: Array, omega: Array) -> list:
        return jax.tree.leaves(interval.one_step(y, c, k, arrival, dose, omega, form))

    states, course = jax.tree.leaves(y), jax.tree.leaves(c)
    closed, used = _needed(trace(one, y, c, one_step_k, arrival, dose_nmol, omega)[0], [True] * len(states))
    kept = [i for i in range(len(course)) if used[len(states) + i]]
    parameters = [jnp.asarray(course[i], dtype) for i in kept]
    arrays = [*states, *parameters, k.by_group, k.shared, arrival, dose_nmol, omega]
    arrays += [jnp.asarray(x, jnp.int32) for x in (first, day)]
    n_states, n_parameters = len(states), len(parameters)

    def body(m: Memory, arguments: list, results: list) -> None:
        b = m.v.b
        own = arguments[n_states : n_states + n_parameters]
        by_group, by_step, arrivals, dose, immune, first_at, day_at = arguments[n_states + n_parameters :]
        differs = [_is_by_patient(p, n) for p in parameters]
        values = {j: m.shared(p, INDEX(0)) for j, p in enumerate(own) if not differs[j]}
        from_day, to_day = (b.sext(b.load(p, typ=ir.IntType(32)), INDEX) for p in (first_at, day_at))
        groups, _ = _loop(b, INDEX(0), INDEX(n // L), [])
        at = b.mul(groups.index, INDEX(L))
        values |= {j: m.group(p, at) for j, p in enumerate(own) if differs[j]}
        given = m.group(dose, at)
        start = [m.group(p, at) for p in arguments[:n_states]]
        days, state = _loop(b, from_day, to_day, start)
        week = b.sdiv(days.index, INDEX(DAYS_A_WEEK))
        activity = m.group(immune, b.add(b.mul(week, INDEX(n)), at))
        steps, inside = _loop(b, INDEX(0), INDEX(S), state)
        own_at = b.mul(b.add(b.mul(groups.index, INDEX(S)), steps.index), INDEX(K * L))
        shared_at = b.mul(steps.index, INDEX(shared))
        coefficients, i, j = [], 0, 0
        for is_own in k.differs:
            if is_own:
                coefficients.append(m.group(by_group, b.add(own_at, INDEX(i * L))))
                i += 1
            else:
                coefficients.append(m.shared(by_step, b.add(shared_at, INDEX(j))))
                j += 1
        everything = [*inside, *_spread(values, kept, len(course)), *coefficients]
        everything += [m.shared(arrivals, steps.index), given, activity]
        new = emit(m.v, closed, [x for x, is_used in zip(everything, used, strict=True) if is_used])
        _close(b, steps, inside, new)
        _close(b, days, state, inside)
        for value, place in zip(state, results, strict=True):
            m.put(value, place, at)
        _close(b, groups, [], [])

    target = _write("advance", dtype, n_states, len(arrays), body)
    shapes = [jax.ShapeDtypeStruct((n,), dtype)] * n_states
    return jax.tree.unflatten(jax.tree.structure(y), custom_call.call(target, shapes, *arrays))


def _spread(values: dict[int, Any], kept: Sequence[int], n: int) -> list:
    """Values at their places among all n leaves; None where a leaf is not read."""
    result: list[Any] = [None] * n
    for j, i in enumerate(kept):
        result[i] = values[j]
    return result
