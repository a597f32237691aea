"""What is fixed in the fit: fixed, carried by multiple imputation, or free; what that does to the posterior.

    python -m benchmarks.imputations --out RUNS [--imputations 8] [--seed 1] [--quick] [--set KEY=VALUE ...]

Three fits of the phase III trial, alike but for what becomes of the parameters that the fit as it ships fixes although
they have a prior: at the library's values; N refits at joint draws of their priors, pooled; all of them free. Prints
the sd of every parameter that is free as shipped in each of them (imputed: within and between the refits, Rubin 1987),
how far its mean moves, and the predicted rates at week 8. Runs that exist are read, unfinished ones resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.sensitivity import fitted
from inference import comparison, store
from inference.config import load, plan
from inference.imputation import fixed_with_prior


def parameters(runs: dict[str, comparison.Run]) -> pd.DataFrame:
    """A row a parameter that is free as shipped, on the log scale where it is positive."""
    within = pd.read_csv(runs["imputed"].folder / store.IMPUTATIONS).set_index("parameter")
    rows = []
    for name in runs["fixed"].result.posterior:
        draws = {key: run.result.posterior[name] for key, run in runs.items()}
        positive = all(np.min(x) > 0 for x in draws.values())
        x = {key: np.log(v) if positive else v for key, v in draws.items()}
        sd = float(np.std(x["fixed"]))
        rows.append(
            {"parameter": name, "sd_fixed": sd}
            | within.loc[name, ["within_sd", "between_sd", "total_sd", "between_share"]].to_dict()
            | {"sd_free": float(np.std(x["free"]))}
            | {f"moved_{key}": float(np.mean(x[key]) - np.mean(x["fixed"])) / sd for key in ("imputed", "free")}
        )
    return pd.DataFrame(rows)


def rates(runs: dict[str, comparison.Run]) -> pd.DataFrame:
    """Predicted response at week 8 of an arm (%) by fit: median and 95% interval."""
    rows = []
    for model in comparison.models(list(runs.values())):
        for r in comparison.rates(model):
            rows.append({"fit": model.name, **{k: r[k] for k in ("arm", "seen", "median", "low", "high")}})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("imputations"))
    parser.add_argument("--csv", type=Path, help="file to write the table of parameters to")
    parser.add_argument("--imputations", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--set", nargs="+", default=[], help="settings of every fit, such as its size")
    args = parser.parse_args()
    shipped = plan(load())
    fixed = fixed_with_prior(shipped.library, shipped.prior)
    settings = {
        "fixed": [],
        "imputed": [f"imputations={args.imputations}"],
        "free": ["free=[" + ", ".join(f'"{name}"' for name in fixed) + "]"],
    }
    options = ["--seed", str(args.seed), *(["--quick"] if args.quick else [])]
    options += [x for s in args.set for x in ("--set", s)]
    runs = {}
    for name, own in settings.items():
        run = fitted(args.out / name, own, options)
        if run is None:
            raise SystemExit(f"the fit {name!r} did not run")
        runs[name] = run
        verdict, prior = run.result.verdict, plan(run.config).prior
        print(f"{name}: {verdict}, {prior.dimension} free coordinates")
    table = parameters(runs)
    print(table.to_string(index=False, float_format="%.3g"))
    print(rates(runs).to_string(index=False, float_format="%.1f"))
    if args.csv is not None:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(args.csv, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
