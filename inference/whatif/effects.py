"""The effect of each arm against the control from outcomes of patients, for many trials at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inference.whatif import mantel_haenszel, survival
from inference.whatif.ancova import ancova
from inference.whatif.counts import sizes_analysed
from inference.whatif.decisions import columns_of
from inference.whatif.estimated import Estimated, against
from inference.whatif.logistic import logistic
from inference.whatif.missing import multiple_imputation
from inference.whatif.mmrm import mmrm
from pkpd import outcomes
from pkpd.estimands import Read, read
from pkpd.parameters import CovariateRatios
from pkpd.strata import stratum_of
from pkpd.trial import Visits

if TYPE_CHECKING:
    from pkpd.analysis import Analysis
    from pkpd.planned import PlannedArm
    from pkpd.scenario import Scenario


GROUP = 250  # trials analysed at once: bounds memory


class Patients(NamedTuple):
    """Outcomes of patients, [.., patients] as they are simulated, [trials, patients, ..] once they are ``arranged``.

    value [.., visits] where the endpoint is repeated; counts and failed have visits, and are there for imputation only.
    covariates [.., k]: of a regression.
    """

    value: np.ndarray
    present: np.ndarray
    log_baseline: np.ndarray
    stratum: np.ndarray
    covariates: np.ndarray | None = None
    event: np.ndarray | None = None
    counts: np.ndarray | None = None
    failed: np.ndarray | None = None


def observed(design: Scenario, a: PlannedArm, v: Visits) -> Patients:
    """What the analysis reads of the courses of patients, patients first."""
    analysis = design.analysis
    assert analysis is not None
    r, until = read(v, analysis.estimand), design.visits_counted
    stages = a.arm.protocol.stages if a.arm.protocol is not None else None
    start = design.first_visit_counted
    found = outcomes.outcome(analysis.endpoint, v, r, design.trial.visits_d, until, stages, start)
    imputed = analysis.estimand.missing == "multiple-imputation"
    known, names = traits(v), covariates_of(analysis)
    return Patients(
        value=np.moveaxis(found.value, -1, 0),
        present=found.present,
        log_baseline=np.log(np.asarray(v.baseline, np.float64)),
        stratum=stratum_of(analysis.strata, known),
        covariates=np.stack([known[name] for name in names], -1) if names else None,
        event=found.event,
        counts=r.counts[:until].T if imputed else None,  # from the first visit on, which tell of those that are missing
        failed=r.failed[:until].T if imputed else None,
    )


def traits(v: Visits) -> dict[str, np.ndarray]:
    """What is known of patients [patients] before treatment, as strata and covariates name it."""
    assert v.covariates is not None
    baseline = np.asarray(v.baseline)
    found = {"baseline_1e9_per_l": baseline, "log_baseline": np.log(baseline.astype(np.float64))}
    has = zip(CovariateRatios._fields, v.covariates, strict=True)
    named = {name.removesuffix("_clearance_ratio"): np.asarray(x, np.float64) for name, x in has}
    age = {} if v.age_y is None else {"age_y": np.asarray(v.age_y, np.float64)}
    return found | {"weight_kg": np.asarray(v.weight_kg)} | named | age


def covariates_of(analysis: Analysis) -> tuple[str, ...]:
    """Covariates of the regression; those of values always have the log baseline, first."""
    if analysis.test in ("ancova", "mmrm"):
        return ("log_baseline", *(name for name in analysis.covariates if name != "log_baseline"))
    return analysis.covariates


def arranged(parts: Sequence[Patients], n: int) -> Patients:
    """Outcomes of consecutive tiles as [trials, patients of the arm, ..]."""
    joined = [None if leaves[0] is None else np.concatenate(leaves) for leaves in zip(*parts, strict=True)]
    return Patients(*(None if leaf is None else leaf.reshape(-1, n, *leaf.shape[1:]) for leaf in joined))


def with_later(first: Patients, later: Patients) -> Patients:
    """The patients of an arm and those that came after them, both ``arranged``."""
    return Patients(*(None if a is None else np.concatenate([a, b], axis=1) for a, b in zip(first, later)))  # noqa: B905


def effects(design: Scenario, arms: Sequence[Patients], seed: int, first: int) -> np.ndarray:
    """What the analysis estimates, [trials, rows, comparisons, 4]: estimate, se, z against the margin, df.

    ``arms``: outcomes of all arms in order; trials are numbered from ``first`` on. Rows: those of
    ``sizes_analysed``; the patients enrolled by then take part, who are the first of each arm.
    """
    control, active = columns_of(design)
    sizes = sizes_analysed(design)

    def group(start: int) -> np.ndarray:
        some = [Patients(*(None if x is None else x[start : start + GROUP] for x in arm)) for arm in arms]
        found = [
            [effect(design, some[arm], some[control], at[[arm, control]], seed, first + start) for arm in active]
            for at in sizes
        ]
        return np.moveaxis(np.array(found), (2, 3), (3, 0))

    return np.concatenate([group(start) for start in range(0, len(arms[0].value), GROUP)])


def effect(
    design: Scenario, treated: Patients, control: Patients, enrolled: np.ndarray, seed: int, first: int
) -> Estimated:
    """One arm against the control with the patients ``enrolled`` [2] of each."""
    analysis = design.analysis
    assert analysis is not None
    both = Patients(*(None if a is None else np.concatenate([a, b], axis=1) for a, b in zip(treated, control)))  # noqa: B905
    n = treated.value.shape[1]
    place = np.arange(both.value.shape[1])
    is_treated = place < n
    among = {
        "present": both.present & np.where(is_treated, place < enrolled[0], place - n < enrolled[1]),
        "stratum": both.stratum if analysis.strata is not None else None,
    }
    if analysis.estimand.missing == "multiple-imputation":
        return _imputed(design, both, is_treated, among, seed, first)
    return _of_values(analysis, both.value, both, is_treated, among)


def _of_values(
    analysis: Analysis, value: np.ndarray, p: Patients, treated: np.ndarray, among: dict[str, Any]
) -> Estimated:
    """The analysis of values, trials with the same number of strata at a time.

    So the arrays that a trial is computed in have a shape of its own, and its bits do not hang on the trials beside it.
    """
    if among["stratum"] is None:
        return _of_one_shape(analysis, value, p, treated, among)
    number = among["stratum"].max(axis=1)
    found = np.empty((len(Estimated._fields), len(value)))
    for k in np.unique(number):
        at = number == k
        some = Patients(*(None if x is None else x[at] for x in p))
        own = {name: array[at] for name, array in among.items()}
        found[:, at] = _of_one_shape(analysis, value[at], some, treated, own)
    return Estimated(*found)


def _of_one_shape(
    analysis: Analysis, value: np.ndarray, p: Patients, treated: np.ndarray, among: dict[str, Any]
) -> Estimated:
    found = _as_counted(analysis, value, p, treated, among)
    # Of a harm fewer is better, and a positive z is better; no margin is legal.
    return found._replace(z=-found.z) if analysis.endpoint in outcomes.LESS_IS_BETTER else found


def _as_counted(
    analysis: Analysis, value: np.ndarray, p: Patients, treated: np.ndarray, among: dict[str, Any]
) -> Estimated:
    """The estimate, where more of the value counts as better."""
    good = analysis.endpoint in outcomes.GOOD_EVENTS
    test, margin = analysis.test, analysis.margin
    if test == "cochran-mantel-haenszel":
        return mantel_haenszel.cochran_mantel_haenszel(value, treated, **among)
    if test == "risk-difference":
        return mantel_haenszel.risk_difference(value, treated, margin=margin, **among)
    if test == "logistic":
        return logistic(value, treated, covariates=p.covariates, method="likelihood-ratio", **among)
    if test == "log-rank":
        return survival.logrank(value, p.event, treated, event_is_good=good, **among)
    if test == "cox":
        return survival.cox(value, p.event, treated, covariates=p.covariates, event_is_good=good, **among)
    if test == "ancova":
        among = among | {"present": among["present"] & np.isfinite(value)}
        return against(ancova(value, treated, covariates=p.covariates, **among), margin)
    return against(mmrm(value, treated, covariates=p.covariates, **among), margin)


def _imputed(
    design: Scenario, p: Patients, treated: np.ndarray, among: dict[str, Any], seed: int, first: int
) -> Estimated:
    """The analysis over imputations of log counts."""
    analysis, days = design.analysis, design.trial.visits_d
    assert analysis is not None and p.counts is not None
    trials = np.arange(first, first + len(p.value))
    window = slice(design.first_visit_counted, design.visits_counted)
    analyse = partial(_completed, analysis, p, treated, among, days, window)
    found = multiple_imputation(
        analyse, np.log(p.counts), treated, seed=seed, trials=trials, present=among["present"],
        covariates=p.log_baseline[..., None], imputations=analysis.estimand.imputations,
    )  # fmt: skip
    return against(found, analysis.margin)


def _completed(
    analysis: Analysis,
    p: Patients,
    treated: np.ndarray,
    among: dict[str, Any],
    days: Sequence[int],
    window: slice,
    logs: np.ndarray,
) -> Estimated:
    """The analysis of one completed data set, log counts [trials, patients, visits]."""
    assert p.failed is not None
    T, n, V = logs.shape

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(T * n, V).T[window]

    r, baseline = Read(flat(np.exp(logs)), flat(p.failed)), np.exp(p.log_baseline).reshape(-1)
    value = outcomes.of_counts(analysis.endpoint, r, baseline, days[window]).reshape(T, n)
    estimated = _of_values(analysis, value, p, treated, among)
    return against(estimated, 0.0) if analysis.margin else estimated
