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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inference.curves import TERMINAL_D, trace
from pkpd.datatables import published
from pkpd.engine.grid import graded
from pkpd.parameters import Food, load_library
from pkpd.tables import field_of

MEALS = ("high_fat_breakfast", "meal_1h_after", "meal_2h_after")
STEPS = graded(16, 64)  # a concentration every few minutes where the peak is
SMALLEST = 1e-4  # of either ratio; the schema's lower bound, 0, has no logarithm
STARTS = [Food(f, k) for f in np.geomspace(0.02, 1, 12) for k in np.geomspace(0.5, 9, 12)]  # the misfit is not convex


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


class Curves(NamedTuple):
    """Free drug after one dose: hours and concentration (ng/mL) [times, foods], AUC to infinity (ng h/mL) [foods]."""

    hours: np.ndarray
    concentration: np.ndarray
    auc: np.ndarray


def curves(foods: Sequence[Food], dose_mg: float) -> Curves:
    """The typical healthy volunteer after one dose with each of the foods."""
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
    rate = np.log(C[first, -1] / C[last, -1]) / (24 * (last - first))
    hours = (24 * np.arange(last + 1)[:, None] + t.hours).ravel()
    none = np.zeros((1, len(foods)))
    return Curves(
        np.append(0, hours),
        np.concatenate([none, C.reshape(-1, len(foods))]),
        t.auc_ng_h_per_ml.sum(0) + C[last, -1] / rate,
    )


def auc_until(hour: float, c: Curves) -> np.ndarray:
    """AUC from 0 to ``hour`` [foods], ng h/mL."""
    seen = np.append(c.hours[c.hours < hour], hour)
    return np.trapezoid([np.interp(seen, c.hours, y) for y in c.concentration.T], seen, axis=-1)


def last_detectable_h(c: Curves) -> float:
    """When the first curve falls below the limit of the assay."""
    limit = published("pharmacokinetics").query("quantity == 'assay_lower_limit'")["value"].item()
    y = c.concentration[:, 0]
    over = np.flatnonzero(y >= limit)[-1]
    return float(np.interp(-np.log(limit), -np.log(y[over : over + 2]), c.hours[over : over + 2]))


def derive(meal: str) -> Derived:
    """The two ratios of a meal."""
    s = study(meal)
    fasted = curves([Food(1.0, 1.0)], s.dose_mg)
    until_h = last_detectable_h(fasted)

    def reached(x: np.ndarray) -> np.ndarray:
        """AUC and Cmax ratios [2, points] at log food ratios x [points, 2]."""
        fed = curves([Food(*np.exp(point)) for point in x], s.dose_mg)
        auc = fed.auc / fasted.auc if s.to_infinity else auc_until(until_h, fed) / auc_until(until_h, fasted)
        return np.stack([auc, fed.concentration.max(0) / fasted.concentration.max()])

    def errors(x: np.ndarray) -> np.ndarray:
        return np.log(reached(x[None])[:, 0]) - np.log(s.published)

    def slopes(x: np.ndarray, step: float = 1e-3) -> np.ndarray:
        moved = np.log(reached(np.concatenate([x + step * np.eye(2), x - step * np.eye(2)])))
        return (moved[:, :2] - moved[:, 2:]) / (2 * step)

    upper = np.log([field_of(name).upper for name in Food._fields])
    starts = np.log(STARTS)
    misfits = np.log(reached(starts)) - np.log(s.published)[:, None]
    start = starts[np.square(misfits).sum(0).argmin()]
    found = least_squares(errors, start, slopes, bounds=(np.log(SMALLEST), upper), xtol=1e-10, ftol=1e-10)
    food = Food(*(float(v) for v in np.exp(found.x)))
    ratios = Ratios(*(float(v) for v in reached(found.x[None])[:, 0]))
    return Derived(food, ratios, s.published, float(np.sqrt(np.mean(found.fun**2))))


def main() -> None:
    from inference.startup import start_jax

    start_jax()
    for meal in MEALS:
        d, s = derive(meal), study(meal)
        until_h = last_detectable_h(curves([Food(1.0, 1.0)], s.dose_mg))
        kind = "AUC to infinity" if s.to_infinity else f"AUC to t = {until_h:.1f} h"
        print(f"{meal}, {s.dose_mg:g} mg")
        print(f"  fed_bioavailability_ratio {d.food.fed_bioavailability_ratio:.4g}")
        print(f"  fed_absorption_ratio      {d.food.fed_absorption_ratio:.4g}")
        print(f"  {kind}: ratio {d.reached.auc:.4f}, published {d.published.auc:.4f}")
        print(f"  Cmax: ratio {d.reached.cmax:.4f}, published {d.published.cmax:.4f}")
        print(f"  root mean square of the two log ratios {d.misfit:.4f}")


if __name__ == "__main__":
    main()
