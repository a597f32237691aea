"""The GPU kernel without a GPU: interpreted, it agrees with the XLA path; for a GPU, it lowers."""

from __future__ import annotations

from functools import cache, partial

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from pkpd import model
from pkpd.engine import fast, grid, pallas
from pkpd.engine import solver as engines
from pkpd.model import DYNAMIC, Form, State
from pkpd.parameters import Parameters

N = 130  # more than one block, and not a whole number of them
FIRST = jnp.array([0, 5])  # the second interval crosses a week, where the immune activity changes
DAY = jnp.array([5, 9])
GPU = AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")


def shared(p: Parameters) -> Parameters:
    """What is the same in all patients as a scalar, as the visit loop has it."""
    return Parameters(*(leaf[0] if bool(jnp.all(leaf == leaf[0])) else leaf for leaf in p))


@cache
def batch(dtype: type) -> tuple[Parameters, jax.Array, jax.Array]:
    """Parameters, doses of the two intervals [2, patients], a third of them 0, and drift [weeks, patients].

    In float64 every parameter is [patients], in float32 only what varies is.
    """
    d = drawn.cast(drawn.box(N, 3), dtype)
    p = d.parameters if dtype == jnp.float64 else shared(d.parameters)
    mg = np.random.default_rng(1).choice([0.0, 2.5, 7.5], (2, N))
    return p, drawn.to_nmol(jnp.asarray(mg, dtype), p), d.omega


def course(make, p: Parameters, dose_nmol: jax.Array, omega: jax.Array, form: Form = DYNAMIC) -> fast.Carry:
    """State after both intervals, in a loop over visits with days that are not known when it is compiled."""
    n = dose_nmol.shape[1]
    at_rest = State(*(jnp.broadcast_to(leaf, (n,)) for leaf in model.steady_state(p)[0]))
    move = make(p, form, grid.DEFAULT, at_rest)

    def visit(y, xs):
        first, day, dose = xs
        return move.advance(y, first, day, dose, omega), None

    return lax.scan(visit, move.start, (FIRST, DAY, dose_nmol))[0]


@cache
def by_xla(dtype: type) -> fast.Carry:
    return jax.device_get(jax.jit(partial(course, engines._fast))(*batch(dtype)))


def agree(kernel: fast.Carry, xla: fast.Carry, rtol: float) -> None:
    """Every carried state to ``rtol`` of its largest value, what is 0 at rest to that of the whole state: 1."""
    for (path, x), z in zip(jax.tree_util.tree_flatten_with_path(kernel)[0], jax.tree.leaves(xla), strict=True):
        assert (x.dtype, x.shape) == (z.dtype, z.shape)
        from_rest = path[0].name in ("shares", "drive", "socs_excess")
        error = np.max(np.abs(x - z)) / np.max(np.abs(z), initial=float(from_rest))
        assert error <= rtol, f"{jax.tree_util.keystr(path)}: {error:.1e}"


def test_interpreted_kernel_agrees_with_xla_in_float64():
    kernel = jax.jit(partial(course, partial(pallas.solver, interpret=True)))(*batch(jnp.float64))
    agree(jax.device_get(kernel), by_xla(jnp.float64), 1e-12)


@pytest.mark.parametrize("n", [1, 127, 128, 130])
def test_interpreted_kernel_agrees_with_xla_in_float32_whatever_the_size(n):
    p, dose, omega = jax.tree.map(lambda x: x[..., :n] if x.ndim else x, batch(jnp.float32))
    at_rest = State(*(jnp.broadcast_to(leaf, (n,)) for leaf in model.steady_state(p)[0]))
    move = pallas.solver(p, DYNAMIC, grid.DEFAULT, at_rest, interpret=True)
    y = move.start
    for first, day, now in zip(FIRST, DAY, dose, strict=True):  # no loop, so that sizes share one compiled kernel
        y = move.advance(y, first, day, now, omega)
    xla = jax.tree.map(lambda x: x[:n], by_xla(jnp.float32))
    agree(jax.device_get(y), xla, 1e-5)
    for x, z in zip(move.read(y), move.read(xla), strict=True):
        np.testing.assert_allclose(x, z, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        (jnp.float32, DYNAMIC),
        (jnp.float64, DYNAMIC),
        (jnp.float32, Form("quasi-steady")),
        (jnp.float32, Form(hill_is_one=False)),
    ],
)
def test_kernel_lowers_for_a_gpu_without_one(dtype, form):
    compiled = jax.jit(partial(course, pallas.solver, form=form))
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=GPU)):
        text = compiled.trace(*batch(dtype)).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 1
    assert "grid_x = 2" in text  # blocks


def test_where_no_kernel_can_be_built_the_reason_is_told():
    assert "Only interpret mode is supported on CPU backend" in pallas.trouble()
