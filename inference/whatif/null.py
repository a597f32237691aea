"""A design whose drug does nothing, or whose arms differ by exactly the margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkpd.errors import InputError

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

NO_EFFECT = {"dimer_efficacy": 0.0}


def under_null(design: Scenario) -> Scenario:
    """The design under the null of its analysis; InputError where that is not defined.

    Stated outcomes: every active arm at the control's probability plus the margin. Patients: no drug has an effect
    (dimer_efficacy = 0) under the same protocol, which is the null of superiority to placebo only.
    """
    analysis, place = design.analysis, f"{design.trial.name}: --null"
    if analysis is None:
        raise InputError(f"{place}: [analysis] is missing; a null is that of a test")
    if design.outcome is not None:
        return _stated_null(design, place)
    control = next(arm for arm in design.arms if arm.name == analysis.control)
    if analysis.margin or control.drug != "placebo":
        why = f"analysis.margin = {analysis.margin:g}" if analysis.margin else f"the control takes {control.drug}"
        raise InputError(
            f"{place}: {why}, and no parameter of the patients makes that null true; "
            "legal: margin 0 against placebo, or [outcome]"
        )
    for second in analysis.secondary:
        if second.margin:
            raise InputError(
                f"{place}: a margin of {second.margin:g} of {second.label}, and no parameter of the patients makes "
                "that null true; legal: margin 0, or [outcome]"
            )
    return design.model_copy(update={"parameters": {**design.parameters, **NO_EFFECT}})


def _stated_null(design: Scenario, place: str) -> Scenario:
    assert design.outcome is not None and design.analysis is not None
    control, margin = design.analysis.control, design.analysis.margin

    def moved(p: float, margin: float = margin) -> float:
        if not 0 <= p + margin <= 1:
            raise InputError(
                f"{place}: a response probability of {p:g} under control plus the margin of {margin:g} is none; "
                "legal: a sum from 0 to 1"
            )
        return p + margin

    stated, active = design.outcome, design.active_arms
    profile = stated.response_profile.get(control)
    if profile and any(second.margin != margin for second in design.analysis.secondary):
        raise InputError(f"{place}: endpoints of one response_profile have margins that differ; legal: one margin")
    if profile:
        profiles = {**stated.response_profile, **dict.fromkeys(active, tuple(map(moved, profile)))}
        return design.model_copy(update={"outcome": stated.model_copy(update={"response_profile": profiles})})
    null = moved(stated.response_probability[control])
    chances = {**stated.response_probability, **dict.fromkeys(active, null)}
    margins = {second.label: second.margin for second in design.analysis.secondary}
    further = {
        label: {**row, **dict.fromkeys(active, moved(row[control], margins[label]))}
        for label, row in stated.secondary.items()
    }
    update = {"response_probability": chances, "secondary": further}
    return design.model_copy(update={"outcome": stated.model_copy(update=update)})
