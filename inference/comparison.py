"""Models side by side: runs of one data set that differ in what they assume.

Predictive accuracy is the expected log predictive density (elpd) of an arm's counts that the fit has not seen: exact
where a run left that arm out; else by importance sampling, whose k-hat tells whether it can be trusted: of the draws
that saw the arm (PSIS-LOO: Vehtari, Gelman and Gabry, Stat Comput 2017;27:1413) or, where that k-hat is smaller, of
proposals made for the posterior without it (``inference.evidence``, in the diagnostics). An arm is one observation: its
counts belong to the same patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp

from inference import arviz, store
from inference.diagnostics import CRITERIA
from inference.report import numbers
from pkpd.errors import InputError
from pkpd.scenario import load_scenario

if TYPE_CHECKING:
    from inference.config import Config
    from inference.predictions import Predicted
    from inference.store import FitResult

Floats = NDArray[np.float64]

COLUMNS = ("model", "quantity", "arm", "estimate", "se", "lower", "upper", "observed", "khat", "note")
KHAT = next(c.limit for c in CRITERIA if c.name == "khat")
# What of a config is no assumption about patients, drug, trial or data.
COMPUTATION = frozenset({"seed", "quick", "prior_only", "engine", "widening", "rounds", "refine", "replicates",
                         "correction", "imputations", "sampler", "predictive"})  # fmt: skip
KIM = "immune_half_saturation_1e9_per_l"
EXACT = "exact: "
LINEAR_FROM = 1e4  # 1e9/L: immune clearance that is half saturated only there is linear at any count of a patient
PARAMETERS = ("receptor_ec50_nM", "max_stimulation", "production_1e9_per_l_per_h", KIM, "residual_log_sd",
              "immune_drift_log_sd", "immune_drift_time_d", "dimer_hill", "non_responder_share")  # fmt: skip
OLD = "the run holds no log likelihoods of its arms: it was made before they were kept; fit it again"


class Run(NamedTuple):
    """A run folder that was read."""

    name: str
    folder: Path
    result: FitResult
    config: Config


class Elpd(NamedTuple):
    """Log predictive density of an arm's counts from a fit that has not seen them."""

    arm: str
    value: float
    mc_se: float
    khat: float | None  # None where a run left the arm out
    how: str

    @property
    def trusted(self) -> bool:
        """Whether the number may be used: exact, or with a k-hat below the limit."""
        return math.isfinite(self.value) and (self.khat is None or self.khat < KHAT)


class Model(NamedTuple):
    """A run with what is compared of it; ``reason``: why its elpd and evidence are not compared ("": they are)."""

    run: Run
    differs: dict[str, str]  # assumptions by key of the config, where the runs do not agree
    reason: str
    arms: tuple[Elpd, ...]
    healthy: tuple[Predicted, ...] = ()

    @property
    def name(self) -> str:
        """Name of its run."""
        return self.run.name

    @property
    def elpd(self) -> float:
        """Sum over arms; not a number where the run is not compared or has no log likelihoods."""
        return float(sum(e.value for e in self.arms)) if self.arms and not self.reason else math.nan

    @property
    def evidence(self) -> tuple[float, float, float]:
        """Log evidence, its standard error and k-hat; not numbers where the run is not compared or has none."""
        found = [self.run.result.diagnostics.get(f"log_evidence{end}") for end in ("", "_se", "_khat")]
        known = not self.reason and all(isinstance(x, int | float) for x in found)
        log, se, khat = (float(x) for x in found) if known else (math.nan,) * 3
        return log, se, khat

    @property
    def linear(self) -> bool:
        """Whether immune clearance is linear: its half-saturation is fixed beyond all counts."""
        return any(row["name"] == KIM and row["value"] >= LINEAR_FROM for row in self.run.result.fixed)


def read(folders: Sequence[Path]) -> list[Run]:
    """The runs of some folders; InputError if one is none, holds a prior only, or is named twice."""
    if len(folders) < 2:
        raise InputError(f"{len(folders)} run to compare; legal: two or more")
    whole = [f.resolve() for f in folders]
    for folder, at in zip(folders, whole, strict=True):
        if whole.count(at) > 1:
            raise InputError(f"{folder}: is named twice; legal: each run once")
    short = [f.name for f in whole]
    names = [n if short.count(n) == 1 else str(f) for n, f in zip(short, folders, strict=True)]
    return [load_run(f)._replace(name=n) for n, f in zip(names, folders, strict=True)]


def load_run(folder: Path) -> Run:
    """One run, named after its folder; InputError if it is none or holds a prior only."""
    from inference.config import load

    return Run(folder.resolve().name, folder, store.load_fitted(folder), load(folder / store.CONFIG))


def models(runs: Sequence[Run]) -> list[Model]:
    """The models of some runs, in their order. A run that left out one arm serves the run that differs in nothing else
    (but the computation), where there is one; otherwise it is a model of its own.
    """
    bases = [r for r in runs if not _is_refit(r, runs)]
    refits = [r for r in runs if _is_refit(r, runs)]
    first = _data_of(bases[0])
    told = [_flat(r.config) for r in bases]
    keys = [k for k in dict.fromkeys(k for flat in told for k in flat) if len({f.get(k, "none") for f in told}) > 1]
    found = []
    for run, flat in zip(bases, told, strict=True):
        own = [r for r in refits if _assumptions(r) == _assumptions(run)]
        reason = _different(first, _data_of(run), bases[0].name)
        found.append(Model(run, {k: flat.get(k, "none") for k in keys}, reason, by_arm(run, own)))
    return found


def by_arm(run: Run, refits: Sequence[Run] = ()) -> tuple[Elpd, ...]:
    """Elpd of every arm: exact where the run or one of ``refits`` has left it out, else by the importance sampling with
    the smaller k-hat; () for an old run.
    """
    exact = {r.config.data.leave_out[0]: r for r in refits if r.result.log_likelihood is not None}
    if run.result.log_likelihood is None:
        return ()
    found = []
    for i, (arm, fitted) in enumerate(zip(run.result.arms, run.result.fitted, strict=True)):
        if not fitted:
            found.append(Elpd(arm, *predictive_density(run.result.log_likelihood[..., i]), None, EXACT + run.name))
        elif arm in exact:
            own = exact[arm].result
            assert own.log_likelihood is not None
            at = own.arms.index(arm)
            found.append(Elpd(arm, *predictive_density(own.log_likelihood[..., at]), None, EXACT + exact[arm].name))
        else:
            routes = [Elpd(arm, *left_out(run.result.log_likelihood[..., i]), "PSIS-LOO")]
            told = (run.result.diagnostics.get("elpd_arms") or {}).get(arm)
            if told:
                routes.append(Elpd(arm, told["log"], told["se"], told["khat"], "proposals on the surface"))
            found.append(min(routes, key=lambda e: e.khat if e.khat is not None else math.inf))
    return tuple(found)


def predictive_density(log_likelihood: Floats) -> tuple[float, float]:
    """Log of the mean likelihood over draws [chains, draws], and its Monte Carlo error."""
    return _weighted(log_likelihood, np.zeros(np.size(log_likelihood)))


def left_out(log_likelihood: Floats) -> tuple[float, float, float]:
    """The same without this arm, by PSIS from draws [chains, draws] that saw it, and k-hat."""
    smoothed, khat = arviz.pareto_smoothed(-np.ravel(log_likelihood))
    return *_weighted(log_likelihood, smoothed), khat


def _weighted(log_likelihood: Floats, log_weights: Floats) -> tuple[float, float]:
    flat = np.ravel(log_likelihood)
    w = np.exp(log_weights - logsumexp(log_weights))
    log = float(logsumexp(flat, b=w))
    relative = np.exp(flat - log)
    sd = math.sqrt(((w * (relative - 1)) ** 2).sum())
    density = np.exp(log_likelihood - np.max(log_likelihood))
    share = float(arviz.convergence({"density": density}).ess_bulk[0]) / flat.size if np.ptp(density) > 0 else 1.0
    return log, sd / math.sqrt(min(max(share, 1e-6), 1.0))


class Difference(NamedTuple):
    """Of a model to the best: how much less, and the errors of that."""

    value: float  # 0 for the best, below 0 for others
    se: float
    mc_se: float


def best(of: Sequence[Model], score: str) -> Model | None:
    """The model with the largest ``elpd`` or ``evidence``; None where no two have one."""
    values = {m.name: _score(m, score) for m in of}
    known = [m for m in of if math.isfinite(values[m.name])]
    return max(known, key=lambda m: values[m.name]) if len(known) > 1 else None


def elpd_difference(m: Model, best: Model) -> Difference:
    """Error over arms (sqrt(A) times the sd of their differences, ddof 1), and Monte Carlo error."""
    a, b = ({e.arm: e for e in x.arms} for x in (m, best))
    each = np.array([a[arm].value - b[arm].value for arm in b])
    mc = math.sqrt(sum(a[arm].mc_se ** 2 + b[arm].mc_se ** 2 for arm in b)) if m is not best else 0.0
    se = float(each.std(ddof=1) * math.sqrt(len(each))) if len(each) > 1 else math.nan
    return Difference(float(each.sum()), se, mc)


def log_bayes_factor(m: Model, best: Model) -> Difference:
    """Log evidence less that of the best; its error is Monte Carlo error."""
    (log, se, _), (other, other_se, _) = m.evidence, best.evidence
    error = math.hypot(se, other_se) if m is not best else 0.0
    return Difference(log - other, error, error)


def healthy_score(m: Model) -> float:
    """Log predictive density of the healthy rises given the fit: what they add to the log evidence.

    By a multivariate normal law of the log ratios to baseline, whose moments are those of the simulated trials; not a
    number without a prediction of a rise.
    """
    rises = [p for p in m.healthy if p.target.unit == "%" and p.target.statistic == "platelet_rise"]
    if not rises:
        return math.nan
    x = np.log1p(np.stack([p.samples for p in rises]) / 100)
    seen = np.log1p(np.array([p.target.observed for p in rises]) / 100)
    covariance = np.atleast_2d(np.cov(x))
    off = seen - x.mean(axis=1)
    return float(-0.5 * (off @ np.linalg.solve(covariance, off) + np.linalg.slogdet(2 * np.pi * covariance)[1]))


def table(of: Sequence[Model]) -> pd.DataFrame:
    """A row a number, with ``COLUMNS``; rates in percent, se of a difference in elpd over arms."""
    rows: list[dict[str, Any]] = []

    def row(m: Model, quantity: str, arm: str = "", **values: Any) -> None:
        rows.append(dict.fromkeys(COLUMNS, math.nan) | {"note": ""} | {"model": m.name, "quantity": quantity} | values)
        rows[-1]["arm"] = arm

    best_elpd, best_evidence = best(of, "elpd"), best(of, "evidence")
    for m in of:
        if not m.arms:
            row(m, "elpd", note=OLD)
        for e in m.arms:
            note = e.how if e.trusted else f"{e.how}: needs an exact refit"
            row(m, "elpd", e.arm, estimate=e.value, se=e.mc_se, khat=math.nan if e.khat is None else e.khat, note=note)
        if best_elpd and math.isfinite(m.elpd):
            d = elpd_difference(m, best_elpd)
            row(m, "elpd_difference", "all", estimate=d.value, se=d.se, note=f"to {best_elpd.name}")
        log, se, khat = m.evidence
        row(m, "log_evidence", "all", estimate=log, se=se, khat=khat, note=m.reason)
        if best_evidence and math.isfinite(log):
            d = log_bayes_factor(m, best_evidence)
            row(m, "log_bayes_factor", "all", estimate=d.value, se=d.se, note=f"to {best_evidence.name}")
        for r in rates(m):
            row(m, r["quantity"], r["arm"], estimate=r["median"], lower=r["low"], upper=r["high"], observed=r["seen"])
        inside = numbers.predictions(m.run.result)
        row(m, "counts_inside_95%", "all", estimate=sum(r["inside"] for r in inside), note=f"of {len(inside)}")
        for p in m.healthy:
            low, _, median, _, high = p.quantiles().tolist()
            t = p.target
            row(m, f"{t.study}: {t.quantity} ({t.unit})", t.arm, estimate=median, lower=low, upper=high,
                observed=t.observed)  # fmt: skip
        for name, (low, median, high) in quantiles(m).items():
            row(m, name, estimate=median, lower=low, upper=high)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def rates(m: Model) -> list[dict[str, Any]]:
    """Predicted (median, 95%) and observed response rate of every arm at the landmark, in percent."""
    rows = numbers.predictions(m.run.result)
    first = m.run.result.quantities[0]
    return [
        {"arm": r["arm"], "quantity": f"{first} (%)", "fitted": r["fitted"], "seen": 100 * r["y"] / r["n"]}
        | {k: 100 * r[k] / r["n"] for k in ("median", "low", "high")}
        for r in rows
        if r["quantity"] == first
    ]


def quantiles(m: Model) -> dict[str, tuple[float, float, float]]:
    """2.5, 50 and 97.5% of the parameters that models are told by, where the run estimated them."""
    draws = m.run.result.posterior
    found = {n: np.quantile(draws[n], (0.025, 0.5, 0.975)).tolist() for n in PARAMETERS if n in draws}
    return {n: (low, median, high) for n, (low, median, high) in found.items()}


def _score(m: Model, score: str) -> float:
    return m.elpd if score == "elpd" else m.evidence[0]


def _assumptions(r: Run) -> dict[str, Any]:
    """What a model assumes, apart from the arms that were left out."""
    plain = {k: v for k, v in r.config.model_dump().items() if k not in COMPUTATION}
    return plain | {"data": {**plain["data"], "leave_out": ()}}


def _is_refit(r: Run, runs: Sequence[Run]) -> bool:
    whole = [o for o in runs if not o.config.data.leave_out and _assumptions(o) == _assumptions(r)]
    return len(r.config.data.leave_out) == 1 and bool(whole)


def _flat(config: Config) -> dict[str, str]:
    """Assumptions of a config as text, tables taken apart."""
    found: dict[str, str] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, list | tuple):
            found[name] = ", ".join(map(str, value)) or "none"
        else:
            found[name] = f"{value:g}" if isinstance(value, float) else str(value) or "none"

    walk("", {k: v for k, v in config.model_dump().items() if k not in COMPUTATION})
    return found


def _data_of(r: Run) -> dict[str, Any]:
    """What two runs must share for their elpd and evidence to be of the same data."""
    result = r.result
    counts = {a: (int(n), *y) for a, n, y in zip(result.arms, result.n, result.observed.tolist(), strict=True)}
    try:
        endpoints = load_scenario(r.config.scenario).endpoint_names
    except InputError:
        endpoints = None
    return {
        "counts": counts,
        "arms that were fitted": tuple(a for a, f in zip(result.arms, result.fitted, strict=True) if f),
        "visits": tuple(map(int, result.visit_days)),
        "endpoints of the scenario": endpoints,
        "further studies": tuple(s.scenario for s in r.config.studies),
    }


def _different(first: Mapping[str, Any], own: Mapping[str, Any], name: str) -> str:
    """Why a run cannot be held against the first, in words; "" if it can."""
    if first["endpoints of the scenario"] is None or own["endpoints of the scenario"] is None:
        return "its scenario cannot be read any more, so its endpoints are not known"
    other = [what for what in first if first[what] != own[what]]
    return f"other {' and '.join(other)} than {name}" if other else ""
