"""Food ratios of hetrombopag: two numbers a meal that bring AUC and Cmax as near the published changes as they can.

    python tests/reference/derive_food_ratios.py

The typical healthy volunteer of 70 kg takes the study's dose fasted and with the meal, which multiplies F and both
absorption rates. Both numbers minimise the sum of squared log ratios of simulated over published, for AUC and Cmax
(fed over fasted), within the bounds of the schema. AUC is to infinity, with the terminal phase extrapolated; where the
study reports 0 to t, t is when the fasted curve falls below the assay's limit, for both curves (t is not published).
Disposition is nonlinear: the less of a dose is absorbed the larger the part of it that the target takes, so F's ratio
is not that of the AUC. An absorption that is faster after a meal is what two numbers make of Cmax, no mechanism.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inference.curves import TERMINAL_D, trace
from pkpd.datatables import published
from pkpd.engine.grid import Grid
from pkpd.parameters import Food, load_library
from pkpd.tables import field_of

MEALS = ("high_fat_breakfast", "meal_1h_after", "meal_2h_after")
STEPS = Grid(before_switch=16, after_switch=64)  # a concentration every few minutes where the peak is
START = Food(0.3, 2.0)
SMALLEST = 1e-4  # of either ratio; the schema's lower bound, 0, has no logarithm


class Ratios(NamedTuple):
    """Fed over fasted."""

    auc: float
    cmax: float


class Derived(NamedTuple):
    """What two numbers reach: ``misfit`` is the root mean square of the two log ratios of reached over published."""

    food: Food
    reached: Ratios
    published: Ratios
    misfit: float


class Study(NamedTuple):
    dose_mg: float
    published: Ratios
    to_infinity: bool


def study(meal: str) -> Study:
    """The published changes after a meal."""
    rows = published("food").query("arm.str.endswith(@meal) and quantity.str.endswith('_change')").set_index("quantity")
    to_infinity = "auc_inf_change" in rows.index
    change = rows["value"][["auc_inf_change" if to_infinity else "auc_t_change", "cmax_change"]]
    return Study(float(rows["dose_mg"].iloc[0]), Ratios(*(1 + change / 100)), to_infinity)


def exposure(foods: list[Food], dose_mg: float, until_h: float | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """AUC [foods] (to infinity, or to ``until_h``; ng h/mL), Cmax [foods] and when the first is below the limit (h)."""
    fed = np.array(foods)
    p = load_library(disease="healthy").parameters(jnp.float64)
    p = p._replace(
        bioavailability=p.bioavailability * fed[:, 0],
        absorption_rate_first_per_h=p.absorption_rate_first_per_h * fed[:, 1],
        absorption_rate_second_per_h=p.absorption_rate_second_per_h * fed[:, 1],
    )
    first, last = TERMINAL_D
    given = np.zeros((last + 1, len(foods)))
    given[0] = dose_mg
    t = trace(p, given, steps=STEPS)
    C = t.concentration_ng_per_ml  # [days, steps, foods]
    hours = t.hours if t.hours.ndim == 1 else t.hours[:, 0]
    clock = np.append(0, (24 * np.arange(last + 1)[:, None] + hours).ravel())
    flat = np.concatenate([np.zeros((1, len(foods))), C.reshape(-1, len(foods))])
    low = published("pharmacokinetics").query("quantity == 'assay_lower_limit'")["value"].item()
    over = np.flatnonzero(flat[:, 0] >= low)[-1]
    below_h = float(np.interp(np.log(low), np.log(flat[over : over + 2, 0][::-1]), clock[over : over + 2][::-1]))
    if until_h is None:
        rate = np.log(C[first, -1] / C[last, -1]) / (24 * (last - first))
        return t.auc_ng_h_per_ml.sum(0) + C[last, -1] / rate, flat.max(0), below_h
    seen = np.append(clock[clock < until_h], until_h)
    curves = [np.interp(seen, clock, c) for c in flat.T]
    return np.trapezoid(curves, seen, axis=-1), flat.max(0), below_h


def derive(meal: str) -> Derived:
    """The two ratios of a meal."""
    s = study(meal)
    fasted = Food(1.0, 1.0)
    until_h = None if s.to_infinity else exposure([fasted], s.dose_mg)[2]
    auc, cmax, _ = exposure([fasted], s.dose_mg, until_h)

    def reached(x: np.ndarray) -> np.ndarray:
        """[2, points] of log ratios x [points, 2]."""
        fed_auc, fed_cmax, _ = exposure([Food(*np.exp(point)) for point in x], s.dose_mg, until_h)
        return np.stack([fed_auc / auc, fed_cmax / cmax])

    def errors(x: np.ndarray) -> np.ndarray:
        return np.log(reached(x[None])[:, 0]) - np.log(s.published)

    def slopes(x: np.ndarray, step: float = 1e-3) -> np.ndarray:
        moved = np.log(reached(np.concatenate([x + step * np.eye(2), x - step * np.eye(2)])))
        return (moved[:, :2] - moved[:, 2:]) / (2 * step)

    upper = np.log([field_of(name).upper for name in Food._fields])
    found = least_squares(errors, np.log(START), slopes, bounds=(np.log(SMALLEST), upper), xtol=1e-10, ftol=1e-10)
    food = Food(*(float(v) for v in np.exp(found.x)))
    ratios = Ratios(*(float(v) for v in reached(found.x[None])[:, 0]))
    return Derived(food, ratios, s.published, float(np.sqrt(np.mean(found.fun**2))))


def main() -> None:
    from inference.startup import start_jax

    start_jax()
    for meal in MEALS:
        d, s = derive(meal), study(meal)
        kind = "AUC to infinity" if s.to_infinity else "AUC to t"
        print(f"{meal}, {s.dose_mg:g} mg")
        print(f"  fed_bioavailability_ratio {d.food.fed_bioavailability_ratio:.4g}")
        print(f"  fed_absorption_ratio      {d.food.fed_absorption_ratio:.4g}")
        print(f"  {kind}: ratio {d.reached.auc:.4f}, published {d.published.auc:.4f}")
        print(f"  Cmax: ratio {d.reached.cmax:.4f}, published {d.published.cmax:.4f}")
        print(f"  root mean square of the two log ratios {d.misfit:.4f}")


if __name__ == "__main__":
    main()
