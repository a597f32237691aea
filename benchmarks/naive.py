"""The surface against a fit that has every patient in it: effective draws a second, on a trial small enough for both.

    python -m benchmarks.naive [--warmup 150] [--draws 150] [--work runs/naive] [--json FILE]
        [--routes surface engine diffrax]

The trial is ``fixed_dose.toml``; its counts are simulated at the library's values, and the same four parameters are
free in all routes. ``surface`` is what ``pkpd fit`` computes by default: simulation, regression, NUTS, the correction.
``diffrax`` is NumPyro's NUTS over these parameters and all random effects of all patients, with diffrax in the log
density (``naive_model.py``); ``engine`` is the same model with this project's differentiable course instead; ``bank``
and ``direct`` are the other routes of ``benchmarks.agreement``. All have one posterior, so they are compared. Each runs
in a process of its own without any program kept from before. What is done stays in the work folder, and the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inference.startup import start_jax

start_jax()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from numpyro.infer import NUTS, init_to_median  # noqa: E402
from scipy.special import expit, logsumexp  # noqa: E402
from scipy.stats import multinomial  # noqa: E402

from benchmarks.agreement import FULL, banked, directly  # noqa: E402
from benchmarks.naive_model import categories, forward, moving, naive_model, with_diffrax, with_engine  # noqa: E402
from benchmarks.naive_summary import CLOCK, Piece, summary, tell  # noqa: E402
from inference import population  # noqa: E402
from inference.arms import by_arm  # noqa: E402
from inference.checkpoint import NOTHING_KEPT  # noqa: E402
from inference.config import load  # noqa: E402
from inference.manifest import code_hash, versions  # noqa: E402
from inference.population import Plan  # noqa: E402
from inference.progress import silent  # noqa: E402
from inference.rounds import Fit  # noqa: E402
from pkpd import endpoints, trial  # noqa: E402
from pkpd.datatables import REQUIRED  # noqa: E402
from pkpd.parameters import load_library  # noqa: E402
from pkpd.planned import planned_arms  # noqa: E402
from pkpd.scenario import load_scenario  # noqa: E402

SCENARIO = Path(__file__).with_name("fixed_dose.toml")
FREE = ("receptor_ec50_nM", "max_stimulation", "production_1e9_per_l_per_h", "receptor_ec50_nM_iiv_log_sd")
DATA_SEED = 3  # of the simulated counts; no fit has it
ROUTES = ("surface", "engine", "diffrax", "bank", "direct")
SEEDS = (1, 2, 4, 5)  # of the runs of surface, bank and direct route; the first compiles
CHAINS = 4
DRAWS = {"engine": 5, "diffrax": 1}  # times as many as asked for: with the engine they are cheap
TOLD_EVERY = 50  # iterations


def counts() -> dict[str, tuple[int, np.ndarray]]:
    """Patients and counts [5] of each arm, of one trial simulated at the library's values."""
    scenario = load_scenario(SCENARIO)
    found = {}
    for a in planned_arms(scenario):
        who = range(a.first_patient, a.first_patient + a.n)
        (v,) = trial.simulate(a.population, a.arm, tuple(scenario.trial.visits_d), DATA_SEED, who)
        events = endpoints.events(v.platelets_observed, v.baseline, v.rescued, scenario.landmark)
        found[a.name] = (a.n, np.asarray(events).sum(axis=1))
    return found


def problem(folder: Path, seed: int) -> Plan:
    """The fit of these counts with all but ``FREE`` fixed at the library's values; its table lies in ``folder``."""
    table = folder / "counts.csv"
    rows = [
        dict(study="simulated", arm=arm, n=n, quantity=name, value=y, unit="patients", status="unpublished", source="-")
        for arm, (n, of_arm) in counts().items()
        for name, y in zip(endpoints.NAMES, of_arm.tolist(), strict=True)
    ]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, REQUIRED)
        writer.writeheader()
        writer.writerows(rows)
    fix = [name for name in load_library().free_names() if name not in FREE]
    return population.plan(
        load(options={"seed": seed, "fix": fix, "scenario": str(SCENARIO), "data": {"table": str(table)}})
    )


@contextmanager
def clocked(into: dict[str, Any], suffix: str = "") -> Iterator[None]:
    """Adds seconds of wall and of processor (all threads of this process) that the block took to ``into``."""
    clocks = time.perf_counter, time.process_time
    start = [clock() for clock in clocks]
    yield
    for name, clock, before in zip(CLOCK, clocks, start, strict=True):
        into[name + suffix] = into.get(name + suffix, 0.0) + clock() - before


def save(file: Path, record: dict[str, Any], draws: dict[str, Any]) -> None:
    """A record with its draws [chains, draws] by name; the file appears when it is whole."""
    part = file.with_suffix(".part.npz")
    np.savez(part, record=np.asarray(json.dumps(record)), **draws)
    part.replace(file)


def read(file: Path) -> Piece:
    """What ``save`` kept."""
    with np.load(file) as held:
        arrays = dict(held)
    return json.loads(str(arrays.pop("record"))), arrays


def nested_only(p: Plan, fits: list[Fit]) -> np.ndarray:
    """Weights [draws] that leave of the law of a fit what concerns the counts that nest.

    "30 and doubled" repeats the count at 50 here, and nobody is rescued, but in an arm of 12 the normal law of these
    two is not quite flat; the model with all patients has none of it.
    """
    logits = np.concatenate([f.logits for f in fits]).reshape(-1, len(p.arms), 6)
    once, always, _, late = (expit(logits[..., i]) for i in range(4))
    shares = np.stack([1 - once, once * (1 - always) * (1 - late), once * (1 - always) * late, once * always], axis=2)
    laws = [by_arm(f.logits, f.surface.rho, p.fitted).reshape(-1, len(p.arms)) for f in fits]
    log_weights = -np.concatenate(laws).sum(axis=1)
    for i, (n, y) in enumerate(zip(p.fitted.n.tolist(), p.fitted.counts, strict=True)):
        log_weights += multinomial.logpmf(categories(n, y), n, shares[:, i])
    return np.exp(log_weights - logsumexp(log_weights))


def surface_fit(folder: Path, seed: int) -> Piece:
    """One default fit: rounds of both replicates and their correction."""
    p = problem(folder, seed)
    record: dict[str, Any] = {}
    stages: dict[str, float] = {}
    with clocked(record):
        fits, weighted = population.replicates(p, jax.random.key(seed), NOTHING_KEPT, silent, stages)
    assert weighted is not None  # the default config asks for a correction
    draws = {name: np.concatenate([f.samples[name] for f in fits]) for name in p.prior.names}
    w, flat = nested_only(p, fits), {name: x.reshape(-1) for name, x in draws.items()}
    means = {name: float(w @ x) for name, x in flat.items()}
    sds = {name: float(np.sqrt(w @ (x - means[name]) ** 2)) for name, x in flat.items()}
    record |= {
        "khat": weighted.khat,
        "corrected_ess": weighted.ess,
        "confirmed": weighted.confirms,
        "largest_shift_sd": weighted.largest_shift[1],
        "means": means,
        "sds": sds,
        "shift_by_law_sd": max(abs(means[name] - float(x.mean())) / sds[name] for name, x in flat.items()),
        "surface_error_rms": [f.error.rms for f in fits],
        "rounds": [row for f in fits for row in f.rounds],
        "seconds_correction": stages["correction"],
        "divergences": int(sum(f.sample_stats["diverging"].sum() for f in fits)),
    }
    return record, draws


def bank_or_direct(folder: Path, route: str, r: int) -> Piece:
    """One run as ``benchmarks.agreement`` makes them, with cohorts of 2,048."""
    p = problem(folder, seed=1)
    record: dict[str, Any] = {}
    with clocked(record):
        if route == "bank":
            found = banked(p, r, FULL.bank, silent)
        else:
            found = directly(p, r, FULL.cohorts[0], FULL.direct, silent)
    chains = CHAINS if route == "bank" else 1  # particles are no chains
    draws = {name: np.asarray(x, np.float64).reshape(chains, -1) for name, x in found["samples"].items()}
    return record | {"courses": found["courses"]}, draws


def replicates(folder: Path, route: str) -> None:
    """All runs of the surface, the bank or the direct route; the first of a process compiles its programs."""
    first = True
    for r, seed in enumerate(SEEDS):
        file = folder / f"{route}-{r + 1}.npz"
        if not file.exists():
            record, draws = surface_fit(folder, seed) if route == "surface" else bank_or_direct(folder, route, r)
            save(file, record | {"compiles": first}, draws)
            first = False
            print(f"{file.stem}: {record['seconds']:.0f} s", flush=True)


def all_patients(folder: Path, route: str, warmup: int, draws: int) -> None:
    """The chains of NUTS with all patients: one after another with diffrax, at once with the engine, whose cost hardly
    grows with them.

    NumPyro's defaults (acceptance 0.8, trees of up to 2^10 - 1 steps) but for a dense mass matrix of the population
    parameters, which are correlated, and a start at the prior's medians.
    """
    p = problem(folder, seed=1)
    solve = with_diffrax if route == "diffrax" else forward(with_engine, moving(p))
    kernel = NUTS(naive_model(p, solve), dense_mass=[("prior_z",)], init_strategy=init_to_median)
    step = None
    keys = jax.random.split(jax.random.fold_in(jax.random.key(7), ROUTES.index(route)), CHAINS)
    for number, key in enumerate([keys] if route == "engine" else keys, start=1):
        file = folder / f"{route}-{number}.npz"
        if file.exists():
            continue
        record: dict[str, Any] = {"compiles": step is None, "gradients_warmup": 0, "gradients": 0, "divergences": 0}
        with clocked(record, "_compile"):
            state = kernel.init(key, warmup)
            step = step or jax.jit(lambda state: kernel.sample(state, (), {})).lower(state).compile()
        z = []
        with clocked(record):
            for i in range(warmup + draws):
                state = step(state)
                steps = int(np.max(state.num_steps))  # chains at once go at the pace of the slowest
                record["gradients" if i >= warmup else "gradients_warmup"] += steps
                if i >= warmup:
                    z.append(np.atleast_2d(state.z["prior_z"]))
                    record["divergences"] += int(np.sum(state.diverging))
                if (i + 1) % TOLD_EVERY == 0:
                    print(f"{file.stem}: iteration {i + 1} of {warmup + draws}, {steps} steps", flush=True)
        location, scale = jnp.asarray(p.prior.location()), jnp.asarray(p.prior.scale())
        values = p.prior.constrained(location + scale * np.stack(z, axis=1))
        save(file, record, {name: np.asarray(v) for name, v in values.items()})


def stamp(warmup: int, draws: int) -> str:
    """Name of the folder for what follows from this code, trial and number of iterations."""
    texts = [file.read_text(encoding="utf-8") for file in (SCENARIO, Path(__file__).with_name("naive_model.py"))]
    made_with = json.dumps([code_hash(), *texts, FREE, DATA_SEED, warmup, draws])
    return hashlib.sha256(made_with.encode()).hexdigest()[:12]


def pieces(folder: Path) -> dict[str, list[Piece]]:
    """What the routes left in the folder, each in the order of its numbers."""
    found = {route: [read(file) for file in sorted(folder.glob(f"{route}-?.npz"))] for route in ROUTES}
    return {route: own for route, own in found.items() if own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--warmup", type=int, default=150, help="iterations of each chain with all patients")
    parser.add_argument(
        "--draws", type=int, default=150, help="and those that are kept (with the engine five times as many)"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/naive"), help="where what is done is kept")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/naive.json"), help="the record")
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=ROUTES, help="only these")
    parser.add_argument("--route", choices=ROUTES, help="only this one, in this process")
    args = parser.parse_args()
    folder = args.work / stamp(args.warmup, args.draws)
    folder.mkdir(parents=True, exist_ok=True)
    if args.route:
        if args.route in DRAWS:
            return all_patients(folder, args.route, args.warmup, DRAWS[args.route] * args.draws)
        return replicates(folder, args.route)
    own = ["--warmup", str(args.warmup), "--draws", str(args.draws), "--work", str(args.work)]
    for route in args.routes:
        with tempfile.TemporaryDirectory() as empty:  # no program kept from before
            command = [sys.executable, "-m", "benchmarks.naive", *own, "--route", route]
            subprocess.run(command, check=True, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": empty})
    options = f"--warmup {args.warmup} --draws {args.draws} --routes {' '.join(args.routes)}"
    record = {
        "command": f"python -m benchmarks.naive {options}",
        "versions": versions(),
        "code": code_hash(),
        "load": os.getloadavg(),
        "free": FREE,
        "counts": {
            arm: {"n": n, **dict(zip(endpoints.NAMES, y.tolist(), strict=True))} for arm, (n, y) in counts().items()
        },
        **summary({route: found for route, found in pieces(folder).items() if route in args.routes}, FREE),
    }
    tell(record, FREE)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"record: {args.json}")


if __name__ == "__main__":
    main()
