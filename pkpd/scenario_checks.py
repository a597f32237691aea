"""Checks of a scenario between its tables: each raises one InputError that names key, value and what is legal."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from pkpd import outcomes, screening
from pkpd.analysis import TESTS, alone, check_outcome
from pkpd.errors import InputError, nearest
from pkpd.estimands import EVENTS
from pkpd.hypotheses import check_graph, check_order, hypotheses
from pkpd.interims import check_interims
from pkpd.parameters import Demography
from pkpd.patients import COVARIATES, Conditions, in_words
from pkpd.randomisation import check_randomisation
from pkpd.regimens import active_drugs, regimens_of
from pkpd.stages import check_stages, check_switches, needs_protocol
from pkpd.strata import AS_RANDOMISED
from pkpd.tomlfile import shown

MAX_CLOSED = 6  # active arms of a closed test, which has a hypothesis for every set of them

if TYPE_CHECKING:
    from pkpd.accrual import Accrual
    from pkpd.analysis import Analysis, Outcome, Tested
    from pkpd.parameters import Library
    from pkpd.randomisation import Randomisation
    from pkpd.scenario import Scenario
    from pkpd.scenario_tables import Arm, Entry
    from pkpd.screening import Screening

LEAST_SHARE = 1e-4  # of the simulated patients, whom single precision still draws exactly


def check(scenario: Scenario) -> None:
    """InputError where the tables of a scenario do not fit together."""
    _check_arms(scenario)
    if bool(scenario.predictions) != bool(scenario.published):
        has, lacks = ("published", "[[predictions]]") if scenario.published else ("predictions", "[published]")
        raise InputError(f"{has}: {lacks} is missing; they go together")
    if scenario.outcome is not None:
        _check_outcome(scenario, scenario.outcome)
    else:
        _check_patients(scenario)
    if scenario.randomisation:
        _check_randomisation(scenario, scenario.randomisation)
    if scenario.analysis:
        for key, test in scenario.analyses.items():
            check_same_strata(scenario, test, key)
        _check_analysis(scenario, scenario.analysis)
    if scenario.interims:
        check_interims(scenario.interims, scenario.analysis, {arm.name: arm.n for arm in scenario.arms})
    if scenario.accrual:
        _check_accrual(scenario, scenario.accrual)
    if scenario.trial.mc_se_below is not None and not scenario.analysis:
        raise InputError("trial.mc_se_below: [analysis] is missing; the error is that of its power")


def _check_patients(scenario: Scenario) -> None:
    if "entry" not in scenario.model_fields_set:
        raise InputError("entry is missing")
    if not scenario.trial.visits_d:
        raise InputError("trial.visits_d is missing")
    _check_ages(scenario)
    check_stages(scenario.stages, scenario.trial.visits_d, scenario.arms)
    check_switches(scenario.stages, scenario.arms)
    if scenario.screening is not None:
        _check_screening(scenario, scenario.screening)
    for index, arm in enumerate(scenario.arms, start=1):
        if "drug" not in arm.model_fields_set:
            raise InputError(f"arms[{index}].drug is missing")
        try:
            _check_protocol(scenario, arm)
            regimens_of(scenario, arm)
        except InputError as error:
            raise InputError(f"arms[{index}] ({arm.name}): {error}") from None


def _check_ages(scenario: Scenario) -> None:
    entry = scenario.entry
    asks = scenario.asks_for_ages or next(
        (k for k in ("age_from_y", "age_below_y") if getattr(entry, k) is not None), None
    )
    if asks and entry.patients is not None and entry.patients.age_y is None:
        where = asks if scenario.asks_for_ages else f"entry.{asks}"
        raise InputError(
            f"{where}: {entry.patients.file} of entry.patients has no column age_y; legal: such a column, or no ages"
        )


def _check_screening(scenario: Scenario, table: Screening) -> None:
    if scenario.trial.design == "crossover":
        raise InputError("screening: of parallel groups only; legal: trial.design = 'parallel'")
    if scenario.accrual and scenario.accrual.screen_failure_share:
        raise InputError("accrual.screen_failure_share: [screening] says who fails; legal: one of the two")
    if scenario.entry.platelets_from_1e9_per_l is not None:
        raise InputError(
            "entry.platelets_from_1e9_per_l: a screening has no lower limit of the counts; legal: one of the two"
        )
    screening.check(table, scenario.entry)


def _check_protocol(scenario: Scenario, arm: Arm) -> None:
    if arm.treatment_d is not None and (scenario.stages or needs_protocol(scenario, arm)):
        raise InputError("treatment_d: with stages, windows or schedules of doses, legal: a stage of treatment = 'off'")
    if scenario.trial.design == "crossover" and needs_protocol(scenario, arm):
        raise InputError(
            "trial.design = 'crossover' has daily doses and exact visits; legal: 'parallel', or without stages, "
            "windows, missed visits, schedules of doses, adherence, meals and switches"
        )
    if arm.loading_dose_mg is not None and arm.drug == "placebo":
        raise InputError("loading_dose_mg: placebo has no dose; legal: an arm with a drug")


def _check_randomisation(scenario: Scenario, randomisation: Randomisation) -> None:
    if scenario.outcome is not None:
        raise InputError("randomisation: stated outcomes have no patients; legal: without it, or without [outcome]")
    if scenario.trial.design == "crossover":
        raise InputError("randomisation: a crossover has all patients in all arms; legal: trial.design = 'parallel'")
    try:
        check_randomisation(randomisation, [arm.n for arm in scenario.arms])
    except InputError as error:
        raise InputError(f"randomisation: {error}") from None


def check_same_strata(scenario: Scenario, tested: Tested, where: str) -> None:
    """InputError where an analysis takes the strata of a randomisation that has none."""
    if tested.strata == AS_RANDOMISED and (scenario.randomisation is None or scenario.randomisation.strata is None):
        raise InputError(
            f"{where}.strata = {AS_RANDOMISED!r}: [randomisation] has no strata; "
            "legal: with randomisation.strata, or a table of strata here"
        )


def _check_outcome(scenario: Scenario, outcome: Outcome) -> None:
    if scenario.screening is not None:
        raise InputError("screening: [outcome] states responses, there is nobody to screen; legal: one of the two")
    if scenario.stages:
        raise InputError("outcome: [[stages]] need simulated patients; legal: one of the two")
    if scenario.trial.design == "crossover":
        raise InputError("outcome: its arms are independent; legal: trial.design = 'parallel'")
    if scenario.predictions:
        raise InputError("outcome: [[predictions]] need simulated patients; legal: one of the two")
    if outcome.response_profile and not scenario.trial.visits_d:
        raise InputError("trial.visits_d is missing: the days of outcome.response_profile")
    if outcome.response_probability and not scenario.analysis:
        raise InputError("outcome.response_probability: [analysis] is missing, whose endpoint it is the chance of")
    labels = [second.label for second in scenario.analysis.secondary] if scenario.analysis else []
    check_outcome(outcome, [arm.name for arm in scenario.arms], len(scenario.trial.visits_d), labels)


def _check_arms(scenario: Scenario) -> None:
    if not scenario.arms:
        raise InputError("arms: at least one [[arms]] is needed")
    seen: dict[str, int] = {}
    for index, arm in enumerate(scenario.arms, start=1):
        folded = " ".join(arm.name.split()).casefold()
        if not folded or folded in seen:
            other = f" is the name of arms[{seen[folded]}] too" if folded else " is blank"
            raise InputError(f"arms[{index}].name = {shown(arm.name)}{other}; each arm needs a name of its own")
        seen[folded] = index
        if arm.treatment_d is not None and arm.treatment_d not in scenario.trial.visits_d:
            raise InputError(f"arms[{index}].treatment_d = {arm.treatment_d}: no visit; legal: a day of trial.visits_d")
        if scenario.trial.design == "crossover" and arm.n != scenario.arms[0].n:
            raise InputError(
                f"arms[{index}].n = {arm.n}: trial.design = 'crossover' has the same subjects in all arms; "
                f"legal: {scenario.arms[0].n} as in arms[1]"
            )


def _check_analysis(scenario: Scenario, analysis: Analysis) -> None:
    names = [arm.name for arm in scenario.arms]
    if len(names) < 2:
        raise InputError("analysis: a test needs at least two arms")
    if scenario.trial.design == "crossover":
        raise InputError("analysis: its tests compare independent arms; legal: trial.design = 'parallel'")
    if analysis.control not in names:
        hint = nearest(analysis.control, names)
        raise InputError(f"analysis.control = {shown(analysis.control)} is not the name of an arm{hint}")
    active = [name for name in names if name != analysis.control]
    known = hypotheses(analysis, active)
    if analysis.graph:
        check_graph(analysis.graph, known)
    if analysis.order:
        check_order(analysis.order, known)
    if analysis.multiplicity.startswith("closed-") and len(active) > MAX_CLOSED:
        raise InputError(
            f"analysis.multiplicity = {analysis.multiplicity!r}: {len(active)} active arms; legal: up to {MAX_CLOSED}"
        )
    if analysis.secondary and len(active) > 1 and analysis.multiplicity == "none":
        raise InputError(
            f"analysis.secondary: {len(active)} active arms with multiplicity = 'none' have no family-wise level; "
            "legal: 'bonferroni', 'holm', 'fixed-sequence' or 'graphical'"
        )
    _check_tested(scenario, analysis)
    for index, secondary in enumerate(analysis.secondary, start=1):
        try:
            _check_tested(scenario, alone(analysis, secondary, None))
        except InputError as error:
            place = f"analysis.secondary[{index}]"
            raise InputError(str(error).replace("analysis", place, 1)) from None


def _check_tested(scenario: Scenario, analysis: Analysis) -> None:
    if scenario.outcome and scenario.outcome.response_probability:
        if analysis.by_patient or TESTS[analysis.test] != "binary":
            raise InputError(
                f"analysis.test = {analysis.test!r}: of stated responses legal: 'cochran-mantel-haenszel', "
                "'fisher', 'risk-difference', 'bayesian', without strata or imputation"
            )
        return  # of whatever the endpoint is
    _check_endpoint(scenario, analysis)


def _check_accrual(scenario: Scenario, accrual: Accrual) -> None:
    if scenario.trial.design == "crossover":
        raise InputError("accrual: of parallel groups only; legal: trial.design = 'parallel'")
    stated = bool(scenario.outcome and scenario.outcome.response_probability)
    if stated and accrual.endpoint_d is None:
        raise InputError("accrual.endpoint_d is missing: the day of the endpoint whose probability is stated")
    if not stated and accrual.endpoint_d is not None:
        raise InputError("accrual.endpoint_d: visits say when the endpoint is; legal: without it")


def _check_endpoint(scenario: Scenario, analysis: Analysis) -> None:
    if "endpoint" not in analysis.model_fields_set:
        raise InputError("analysis.endpoint is missing")
    name, known = analysis.endpoint, outcomes.kind(analysis.endpoint)
    week = outcomes.week_of(name)
    if scenario.outcome:
        if not (known == "binary" and week) or analysis.by_patient:
            raise InputError(
                f"analysis.endpoint = {shown(name)} with test = {analysis.test!r} is unknown of stated responses; "
                "legal with outcome.response_profile: response_week_1 and so on, tests of two rates without strata"
            )
    elif known is None:
        hint = nearest(name, outcomes.names())
        raise InputError(f"analysis.endpoint = {shown(name)} is unknown{hint}")
    elif known != TESTS[analysis.test]:
        legal = ", ".join(repr(test) for test, kind in TESTS.items() if kind == known)
        raise InputError(f"analysis.test = {analysis.test!r} is not for {name}; legal: {legal}")
    if week and 7 * week not in scenario.trial.visits_d:
        raise InputError(
            f"analysis.endpoint = {name!r} needs a visit on day {7 * week}; "
            f"legal: add {7 * week} to trial.visits_d, or another endpoint"
        )
    for key in ("from_d", "until_d"):
        day = getattr(analysis, key)
        if day is not None and day not in scenario.trial.visits_d:
            raise InputError(f"analysis.{key} = {day}: no visit; legal: a day of trial.visits_d")
    for key in ("from_d", "until_d", "stage"):
        if week and getattr(analysis, key) is not None:
            raise InputError(f"analysis.{key}: {name} has a visit of its own; legal: without {key}")
    if analysis.stage is not None or analysis.from_d is not None:
        _check_window(scenario, analysis)
    _check_estimand(analysis)
    if analysis.estimand.missing == "multiple-imputation" and not outcomes.of_counts_alone(name):
        raise InputError(
            f"analysis.estimand.missing = 'multiple-imputation' imputes counts, which do not decide {name}; "
            "legal: a response, a log count or a duration of response"
        )
    if "relapse" in name and not any(stage.relapse_below_1e9_per_l for stage in scenario.stages):
        raise InputError(f"analysis.endpoint = {name!r}: no stage of [[stages]] has relapse_below_1e9_per_l")


def _check_estimand(analysis: Analysis) -> None:
    """InputError where a strategy is asked for that the endpoint does not read."""
    name, estimand = analysis.endpoint, analysis.estimand
    given = [event for event in EVENTS if event in estimand.model_fields_set]
    for event in given:
        strategy = getattr(estimand, event)
        place = f"analysis.estimand.{event} = {strategy!r}"
        if outcomes.reads(name) == "counts" and strategy == "composite":
            raise InputError(f"{place}: {name} is a count, and no non-response; legal: another strategy, or without it")
        if outcomes.reads(name) == "nothing" and strategy != "treatment-policy":
            raise InputError(f"{place}: {name} is of what is observed; legal: 'treatment-policy', or without it")


def _check_window(scenario: Scenario, analysis: Analysis) -> None:
    """InputError where an endpoint cannot start later than the trial, or there is no such stage."""
    key, name = ("stage" if analysis.stage is not None else "from_d"), analysis.endpoint
    if scenario.outcome:
        raise InputError(f"analysis.{key}: [outcome] states responses without visits; legal: without {key}")
    if not outcomes.starts_later(name):
        legal = ", ".join(one for one in outcomes.names() if outcomes.starts_later(one))
        raise InputError(f"analysis.{key}: {name} is of the trial from its first day on; legal: {legal}")
    stages = [stage.name for stage in scenario.stages]
    if analysis.stage is not None and analysis.stage not in stages:
        hint = nearest(analysis.stage, stages) if stages else "; the scenario has none"
        raise InputError(f"analysis.stage = {shown(analysis.stage)} is not the name of a stage{hint}")
    if analysis.from_d is not None and analysis.until_d is None and analysis.from_d > scenario.landmark_day:
        raise InputError(f"analysis.from_d = {analysis.from_d}: until_d is missing, and the landmark comes before it")
    window = scenario if scenario.analysis is analysis else scenario.model_copy(update={"analysis": analysis})
    visits, needed = window.visits_counted - window.first_visit_counted, outcomes.DURABLE[1]
    if name == "durable_response" and visits < needed:
        raise InputError(f"analysis.{key}: durable_response needs {needed} visits, and there are {visits}")


def check_library(scenario: Scenario, where: str) -> None:
    """InputError where parameters, meals or entry do not fit the library of a drug."""
    from pkpd.parameters import load_library, with_overrides
    from pkpd.tables import schema

    drugs = sorted({drug for arm in scenario.arms for drug in active_drugs(scenario, arm)})
    for name in scenario.parameters if len(drugs) > 1 else ():
        if name.removesuffix("_iiv_log_sd") in schema()["drug"]:
            raise InputError(
                f"{where}: parameters.{name}: which drug is meant, {' or '.join(drugs)}? The scenario has both"
            )
    for drug in drugs or ["hetrombopag"]:
        library = with_overrides(
            load_library(drug, scenario.entry.disease), scenario.parameters, f"{where}: parameters"
        )
        for index, arm in enumerate(scenario.arms, start=1):
            try:
                library.food(arm.meal if arm.drug == drug else "fasted")
            except InputError as error:
                raise InputError(f"{where}: arms[{index}] ({arm.name}): {drug}: {error}") from None
        lowest, limit = library.value("baseline_min_1e9_per_l"), scenario.entry.platelets_below_1e9_per_l
        if limit <= lowest:
            raise InputError(
                f"{where}: entry.platelets_below_1e9_per_l = {limit:g}: nobody is eligible, baseline counts start "
                f"at {lowest:g}; legal: above {lowest:g}"
            )
        if scenario.screening is not None:
            try:
                screening.check_enough_pass(scenario.screening, scenario.entry, library)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        _check_eligible(scenario, library, where)
        _check_covariates(scenario, library, where)


def _check_eligible(scenario: Scenario, library: Library, where: str) -> None:
    """InputError where hardly anybody of the simulated patients meets the conditions of entry."""
    entry = scenario.entry
    for name, wanted in entry.shares.items():
        if library.value(name) == 1 - wanted:
            raise InputError(
                f"{where}: entry.{name.removesuffix('_share')} = {str(bool(wanted)).lower()}: nobody is eligible, "
                f"{name} = {library.value(name):g}; legal: parameters.{name} {'above 0' if wanted else 'below 1'}"
            )
    if entry.patients is not None:
        return
    for name, share, law in (
        ("weight_kg", _share_by_weight(library, entry), "weights are {weight_min_kg:g} to {weight_max_kg:g} kg"),
        ("baseline_1e9_per_l", _share_by_count(library, entry), "counts start at {baseline_min_1e9_per_l:g}"),
        ("age_y", _share_by_age(library, entry), "ages are {age_min_y:g} to {age_max_y:g} y"),
    ):
        if share < LEAST_SHARE:
            said = ", ".join(in_words(Conditions({name: entry.conditions.ranges[name]}, {})))
            raise InputError(
                f"{where}: entry: {said}: nobody or hardly anybody is eligible, "
                f"{law.format(**{n: library.value(n) for n in Demography._fields})}; "
                f"legal: limits that at least {100 * LEAST_SHARE:g}% meet"
            )


def _share_by_weight(library: Library, entry: Entry) -> float:
    """Share of simulated patients whose weight meets the limits of entry."""
    low, below = entry.conditions.ranges["weight_kg"]
    median, sd, least, most = (library.value(f"weight_{x}") for x in ("median_kg", "log_sd", "min_kg", "max_kg"))
    if (low is not None and low > most) or (below is not None and below <= least):
        return 0.0  # weights are clipped to their range
    bottom = 0.0 if low is None or low <= least else _below(low, math.log(median), sd)
    return (1.0 if below is None or below > most else _below(below, math.log(median), sd)) - bottom


def _share_by_count(library: Library, entry: Entry) -> float:
    """Share of the patients below the limit of the count who are not below the other."""
    low, limit = entry.conditions.ranges["baseline_1e9_per_l"]
    mean, sd, least = (library.value(f"baseline_{x}") for x in ("log_mean", "log_sd", "min_1e9_per_l"))
    if low is None or low <= least:
        return 1.0
    assert limit is not None
    from_least, from_low = (_below(limit, mean, sd) - _below(x, mean, sd) for x in (least, low))
    return from_low / from_least if from_least > 0 else 0.0


def _share_by_age(library: Library, entry: Entry) -> float:
    """Share of simulated patients whose age meets the limits of entry."""
    low, below = entry.conditions.ranges["age_y"]
    median, sd, least, most = (library.value(f"age_{x}") for x in ("median_y", "log_sd", "min_y", "max_y"))
    inside = (max(least, low or least), min(most, below or most))
    if inside[1] <= inside[0]:
        return float(least == most and (low or 0) <= least < (below or math.inf))
    some, everybody = (
        _below(b, math.log(median), sd) - _below(a, math.log(median), sd) for a, b in (inside, (least, most))
    )
    return some / everybody if everybody > 0 else 1.0


def _below(x: float, log_mean: float, log_sd: float) -> float:
    """Share of a log-normal law below x."""
    if log_sd == 0:
        return float(math.log(x) > log_mean)
    return NormalDist(log_mean, log_sd).cdf(math.log(x))


def _check_covariates(scenario: Scenario, library: Library, where: str) -> None:
    """InputError where strata or a regression name a covariate in which all patients of the trial are alike."""
    used = [(f"{key}.strata", strata.covariates) for key, strata in scenario.stratified.items()]
    for key, one in scenario.analyses.items():
        used.append((f"{key}.covariates", tuple(name for name in one.covariates if name in COVARIATES)))
    table = scenario.entry.eligible()
    for key, names in used:
        for name in names:
            share = scenario.entry.shares.get(f"{name}_share", library.value(f"{name}_share"))
            said = f"{'entry' if name in scenario.entry.conditions.has else f'{name}_share'} = {share:g}"
            if table is not None and name in table.covariates:
                share = float(np.mean(table.covariates[name]))
                said = f"column {name} of entry.patients is {share:g} throughout"
            if share in (0, 1):
                raise InputError(
                    f"{where}: {key}: {name}: {said}, so all patients are alike; "
                    f"legal: parameters.{name}_share between 0 and 1, or a column of entry.patients with both"
                )
