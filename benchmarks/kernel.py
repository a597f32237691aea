"""The GPU kernel beside the XLA scan on the same device, on the same courses; without a GPU, a roofline estimate.

    python -m benchmarks.kernel [--patients 16384 65536 262144 1048576] [--blocks 128] [--json FILE]

A course is one patient of phase III, 56 days, 8 visits, weekly doses drawn from the ladder and none, drift, all 16
states in dynamic form, float32; no titration, random numbers or observation. Coefficients of the steps are included,
compilation is not. Errors are relative, of the count at the visits, against the XLA scan. Without a GPU the kernel is
interpreted over a few days for its agreement, and its speed on an H100 is estimated, not measured: operations counted
in the jaxpr of ``fast.step`` and bytes read, over the rates of the data sheet.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Literal

from benchmarks import phase3
from pkpd import cohort, pharmacokinetics, random, trial
from pkpd.engine import fast, grid, pallas
from pkpd.engine import solver as engines
from pkpd.model import DYNAMIC, Form, State, steady_state
from pkpd.parameters import Parameters, load_library

DAYS = (7, 14, 21, 28, 35, 42, 49, 56)
FEW_DAYS = (3, 9)
SMALL = 130  # patients of the interpreted kernel: one block and a part of another
LEVELS_MG = (0.0, 2.5, 3.75, 5.0, 7.5)
SEED = 1

# H100 SXM, data sheet: 67 TFLOP/s in float32 count a fused multiply-add as two.
BYTES_PER_S = 3.35e12
INSTRUCTIONS_PER_S = 67e12 / 2
# Instructions of one operation where it is not one: range checks and scaling around the approximate unit.
INSTRUCTIONS = {"div": 6, "sqrt": 2, "exp": 4}
MOVES = ("broadcast_in_dim", "convert_element_type", "copy", "reshape", "slice", "squeeze")


def operations(function: Callable, fixed: Any, moving: Any) -> Counter:
    """Operations a patient in ``function(fixed, moving)`` that depend on ``moving``; repeated and unused ones left out.

    Leaves without axes are shared by all patients: what depends on nothing else is not counted either.
    """
    closed = jax.make_jaxpr(function)(fixed, moving)
    known: dict[Any, int] = {}
    nodes: list[tuple[str, tuple[int, ...], bool, bool]] = []  # operation, operands, by patient, moves

    def node(key: Any, name: str, operands: tuple, by_patient: bool, moves: bool) -> int:
        if known.setdefault(key, len(nodes)) == len(nodes):
            nodes.append((name, operands, by_patient, moves))
        return known[key]

    def run(jaxpr: Any, inputs: list[int]) -> list[int]:
        env = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return node(("literal", str(atom.val)), "input", (), False, False)
            return env[atom]

        for e in jaxpr.eqns:
            operands = [read(a) for a in e.invars]
            inner = e.params.get("jaxpr", e.params.get("call_jaxpr"))
            if inner is not None:
                results = run(getattr(inner, "jaxpr", inner), operands)
            elif e.primitive.name in MOVES:
                results = operands[:1]
            else:
                flags = (any(nodes[o][i] for o in operands) for i in (2, 3))
                key = (e.primitive.name, *operands, str(e.params))
                results = [node(key, e.primitive.name, tuple(operands), *flags)]
            env.update(zip(e.outvars, results, strict=True))
        return [read(a) for a in jaxpr.outvars]

    n_fixed = len(jax.tree.leaves(fixed))
    inputs = [node(("input", i), "input", (), v.aval.ndim > 0, i >= n_fixed) for i, v in enumerate(closed.jaxpr.invars)]
    if closed.consts:
        raise ValueError("the traced function closes over arrays: pass them as arguments")
    used = set(run(closed.jaxpr, inputs))
    for i in range(len(nodes) - 1, -1, -1):
        used.update(nodes[i][1] if i in used else ())
    counted = (name for i, (name, operands, *flags) in enumerate(nodes) if i in used and operands and all(flags))
    return Counter(counted)


def roofline(steps: grid.Grid = grid.DEFAULT, days: int = DAYS[-1]) -> dict[str, float]:
    """Bounds of patients a second on an H100, printed and returned: an estimate, not a measurement."""
    p, _, _ = patients(2, DAYS, jnp.float32)
    c = fast.course(p)
    hours, ka, ka_none, arrival = grid.day(p, steps)
    k = fast.steps(c, hours, ka, ka_none)
    one = jax.tree.map(lambda x: x[0], k._replace(no_dose_absorption=k.absorption))
    y = fast.carry(at_rest(p), c, DYNAMIC)

    def step(c: fast.Course, moving: tuple) -> fast.Carry:
        k, y, omega = moving
        return fast.step(k, y, c, omega > 0, omega, DYNAMIC, plain=True)

    def coefficients(c: fast.Course, moving: tuple) -> fast.Steps:
        h, ka = moving
        return fast.steps(c, h[None], ka[None], ka[None])

    of_step = operations(step, c, (one, y, y.socs_excess))
    # the coefficients have no patients axis of their own: what moves are the two scalars of the step
    again = operations(coefficients, c, (hours[0], ka[0]))
    rows = pallas.split(({n: x for n, x in k._asdict().items() if not n.endswith("absorption")}, arrival), 1)[1].shape[
        1
    ]
    read = 4 * (rows + len(jax.tree.leaves(k.absorption)))
    n = grid.steps_of(steps, days)
    seconds = {
        "memory": n * read / BYTES_PER_S,
        "arithmetic": n * instructions(of_step) / INSTRUCTIONS_PER_S,
        "arithmetic with coefficients recomputed": n * instructions(of_step + again) / INSTRUCTIONS_PER_S,
    }
    seconds["memory after arithmetic, nothing overlapped"] = seconds["memory"] + seconds["arithmetic"]
    print(f"a step: {of_step.total()} operations ({_listed(of_step)}), {read} bytes read")
    print(f"its coefficients, were they recomputed: {again.total()} operations ({_listed(again)})")
    print(f"a course of {n} steps: {n * of_step.total() / 1e6:.2f} million operations, {n * read / 1e3:.0f} kB")
    print("ESTIMATE for an H100 from data sheet rates, not measured: million patients a second, at most")
    for limit, s in seconds.items():
        print(f"  {1e-6 / s:5.1f}  {limit}")
    return {limit: 1 / s for limit, s in seconds.items()}


def instructions(count: Counter) -> int:
    return sum(n * INSTRUCTIONS.get(name, 1) for name, n in count.items())


def _listed(count: Counter) -> str:
    return ", ".join(f"{name} {n}" for name, n in count.most_common())


def at_rest(p: Parameters) -> State:
    shape = jnp.broadcast_shapes(*(jnp.shape(leaf) for leaf in p))
    return State(*(jnp.broadcast_to(leaf, shape) for leaf in steady_state(p)[0]))


def patients(n: int, days: tuple[int, ...], dtype: Any) -> tuple[Parameters, Array, Array]:
    """Patients as the visit loop has them, doses in nmol [visits, n] and drift [weeks, n]."""
    zero = jnp.zeros(n, jnp.int32)
    keys = random.patient_keys(random.root(SEED), zero, zero, jnp.arange(n))
    drawn = cohort.draw(load_library().population(dtype), keys, phase3.arm(2.5).baseline_below)
    mg = np.random.default_rng(SEED).choice(LEVELS_MG, (len(days), n))
    dose = pharmacokinetics.arriving_nmol(jnp.asarray(mg, dtype), drawn.parameters)
    return drawn.parameters, dose, trial.drift(drawn.noise, keys, -(-days[-1] // engines.DAYS_A_WEEK), dtype)


def counts(make: Callable, days: tuple[int, ...], p: Parameters, dose_nmol: Array, omega: Array) -> Array:
    """Platelets at the visits [visits, patients]."""
    move = make(p, DYNAMIC, grid.DEFAULT, at_rest(p))

    def visit(y: Any, xs: tuple) -> tuple[Any, Array]:
        first, day, dose = xs
        y = move.advance(y, first, day, dose, omega)
        return y, move.read(y).platelets_1e9_per_l

    return lax.scan(visit, move.start, (jnp.array((0, *days[:-1])), jnp.array(days), dose_nmol))[1]


def scan(p: Parameters, form: Form, steps: grid.Grid, at_rest: State) -> engines.Solver:
    """The engine's XLA path."""
    return engines.solver("xla", p, form, steps)


def measured(system: str, make: Callable, n: int, days: tuple[int, ...], timed: bool) -> tuple[dict, np.ndarray]:
    """A record without errors, and the counts at the visits."""
    device, args = jax.devices()[0], patients(n, days, jnp.float32)
    start = time.perf_counter()
    run = jax.jit(partial(counts, make, days)).lower(*args).compile()
    compiled = time.perf_counter() - start
    result = np.asarray(run(*args))
    seconds = []
    for _ in range(3 * timed):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        seconds.append(time.perf_counter() - start)
    record = {
        "system": system,
        "device": device.device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "precision": "float32",
        "patients": n,
        "patients_per_second": n / min(seconds) if seconds else None,
        **dict.fromkeys(("error_median", "error_p999", "error_max")),
        "seconds_compile": compiled,
        "jax_version": jax.__version__,
    }
    return record, result


def compared(systems: dict[str, Callable], n: int, days: tuple[int, ...], timed: bool) -> list[dict]:
    """A record a system, printed; errors against the first."""
    records, truth = [], None
    for system, make in systems.items():
        record, result = measured(system, make, n, days, timed)
        if truth is None:
            truth = result
        else:
            error = np.abs(result / truth - 1)
            record |= {
                "error_median": float(np.median(error)),
                "error_p999": float(np.quantile(error, 0.999)),
                "error_max": float(np.max(error)),
            }
        print(json.dumps(record), flush=True)
        records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[2**14, 2**16, 2**18, 2**20])
    parser.add_argument("--blocks", type=int, nargs="+", default=[pallas.BLOCK], help="patients a program")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    roofline()
    if jax.default_backend() == "gpu":
        systems = {"xla": scan} | {f"pallas, blocks of {b}": partial(pallas.solver, block=b) for b in args.blocks}
        records = [r for n in args.patients for r in compared(systems, n, DAYS, timed=True)]
    else:
        print(f"no GPU: the kernel interpreted, {SMALL} patients over {FEW_DAYS[-1]} days, for its agreement only")
        systems = {"xla": scan, "pallas, interpreted": partial(pallas.solver, interpret=True)}
        records = compared(systems, SMALL, FEW_DAYS, timed=False)
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
