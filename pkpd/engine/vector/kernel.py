"""The engine as vector code: one compiled loop over groups of patients, days and steps.

Two custom calls. ``prepare`` writes the coefficients of all steps of a patient, once a course, group by group so that
a group's stay in the cache; ``advance`` moves a group through all days of an interval with its state in registers and
on the stack. What is one number in the population stays one number. Both are written from the jaxprs of
``fast.one_step_coefficients`` and ``interval.one_step``: the model is written once, in JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters import partial_eval
from llvmlite import ir

from pkpd.engine import fast, interval
from pkpd.engine.grid import DAYS_A_WEEK
from pkpd.engine.vector import custom_call, loops
from pkpd.engine.vector.elementary import Vectors
from pkpd.engine.vector.groups import Packed, is_by_patient, pack
from pkpd.engine.vector.loops import INDEX, Memory
from pkpd.engine.vector.lowering import emit, trace
from pkpd.model import Form

REGISTERS = 2  # of a value in a group: the two chains of operations hide each other's latency


class Coefficients(NamedTuple):
    """Coefficients of all steps: those that differ between patients, in groups, and those that do not."""

    by_group: Array  # [groups, steps, leaves, lanes]
    shared: Array  # [steps, leaves]
    differs: tuple[bool, ...]  # of each leaf of fast.Steps
    structure: Any  # of fast.Steps


def lanes(dtype: Any) -> int:
    """Patients in a group: those whose values fill the registers of one value."""
    return REGISTERS * custom_call.register_bytes() // np.dtype(dtype).itemsize


def prepare(c: fast.Course, hours: Array, ka: Array, ka_none: Array, n: int) -> Coefficients:
    """Coefficients of the steps ``hours`` [steps] or [steps, patients] for the n patients of the course."""
    dtype, L, S = hours.dtype.name, lanes(hours.dtype), hours.shape[0]
    inputs, by_step = jax.tree.leaves((c, hours, ka, ka_none)), 3
    own = [is_by_patient(leaf, n) for leaf in inputs]
    closed, structure = trace(fast.one_step_coefficients, c, hours, ka, ka_none)
    differs = _depend(closed, own)
    K, K_shared = sum(differs), len(differs) - sum(differs)
    for_own, own_reads = _needed(closed, differs)
    for_all, shared_reads = _needed(closed, [not is_own for is_own in differs])
    read = [i for i, is_read in enumerate(map(max, own_reads, shared_reads)) if is_read]
    arrays = [jnp.asarray(inputs[i], dtype) for i in read]
    of_step = {j: i >= len(inputs) - by_step for j, i in enumerate(read)}

    def body(m: Memory, arguments: list, results: list) -> None:
        b = m.v.b
        places = list(enumerate(arguments))
        values = {j: m.shared(p, INDEX(0)) for j, p in places if not own[read[j]] and not of_step[j]}

        def written(part: ClosedJaxpr, reads: list[bool], result: ir.Value, start: ir.Value) -> None:
            numbers = [values[j] for j, i in enumerate(read) if reads[i]]
            for k, value in enumerate(emit(m.v, part, numbers) if numbers else []):
                m.put(value, result, b.add(start, INDEX(k * L)))

        steps = loops.begin(b, INDEX(0), INDEX(S))
        values |= {j: m.shared(p, steps.index) for j, p in places if of_step[j] and not own[read[j]]}
        written(for_all, shared_reads, results[1], b.mul(steps.index, INDEX(K_shared * L)))
        loops.end(b, steps)

        groups = loops.begin(b, INDEX(0), INDEX(n // L if K else 0))
        at = b.mul(groups.index, INDEX(L))
        values |= {j: m.group(p, at) for j, p in places if own[read[j]] and not of_step[j]}
        steps = loops.begin(b, INDEX(0), INDEX(S))
        row = b.add(b.mul(steps.index, INDEX(n)), at)
        values |= {j: m.group(p, row) if own[read[j]] else m.shared(p, steps.index) for j, p in places if of_step[j]}
        written(for_own, own_reads, results[0], b.mul(b.add(b.mul(groups.index, INDEX(S)), steps.index), INDEX(K * L)))
        loops.end(b, steps)
        loops.end(b, groups)

    target = _write("prepare", dtype, len(arrays), 2, body)
    shapes = [jax.ShapeDtypeStruct((size, S, count, L), dtype) for size, count in ((n // L, K), (1, K_shared))]
    by_group, shared = custom_call.call(target, shapes, *arrays)
    return Coefficients(by_group, shared[0, :, :, 0], differs, structure)


def start(y: fast.Carry) -> Packed:
    """The state as ``advance`` moves it; every leaf of ``y`` is [patients], a multiple of the lanes."""
    n = y.concentration_nM.shape[0]
    return pack(y, n, lanes(y.concentration_nM.dtype))


def new_interval(y: Packed) -> Packed:
    """AUC from 0 and the peak from what is there now."""
    at = jax.tree.unflatten(y.structure, range(y.structure.num_leaves))
    own = y.own.at[:, at.auc_nM_h].set(0).at[:, at.cmax_nM].set(y.own[:, at.concentration_nM])
    return replace(y, own=own)


def advance(
    y: Packed,
    c: Packed,
    k: Coefficients,
    arrival: Array,
    first: Array,
    day: Array,
    dose_nmol: Array,
    omega: Array,
    form: Form,
) -> Packed:
    """Moves through the days from ``first`` to ``day``; as ``interval.days``, but AUC and Cmax go on.

    k, arrival: of the rows of ``grid.day``. y: of a ``fast.Carry``; c: of the ``fast.Course``; dose_nmol [patients];
    omega [weeks, patients].
    """
    n, dtype = dose_nmol.shape[0], dose_nmol.dtype.name
    L, (S, n_shared), K = lanes(dtype), k.shared.shape, sum(k.differs)

    def numbers(structure: Any) -> Any:
        return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct((), dtype)] * structure.num_leaves)

    def one(y: fast.Carry, c: fast.Course, k: fast.Steps, arrives: Array, dose: Array, omega: Array) -> fast.Carry:
        return interval.one_step(y, c, k, arrives, dose, omega, form, plain=True)

    n_state, n_course = y.structure.num_leaves, c.structure.num_leaves
    traced = trace(one, *map(numbers, (y.structure, c.structure, k.structure)), arrival, dose_nmol, omega)[0]
    closed, used = _needed(traced, [True] * n_state)
    read = [i for i in range(n_course) if used[n_state + i]]
    days = [jnp.asarray(x, jnp.int32) for x in (first, day)]
    arrays = [y.own, c.own, c.shared, k.by_group, k.shared, arrival, dose_nmol, omega, *days]
    n_own = sum(c.differs)

    def body(m: Memory, arguments: list, results: list) -> None:
        b = m.v.b
        states, course, of_all, by_group, shared, arrivals, dose, immune, first_at, day_at = arguments
        from_day, to_day = (b.sext(b.load(p, typ=ir.IntType(32)), INDEX) for p in (first_at, day_at))
        fixed = {i: m.shared(of_all, INDEX(c.place(i))) for i in read if not c.differs[i]}

        groups = loops.begin(b, INDEX(0), INDEX(n // L))
        at = b.mul(groups.index, INDEX(L))

        def place(i: int, leaves: int) -> ir.Value:
            """Element of leaf i of this group."""
            return b.add(b.mul(groups.index, INDEX(leaves * L)), INDEX(i * L))

        everything: list = [fixed.get(i) or m.group(course, place(c.place(i), n_own)) for i in read]
        given = m.group(dose, at)
        each_day = loops.begin(b, from_day, to_day, [m.group(states, place(i, n_state)) for i in range(n_state)])
        week = b.sdiv(each_day.index, INDEX(DAYS_A_WEEK))
        activity = m.group(immune, b.add(b.mul(week, INDEX(n)), at))
        begins, ends = _stretch(b, each_day.index, from_day, to_day)

        steps = loops.begin(b, b.select(begins, INDEX(0), INDEX(1)), INDEX(S - 1), each_day.carried)
        goes_on = b.and_(b.icmp_signed("==", steps.index, INDEX(S - 2)), b.not_(ends))
        row = b.add(steps.index, b.zext(goes_on, INDEX))
        own_at = b.mul(b.add(b.mul(groups.index, INDEX(S)), row), INDEX(K * L))
        shared_at = b.mul(row, INDEX(n_shared))
        coefficients = []
        for i, differs in enumerate(k.differs):
            before = sum(k.differs[:i])  # leaves of the same kind ahead of this one
            if differs:
                coefficients.append(m.group(by_group, b.add(own_at, INDEX(before * L))))
            else:
                coefficients.append(m.shared(shared, b.add(shared_at, INDEX(i - before))))
        later = [*coefficients, m.shared(arrivals, row), given, activity]
        of_states, of_later = used[:n_state], used[n_state + n_course :]
        arguments = [x for x, is_used in zip(steps.carried, of_states, strict=True) if is_used]
        arguments += everything + [x for x, is_used in zip(later, of_later, strict=True) if is_used]
        loops.end(b, steps, emit(m.v, closed, arguments))

        loops.end(b, each_day, steps.carried)
        for i, value in enumerate(each_day.carried):
            m.put(value, results[0], place(i, n_state))
        loops.end(b, groups)

    target = _write("advance", dtype, len(arrays), 1, body)
    shape = jax.ShapeDtypeStruct(y.own.shape, dtype)
    return replace(y, own=custom_call.call(target, [shape], *arrays)[0])


def _stretch(b: ir.IRBuilder, day: ir.Value, first: ir.Value, last: ir.Value) -> tuple[ir.Value, ir.Value]:
    """As ``grid.stretch``."""

    def either(day: ir.Value, limit: ir.Value) -> ir.Value:
        of_week = b.srem(day, INDEX(DAYS_A_WEEK))
        return b.or_(b.icmp_signed("==", day, limit), b.icmp_signed("==", of_week, INDEX(0)))

    return either(day, first), either(b.add(day, INDEX(1)), last)


def _write(name: str, dtype: str, n_arguments: int, n_results: int, body: Callable[[Memory, list, list], None]) -> str:
    """Compiles the custom call whose code ``body`` writes, and returns its target."""
    module = ir.Module()

    def write(b: ir.IRBuilder, arguments: list, results: list) -> None:
        body(Memory(Vectors(b, dtype, lanes(dtype) // REGISTERS), REGISTERS), arguments, results)

    custom_call.handler(module, name, n_arguments, n_results, write)
    return custom_call.register(module, name)


def _needed(closed: ClosedJaxpr, outputs: Sequence[bool]) -> tuple[ClosedJaxpr, list[bool]]:
    """The jaxpr for the wanted outputs only, and which inputs it reads."""
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, list(outputs))
    return ClosedJaxpr(jaxpr, closed.consts), list(used)


def _depend(closed: ClosedJaxpr, own: Sequence[bool]) -> tuple[bool, ...]:
    """Which outputs depend on any input marked in ``own``."""
    reached = {var for var, is_own in zip(closed.jaxpr.invars, own, strict=True) if is_own}

    def reads(atoms: Sequence[Any]) -> bool:
        return any(not isinstance(atom, Literal) and atom in reached for atom in atoms)

    for equation in closed.jaxpr.eqns:
        if reads(equation.invars):
            reached.update(equation.outvars)
    return tuple(reads([atom]) for atom in closed.jaxpr.outvars)
