"""What ``benchmarks.naive`` found: figures of each route, its posterior against that of the others, the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.agreement import Estimate, compare, estimate
from inference import arviz

Piece = tuple[dict[str, Any], dict[str, np.ndarray]]  # record, and draws [chains, draws] by name
CLOCK = ("seconds", "processor_seconds")
REPLICATED = ("surface", "bank", "direct")  # in runs of their own; the others are one run of some chains
KINDS = ("ess_bulk", "ess_scatter", "ess_corrected")


def of_replicates(runs: Sequence[Piece], names: Sequence[str]) -> tuple[dict[str, Any], Estimate]:
    """Figures of one run, the mean over those that compiled nothing, and the estimate over all.

    ess_scatter: effective draws that would scatter the means of runs as they are seen to; ess_corrected: of the draws
    that the correction simulates, where there is one; ess_bulk: of NUTS.
    """
    found = estimate([{"means": _each(d, np.mean), "sds": _each(d, np.std)} for _, d in runs], names)
    warm, compiling = ([r for r, _ in runs if r["compiles"] is first] for first in (False, True))
    seconds = {name: float(np.mean([r[name] for r in warm])) for name in CLOCK}
    record = {
        "runs": len(runs),
        **seconds,
        **{f"{n}_compile": max(float(np.mean([r[n] for r in compiling])) - seconds[n], 0.0) for n in CLOCK},
        "ess_scatter": float(1 / np.mean((found.error / found.sd) ** 2) / len(runs)),
        "divergences": sum(r.get("divergences", 0) for r, _ in runs),
        "each": [r for r, _ in runs],
    }
    if all("corrected_ess" in r for r, _ in runs):
        record["ess_corrected"] = float(np.mean([r["corrected_ess"] for r, _ in runs]))
    if all(len(next(iter(d.values()))) > 1 for _, d in runs):
        convergence = [arviz.convergence(d) for _, d in runs]
        record["rhat"] = float(max(c.rhat.max() for c in convergence))
        record["ess_bulk"] = float(np.mean([c.ess_bulk.min() for c in convergence]))
    return record, found


def of_nested(runs: Sequence[Piece], names: Sequence[str]) -> Estimate:
    """The surface's posterior with the law of the counts that nest alone."""
    return estimate([r for r, _ in runs], names)


def of_chains(chains: Sequence[Piece], names: Sequence[str]) -> tuple[dict[str, Any], Estimate]:
    """Figures of all chains together; compilation is that of the first."""
    draws = {name: np.concatenate([d[name] for _, d in chains]) for name in names}
    c = arviz.convergence(draws)
    record = {
        **{name: sum(r[name] for r, _ in chains) for name in (*CLOCK, "gradients", "gradients_warmup", "divergences")},
        **{f"{name}_compile": max(r[f"{name}_compile"] for r, _ in chains) for name in CLOCK},
        "chains": len(draws[names[0]]),
        "draws": int(draws[names[0]].shape[1]),
        "rhat": float(c.rhat.max()),
        "ess_bulk": float(c.ess_bulk.min()),
    }
    columns = [draws[name] for name in names]
    return record, Estimate(np.array([x.mean() for x in columns]), c.mcse_mean, np.array([x.std() for x in columns]))


def _each(draws: dict[str, np.ndarray], statistic: Any) -> dict[str, float]:
    return {name: float(statistic(x)) for name, x in draws.items()}


def summary(pieces: dict[str, list[Piece]], names: Sequence[str]) -> dict[str, Any]:
    """The routes that are done, and how those that have one law compare."""
    routes: dict[str, Any] = {}
    estimates: dict[str, Estimate] = {}
    for route, found in pieces.items():
        record, e = (of_replicates if route in REPLICATED else of_chains)(found, names)
        for kind in KINDS:
            if kind in record:
                record |= {f"{kind}_per_{clock.removesuffix('s')}": record[kind] / record[clock] for clock in CLOCK}
        record |= {name: dict(zip(names, getattr(e, name).tolist(), strict=True)) for name in Estimate._fields}
        routes[route], estimates[route] = record, e
    if "surface" in pieces:
        estimates["surface, counts that nest"] = of_nested(pieces["surface"], names)
    pairs = {
        f"{a} and {b}": compare(estimates[a], estimates[b], names)
        for a, b in (
            ("surface, counts that nest", "diffrax"),
            ("surface, counts that nest", "engine"),
            ("engine", "diffrax"),
            ("surface", "bank"),
            ("surface", "direct"),
        )
        if a in estimates and b in estimates
    }
    return {"routes": routes, "pairs": pairs}


def tell(record: dict[str, Any], names: Sequence[str]) -> None:
    """The tables."""
    width, routes = max(map(len, names)), record["routes"]
    print(f"\n{'mean (sd; error in sds)':{width}s}", *(f"{name:>26s}" for name in routes))
    for n in names:
        cells = (f"{r['mean'][n]:.4g} ({r['sd'][n]:.3g}; {r['error'][n] / r['sd'][n]:.3f})" for r in routes.values())
        print(f"{n:{width}s}", *(f"{cell:>26s}" for cell in cells))
    for pair, rows in record["pairs"].items():
        print(f"\n{pair}, in sds\n{'':{width}s} {'difference':>11s} {'error':>7s} {'allowed':>8s} {'sd ratio':>9s}")
        for row in rows:
            numbers = f"{row['difference_sd']:11.3f} {row['error_sd']:7.3f} {row['allowed_sd']:8.3f}"
            print(f"{row['parameter']:{width}s} {numbers} {row['sd_ratio']:9.3f}  {row['verdict']}")
    per_second = (f"{kind}_per_processor_second" for kind in KINDS)
    columns = (*KINDS, "rhat", *CLOCK, "processor_seconds_compile", *per_second)
    print(f"\n{'':36s}", *(f"{name:>10s}" for name in routes))
    for row in columns:
        cells = (f"{r[row]:10.4g}" if row in r else f"{'':10s}" for r in routes.values())
        print(f"{row.replace('_', ' '):36s}", *cells)
