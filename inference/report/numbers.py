"""The numbers of the report: plain dicts and lists, computed from a ``FitResult``; the words are in the templates."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from inference import labels
from inference.diagnostics import CRITERIA
from inference.plots import COUNTS
from inference.store import log_scale

if TYPE_CHECKING:
    import pandas as pd

    from inference.store import FitResult

ALPHA = 0.05
LIMITS = (ALPHA / 2, 1 - ALPHA / 2)
STRONG = 0.3  # correlations below are not listed
LITTLE = 0.1  # contraction below: the data say next to nothing
SIDES = {"<": ("below", operator.lt), "<=": ("at most", operator.le), ">=": ("at least", operator.ge)}
MEANINGS = {
    "rhat_max": "do chains that started apart agree",
    "ess_bulk_min": "how precisely means are known as numbers",
    "ess_tail_min": "the same for the 5% and 95% quantiles",
    "mcse_max_in_sd": "the same in units of the posterior sd",
    "divergent_share": "iterations at which NUTS lost its way",
    "bfmi_min": "does NUTS reach all energies",
    "outside_share": "draws beyond the simulated population vectors",
    "solver_failures": "of all patients simulated",
    "surface_error_rms": "rms at fresh posterior points, beyond their noise",
    "runs_difference": "two runs that share no random number",
    "khat": "can direct simulation correct the surface",
    "correction_ess": "what the weights of the correction leave",
    "correction_shift_in_sd": "what the correction changes",
}
NOISE = ("residual_log_sd", "immune_drift_log_sd", "immune_drift_time_d")
DRUG_EFFECT = ("receptor_ec50_nM", "max_stimulation", "receptor_ec50_nM_iiv_log_sd")
HALVED = 0.25  # variance left where the sd is halved


class Fit(NamedTuple):
    """How well some arms are predicted."""

    counts: int
    inside: int
    width_ratio: float  # mean predictive 95% width over that of Bin(n, y/n)
    score: float  # mean interval score in patients (Gneiting and Raftery 2007)
    prior_score: float


def predictions(result: FitResult) -> list[dict[str, Any]]:
    """A row for each arm and quantity: observed, predicted, prior predicted, inside or not, widths and scores."""
    rows = []
    for a, arm in enumerate(result.arms):
        n = int(result.n[a])
        for j, quantity in enumerate(result.quantities):
            y = int(result.observed[a, j])
            predicted, prior = result.posterior_predictive[:, a, j], result.prior_predictive[:, a, j]
            low, inner_low, middle, inner_high, high = np.quantile(
                predicted, (LIMITS[0], 0.25, 0.5, 0.75, LIMITS[1]), method=COUNTS
            )
            prior_low, prior_high = np.quantile(prior, LIMITS, method=COUNTS)
            least = np.subtract(*binom.ppf(LIMITS[::-1], n, y / n))
            rows.append(
                {
                    "arm": arm, "quantity": quantity, "label": labels.QUANTITIES.get(quantity, quantity),
                    "n": n, "y": y, "percent": 100 * y / n, "median": int(middle), "low": int(low), "high": int(high),
                    "inner_low": int(inner_low), "inner_high": int(inner_high),
                    "prior_low": int(prior_low), "prior_high": int(prior_high),
                    "inside": bool(low <= y <= high), "fitted": bool(result.fitted[a]),
                    "width_ratio": (high - low) / least if least > 0 else math.nan,
                    "score": interval_score(low, high, y), "prior_score": interval_score(prior_low, prior_high, y),
                }
            )  # fmt: skip
    return rows


def interval_score(low: float, high: float, y: float) -> float:
    """Width of a 95% interval plus 2/alpha times how far it misses (Gneiting and Raftery 2007); small is good."""
    return float((high - low) + 2 / ALPHA * (max(low - y, 0) + max(y - high, 0)))


def fit_of(rows: Sequence[dict[str, Any]]) -> Fit | None:
    """The rows of ``predictions`` summed up; None where there are none."""
    if not rows:
        return None
    ratio, score, prior = (np.nanmean([r[k] for r in rows]) for k in ("width_ratio", "score", "prior_score"))
    return Fit(len(rows), sum(r["inside"] for r in rows), float(ratio), float(score), float(prior))


def log_draws(result: FitResult) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior draws and prior draws on the scale of comparison, [draws, d] each."""
    pairs = [log_scale(v, result.prior[n]) for n, v in result.posterior.items()]
    return np.stack([np.ravel(a) for a, _ in pairs], 1), np.stack([b for _, b in pairs], 1)


def correlation(result: FitResult) -> NDArray[np.float64]:
    """Posterior correlations [d, d] on the log scale."""
    return np.atleast_2d(np.corrcoef(log_draws(result)[0].T))


def strongest_pairs(names: Sequence[str], matrix: NDArray[np.float64], most: int = 10) -> list[dict[str, Any]]:
    """The strongest correlations, strongest first."""
    first, second = np.triu_indices(len(names), 1)
    order = np.argsort(-np.abs(matrix[first, second]))[:most]
    found = [(names[first[i]], names[second[i]], float(matrix[first[i], second[i]])) for i in order]
    return [{"first": a, "second": b, "correlation": r} for a, b, r in found if abs(r) >= STRONG]


def noise_ridge(result: FitResult) -> dict[str, Any] | None:
    """Noise against drug effect: their posterior correlations on the log scale, and the largest correlation that a
    combination of the one has with a combination of the other (the first canonical one).

    None where a fit has not estimated both.
    """
    names = list(result.posterior)
    noise, drug = ([n for n in group if n in names] for group in (NOISE, DRUG_EFFECT))
    if not noise or not drug:
        return None
    after = log_draws(result)[0]
    matrix = np.atleast_2d(np.corrcoef(after.T))
    at = {n: i for i, n in enumerate(names)}
    pairs = [{"noise": a, "drug": b, "correlation": float(matrix[at[a], at[b]])} for a in noise for b in drug]
    return {"pairs": sorted(pairs, key=lambda p: -abs(p["correlation"])),
            "canonical": canonical(after[:, [at[n] for n in noise]], after[:, [at[n] for n in drug]])}  # fmt: skip


def canonical(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """First canonical correlation of columns x [n, p] and y [n, q]: the largest of any two combinations of them."""
    bases = [np.linalg.qr(a - a.mean(axis=0))[0] for a in (x, y)]
    return float(min(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)[0], 1.0))


def directions(result: FitResult, most: int = 3) -> dict[str, Any]:
    """What the data know as combinations of parameters: posterior covariance in units of the prior sds.

    ``learned``: directions in which the sd is at least halved; ``effective``: sum of the shares of variance taken
    away; ``best``: the best known directions with their largest loadings on the standardised log parameters.
    """
    after, before = log_draws(result)
    scaled = np.cov(after.T / before.std(0, ddof=1)[:, None])
    variance, vectors = np.linalg.eigh(np.atleast_2d(scaled))
    names = list(result.posterior)
    best = []
    for v, loading in zip(variance[:most], vectors.T[:most], strict=False):
        order = np.argsort(-np.abs(loading))[:4]
        sign = np.sign(loading[order[0]])
        terms = [(labels.symbol(names[i]), float(sign * loading[i])) for i in order if abs(loading[i]) > 0.15]
        best.append({"sd_ratio": math.sqrt(max(v, 0.0)), "terms": terms})
    effective = float(np.clip(1 - variance, 0, 1).sum())
    return {"total": len(names), "learned": int((variance < HALVED).sum()), "effective": effective, "best": best}


def parameters(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the summary with symbols and meanings, most narrowed first (in the order of the fit without one)."""
    ranked = summary.sort_values("contraction", ascending=False, kind="stable", na_position="last")
    rows = ranked.to_dict("records")
    return [r | {"symbol": labels.symbol(r["parameter"]), "meaning": labels.meaning(r["parameter"])} for r in rows]


def criteria(result: FitResult) -> list[dict[str, Any]]:
    """What a final result must meet, with what was found; ``met`` is None where it was not measured."""
    rows = []
    for c in CRITERIA:
        value = result.diagnostics.get(c.name)
        word, holds = SIDES[c.side]
        found = value if _number(value) else None
        need = "none" if c.limit == 0 else f"{word} {c.limit:,g}"
        met = None if found is None else bool(holds(found, c.limit))
        rows.append({"name": c.name, "label": c.label.rstrip(","), "need": need, "value": found, "met": met,
                     "meaning": MEANINGS.get(c.name, "")})  # fmt: skip
    return rows


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def statuses(fixed: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many entries are published, secondary, derived, assumed."""
    found = [str(row["status"]) for row in fixed]
    return {status: found.count(status) for status in ("published", "secondary", "derived", "assumed")}


def last_doses(result: FitResult) -> list[dict[str, Any]]:
    """Share of patients (%) at no dose and at the highest dose in the last interval, for the arms that get any."""
    last = 100 * result.level_share[:, -1]
    return [
        {"arm": arm, "none": float(share[0]), "top": float(share[-1])}
        for arm, share, levels in zip(result.arms, last, result.level_share, strict=True)
        if levels[:, 1:].any()
    ]


def medians(result: FitResult) -> list[dict[str, Any]]:
    """Median count at the last visit by arm with its 95% interval, and the middle 90% of patients."""
    last = zip(result.arms, result.median_quantiles[:, -1], result.platelets_quantiles[:, -1], strict=True)
    return [
        {"arm": arm, "low": m[0], "median": m[1], "high": m[2], "q5": q[0], "q95": q[4]}
        for arm, m, q in ((arm, m.tolist(), q.tolist()) for arm, m, q in last)
    ]
