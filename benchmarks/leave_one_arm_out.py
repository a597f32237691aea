"""Fits the phase III trial with one arm left out at a time and predicts the arm that the fit never saw.

    python -m benchmarks.leave_one_arm_out --out runs/leave-out [--quick] [--seed 1]

Prints, for the 15 counts, the predictive 95% interval, whether it holds the count, and the mean interval score of
Gneiting and Raftery (J Am Stat Assoc 2007;102:359) beside that of the prior predictive. Runs that exist are read.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd

from inference import cli, store
from inference.config import load

LEVEL = 0.95


def interval_score(y: float, lower: float, upper: float, level: float = LEVEL) -> float:
    """Width of the interval plus 2/(1 - level) for each unit by which it misses y."""
    return upper - lower + 2 / (1 - level) * (max(lower - y, 0) + max(y - upper, 0))


def predicted(run: Path, arm: str) -> pd.DataFrame:
    """A row a quantity of the arm that the run left out."""
    result = store.load(run)
    a = result.arms.index(arm)
    rows = []
    for j, quantity in enumerate(result.quantities):
        y = int(result.observed[a, j])
        row = {"arm": arm, "quantity": quantity, "observed": y}
        for name, counts in (("posterior", result.posterior_predictive), ("prior", result.prior_predictive)):
            lower, upper = np.quantile(counts[:, a, j], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            row |= {f"{name}_lower": lower, f"{name}_upper": upper, f"{name}_score": interval_score(y, lower, upper)}
        row["inside"] = row["posterior_lower"] <= y <= row["posterior_upper"]
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    from pkpd.scenario import load_scenario

    parts = []
    for arm in (a.name for a in load_scenario(load().scenario).arms):
        run = args.out / re.sub(r"\W+", "-", arm)
        if not run.exists():
            quick = ["--quick"] if args.quick else []
            setting = f'data.leave_out=["{arm}"]'
            code = cli.main(["fit", "--out", str(run), "--seed", str(args.seed), "--set", setting, *quick])
            if code not in (0, 1):
                raise SystemExit(code)
        parts.append(predicted(run, arm))
    table = pd.concat(parts, ignore_index=True)
    print(table.to_string(index=False, float_format="%.1f"))
    posterior, prior = table["posterior_score"].mean(), table["prior_score"].mean()
    print(f"inside: {table['inside'].sum()} of {len(table)}")
    print(f"mean interval score: {posterior:.1f}, prior predictive {prior:.1f}, ratio {posterior / prior:.2f}")


if __name__ == "__main__":
    main()
