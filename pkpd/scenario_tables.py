"""Tables of a scenario that say who takes what and when: calendar, arms, entry, dose rules, rescue and dropout."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from pkpd import endpoints, titration
from pkpd.errors import InputError
from pkpd.patients import COVARIATES, Conditions, PatientTable, as_arrays, eligible
from pkpd.stages import Adherence, Drug, Meal, Schedule, Share, Switch, check_meals, check_visits, scheduled
from pkpd.titration import Rule
from pkpd.tomlfile import shown
from pkpd.validated import MAX_DAY, Count, Days, List, Table, Text

if TYPE_CHECKING:
    from pkpd import cohort

MAX_PATIENTS = 10**7
Kilograms = Annotated[float, Field(gt=0, le=1000)]
Years = Annotated[float, Field(gt=0, le=150)]


class Trial(Table):
    """The calendar of visits in days from the first dose, and how often the trial is simulated.

    schedule: rows of visits at equal distances, in place of ``visits_d``. visit_window_d: days by which a visit may be
    early or late ([early, late], or one number for both), each day as likely; missed_visit_share: of all visits.
    mc_se_below: the Monte Carlo error of every power at which fewer than ``n_trials`` are enough.
    design: "parallel", each patient in one arm, or "crossover", the same patients in all arms, each period from rest.
    """

    name: Text
    description: str = ""
    assumptions: List[Text] = ()
    design: Literal["parallel", "crossover"] = "parallel"
    visits_d: List[int] = ()
    schedule: List[Schedule] = ()
    visit_window_d: int | List[int] = 0
    missed_visit_share: float = Field(default=0.0, ge=0, lt=1)
    n_trials: int = Field(default=1000, ge=1, le=10**6)
    mc_se_below: float | None = Field(default=None, gt=0, lt=1)
    posterior_draws: int = Field(default=200, ge=1, le=10**6)

    @field_validator("visits_d")
    @classmethod
    def _increasing(cls, days: tuple[int, ...]) -> tuple[int, ...]:
        if not days:
            raise ValueError("at least one visit")
        for day in days:
            if not 1 <= day <= MAX_DAY:
                raise ValueError(f"days from 1 to {MAX_DAY}, but {shown(day)} is among them")
        for first, second in itertools.pairwise(days):
            if second <= first:
                raise ValueError(f"days that increase, but {second} follows {first}")
        return days

    @property
    def window(self) -> tuple[int, int]:
        """Days by which a visit may be early and late."""
        w = self.visit_window_d
        return (w, w) if isinstance(w, int) else (w[0], w[1])

    @model_validator(mode="after")
    def _calendar(self) -> Trial:
        w = self.visit_window_d
        days = (w,) if isinstance(w, int) else w
        if not (isinstance(w, int) or len(w) == 2) or not all(0 <= d <= MAX_DAY for d in days):
            raise InputError(f"visit_window_d = {shown(w)}; legal: days from 0 on, one number or [early, late]")
        if self.schedule:
            if self.visits_d:
                raise InputError("schedule and visits_d exclude each other: write the calendar in one way")
            object.__setattr__(self, "visits_d", scheduled(self.schedule))
        if self.visits_d:
            check_visits(self.visits_d, self.window)
        return self


class Arm(Table):
    """One arm. What its patients take is needed unless an ``[outcome]`` is stated; doses are in mg a day.

    titration: the name of a rule, or "none" for the start dose throughout.
    treatment_d: days of treatment, a visit day: the last dose is taken on the day before. Without it dosing goes on.
    dose_every_d: 1 for daily doses, 2 for every other day, 7 for weekly ones. loading_dose_mg: in place of the dose on
    the first ``loading_d`` days. meals: shares of the days on which a dose is taken in each way, in place of ``meal``;
    a day's meal changes the bioavailability of its dose, the absorption rates stay those of ``meal``, which leaves
    exposure after a meal some 8% too low. switch_to: what patients take from the visit on at which a row of their rule
    with ``action = "switch"`` acts. ec50_ratio: EC50 of the arm's drugs relative to the library's or a draw's; by draw
    where ``whatif.null`` sets it.
    """

    name: Text
    drug: Drug = "placebo"
    n: int = Field(ge=1, le=MAX_PATIENTS)
    start_dose_mg: float | None = Field(default=None, ge=0, le=10_000)
    titration: Text | None = None
    treatment_d: int | None = Field(default=None, ge=1, le=MAX_DAY)
    meal: Meal = "fasted"
    dose_every_d: int = Field(default=1, ge=1, le=MAX_DAY)
    loading_dose_mg: float | None = Field(default=None, gt=0, le=10_000)
    loading_d: int | None = Field(default=None, ge=1, le=MAX_DAY)
    adherence: Adherence | None = None
    meals: dict[Meal, Share] = Field(default_factory=dict)
    switch_to: Switch | None = None
    ec50_ratio: Annotated[float, Field(gt=0, le=1e6)] | tuple[float, ...] = 1.0

    @model_validator(mode="after")
    def _dosing(self) -> Arm:
        if (self.loading_dose_mg is None) != (self.loading_d is None):
            raise InputError("loading_dose_mg and loading_d go together: the dose, and its days")
        check_meals(self.meals)
        if self.ec50_ratio != 1 and self.drug == "placebo":
            raise InputError("ec50_ratio: placebo has no EC50; legal: an arm with a drug")
        return self


class Entry(Table):
    """Who may enter: patients, or healthy volunteers, whose baseline count lies below the limit.

    platelets_from, weight_from, weight_below, age_from, age_below: further limits, "from" included and "below" not. A
    covariate with true or false: only patients with or without it. Where patients are simulated they are drawn from the
    law of all under these conditions. patients: a CSV file of patients, of whom the eligible are drawn with replacement
    (``pkpd.patients``); its path is relative to the file of the scenario.
    """

    disease: Literal["itp", "healthy"] = "itp"
    platelets_below_1e9_per_l: Count
    platelets_from_1e9_per_l: Count | None = None
    weight_from_kg: Kilograms | None = None
    weight_below_kg: Kilograms | None = None
    age_from_y: Years | None = None
    age_below_y: Years | None = None
    female: bool | None = None
    splenectomy: bool | None = None
    corticosteroid: bool | None = None
    east_asian: bool | None = None
    hepatic_impairment: bool | None = None
    patients: PatientTable | None = None

    @model_validator(mode="after")
    def _some_are_eligible(self) -> Entry:
        for name, low, below in (
            ("platelets", "from_1e9_per_l", "below_1e9_per_l"),
            ("weight", "from_kg", "below_kg"),
            ("age", "from_y", "below_y"),
        ):
            least, most = getattr(self, f"{name}_{low}"), getattr(self, f"{name}_{below}")
            if least is not None and most is not None and least >= most:
                raise InputError(f"{name}_{low} = {least:g}: nobody is below {most:g} as well; legal: below {most:g}")
        self.table()
        return self

    @property
    def conditions(self) -> Conditions:
        """Who may enter."""
        ranges = {
            "baseline_1e9_per_l": (self.platelets_from_1e9_per_l, self.platelets_below_1e9_per_l),
            "weight_kg": (self.weight_from_kg, self.weight_below_kg),
            "age_y": (self.age_from_y, self.age_below_y),
        }
        asked = {name: getattr(self, name) for name in COVARIATES}
        return Conditions(ranges, {name: wanted for name, wanted in asked.items() if wanted is not None})

    @property
    def shares(self) -> dict[str, float]:
        """Shares of covariates by name of their parameter, as far as the conditions say them and no table does."""
        known = self.patients.covariates if self.patients else {}
        return {f"{name}_share": float(wanted) for name, wanted in self.conditions.has.items() if name not in known}

    def eligible(self) -> PatientTable | None:
        """Those of the table whom the trial may take; InputError where there are none."""
        return None if self.patients is None else eligible(self.patients, self.conditions)

    def table(self) -> cohort.Table | None:
        """The eligible patients of the table as arrays; InputError where there are none."""
        found = self.eligible()
        return None if found is None else as_arrays(found)

    def limits(self, ages: bool) -> cohort.Limits | None:
        """What else than the limit of the count decides who is drawn, as arrays; None where nothing does.

        Those of a table are in already. ages: whether anything asks for them.
        """
        from pkpd import cohort

        drawn = self.patients is None
        given = [self.platelets_from_1e9_per_l, self.weight_from_kg, self.weight_below_kg] if drawn else [None] * 3
        if ages:
            given += [self.age_from_y or 0.0, math.inf if self.age_below_y is None else self.age_below_y]
        if all(x is None for x in given):
            return None
        return cohort.Limits(*(None if x is None else np.float32(x) for x in given))


class BandRow(Table):
    """One row of ``[[titration.bands]]``; ``state`` tells whether patients on treatment or interrupted are meant.

    A row with weights concerns the patients from ``weight_from_kg`` to below ``weight_below_kg`` only; one with ages
    likewise.
    """

    action: Literal["stop", "interrupt", "resume", "resume_lower", "down", "up", "down_or_stop", "switch"]
    above: Count | None = None
    below: Count | None = None
    state: Literal["treated", "interrupted", "any"] | None = None
    every_d: Days = 0
    min_days_since_change: Days = 0
    min_days_at_top_below: Days = 0
    weight_from_kg: float = Field(default=0.0, ge=0, le=1000)
    weight_below_kg: float | None = Field(default=None, gt=0, le=1000)
    age_from_y: Years | None = None
    age_below_y: Years | None = None

    def band(self) -> titration.Band:
        """The row as the rule's own."""
        resumes = self.action in ("resume", "resume_lower")
        state = self.state or ("interrupted" if resumes else "treated")
        return titration.Band(
            action=self.action,
            above=-math.inf if self.above is None else self.above,
            below=math.inf if self.below is None else self.below,
            while_interrupted=None if state == "any" else state == "interrupted",
            every_d=self.every_d,
            min_days_since_change=self.min_days_since_change,
            min_days_at_top_below=self.min_days_at_top_below,
            weight_from_kg=self.weight_from_kg,
            weight_below_kg=math.inf if self.weight_below_kg is None else self.weight_below_kg,
            age_from_y=0.0 if self.age_from_y is None else self.age_from_y,
            age_below_y=math.inf if self.age_below_y is None else self.age_below_y,
        )


class Titration(Table):
    """A dose rule: the ladder with either the keys of the usual rule or a table of bands in their order."""

    levels_mg: List[float]
    up_below: Count | None = None
    up_every_d: Days | None = None
    up_min_days_since_change: Days | None = None
    down_above: Count | None = None
    hold_above: Count | None = None
    resume_below: Count | None = None
    stop_after_d: Days | None = None
    bands: List[BandRow] = ()

    def rule(self) -> Rule:
        """The rule as arrays; InputError where its keys do not fit together."""
        keys = self.model_dump(exclude={"levels_mg", "bands"}, exclude_none=True)
        if not self.bands:
            return titration.compact(self.levels_mg, **keys)
        if keys:
            raise InputError(f"bands and {next(iter(keys))} exclude each other: write the rule in one way")
        return titration.from_bands(self.levels_mg, [row.band() for row in self.bands])

    @model_validator(mode="after")
    def _makes_sense(self) -> Titration:
        rule = self.rule()
        limit = endpoints.RESPONSE_COUNT
        for action, above in zip(rule.action, rule.above, strict=True):
            if action in (titration.STOP, titration.INTERRUPT, titration.DOWN) and 0 <= above < limit:
                word = titration.ACTIONS[action]
                raise InputError(
                    f"no responders possible: {word} above {above:g} takes the dose from who nears a response; "
                    f"legal: at least {limit:g}"
                )
        return self


class Rescue(Table):
    """Whether rescue treatment is given: by chance, which belongs to the parameter library and grows as counts fall, or
    by rule: at the first visit on day ``from_d`` or later with a count below ``below_1e9_per_l``.
    """

    enabled: bool = True
    below_1e9_per_l: Count | None = None
    from_d: Days = 0

    @model_validator(mode="after")
    def _one_way(self) -> Rescue:
        if self.below_1e9_per_l is not None and not self.enabled:
            raise InputError("below_1e9_per_l: enabled = false switches rescue off; legal: one of the two")
        if self.from_d and self.below_1e9_per_l is None:
            raise InputError(f"from_d = {self.from_d}: below_1e9_per_l is missing; a rule needs its count")
        return self


class Dropout(Table):
    """Leaving the trial: a constant hazard, ``low_count_hazard_ratio`` times as high while the last count is below
    ``low_count_1e9_per_l``.
    """

    hazard_per_week: float = Field(default=0.0, ge=0, le=10)
    low_count_1e9_per_l: Count | None = None
    low_count_hazard_ratio: float = Field(default=1.0, ge=0, le=1000)

    @model_validator(mode="after")
    def _go_together(self) -> Dropout:
        if (self.low_count_1e9_per_l is None) != (self.low_count_hazard_ratio == 1):
            raise InputError("low_count_1e9_per_l and low_count_hazard_ratio go together: the limit, and the ratio")
        if self.low_count_1e9_per_l is not None and self.hazard_per_week == 0:
            raise InputError("low_count_hazard_ratio: a multiple of hazard_per_week, which is 0; legal: above 0")
        return self
