"""The engine as vector code: one compiled loop over groups of patients, days and steps.

Two custom calls. ``prepare`` writes the coefficients of all steps of a patient, once a course, group by group so that
a group's stay in the cache; ``advance`` moves a group through all days of an interval with its state in registers and
on the stack. What is one number in the population stays one number. Both are written from the jaxprs of
``fast.one_step_coefficients`` and ``interval.one_step``: the model is written once, in JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters import partial_eval
from llvmlite import ir

from pkpd.engine import fast, interval
from pkpd.engine.vector import custom_call, loops
from pkpd.engine.vector.elementary import Vectors
from pkpd.engine.vector.loops import INDEX, Memory
from pkpd.engine.vector.lowering import emit, trace
from pkpd.model import Form

DAYS_A_WEEK = 7
REGISTERS = 2  # of a value in a group


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
    own = [_is_by_patient(leaf, n) for leaf in inputs]
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
    L, (S, n_shared), K = lanes(dtype), k.shared.shape, sum(k.differs)
    a_step = jax.tree.unflatten(k.structure, [jax.ShapeDtypeStruct((), dtype)] * len(k.differs))

    def one(y: fast.Carry, c: fast.Course, k: fast.Steps, arrives: Array, dose: Array, omega: Array) -> fast.Carry:
        return interval.one_step(y, c, k, arrives, dose, omega, form, plain=True)

    states, course = jax.tree.leaves(y), jax.tree.leaves(c)
    closed, used = _needed(trace(one, y, c, a_step, arrival, dose_nmol, omega)[0], [True] * len(states))
    of_course = slice(len(states), len(states) + len(course))
    parameters = [jnp.asarray(leaf, dtype) for leaf, is_used in zip(course, used[of_course], strict=True) if is_used]
    own = [_is_by_patient(p, n) for p in parameters]
    days = [jnp.asarray(x, jnp.int32) for x in (first, day)]
    arrays = [*states, *parameters, k.by_group, k.shared, arrival, dose_nmol, omega, *days]

    def body(m: Memory, arguments: list, results: list) -> None:
        b = m.v.b
        state_at, rest = arguments[: len(states)], arguments[len(states) :]
        parameter_at, rest = rest[: len(parameters)], rest[len(parameters) :]
        by_group, shared, arrivals, dose, immune, first_at, day_at = rest
        from_day, to_day = (b.sext(b.load(p, typ=ir.IntType(32)), INDEX) for p in (first_at, day_at))
        fixed = [None if is_own else m.shared(p, INDEX(0)) for p, is_own in zip(parameter_at, own, strict=True)]

        groups = loops.begin(b, INDEX(0), INDEX(n // L))
        at = b.mul(groups.index, INDEX(L))
        values = [value or m.group(p, at) for value, p in zip(fixed, parameter_at, strict=True)]
        given = m.group(dose, at)
        each_day = loops.begin(b, from_day, to_day, [m.group(p, at) for p in state_at])
        week = b.sdiv(each_day.index, INDEX(DAYS_A_WEEK))
        activity = m.group(immune, b.add(b.mul(week, INDEX(n)), at))

        steps = loops.begin(b, INDEX(0), INDEX(S), each_day.carried)
        own_at = b.mul(b.add(b.mul(groups.index, INDEX(S)), steps.index), INDEX(K * L))
        shared_at = b.mul(steps.index, INDEX(n_shared))
        coefficients = []
        for i, differs in enumerate(k.differs):
            before = sum(k.differs[:i])  # leaves of the same kind ahead of this one
            if differs:
                coefficients.append(m.group(by_group, b.add(own_at, INDEX(before * L))))
            else:
                coefficients.append(m.shared(shared, b.add(shared_at, INDEX(i - before))))
        everything = [*steps.carried, *_spread(values, used[of_course]), *coefficients]
        everything += [m.shared(arrivals, steps.index), given, activity]
        loops.end(b, steps, emit(m.v, closed, [x for x, is_used in zip(everything, used, strict=True) if is_used]))

        loops.end(b, each_day, steps.carried)
        for value, place in zip(each_day.carried, results, strict=True):
            m.put(value, place, at)
        loops.end(b, groups)

    target = _write("advance", dtype, len(arrays), len(states), body)
    shapes = [jax.ShapeDtypeStruct((n,), dtype)] * len(states)
    return jax.tree.unflatten(jax.tree.structure(y), custom_call.call(target, shapes, *arrays))


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


def _is_by_patient(leaf: Any, n: int) -> bool:
    return np.ndim(leaf) > 0 and np.shape(leaf)[-1] == n and n > 1


def _spread(values: Sequence[Any], at: Sequence[bool]) -> list:
    """The values at the places marked in ``at``, None elsewhere."""
    left = iter(values)
    return [next(left) if is_here else None for is_here in at]
