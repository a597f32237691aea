"""The fast engine beside diffrax: patients a second and error on the same recorded courses, in one run.

    python -m benchmarks.engine [--patients 65536] [--replayed 256]

A course is one patient, 56 daily doses, 8 visits, titration, drift, noise and rescue, all 16 states in dynamic form.
Both run on all cores. Dose ladders and drift recorded by the fast engine are replayed in the reference solver at tight
tolerance (the truth) and in diffrax at the looser tolerances its users would choose, float64. Errors are relative, of
the true count at the 8 visits. Compilation is excluded. Times on a shared machine mean little; the ratios do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pkpd import cohort, random, trial
from pkpd.devices import map_tiles, workers
from pkpd.engine import reference
from pkpd.model import DYNAMIC
from pkpd.parameters import Parameters
from pkpd.planned import PlannedArm, planned_arms
from pkpd.scenario import load_scenario

DAYS_A_WEEK = 7


def recorded(a: PlannedArm, days: tuple[int, ...], n: int, seed: int) -> trial.Visits:
    """Courses of n patients of an arm by the fast engine, tiles joined."""
    parts = list(trial.simulate(a.population, a.arm, days, seed, np.arange(n)))
    return jax.tree.map(lambda *x: np.concatenate(x, -1), *parts)


def patients(a: PlannedArm, n: int, seed: int) -> Parameters:
    """The same n patients in float64, every leaf [n]."""
    zero = np.zeros(n, np.int32)
    keys = random.patient_keys(random.root(seed), zero, zero, np.arange(n))
    p = cohort.draw(a.population, keys, a.arm.baseline_below).parameters
    return Parameters(*(jnp.broadcast_to(leaf, (n,)) for leaf in p))


def replay(p: Parameters, v: trial.Visits, days: tuple[int, ...], method: str, rtol: float) -> Callable[[], np.ndarray]:
    """A function that solves the recorded courses with diffrax on all cores; counts at the visits [visits, n]."""
    daily = np.repeat(v.dose_mg, np.diff([0, *days]), axis=0)
    cuts = np.array_split(np.arange(v.baseline.shape[0]), len(workers()))

    @jax.jit
    def solve(p: Parameters, dose_mg: jax.Array, omega: jax.Array) -> jax.Array:
        found = reference.solve(p, reference.days(p, dose_mg, omega), DYNAMIC, method, rtol)
        return found.states.platelets_1e9_per_l[3 * np.asarray(days)]

    def tiles() -> Iterator[tuple]:
        for rows in cuts:
            yield Parameters(*(leaf[rows] for leaf in p)), daily[:, rows], v.immune_log_activity[:, rows]

    return lambda: np.concatenate(list(map_tiles(solve, tiles())), -1)


def timed(function: Callable[[], object]) -> tuple[object, float]:
    """Result and seconds of a second call."""
    function()
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=int, default=65_536)
    parser.add_argument("--replayed", type=int, default=256)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    scenario = load_scenario("phase3")
    days, seed = tuple(scenario.trial.visits_d), 1
    arms = {dtype: planned_arms(scenario, dtype)[1] for dtype in (jnp.float32, jnp.float64)}
    print(f"{len(workers())} workers on {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    print(f"{'method':34s}{'courses/s':>10s}{'median':>10s}{'99%':>10s}{'99.9%':>10s}{'worst':>10s}")

    single = recorded(arms[jnp.float32], days, args.replayed, seed)
    p = patients(arms[jnp.float64], args.replayed, seed)
    truth = replay(p, single, days, "stiff", reference.RTOL)()

    def row(name: str, found: np.ndarray, per_second: float) -> None:
        e = np.quantile(np.abs(found / truth - 1), [0.5, 0.99, 0.999, 1])
        print(f"{name:34s}{per_second:10.0f}" + "".join(f"{x:10.1e}" for x in e), flush=True)

    for dtype, a in arms.items():
        v = recorded(a, days, args.replayed, seed)
        # ladders of the two precisions differ where a count falls on a threshold: compare those that agree
        same = (v.dose_mg == single.dose_mg).all(0)
        found = np.where(same, v.platelets_true, truth)
        _, seconds = timed(lambda a=a: recorded(a, days, args.patients, seed))
        row(f"fast, {jnp.dtype(dtype).name}", found, args.patients / seconds)
    for method, name, rtol in (("explicit", "Dopri8", 1e-3), ("explicit", "Dopri8", 1e-5), ("stiff", "Kvaerno5", 1e-3)):
        found, seconds = timed(replay(p, single, days, method, rtol))
        row(f"diffrax {name}, float64, rtol {rtol:g}", found, args.replayed / seconds)


if __name__ == "__main__":
    main()
