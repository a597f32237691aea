"""The exact joint law of an arm's counts against the five-variate normal one, on a finished run.

    python -m benchmarks.likelihood RUN

For each arm the probability of what it reported, integrated over the posterior, under both laws; the whole law of the
rarest count; and, by importance weights of the run's draws, how far the normal law would have moved each mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from inference import arviz, store
from inference.arms import SEVENTY_FIVE, ArmData, arrays, association, log_likelihood, log_likelihood_normal
from inference.moments import moments
from inference.population import plan
from inference.progress import silent
from inference.startup import start_jax
from inference.surface import pooled_correlations

PATIENTS = 65536
DRAWS = 2000


def correlations(run: store.FitResult, folder: Path) -> np.ndarray:
    """Within-patient correlations [A, 5, 5] of the events at the posterior means, from fresh patients."""
    from inference.config import load

    p = plan(load(folder / store.CONFIG))
    values = {name: np.exp(np.log(v).mean())[None] for name, v in run.posterior.items()}
    mean, second = moments(p, values, PATIENTS, 900, 0, silent, "")
    return pooled_correlations(mean, second, np.ones((1, len(p.arms))))


def both(logits: np.ndarray, data: ArmData, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities [draws, A] under the exact and the normal law."""
    counts, link = arrays(data, data.largest + 1), association(rho)
    exact = jax.jit(jax.vmap(lambda x: log_likelihood(x, counts, link)))(logits)
    normal = jax.jit(jax.vmap(lambda x: log_likelihood_normal(x, counts, jnp.asarray(rho))))(logits)
    return np.asarray(exact), np.asarray(normal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    run = store.load_fitted(args.run)
    start_jax()
    rho = correlations(run, args.run)
    shape = next(iter(run.posterior.values())).shape
    rows = np.linspace(0, np.prod(shape) - 1, DRAWS).astype(int)
    logits = np.asarray(run.logits).reshape(-1, *run.logits.shape[2:])[rows]
    data = ArmData(run.arms, np.asarray(run.n), np.asarray(run.observed))
    exact, normal = both(logits, data, rho)
    print("log probability of what an arm reported, over the posterior: exact, normal, difference")
    for a, arm in enumerate(run.arms):
        e, n = (logsumexp(x[:, a]) - np.log(DRAWS) for x in (exact, normal))
        print(f"  {arm:14s} {e:8.2f} {n:8.2f} {n - e:+.2f}")

    arm = int(np.argmin(data.counts[:, SEVENTY_FIVE]))
    print(f"{run.arms[arm]}: probability of y of {data.n[arm]} at 75% of visits, all else as reported: exact, normal")
    for y in range(8):
        counts = data.counts.copy()
        counts[arm, SEVENTY_FIVE] = y
        e, n = (
            np.exp(logsumexp(x[:, arm]) - np.log(DRAWS)) for x in both(logits, ArmData(run.arms, data.n, counts), rho)
        )
        print(
            f"  {y}{' (reported)' if y == data.counts[arm, SEVENTY_FIVE] else '':12s} {e:.3e} {n:.3e} ratio {n / e:.2f}"
        )

    smoothed, khat = arviz.pareto_smoothed((normal - exact).sum(axis=1))
    w = np.exp(smoothed - logsumexp(smoothed))
    shifts = {}
    for name, v in run.posterior.items():
        x = np.log(v).reshape(-1)
        shifts[name] = (w @ x[rows] - x[rows].mean()) / x.std()
    print(
        f"the normal law instead: k-hat {khat:.2f}, {1 / (w**2).sum():.0f} effective of {DRAWS}; largest shifts in sds:"
    )
    for name in sorted(shifts, key=lambda n: -abs(shifts[n]))[:5]:
        print(f"  {name:45s} {shifts[name]:+.2f}")


if __name__ == "__main__":
    main()
