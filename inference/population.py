"""The arm-level fit: replicates of rounds, the correction by fresh simulation, and prediction at the posterior."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference import correction, diagnostics, predictive, rounds, store
from inference.arm_model import compile_arms
from inference.arms import ArmData
from inference.config import Config
from inference.config import plan as resolve
from inference.moments import POSTERIOR, PRIOR
from inference.priors import JointPrior
from inference.progress import Progress
from inference.rounds import timed
from pkpd.model import Form
from pkpd.parameters import Library
from pkpd.planned import PlannedArm, planned_arms

PRIOR_DRAWS = 4000  # kept in the run, for the sds that contraction is measured against


class Plan(NamedTuple):
    """What a config asks for, resolved and checked."""

    config: Config
    library: Library
    prior: JointPrior
    arms: list[PlannedArm]
    data: ArmData  # of all arms of the scenario
    fitted: ArmData  # of the arms that are not left out
    days: tuple[int, ...]
    landmark: int
    form: Form


def plan(config: Config) -> Plan:
    """Resolve a config; InputError that names what does not fit together."""
    read = resolve(config)
    dtype = jnp.float64 if config.engine == "reference" else jnp.float32
    arms = {a.name: a for a in planned_arms(read.scenario, dtype, library=read.library)}
    form = Form(signalling=config.signalling, hill_is_one=read.library.value("dimer_hill") == 1)
    return Plan(
        config,
        read.library,
        read.prior,
        [arms[name] for name in read.data.arms],
        read.data,
        read.fitted,
        tuple(read.scenario.trial.visits_d),
        read.scenario.landmark,
        form,
    )


def fit(config: Config, folder: Path, progress: Progress) -> dict[str, Any]:
    """Run the fit of a config and save it to ``folder``; returns its diagnostics, with ``verdict`` and ``reasons``.

    What a round has simulated is kept in ``folder/checkpoint``, so an interrupted fit goes on from there.
    """
    p = plan(config)
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
        verdict, reasons = diagnostics.verdict(figures)
        outcome = figures, verdict, reasons, seconds
        store.save(predictive.result(p, [], None, prior_values, prior_trials, prior_trials, *outcome), folder)
        return {**figures, "verdict": verdict, "reasons": reasons}
    fits = [
        rounds.replicate(
            p, r, jax.random.fold_in(key, 1000 + r), folder / "checkpoint" / f"run-{r + 1}", progress, seconds
        )
        for r in range(config.replicates)
    ]
    measured: dict[str, Any] = {"solver_failures": 0}  # moments stops at the first
    if len(fits) > 1:
        allowed, in_sd = diagnostics.largest_difference([f.samples for f in fits])
        measured |= {"runs_difference": allowed, "runs_difference_in_sd": in_sd}
    weighted = None
    if config.correction.draws:
        with timed(seconds, "correction"):
            weighted = correction.correct(p, fits, jax.random.fold_in(key, 3), progress)
        shifts = weighted.shift_in_sd
        most = max(shifts, key=lambda name: abs(shifts[name]))
        measured |= {"khat": weighted.khat, "correction_ess": weighted.ess}
        measured |= {"correction_shift_in_sd": abs(shifts[most]), "correction_shifts_most": most}
    chosen = spread(np.concatenate([f.coordinates for f in fits]), config.predictive.draws)
    values = {n: np.asarray(v) for n, v in p.prior.constrained(chosen).items()}
    with timed(seconds, "posterior predictive"):
        trials = predictive.trials(p, values, POSTERIOR, progress, "posterior predictive trials")
    figures = diagnostics.figures(fits, **measured)
    verdict, reasons = diagnostics.verdict(figures)
    outcome = figures, verdict, reasons, seconds
    store.save(predictive.result(p, fits, weighted, prior_values, prior_trials, trials, *outcome), folder)
    return {**figures, "verdict": verdict, "reasons": reasons}


def prepare(p: Plan, draws: Mapping[str, np.ndarray]) -> None:
    """Compiles the sampler of the plan's rounds, then the report's curves (``draws`` stand for the posterior's).

    What goes wrong shows, with its cause, when they run.
    """
    from inference import report

    with suppress(Exception):
        for cubic in dict.fromkeys((0, p.config.refine.cubic)):
            compile_arms(p.prior, len(p.arms), p.fitted, cubic=cubic, **rounds.sampler_settings(p.config))
    with suppress(Exception):
        report.warm_up(p.library, p.arms[0].arm.rule.levels_mg, draws, p.form)


def spread(coordinates: np.ndarray, n: int) -> np.ndarray:
    """n draws evenly spaced through all draws [draws, d]."""
    return coordinates[np.linspace(0, len(coordinates) - 1, n).astype(int)]
