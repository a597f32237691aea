"""pkpd: the engine that ``auto`` picks, on several grids of a day; coefficients of the steps included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.engine import GRIDS
from benchmarks.systems import task as tasks
from benchmarks.systems.measured import Measured, Setting, compilation, fastest
from pkpd import devices, pharmacokinetics
from pkpd.engine import grid
from pkpd.engine.solver import solver
from pkpd.model import DYNAMIC
from pkpd.parameters import Parameters

jax.config.update("jax_enable_x64", True)

DEFAULT = next(name for name, steps in GRIDS.items() if steps == grid.DEFAULT)
SETTINGS = tuple(
    Setting(name, precision, 16 * devices.TILE, (precision, name))
    for precision, names in (("float32", GRIDS), ("float64", (DEFAULT, "default, halved")))
    for name in names
)


def courses(steps: grid.Grid) -> Callable:
    """Counts and concentrations of a tile, [weeks, patients]."""

    @jax.jit
    def run(p: Parameters, omega: jax.Array) -> tuple:
        move = solver("auto", p, DYNAMIC, steps)
        dose = pharmacokinetics.arriving_nmol(jnp.full_like(omega[0], tasks.DOSE_MG), p)

        def week(y: Any, w: jax.Array) -> tuple:
            y = move.advance(y, tasks.DAYS_A_WEEK * w, tasks.DAYS_A_WEEK * (w + 1), dose, omega)
            now = move.read(y)
            return y, (now.platelets_1e9_per_l, now.concentration_nM)

        return jax.lax.scan(week, move.start, jnp.arange(tasks.WEEKS))[1]

    return run


def measured(task: tasks.Task, cores: int, settings: Sequence[Setting]) -> Iterator[Measured]:
    width = devices.tile_width(devices.resolve_engine())
    for s in settings:
        precision, name = s.options
        solve = courses(GRIDS[name])
        tiles = []
        for i in range(0, s.patients, width):
            t = tasks.part(task, np.arange(i, min(i + width, s.patients)))
            p = Parameters(**{name: jnp.asarray(x, precision) for name, x in t.parameters.items()})
            tiles.append((p, t.omega.astype(precision)))

        def run(solve: Callable = solve, tiles: list = tiles) -> tuple:
            return tuple(np.concatenate(x, -1) for x in zip(*devices.map_tiles(solve, tiles), strict=True))

        seconds_compile = compilation(lambda solve=solve, tiles=tiles: list(devices.map_tiles(solve, tiles[:1])), cores)
        (counts, C), seconds = fastest(run, cores)
        yield Measured(s, counts, C, seconds, seconds_compile)
