"""Three routes to one posterior: surface, bank and direct, on the phase III arms with six free parameters.

    python -m benchmarks.agreement [--quick] [--seed 1] [--work runs/agreement] [--json FILE]

Every route is run in replicates that share no random number; a replicate that is done is kept in the work folder, so a
run that was stopped goes on. A route's error is the scatter of its replicates' means over the root of their number:
it holds what the route's own surface, bank or cohorts do to a mean, not only its sampler. Two routes agree on a mean
if they differ by at most 0.1 posterior sd and three errors of the difference; where that error is above 0.05 sd the
answer is ``inconclusive``. Effective draws are those that would give that error, over all replicates.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from inference.startup import start_jax

start_jax()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from inference import bank_model, direct, rounds  # noqa: E402
from inference.checkpoint import Checkpoint  # noqa: E402
from inference.config import load  # noqa: E402
from inference.diagnostics import ALLOWED_DIFFERENCE_SD, ALLOWED_ERRORS  # noqa: E402
from inference.manifest import code_hash  # noqa: E402
from inference.moments import CHECK_PATIENTS, CHECK_PATIENTS_QUICK  # noqa: E402
from inference.population import Plan, plan  # noqa: E402
from inference.progress import Progress, bars  # noqa: E402
from inference.samplers.tempering import evidence  # noqa: E402
from pkpd.devices import resolve_engine, workers  # noqa: E402
from pkpd.parameters import load_library  # noqa: E402

FREE = (
    "receptor_ec50_nM",
    "max_stimulation",
    "production_1e9_per_l_per_h",
    "immune_half_saturation_1e9_per_l",
    "receptor_ec50_nM_iiv_log_sd",
    "production_1e9_per_l_per_h_iiv_log_sd",
)
REPLICATES = 5  # four left an error of 0.053 sd in a difference
LARGER = 8  # number from which the streams of the larger cohort count
MOST_ERROR_SD = 0.05  # of a difference, beyond which nothing is concluded


class Sizes(NamedTuple):
    """How much each route does."""

    config: dict[str, Any]
    bank: dict[str, int]
    cohorts: tuple[int, int]  # patients an arm of every likelihood of the direct route
    direct: dict[str, int]


FULL = Sizes(
    {},
    {"pilots": 512, "first": 128, "patients": 384, "warmup": 200, "draws": 250},
    (2048, 4096),
    {"particles": 600, "moves": 9},
)
QUICK = Sizes(
    {"quick": True},
    {"pilots": 128, "first": 64, "patients": 64, "warmup": 60, "draws": 60},
    (1792, 2048),
    {"particles": 40, "moves": 3},
)


def problem(seed: int, sizes: Sizes) -> Plan:
    """The phase III arms with all but ``FREE`` fixed at the library's values."""
    fix = [name for name in load_library().free_names() if name not in FREE]
    return plan(load(options={"seed": seed, "fix": fix, "replicates": REPLICATES, **sizes.config}))


def surface(p: Plan, r: int, folder: Path, progress: Progress) -> dict[str, Any]:
    """Rounds of the surface route, as ``pkpd fit`` makes them, its correction left out."""
    key = jax.random.fold_in(jax.random.key(p.config.seed), 1000 + r)
    found = rounds.replicate(p, r, key, Checkpoint(folder / f"surface-{r + 1}"), progress)
    per_check = rounds.CHECK_POINTS * 2 * (CHECK_PATIENTS_QUICK if p.config.quick else CHECK_PATIENTS)
    patients = sum(
        row["vectors"] * row["patients"] + per_check * (("error_cubic" in row) + ("surface_error_rms" in row))
        for row in found.rounds
    )
    return {
        "samples": {n: v.ravel() for n, v in found.samples.items()},
        "courses": patients * len(p.arms),
        "surface_error_rms": found.error.rms,
        "divergences": int(found.sample_stats["diverging"].sum()),
    }


def banked(p: Plan, r: int, size: dict[str, int], progress: Progress) -> dict[str, Any]:
    """The bank in its steps."""
    key = jax.random.fold_in(jax.random.key(p.config.seed), 2000 + r)
    found = bank_model.fit(p, key, replicate=r, progress=progress, **size)
    return {
        "samples": {n: v.ravel() for n, v in found.samples.items()},
        "courses": found.courses,
        "effective_patients": [float(q) for q in np.quantile(found.effective, [0.0, 0.05, 0.5])],
        "refused_share": found.refused_share,
        "edge_share": found.edge_share,
        "divergences": int(found.sample_stats["diverging"].sum()),
    }


def directly(p: Plan, r: int, patients: int, size: dict[str, int], progress: Progress) -> dict[str, Any]:
    """One run of the direct route; ``r`` counts through both sizes of the cohort, so none shares a patient."""
    key = jax.random.fold_in(jax.random.key(p.config.seed), 3000 + r)
    found = direct.direct(p, key, patients=patients, replicate=r, progress=progress, **size)
    return {
        "samples": found.samples,
        "courses": found.courses,
        "log_evidence": found.log_evidence,
        "temperatures": found.temperatures.tolist(),
        "acceptance": found.acceptance.tolist(),
        "ess": found.ess.tolist(),
    }


def kept(file: Path, stamp: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` returns with the seconds it took, from ``file`` where it holds the same."""
    if file.exists():
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["stamp"] != stamp:
            raise SystemExit(f"{file}: made with other settings or code; give another --work, or delete it")
        return held
    wall, processor = time.perf_counter(), time.process_time()
    made = make()
    samples = {name: np.asarray(values, np.float64) for name, values in made.pop("samples").items()}
    made |= {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    made |= {"means": {n: v.mean() for n, v in samples.items()}, "sds": {n: v.std() for n, v in samples.items()}}
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"stamp": stamp, **made}, indent=1), encoding="utf-8")
    part.replace(file)
    print(f"{file.stem}: {made['courses']:,} courses, {made['seconds']:.0f} s", flush=True)
    return json.loads(file.read_text(encoding="utf-8"))


def run(p: Plan, sizes: Sizes, folder: Path, progress: Progress) -> dict[str, list[dict[str, Any]]]:
    """All replicates of all routes by name; the direct route once for each size of its cohort."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = json.loads(json.dumps({"config": p.config.to_toml(), "sizes": sizes._asdict(), "code": code_hash()}))
    small, large = sizes.cohorts
    routes: dict[str, Callable[[int, Progress], dict[str, Any]]] = {
        "surface": lambda r, show: surface(p, r, folder, show),
        "bank": lambda r, show: banked(p, r, sizes.bank, show),
        f"direct, {small:,}": lambda r, show: directly(p, r, small, sizes.direct, show),
        f"direct, {large:,}": lambda r, show: directly(p, LARGER + r, large, sizes.direct, show),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in routes}
    for r in range(REPLICATES):
        for name, route in routes.items():

            def show(stage: str, done: int, total: int, name: str = name, r: int = r) -> None:
                progress(f"{name}, {r + 1}: {stage}", done, total)

            file = folder / f"{name.replace(', ', '-').replace(',', '')}-{r + 1}.json"
            found[name].append(kept(file, stamp, partial(route, r, show)))
    return found


class Estimate(NamedTuple):
    """Means of a route over its replicates, their errors and the posterior sds; arrays by parameter."""

    mean: np.ndarray
    error: np.ndarray
    sd: np.ndarray


def estimate(replicates: Sequence[dict[str, Any]], names: Sequence[str]) -> Estimate:
    """From the replicates of one route."""
    means = np.array([[r["means"][n] for n in names] for r in replicates])
    sds = np.array([[r["sds"][n] for n in names] for r in replicates])
    return Estimate(
        means.mean(axis=0),
        means.std(axis=0, ddof=1) / math.sqrt(len(replicates)),
        np.sqrt((sds**2).mean(axis=0)),
    )


def compare(a: Estimate, b: Estimate, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row a parameter: difference, error and what is allowed, in posterior sds, and what follows."""
    sd = np.sqrt((a.sd**2 + b.sd**2) / 2)
    rows = []
    for i, name in enumerate(names):
        difference, error = (b.mean[i] - a.mean[i]) / sd[i], math.hypot(a.error[i], b.error[i]) / sd[i]
        allowed = ALLOWED_DIFFERENCE_SD + ALLOWED_ERRORS * error
        apart = abs(difference) > allowed
        said = "disagree" if apart else "inconclusive" if error > MOST_ERROR_SD else "agree"
        rows.append(
            {
                "parameter": name,
                "difference_sd": float(difference),
                "error_sd": float(error),
                "allowed_sd": float(allowed),
                "sd_ratio": float(b.sd[i] / a.sd[i]),
                "verdict": said,
            }
        )
    return rows


def summary(found: dict[str, list[dict[str, Any]]], names: Sequence[str]) -> dict[str, Any]:
    """Routes, comparisons and evidence, as they are printed and kept."""
    direct_runs = [name for name in found if name.startswith("direct")]
    pooled = {n: found[n] for n in ("surface", "bank")} | {"direct": [r for n in direct_runs for r in found[n]]}
    estimates = {name: estimate(rows, names) for name, rows in (pooled | found).items()}
    routes = []
    for name, rows in found.items():
        e = estimates[name]
        effective = 1 / float(np.mean((e.error / e.sd) ** 2))
        seconds, processor = (sum(r[kind] for r in rows) for kind in ("seconds", "processor_seconds"))
        routes.append(
            {
                "route": name,
                "mean": dict(zip(names, e.mean.tolist(), strict=True)),
                "error_sd": dict(zip(names, (e.error / e.sd).tolist(), strict=True)),
                "sd": dict(zip(names, e.sd.tolist(), strict=True)),
                "courses": sum(r["courses"] for r in rows),
                "seconds": seconds,
                "processor_seconds": processor,
                "effective_draws": effective,
                "effective_draws_per_second": effective / seconds,
                "effective_draws_per_processor_second": effective / processor,
            }
        )
    pairs = {f"{a} and {b}": compare(estimates[a], estimates[b], names) for a, b in combinations(pooled, 2)}
    verdicts = [row["verdict"] for rows in pairs.values() for row in rows]
    overall = next((v for v in ("disagree", "inconclusive") if v in verdicts), "agree")
    z = {name: evidence([r["log_evidence"] for r in found[name]])._asdict() for name in direct_runs}
    return {"verdict": overall, "routes": routes, "pairs": pairs, "evidence": z, "replicates": found}


def tell(record: dict[str, Any], names: Sequence[str]) -> None:
    """The tables."""
    width = max(map(len, names))
    print(f"\n{'mean (sd; error in sds)':{width}s}", *(f"{r['route']:>24s}" for r in record["routes"]))
    for n in names:
        cells = (f"{r['mean'][n]:.4g} ({r['sd'][n]:.3g}; {r['error_sd'][n]:.3f})" for r in record["routes"])
        print(f"{n:{width}s}", *(f"{cell:>24s}" for cell in cells))
    for pair, rows in record["pairs"].items():
        print(f"\n{pair + ', in sds':{width}s} {'difference':>11s} {'error':>7s} {'allowed':>8s} {'sd ratio':>9s}")
        for row in rows:
            numbers = f"{row['difference_sd']:11.3f} {row['error_sd']:7.3f} {row['allowed_sd']:8.3f}"
            print(f"{row['parameter']:{width}s} {numbers} {row['sd_ratio']:9.3f}  {row['verdict']}")
    print(f"\n{'route':{width}s} {'courses':>13s} {'seconds':>8s} {'effective draws':>16s} {'a second':>9s}")
    for r in record["routes"]:
        numbers = f"{r['courses']:13,d} {r['seconds']:8.0f} {r['effective_draws']:16.0f}"
        print(f"{r['route']:{width}s} {numbers} {r['effective_draws_per_second']:9.2f}")
    for name, z in record["evidence"].items():
        print(f"log evidence, {name} patients an arm: {z['log_evidence']:.3f} (standard error {z['se']:.3f})")
    print(f"\nall means: {record['verdict']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="sizes that show it runs, too small to conclude anything")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/agreement"), help="where finished replicates are kept")
    parser.add_argument("--json", type=Path, help="record (default benchmarks/results/agreement[-quick].json)")
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    size = "quick" if args.quick else "full"
    p = problem(args.seed, sizes)
    names = p.prior.names
    print(
        f"{len(workers())} workers on {jax.devices()[0].device_kind}, engine {resolve_engine()}, JAX {jax.__version__}"
    )
    print(f"free: {', '.join(names)}", flush=True)
    with bars() as progress:
        found = run(p, sizes, args.work / f"{size}-{args.seed}", progress)
    record = {"seed": args.seed, "size": size, "free": list(names), **summary(found, names)}
    tell(record, names)
    target = args.json or Path("benchmarks/results") / ("agreement-quick.json" if args.quick else "agreement.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"record: {target}")


if __name__ == "__main__":
    main()
