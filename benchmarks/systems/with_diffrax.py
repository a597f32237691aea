"""diffrax: every stretch a ``diffeqsolve`` from its start, all stretches in one ``scan``, patients in ``vmap``.

The right-hand side is ``pkpd.model.rates``. Batches of 128 patients are the fastest here: larger ones leave the cache,
smaller ones are all overhead; a batch takes each stretch at the pace of its slowest patient. A first step that is
given costs less than one that diffrax looks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.systems import task as tasks
from benchmarks.systems.measured import Measured, Setting, compilation, fastest
from pkpd import model
from pkpd.devices import map_tiles
from pkpd.parameters import Parameters

jax.config.update("jax_enable_x64", True)

ATOL = 0.1  # of rtol
FIRST_STEP_H = 0.1
MAX_STEPS = 100_000


def _settings() -> Iterator[Setting]:
    for solver, precision, batch, n, tolerances in (
        ("Tsit5", "float64", 128, 512, (1e-3, 1e-4, 1e-6)),
        ("Tsit5", "float32", 32, 512, (1e-4,)),
        ("Tsit5", "float32", 128, 512, (1e-3, 3e-4, 1e-4)),
        ("Bosh3", "float64", 128, 512, (1e-4,)),
        ("Bosh3", "float32", 128, 512, (1e-3, 3e-4, 1e-4)),
        ("Dopri8", "float64", 128, 512, (1e-3, 1e-4)),
        ("Dopri8", "float32", 128, 512, (1e-3,)),
        ("Kvaerno3", "float64", 128, 128, (1e-3,)),
        ("Kvaerno5", "float64", 32, 32, (1e-3,)),
    ):
        for rtol in tolerances:
            yield Setting(f"{solver}, rtol {rtol:g}, batch {batch}", precision, n, (solver, precision, batch, rtol))


SETTINGS = tuple(_settings())


@cache
def solver(name: str) -> Callable:
    """Counts and concentrations of a batch, [patients, weeks], compiled once for all tolerances."""
    method = getattr(diffrax, name)()

    def one(p: Parameters, course: tuple, visits: Any, rtol: Any) -> tuple:
        start, b = model.steady_state(p)

        def derivatives(t: Any, y: Any, now: tuple) -> Any:
            return jnp.stack(model.rates(model.State(*y), p, b, *now))

        def stretch(y: Any, now: tuple) -> tuple:
            hours, ka, arriving, omega = now
            found = diffrax.diffeqsolve(
                diffrax.ODETerm(derivatives),
                method,
                t0=0.0,
                t1=hours,
                dt0=jnp.minimum(FIRST_STEP_H, hours),
                y0=y.at[0].add(arriving),
                args=(ka, omega),
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=ATOL * rtol),
                saveat=diffrax.SaveAt(t1=True),
                max_steps=MAX_STEPS,
                throw=False,
            )
            good = found.result == diffrax.RESULTS.successful
            y = jnp.where(good, found.ys[0], jnp.nan)
            return y, y

        path: jax.Array = jax.lax.scan(stretch, jnp.stack(start), course)[1]
        y = path[visits]
        return y[:, 14], model.free_concentration_nM(model.State(*y.T), p)

    return jax.jit(jax.vmap(one, in_axes=(0, 1, None, None)))


def batches(task: tasks.Task, s: Setting) -> Iterator[tuple]:
    """Arguments of ``solver`` for one batch after another."""
    _, precision, batch, rtol = s.options
    dtype = np.dtype(precision).type
    t = tasks.first(task, s.patients)
    course, p = tasks.stretches(t), tasks.by_patient(t)
    columns = (course.hours, course.ka_per_h, course.arriving_nmol, t.omega[course.week])
    for i in range(0, s.patients, batch):
        rows = slice(i, i + batch)
        yield (
            Parameters(**{name: jnp.asarray(x[rows], dtype) for name, x in p.items()}),
            tuple(x[:, rows].astype(dtype) for x in columns),
            np.flatnonzero(course.visit),
            dtype(rtol),
        )


def measured(task: tasks.Task, cores: int, settings: Sequence[Setting]) -> Iterator[Measured]:
    seconds_compile: dict[tuple, float] = {}
    for s in settings:
        solve, tiles = solver(s.options[0]), list(batches(task, s))
        kind = s.options[:3]
        if kind not in seconds_compile:
            seconds_compile[kind] = compilation(lambda solve=solve, tiles=tiles: _joined(solve, tiles[:1]), cores)
        (counts, C), seconds = fastest(lambda solve=solve, tiles=tiles: _joined(solve, tiles), cores)
        yield Measured(s, counts, C, seconds, seconds_compile[kind])


def _joined(solve: Callable, tiles: list) -> tuple:
    return tuple(np.concatenate(x).T for x in zip(*map_tiles(solve, tiles), strict=True))
