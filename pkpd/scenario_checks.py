"""Checks of a scenario between its tables: each raises one InputError that names key, value and what is legal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkpd import outcomes, screening
from pkpd.analysis import TESTS, alone, check_outcome
from pkpd.errors import InputError, nearest
from pkpd.hypotheses import check_graph, check_order, hypotheses
from pkpd.interims import check_interims
from pkpd.stages import active_drug, check_stages, needs_protocol, stages_of
from pkpd.tomlfile import shown

MAX_CLOSED = 6  # active arms of a closed test, which has a hypothesis for every set of them

if TYPE_CHECKING:
    from pkpd.accrual import Accrual
    from pkpd.analysis import Analysis, Outcome
    from pkpd.scenario import Scenario
    from pkpd.scenario_tables import Arm
    from pkpd.screening import Screening


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
    if scenario.analysis:
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
    check_stages(scenario.stages, scenario.trial.visits_d, scenario.arms)
    if scenario.screening is not None:
        _check_screening(scenario, scenario.screening)
    for index, arm in enumerate(scenario.arms, start=1):
        if "drug" not in arm.model_fields_set:
            raise InputError(f"arms[{index}].drug is missing")
        try:
            _check_protocol(scenario, arm)
            active_drug(scenario, arm)
            stages_of(scenario, arm)
        except InputError as error:
            raise InputError(f"arms[{index}] ({arm.name}): {error}") from None


def _check_screening(scenario: Scenario, table: Screening) -> None:
    if scenario.trial.design == "crossover":
        raise InputError("screening: of parallel groups only; legal: trial.design = 'parallel'")
    if scenario.accrual and scenario.accrual.screen_failure_share:
        raise InputError("accrual.screen_failure_share: [screening] says who fails; legal: one of the two")
    screening.check(table, scenario.entry)


def _check_protocol(scenario: Scenario, arm: Arm) -> None:
    if arm.treatment_d is not None and (scenario.stages or needs_protocol(scenario, arm)):
        raise InputError("treatment_d: with stages, windows or schedules of doses, legal: a stage of treatment = 'off'")
    if scenario.trial.design == "crossover" and needs_protocol(scenario, arm):
        raise InputError(
            "trial.design = 'crossover' has daily doses and exact visits; legal: 'parallel', or without stages, "
            "windows, missed visits, schedules of doses, adherence and meals"
        )
    if arm.loading_dose_mg is not None and arm.drug == "placebo":
        raise InputError("loading_dose_mg: placebo has no dose; legal: an arm with a drug")


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
    if analysis.estimand.missing == "multiple-imputation" and not outcomes.of_counts_alone(name):
        raise InputError(
            f"analysis.estimand.missing = 'multiple-imputation' imputes counts, which do not decide {name}; "
            "legal: a response, a log count or a duration of response"
        )
    if "relapse" in name and not any(stage.relapse_below_1e9_per_l for stage in scenario.stages):
        raise InputError(f"analysis.endpoint = {name!r}: no stage of [[stages]] has relapse_below_1e9_per_l")


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

    drugs = sorted({arm.drug for arm in scenario.arms} - {"placebo"})
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
