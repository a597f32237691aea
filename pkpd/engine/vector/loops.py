"""Counted loops over groups of patients, days and steps, and the memory of groups, in the code that is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llvmlite import ir

from pkpd.engine.vector.elementary import Vectors
from pkpd.engine.vector.lowering import Value

INDEX = ir.IntType(64)


class Loop(NamedTuple):
    """A loop whose body is being written: its index, the values it carries, and its blocks."""

    index: ir.Value
    carried: list[Value]
    head: ir.Block
    after: ir.Block


def begin(b: ir.IRBuilder, first: ir.Value, end: ir.Value, carried: Sequence[Value] = ()) -> Loop:
    """Opens a loop from ``first`` below ``end``; the builder stands in its body."""
    before = b.block
    head, body, after = (b.append_basic_block(name) for name in ("loop", "body", "after"))
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(INDEX)
    values = [tuple(b.phi(register.type) for register in value) for value in carried]
    for phis, starts in zip(((index,), *values), ((first,), *carried), strict=True):
        for phi, start in zip(phis, starts, strict=True):
            phi.add_incoming(start, before)
    b.cbranch(b.icmp_signed("<", index, end), body, after)
    b.position_at_end(body)
    return Loop(index, values, head, after)


def end(b: ir.IRBuilder, loop: Loop, new: Sequence[Value] = ()) -> None:
    """Ends the body with the new carried values; the builder stands behind it, where ``loop.carried`` are the last."""
    for phis, values in zip(((loop.index,), *loop.carried), ((b.add(loop.index, INDEX(1)),), *new), strict=True):
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, b.block)
    b.branch(loop.head)
    b.position_at_end(loop.after)


class Memory(NamedTuple):
    """Loads and stores of values of a group, ``registers`` each, at an element offset of a buffer."""

    v: Vectors
    registers: int

    def group(self, base: ir.Value, element: ir.Value) -> Value:
        """The numbers of a group of patients, one a lane."""
        return tuple(
            self.v.b.load(place, align=self._alignment, typ=self.v.type) for place in self._places(base, element)
        )

    def shared(self, base: ir.Value, element: ir.Value) -> Value:
        """One number in every lane."""
        number = self.v.b.load(self._place(base, element), align=self._alignment, typ=self.v.format.scalar)
        nothing = ir.Constant(self.v.type, ir.Undefined)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), self.v.lanes), [0] * self.v.lanes)
        first = self.v.b.insert_element(nothing, number, ir.IntType(32)(0))
        return (self.v.b.shuffle_vector(first, nothing, everywhere),) * self.registers

    def put(self, value: Value, base: ir.Value, element: ir.Value) -> None:
        for register, place in zip(value, self._places(base, element), strict=True):
            self.v.b.store(register, place, align=self._alignment)

    def _places(self, base: ir.Value, element: ir.Value) -> list[ir.Value]:
        first = self._place(base, element)
        return [self._place(first, INDEX(r * self.v.lanes)) for r in range(self.registers)]

    def _place(self, base: ir.Value, element: ir.Value) -> ir.Value:
        return self.v.b.gep(base, [element], source_etype=self.v.format.scalar)

    @property
    def _alignment(self) -> int:
        return self.v.format.integer.width // 8  # a group may start at any element of XLA's buffer
