"""Posterior and prior prediction: whole trials simulated afresh, one for each draw of the population parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inference import arms, predictions
from inference.moments import POSTERIOR
from inference.predictions import Predicted
from inference.progress import Progress
from inference.store import MEDIAN_QUANTILES, PLATELET_QUANTILES, FitResult
from pkpd import endpoints, trial
from pkpd.devices import tile_width
from pkpd.parameters import with_values
from pkpd.statistics import STATISTICS

if TYPE_CHECKING:
    from inference.arms import ArmData
    from inference.correction import Correction
    from inference.population import Plan
    from inference.rounds import Fit
    from pkpd.planned import PlannedArm

EXAMPLES = 6  # individual courses kept from each arm


class ArmCourses(NamedTuple):
    """Trials of one arm, one for each of D draws, n patients each, V visits."""

    counts: np.ndarray  # [D, 5] patients with each event
    baseline: np.ndarray  # [D, n]
    platelets_true: np.ndarray  # [V, D, n]
    platelets_observed: np.ndarray  # [V, D, n]
    dose_mg: np.ndarray  # [V, D, n]


def trials(p: Plan, values: Mapping[str, np.ndarray], part: int, progress: Progress, stage: str) -> list[ArmCourses]:
    """One trial of all arms for each draw in ``values`` [D], with fresh patients; ``part`` names the random streams."""
    total = sum(-(-a.n * len(next(iter(values.values()))) // tile_width(p.config.engine)) for a in p.arms)
    done = 0
    courses = []
    for a in p.arms:
        parts = []
        for tile in arm_trials(p, a, values, part):
            parts.append(tile)
            done += 1
            progress(stage, done, total)
        D = len(next(iter(values.values())))
        events, *rest = (np.concatenate(x, -1) for x in zip(*parts, strict=True))
        baseline, *by_visit = (x.reshape(*x.shape[:-1], D, a.n) for x in rest)
        counts = events.reshape(len(endpoints.NAMES), D, a.n).sum(-1).T
        courses.append(ArmCourses(counts, baseline, *by_visit))
    return courses


def further_trials(p: Plan, values: Mapping[str, np.ndarray], progress: Progress) -> list[Predicted]:
    """What further studies reported, with the same numbers of one fresh trial for each draw in ``values`` [D]."""
    D = len(next(iter(values.values())))
    found = []
    for s in p.studies:
        seen: dict[tuple[str, str, int], np.ndarray] = {}
        for number, (name, a) in enumerate(s.arms.items(), start=1):
            each = {n: np.repeat(v, a.n) for n, v in p.values(a, values, s.name).items()}
            patient = np.tile(a.first_patient + np.arange(a.n), D)
            people = (
                with_values(a.population, each),
                a.arm,
                s.days,
                p.config.seed,
                patient,
                np.repeat(np.arange(D), a.n),
            )
            own = {(name, t.statistic, t.last) for t in s.targets if name in (*t.arms, t.reference)}
            parts: dict[tuple[str, str, int], list[np.ndarray]] = {key: [] for key in own}
            for v in trial.simulate(*people, POSTERIOR, s.form, engine=p.config.engine):
                for key in own:
                    parts[key].append(STATISTICS[key[1]].each(v, key[2]))
            seen |= {key: np.concatenate(x).reshape(D, a.n) for key, x in parts.items()}
            progress(f"predicted: {s.name}", number, len(s.arms))
        found += [Predicted(t, predictions.samples(t, seen, p.config.seed)) for t in s.targets]
    return found


def arm_trials(p: Plan, a: PlannedArm, values: Mapping[str, np.ndarray], part: int) -> Iterator[tuple[Any, ...]]:
    """Tiles of one arm's patients, draw by draw: events, baseline, true and observed counts, dose."""
    D = len(next(iter(values.values())))
    population = with_values(a.population, {name: np.repeat(v, a.n) for name, v in p.values(a, values).items()})
    patient = np.tile(a.first_patient + np.arange(a.n), D)
    draw = np.repeat(np.arange(D), a.n)
    for v in trial.simulate(
        population, a.arm, p.days, p.config.seed, patient, draw, part, p.form, engine=p.config.engine
    ):
        counts, rescued = endpoints.until(p.landmark, v.platelets_observed, v.rescued)
        events = np.asarray(endpoints.events(counts, v.baseline, rescued))
        yield events, v.baseline_true, v.platelets_true, v.platelets_observed, v.dose_mg


def level_share(dose_mg: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of patients at no dose and at each level [V, L + 1], from doses [V, ...]."""
    nearest = np.abs(dose_mg.reshape(len(dose_mg), -1, 1) - np.concatenate([[0.0], levels])).argmin(-1)
    return np.stack([(nearest == i).mean(-1) for i in range(len(levels) + 1)], -1)


def course_summary(p: Plan, courses: list[ArmCourses]) -> dict[str, Any]:
    """What the report draws of the simulated courses; arrays by arm, with the baseline as visit 0."""
    quantiles, medians, shares, examples = [], [], [], []
    levels = np.asarray(p.arms[0].arm.rule.levels_mg, np.float64)
    for c in courses:
        with_baseline = np.concatenate([c.baseline[None], c.platelets_true])
        V1 = len(with_baseline)
        quantiles.append(np.quantile(with_baseline.reshape(V1, -1), PLATELET_QUANTILES, axis=1).T)
        medians.append(np.quantile(np.median(with_baseline, axis=2), MEDIAN_QUANTILES, axis=1).T)
        shares.append(level_share(c.dose_mg, levels))
        chosen = np.linspace(0, c.baseline.shape[0] - 1, EXAMPLES).astype(int)
        examples.append({n: getattr(c, n)[..., chosen, 0].T for n in ArmCourses._fields if n != "counts"})
    return {
        "platelets_quantiles": np.stack(quantiles),
        "median_quantiles": np.stack(medians),
        "level_share": np.stack(shares),
        "levels_mg": levels,
        "examples": {n: np.stack([e[n] for e in examples]) for n in examples[0]},
    }


def fixed_parameters(p: Plan) -> list[dict[str, Any]]:
    """Every parameter of the library that is not estimated, with its value, unit, source and status."""
    free = set(p.prior.names)
    entries = (p.library.entry(n) for n in p.library.names() if n not in free)
    return [{"name": e.name, "value": e.value, "unit": e.unit, "source": e.source, "status": e.status} for e in entries]


class Answer(NamedTuple):
    """The posterior as it is reported: chains of all replicates."""

    samples: dict[str, np.ndarray]  # [chains, draws]
    sample_stats: dict[str, np.ndarray]  # [chains, draws]
    logits: np.ndarray  # [chains, draws, A, 6] of the surfaces
    log_likelihood: np.ndarray | None = None  # [chains, draws, A] of the counts of each arm, fitted or not


class Outcome(NamedTuple):
    """What a fit found, before trials are predicted from it."""

    answer: Answer
    rounds: list[dict[str, Any]]
    weights: Mapping[str, np.ndarray]  # of the correction: chain_of, draw_of, log_weight; {} without
    figures: dict[str, Any]
    imputed: Mapping[str, np.ndarray] = {}  # [chains] number of the imputation, and what it drew; {} without


def pooled(fits: Sequence[Fit], data: ArmData | None = None) -> Answer:
    """Samples, their statistics and logits of all replicates, chains after chains; with the data of all arms, their
    log likelihoods too.
    """
    samples, stats = (
        {n: np.concatenate([getattr(f, part)[n] for f in fits]) for n in getattr(fits[0], part)}
        for part in ("samples", "sample_stats")
    )
    by_arm = None if data is None else np.concatenate([arms.by_arm(f.logits, f.surface.rho, data) for f in fits])
    return Answer(samples, stats, np.concatenate([f.logits for f in fits]), by_arm)


def result(
    p: Plan,
    found: Outcome | None,
    prior_values: Mapping[str, np.ndarray],
    prior_trials: list[ArmCourses],
    predicted: list[ArmCourses],
    figures: Mapping[str, Any],
    verdict: str,
    reasons: list[str],
    seconds: Mapping[str, float],
    further: Sequence[Predicted] = (),
) -> FitResult:
    """Everything a run directory holds; nothing ``found`` when only the prior was drawn."""
    answer = None if found is None else found.answer
    return FitResult(
        config_toml=p.config.to_toml(),
        arms=tuple(a.name for a in p.arms),
        quantities=endpoints.NAMES,
        fitted=tuple(a.name in p.fitted.arms and answer is not None for a in p.arms),
        observed=p.data.counts,
        n=p.data.n,
        posterior={} if answer is None else answer.samples,
        prior=dict(prior_values),
        sample_stats={} if answer is None else answer.sample_stats,
        posterior_predictive=np.stack([c.counts for c in predicted], 1),
        prior_predictive=np.stack([c.counts for c in prior_trials], 1),
        logits=None if answer is None else answer.logits,
        log_likelihood=None if answer is None else answer.log_likelihood,
        visit_days=p.days,
        **course_summary(p, predicted),
        rounds=[] if found is None else found.rounds,
        diagnostics=dict(figures),
        verdict=verdict,
        reasons=list(reasons),
        seconds=dict(seconds),
        fixed=fixed_parameters(p),
        manifest={},
        correction={} if found is None else dict(found.weights),
        imputed={} if found is None else dict(found.imputed),
        further=predictions.table(list(further)).to_dict("records") if further else [],
    )


def weights_of(weighted: Correction | None, answer: Answer) -> dict[str, np.ndarray]:
    """Chain, draw and log weight of the draws that the correction simulated; {} without one."""
    if weighted is None:
        return {}
    chain, draw = np.unravel_index(weighted.chosen, answer.sample_stats["diverging"].shape)
    return {"chain_of": chain, "draw_of": draw, "log_weight": weighted.log_weights}
