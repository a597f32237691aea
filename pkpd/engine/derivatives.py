"""Derivatives of a long straight-line function without repeated work, and none where there must be none.

``pkpd.engine.fusion`` keeps XLA from copying a value's arithmetic into every consumer. Differentiation makes new
values, tangents or cotangents, that need the same: here they get it from the function's own graph, in both modes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal

from pkpd.engine.fusion import once
from pkpd.errors import InputError

COPIED = 8  # operations: a derivative that costs more is not copied into its consumers
TERMS = 8  # of a cotangent in one sum: longer sums read more arrays at a time than the first-level cache holds

Result = TypeVar("Result")
Tree = TypeVar("Tree")


@jax.custom_jvp
def _apart(x: Array, true: Array) -> Array:
    """x, whose tangent or cotangent is computed once."""
    return x


@_apart.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    x, true = primals
    return x, once(tangents[0], true)


def sparing(function: Callable[..., Result], true: Array, *args: Any) -> Result:
    """``function(*args)``, the same values, with derivatives that cost half as much on a CPU.

    args: pytrees of arrays; ``function`` must not close over traced values. true: see ``fusion.once``.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr = closed.jaxpr
    apart = _expensive(jaxpr)
    reads: Counter[Any] = Counter()
    source = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    source.update(zip(jaxpr.invars, jax.tree.leaves(args), strict=True))
    now = dict(source)

    def read(v: Any) -> Any:
        if isinstance(v, Literal):
            return v.val
        reads[v] += 1
        if reads[v] % TERMS == 0 and _has_derivative(source[v]):
            now[v] = _apart(source[v], true)  # the next consumers add up their cotangents by themselves
        return now[v]

    for e in jaxpr.eqns:
        found = e.primitive.bind(*map(read, e.invars), **e.primitive.get_bind_params(e.params))
        for v, x in zip(e.outvars, found if e.primitive.multiple_results else [found], strict=True):
            source[v] = now[v] = _apart(x, true) if v in apart and _has_derivative(x) else x
    return jax.tree.unflatten(jax.tree.structure(shape), map(read, jaxpr.outvars))


def _expensive(jaxpr: Any) -> set[Any]:
    """Values whose cotangent goes to several operands and takes many operations since the last one held back."""
    operations: Counter[Any] = Counter()
    held = set()
    for e in reversed(jaxpr.eqns):
        operands = {v for v in e.invars if not isinstance(v, Literal)}
        for v in e.outvars:
            if operations[v] * (len(operands) - 1) >= COPIED:
                held.add(v)
                operations[v] = 0
        for v in operands:
            operations[v] += 1 + sum(operations[o] for o in e.outvars)
    return held


def _has_derivative(x: Any) -> bool:
    return jnp.ndim(x) > 0 and jnp.issubdtype(jnp.result_type(x), jnp.floating)


def without(tree: Tree, why: str) -> Tree:
    """The same values; InputError with the message ``why`` for who differentiates by them, in either mode."""

    @jax.custom_jvp
    def same(x: Array) -> Array:
        return x

    @same.defjvp
    def _(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Array, Array]:
        raise InputError(why)

    return jax.tree.map(lambda x: same(x) if isinstance(x, jax.core.Tracer) else x, tree)
