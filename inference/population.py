"""The arm-level fit: replicates of rounds, the correction by fresh simulation, and prediction at the posterior."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference import (
    checkpoint,
    correction,
    diagnostics,
    evidence,
    imputation,
    manifest,
    predictive,
    rounds,
    store,
    studies,
)
from inference.arm_model import compile_arms
from inference.arms import ArmData
from inference.checkpoint import Checkpoint
from inference.config import Config, hill_is_one
from inference.config import plan as resolve
from inference.correction import Correction
from inference.moments import POSTERIOR, PRIOR
from inference.output import CHECKPOINT
from inference.predictions import Predicted
from inference.predictive import ArmCourses, Outcome
from inference.priors import JointPrior
from inference.progress import Progress
from inference.rounds import Fit, timed
from inference.studies import Study
from pkpd.model import Form
from pkpd.parameters import Library
from pkpd.planned import PlannedArm, planned_arms
from pkpd.scenario import Scenario

STAGES = {"simulation": "simulation", "regression": "regression", "NUTS": "nuts", "surface check": "check"}
PRIOR_DRAWS = 4000  # kept in the run, for the sds that contraction is measured against


class Plan(NamedTuple):
    """What a config asks for, resolved and checked."""

    config: Config
    library: Library
    prior: JointPrior
    arms: list[PlannedArm]
    data: ArmData  # of all arms of the scenario
    fitted: ArmData  # of the arms that are not left out
    scenario: Scenario
    studies: tuple[Study, ...]
    days: tuple[int, ...]
    landmark: int
    form: Form

    @property
    def further_n(self) -> np.ndarray:
        """Patients [E] of whom each output of the further studies is reported."""
        return np.array([s.targets[o.target].n for s in self.studies for o in s.outputs], np.float64)

    def values(self, a: PlannedArm, values: Mapping[str, Any], study: str | None = None) -> dict[str, Any]:
        """Population parameters of an arm, of the first study unless another is named, from those of the fit."""
        return studies.values_of(study or self.scenario.trial.name, a, self.config.drug, values)


def plan(config: Config) -> Plan:
    """Resolve a config; InputError that names what does not fit together."""
    read = resolve(config)
    dtype = jnp.float64 if config.engine == "reference" else jnp.float32
    arms = {a.name: a for a in planned_arms(read.scenario, dtype, library=read.library)}
    form = Form(signalling=config.signalling, hill_is_one=hill_is_one(config, read.library))
    return Plan(
        config,
        read.library,
        read.prior,
        [arms[name] for name in read.data.arms],
        read.data,
        read.fitted,
        read.scenario,
        read.studies,
        tuple(read.scenario.trial.visits_d),
        read.scenario.landmark,
        form,
    )


def fit(config: Config, folder: Path, progress: Progress) -> dict[str, Any]:
    """Run the fit of a config and save it to ``folder``; returns its diagnostics, with ``verdict`` and ``reasons``.

    What it has computed is kept in ``folder/checkpoint``, and an interrupted fit goes on from there to the same result.
    """
    p = plan(config)
    keep = checkpoint.begin(folder / CHECKPOINT, identity(p))
    seconds: dict[str, float] = {}
    key = jax.random.key(config.seed)
    prior_values = p.prior.draws(jax.random.fold_in(key, 1), max(PRIOR_DRAWS, config.predictive.draws))
    some = {name: v[: config.predictive.draws] for name, v in prior_values.items()}
    if not config.prior_only:
        threading.Thread(target=prepare, args=(p, prior_values), daemon=True).start()  # while patients are simulated
    with timed(seconds, "prior predictive"):
        prior_trials = predictive.trials(p, some, PRIOR, progress, "prior predictive trials")
    if config.prior_only:
        figures = diagnostics.figures([], prior_only=True)
        return finish(p, folder, None, figures, prior_values, prior_trials, prior_trials, seconds)
    found = (
        imputed(p, key, keep, progress, seconds) if config.imputations else posterior(p, key, keep, progress, seconds)
    )
    chosen = spread(found.answer.sample_stats["diverging"].shape, config.predictive.draws)
    values = {n: v[chosen] for n, v in found.answer.samples.items()}
    values |= {n: v[chosen[0]] for n, v in found.imputed.items() if n != store.NUMBER}
    with timed(seconds, "posterior predictive"):
        trials = predictive.trials(p, values, POSTERIOR, progress, "posterior predictive trials")
        further = predictive.further_trials(p, values, progress)
    for shown, stage in STAGES.items():
        seconds[shown] = sum(row.get(f"seconds_{stage}", 0.0) for row in found.rounds)
    return finish(p, folder, found, found.figures, prior_values, prior_trials, trials, seconds, further)


def finish(
    p: Plan,
    folder: Path,
    found: Outcome | None,
    figures: dict[str, Any],
    prior_values: Mapping[str, np.ndarray],
    prior_trials: list[ArmCourses],
    trials: list[ArmCourses],
    seconds: dict[str, float],
    further: Sequence[Predicted] = (),
) -> dict[str, Any]:
    """Judge a fit and save it; returns its figures, verdict and reasons."""
    verdict, reasons = diagnostics.verdict(figures)
    judged = figures, verdict, reasons, seconds
    store.save(predictive.result(p, found, prior_values, prior_trials, trials, *judged, further), folder)
    return {**figures, "verdict": verdict, "reasons": reasons}


def posterior(p: Plan, key: jax.Array, keep: Checkpoint, progress: Progress, seconds: dict[str, float]) -> Outcome:
    """The posterior of one plan: replicates, pooled, and as the correction leaves them."""
    fits, weighted = replicates(p, key, keep, progress, seconds)
    answer = predictive.pooled(fits, p.data)
    measured: dict[str, Any] = {"solver_failures": 0}  # moments stops at the first
    if len(fits) > 1:
        allowed, in_sd = diagnostics.largest_difference([f.samples for f in fits])
        measured |= {"runs_difference": allowed, "runs_difference_in_sd": in_sd}
    if weighted is not None:
        most, shift = weighted.largest_shift
        measured |= {"khat": weighted.khat, "correction_ess": weighted.ess}
        measured |= {"correction_shift_in_sd": shift, "correction_shifts_most": most}
        with timed(seconds, "evidence"):
            measured |= evidence.figures(p, fits, weighted, jax.random.fold_in(key, 8))
    figures = diagnostics.figures(fits, **measured)
    rows = [row for f in fits for row in f.rounds]
    if weighted is not None and weighted.usable and not weighted.confirms:
        answer = correction.reweighted(answer, weighted, jax.random.fold_in(key, 5))
        return Outcome(answer, rows, {}, diagnostics.of_weighted_draws(figures))
    return Outcome(answer, rows, predictive.weights_of(weighted, answer), figures)


def imputed(p: Plan, key: jax.Array, keep: Checkpoint, progress: Progress, seconds: dict[str, float]) -> Outcome:
    """Refits at joint prior draws of what is fixed, pooled."""
    n = p.config.imputations
    drawn = imputation.draws(p.library, p.prior, n, jax.random.fold_in(key, 6))
    found = []
    for i, config in enumerate(imputation.configs(p.config, drawn, jax.random.fold_in(key, 7)), start=1):
        own, told = plan(config), imputation.named(progress, i, n)
        found.append(posterior(own, jax.random.key(config.seed), keep.at(f"imputation-{i}"), told, seconds))
    return imputation.pool(found, drawn)


def replicates(
    p: Plan, key: jax.Array, keep: Checkpoint, progress: Progress, seconds: dict[str, float]
) -> tuple[list[Fit], Correction | None]:
    """All replicates and their correction; where it does not confirm them, they go on from the weighted draws."""
    config = p.config
    corrected: list[np.ndarray] = []
    while True:
        fits = []
        for r in range(config.replicates):
            own = jax.random.fold_in(key, 1000 + r)
            fits.append(rounds.replicate(p, r, own, keep.at(f"run-{r + 1}"), progress, corrected))
        if not config.correction.draws:
            return fits, None
        n = len(corrected)
        with timed(seconds, "correction"):
            own = jax.random.fold_in(jax.random.fold_in(key, 3), n)
            weighted = correction.correct(p, fits, own, n, progress, keep.at(f"correction-{n + 1}"))
        if weighted.confirms or n == config.correction.rounds:
            return fits, weighted
        coordinates = np.concatenate([f.coordinates for f in fits])
        corrected.append(coordinates[correction.resampled(weighted, len(coordinates), jax.random.fold_in(own, 1))])


def identity(p: Plan) -> dict[str, Any]:
    """What everything in a checkpoint follows from, for ``checkpoint.begin``."""
    texts = {"config": p.config.to_toml(), "data": repr((p.data.arms, p.data.n.tolist(), p.data.counts.tolist()))}
    texts |= {"scenario": p.scenario.model_dump_json()}
    if p.studies:
        texts |= {"studies": repr([(s.design.model_dump_json(), s.targets) for s in p.studies])}
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    versions = {name: manifest.versions()[name] for name in ("jax", "jaxlib", "numpyro", "numpy", "scipy", "llvmlite")}
    return {**hashes, "code": manifest.code_hash(), "library": manifest.library_hash(), "versions": versions}


def prepare(p: Plan, draws: Mapping[str, np.ndarray]) -> None:
    """Compiles the sampler of the plan's rounds, then the report's curves (``draws`` stand for the posterior's).

    What goes wrong shows, with its cause, when they run.
    """
    from inference import report

    with suppress(Exception):
        settings = {"studies": p.studies, **rounds.sampler_settings(p.config)}
        for cubic in dict.fromkeys((0, p.config.refine.cubic)):
            compile_arms(p.prior, len(p.arms), p.fitted, cubic=cubic, **settings)
    with suppress(Exception):
        report.warm_up(p.library, p.arms[0].arm.rule.levels_mg, draws, p.form)


def spread(shape: tuple[int, int], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Chains and draws [n] of n draws evenly spaced through all [chains, draws]."""
    chains, draws = np.unravel_index(np.linspace(0, np.prod(shape) - 1, n).astype(int), shape)
    return chains, draws
