"""What the noise of its cohorts does to the direct route's posterior: three estimates of the likelihood compared.

    python -m benchmarks.cohorts [--work runs/cohorts]        # some 15 minutes of processor time

The problem of ``benchmarks.agreement``. At draws of four surfaces' posteriors 65,536 fresh patients an arm are
simulated in independent groups. All of them together are as good as the likelihood itself; parted into cohorts, the
mean of an estimate over the cohorts is what a pseudo-marginal sampler targets. Importance weights of the same draws by
both show how far the estimate moves each mean, in posterior sds, with little of the draws' own scatter; the standard
error is over the surfaces. The first rows show the same for the likelihood by all patients against the surfaces', with
the surfaces' correlations within a patient and with each draw's own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from inference.startup import start_jax

start_jax()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from scipy.special import logsumexp  # noqa: E402

from benchmarks.agreement import FULL, problem  # noqa: E402
from inference import correction, direct, rounds  # noqa: E402
from inference.arms import arrays  # noqa: E402
from inference.checkpoint import Checkpoint  # noqa: E402
from inference.correction import Simulated, seen_in  # noqa: E402
from inference.further import FurtherMoments  # noqa: E402
from inference.moments import grouped, stream  # noqa: E402
from inference.progress import bars, silent  # noqa: E402
from inference.surface import evaluate  # noqa: E402

SURFACES, DRAWS = 4, 80  # of each
GROUP, GROUPS = 1024, 64
COHORTS = (2048, 4096, 8192)
REPLICATE = 90  # of the random streams: none of a fit or of the agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/cohorts"), help="keeps what was simulated")
    args = parser.parse_args()
    p = problem(1, FULL)
    names = p.prior.names
    rows = np.array([[a.name for a in p.arms].index(arm) for arm in p.fitted.arms])
    data = arrays(p.fitted, int(p.fitted.n.max()) + 1)
    z = correction.normals(jax.random.key(0), 6 * len(p.arms))
    fits, parts = [], []
    with bars() as progress:
        for r in range(SURFACES):
            keep = Checkpoint(args.work / f"surface-{r + 1}")
            fits.append(rounds.replicate(p, r, jax.random.fold_in(jax.random.key(1), 1000 + r), keep, progress))
            chosen = fits[-1].coordinates[np.linspace(0, len(fits[-1].coordinates) - 1, DRAWS).astype(int)]
            part = stream(0, REPLICATE)
            parts.append((chosen, *grouped(p, chosen, GROUP, GROUPS, part, r, progress, "cohorts", keep.at("cohorts"))))
    theta = np.concatenate([x[0] for x in parts])
    mean, second = (np.concatenate([x[i] for x in parts], axis=1) for i in (1, 2))
    pilots = np.asarray(p.prior.unconstrained(p.prior.draws(jax.random.key(2), direct.PILOTS)), np.float64)
    part = stream(0, REPLICATE + 1)
    root = direct.noise_root(correction.simulated(p, pilots, 2048, silent, part=part, group=direct.PILOT_GROUP))
    values = np.stack([np.asarray(p.prior.constrained(theta)[n]) for n in names], axis=1)
    sd = np.sqrt(np.mean([[f.samples[n].var() for n in names] for f in fits], axis=0))
    surfaces, rho = [], []
    for f, own in zip(fits, np.split(theta, SURFACES), strict=True):
        rho.append(np.broadcast_to(np.asarray(f.surface.rho), (DRAWS, *f.surface.rho.shape)))
        logits, variances = evaluate(f.surface, own)
        surface = correction.marginal(logits, variances, np.asarray(f.surface.correlation), rho[-1], rows, data, z)
        surfaces.append(surface + correction.support(f.surface, own))
    proposal, common = np.concatenate(surfaces), np.concatenate(rho)

    def seen(first: int, last: int) -> Simulated:
        none = np.zeros((last - first, len(theta), 0))
        more = FurtherMoments(none, none, none[..., None])
        return seen_in(mean[first:last], second[first:last], more, GROUP * (last - first))

    def plain(s: Simulated) -> np.ndarray:
        return direct.estimated(s, 0 * root, rows, data)

    def integrated(s: Simulated) -> np.ndarray:
        return correction.marginal(s.logits, s.variances, everyone.correlation, s.rho, rows, data, z)

    def debiased(s: Simulated) -> np.ndarray:
        return direct.estimated(s, root, rows, data)

    def tell(what: str, after: np.ndarray, before: np.ndarray) -> None:
        each = []
        for i in range(SURFACES):
            own = slice(i * DRAWS, (i + 1) * DRAWS)
            w = [np.exp(x[own] - proposal[own] - logsumexp(x[own] - proposal[own])) for x in (after, before)]
            each.append((w[0] - w[1]) @ values[own] / sd)
        error = np.std(each, axis=0, ddof=1) / np.sqrt(SURFACES)
        cells = (f"{m:7.3f} ({e:.3f})" for m, e in zip(np.mean(each, axis=0), error, strict=True))
        print(f"{what:44s}", *cells, flush=True)

    everyone = seen(0, GROUPS)
    exact = plain(everyone)
    print(f"{'shift of the mean in posterior sds (error)':44s}", ", ".join(names))
    tell("all patients, one set of correlations", plain(everyone._replace(rho=common)), proposal)
    tell("all patients, correlations of each draw", exact, proposal)
    for patients in COHORTS:
        size = patients // GROUP
        cohorts = [seen(i, i + size) for i in range(0, GROUPS, size)]
        for estimate in (integrated, plain, debiased):
            each = np.array([estimate(s) for s in cohorts])
            noise = f"{np.median(each.std(axis=0, ddof=1)):.2f}"
            tell(f"{patients:,} {estimate.__name__}, sd {noise}", logsumexp(each, axis=0) - np.log(len(each)), exact)


if __name__ == "__main__":
    main()
