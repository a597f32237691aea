"""Whole trials simulated many times: operating characteristics of a design, and the virtual cohort itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from inference.drawn import NEW
from inference.progress import Progress, silent
from inference.studies import values_of
from pkpd import endpoints, notebook, streaming, trial
from pkpd.devices import AUTOMATIC, tile_width
from pkpd.model import Form
from pkpd.parameters import Population, with_values
from pkpd.planned import COMPARATOR, PlannedArm, planned_arms

if TYPE_CHECKING:
    from pkpd.scenario import Analysis, Scenario

SUMMARY_COLUMNS = (
    "design", "comparison", "quantity", "estimate", "mc_se", "lower", "upper", "n_trials", "n_draws",
)  # fmt: skip
NORMAL_95 = stats.norm.ppf(0.975)


def posterior_draws(run: Path | None, n: int) -> dict[str, np.ndarray]:
    """n draws [n] of every population parameter of a run, see ``drawn.draws_of``; {} without a run."""
    if run is None:
        return {}
    from inference import store
    from inference.drawn import draws_of

    return draws_of(store.load_fitted(run), n)


def with_draws(a: PlannedArm, draws: Mapping[str, np.ndarray], rows: np.ndarray) -> Population:
    """The arm's population with row ``rows`` [patients] of the draws, which are of hetrombopag in ITP.

    A comparator drug keeps its own pharmacology unless the draws hold it, healthy volunteers their production, counts
    and lack of immune clearance, and every arm what its scenario sets.
    """
    return with_values(a.population, values_of(NEW, a, COMPARATOR, {name: v[rows] for name, v in draws.items()}))


def roster(a: PlannedArm, draws: Mapping[str, np.ndarray], n_trials: int) -> trial.Roster:
    """Patients of one arm over ``n_trials`` trials; trial t uses draw t modulo the number of draws."""
    n_draws = number_of(draws)

    def who(rows: np.ndarray) -> tuple[Population, np.ndarray, np.ndarray, np.ndarray]:
        number, patient = np.divmod(rows, a.n)
        draw = number % n_draws
        population = jax.device_get(with_draws(a, draws, draw))
        return population, *(x.astype(np.int32) for x in (draw, number // n_draws, a.first_patient + patient))

    return trial.Roster(a.n * n_trials, who)


def number_of(draws: Mapping[str, np.ndarray]) -> int:
    """Number of draws of the population parameters: 1 without a posterior."""
    return len(next(iter(draws.values()))) if draws else 1


def form_of(a: PlannedArm, draws: Mapping[str, np.ndarray]) -> Form:
    """The cheaper form of the model where the Hill coefficient is 1 in the arm and in every draw."""
    hill = with_draws(a, draws, np.arange(number_of(draws))).typical.dimer_hill
    return Form(hill_is_one=bool(np.all(np.asarray(hill) == 1)))


def courses(
    design: Scenario, a: PlannedArm, draws: Mapping[str, np.ndarray], n_trials: int, seed: int, engine: str
) -> Iterator[tuple[np.ndarray, np.ndarray, trial.Visits]]:
    """Tiles of one arm over ``n_trials`` trials: draw and trial number of each patient, and their visits.

    Trial t uses draw t modulo the number of draws, and patients of its own.
    """
    people, days = roster(a, draws, n_trials), tuple(design.trial.visits_d)
    first = 0
    for visits in trial.visits_of(people, a.arm, days, seed, form_of(a, draws), engine=engine):
        number = np.arange(first, first + visits.baseline.shape[-1]) // a.n
        yield number % number_of(draws), number, visits
        first += len(number)


def run_trial(
    design: Scenario,
    *,
    posterior: Path | None = None,
    seed: int = 1,
    engine: str = AUTOMATIC,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Operating characteristics of a design, a row a quantity (columns of design section 5).

    By arm: the expected rate of every endpoint, and the 2.5% and 97.5% quantiles of the rate one trial reports. By
    comparison with the control: the risk difference and, for the analysis of the scenario, its power. ``lower`` and
    ``upper`` bound the estimate's Monte Carlo error (95%, Wilson's for a power); it is clustered by posterior draw.
    """
    n_trials = design.trial.n_trials
    draws = posterior_draws(posterior, min(design.trial.posterior_draws, n_trials))
    n_draws = number_of(draws)
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    total = sum(-(-a.n * n_trials // tile_width(engine)) for a in arms)
    done = 0
    counts = {}
    names = list(design.endpoint_names)
    weekly = _weekly_endpoint(design)
    for a in arms:
        counts[a.name] = np.zeros((n_trials, len(names) + (weekly is not None)), np.int64)
        for _, number, v in courses(design, a, draws, n_trials, seed, engine):
            seen, rescued = endpoints.until(design.landmark, v.platelets_observed, v.rescued)
            events = np.asarray(endpoints.events(seen, v.baseline, rescued))
            if weekly is not None:
                events = np.concatenate([events, endpoints.response(v.platelets_observed, v.rescued)[weekly][None]])
            np.add.at(counts[a.name], number, events.T)
            done += 1
            progress("trials", done, total)
    cluster = np.arange(n_trials) % n_draws
    n = {a.name: a.n for a in arms}
    rows: list[tuple[Any, ...]] = []

    def row(comparison: str, quantity: str, per_trial: np.ndarray) -> None:
        estimate, se = float(per_trial.mean()), clustered_se(per_trial, cluster)
        bounds = (estimate - NORMAL_95 * se, estimate + NORMAL_95 * se)
        if per_trial.dtype == bool:
            bounds = wilson(estimate, se, n_trials)
        rows.append((design.trial.name, comparison, quantity, estimate, se, *bounds, n_trials, n_draws))

    for a in arms:
        for j, name in enumerate(names):
            rate = counts[a.name][:, j] / a.n
            row(a.name, name, rate)
            for q in (0.025, 0.975):
                value, se = quantile_with_se(rate, q)
                bounds = (value - NORMAL_95 * se, value + NORMAL_95 * se)
                quantity = f"{name}_q{100 * q:g}"
                rows.append((design.trial.name, a.name, quantity, value, se, *bounds, n_trials, n_draws))
    if design.analysis is not None:
        _compare(design.analysis, names, counts, n, row)
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _weekly_endpoint(design: Scenario) -> int | None:
    """Index of the visit of the analysis' endpoint where it is a response at a week the events do not hold."""
    if design.analysis is None or design.analysis.endpoint in design.endpoint_names:
        return None
    week = int(design.analysis.endpoint.removeprefix("response_week_"))
    return design.trial.visits_d.index(7 * week)


def _compare(
    analysis: Analysis, names: list[str], counts: Mapping[str, np.ndarray], n: Mapping[str, int], row: Any
) -> None:
    j = names.index(analysis.endpoint) if analysis.endpoint in names else len(names)
    control = analysis.control
    for arm in counts:
        if arm == control:
            continue
        y, y0 = counts[arm][:, j], counts[control][:, j]
        comparison = f"{arm} vs {control}"
        row(comparison, f"risk_difference_{analysis.endpoint}", y / n[arm] - y0 / n[control])
        p = p_values(analysis.test, y, n[arm], y0, n[control], analysis.sided)
        row(comparison, f"power_{analysis.test}", p < analysis.alpha)


def p_values(test: str, y: np.ndarray, n: int, y0: np.ndarray, n0: int, sided: int) -> np.ndarray:
    """p of y of n against y0 of n0 responders, for each trial [trials]; one-sided: more response than under control.

    cochran-mantel-haenszel: one stratum, without continuity correction. fisher: exact. risk-difference: the score test
    with pooled variance (the null of the Miettinen-Nurminen interval at a difference of 0, up to its N/(N - 1)).
    """
    y, y0 = np.asarray(y, np.int64), np.asarray(y0, np.int64)
    if test == "fisher":
        pairs, where = np.unique(np.stack([y, y0], 1), axis=0, return_inverse=True)
        alternative = "greater" if sided == 1 else "two-sided"
        p = [stats.fisher_exact([[a, n - a], [b, n0 - b]], alternative=alternative).pvalue for a, b in pairs]
        return np.asarray(p)[where.reshape(-1)]
    N, total = n + n0, y + y0
    expected = total * n / N
    variance = n * n0 * total * (N - total) / (N * N * (N - 1.0))
    if test == "risk-difference":
        variance = variance * (N - 1.0) / N
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(variance > 0, (y - expected) / np.sqrt(variance), 0.0)
    return stats.norm.sf(z) if sided == 1 else 2 * stats.norm.sf(np.abs(z))


def wilson(estimate: float, se: float, n_trials: int) -> tuple[float, float]:
    """95% interval of a probability, wide even where every trial agreed; clustering lowers the number of trials."""
    n = min(n_trials, estimate * (1 - estimate) / se**2) if se > 0 else n_trials
    low, high = proportion_confint(estimate * n, n, method="wilson")
    return float(low), float(high)


def clustered_se(x: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of the mean of x [trials]; trials of one posterior draw are not independent."""
    x = np.asarray(x, np.float64)
    if cluster.max() == 0:
        return float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")
    size = np.bincount(cluster)
    total = np.bincount(cluster, x - x.mean())
    C = len(size)
    return float(np.sqrt(C / (C - 1) * (total**2).sum()) / len(x))


def quantile_with_se(x: np.ndarray, q: float) -> tuple[float, float]:
    """Sample quantile and its error, from the order statistics that bracket it at one binomial sd."""
    value = float(np.quantile(x, q))
    spread = np.sqrt(q * (1 - q) / len(x))
    low, high = np.quantile(x, np.clip([q - spread, q + spread], 0, 1))
    return value, float(high - low) / 2


def simulate_cohort(
    design: Scenario,
    *,
    posterior: Path | None = None,
    seed: int = 1,
    engine: str = AUTOMATIC,
    progress: Progress = silent,
) -> Iterator[pd.DataFrame]:
    """The virtual cohort of a scenario, part by part: a row a patient and visit; visit 0 is the baseline.

    One trial for each posterior draw (one in all without a posterior). dose_mg, interrupted, stopped, cmax and auc are
    of the interval that ends at the visit; concentrations are free, in ng/mL (auc in ng h/mL).
    """
    draws = posterior_draws(posterior, design.trial.posterior_draws)
    n_draws = number_of(draws)
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    total = sum(-(-a.n * n_draws // tile_width(engine)) for a in arms)
    done = 0
    hours = 24.0 * np.concatenate([[0], design.trial.visits_d])
    for a in arms:
        first = 0
        for draw, _, v in courses(design, a, draws, n_draws, seed, engine):
            patient = a.first_patient + (first + np.arange(len(draw))) % a.n
            first += len(draw)
            yield cohort_table(a.name, draw, patient, hours, v)
            done += 1
            progress("patients", done, total)


def summarise_cohort(
    design: Scenario,
    *,
    posterior: Path | None = None,
    seed: int = 1,
    engine: str = AUTOMATIC,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The cohort of ``simulate_cohort`` as a table of shares, moments and quantiles; memory does not grow with it."""
    draws = posterior_draws(posterior, design.trial.posterior_draws)
    arms = planned_arms(design, jnp.float64 if engine == "reference" else jnp.float32)
    rosters = {a.name: roster(a, draws, number_of(draws)) for a in arms}
    total, done, summaries = sum(people.n for people in rosters.values()), 0, {}
    for a in arms:
        before = done

        def tell(patients: int, before: int = before) -> None:
            progress("patients", before + patients, total)

        summaries[a.name] = streaming.summarise(
            rosters[a.name], a.arm, tuple(design.trial.visits_d), seed, design.landmark, form_of(a, draws),
            engine=engine, progress=tell,
        )  # fmt: skip
        done += rosters[a.name].n
    return notebook.summary_table(notebook.summary_dataset(design, arms, summaries))


def cohort_table(arm: str, draw: np.ndarray, patient: np.ndarray, hours: np.ndarray, v: trial.Visits) -> pd.DataFrame:
    """One tile of patients as a table, patient by patient and visit by visit."""
    n, visits = len(draw), len(hours)
    count = np.concatenate([v.baseline[None], v.platelets_observed])

    def by_row(values: np.ndarray, at_baseline: Any) -> np.ndarray:
        first = np.full((1, n), at_baseline, values.dtype)
        return np.concatenate([first, values]).T.reshape(-1)

    response = np.asarray(endpoints.response(v.platelets_observed, v.rescued))
    return pd.DataFrame(
        {
            "arm": pd.Categorical.from_codes(np.zeros(n * visits, np.int8), [arm]),
            "draw": np.repeat(draw, visits).astype(np.int32),
            "patient": np.repeat(patient, visits).astype(np.int32),
            "visit": np.tile(np.arange(visits, dtype=np.int32), n),
            "time_h": np.tile(hours, n),
            "dose_mg": by_row(v.dose_mg, np.nan),
            "platelets_true": np.concatenate([v.baseline[None], v.platelets_true]).T.reshape(-1),
            "platelets_observed": count.T.reshape(-1),
            "interrupted": by_row(v.interrupted, False),
            "stopped": by_row(v.stopped, False),
            "rescued": by_row(v.rescued, False),
            "response": by_row(response, False),
            "cmax": by_row(v.cmax_ng_per_ml, np.nan),
            "auc": by_row(v.auc_ng_h_per_ml, np.nan),
            "trough": by_row(v.trough_ng_per_ml, 0.0),
        }
    )
