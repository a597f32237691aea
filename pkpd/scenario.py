"""A trial scenario: a TOML file read into a frozen object, every key checked before anything is simulated."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from pkpd import endpoints, outcomes, titration
from pkpd.accrual import Accrual
from pkpd.analysis import TESTS, Analysis, Interims, Outcome, check_graph, check_interims, check_outcome
from pkpd.errors import InputError, nearest
from pkpd.patients import PatientTable, as_arrays, eligible, read_patients
from pkpd.published import Prediction, Published, targets
from pkpd.stages import (
    HOLD,
    Adherence,
    Drug,
    Meal,
    Schedule,
    Share,
    StageRow,
    active_drug,
    check_meals,
    check_stages,
    check_visits,
    needs_protocol,
    scheduled,
    stages_of,
)  # fmt: skip
from pkpd.titration import Rule
from pkpd.tomlfile import apply_settings, read_toml, shown
from pkpd.validated import MAX_DAY, Count, Days, List, Table, Text, validate

if TYPE_CHECKING:
    from pkpd import cohort

FOLDER = Path(__file__).parent / "scenarios"
MAX_PATIENTS = 10**7
FIXED = "none"  # titration = "none": the start dose throughout
_ONLY = ""  # name of the rule where a scenario has a single [titration]
_WEEK = re.compile(r"response_week_([1-9][0-9]?[0-9]?)")


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
    exposure after a meal some 8% too low.
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

    @model_validator(mode="after")
    def _dosing(self) -> Arm:
        if (self.loading_dose_mg is None) != (self.loading_d is None):
            raise InputError("loading_dose_mg and loading_d go together: the dose, and its days")
        check_meals(self.meals)
        return self


class Entry(Table):
    """Who may enter: patients, or healthy volunteers, whose baseline count lies below the limit.

    patients: a CSV file of patients, of whom the eligible are drawn with replacement (``pkpd.patients``); its path is
    relative to the file of the scenario.
    """

    disease: Literal["itp", "healthy"] = "itp"
    platelets_below_1e9_per_l: Count
    patients: PatientTable | None = None

    @model_validator(mode="after")
    def _some_are_eligible(self) -> Entry:
        self.table()
        return self

    def table(self) -> cohort.Table | None:
        """The eligible patients of the table as arrays; InputError where there are none."""
        if self.patients is None:
            return None
        return as_arrays(eligible(self.patients, self.platelets_below_1e9_per_l))


class BandRow(Table):
    """One row of ``[[titration.bands]]``; ``state`` tells whether patients on treatment or interrupted are meant.

    A row with weights concerns the patients from ``weight_from_kg`` to below ``weight_below_kg`` only.
    """

    action: Literal["stop", "interrupt", "resume", "resume_lower", "down", "up", "down_or_stop"]
    above: Count | None = None
    below: Count | None = None
    state: Literal["treated", "interrupted", "any"] | None = None
    every_d: Days = 0
    min_days_since_change: Days = 0
    min_days_at_top_below: Days = 0
    weight_from_kg: float = Field(default=0.0, ge=0, le=1000)
    weight_below_kg: float | None = Field(default=None, gt=0, le=1000)

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
    """Whether rescue treatment is given; its probability belongs to the parameter library."""

    enabled: bool = True


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


class Scenario(Table):
    """A trial to simulate. Rules of titration are kept by name; the only one of a plain ``[titration]`` is ``""``."""

    trial: Trial
    arms: List[Arm]
    stages: List[StageRow] = ()
    outcome: Outcome | None = None  # stated in place of simulated patients
    # needed where patients are simulated, else never read
    entry: Entry = Entry(platelets_below_1e9_per_l=30.0)
    titration: dict[str, Titration] = Field(default_factory=dict)
    rescue: Rescue = Rescue()
    dropout: Dropout = Dropout()
    parameters: dict[str, float] = Field(default_factory=dict)  # library values to replace by name, in every arm
    analysis: Analysis | None = None
    interims: Interims | None = None
    accrual: Accrual | None = None
    published: Published | None = None  # numbers of this trial that were published
    predictions: List[Prediction] = ()  # and what of the simulation predicts them

    @field_validator("titration", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("a table")
        single = any(key in Titration.model_fields or not isinstance(below, dict) for key, below in value.items())
        if FIXED in value and not single:
            raise ValueError(f"another name than {FIXED!r}, which stands for a fixed dose")
        if HOLD in value and not single:
            raise ValueError(f"another name than {HOLD!r}, which stands for the dose of the stage before")
        return {_ONLY: value} if single or not value else value

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        self._check_arms()
        if bool(self.predictions) != bool(self.published):
            has, lacks = ("published", "[[predictions]]") if self.published else ("predictions", "[published]")
            raise InputError(f"{has}: {lacks} is missing; they go together")
        if self.outcome is not None:
            self._check_outcome(self.outcome)
        else:
            self._check_patients()
        if self.analysis:
            self._check_analysis(self.analysis)
        if self.interims:
            check_interims(self.interims, self.analysis, {arm.name: arm.n for arm in self.arms})
        if self.accrual:
            self._check_accrual(self.accrual)
        if self.trial.mc_se_below is not None and not self.analysis:
            raise InputError("trial.mc_se_below: [analysis] is missing; the error is that of its power")
        return self

    def _check_patients(self) -> None:
        if "entry" not in self.model_fields_set:
            raise InputError("entry is missing")
        if not self.trial.visits_d:
            raise InputError("trial.visits_d is missing")
        check_stages(self.stages, self.trial.visits_d, self.arms)
        for index, arm in enumerate(self.arms, start=1):
            if "drug" not in arm.model_fields_set:
                raise InputError(f"arms[{index}].drug is missing")
            try:
                self._check_protocol(arm)
                active_drug(self, arm)
                stages_of(self, arm)
            except InputError as error:
                raise InputError(f"arms[{index}] ({arm.name}): {error}") from None

    def _check_protocol(self, arm: Arm) -> None:
        if arm.treatment_d is not None and (self.stages or needs_protocol(self, arm)):
            raise InputError(
                "treatment_d: with stages, windows or schedules of doses, legal: a stage of treatment = 'off'"
            )
        if self.trial.design == "crossover" and needs_protocol(self, arm):
            raise InputError(
                "trial.design = 'crossover' has daily doses and exact visits; legal: 'parallel', or without stages, "
                "windows, missed visits, schedules of doses, adherence and meals"
            )
        if arm.loading_dose_mg is not None and arm.drug == "placebo":
            raise InputError("loading_dose_mg: placebo has no dose; legal: an arm with a drug")

    def _check_outcome(self, outcome: Outcome) -> None:
        if self.stages:
            raise InputError("outcome: [[stages]] need simulated patients; legal: one of the two")
        if self.trial.design == "crossover":
            raise InputError("outcome: its arms are independent; legal: trial.design = 'parallel'")
        if self.predictions:
            raise InputError("outcome: [[predictions]] need simulated patients; legal: one of the two")
        if outcome.response_profile and not self.trial.visits_d:
            raise InputError("trial.visits_d is missing: the days of outcome.response_profile")
        if outcome.response_probability and not self.analysis:
            raise InputError("outcome.response_probability: [analysis] is missing, whose endpoint it is the chance of")
        check_outcome(outcome, [arm.name for arm in self.arms], len(self.trial.visits_d))

    def _check_arms(self) -> None:
        if not self.arms:
            raise InputError("arms: at least one [[arms]] is needed")
        seen: dict[str, int] = {}
        for index, arm in enumerate(self.arms, start=1):
            folded = " ".join(arm.name.split()).casefold()
            if not folded or folded in seen:
                other = f" is the name of arms[{seen[folded]}] too" if folded else " is blank"
                raise InputError(f"arms[{index}].name = {shown(arm.name)}{other}; each arm needs a name of its own")
            seen[folded] = index
            if arm.treatment_d is not None and arm.treatment_d not in self.trial.visits_d:
                raise InputError(
                    f"arms[{index}].treatment_d = {arm.treatment_d}: no visit; legal: a day of trial.visits_d"
                )
            if self.trial.design == "crossover" and arm.n != self.arms[0].n:
                raise InputError(
                    f"arms[{index}].n = {arm.n}: trial.design = 'crossover' has the same subjects in all arms; "
                    f"legal: {self.arms[0].n} as in arms[1]"
                )

    def _check_analysis(self, analysis: Analysis) -> None:
        names = [arm.name for arm in self.arms]
        if len(names) < 2:
            raise InputError("analysis: a test needs at least two arms")
        if self.trial.design == "crossover":
            raise InputError("analysis: its tests compare independent arms; legal: trial.design = 'parallel'")
        if analysis.control not in names:
            hint = nearest(analysis.control, names)
            raise InputError(f"analysis.control = {shown(analysis.control)} is not the name of an arm{hint}")
        if analysis.graph:
            check_graph(analysis.graph, [name for name in names if name != analysis.control])
        if self.outcome and self.outcome.response_probability:
            if analysis.by_patient or TESTS[analysis.test] != "binary":
                raise InputError(
                    f"analysis.test = {analysis.test!r}: of stated responses legal: 'cochran-mantel-haenszel', "
                    "'fisher', 'risk-difference', 'bayesian', without strata or imputation"
                )
            return  # of whatever the endpoint is
        self._check_endpoint(analysis)

    def _check_accrual(self, accrual: Accrual) -> None:
        if self.trial.design == "crossover":
            raise InputError("accrual: of parallel groups only; legal: trial.design = 'parallel'")
        if self.interims and self.interims.drop_losers:
            raise InputError("accrual: the calendar takes all arms to their end; legal: without interims.drop_losers")
        stated = bool(self.outcome and self.outcome.response_probability)
        if stated and accrual.endpoint_d is None:
            raise InputError("accrual.endpoint_d is missing: the day of the endpoint whose probability is stated")
        if not stated and accrual.endpoint_d is not None:
            raise InputError("accrual.endpoint_d: visits say when the endpoint is; legal: without it")

    @property
    def endpoint_d(self) -> int:
        """Day by which a patient's endpoint is known: its last visit, as late as it may be."""
        if self.accrual and self.accrual.endpoint_d is not None:
            return self.accrual.endpoint_d
        if self.outcome is not None or self.analysis is None:
            week = outcomes.week_of(self.analysis.endpoint) if self.analysis else None
            return 7 * week if week else self.trial.visits_d[-1] + self.trial.window[1]
        return self.trial.visits_d[self.visits_counted - 1] + self.trial.window[1]

    def _check_endpoint(self, analysis: Analysis) -> None:
        if "endpoint" not in analysis.model_fields_set:
            raise InputError("analysis.endpoint is missing")
        name, known = analysis.endpoint, outcomes.kind(analysis.endpoint)
        week = outcomes.week_of(name)
        if self.outcome:
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
        if week and 7 * week not in self.trial.visits_d:
            raise InputError(
                f"analysis.endpoint = {name!r} needs a visit on day {7 * week}; "
                f"legal: add {7 * week} to trial.visits_d, or another endpoint"
            )
        if analysis.until_d is not None and analysis.until_d not in self.trial.visits_d:
            raise InputError(f"analysis.until_d = {analysis.until_d}: no visit; legal: a day of trial.visits_d")
        if week and analysis.until_d is not None:
            raise InputError(f"analysis.until_d: {name} has a visit of its own; legal: without until_d")
        if analysis.estimand.missing == "multiple-imputation" and not (week or name in outcomes.OF_COUNTS):
            raise InputError(
                f"analysis.estimand.missing = 'multiple-imputation' imputes counts, which do not decide {name}; "
                "legal: a response, a log count or a duration of response"
            )
        if "relapse" in name and not any(stage.relapse_below_1e9_per_l for stage in self.stages):
            raise InputError(f"analysis.endpoint = {name!r}: no stage of [[stages]] has relapse_below_1e9_per_l")

    @property
    def active_arms(self) -> tuple[str, ...]:
        """Names of the arms that the analysis compares with its control."""
        control = self.analysis.control if self.analysis else None
        return tuple(arm.name for arm in self.arms if arm.name != control)

    def need_patients(self) -> None:
        """InputError where outcomes are stated, so that there is nobody to simulate."""
        if self.outcome is not None:
            raise InputError(
                f"{self.trial.name}: [outcome] states responses, there are no patients to simulate; legal: pkpd trial"
            )

    def rule(self, arm: Arm) -> Rule:
        """The dose rule of an arm; InputError where the arm does not say which."""
        if arm.titration == FIXED or (arm.titration is None and not self.titration):
            if arm.start_dose_mg is None and arm.drug != "placebo":
                raise InputError("start_dose_mg is missing")
            dose = arm.start_dose_mg or 0.0
            if arm.drug != "placebo" and dose == 0:
                raise InputError("start_dose_mg = 0: give a dose above 0 mg, or drug = 'placebo'")
            return titration.fixed(dose)
        if arm.titration is None:
            if len(self.titration) > 1:
                legal = ", ".join(map(repr, (*self.titration, FIXED)))
                raise InputError(f"titration is missing; legal: {legal}")
            return next(iter(self.titration.values())).rule()
        if arm.titration not in self.titration or arm.titration == _ONLY:
            names = [name for name in self.titration if name != _ONLY]
            raise InputError(
                f"titration = {shown(arm.titration)} is not defined{nearest(arm.titration, [*names, FIXED])}"
            )
        return self.titration[arm.titration].rule()

    def start_level(self, arm: Arm) -> int:
        """Index of the start dose on the arm's ladder; placebo without one starts at the lowest."""
        rule = self.rule(arm)
        if arm.start_dose_mg is None:
            if arm.drug != "placebo":
                raise InputError("start_dose_mg is missing")
            return 0
        return titration.level_of(rule, arm.start_dose_mg)

    @property
    def landmark_day(self) -> int:
        """Day of the landmark response: of the analysis' week, else day 56, else the last visit."""
        self.need_patients()
        week = _WEEK.fullmatch(self.analysis.endpoint) if self.analysis else None
        if week:
            return 7 * int(week[1])
        return 56 if 56 in self.trial.visits_d else self.trial.visits_d[-1]

    @property
    def landmark(self) -> int:
        """Index of the landmark visit, for ``endpoints.events``."""
        return self.trial.visits_d.index(self.landmark_day)

    @property
    def visits_counted(self) -> int:
        """Number of visits that the analysis' endpoint uses, from the first on."""
        analysis = self.analysis
        week = outcomes.week_of(analysis.endpoint) if analysis else None
        last = 7 * week if week else (analysis.until_d if analysis else None) or self.landmark_day
        return self.trial.visits_d.index(last) + 1

    @property
    def endpoint_names(self) -> tuple[str, ...]:
        """Names of the rows of ``endpoints.events`` in this trial: the first one carries its own week or day."""
        weeks, rest = divmod(self.landmark_day, 7)
        first = f"response_day_{self.landmark_day}" if rest else f"response_week_{weeks}"
        return (first, *endpoints.NAMES[1:])


def shipped() -> tuple[str, ...]:
    """Names of the scenarios that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def with_predictions(drug: str = "hetrombopag") -> tuple[str, ...]:
    """Names of the shipped scenarios that predict published numbers of a drug."""
    tables = {name: read_toml(FOLDER / f"{name}.toml") for name in shipped()}
    return tuple(name for name, t in tables.items() if "predictions" in t and any(a["drug"] == drug for a in t["arms"]))


def load_scenario(path: str | Path, settings: Sequence[str] = ()) -> Scenario:
    """The Scenario of a TOML file, or of a shipped one by its name, changed by ``key=value`` settings.

    InputError, one line that names file, key, value and what is legal.
    """
    name = str(path)
    if name in shipped() and not os.path.isfile(name):
        path = FOLDER / f"{name}.toml"
    elif not os.path.splitext(name)[1] and not os.path.exists(name):
        raise InputError(f"{name}: no such file or shipped scenario{nearest(name, shipped())}")
    return build(apply_settings(read_toml(path), settings), str(path))


def build(data: Mapping[str, Any], where: str) -> Scenario:
    """The Scenario of tables already read; ``where`` names their source in messages and an unnamed trial."""
    data = dict(data)
    trial = data.get("trial")
    if isinstance(trial, Mapping) and "name" not in trial:
        data["trial"] = {"name": Path(where).stem, **trial}
    published = data.get("published")
    if isinstance(published, Mapping) and str(published.get("table", "")).endswith(".csv"):
        data["published"] = {**published, "table": str(Path(where).parent / published["table"])}
    entry = data.get("entry")
    if isinstance(entry, Mapping) and "patients" in entry:
        # a shipped scenario has no tables beside it, so a path is one from the working directory
        folder = Path() if Path(where).parent == FOLDER else Path(where).parent
        try:
            data["entry"] = {**entry, "patients": read_patients(entry["patients"], folder)}
        except InputError as error:
            raise InputError(f"{where}: entry.patients: {error}") from None
    scenario = validate(Scenario, data, where)
    if scenario.outcome is None:
        _check_library(scenario, where)
    try:
        targets(scenario)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return scenario


def _check_library(scenario: Scenario, where: str) -> None:
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
