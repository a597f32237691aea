"""The fast engine as a GPU kernel: one patient a thread, its state in registers from one visit to the next.

Coefficients of the steps are read, not recomputed: 168 bytes a patient and step (196 were read at 60% of the bandwidth
of an H200 while it computed); to recompute them in the kernel would be one and a third times the step's own arithmetic.

The kernel runs ``fast.step``, the same code as on a CPU. What varies between patients is kept as rows of one array
[rows, patients]; what all patients share as one short vector of scalars. Indices are 32 bits wide: a batch holds up to
4 million patients. Compiled code divides, takes roots and exponentials to 2 units in the last place of float32, and its
minimum and maximum pass over NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pkpd.engine import fast, grid
from pkpd.engine.grid import DAYS_A_WEEK
from pkpd.engine.solver import Reading, Solver
from pkpd.model import Form, State
from pkpd.parameters import Parameters

BLOCK = 128  # patients a program, one a thread
THREADS_A_WARP = 32


class Layout(NamedTuple):
    """Where the leaves of a pytree lie: entries of what is shared, rows of what varies between patients; static."""

    tree: Any
    varies: tuple[bool, ...]

    def join(self, shared: Callable[[int], Array], own: Callable[[int], Array]) -> Any:
        """The pytree, from functions that read shared entry i and own row i."""
        before = [sum(self.varies[:i]) for i in range(len(self.varies))]
        leaves = (own(n) if v else shared(i - n) for i, (v, n) in enumerate(zip(self.varies, before, strict=True)))
        return jax.tree.unflatten(self.tree, leaves)


def split(tree: Any, axis: int) -> tuple[Array, Array, Layout]:
    """Shared leaves [entries] and own leaves [rows, patients] behind ``axis`` leading axes that every leaf has."""
    leaves, structure = jax.tree.flatten(tree)
    varies = tuple(jnp.ndim(leaf) > axis for leaf in leaves)
    none = jnp.zeros(jnp.shape(leaves[0])[:axis], jnp.result_type(*leaves))  # no array of a kernel may be empty
    shared = [x for x, v in zip(leaves, varies, strict=True) if not v] or [none]
    own = [x for x, v in zip(leaves, varies, strict=True) if v] or [none[..., None]]
    return jnp.stack(shared, axis), jnp.stack(own, axis), Layout(structure, varies)


def pad(rows: Array, block: int) -> Array:
    """[..., patients] with the last patient repeated until the blocks are whole."""
    return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % block)], mode="edge")


@cache
def trouble() -> str:
    """Why Pallas cannot build a kernel here, found by building one; empty where it can."""

    def triple(x: Any, out: Any) -> None:
        out[...] = 3 * x[...]

    call = pl.pallas_call(
        triple, jax.ShapeDtypeStruct((BLOCK,), jnp.float32), compiler_params=triton.CompilerParams(num_warps=4)
    )
    try:
        with jax.ensure_compile_time_eval():  # it may be asked while a program is traced
            result = float(jax.jit(call)(jnp.full(BLOCK, 2, jnp.float32))[0])
    except Exception as error:  # whatever the reason, the XLA engine does the same work
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "" if result == 6 else f"a probe gave {result:g} instead of 6"


def solver(
    p: Parameters, form: Form, steps: grid.Grid, at_rest: State, interpret: bool = False, block: int = BLOCK
) -> Solver:
    """The kernel as a solver of one batch, on the interface of ``pkpd.engine.solver``; for use under ``jit``.

    p: scalars or [patients]; at_rest: [patients]. interpret: without a GPU and slowly, as a test of the kernel.
    block: patients a program, one a thread: a power of two, at least 32.
    """
    c = fast.course(p)
    hours, ka, ka_none, arrival = grid.day(p, steps)
    k = fast.steps(c, hours, ka, ka_none)
    c_shared, c_own, c_layout = split(c, 0)
    k_shared, k_own, k_layout = split((k._replace(absorption=None, no_dose_absorption=None), arrival), 1)
    c_own, k_own = pad(c_own, block), pad(k_own, block)
    start = fast.carry(at_rest, c, form)
    trees = c_layout, k_layout, jax.tree.structure(k.absorption), jax.tree.structure(start)

    def advance(y: fast.Carry, first: Array, day: Array, dose_nmol: Array, omega: Array) -> fast.Carry:
        y = fast.new_interval(y)
        # the dose is that of the whole interval, so only the absorption weights in force are read
        in_force = jax.vmap(lambda x, z: jnp.where(dose_nmol > 0, x, z))
        a = jax.tree.map(in_force, k.absorption, k.no_dose_absorption)
        now = jnp.stack([*jax.tree.leaves(y), dose_nmol]), omega, jnp.stack(jax.tree.leaves(a), 1)
        shared = jnp.array([first, day], jnp.int32), c_shared, k_shared
        own = c_own, k_own, *(pad(x, block) for x in now)
        new = _move(shared, own, trees, form, block, interpret)
        return jax.tree.unflatten(trees[-1], list(new[:, : dose_nmol.shape[0]]))

    def read(y: fast.Carry) -> Reading:
        return Reading(y.cells.platelets_1e9_per_l, y.concentration_nM, y.auc_nM_h, y.cmax_nM)

    return Solver(start, advance, read)


@partial(jax.jit, static_argnames=("trees", "form", "block", "interpret"))
def _move(shared: tuple, own: tuple, trees: tuple, form: Form, block: int, interpret: bool) -> Array:
    """The state [rows, patients] after the days, from arrays all blocks share and arrays cut into blocks."""
    n_state, n = trees[-1].num_leaves, own[0].shape[-1]
    return pl.pallas_call(
        partial(_kernel, trees, form),
        jax.ShapeDtypeStruct((n_state, n), own[0].dtype),
        grid=(n // block,),
        in_specs=[
            *(pl.BlockSpec(x.shape, partial(_whole, x.ndim)) for x in shared),
            *(pl.BlockSpec((*x.shape[:-1], block), partial(_block, x.ndim)) for x in own),
        ],
        out_specs=pl.BlockSpec((n_state, block), partial(_block, 2)),
        compiler_params=triton.CompilerParams(num_warps=max(1, block // THREADS_A_WARP), num_stages=1),
        interpret=interpret,
    )(*shared, *own)


def _whole(ndim: int, program: Array) -> tuple:
    return (0,) * ndim


def _block(ndim: int, program: Array) -> tuple:
    return (*(0,) * (ndim - 1), program)


def _kernel(trees: tuple, form: Form, *refs: Any) -> None:
    """One block of patients through the days from ``days[0]`` up to ``days[1]``.

    Triton neither slices nor joins arrays and its loops carry no stacks, so all is read and written row by row.
    """
    c_layout, k_layout, absorption, carry = trees
    days, c_shared, k_shared, c_own, k_own, now, omega, a_own, out = refs
    n_state, rows = carry.num_leaves, k_shared.shape[0]
    c = c_layout.join(lambda i: c_shared[i], lambda i: c_own[i, :])
    dose_nmol = now[n_state, :]

    def one_day(day: Array, y: fast.Carry) -> fast.Carry:
        immune_log_activity = omega[lax.div(day, jnp.int32(DAYS_A_WEEK)), :]
        begins, ends = grid.stretch(day, days[0], days[1])

        def one_step(s: Array, y: fast.Carry) -> fast.Carry:
            row = grid.row(s, rows, ends)
            k, arrives = k_layout.join(lambda i: k_shared[row, i], lambda i: k_own[row, i, :])
            a = jax.tree.unflatten(absorption, [a_own[row, i, :] for i in range(absorption.num_leaves)])
            drug = y.drug._replace(depot_nmol=y.drug.depot_nmol + arrives * dose_nmol)
            k, y = k._replace(absorption=a, no_dose_absorption=a), y._replace(drug=drug)
            return fast.step(k, y, c, dose_nmol > 0, immune_log_activity, form, plain=True)

        return lax.fori_loop(1 - begins.astype(jnp.int32), rows - 1, one_step, y)

    y = jax.tree.unflatten(carry, [now[i, :] for i in range(n_state)])
    y = lax.fori_loop(days[0], days[1], one_day, y)
    for i, x in enumerate(jax.tree.leaves(y)):
        out[i, :] = x
