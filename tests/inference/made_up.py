"""A made-up FitResult of plausible shape: drawn from random numbers, no result of any fit or trial."""

from __future__ import annotations

import jax
import numpy as np

from inference.config import load, plan
from inference.store import FitResult
from pkpd.endpoints import NAMES

ARMS = ("start 2.5 mg", "start 5 mg", "placebo")
DAYS = tuple(range(7, 57, 7))
LEVELS = np.array([2.5, 3.75, 5.0, 7.5])
NARROWED = {"receptor_ec50_nM": 0.35, "max_stimulation": 0.5, "production_1e9_per_l_per_h": 0.6,
            "immune_drift_log_sd": 0.4, "residual_log_sd": 0.7, "rescue_max_probability_per_week": 0.25}  # fmt: skip


def result(*, prior_only: bool = False, leave_out: tuple[str, ...] = (), draws: int = 250, seed: int = 0) -> FitResult:
    """A result of 4 chains; ``draws`` of each and simulated trials."""
    rng = np.random.default_rng(seed)
    config = load(options={"prior_only": prior_only, "data": {"leave_out": list(leave_out)}})
    library, prior, data, *_ = plan(config)
    before = prior.draws(jax.random.key(seed), 2000)
    posterior = {} if prior_only else _posterior(before, draws, rng)
    shape = (4, draws)
    stats = {
        "diverging": rng.random(shape) < 0.001,
        "energy": rng.normal(60, 5, shape),
        "lp": rng.normal(-60, 4, shape),
        "n_steps": np.full(shape, 15),
        "acceptance_rate": rng.uniform(0.8, 1, shape),
    }
    rate = (data.counts + 0.5) / (data.n[:, None] + 1)
    wide = _trials(rate, data.n, draws, 1.3, rng)
    narrow = wide if prior_only else _trials(rate, data.n, draws, 0.12, rng)
    free = set(prior.names)
    entries = (library.entry(name) for name in library.names() if name not in free)
    return FitResult(
        config_toml=config.to_toml(),
        arms=ARMS,
        quantities=NAMES,
        fitted=tuple(not prior_only and arm not in leave_out for arm in ARMS),
        observed=data.counts,
        n=data.n,
        posterior=posterior,
        prior=before,
        sample_stats={} if prior_only else stats,
        posterior_predictive=narrow,
        prior_predictive=wide,
        logits=None if prior_only else rng.normal(0, 1, (4, draws, 3, 6)),
        log_likelihood=None if prior_only else -14 - 0.5 * np.random.default_rng(seed + 1).chisquare(3, (4, draws, 3)),
        visit_days=np.array(DAYS),
        **_courses(rng),
        rounds=[] if prior_only else [
            {"round": 1, "vectors": 3072, "patients": 128, "seconds_simulation": 11.2, "seconds_regression": 1.4,
             "seconds_nuts": 31.0, "surface_error_rms": 0.41},
            {"round": 2, "vectors": 6144, "patients": 128, "seconds_simulation": 22.1, "seconds_regression": 2.4,
             "seconds_nuts": 36.5, "surface_error_rms": 0.12, "shift_of_means_in_sd": 0.31},
        ],
        diagnostics={"prior_only": True} if prior_only else {
            "prior_only": False, "rhat_max": 1.004, "ess_bulk_min": 1834.0, "ess_tail_min": 1320.0,
            "mcse_max_in_sd": 0.019, "divergences": 1, "divergent_share": 0.00025, "bfmi_min": 0.9,
            "outside_share": 0.0,
            "surface_error_rms": 0.12, "surface_error_rms_se": 0.02, "surface_chi_square": 1.1, "khat": None},
        verdict="preliminary",
        reasons=[] if prior_only else ["bulk ESS is 1,834, not >= 2,000", "k-hat of the correction was not measured"],
        seconds={"simulation": 33.3, "regression": 3.8, "NUTS": 67.5, "posterior predictive": 9.0},
        fixed=[{"name": e.name, "value": e.value, "unit": e.unit, "source": e.source, "status": e.status}
               for e in entries],
        manifest={"command": "fit", "seed": config.seed, "finished": "made up", "versions": {"jax": "0"},
                  "devices": ["cpu:0"], "sha256": {"code": "0" * 64, "data": "1" * 64}},
    )  # fmt: skip


def _posterior(before: dict[str, np.ndarray], draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    common = rng.normal(size=(4, draws))
    after = {}
    for name, values in before.items():
        log = np.log(values)
        z = rng.normal(size=(4, draws))
        if name in NARROWED:
            z = 0.6 * z + 0.8 * common * (-1 if name.startswith("max") else 1)
        after[name] = np.exp(log.mean() + log.std() * NARROWED.get(name, 0.97) * (z + 0.3 * (name in NARROWED)))
    return after


def _trials(rate: np.ndarray, n: np.ndarray, draws: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    logit = np.log(rate / (1 - rate)) + spread * rng.normal(size=(draws, *rate.shape))
    return rng.binomial(n[:, None], 1 / (1 + np.exp(-logit)))


def _courses(rng: np.random.Generator) -> dict:
    days = np.array([0, *DAYS])
    medians = np.stack([13 + top * (1 - np.exp(-days / 14)) for top in (58.0, 80.0, 3.0)])  # [A, V + 1]
    log_sd = np.linspace(0.7, 1.1, days.size)
    quantiles = medians[..., None] * np.exp(log_sd[:, None] * np.array([-1.64, -0.67, 0, 0.67, 1.64]))
    bands = medians[..., None] * np.exp(np.linspace(0.1, 0.2, days.size)[:, None] * np.array([-1.96, 0, 1.96]))
    up = np.linspace(0, 1, len(DAYS))
    none, active = np.zeros_like(up), 1 - 0.1 * up
    low = np.stack([1 - active, active * (1 - up * 0.8), active * 0.2 * up, active * 0.2 * up, active * 0.4 * up], -1)
    high = np.stack([1 - active, active * 0.1 * up, none, active * (1 - up * 0.6), active * 0.5 * up], -1)
    placebo = np.stack([none + 1, none, none, none, none], -1)
    true = medians[:, None, 1:] * np.exp(rng.normal(0, 0.6, (3, 6, len(DAYS))).cumsum(-1) * 0.5)
    doses = LEVELS[np.clip(np.arange(len(DAYS)) // 2, 0, 3)] * np.ones((3, 6, 1))
    doses[2] = 0
    return {
        "platelets_quantiles": quantiles,
        "median_quantiles": bands,
        "level_share": np.stack([low, high, placebo]),
        "levels_mg": LEVELS,
        "examples": {"platelets_true": true, "platelets_observed": true * np.exp(rng.normal(0, 0.2, true.shape)),
                     "dose_mg": doses, "baseline": rng.uniform(1, 29, (3, 6))},
    }  # fmt: skip
