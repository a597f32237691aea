"""Writes a jaxpr of scalar operations as straight-line vector code: what is one number to JAX is one register here.

The function is traced for one patient; every operation then acts on as many patients as a register has lanes. Only the
operations that the engine's steps need are known; any other is named in the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from llvmlite import ir

from pkpd.engine.vector.elementary import Vectors

Value = tuple[ir.Value, ...]  # of one group of patients


class NotLowered(Exception):
    """An operation that has no vector code; the XLA engine runs instead."""


def _larger(v: Vectors, x: ir.Value, y: ir.Value) -> ir.Value:
    """Maximum as one instruction: of a number and a NaN a constant's other operand comes through, else the first."""
    if isinstance(x, ir.Constant):
        return v.b.select(v.below(y, x), x, y)
    return v.b.select(v.below(x, y), y, x)


def _smaller(v: Vectors, x: ir.Value, y: ir.Value) -> ir.Value:
    if isinstance(x, ir.Constant):
        return v.b.select(v.below(x, y), x, y)
    return v.b.select(v.below(y, x), y, x)


def _power(v: Vectors, x: ir.Value, n: int) -> ir.Value:
    if n < 0:
        return v.div(v.constant(1), _power(v, x, -n))
    if n == 0:
        return v.constant(1)
    half = _power(v, x, n // 2) if n > 1 else v.constant(1)
    square = v.mul(half, half)
    return v.mul(square, x) if n % 2 else square


def _compare(operator: str) -> Callable[..., ir.Value]:
    return lambda v, x, y, **_: v.b.fcmp_ordered(operator, x, y)


def _cast(v: Vectors, x: ir.Value, *, new_dtype: Any, **_: Any) -> ir.Value:
    to_boolean = np.dtype(new_dtype) == np.bool_
    is_boolean = x.type.element == ir.IntType(1)
    if to_boolean == is_boolean:
        return x
    return v.b.fcmp_unordered("!=", x, v.constant(0)) if to_boolean else v.b.select(x, v.constant(1), v.constant(0))


RULES: dict[str, Callable[..., ir.Value]] = {
    "add": lambda v, x, y, **_: v.add(x, y),
    "add_any": lambda v, x, y, **_: v.add(x, y),
    "sub": lambda v, x, y, **_: v.sub(x, y),
    "mul": lambda v, x, y, **_: v.mul(x, y),
    "div": lambda v, x, y, **_: v.div(x, y),
    "neg": lambda v, x, **_: v.b.fneg(x),
    "square": lambda v, x, **_: v.mul(x, x),
    "integer_pow": lambda v, x, *, y, **_: _power(v, x, y),
    "pow": lambda v, x, y, **_: v.exp(v.mul(y, v.log(x))),
    "sqrt": lambda v, x, **_: v.intrinsic("sqrt", x),
    "abs": lambda v, x, **_: v.intrinsic("fabs", x),
    "exp": lambda v, x, **_: v.exp(x),
    "expm1": lambda v, x, **_: v.expm1(x),
    "log": lambda v, x, **_: v.log(x),
    "max": lambda v, x, y, **_: _larger(v, x, y),
    "min": lambda v, x, y, **_: _smaller(v, x, y),
    "lt": _compare("<"),
    "le": _compare("<="),
    "gt": _compare(">"),
    "ge": _compare(">="),
    "eq": _compare("=="),
    "and": lambda v, x, y, **_: v.b.and_(x, y),
    "or": lambda v, x, y, **_: v.b.or_(x, y),
    "not": lambda v, x, **_: v.b.not_(x),
    "select_n": lambda v, which, no, yes, **_: v.b.select(which, yes, no),
    "convert_element_type": _cast,
    "copy": lambda v, x, **_: x,
    "copy_p": lambda v, x, **_: x,
    "stop_gradient": lambda v, x, **_: x,
    "broadcast_in_dim": lambda v, x, **_: x,
    "reshape": lambda v, x, **_: x,
    "squeeze": lambda v, x, **_: x,
}


def emit(v: Vectors, closed: ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
    """Writes ``closed`` at the builder's place; arguments and results are values of a group, a register or more each.

    Every operation is written for all registers of its values before the next: side by side, their chains of
    operations hide each other's latency.

    NotLowered names an operation, or a value with a shape, that has no vector code.
    """
    values: dict[Any, Value] = {}
    jaxpr = closed.jaxpr
    width = len(arguments[0])

    def constant(x: Any) -> Value:
        number = np.asarray(x)
        if number.size != 1:
            raise NotLowered(f"a constant of shape {number.shape}")
        if number.dtype == np.bool_:
            return (ir.Constant(ir.VectorType(ir.IntType(1), v.lanes), [int(number.item())] * v.lanes),) * width
        return (v.constant(float(number.item())),) * width

    def read(atom: Any) -> Value:
        return constant(atom.val) if isinstance(atom, Literal) else values[atom]

    values.update(zip(jaxpr.constvars, map(constant, closed.consts), strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inputs = [read(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        shapes: list[Any] = [getattr(out.aval, "shape", ()) for out in equation.outvars]
        if any(np.prod(shape) != 1 for shape in shapes):
            raise NotLowered(f"{name} of shapes {shapes}")
        if name == "optimization_barrier":
            results = inputs
        elif inner is not None and name not in ("scan", "while", "cond"):
            whole = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            results = emit(v, whole, inputs)
        elif name in RULES:
            results = [tuple(RULES[name](v, *registers, **equation.params) for registers in zip(*inputs, strict=True))]
        else:
            raise NotLowered(f"operation {name!r}")
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def trace(function: Callable[..., Any], *arguments: Any) -> tuple[ClosedJaxpr, Any]:
    """Jaxpr of ``function`` for one patient, every leaf of ``arguments`` taken as one number of its dtype, and the
    structure of what it returns.
    """
    numbers = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), leaf.dtype), arguments)
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*numbers)
    return closed, jax.tree.structure(shape)
