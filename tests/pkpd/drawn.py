"""Random patients, drift and titrated dose histories for tests: ordinary ones, and a box of +-4 sd with its corners."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import phase3
from pkpd import cohort, random, titration, trial
from pkpd.engine import grid
from pkpd.engine.solver import solver
from pkpd.model import DYNAMIC
from pkpd.parameters import Parameters, load_library

WEEKS = 8
SD = 4.0  # half-width of the box, in interindividual standard deviations
BASELINE = (1.0, 30.0)  # range of entry counts, 1e9/L
CORNERS = 0.3  # share of the box's patients that sit in its corners


class Patients(NamedTuple):
    """parameters [patients]; omega and residual (a factor on the count) [weeks, patients]."""

    parameters: Parameters
    omega: jax.Array
    residual: jax.Array


def population():
    return load_library().population(jnp.float64)


def ordinary(n: int, seed: int) -> Patients:
    """Patients of the trial, drawn as the visit loop draws them."""
    keys = random.patient_keys(random.root(seed), *np.broadcast_arrays(0, 0, np.arange(n)))
    drawn = cohort.draw(population(), keys, jnp.asarray(BASELINE[1]))
    omega = trial.drift(drawn.noise, keys, WEEKS, jnp.float64)
    z = jnp.stack([random.normal(keys, 7 * w, "residual", dtype=jnp.float64) for w in range(1, WEEKS + 1)])
    return Patients(_batch(drawn.parameters, n), omega, jnp.exp(drawn.noise.residual_log_sd * z))


def box(n: int, seed: int) -> Patients:
    """Every random effect, every shock of the drift and the baseline uniform over its +-4 sd range, or in a corner."""
    rng = np.random.default_rng(seed)

    def spread(*shape: int) -> np.ndarray:
        z = rng.uniform(-SD, SD, (*shape, n))
        corner = np.where(rng.random((*shape, n)) < 0.5, -SD, SD)
        return np.where(np.arange(n) < CORNERS * n, corner, z)

    p = population()
    weight = np.asarray(cohort.weight(p.demography, jnp.asarray(spread())))
    low, high = BASELINE
    P0 = low + (high - low) * (spread() + SD) / (2 * SD)
    nobody = jax.tree.map(lambda ratio: jnp.zeros(n), p.covariates)
    drawn = cohort.individuals(p, jnp.asarray(spread(13)), jnp.asarray(weight), jnp.asarray(P0), nobody)
    rho = np.exp(-7 / np.asarray(drawn.noise.immune_drift_time_d))
    kick = np.asarray(drawn.noise.immune_drift_log_sd) * np.sqrt(1 - rho**2)
    omega, now = [], np.zeros(n)
    for z in spread(WEEKS):
        now = rho * now + kick * z
        omega.append(now)
    residual = np.exp(np.asarray(drawn.noise.residual_log_sd) * rng.standard_normal((WEEKS, n)))
    return Patients(_batch(drawn.parameters, n), jnp.asarray(np.stack(omega)), jnp.asarray(residual))


def _batch(p: Parameters, n: int) -> Parameters:
    return Parameters(*(jnp.broadcast_to(jnp.asarray(leaf, jnp.float64), (n,)) for leaf in p))


def cast(patients: Patients, dtype) -> Patients:
    return jax.tree.map(lambda x: x.astype(dtype), patients)


def titrated(patients: Patients) -> np.ndarray:
    """Weekly doses in mg [weeks, patients] as phase III titrates them, half of the patients from each start."""
    arms = [phase3.arm(start_mg) for start_mg in (2.5, 5.0)]
    rule, n = arms[0].rule, patients.omega.shape[1]
    level = np.where(np.arange(n) % 2 == 0, arms[0].start_level, arms[1].start_level)
    move = solver("kernel", patients.parameters, DYNAMIC, grid.DEFAULT)

    def week(loop, w):
        y, dosing = loop
        dose = titration.dose_mg(rule, dosing, jnp.float64)
        y = move.advance(y, 7 * w, 7 * w + 7, to_nmol(dose, patients.parameters), patients.omega)
        count = move.read(y).platelets_1e9_per_l * patients.residual[w]
        return (y, titration.decide(rule, dosing, jnp.maximum(1, count), 7 * w + 7)), dose

    dosing = titration.start(rule, 0, n)._replace(level=jnp.asarray(level, jnp.int32))
    doses = jax.jit(lambda loop: jax.lax.scan(week, loop, jnp.arange(WEEKS))[1])((move.start, dosing))
    return np.asarray(doses)


def to_nmol(dose_mg, p: Parameters):
    return p.bioavailability * dose_mg * 1e6 / p.molar_mass_g_per_mol


def counts(engine: str, patients: Patients, weekly_mg: np.ndarray, steps: grid.Grid = grid.DEFAULT) -> np.ndarray:
    """Platelets at the weekly visits [weeks, patients] by the named engine, on given doses."""
    doses = jnp.asarray(weekly_mg, patients.omega.dtype)
    return np.asarray(_counts(patients.parameters, patients.omega, doses, engine, steps))


@partial(jax.jit, static_argnames=("engine", "steps"))
def _counts(p: Parameters, omega: jax.Array, doses: jax.Array, engine: str, steps: grid.Grid) -> jax.Array:
    move = solver(engine, p, DYNAMIC, steps)

    def week(y, w):
        y = move.advance(y, 7 * w, 7 * w + 7, to_nmol(doses[w], p), omega)
        return y, move.read(y).platelets_1e9_per_l

    return jax.lax.scan(week, move.start, jnp.arange(WEEKS))[1]
