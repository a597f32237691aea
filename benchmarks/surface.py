"""Error of the surface against the number of patients it is regressed on, with what theory expects beside it.

    python -m benchmarks.surface RUN [--largest 10000000] [--work DIR]

Vectors from the widened posterior of a finished run, 128 patients each, three arms; nested subsets of them; quadratic
and cubic surfaces; error at 150 points of the same posterior that no subset has seen, in sampling sds of the trial's
counts, beyond the noise of these points. Theory: a proportion of n patients, estimated by t effective terms from N
patients with dispersion phi, is off by sqrt(t phi n/N) sampling sds; what is above that is shape.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from inference import store
from inference.checkpoint import Checkpoint
from inference.config import load
from inference.moments import grouped, moments
from inference.population import plan
from inference.progress import bars
from inference.startup import start_jax
from inference.surface import fit_surface, surface_error, widened

PATIENTS, POINTS, GROUPS, CHECK_PATIENTS = 128, 150, 4, 4096
SIZES = (10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7)
PART = 901  # random streams that no fit uses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--work", type=Path, help="keeps what was simulated")
    args = parser.parse_args()
    run = store.load_fitted(args.run)
    start_jax()
    p = plan(load(args.run / store.CONFIG))
    draws = np.asarray(p.prior.unconstrained(run.posterior), np.float64).reshape(-1, p.prior.dimension)
    sizes = [size for size in SIZES if size <= args.largest]
    theta = widened(jax.random.key(7), draws, sizes[-1] // PATIENTS, p.config.widening)
    points = draws[np.random.default_rng(7).choice(len(draws), POINTS, replace=False)]
    values = {name: np.asarray(v) for name, v in p.prior.constrained(theta).items()}
    keep = Checkpoint(args.work)
    with bars() as progress:
        mean, second = moments(p, values, PATIENTS, PART, 0, progress, "design", keep.at("design"))
        seen = grouped(p, points, CHECK_PATIENTS, GROUPS, PART + 1, 0, progress, "points", keep.at("points"))
    n = np.repeat(p.data.n, 6)
    print("patients an arm   quadratic: error (se), theory, chi-square   cubic: error (se), theory, chi-square")
    for size in sizes:
        K = size // PATIENTS
        row = f"{size:15,d}"
        for cubic in (0, p.config.refine.cubic):
            surface = fit_surface(theta[:K], mean[:K], second[:K], PATIENTS, near=p.data, cubic=cubic)
            error = surface_error(surface, points, seen[0], seen[1], p.data.n.astype(np.float64))
            expected = np.sqrt(np.mean(np.asarray(surface.effective_terms) * np.asarray(surface.dispersion) * n / size))
            row += f"   {error.rms:.3f} ({error.rms_se:.3f}) {expected:.3f} {error.chi_square:5.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
