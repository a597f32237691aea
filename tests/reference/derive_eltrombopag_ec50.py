"""Eltrombopag's EC50: the value with which simulated fixed doses best reproduce the responders of TRA100773A.

    python tests/reference/derive_eltrombopag_ec50.py

Maximal binomial likelihood over the active arms; disease, noise, variability, dimer efficacy and Hill exponent are
hetrombopag's, so placebo does not depend on the EC50 and is printed as a check. Virtual patients are the same at every
EC50 (common random numbers), the log-likelihood is a parabola in log EC50 near its maximum, fitted on a fine grid.

Read into the trial: its day 43 is 42 days after the first dose; a response is an observed count (with residual error)
of at least 50 that day, rescue and leaving the trial are not looked at. It
was multinational and its patients' weights, sex and ancestry are not in the tables, so nobody is East Asian, weights
are around the reference weight for which eltrombopag's clearance was printed, and all else is as in the library.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pkpd import endpoints, titration, trial
from pkpd.datatables import published
from pkpd.parameters import load_library

STUDY = "TRA100773A"
ENTRY_BELOW = 30.0  # 1e9/L, before treatment; stands in the note of the table
PATIENTS = 8192  # an arm
SEED = 20070
COARSE = np.geomspace(500, 32_000, 13)  # nM
FINE = np.exp(np.linspace(-0.4, 0.4, 9))  # around the best of the coarse grid


class Optimum(NamedTuple):
    """The best EC50 (nM) and what the curvature says of its standard error on the log scale, all else given."""

    ec50_nM: float
    log_se: float


def arms() -> pd.DataFrame:
    """A row for each dose, placebo first: dose_mg, n, responders, median and the published day."""
    rows = published("class_trials").query("study == @STUDY")
    counts = rows.query("quantity == 'response_at_day'").set_index("dose_mg")
    medians = rows.query("quantity == 'platelets_median'").set_index("dose_mg")["value"]
    table = pd.DataFrame({"n": counts["n"], "responders": counts["value"], "median": medians, "day": counts["time_d"]})
    return table.sort_index().reset_index()


def simulated(ec50_nM: float, table: pd.DataFrame, patients: int = PATIENTS) -> tuple[np.ndarray, np.ndarray]:
    """Share of responders and median count [rows of the table]."""
    library = load_library("eltrombopag")
    law = {
        "receptor_ec50_nM": ec50_nM,
        "weight_median_kg": library.value("reference_weight_kg"),
        "east_asian_share": 0.0,
    }
    population = load_library("eltrombopag", overrides=law).population(jnp.float32)
    share, median = [], []
    for i, row in enumerate(table.itertuples()):
        arm = trial.Arm(titration.fixed(float(row.dose_mg)), np.int32(0), baseline_below=np.float32(ENTRY_BELOW))
        numbers = np.arange(i * patients, (i + 1) * patients)
        tiles = trial.simulate(population, arm, (int(row.day) - 1,), SEED, numbers)
        count = np.concatenate([np.asarray(v.platelets_observed[-1]) for v in tiles])
        share.append(np.mean(count >= endpoints.RESPONSE_COUNT))
        median.append(np.median(count))
    return np.array(share), np.array(median)


def log_likelihood(ec50_nM: float, active: pd.DataFrame, patients: int) -> float:
    """Binomial, without its constant."""
    share, _ = simulated(ec50_nM, active, patients)
    share = np.clip(share, 0.5 / patients, 1 - 0.5 / patients)
    responders = active["responders"].to_numpy(float)
    return float(np.sum(responders * np.log(share) + (active["n"].to_numpy(float) - responders) * np.log1p(-share)))


def derive(patients: int = PATIENTS, coarse: Sequence[float] = tuple(COARSE)) -> Optimum:
    """The EC50 of maximal likelihood over the arms with drug."""
    active = arms().query("dose_mg > 0")
    best = max(coarse, key=lambda ec50: log_likelihood(ec50, active, patients))
    x = np.log(FINE)
    curvature, slope, _ = np.polyfit(x, [log_likelihood(best * f, active, patients) for f in FINE], 2)
    return Optimum(float(best * np.exp(-slope / (2 * curvature))), float(1 / np.sqrt(-2 * curvature)))


def main() -> None:
    from inference.startup import start_jax

    start_jax()
    found, table = derive(), arms()
    print(f"receptor_ec50_nM {found.ec50_nM:.4g} (standard error of its log {found.log_se:.2f}, all else given)")
    share, median = simulated(found.ec50_nM, table)
    for row, p, m in zip(table.itertuples(), share, median, strict=True):
        y = row.responders / row.n
        z = (y - p) / np.sqrt(p * (1 - p) / row.n)
        print(
            f"{row.dose_mg:3.0f} mg: {100 * p:5.1f}% predicted, {100 * y:5.1f}% published "
            f"({row.responders:.0f}/{row.n}), {z:+.1f} standard errors; median {m:.0f}, published {row.median:.0f}"
        )


if __name__ == "__main__":
    main()
