"""The CPU kernel: its elementary functions, its lowering of jaxprs, and its agreement with XLA on every state."""

from __future__ import annotations

import sys

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from llvmlite import ir

from pkpd import devices
from pkpd.engine import fast, grid, interval
from pkpd.engine.solver import solver, stepper
from pkpd.engine.vector import custom_call, groups, kernel, loops
from pkpd.engine.vector.elementary import Vectors
from pkpd.engine.vector.loops import INDEX, Memory
from pkpd.engine.vector.lowering import NotLowered, emit, trace
from pkpd.errors import InputError
from pkpd.model import DYNAMIC, Form, State, steady_state

PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.float64, 1e-12)])


def vectorised(function, *arrays):
    """``function`` of numbers, written as vector code and run on arrays whose length is a multiple of the lanes."""
    dtype, n = arrays[0].dtype, arrays[0].shape[0]
    lanes = custom_call.register_bytes() // dtype.itemsize
    closed = trace(lambda *x: jax.tree.leaves(function(*x)), *arrays)[0]
    n_results = len(closed.jaxpr.outvars)
    module = ir.Module()

    def body(b, arguments, results):
        m = Memory(Vectors(b, dtype.name, lanes), 1)
        groups = loops.begin(b, INDEX(0), INDEX(n // lanes))
        first = b.mul(groups.index, INDEX(lanes))
        found = emit(m.v, closed, [m.group(p, first) for p in arguments])
        for value, place in zip(found, results, strict=True):
            m.put(value, place, first)
        loops.end(b, groups)

    custom_call.handler(module, "test", len(arrays), n_results, body)
    target = custom_call.register(module, "test")
    shapes = [jax.ShapeDtypeStruct((n,), dtype)] * n_results
    return [np.asarray(x) for x in jax.jit(lambda *a: custom_call.call(target, shapes, *a))(*arrays)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("function", "exact", "low", "high", "ulps"),
    [
        (jnp.exp, np.exp, -80, 80, 4),
        (jnp.expm1, np.expm1, -40, 40, 8),
        (jnp.expm1, np.expm1, -1e-3, 1e-3, 4),
        (jnp.log, np.log, 1e-30, 0.9, 4),
        (jnp.log, np.log, 1.1, 1e30, 4),
        (jnp.sqrt, np.sqrt, 0, 1e6, 1),
    ],
)
def test_elementary_functions(function, exact, low, high, ulps, dtype):
    x = np.random.default_rng(1).uniform(low, high, 4096).astype(dtype)
    (found,) = vectorised(function, jnp.asarray(x))
    truth = exact(x.astype(np.float64)).astype(np.float64)
    assert (np.abs(found - truth) <= ulps * np.finfo(dtype).eps * np.abs(truth)).all()


def test_ends_of_the_range_and_what_is_no_number():
    x = jnp.asarray([-1e30, -200.0, 0.0, 200.0, np.nan, np.inf, -np.inf, 1.0], jnp.float32)
    found = vectorised(jnp.exp, jnp.tile(x, 4))[0][:8]
    assert found[0] < 1e-36 and found[1] < 1e-36 and found[2] == 1 and found[3] > 1e37 and np.isnan(found[4])
    assert np.isfinite(found[[3, 5, 6]]).all() and found[7] == pytest.approx(np.e, rel=1e-6)


def everything(x, y):
    """Each operation that the lowering knows."""
    return {
        "arithmetic": x + y - x * y / (2 + x * x),
        "powers": x**3 + y**-2 + jnp.square(x) + jnp.abs(x) ** 1.7,
        "choice": jnp.where((x > y) & ~(x <= 0.1) | (y == x), x, -y),
        "limits": jnp.maximum(x, y) + jnp.minimum(x, 0.5) + jnp.maximum(0.2, y) + jnp.minimum(x, y),
        "roots": jnp.sqrt(jnp.abs(x)) + jnp.expm1(-jnp.abs(y)) + jnp.exp(x) + jnp.log(1 + jnp.abs(y)),
        "truth": (x >= y).astype(x.dtype) + (x < y) * y,
        "nested": jax.jit(lambda z: z * 2)(x) + jax.lax.optimization_barrier(y),
    }


@PRECISIONS
def test_every_operation_is_that_of_xla(dtype, tolerance):
    rng = np.random.default_rng(2)
    x, y = (jnp.asarray(rng.normal(size=256), dtype) for _ in range(2))
    expected = jax.tree.leaves(everything(x, y))
    names = sorted(everything(x, y))
    for name, found, exact in zip(names, vectorised(everything, x, y), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance, err_msg=name)


def test_a_limit_lets_no_number_through_that_is_none():
    x = jnp.full(64, jnp.nan, jnp.float32)
    for found in vectorised(lambda x: (jnp.maximum(x, 1.0), jnp.minimum(2.0, x), jnp.maximum(x, 2 * x)), x):
        assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("function", "named"), [(jnp.sin, "'sin'"), (lambda x: jnp.stack([x, x]).sum(), r"of shapes \[\(")]
)
def test_an_operation_without_vector_code_is_named(function, named):
    with pytest.raises(NotLowered, match=named):
        vectorised(function, jnp.ones(64, jnp.float32))


def moved(patients, form, engine, days=(0, 5)):
    """Every carried state after the days of an interval, dosed and undosed patients, by XLA or by the kernel."""
    p, omega = patients.parameters, patients.omega
    n = omega.shape[1]
    dose = drawn.to_nmol(jnp.where(jnp.arange(n) % 3 == 0, 0.0, 7.5).astype(omega.dtype), p)
    c = fast.course(p)
    hours, ka, ka_none, arrival = grid.day(p)
    y = fast.carry(State(*(jnp.broadcast_to(leaf, (n,)) for leaf in steady_state(p)[0])), c, form)
    if engine == "kernel":
        k = kernel.prepare(c, hours, ka, ka_none, n)
        packed = groups.pack(c, n, kernel.lanes(omega.dtype))
        return groups.unpack(kernel.advance(kernel.start(y), packed, k, arrival, *days, dose, omega, form))
    k = fast.steps(c, hours, ka, ka_none)
    return interval.days(y, c, k, arrival, *days, dose, omega, form)


move = jax.jit(moved, static_argnums=(1, 2))


@PRECISIONS
@pytest.mark.parametrize(
    ("form", "hill"),
    [(DYNAMIC, 1.0), (Form(hill_is_one=False), 1.7), (Form(signalling="quasi-steady"), 1.0)],
    ids=["dynamic", "hill", "quasi-steady"],
)
@pytest.mark.parametrize(
    ("drawer", "days"), [(drawn.ordinary, (0, 5)), (drawn.box, (3, 9))], ids=["ordinary", "box, over weeks"]
)
def test_every_state_is_that_of_xla(drawer, days, form, hill, dtype, tolerance):
    patients = drawn.cast(drawer(192, seed=31), dtype)
    p = patients.parameters._replace(dimer_hill=jnp.asarray(hill, dtype))
    patients = patients._replace(parameters=p)
    found, exact = (move(patients, form, engine, days) for engine in ("kernel", "xla"))
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(exact), strict=True):
        scale = np.abs(np.asarray(b)).max()
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * scale, jax.tree_util.keystr(path)


def test_the_width_of_a_register_changes_no_bit(monkeypatch):
    """SSE or NEON, AVX2, AVX-512: the same operations on each patient, only more of them at a time."""
    patients = drawn.cast(drawn.ordinary(64, seed=32), jnp.float32)
    results = []
    for size in (16, 32):
        monkeypatch.setattr(custom_call, "register_bytes", lambda size=size: size)
        results.append(moved(patients, DYNAMIC, "kernel", (0, 2)))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [1, 17, 130])
def test_any_number_of_patients(n):
    patients = drawn.cast(drawn.ordinary(n, seed=33), jnp.float32)
    weekly = np.full((drawn.WEEKS, n), 5.0)
    np.testing.assert_allclose(
        drawn.counts("kernel", patients, weekly), drawn.counts("xla", patients, weekly), rtol=2e-4
    )


@pytest.mark.parametrize("n", [1, 13, 64])
def test_one_step_at_a_time(n):
    """What curves within a day are read from: after every step, and after a day as the days are moved through whole."""
    patients = drawn.cast(drawn.ordinary(n, seed=34), jnp.float64)
    p, omega = patients.parameters, patients.omega[0]
    dose = drawn.to_nmol(jnp.full(n, 5.0), p)

    def a_day(engine):
        move = stepper(engine, p, DYNAMIC, grid.DEFAULT)

        def one(y, i):
            y = move.one(y, i, dose, omega)
            return y, move.read(y)

        return jax.lax.scan(one, move.start, jnp.arange(len(move.hours)))[1]

    found, exact = (jax.jit(a_day, static_argnums=0)(engine) for engine in ("kernel", "xla"))
    for a, b in zip(*map(jax.tree.leaves, (found, exact)), strict=True):
        assert a.shape == b.shape == (9, n)
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    whole = solver("kernel", p, DYNAMIC, grid.DEFAULT)
    end = whole.read(whole.advance(whole.start, jnp.int32(0), jnp.int32(1), dose, omega[None]))
    np.testing.assert_allclose(found.cells.platelets_1e9_per_l[-1], end.platelets_1e9_per_l, rtol=1e-13)


def test_without_llvmlite_xla_takes_over_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pkpd.engine.vector", None)
    assert devices.resolve_engine() == "xla"
    with pytest.raises(InputError, match=r"engine 'kernel' cannot run: llvmlite is missing .* legal here: xla"):
        devices.resolve_engine("kernel")


def test_a_wrong_name_is_told_with_the_nearest():
    with pytest.raises(InputError, match=r"engine 'kernal'.*kernel"):
        devices.resolve_engine("kernal")
