"""Further studies of a fit: the published numbers that a scenario names, beside the counts of the first trial.

Every number is modelled through proportions that a surface can hold: a count through the share of patients with the
event; a median m, read within a tolerance, through the shares below m less and m plus it; a mean through the mean of
the patients' numbers, scaled to lie between 0 and 1. What a parameter means in a study's arm (its drug, its disease,
the shift between studies) is decided here, in ``values_of``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from inference.further import block_of
from inference.priors import JointPrior, Standard, joint_prior, renamed
from pkpd.errors import InputError
from pkpd.model import Form
from pkpd.parameters import SD_SUFFIX, SECOND, Library, load_library
from pkpd.planned import OF_ITP, PlannedArm, planned_arms
from pkpd.published import Target, targets
from pkpd.statistics import STATISTICS
from pkpd.tables import schema

if TYPE_CHECKING:
    from inference.config import Config
    from pkpd.scenario import Scenario

Floats = NDArray[np.float64]

SHIFT = "between_study_shift"  # the prior of its sd; its members are what shifts
DAYS_OF_A_MEDIAN = 3.0  # tolerance of a median duration (assumed: visits are off their days)
SHARE_OF_A_MEDIAN = 0.05  # tolerance of another median, of its value (assumed: rounding and visit days)
RANGES = {"%": (-100.0, 900.0), "log": (float(np.log(1e-4)), float(np.log(1e2)))}  # to which means are scaled


class Output(NamedTuple):
    """One proportion of a target: of patients at or below ``cut``, or (without one) the mean of (x - low)/(high - low)
    within [0, 1].
    """

    target: int
    low: float = 0.0
    high: float = 1.0
    cut: float | None = None


class Study(NamedTuple):
    """A further study, ready to simulate; E outputs."""

    name: str
    design: Scenario
    arms: dict[str, PlannedArm]  # those that its targets need
    days: tuple[int, ...]
    form: Form
    targets: tuple[Target, ...]
    outputs: tuple[Output, ...]


def shift_name(member: str, study: str) -> str:
    """Name of the standardised shift of a parameter in a study."""
    return f"{member}_shift[{study}]"


def plan_study(config: Config, name: str, design: Scenario, library: Library) -> Study:
    """The study of a scenario with what was published of it; InputError where a fit cannot use it."""
    found = targets(design)
    if not found:
        raise InputError(f"studies: scenario {name} names no published number; legal: one with [[predictions]]")
    dtype = jnp.float64 if config.engine == "reference" else jnp.float32
    arms = {a.name: a for a in planned_arms(design, dtype, library)}
    needed = {arm for t in found for arm in (*t.arms, *filter(None, [t.reference]))}
    outputs = [o for i, t in enumerate(found) for o in _outputs(i, t)]
    from inference.config import hill_is_one

    hills = {float(a.population.typical.dimer_hill) for a in arms.values()}
    return Study(
        design.trial.name,
        design,
        {n: a for n, a in arms.items() if n in needed},
        tuple(design.trial.visits_d),
        Form(signalling=config.signalling, hill_is_one=hills == {1.0} and hill_is_one(config, library)),
        tuple(found),
        tuple(outputs),
    )


def _outputs(index: int, t: Target) -> list[Output]:
    if t.unit == "patients":
        return [Output(index)]
    if t.statistic.endswith("_median"):
        tolerance = DAYS_OF_A_MEDIAN if t.unit == "d" else SHARE_OF_A_MEDIAN * t.observed
        return [Output(index, cut=t.observed - tolerance), Output(index, cut=t.observed + tolerance)]
    low, high = RANGES["log" if STATISTICS[t.statistic].relative else t.unit]
    return [Output(index, low, high)]


def read_as(study: Study, t: Target) -> str:
    """What the likelihood takes a number for, in words."""
    own = [o for o in study.outputs if study.targets[o.target] == t]
    if t.unit == "patients":
        return f"count of {t.statistic} on day {study.days[t.last]}"
    if own[0].cut is not None:
        return f"median of {t.statistic.removesuffix('_median')} between {own[0].cut:.4g} and {own[1].cut:.4g}"
    error = "as simulated" if t.standard_error is None else f"{t.standard_error:.3g} {t.unit}"
    against = f" against {t.reference}" if t.reference else ""
    return f"mean of {t.statistic}{against}, standard error {error}"


def further_prior(
    base: JointPrior,
    library: Library,
    names: tuple[str, ...],
    drugs: tuple[str, ...],
    overrides: Mapping[str, Mapping[str, Any]],
) -> JointPrior:
    """The prior with what further studies add: the pharmacology of each further drug, named ``drug.parameter``, and the
    shift of every study of ``names``, where the sd between studies is free.
    """
    elements = list(base.elements)
    for drug in drugs:
        other = load_library(drug, library.disease)
        of_drug = {*schema()["drug"]}
        if other.value("target_baseline_nM") == 0:  # linear pharmacokinetics: no target to degrade
            of_drug -= {"target_degradation_per_h"}
        prefix = f"{drug}."
        own = {k.removeprefix(prefix): dict(v) for k, v in overrides.items() if k.startswith(prefix)}
        for name in own:
            if name.removesuffix(SD_SUFFIX) not in of_drug:
                raise InputError(f"priors: {prefix}{name} is no parameter of {drug}'s pharmacology")
        elements += [
            renamed(e, prefix + e.name)
            for e in joint_prior(other, own).elements
            if hasattr(e, "name") and e.name.removesuffix(SD_SUFFIX) in of_drug
        ]
    if SHIFT in base.names:
        elements += [Standard(shift_name(m, study)) for m in library.priors[SHIFT].members for study in names]
    return JointPrior(tuple(elements))


def values_of(study: str, a: PlannedArm, drug: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Population parameters [..] of an arm of a study from those of the fit by name; ``drug`` is the fit's own.

    Another drug takes its own pharmacology, healthy volunteers take nothing of the disease, and what the scenario sets
    stays. Those of an arm's second drug are named ``second.parameter``.
    """
    if a.second_drug:
        first, second = a._replace(second_drug=""), a._replace(drug=a.second_drug, second_drug="")
        of_second = values_of(study, second._replace(population=a.population.second), drug, values)
        return {**values_of(study, first, drug, values), **{SECOND + name: v for name, v in of_second.items()}}
    of_drug = schema()["drug"]
    plain: dict[str, Any] = {}
    for name, value in values.items():
        head, dot, tail = name.partition(".")
        base = name.removesuffix(SD_SUFFIX)
        if dot:
            plain |= {tail: value} if head == a.drug and tail not in a.fixed else {}
        elif name == SHIFT or "_shift[" in name or name in a.fixed:
            continue
        elif (base in of_drug and a.drug != drug) or (base in OF_ITP and a.disease == "healthy"):
            continue
        else:
            plain[name] = value
    if SHIFT in values:
        for name in values:
            member, _, of = name.partition("_shift[")
            stays = member in a.fixed or (member in OF_ITP and a.disease == "healthy")
            if of == f"{study}]" and not stays:
                centre = plain.get(member, getattr(a.population.typical, member))
                plain[member] = centre * np.exp(np.asarray(values[SHIFT]) * values[name])
    return plain


def numbers(study: Study, seen: Mapping[str, Any]) -> list[Floats]:
    """The number of each patient [patients] for every target, from the visits ``seen`` of each arm by name.

    Of several arms that are one published arm, the numbers are [arms, patients].
    """
    found = []
    for t in study.targets:
        each = STATISTICS[t.statistic].each
        x = np.stack([np.asarray(each(seen[arm], t.last), np.float64) for arm in t.arms])
        if t.reference is not None:
            x = x - np.asarray(each(seen[t.reference], t.last), np.float64)
        found.append(x)
    return found


def outputs(study: Study, seen: Mapping[str, Any]) -> tuple[Floats, Floats, Floats]:
    """Successes and trials [E, patients] and products of successes [E, E, patients] of every output.

    y in [0, 1] and a trial of 1 where a patient has a number, else 0 and 0. Arms that are one published arm count by
    their sizes; products are those of outputs of the same patients, else 0.
    """
    size = {name: a.n for name, a in study.arms.items()}
    x = numbers(study, seen)
    shares, there, y = [], [], []
    for o in study.outputs:
        t, own = study.targets[o.target], x[o.target]
        shares.append(np.array([size[arm] for arm in t.arms]) / sum(size[arm] for arm in t.arms))
        there.append(np.isfinite(own))
        value = own <= o.cut if o.cut is not None else np.clip((own - o.low) / (o.high - o.low), 0.0, 1.0)
        y.append(np.where(there[-1], value, 0.0))
    blocks = [block_of(study, study.targets[o.target]) for o in study.outputs]
    E, patients = len(y), y[0].shape[1]
    second = np.zeros((E, E, patients))
    for i in range(E):
        for j in range(i + 1):
            if blocks[i] == blocks[j]:
                second[i, j] = second[j, i] = shares[i] @ (y[i] * y[j])
    pairs = list(zip(shares, y, there, strict=True))
    return np.stack([s @ v for s, v, _ in pairs]), np.stack([s @ t for s, _, t in pairs]), second
