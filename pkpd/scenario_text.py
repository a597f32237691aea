"""A scenario in words, as ``check`` and a report print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkpd import titration
from pkpd.published import targets

if TYPE_CHECKING:
    from pkpd.scenario import Scenario


def describe(scenario: Scenario) -> str:
    """What the scenario holds, as plain text: assumptions, arms, dose rules as tables, analysis."""
    trial = scenario.trial
    lines = [f"Trial: {trial.name}", f"Visits on days: {', '.join(map(str, trial.visits_d))}"]
    lines += [trial.description.strip()] if trial.description else []
    lines += [f"Assumption: {text}" for text in trial.assumptions]
    if trial.design == "crossover":
        lines.append("Crossover: the same subjects in all arms, each period from rest")
    who = "healthy volunteers, " if scenario.entry.disease == "healthy" else ""
    lines.append(f"Entry: {who}platelets below {scenario.entry.platelets_below_1e9_per_l:g} x 10^9/L")
    for arm in scenario.arms:
        dose = "0 mg" if arm.drug == "placebo" else f"start {arm.start_dose_mg:g} mg"
        rule = f", titration {arm.titration}" if arm.titration else ""
        if arm.treatment_d is not None:
            rule += ", one dose" if arm.treatment_d == 1 else f", {arm.treatment_d} days of treatment"
        lines.append(f"Arm: {arm.name}: {arm.n} patients, {arm.drug}, {dose}, {arm.meal}{rule}")
    for name, table in scenario.titration.items():
        lines.append(f"Titration{' ' + name if name else ''}. {titration.as_text(table.rule())}")
    lines.append(f"Rescue: {'on' if scenario.rescue.enabled else 'off'}")
    if scenario.dropout.hazard_per_week:
        lines.append(f"Dropout: hazard {scenario.dropout.hazard_per_week:g} per week")
    lines += [f"Parameter: {name} = {value:g}" for name, value in scenario.parameters.items()]
    if scenario.analysis:
        test = scenario.analysis
        sides = "one-sided" if test.sided == 1 else "two-sided"
        lines.append(f"Analysis: {test.endpoint} against {test.control}, {test.test}, {sides}, alpha {test.alpha:g}")
    for target in targets(scenario):
        of = f" of {target.n}" if target.unit == "patients" else f" {target.unit}, n = {target.n}"
        used = f"; seen: {target.seen}" if target.seen else ""
        lines.append(f"Published: {target.study}, {target.arm}: {target.quantity} = {target.observed:g}{of}{used}")
    lines.append(f"Simulated: {trial.n_trials} trials, {trial.posterior_draws} posterior draws")
    return "\n".join(lines)
