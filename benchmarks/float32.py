"""float32 against float64: the largest difference of every state and of every endpoint count, for the shipped table.

    python -m benchmarks.float32 [--patients 102400] [--out pkpd/library/float32.csv]

Patients of the trial as the visit loop draws them, and of a box with every random effect, drift and baseline uniform
over +-4 sd, corners included; 56 days, 8 visits, phase III titration from either start, the default grid and engine.
States and exposures: both precisions replay the doses that float64 titrates; differences at the visits, relative ones
where a value is at least 1e-3 of the patient's largest. Endpoints: each precision titrates by its own counts, with the
same random numbers; ``changed`` patients have the event in one precision only.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks import phase3
from benchmarks.engine import WEEKS, drawers
from pkpd import endpoints, titration
from pkpd.devices import AUTOMATIC
from pkpd.engine import fast, grid
from pkpd.engine.grid import DAYS_A_WEEK
from pkpd.engine.solver import solver
from pkpd.engine.vector import groups
from pkpd.model import DYNAMIC, State
from pkpd.parameters import load_library

BATCH = 2048
BEYOND = 1e-3  # relative difference from which a value counts as changed
NOT_NEGLIGIBLE = 1e-3  # of the patient's largest value of that state
PER = 100_000  # patients, in which endpoint counts are told
UNITS = {
    **dict.fromkeys(State._fields, "relative"),
    "depot_nmol": "nmol", "central_nmol": "nmol", "peripheral_nmol": "nmol", "target_nM": "nM",
    **dict.fromkeys(("progenitors", "mk1", "mk2", "mk3", "mk4", "platelets_1e9_per_l"), "1e9/L"),
    "concentration_nM": "nM", "auc_nM_h": "nM h", "cmax_nM": "nM",
}  # fmt: skip
COLUMNS = [
    "quantity", "unit", "population", "patients", "failed", "largest_absolute", "largest_relative", "relative_q99",
    "changed", "float64",
]  # fmt: skip


class Course(NamedTuple):
    """values: by name [weeks, patients]; events [5, patients]; dose_mg [weeks, patients]."""

    values: dict[str, Any]
    events: Any
    dose_mg: Any


def carried(y: Any) -> fast.Carry:
    """The engine's state of a solver's, which the kernel lays out in its own way."""
    return groups.unpack(y) if isinstance(y, groups.Packed) else y


@partial(jax.jit, static_argnames="engine")
def course(patients: Any, uniform: Any, doses: Any, engine: str = AUTOMATIC) -> Course:
    """Courses in the precision of the patients, on ``doses`` [weeks, patients] mg where given, else titrated.

    uniform [weeks, patients] decides on rescue. Half of the patients start at either dose of phase III.
    """
    p, noise = patients.parameters, load_library().population().noise
    dtype, n = p.clearance_l_per_h.dtype, patients.omega.shape[1]
    arms = [phase3.arm(start_mg) for start_mg in (2.5, 5.0)]
    rule, level = arms[0].rule, jnp.where(jnp.arange(n) % 2 == 0, arms[0].start_level, arms[1].start_level)
    move, c = solver(engine, p, DYNAMIC, grid.DEFAULT), fast.course(p)

    def week(loop: tuple, xs: tuple) -> tuple[tuple, tuple]:
        y, dosing, rescued = loop
        w, residual, u, given = xs
        dose = titration.dose_mg(rule, dosing, dtype) if given is None else given
        amount = p.bioavailability * dose * 1e6 / p.molar_mass_g_per_mol
        y = move.advance(y, DAYS_A_WEEK * w, DAYS_A_WEEK * (w + 1), amount, patients.omega)
        now = move.read(y)
        count = jnp.maximum(1, now.platelets_1e9_per_l * residual)
        chance = endpoints.rescue_probability(
            count, noise[3].astype(dtype), noise[4].astype(dtype), endpoints.RESCUE_INTERVAL_D
        )
        rescued = rescued | (u < chance)
        values = fast.state(carried(y), c)._asdict() | now._asdict()
        return (y, titration.decide(rule, dosing, count, DAYS_A_WEEK * (w + 1)), rescued), (
            values, count, rescued, dose,
        )  # fmt: skip

    loop = (move.start, titration.start(rule, level, n), jnp.zeros(n, bool))
    xs = (jnp.arange(WEEKS), patients.residual, uniform, doses)
    _, (values, count, rescued, dose) = jax.lax.scan(week, loop, xs)
    return Course(values, endpoints.events(count, p.baseline_platelets_1e9_per_l, rescued), dose)


def compare(kind: str, batches: int, engine: str = AUTOMATIC, seed: int = 50) -> pd.DataFrame:
    """The table of one population ("ordinary" or "box") of so many batches of BATCH patients."""
    drawn = drawers()
    absolute: dict[str, float] = dict.fromkeys(UNITS, 0.0)
    relative: dict[str, list[np.ndarray]] = {name: [] for name in UNITS}
    events: list[np.ndarray] = []
    failed = 0
    for b in range(batches):
        double = getattr(drawn, kind)(BATCH, seed=seed + b)
        single = drawn.cast(double, jnp.float32)
        u = np.random.default_rng(seed + b).random((WEEKS, BATCH), np.float32)
        titrated = course(double, u, None, engine)
        exact = course(double, u, titrated.dose_mg, engine).values
        rounded = course(single, u, titrated.dose_mg.astype(jnp.float32), engine).values
        events.append(np.stack([course(single, u, None, engine).events, titrated.events], 1))
        P = np.asarray(rounded["platelets_1e9_per_l"])
        lost = ~np.all(np.isfinite(P) & (P > 0), axis=0)
        failed += int(lost.sum())
        for name in UNITS:
            x, y = (np.asarray(v[name], np.float64)[:, ~lost] for v in (rounded, exact))
            there = y >= NOT_NEGLIGIBLE * y.max(0)
            absolute[name] = max(absolute[name], float(np.abs(x - y).max()))
            relative[name].append(np.abs(x - y)[there & (y > 0)] / y[there & (y > 0)])
    n = batches * BATCH
    rows: list[tuple[Any, ...]] = []
    for name, unit in UNITS.items():
        r = np.concatenate(relative[name])
        rows.append(
            (name, unit, kind, n, failed, absolute[name], r.max(), np.quantile(r, 0.99), (r > BEYOND).sum(), "")
        )
    single_has, double_has = np.moveaxis(np.concatenate(events, -1), 1, 0)
    for name, a, b in zip(endpoints.NAMES, single_has, double_has, strict=True):
        off, total = abs(int(a.sum()) - int(b.sum())), int(b.sum())
        unit = f"patients in {PER}"
        rows.append((name, unit, kind, n, failed, off * PER / n, off / total, np.nan, (a != b).sum(), total * PER / n))
    return pd.DataFrame(rows, columns=COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=int, default=50 * BATCH)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    table = pd.concat([compare(kind, max(1, args.patients // BATCH)) for kind in ("ordinary", "box")])
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3g}"))
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
