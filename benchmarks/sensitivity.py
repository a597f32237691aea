"""What hangs on the assumptions: the phase III fit again with one of them moved at a time.

    python -m benchmarks.sensitivity --out RUNS --csv FILE [--quick] [--only NAME ...] [--seed 1] [--set KEY=VALUE ...]
    python -m benchmarks.sensitivity --list

First the same fit with another seed, which shows what Monte Carlo errors alone move. Then every assumed prior is moved
up by its own sd (its centre where the parameter is estimated, the value where it is fixed), and every rule or structure
is replaced by its alternative. The table says what that changes: predicted response at week 8 in points, medians of the
main parameters in posterior sds of the fit as it ships, log evidence. A run that exists is read, an unfinished one
resumed; the table is written anew after each, so it can be stopped at any time.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd

from inference import cli, comparison, output
from inference.config import load
from inference.priors import Beta, Dirichlet, Lognormal, joint_prior
from pkpd.parameters import SD_SUFFIX, Library, load_library

DEFAULT = "default"
ANOTHER_SEED = "another seed"
KIM = comparison.KIM
RULES = {
    ANOTHER_SEED: [],  # what the Monte Carlo errors alone move
    "tuned log-sds doubled": ["tuned_log_sd_factor=2"],
    "second centre": ['centre="alternative_centre"'],
    "alternative titration": ['scenario="phase3_alternative_titration"'],
    "quasi-steady pathways": ['signalling="quasi-steady"'],
    "dimer_hill 2": ["parameters.dimer_hill=2"],
    "linear immune clearance": [f"parameters.{KIM}=1e5", f'fix=["{KIM}","{KIM}{SD_SUFFIX}"]'],
    "non-responders": ['free=["non_responder_share"]'],
}


def cases(library: Library) -> dict[str, list[str]]:
    """Settings of every refit by name; the fit as it ships first."""
    found: dict[str, list[str]] = {DEFAULT: []} | RULES
    spreads: list[str] = []
    every = {name: {"free": True} for name, law in library.priors.items() if law.distribution != "halfnormal"}
    for law in joint_prior(library, every).elements:
        name = law.names[0] if isinstance(law, Dirichlet) else law.name
        entry = library.entry(name)
        if entry.prior is None or entry.prior.status != "assumed" or name in library.demography_entries:
            continue
        if isinstance(law, Lognormal):
            up = f"{law.centre * math.exp(law.log_sd):.6g}"
            setting = f"priors.{name}.centre={up}" if entry.prior.free else f"parameters.{name}={up}"
            if name.endswith(SD_SUFFIX):
                spreads.append(setting)
            else:
                found[f"{name} up"] = [setting]
        elif isinstance(law, Beta):
            n = law.alpha + law.beta
            up = entry.value + math.sqrt(entry.value * (1 - entry.value) / (n + 1))
            found[f"{name} up"] = [f"parameters.{name}={up:.6g}"]
        elif isinstance(law, Dirichlet):
            found |= {f"{n} up": shares(library, law, i) for i, n in enumerate(law.names)}
    return found | {"interindividual sds up": spreads}


def shares(library: Library, law: Dirichlet, moved: int) -> list[str]:
    """Shares of a group with one of them up by its sd, the others down in proportion."""
    values = np.array([library.value(n) for n in law.names])
    own = values[moved]
    up = own + math.sqrt(own * (1 - own) / (sum(law.alphas) + 1))
    new = np.round(values * (1 - up) / (1 - own), 6)
    new[moved] = 1 - np.delete(new, moved).sum()
    return [f"parameters.{n}={x:.6g}" for n, x in zip(law.names, new, strict=True)]


def table(runs: list[comparison.Run], settings: dict[str, list[str]]) -> pd.DataFrame:
    """A row a refit; changes are against the first run."""
    models = comparison.models(runs)
    first = models[0]
    before = {r["arm"]: r["median"] for r in comparison.rates(first)}
    rows = []
    for m in models:
        row = {
            "case": m.name,
            "settings": " ".join(settings[m.name]),
            "verdict": m.run.result.verdict,
            "note": m.reason,
        }
        for r in comparison.rates(m):
            row |= {f"{r['arm']}, %": r["median"], f"{r['arm']}, change": r["median"] - before[r["arm"]]}
        log, se, khat = m.evidence
        row |= {"log_evidence": log, "log_evidence_se": se, "log_evidence_khat": khat}
        for name, (_, median, _) in comparison.quantiles(m).items():
            if name in first.run.result.posterior:
                draws = np.log(first.run.result.posterior[name])
                row[f"{name}, moved"] = (math.log(median) - np.median(draws)) / draws.std()
        rows.append(row)
    return pd.DataFrame(rows)


def fitted(folder: Path, settings: list[str], options: list[str]) -> comparison.Run | None:
    """The run of a refit, made if it is not there; None where it failed to run."""
    if not folder.exists():
        resume = ["--resume"] if output.staging_of(folder).exists() else []
        sets = [x for s in settings for x in ("--set", s)]
        code = cli.main(["fit", "--out", str(folder), *options, *sets, *resume])
        if code not in (0, 1):
            print(f"{folder}: not fitted (exit code {code})")
            return None
    return comparison.load_run(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("sensitivity"))
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", help="names of refits, beside the fit as it ships")
    parser.add_argument("--set", nargs="+", default=[], help="settings of every fit, such as its size")
    parser.add_argument("--list", action="store_true", help="print the refits and end")
    args = parser.parse_args()
    every = cases(load_library(load().drug, load().disease))
    unknown = set(args.only or ()) - set(every)
    if unknown:
        parser.error(f"no refit {', '.join(map(repr, unknown))}; see --list")
    wanted = {n: s for n, s in every.items() if args.only is None or n in (DEFAULT, *args.only)}
    if args.list:
        print("\n".join(f"{name}: {' '.join(settings) or 'as it ships'}" for name, settings in wanted.items()))
        return
    options = ["--quick"] if args.quick else []
    options += [x for s in args.set for x in ("--set", s)]
    runs = []
    for name, settings in wanted.items():
        seed = args.seed + (name == ANOTHER_SEED)
        run = fitted(args.out / name.replace(" ", "-"), settings, ["--seed", str(seed), *options])
        if run is None and name == DEFAULT:
            raise SystemExit("the fit as it ships did not run: nothing to compare with")
        if run is not None:
            runs.append(run._replace(name=name))
        if len(runs) > 1 and args.csv is not None:
            args.csv.parent.mkdir(parents=True, exist_ok=True)
            table(runs, wanted).to_csv(args.csv, index=False, float_format="%.4g")
    print(table(runs, wanted).T.to_string(float_format=lambda x: f"{x:.3g}"))


if __name__ == "__main__":
    main()
