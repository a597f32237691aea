"""A trial scenario: a TOML file read into a frozen object, every key checked before anything is simulated."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from pkpd import endpoints, outcomes, titration
from pkpd.accrual import Accrual
from pkpd.analysis import Analysis, Outcome, Tested, alone
from pkpd.errors import InputError, nearest
from pkpd.interims import Interims
from pkpd.patients import read_patients
from pkpd.published import Prediction, Published, targets
from pkpd.randomisation import Randomisation
from pkpd.scenario_checks import check, check_library
from pkpd.scenario_tables import Arm, Dropout, Entry, Rescue, Titration, Trial
from pkpd.screening import Screening
from pkpd.stages import HOLD, StageRow
from pkpd.strata import AS_RANDOMISED, Strata
from pkpd.titration import Rule
from pkpd.tomlfile import apply_settings, read_toml, shown
from pkpd.validated import List, Table, validate

FOLDER = Path(__file__).parent / "scenarios"
FIXED = "none"  # titration = "none": the start dose throughout
_ONLY = ""  # name of the rule where a scenario has a single [titration]
_WEEK = re.compile(r"response_week_([1-9][0-9]?[0-9]?)")


class Scenario(Table):
    """A trial to simulate. Rules of titration are kept by name; the only one of a plain ``[titration]`` is ``""``."""

    trial: Trial
    arms: List[Arm]
    stages: List[StageRow] = ()
    outcome: Outcome | None = None  # stated in place of simulated patients
    # needed where patients are simulated, else never read
    entry: Entry = Entry(platelets_below_1e9_per_l=30.0)
    screening: Screening | None = None
    titration: dict[str, Titration] = Field(default_factory=dict)
    rescue: Rescue = Rescue()
    dropout: Dropout = Dropout()
    parameters: dict[str, float] = Field(default_factory=dict)  # library values to replace by name, in every arm
    randomisation: Randomisation | None = None  # within strata; without it arms have their patients by number
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
        check(self)
        if self.analysis and self.randomisation:
            same = {"strata": self.randomisation.strata}
            secondary = tuple(
                second.model_copy(update=same) if second.strata == AS_RANDOMISED else second
                for second in self.analysis.secondary
            )
            update = (same if self.analysis.strata == AS_RANDOMISED else {}) | {"secondary": secondary}
            object.__setattr__(self, "analysis", self.analysis.model_copy(update=update))
        return self

    @property
    def tested(self) -> tuple[Scenario, ...]:
        """This scenario, and for each secondary endpoint one whose analysis has it for its primary."""
        analysis = self.analysis
        if analysis is None or not analysis.secondary:
            return (self,)
        landmark_d = None if self.outcome else self.landmark_day
        found = [self]
        for secondary in analysis.secondary:
            update: dict[str, Any] = {"analysis": alone(analysis, secondary, landmark_d)}
            if self.outcome and self.outcome.response_probability:
                own = {"response_probability": self.outcome.secondary[secondary.label], "secondary": {}}
                update["outcome"] = self.outcome.model_copy(update=own)
            found.append(self.model_copy(update=update))
        return tuple(found)

    @property
    def endpoint_d(self) -> int:
        """Day by which a patient's endpoints are known: their last visit, as late as it may be."""
        if self.analysis and self.analysis.secondary:
            alone_ = self.model_copy(update={"analysis": self.analysis.model_copy(update={"secondary": ()})})
            return max(one.endpoint_d for one in (alone_, *self.tested[1:]))
        if self.accrual and self.accrual.endpoint_d is not None:
            return self.accrual.endpoint_d
        if self.outcome is not None or self.analysis is None:
            week = outcomes.week_of(self.analysis.endpoint) if self.analysis else None
            return 7 * week if week else self.trial.visits_d[-1] + self.trial.window[1]
        return self.trial.visits_d[self.visits_counted - 1] + self.trial.window[1]

    @property
    def active_arms(self) -> tuple[str, ...]:
        """Names of the arms that the analysis compares with its control."""
        control = self.analysis.control if self.analysis else None
        return tuple(arm.name for arm in self.arms if arm.name != control)

    @property
    def asks_for_ages(self) -> str | None:
        """What of the trial depends on the ages of patients, as a key; None where nothing does."""
        for name, table in self.titration.items():
            if table.rule().age_from_y is not None:
                return f"titration{'.' * bool(name)}{name}.bands"
        for key, strata in self.stratified.items():
            if strata.age_y:
                return f"{key}.strata.age_y"
        return next((f"{key}.covariates" for key, one in self.analyses.items() if "age_y" in one.covariates), None)

    @property
    def analyses(self) -> dict[str, Tested]:
        """The analysis of every endpoint by its key."""
        if self.analysis is None:
            return {}
        seconds = {f"analysis.secondary[{i}]": one for i, one in enumerate(self.analysis.secondary, start=1)}
        return {"analysis": self.analysis, **seconds}

    @property
    def stratified(self) -> dict[str, Strata]:
        """All strata by the key of the table that names them."""
        named = {"randomisation": self.randomisation.strata if self.randomisation else None}
        named |= {key: one.strata for key, one in self.analyses.items() if isinstance(one.strata, Strata)}
        return {key: strata for key, strata in named.items() if strata is not None}

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
        last = 7 * week if week else self._window[1] or self.landmark_day
        return self.trial.visits_d.index(last) + 1

    @property
    def first_visit_counted(self) -> int:
        """Index of the first visit that the analysis' endpoint uses."""
        first = self._window[0]
        return next(k for k, day in enumerate(self.trial.visits_d) if first is None or day >= first)

    @property
    def _window(self) -> tuple[int | None, int | None]:
        """First and last visit day that the analysis says its endpoint may use."""
        analysis = self.analysis
        if analysis is None:
            return None, None
        if analysis.stage is None:
            return analysis.from_d, analysis.until_d
        ends = {stage.name: stage.until_d for stage in self.stages}
        before = max((day for day in ends.values() if day < ends[analysis.stage]), default=0)
        return min(day for day in self.trial.visits_d if day > before), ends[analysis.stage]

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
        check_library(scenario, where)
    try:
        targets(scenario)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return scenario
