"""The verdict on a fit: measured against fixed criteria, never asserted (design of the fit: "final" is measured)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inference import arviz
from inference.predictive import pooled

if TYPE_CHECKING:
    from inference.rounds import Fit
    from inference.surface import Surface


class Criterion(NamedTuple):
    """``final`` if figure ``name`` is on the right side of ``limit``; ``failed`` beyond ``hopeless`` (None: never)."""

    name: str
    label: str
    side: str  # "<", "<=" or ">="
    limit: float
    hopeless: float | None = None


# Limits of the design; the hopeless ones are those of no use for any purpose.
CRITERIA = (
    Criterion("rhat_max", "R-hat", "<", 1.01, 1.1),
    Criterion("ess_bulk_min", "bulk ESS", ">=", 2000, 100),
    Criterion("ess_tail_min", "tail ESS", ">=", 400, 50),
    Criterion("mcse_max_in_sd", "Monte Carlo error of a mean, in sds,", "<=", 0.025),
    Criterion("divergent_share", "share of divergent iterations", "<=", 0.0, 0.01),
    Criterion("bfmi_min", "BFMI", ">=", 0.3, 0.1),
    Criterion("outside_share", "share of draws where the surface is an extrapolation", "<=", 0.01, 0.5),
    Criterion("solver_failures", "patients the solver lost", "<=", 0.0),
    Criterion("surface_error_rms", "error of the surface, in sampling sds,", "<=", 0.1),
    Criterion("runs_difference", "difference of a mean to a second run, in allowed differences,", "<=", 1.0),
    Criterion("khat", "k-hat of the correction", "<", 0.7),
    Criterion("correction_ess", "effective draws of the correction", ">=", 400),
    Criterion("correction_shift_in_sd", "shift of a mean by the correction, in sds,", "<=", 0.15),
)
WEIGHTED = "weighted draws"
ALLOWED_DIFFERENCE_SD, ALLOWED_ERRORS = 0.1, 3.0


def figures(fits: Sequence[Fit], *, prior_only: bool = False, **measured: Any) -> dict[str, Any]:
    """All figures the verdict looks at, None where not measured; ``measured`` adds those of other stages by name.

    Chains of all replicates ``fits`` count together; of their surfaces the worst counts.
    """
    found: dict[str, Any] = {c.name: None for c in CRITERIA}
    found["prior_only"] = prior_only
    if fits:
        answer = pooled(fits)
        found |= chain_figures(answer.samples, answer.sample_stats)
        found["outside_share"] = float(np.mean([beyond(f.surface, f.coordinates) for f in fits]))
        found["surface_terms_mean"] = float(np.mean([np.mean(f.surface.effective_terms) for f in fits]))
        worst = max((f.error for f in fits), key=lambda error: error.rms)
        found["surface_error_rms"] = float(worst.rms)
        found["surface_error_rms_se"] = float(worst.rms_se)
        found["surface_chi_square"] = float(max(f.error.chi_square for f in fits))
    return found | measured


def of_weighted_draws(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures where the draws as the correction weights them are the answer: they are worth no more draws than it
    found effective, and its shift is in them.
    """
    ess = figures["correction_ess"]
    fewer = {name: min(figures[name], ess) for name in ("ess_bulk_min", "ess_tail_min")}
    error = max(figures["mcse_max_in_sd"], 1 / math.sqrt(ess))
    return {**figures, **fewer, "mcse_max_in_sd": error, "answer": WEIGHTED}


def beyond(surface: Surface, coordinates: np.ndarray) -> float:
    """Share of draws [draws, d] at which the surface is an extrapolation."""
    u = (coordinates - np.asarray(surface.centre)) @ np.asarray(surface.whiten).T
    return float((np.sqrt((u**2).sum(axis=1)) > float(surface.radius)).mean())


def chain_figures(samples: Mapping[str, np.ndarray], stats: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Figures of the chains: worst R-hat, ESS and Monte Carlo error, divergences, energy, tree depth, step size."""
    c = arviz.convergence(samples)
    sd = np.array([np.std(values) or np.nan for values in samples.values()])
    return {
        "rhat_max": _worst(c.rhat, np.max),
        "ess_bulk_min": _worst(c.ess_bulk, np.min),
        "ess_tail_min": _worst(c.ess_tail, np.min),
        "mcse_max_in_sd": _worst(c.mcse_mean / sd, np.max),
        "divergences": int(np.sum(stats["diverging"])),
        "divergent_share": float(np.mean(stats["diverging"])),
        "bfmi_min": arviz.bfmi(stats["energy"]),
        "acceptance_mean": float(np.mean(stats["acceptance_rate"])),
        "tree_depth_max": int(np.max(stats["tree_depth"])),
        "step_size_mean": float(np.mean(stats["step_size"])),
        "leapfrog_steps": int(np.sum(stats["n_steps"])),
    }


def runs_difference(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Compare two runs that share no random number: (largest difference of a mean over what is allowed, in sds).

    Draws [chains, draws] by name. Allowed are 0.1 sd plus three Monte Carlo errors of the difference.
    """
    one, other = (np.stack([np.asarray(run[n], np.float64) for n in first]) for run in (first, second))
    sd = np.sqrt((one.var(axis=(1, 2)) + other.var(axis=(1, 2))) / 2)
    mcse = np.hypot(arviz.convergence(first).mcse_mean, arviz.convergence({n: second[n] for n in first}).mcse_mean)
    difference = np.abs(one.mean(axis=(1, 2)) - other.mean(axis=(1, 2)))
    allowed = ALLOWED_DIFFERENCE_SD * sd + ALLOWED_ERRORS * mcse
    return float((difference / allowed).max()), float((difference / sd).max())


def largest_difference(runs: Sequence[Mapping[str, np.ndarray]]) -> tuple[float, float]:
    """The largest of ``runs_difference`` over all pairs of runs."""
    pairs = [runs_difference(a, b) for a, b in combinations(runs, 2)]
    return max(allowed for allowed, _ in pairs), max(in_sd for _, in_sd in pairs)


def verdict(figures: Mapping[str, Any]) -> tuple[str, list[str]]:
    """("final" | "preliminary" | "failed", reasons). What was not measured makes a fit preliminary, and is named."""
    if figures.get("prior_only"):
        return "preliminary", ["only the prior was drawn: nothing was fitted"]
    reasons, hopeless = [], False
    for c in CRITERIA:
        if c.name == "correction_shift_in_sd" and figures.get("answer") == WEIGHTED:
            continue  # the shift is in the draws
        value = figures.get(c.name)
        if value is None:
            reasons.append(f"{c.label.rstrip(',')} was not measured")
        elif not math.isfinite(value):
            reasons.append(f"{c.label} is {value}")
            hopeless = hopeless or c.hopeless is not None
        elif not _meets(value, c.side, c.limit):
            reasons.append(f"{c.label} is {_apart(value, c.limit)}, not {c.side} {_text(c.limit)}")
            hopeless = hopeless or (c.hopeless is not None and not _meets(value, c.side, c.hopeless))
    return ("failed" if hopeless else "preliminary" if reasons else "final"), reasons


def _meets(value: float, side: str, limit: float) -> bool:
    return {"<": value < limit, "<=": value <= limit, ">=": value >= limit}[side]


def _worst(values: np.ndarray, worst: Any) -> float:
    """The worst of some figures; one that is not a number (a chain that never moved) is the worst of all."""
    return float(worst(values)) if np.isfinite(values).all() else math.nan


def _text(value: float, further: int = 0) -> str:
    return f"{value:,.{further}f}" if abs(value) >= 100 else f"{value:.{3 + further}g}"


def _apart(value: float, limit: float) -> str:
    """The value with as many digits as tell it from the limit it misses."""
    texts = (_text(value, further) for further in range(12) if _text(value, further) != _text(limit, further))
    return next(texts, repr(value))
