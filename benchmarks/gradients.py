"""Gradients of recorded courses: their cost in forward passes, their memory, and their error against diffrax.

    python -m benchmarks.gradients [--patients 1024] [--compared 16] [--json FILE]

A loss a patient, the squared differences of 8 weekly log counts over 56 days, by all parameters of that patient; doses
are recorded, drift is given. Both programs are XLA, compiled, on the same cohort; they take turns, and the fastest of
each counts. Memory is what the compiler sets aside beside arguments and results. Errors are those of the elasticity
d log(count)/d log(parameter) in float64, at the 8 visits of titrated patients, divided by the exact one or by 0.1 where
that is more (1% of the parameter moves the count by 0.1%); exact are differences of fourth order of the reference
solver (Dopri8, relative tolerance 1e-10).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.engine import WEEKS, drawers, solve
from pkpd import pharmacokinetics
from pkpd.engine import grid, recorded
from pkpd.engine.grid import DAYS_A_WEEK
from pkpd.engine.solver import solver
from pkpd.parameters import Parameters

VISITS = tuple(DAYS_A_WEEK * w for w in range(1, WEEKS + 1))
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))  # of the first derivative, error of fourth order
STEP = 2e-3  # relative to the parameter
MATTERS = 0.1  # elasticity below which errors are absolute, in units of it
RTOL = 1e-10
# recorded.course takes omega week by week, so the parameter that adds to it has no derivative
ACTING = [i for i, name in enumerate(Parameters._fields) if name != "immune_log_activity"]


def cohort(drawn: Any, n: int, dtype: Any) -> tuple[Parameters, jax.Array, jax.Array]:
    """Ordinary patients, their titrated doses [days, n] and drift [weeks, n]."""
    patients = drawn.ordinary(n, seed=51)
    daily = np.repeat(drawn.titrated(patients), DAYS_A_WEEK, axis=0)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (patients.parameters, daily, patients.omega))


def counts(p: Parameters, dose_mg: jax.Array, omega: jax.Array, accuracy: str = "default") -> jax.Array:
    """Platelets at the visits [visits, patients]."""
    return recorded.course(p, dose_mg, omega, VISITS, accuracy=accuracy).platelets_1e9_per_l


def counts_of_trials(p: Parameters, dose_mg: jax.Array, omega: jax.Array) -> jax.Array:
    """The same by the XLA solver of the visit loop, which has no derivatives to prepare."""
    move = solver("xla", p, recorded.FORM, grid.DEFAULT)

    def week(y: Any, w: jax.Array) -> tuple[Any, jax.Array]:
        dose = pharmacokinetics.arriving_nmol(dose_mg[DAYS_A_WEEK * w], p)
        y = move.advance(y, DAYS_A_WEEK * w, DAYS_A_WEEK * (w + 1), dose, omega)
        return y, move.read(y).platelets_1e9_per_l

    return jax.lax.scan(week, move.start, jnp.arange(WEEKS))[1]


def loss(p: Parameters, dose_mg: jax.Array, omega: jax.Array, observed: jax.Array, model: Callable = counts):
    """Sum over patients of each one's squared differences of log counts: its gradient by ``p`` is each patient's."""
    return ((jnp.log(model(p, dose_mg, omega)) - jnp.log(observed)) ** 2).sum()


def along(p: Parameters, *args: Any) -> tuple:
    """The loss and its derivative in one direction, all parameters of a patient together."""
    return jax.jvp(lambda p: loss(p, *args), (p,), (p,))


def fastest(programs: dict[str, Callable], args: tuple, repeats: int) -> dict[str, float]:
    """Seconds of the fastest of ``repeats`` calls of each, taken in turns so that they share the machine's moods."""
    best = dict.fromkeys(programs, np.inf)
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def cost(drawn: Any, n: int, dtype: Any, repeats: int = 7) -> dict[str, float]:
    """Seconds of a forward pass, of the visit loop's own, of a gradient and of a direction, for n patients."""
    args = cohort(drawn, n, dtype)
    observed = 1.1 * jax.jit(counts)(*args)
    functions = {
        "forward": loss,
        "forward, solver of trials": partial(loss, model=counts_of_trials),
        "gradient": jax.value_and_grad(loss),
        "one direction": along,
    }
    programs = {name: jax.jit(f).lower(*args, observed).compile() for name, f in functions.items()}
    return fastest(programs, (*args, observed), repeats)


def memory(days: int, accuracy: str, n: int = 256) -> float:
    """Bytes a patient of a gradient in float64."""

    def last(p: Parameters, dose_mg: jax.Array) -> jax.Array:
        omega = jnp.zeros((-(-days // DAYS_A_WEEK), n))
        return recorded.course(p, dose_mg, omega, (days,), accuracy=accuracy).platelets_1e9_per_l.sum()

    p = Parameters(*(jnp.ones(n) for _ in Parameters._fields))
    compiled = jax.jit(jax.grad(last)).lower(p, jnp.ones((days, n))).compile()
    return compiled.memory_analysis().temp_size_in_bytes / n


def elasticities(p: Parameters, dose_mg: jax.Array, omega: jax.Array, accuracy: str) -> np.ndarray:
    """d log(count)/d log(parameter) of every visit by reverse mode, [acting parameters, visits, patients]."""

    @jax.jit
    def by_visit(p: Parameters, visit: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda p: jnp.log(counts(p, dose_mg, omega, accuracy)[visit]).sum())(p)
        return jnp.stack([gradient[i] * p[i] for i in ACTING])

    return np.stack([by_visit(p, v) for v in range(WEEKS)], 1)


def exact_elasticities(p: Parameters, dose_mg: jax.Array, omega: jax.Array) -> np.ndarray:
    """The same by differences of the reference solver."""
    weekly, omega, n = np.asarray(dose_mg)[::DAYS_A_WEEK], np.asarray(omega), dose_mg.shape[1]
    varied = [p._replace(**{Parameters._fields[i]: p[i] * (1 + STEP * t)}) for i in ACTING for t, _ in STENCIL]
    wide = Parameters(*(jnp.concatenate(leaves) for leaves in zip(*varied, strict=True)))
    copies = len(varied)
    found = solve(wide, np.tile(weekly, copies), np.tile(omega, copies), RTOL, "explicit")()[0]
    log = np.log(found).reshape(WEEKS, len(ACTING), len(STENCIL), n)
    return np.einsum("vpsn,s->pvn", log, [w for _, w in STENCIL]) / STEP


def quantiles(error: np.ndarray) -> list[float]:
    return [float(x) for x in np.quantile(error, [0.5, 0.99, 1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=int, default=1024, help="of the cohort that is timed")
    parser.add_argument("--compared", type=int, default=16, help="patients compared with the reference solver")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    drawn = drawers()
    record: dict[str, Any] = {
        "device": jax.devices()[0].device_kind, "jax_version": jax.__version__,
        "patients": args.patients, "compared": args.compared, "cost": {}, "bytes_a_patient": {}, "errors": {},
    }  # fmt: skip

    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}; {args.patients} patients, 56 days, default grid")
    print(f"{'in forward passes':20s}{'gradient':>10s}{'one direction':>15s}{'forward, solver of trials':>27s}")
    for dtype in (jnp.float32, jnp.float64):
        seconds, name = cost(drawn, args.patients, dtype), jnp.dtype(dtype).name
        record["cost"][name] = {"seconds": seconds}
        ratios = [
            seconds[key] / seconds["forward"] for key in ("gradient", "one direction", "forward, solver of trials")
        ]
        print(f"{name:20s}{ratios[0]:10.2f}{ratios[1]:15.2f}{ratios[2]:27.2f}", flush=True)

    print("\nbytes a patient of the gradient, float64, by days and grid")
    for accuracy in grid.ACCURACY:
        kept = {days: memory(days, accuracy) for days in (28, 56, 112)}
        record["bytes_a_patient"][accuracy] = kept
        steps = sum(map(len, grid.accuracy(accuracy)))
        by_days = ", ".join(f"{days} days {size:,.0f}" for days, size in kept.items())
        print(f"{accuracy} ({steps} steps a day): {by_days}; a day more {(kept[112] - kept[56]) / 56:,.0f}", flush=True)

    given = cohort(drawn, args.compared, jnp.float64)
    exact = exact_elasticities(*given)
    found = {accuracy: elasticities(*given, accuracy) for accuracy in grid.ACCURACY}
    scale = np.maximum(np.abs(exact), MATTERS)
    error = {accuracy: np.abs(e - exact) / scale for accuracy, e in found.items()}
    print(f"\nerror of d log(count)/d log(parameter), {args.compared} patients, {WEEKS} visits: median, 99%, worst")
    print(f"{'parameter':40s}{'largest':>9s}  " + "   ".join(f"{accuracy:26s}" for accuracy in error))
    rows = [(Parameters._fields[i], slice(k, k + 1)) for k, i in enumerate(ACTING)] + [("all", slice(None))]
    for name, at in rows:
        cells = {accuracy: quantiles(e[at]) for accuracy, e in error.items()}
        record["errors"][name] = {"largest": float(np.abs(exact[at]).max()), **cells}
        shown = "   ".join(" ".join(f"{x:8.1e}" for x in cell) for cell in cells.values())
        print(f"{name:40s}{np.abs(exact[at]).max():9.2g}  {shown}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
