"""Tables of a scenario for protocols: stages in sequence, visit windows, missed doses and meals; and their arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pkpd import protocol
from pkpd.errors import InputError, nearest
from pkpd.tomlfile import shown
from pkpd.validated import MAX_DAY, Count, Table, Text

if TYPE_CHECKING:
    from pkpd.scenario import Arm, Scenario

HOLD = "hold"  # titration = "hold": the dose of the stage before, which no count changes any more
Share = Annotated[float, Field(ge=0, le=1)]
Active = Literal["hetrombopag", "eltrombopag"]
Drug = Literal[Active, "placebo"]
Meal = Literal["fasted", "high_fat_breakfast", "meal_1h_after", "meal_2h_after"]
ROUNDING = 1e-9


class Schedule(Table):
    """Visits every ``every_d`` days until ``until_d``, from the end of the row before (or day 0) on."""

    every_d: int = Field(ge=1, le=MAX_DAY)
    until_d: int = Field(ge=1, le=MAX_DAY)


def scheduled(rows: Sequence[Schedule]) -> tuple[int, ...]:
    """Visit days of a schedule; InputError where a row does not end on a visit of its own."""
    days: list[int] = []
    for index, row in enumerate(rows, start=1):
        first = days[-1] if days else 0
        if row.until_d <= first or (row.until_d - first) % row.every_d:
            raise InputError(
                f"schedule[{index}].until_d = {row.until_d}: no visit; legal: a multiple of "
                f"{row.every_d} days after day {first}"
            )
        days += range(first + row.every_d, row.until_d + 1, row.every_d)
    return tuple(days)


class Adherence(Table):
    """Doses that are missed: their share of the days, and the mean length of a run of them (without it days are
    independent). logit_sd: interindividual sd of the logit of the share.
    """

    missed_share: float = Field(gt=0, lt=1)
    mean_missed_run_d: float | None = Field(default=None, ge=1, le=MAX_DAY)
    logit_sd: float = Field(default=0.0, ge=0, le=5)

    @model_validator(mode="after")
    def _possible(self) -> Adherence:
        least = self.missed_share / (1 - self.missed_share)
        if self.mean_missed_run_d is not None and self.mean_missed_run_d < least:
            raise InputError(
                f"mean_missed_run_d = {self.mean_missed_run_d:g}: with missed_share = {self.missed_share:g} runs are "
                f"longer; legal: at least {least:g}"
            )
        return self


class Switch(Table):
    """The drug that patients take who switch by their dose rule, whose row says when (``action = "switch"``)."""

    drug: Active
    start_dose_mg: float = Field(gt=0, le=10_000)
    titration: Text | None = None


class Switched(Table):
    """What a stage changes for patients who take another drug than the arm does: switched, or carried on before."""

    start_dose_mg: float | None = Field(default=None, gt=0, le=10_000)
    titration: Text | None = None


class StageArm(Table):
    """What a stage changes for one arm. A ``drug`` is begun by all who enter; without one, those who take another drug
    than the arm does carry on with it, its dose and its rule, but for what ``switched`` says.
    """

    drug: Drug | None = None
    start_dose_mg: float | None = Field(default=None, ge=0, le=10_000)
    titration: Text | None = None
    treatment: Literal["on", "off"] | None = None
    dose_every_d: int | None = Field(default=None, ge=1, le=MAX_DAY)
    switched: Switched | None = None


class StageRow(StageArm):
    """A stage of ``[[stages]]``: from the end of the one before (or day 0) to the visit on day ``until_d``.

    The first stage is that of ``[[arms]]``. A later one goes on with the dose and rule of the one before, except for
    what it says itself, for all arms or in ``[stages.arms.NAME]`` for one. who: those whose last count before it is a
    response, or is none, or all; others leave the trial, or stay in it off treatment, or carry on with the drug, dose
    and rule they had. Off treatment a count below ``relapse_below_1e9_per_l`` is a relapse: the patient stays off,
    restarts the last dose, or leaves.
    """

    name: Text
    until_d: int = Field(ge=1, le=MAX_DAY)
    who: Literal["all", "responders", "non-responders"] = "all"
    others: Literal["leave", "off", "stay"] = "leave"
    relapse_below_1e9_per_l: Count | None = None
    at_relapse: Literal["stay", "restart", "leave"] = "stay"
    arms: dict[str, StageArm] = Field(default_factory=dict)


def check_stages(stages: Sequence[StageRow], visits_d: Sequence[int], arms: Sequence[Arm]) -> None:
    """InputError where stages do not follow each other, end on no visit, or name what is not there."""
    names: dict[str, int] = {}
    for index, stage in enumerate(stages, start=1):
        place = f"stages[{index}]"
        if stage.name in names:
            raise InputError(f"{place}.name = {shown(stage.name)} is the name of stages[{names[stage.name]}] too")
        names[stage.name] = index
        if stage.until_d not in visits_d:
            raise InputError(f"{place}.until_d = {stage.until_d}: no visit; legal: a day of trial.visits_d")
        for name in stage.arms:
            known = [arm.name for arm in arms]
            if name not in known:
                raise InputError(f"{place}.arms: {shown(name)} is not the name of an arm{nearest(name, known)}")
        if index == 1 and (changed := stage.model_fields_set - {"name", "until_d"}):
            raise InputError(f"{place}.{min(changed)}: the first stage is that of [[arms]]; legal: name, until_d")
        _check_relapse(stage, place)
    for first, second in itertools.pairwise(stages):
        if second.until_d <= first.until_d:
            raise InputError(
                f"stages[{names[second.name]}].until_d = {second.until_d}: legal: after day {first.until_d}, "
                f"when {shown(first.name)} ends"
            )
    if stages and stages[-1].until_d != visits_d[-1]:
        raise InputError(
            f"stages[{len(stages)}].until_d = {stages[-1].until_d}: the last stage ends with the last visit; "
            f"legal: {visits_d[-1]}"
        )


def check_switches(stages: Sequence[StageRow], arms: Sequence[Arm]) -> None:
    """InputError where a stage says something of patients on another drug than their arm's, and there are none."""
    possible = any(arm.switch_to for arm in arms) or any(stage.others == "stay" for stage in stages)
    for index, stage in enumerate(stages, start=1):
        if not possible and any(said.switched for said in (stage, *stage.arms.values())):
            raise InputError(
                f"stages[{index}].switched: nobody takes another drug than the arm; legal: with switch_to of an arm, "
                "or others = 'stay'"
            )


def _check_relapse(stage: StageRow, place: str) -> None:
    off = stage.treatment == "off" or any(arm.treatment == "off" for arm in stage.arms.values())
    if stage.relapse_below_1e9_per_l is not None and not off:
        raise InputError(f"{place}.relapse_below_1e9_per_l: nobody is off treatment; legal: with treatment = 'off'")
    if stage.at_relapse != "stay" and stage.relapse_below_1e9_per_l is None:
        raise InputError(f"{place}.at_relapse = {stage.at_relapse!r}: relapse_below_1e9_per_l is missing")
    if stage.others != "leave" and stage.who == "all":
        raise InputError(f"{place}.others = {stage.others!r}: there are none; legal: with who other than 'all'")


def check_visits(visits_d: Sequence[int], window: tuple[int, int]) -> None:
    """InputError where windows of visits meet."""
    early, late = window
    for first, second in itertools.pairwise((0, *visits_d)):
        slack = early + late if first else early
        if slack >= second - first:
            raise InputError(
                f"visit_window_d = {list(window)}: the visits on days {first} and {second} could take place in "
                "the wrong order; legal: smaller windows"
            )


def arm_in(scenario: Scenario, arm: Arm, index: int) -> tuple[Arm, StageArm]:
    """The arm as stage ``index`` has it, and what that stage says of the arm (its own row before that of all arms)."""
    now, said = arm, StageArm()
    for stage in scenario.stages[1 : index + 1]:
        own = stage.arms.get(arm.name, StageArm())
        keys = StageArm.model_fields
        said = StageArm(**{key: v for key in keys if (v := _first(getattr(own, key), getattr(stage, key))) is not None})
        update = said.model_dump(include={"drug", "titration", "dose_every_d"}, exclude_none=True)
        if said.start_dose_mg is not None:
            update["start_dose_mg"] = said.start_dose_mg
        now = now.model_copy(update=update)
    return now, said


def _first(own: Any, of_all: Any) -> Any:
    return of_all if own is None else own


def needs_protocol(scenario: Scenario, arm: Arm) -> bool:
    """Whether anything of the arm is beyond one daily dose from visit to visit on exact days."""
    return bool(
        scenario.stages
        or scenario.trial.window != (0, 0)
        or scenario.trial.missed_visit_share
        or scenario.dropout.low_count_1e9_per_l
        or arm.dose_every_d > 1
        or arm.loading_d
        or arm.adherence
        or arm.meals
        or arm.switch_to
    )


def protocol_of(
    scenario: Scenario, arm: Arm, bioavailability_ratio: Callable[[str], float]
) -> protocol.Protocol | None:
    """The protocol of an arm, None where no arm needs one. ``bioavailability_ratio`` gives that of a meal's name."""
    from pkpd.regimens import regimens_of

    if not any(needs_protocol(scenario, a) for a in scenario.arms):
        return None
    trial = scenario.trial
    found = regimens_of(scenario, arm)
    stages = found.stages
    varies = any(s.dose_every_d > 1 or s.loading_d for s in stages) or bool(arm.adherence or arm.meals)
    ends, visit = protocol.segments(trial.visits_d, *trial.window, daily=varies)
    until = [row.until_d for row in scenario.stages] or [trial.visits_d[-1]]
    # A visit on the day on which a stage ends is the first of the next one; the last of all has no next.
    stage_of_visit = np.minimum(np.searchsorted(until, trial.visits_d, side="right"), len(until) - 1)
    begins = np.diff(stage_of_visit, prepend=0) > 0
    return protocol.Protocol(
        ends=ends,
        visit=visit,
        stages=protocol.stacked(stages),
        stage_of_visit=stage_of_visit.astype(np.int32),
        begins=begins,
        enters=found.enters,
        others=found.others,
        switches_to=found.switches_to,
        early_d=np.int32(trial.window[0]),
        late_d=np.int32(trial.window[1]),
        missed_visit_share=np.float32(trial.missed_visit_share),
        low_count_1e9_per_l=np.float32(scenario.dropout.low_count_1e9_per_l or 0),
        low_count_hazard_ratio=np.float32(scenario.dropout.low_count_hazard_ratio),
        adherence=_adherence(arm.adherence),
        meals=_meals(arm.meals, bioavailability_ratio),
    )


def _adherence(a: Adherence | None) -> protocol.Adherence | None:
    if a is None:
        return None
    numbers = (a.missed_share, a.mean_missed_run_d or 0.0, a.logit_sd)
    return protocol.Adherence(*(np.float32(x) for x in numbers))


def _meals(shares: Mapping[Meal, float], ratio: Callable[[str], float]) -> protocol.Meals | None:
    if not shares:
        return None
    cumulative = np.cumsum(list(shares.values())[:-1])
    return protocol.Meals(cumulative.astype(np.float32), np.array([ratio(meal) for meal in shares], np.float32))


def check_meals(shares: Mapping[Meal, float]) -> None:
    """InputError where shares of the days do not add to 1."""
    if shares and abs(sum(shares.values()) - 1) > ROUNDING:
        raise InputError(f"meals: shares add to {sum(shares.values()):g}; legal: shares of the days that add to 1")
