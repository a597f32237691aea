"""A scenario in words, as ``check`` and a report print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkpd import outcomes, titration
from pkpd.estimands import describe as describe_estimand
from pkpd.patients import COVARIATES
from pkpd.patients import describe as describe_table
from pkpd.patients import in_words as conditions_in_words
from pkpd.published import targets
from pkpd.screening import describe as describe_screening
from pkpd.strata import Strata
from pkpd.strata import described as strata_in_words

if TYPE_CHECKING:
    from pkpd.analysis import Analysis, Secondary, Tested
    from pkpd.interims import Interims
    from pkpd.randomisation import Randomisation
    from pkpd.scenario import Arm, Scenario
    from pkpd.scenario_tables import Rescue
    from pkpd.stages import StageArm, Switch, Switched


def describe(scenario: Scenario) -> str:
    """What the scenario holds, as plain text: assumptions, arms, dose rules as tables, analysis."""
    trial = scenario.trial
    lines = [f"Trial: {trial.name}"]
    lines += [f"Visits on days: {', '.join(map(str, trial.visits_d))}"] if trial.visits_d else []
    if trial.window != (0, 0):
        lines.append("Visit window: up to {} days early and {} days late".format(*trial.window))
    lines += [f"Missed visits: {100 * trial.missed_visit_share:g}%"] if trial.missed_visit_share else []
    lines += [trial.description.strip()] if trial.description else []
    lines += [f"Assumption: {text}" for text in trial.assumptions]
    if trial.design == "crossover":
        lines.append("Crossover: the same subjects in all arms, each period from rest")
    lines += _arms_and_outcome(scenario)
    if scenario.outcome is None:
        lines += _patients(scenario)
    if scenario.accrual:
        a = scenario.accrual
        ramp = f", reached over {a.ramp_weeks:g} weeks" if a.ramp_weeks else ""
        failures = f", {100 * a.screen_failure_share:g}% of the screened fail" if a.screen_failure_share else ""
        lines.append(f"Accrual: {a.patients_per_week:g} patients randomised a week{ramp}{failures}")
    if scenario.randomisation:
        lines.append(f"Randomisation: {_randomisation(scenario, scenario.randomisation)}")
    if scenario.analysis:
        lines += _analysis(scenario, scenario.analysis)
    for target in targets(scenario):
        of = f" of {target.n}" if target.unit == "patients" else f" {target.unit}, n = {target.n}"
        used = f"; seen: {target.seen}" if target.seen else ""
        lines.append(f"Published: {target.study}, {target.arm}: {target.quantity} = {target.observed:g}{of}{used}")
    until = f"until every power has an error below {trial.mc_se_below:g}, at most " if trial.mc_se_below else ""
    draws = "" if scenario.outcome else f"; of a posterior, where one is given, {trial.posterior_draws} draws"
    lines.append(f"Simulated: {until}{trial.n_trials} trials{draws}")
    return "\n".join(lines)


def _randomisation(scenario: Scenario, r: Randomisation) -> str:
    """How patients come to their arms."""
    ratio = ":".join(map(str, r.ratio_of([arm.n for arm in scenario.arms])))
    within = f" within strata of {', '.join(strata_in_words(r.strata))}" if r.strata else ""
    return f"{ratio}, permuted blocks of {r.block}{within}"


def _arms_and_outcome(scenario: Scenario) -> list[str]:
    """The arms: what their patients take, or the responses that are stated of them."""
    if scenario.outcome is not None:
        stated, lines = scenario.outcome, ["Outcome: responses of stated probability; no patients are simulated"]
        if stated.correlation:
            lines.append(f"Outcome: correlation {stated.correlation:g} of primary and secondary endpoints")
        for arm in scenario.arms:
            profile = stated.response_profile.get(arm.name)
            said = (
                f"response at the visits {', '.join(f'{p:g}' for p in profile)}"
                if profile
                else f"response {stated.response_probability[arm.name]:g}"
            )
            said += "".join(f", {label} {of_arm[arm.name]:g}" for label, of_arm in stated.secondary.items())
            lines.append(f"Arm: {arm.name}: {arm.n} patients, {said}")
        return lines
    who = "healthy volunteers, " if scenario.entry.disease == "healthy" else ""
    entry = scenario.entry
    lines = [f"Entry: {who}{', '.join(conditions_in_words(entry.conditions))}"]
    lines += [describe_table(entry.patients, entry.conditions)] if entry.patients else []
    known = {*(entry.patients.covariates if entry.patients else ()), *entry.conditions.has}
    shares = {name: scenario.parameters.get(f"{name}_share") for name in COVARIATES if name not in known}
    some = [f"{100 * share:g}% {name.replace('_', ' ')}" for name, share in shares.items() if share is not None]
    lines += [f"Covariates of patients: {', '.join(some)}"] if some else []
    lines += [describe_screening(scenario.screening, scenario.entry)] if scenario.screening else []
    for arm in scenario.arms:
        dose = "0 mg" if arm.drug == "placebo" else f"start {arm.start_dose_mg:g} mg"
        rule = f", titration {arm.titration}" if arm.titration else ""
        if arm.treatment_d is not None:
            rule += ", one dose" if arm.treatment_d == 1 else f", {arm.treatment_d} days of treatment"
        if to := arm.switch_to:
            rule += f"; who switches: {', '.join([to.drug, *_start_and_rule(to)])}"
        lines.append(f"Arm: {arm.name}: {arm.n} patients, {arm.drug}, {dose}, {_doses(arm)}{rule}")
    return lines + _stages(scenario)


def _doses(arm: Arm) -> str:
    """How the doses of an arm are taken."""
    meals = ", ".join(f"{meal} on {100 * share:g}% of days" for meal, share in arm.meals.items())
    said = [meals or arm.meal]
    if arm.dose_every_d > 1:
        said.append(f"every {arm.dose_every_d} days")
    if arm.loading_d:
        said.append(f"{arm.loading_dose_mg:g} mg on the first {arm.loading_d} days")
    if arm.adherence:
        a = arm.adherence
        runs = f" in runs of {a.mean_missed_run_d:g} days on average" if a.mean_missed_run_d else ""
        differs = f", logit sd {a.logit_sd:g} between patients" if a.logit_sd else ""
        said.append(f"{100 * a.missed_share:g}% of doses missed{runs}{differs}")
    if isinstance(arm.ec50_ratio, tuple):
        said.append("EC50 changed in every draw until the true difference is the margin")
    elif arm.ec50_ratio != 1:
        said.append(f"EC50 {arm.ec50_ratio:g} times its own")
    return ", ".join(said)


def _stages(scenario: Scenario) -> list[str]:
    """The stages in their order, each with what it changes."""
    lines, first = [], 0
    for stage in scenario.stages:
        said = [f"days {first} to {stage.until_d}"]
        if stage.who != "all":
            others = {"leave": "leave the trial", "off": "stay off treatment", "stay": "carry on as before"}
            said.append(f"for {stage.who} at its first visit (others {others[stage.others]})")
        said += _changes(stage)
        said += [f"{name}: {', '.join(_changes(own))}" for name, own in stage.arms.items()]
        if stage.relapse_below_1e9_per_l is not None:
            then = {"stay": "", "restart": ": the last dose again", "leave": ": leaves the trial"}[stage.at_relapse]
            said.append(f"relapse below {stage.relapse_below_1e9_per_l:g}{then}")
        lines.append(f"Stage: {stage.name}: {'; '.join(said)}")
        first = stage.until_d
    return lines


def _changes(said: StageArm) -> list[str]:
    found: list[str] = [said.drug] if said.drug else []
    found += _start_and_rule(said)
    found += [f"treatment {said.treatment}"] if said.treatment else []
    found += [f"a dose every {said.dose_every_d} days"] if said.dose_every_d else []
    if said.switched:
        found.append(f"patients on another drug: {', '.join(_start_and_rule(said.switched))}")
    return found


def _start_and_rule(said: StageArm | Switch | Switched) -> list[str]:
    found = [f"start {said.start_dose_mg:g} mg"] if said.start_dose_mg is not None else []
    return [*found, f"titration {said.titration}"] if said.titration else found


def _patients(scenario: Scenario) -> list[str]:
    """What decides their courses: dose rules, rescue, dropout, parameters."""
    lines = []
    for name, table in scenario.titration.items():
        lines.append(f"Titration{' ' + name if name else ''}. {titration.as_text(table.rule())}")
    lines.append(f"Rescue: {_rescue(scenario.rescue)}")
    if scenario.dropout.hazard_per_week:
        d = scenario.dropout
        low = (
            f", {d.low_count_hazard_ratio:g} times that below {d.low_count_1e9_per_l:g}"
            if d.low_count_1e9_per_l
            else ""
        )
        lines.append(f"Dropout: hazard {d.hazard_per_week:g} per week{low}")
    return lines + [f"Parameter: {name} = {value:g}" for name, value in scenario.parameters.items()]


def _analysis(scenario: Scenario, test: Analysis) -> list[str]:
    """The test, its aim, interval, adjustment for several arms and looks."""
    sides = _sides(test.sided, test.endpoint)
    level = f"{sides}, alpha {test.alpha:g}"
    if test.test == "bayesian":
        assert test.threshold is not None
        level = f"posterior probability above {test.threshold:g}, prior Beta({test.prior.a:g}, {test.prior.b:g})"
    lines = [f"Analysis: {test.endpoint} against {test.control}, {test.test}, {level}"]
    if test.margin or test.test == "bayesian":
        kind = "" if test.margin >= 0 else f" (non-inferiority, margin {-test.margin:g})"
        side = "below" if test.endpoint in outcomes.LESS_IS_BETTER else "above"
        lines.append(f"Aim: a difference to {test.control} {side} {test.margin:g}{kind}")
    lines += _tested(test)
    if not scenario.outcome:
        lines += [f"Estimand. {line}" for line in describe_estimand(test.estimand, outcomes.reads(test.endpoint))]
    kind = "that of the test" if test.by_patient else test.interval
    lines.append(f"Interval: {kind}, {100 * test.confidence:g}%")
    for second in test.secondary:
        lines += _secondary(scenario, test, second)
    if len(scenario.active_arms) > 1 or test.secondary:
        fixed = ", in the order " + ", ".join(test.order or scenario.active_arms)
        order = fixed if test.multiplicity == "fixed-sequence" else ""
        lines.append(f"Multiplicity: {test.multiplicity}{order}")
    if test.secondary and not test.graph and not test.order:
        gate = "that arm's primary endpoint" if test.gatekeeping == "serial" else "every arm's primary endpoint"
        at = ", at that look, by the boundary that its own spending of the arm's level has there"
        looks = at if scenario.interims else ""
        lines.append(f"Gatekeeping: {test.gatekeeping}; secondary endpoints are tested once {gate} is won{looks}")
    if test.graph:
        lines += [f"Graph: {name} starts with {w:g} of alpha" for name, w in test.graph.weights.items()]
        for name, row in test.graph.transitions.items():
            lines += [f"Graph: {name}, once rejected, gives {g:g} of its share to {to}" for to, g in row.items()]
    if scenario.interims:
        lines += _looks(scenario, scenario.interims)
    return lines


def _sides(sided: int, endpoint: str) -> str:
    if sided == 2:
        return "two-sided"
    return "one-sided (fewer is better)" if endpoint in outcomes.LESS_IS_BETTER else "one-sided"


def _tested(test: Tested) -> list[str]:
    """Strata, covariates and visits of a test."""
    lines = [f"Strata: {line}" for line in strata_in_words(test.strata)] if isinstance(test.strata, Strata) else []
    lines += [f"Covariates: {', '.join(test.covariates)}"] if test.covariates else []
    lines += [f"Endpoint from day {test.from_d}"] if test.from_d else []
    lines += [f"Endpoint until day {test.until_d}"] if test.until_d else []
    return lines + ([f"Endpoint of the visits of stage {test.stage}"] if test.stage else [])


def _secondary(scenario: Scenario, test: Analysis, second: Secondary) -> list[str]:
    """A secondary endpoint: its test, visits and estimand."""
    sides = _sides(second.sided or test.sided, second.endpoint)
    margin = f", difference above {second.margin:g}" if second.margin else ""
    lines = [f"Secondary: {second.label}: {second.endpoint}, {second.test}, {sides}{margin}"]
    own = _tested(second)
    of = outcomes.reads(second.endpoint)
    if not scenario.outcome and (second.estimand, of) != (test.estimand, outcomes.reads(test.endpoint)):
        own += [f"Estimand. {line}" for line in describe_estimand(second.estimand, of)]
    return lines + [f"Secondary: {second.label}: {line}" for line in own]


def _looks(scenario: Scenario, looks: Interims) -> list[str]:
    """The looks, their boundary, futility and adaptation."""
    extra = "" if looks.spending_parameter is None else f" with parameter {looks.spending_parameter:g}"
    lines = [f"Looks: at {', '.join(f'{t:.4g}' for t in looks.looks)} of the patients, {looks.boundary}{extra}"]
    if looks.futility_below is not None:
        lines.append(f"Futility: {looks.futility} below {looks.futility_below:g}, non-binding")
    return lines + _adaptation(scenario, looks)


def _adaptation(scenario: Scenario, looks: Interims) -> list[str]:
    """What the trial may change at a look."""
    lines, analysis = [], scenario.analysis
    assert analysis is not None
    if looks.drop_losers is not None:
        drop, started = looks.drop_losers, len(scenario.active_arms)
        closed = analysis.multiplicity.startswith("closed-")
        level = f"{analysis.multiplicity} test of all of them" if closed else f"every test at alpha/{started}"
        by = "test statistic" if analysis.by_patient else "response rate"
        lines.append(
            f"Drop the losers: after look {drop.at_look} the best {drop.keep} of {started} active arms by {by} go on, "
            f"ties to the earlier; {level}"
        )
    if looks.reestimate is not None:
        grow = looks.reestimate
        lines.append(
            f"Re-estimation: after look {grow.at_look}, if promising (Mehta and Pocock 2011), up to "
            f"{grow.max_factor:g} times the patients in {grow.steps} steps, for a conditional power of "
            f"{grow.conditional_power:g}; the last test stays the same"
        )
    return lines


def _rescue(rescue: Rescue) -> str:
    if rescue.below_1e9_per_l is None:
        return "on" if rescue.enabled else "off"
    since = f" from day {rescue.from_d} on" if rescue.from_d else ""
    return f"at the first visit{since} with a count below {rescue.below_1e9_per_l:g} x 10^9/L"
