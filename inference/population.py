"""The arm-level fit: rounds of simulation, surface and NUTS, then fresh simulation at the posterior (design 4.1)."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference import diagnostics, predictive, store
from inference.arm_model import compile_arms, fit_arms
from inference.arms import ArmData
from inference.config import Config
from inference.config import plan as resolve
from inference.manifest import code_hash
from inference.priors import JointPrior
from inference.progress import Progress
from inference.surface import Surface, SurfaceError, fit_surface, surface_error, widened
from pkpd import endpoints, random, trial
from pkpd.devices import tile_width
from pkpd.errors import InputError
from pkpd.model import Form
from pkpd.parameters import Library, with_values
from pkpd.planned import PlannedArm, planned_arms

# Which random streams a part of the fit uses: nothing shares a key.
ROUNDS, CHECK, POSTERIOR, PRIOR = range(4)
PRIOR_DRAWS = 4000  # kept in the run, for the sds that contraction is measured against
CHECK_POINTS, CHECK_GROUPS = 50, 2
CHECK_PATIENTS, CHECK_PATIENTS_QUICK = 1024, 256


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


class Fit(NamedTuple):
    """The last round: draws by name [chains, draws], their statistics, logits [chains, draws, A, 6], the surface."""

    samples: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    logits: np.ndarray
    coordinates: np.ndarray
    surface: Surface
    rounds: list[dict[str, Any]]


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
    fitted, error = None, None
    if not config.prior_only:
        fitted = rounds(p, key, folder / "checkpoint", progress, seconds)
        with timed(seconds, "surface check"):
            error = check_surface(p, fitted, jax.random.fold_in(key, 2), progress)
        fitted.rounds[-1]["surface_error_rms"] = error.rms
        chosen = spread(fitted.coordinates, config.predictive.draws)
        values = {n: np.asarray(v) for n, v in p.prior.constrained(chosen).items()}
    else:
        values = some
    with timed(seconds, "posterior predictive"):
        trials = (
            predictive.trials(p, values, POSTERIOR, progress, "posterior predictive trials") if fitted else prior_trials
        )
    lost = {} if fitted is None else {"solver_failures": 0}  # moments stops at the first
    figures = diagnostics.figures(fitted, error, prior_only=config.prior_only, **lost)
    verdict, reasons = diagnostics.verdict(figures)
    result = predictive.result(p, fitted, prior_values, prior_trials, trials, figures, verdict, reasons, seconds)
    store.save(result, folder)
    return {**figures, "verdict": verdict, "reasons": reasons}


def sampler_settings(p: Plan) -> dict[str, int]:
    s = p.config.sampler
    return {"chains": s.chains, "warmup": s.warmup, "draws": s.draws}


def prepare(p: Plan, draws: Mapping[str, np.ndarray]) -> None:
    """Compiles the sampler of the plan's rounds, then the report's curves (``draws`` stand for the posterior's).

    What goes wrong shows, with its cause, when they run.
    """
    from inference import report

    with suppress(Exception):
        compile_arms(p.prior, len(p.arms), p.fitted, **sampler_settings(p))
    with suppress(Exception):
        report.warm_up(p.library, p.arms[0].arm.rule.levels_mg, draws, p.form)


def rounds(p: Plan, key: jax.Array, checkpoint: Path, progress: Progress, seconds: dict[str, float]) -> Fit:
    """Rounds of simulation, regression and NUTS; the first draws its vectors from the prior."""
    config = p.config
    begun = resume(checkpoint)
    theta, kept, before = begun if begun is not None else (None, [], None)
    coordinates = None
    for r, size in enumerate(config.rounds):
        if r < len(kept):
            continue
        row: dict[str, Any] = {"round": r + 1, "vectors": size.vectors, "patients": size.patients}
        own = jax.random.fold_in(key, 100 + r)
        if theta is None and coordinates is None:
            theta = np.asarray(p.prior.unconstrained(p.prior.draws(own, size.vectors)), np.float64)
        elif theta is None:
            theta = widened(own, coordinates, size.vectors, config.widening)
        remember(checkpoint, r, theta, kept, before)
        values = {n: np.asarray(v) for n, v in p.prior.constrained(theta).items()}
        with timed(row, "seconds_simulation"):
            mean, second = moments(
                p, values, size.patients, ROUNDS, r, progress, f"round {r + 1}: simulation", checkpoint
            )
        with timed(row, "seconds_regression"):
            surface = fit_surface(theta, mean, second, size.patients, near=p.data)
        stage = f"round {r + 1}: NUTS"
        with timed(row, "seconds_nuts"):
            result = fit_arms(
                p.prior,
                surface,
                [a.name for a in p.arms],
                p.fitted,
                jax.random.fold_in(own, 1),
                **sampler_settings(p),
                progress=partial(progress, stage),
            )
        samples = {n: result.samples[n] for n in p.prior.names}
        coordinates = np.asarray(p.prior.unconstrained(samples), np.float64).reshape(-1, p.prior.dimension)
        if before is not None:
            row["shift_of_means_in_sd"] = float(np.max(np.abs(coordinates.mean(0) - before) / coordinates.std(0)))
        before, theta = coordinates.mean(0), None
        kept.append(row)
        for stage_name in ("simulation", "regression", "nuts"):
            name = {"nuts": "NUTS"}.get(stage_name, stage_name)
            seconds[name] = seconds.get(name, 0.0) + row[f"seconds_{stage_name}"]
    return Fit(samples, result.sample_stats, result.samples["logits"], coordinates, surface, kept)


def remember(
    checkpoint: Path, r: int, theta: np.ndarray, kept: list[dict[str, Any]], before: np.ndarray | None
) -> None:
    """Keep the vectors of a round and the rows of those before it, with the version of the code that made them."""
    checkpoint.mkdir(exist_ok=True)
    means = np.full(theta.shape[1], np.nan) if before is None else before
    temporary = checkpoint / "round.part.npz"
    np.savez(temporary, theta=theta, means=means, kept=json.dumps(kept), code=code_hash(), round=r)
    temporary.replace(checkpoint / "round.npz")


def resume(checkpoint: Path) -> tuple[np.ndarray, list[dict[str, Any]], np.ndarray | None] | None:
    """Vectors of the round that was interrupted, rows and means of those before it; None where nothing was begun."""
    file = checkpoint / "round.npz"
    if not file.exists():
        return None
    with np.load(file) as saved:
        if str(saved["code"]) != code_hash():
            raise InputError(f"{checkpoint.parent}: begun by another version of the code; drop it with --force")
        means = saved["means"]
        return saved["theta"], json.loads(str(saved["kept"])), None if np.isnan(means).any() else means


def moments(
    p: Plan,
    values: Mapping[str, np.ndarray],
    patients: int,
    part: int,
    draw: int,
    progress: Progress,
    stage: str,
    checkpoint: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Means [K, A, 5] and second moments [K, A, 5, 5] of the events at K population vectors, all arms on the same
    patients (common random numbers). ``part`` and ``draw`` name the random streams.
    """
    K = len(next(iter(values.values())))
    n = K * patients
    per_patient = {name: np.repeat(v, patients) for name, v in values.items()}
    width = tile_width(p.config.engine)
    group = math.gcd(patients, width)
    number = np.arange(n)
    total = len(p.arms) * -(-n // width)
    done, means, seconds = 0, [], []
    for i, a in enumerate(p.arms):
        file = checkpoint / f"part-{part}-{draw}-arm-{i}.npz" if checkpoint is not None else None
        if file is not None and file.exists():
            with np.load(file) as kept:
                means.append(kept["mean"])
                seconds.append(kept["second"])
            done += total // len(p.arms)
            continue
        population = with_values(a.population, per_patient)
        parts = []
        for tile in trial.event_moments(
            population,
            a.arm,
            p.days,
            p.config.seed,
            group,
            number,
            np.full(n, draw),
            np.full(n, part),
            p.landmark,
            p.form,
            engine=p.config.engine,
        ):
            parts.append(tile)
            done += 1
            progress(stage, done, total)
        mean, second, failed = (np.concatenate(x) for x in zip(*parts, strict=True))
        if failed.any():
            raise InputError(f"{int(failed.sum())} of {n} patients of arm '{a.name}' left the range of the solver")
        mean, second = (x.reshape(K, -1, *x.shape[1:]).mean(1) for x in (mean, second))
        if file is not None:
            np.savez(file.with_suffix(".part.npz"), mean=mean, second=second)
            file.with_suffix(".part.npz").replace(file)
        means.append(mean)
        seconds.append(second)
    return np.stack(means, 1), np.stack(seconds, 1)


def check_surface(p: Plan, fitted: Fit, key: jax.Array, progress: Progress) -> SurfaceError:
    """How far the surface is off at fresh posterior points, by independent groups of patients."""
    chosen = random.generator(key).choice(len(fitted.coordinates), CHECK_POINTS, replace=False)
    theta = fitted.coordinates[chosen]
    values = {n: np.repeat(np.asarray(v), CHECK_GROUPS) for n, v in p.prior.constrained(theta).items()}
    patients = CHECK_PATIENTS_QUICK if p.config.quick else CHECK_PATIENTS
    mean, second = moments(p, values, patients, CHECK, 0, progress, "surface check")
    arms, events = len(p.arms), len(endpoints.NAMES)
    mean = np.moveaxis(mean.reshape(CHECK_POINTS, CHECK_GROUPS, arms, events), 1, 0)
    second = np.moveaxis(second.reshape(CHECK_POINTS, CHECK_GROUPS, arms, events, events), 1, 0)
    return surface_error(fitted.surface, theta, mean, second, p.data.n)


def spread(coordinates: np.ndarray, n: int) -> np.ndarray:
    """n draws evenly spaced through all draws [draws, d]."""
    return coordinates[np.linspace(0, len(coordinates) - 1, n).astype(int)]


@contextmanager
def timed(seconds: dict[str, Any], name: str) -> Iterator[None]:
    """Adds the wall time of the block to ``seconds[name]``."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
