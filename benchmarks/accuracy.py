"""What the engine's error does to an answer: endpoint rates at the default accuracy beside those at high accuracy.

    python -m benchmarks.accuracy [--patients 1000000] [--precision float32] [--json FILE]

The same patients, random numbers and titration, at both accuracies: rates of the published endpoints of the arm that
starts at 5 mg, their differences, and the share of patients whose doses differ at any visit. No Monte Carlo error is in
the differences but that of the few patients who cross a threshold.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import phase3
from pkpd import endpoints, trial
from pkpd.engine import grid
from pkpd.parameters import load_library

DAYS = tuple(range(7, 57, 7))
SEED = 20


def main() -> None:
    args = _arguments()
    if args.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    population = load_library().population(jnp.dtype(args.precision))
    arm = phase3.arm(5.0)
    patient = np.arange(args.patients)
    events = jax.jit(endpoints.events)

    def courses(accuracy: str):
        return trial.simulate(population, arm, DAYS, SEED, patient, steps=grid.accuracy(accuracy))

    total = np.zeros((2, len(endpoints.NAMES)))
    moved = 0
    for default, high in zip(courses("default"), courses("high"), strict=True):
        for i, v in enumerate((default, high)):
            total[i] += np.asarray(events(v.platelets_observed, v.baseline, v.rescued)).sum(-1)
        moved += int((default.dose_mg != high.dose_mg).any(0).sum())
    rates = total / args.patients
    print(f"{args.patients:,} patients, {args.precision}, JAX {jax.__version__}")
    for name, a, b in zip(endpoints.NAMES, *rates, strict=True):
        print(f"{name:24s} default {a:.6f}  high {b:.6f}  difference {a - b:+.1e}")
    print(f"patients with other doses: {moved / args.patients:.2%}")
    if args.json:
        rows = {n: {"default": a, "high": b} for n, a, b in zip(endpoints.NAMES, *rates.tolist(), strict=True)}
        record = {"system": "pkpd", "precision": args.precision, "patients": args.patients, "rates": rows}
        args.json.write_text(json.dumps([record | {"other_doses_share": moved / args.patients}], indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=1_000_000)
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
