"""A design whose drug does nothing, or whose arms differ by exactly the margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.progress import Progress, silent
from pkpd.devices import AUTOMATIC
from pkpd.errors import InputError

if TYPE_CHECKING:
    from pkpd.planned import PlannedArm
    from pkpd.scenario import Scenario
    from pkpd.scenario_tables import Arm

NO_EFFECT = {"dimer_efficacy": 0.0}
# Patients of each draw in which an arm's true difference is found, and of all draws together at least.
OF_A_DRAW, OF_ALL = 2_000, 200_000
FIRST_TRIAL = 2_000_000  # beyond the numbers of all trials of a run, so that the null is not fitted to its own patients
REACH, HALVINGS = 5.0, 10  # EC50 from 1/32 to 32 times its own, to 0.7%
Draws = Mapping[str, np.ndarray]


def under_null(
    design: Scenario, draws: Draws | None = None, seed: int = 1, engine: str = AUTOMATIC, progress: Progress = silent
) -> Scenario:
    """The design under the null of its analysis; InputError where that is not defined.

    Stated outcomes: every active arm at the control's probability plus the margin. Patients, superiority to placebo: no
    drug has an effect (dimer_efficacy = 0) under the same protocol. Patients otherwise: the EC50 of each active arm is
    changed, in every draw for itself, until its true difference to the control is the margin (``at_margin``).
    """
    analysis, place = design.analysis, f"{design.trial.name}: --null"
    if analysis is None:
        raise InputError(f"{place}: [analysis] is missing; a null is that of a test")
    if design.outcome is not None:
        return _stated_null(design, place)
    control = next(arm for arm in design.arms if arm.name == analysis.control)
    if analysis.margin == 0 and control.drug == "placebo":
        for second in analysis.secondary:
            if second.margin:
                raise InputError(
                    f"{place}: a margin of {second.margin:g} of {second.label}, and no parameter of the patients makes "
                    "that null true; legal: margin 0, or [outcome]"
                )
        return design.model_copy(update={"parameters": {**design.parameters, **NO_EFFECT}})
    return at_margin(design, draws or {}, seed, engine, place, progress)


def at_margin(
    design: Scenario, draws: Draws, seed: int, engine: str, place: str, progress: Progress = silent
) -> Scenario:
    """The design with ``ec50_ratio`` of every active arm, by draw, at which the true difference is the margin.

    The difference of the analysis' endpoint (its mean, or share of patients; of repeated counts at the last visit) as
    its estimand reads it (``as_estimated``), over OF_A_DRAW patients a draw who are the same in both arms and at every
    ratio, and none of whom takes part in a trial. The search is around an arm's own ratio. InputError where no ratio
    from 1/32 to 32 times it gives the margin, or the endpoint is a time.
    """
    from inference.trials import number_of
    from pkpd import outcomes
    from pkpd.planned import planned_arms

    analysis = design.analysis
    assert analysis is not None
    if outcomes.kind(analysis.endpoint) == "time":
        raise InputError(
            f"{place}: the control takes a drug, and a null of {analysis.endpoint} is that of whole curves; "
            "legal: an endpoint of rates or means, placebo as control, or [outcome]"
        )
    if analysis.secondary:
        raise InputError(
            f"{place}: the arms are moved to the margin of {analysis.endpoint}, where no null of "
            f"{analysis.secondary[0].label} is true; legal: without [[analysis.secondary]], placebo as control, "
            "or [outcome]"
        )
    without = next((arm.name for arm in _active(design) if arm.drug == "placebo"), None)
    if without is not None:
        raise InputError(
            f"{place}: arm {without!r} takes placebo, and no EC50 moves it to the margin; legal: placebo as control"
        )
    n_draws = number_of(draws)
    if all(isinstance(a.ec50_ratio, tuple) and len(a.ec50_ratio) == n_draws for a in _active(design)):
        return design  # it is there already
    stated = {arm.name: arm.ec50_ratio for arm in _active(design)}
    own = {name: 1.0 if isinstance(ratio, tuple) else ratio for name, ratio in stated.items()}
    read_as = as_estimated(design)
    # their own ratio goes into what is found, so that the population is not to have it already
    plain = _with_ratios(read_as, dict.fromkeys(own, 1.0))
    planned = {a.name: a._replace(first_patient=0, allocation=None) for a in planned_arms(plain)}
    control = _truth(read_as, planned[analysis.control], draws, seed, engine)
    steps, done = len(_active(design)) * (HALVINGS + 2), 0
    sign = -1 if analysis.endpoint in outcomes.LESS_IS_BETTER else 1  # the weaker the drug, the more rescues

    def ratios(name: str) -> tuple[float, ...]:
        def excess(exponent: np.ndarray) -> np.ndarray:
            nonlocal done
            progress("arms at the margin", done, steps)
            done += 1
            at = planned[name]._replace(ec50_ratio=own[name] * 2.0**exponent)
            return sign * (_truth(read_as, at, draws, seed, engine) - control - analysis.margin)

        low, high = np.full(n_draws, -REACH), np.full(n_draws, REACH)  # log2 of the ratio: effects fall as it grows
        for end in (excess(low), -excess(high)):
            if (end < 0).any():
                raise InputError(
                    f"{place}: {name}: no EC50 from 1/32 to 32 times its own makes the true difference the margin of "
                    f"{analysis.margin:g}: it stays {-end.min():.3g} away (draw {np.argmin(end)}); "
                    "legal: a margin within reach, or [outcome]"
                )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = excess(middle) > 0
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return tuple(map(float, own[name] * 2.0 ** ((low + high) / 2)))

    found = {arm.name: ratios(arm.name) for arm in _active(design)}
    progress("arms at the margin", steps, steps)
    return _with_ratios(design, found)


def _with_ratios(design: Scenario, ratios: Mapping[str, float | tuple[float, ...]]) -> Scenario:
    arms = (a.model_copy(update={"ec50_ratio": ratios[a.name]}) if a.name in ratios else a for a in design.arms)
    return design.model_copy(update={"arms": tuple(arms)})


def as_estimated(design: Scenario) -> Scenario:
    """The design in which nothing is missing that the analysis of ``design`` fills in, or estimates around.

    Imputation and mmrm estimate what counts would have been; other analyses take what is missing as they say, and the
    design stays as it is. Rescue and overshoot change no counts here, so without them counts are those observed.
    """
    analysis = design.analysis
    assert analysis is not None
    estimand = analysis.estimand
    around = analysis.test == "mmrm" and estimand.missing == "non-response"
    if estimand.missing != "multiple-imputation" and not around:
        return design
    unaffected = {e: "treatment-policy" for e in ("rescue", "overshoot") if getattr(estimand, e) == "hypothetical"}
    observed = estimand.model_copy(update={**unaffected, "missing": "last-observation"})
    update: dict[str, Any] = {
        "analysis": analysis.model_copy(update={"estimand": observed}),
        "trial": design.trial.model_copy(update={"missed_visit_share": 0.0}),
    }
    if estimand.discontinuation == "hypothetical" or analysis.endpoint.startswith(
        "log_"
    ):  # else leaving is no response
        update["dropout"] = type(design.dropout)()
    return design.model_copy(update=update)


def _active(design: Scenario) -> list[Arm]:
    return [arm for arm in design.arms if arm.name in design.active_arms]


def _truth(design: Scenario, a: PlannedArm, draws: Draws, seed: int, engine: str) -> np.ndarray:
    """Mean of the analysis' endpoint in an arm, by draw."""
    from inference.trials import courses, number_of
    from inference.whatif import effects

    n_draws = number_of(draws)
    trials = n_draws * -(-max(OF_A_DRAW, OF_ALL // n_draws) // a.n)
    first = FIRST_TRIAL - FIRST_TRIAL % n_draws
    total, number = np.zeros((2, n_draws))
    for draw, _, v in courses(design, a, draws, trials, seed, engine, first):
        own = effects.observed(design, a, v)
        value = own.value if own.value.ndim == 1 else own.value[:, -1]
        there = own.present & np.isfinite(value)
        total += np.bincount(draw, np.where(there, value, 0.0), n_draws)
        number += np.bincount(draw, there, n_draws)
    return total / number


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
