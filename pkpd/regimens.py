"""What the patients of an arm take in its stages: regimens, and how patients come from one to another.

Mostly a stage is one regimen. It is more where some patients carry on as before (``others``), or have switched to a
second drug by their dose rule. A stage begins a drug that it names in all who enter. What it says without naming a drug
is for patients who take the arm's drug; those on another carry on, but for what the stage's ``switched`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pkpd import protocol, titration
from pkpd.errors import InputError
from pkpd.stages import HOLD, StageArm, StageRow, Switched, arm_in
from pkpd.titration import Rule
from pkpd.tomlfile import shown

if TYPE_CHECKING:
    from pkpd.scenario import Scenario
    from pkpd.scenario_tables import Arm

PLACEBO = "placebo"


class Regimen(NamedTuple):
    """What some patients of an arm take in a stage (its index). titration: name of the rule, None for the only one.
    second: whether the drug, or the last before placebo, is the second of the arm. aside: carried on when others began
    the stage."""

    stage: int
    drug: str
    titration: str | None
    rule: Rule
    start_level: int
    treated: bool
    dose_every_d: int
    second: bool
    aside: bool = False
    loading: tuple[float, int] = (0.0, 0)

    @property
    def ladder(self) -> list[float]:
        return list(map(float, self.rule.levels_mg))

    @property
    def key(self) -> tuple:
        """Equal where two regimens are the same."""
        held = len(self.rule.action) == 0
        return (*self[:3], held, tuple(self.ladder), *self[4:])


class Regimens(NamedTuple):
    """The regimens of an arm, its first patients on the first, and the arrays of ``protocol.Protocol``."""

    regimens: list[Regimen]
    stages: list[protocol.Stage]
    enters: np.ndarray | None
    others: np.ndarray | None
    switches_to: np.ndarray | None


def active_drugs(scenario: Scenario, arm: Arm) -> tuple[str, ...]:
    """The active drugs that patients of an arm may take, the first one first: one or two, none of a placebo arm."""
    drugs = [arm_in(scenario, arm, i)[0].drug for i in range(max(len(scenario.stages), 1))]
    drugs += [arm.switch_to.drug] if arm.switch_to else []
    found = tuple(dict.fromkeys(drug for drug in drugs if drug != PLACEBO))
    if len(found) > 1 and (arm.meal != "fasted" or arm.meals):
        raise InputError(f"meal: the arm takes {' and '.join(found)}; legal: one drug, or 'fasted'")
    return found


def regimens_of(scenario: Scenario, arm: Arm) -> Regimens:
    """All regimens that patients of an arm may come to. InputError, without the arm's name."""
    drugs = active_drugs(scenario, arm)
    found: list[Regimen] = []
    places: dict[tuple, int] = {}
    switches: dict[int, int] = {}

    def place(r: Regimen) -> int:
        """Its number, and that of the regimen to which its patients switch."""
        if (at := places.get(r.key)) is not None:
            return at
        at = places[r.key] = len(found)
        found.append(r)
        if r.treated and titration.SWITCH in r.rule.action:
            switches[at] = place(_switched(scenario, arm, r, drugs))
        return at

    entered: list[dict[int, int]] = []
    staying: list[dict[int, int]] = []
    here: set[int] = set()
    for k, row in enumerate(scenario.stages or (None,)):
        now, said = arm_in(scenario, arm, k)
        try:
            if row is None or k == 0:
                here = {place(_first(scenario, now, drugs))}
                enters, others = {}, {}
            else:
                enters = {r: place(_entered(scenario, now, said, k, found[r], drugs)) for r in sorted(here)}
                stay = sorted(here) if row.who != "all" and row.others != "leave" else []
                others = {r: place(_other(row, found[r], found[enters[r]])) for r in stay}
                here = {*enters.values(), *others.values()}
            here |= {switches[r] for r in here if r in switches}
        except InputError as error:
            raise InputError(f"stages[{k + 1}]: {error}" if row else str(error)) from None
        entered.append(enters)
        staying.append(others)
    _check_ladders(found)
    if arm.switch_to and not switches:
        raise InputError("switch_to: no dose rule of the arm says when; legal: with a row of action = 'switch'")

    def table(steps: Sequence[dict[int, int]]) -> np.ndarray:
        """[stages, regimens]; where nobody comes from, 0."""
        return np.array([[step.get(r, 0) for r in range(len(found))] for step in steps], np.int32)

    stages = [_stage(scenario.stages[r.stage] if scenario.stages else None, r, len(drugs) > 1) for r in found]
    if not switches and all(
        {*e.values(), *o.values()} == {k} for k, (e, o) in enumerate(zip(entered, staying, strict=True)) if k
    ):
        return Regimens(found, stages, None, None, None)
    to = np.array([switches.get(r, r) for r in range(len(found))], np.int32) if switches else None
    return Regimens(found, stages, table(entered), table(staying), to)


def _first(scenario: Scenario, arm: Arm, drugs: Sequence[str]) -> Regimen:
    if arm.titration == HOLD:
        raise InputError("titration = 'hold' goes on with the dose before; legal: in a later stage")
    return Regimen(
        0, arm.drug, arm.titration, scenario.rule(arm), scenario.start_level(arm), True, arm.dose_every_d, False,
        loading=(arm.loading_dose_mg or 0.0, arm.loading_d or 0),
    )  # fmt: skip


def _entered(scenario: Scenario, arm: Arm, said: StageArm, stage: int, r: Regimen, drugs: Sequence[str]) -> Regimen:
    """What patients take in a stage that they enter from regimen ``r``; ``arm``: as the stage has it."""
    treated = said.treatment != "off"
    drug: str = arm.drug
    start_mg, name = said.start_dose_mg, said.titration
    if said.drug is None and r.drug != arm.drug:
        own = said.switched or Switched()
        drug, start_mg, name = r.drug, own.start_dose_mg, own.titration
    if name is None:  # a drug that begins, or begins again, has the rule of the arm
        begins = said.drug is not None or (r.aside and start_mg is not None)
        name = arm.titration if begins else r.titration
    if said.drug is not None and said.drug != PLACEBO and start_mg is None:
        raise InputError(f"start_dose_mg is missing: {said.drug} begins with this stage")
    start = {} if start_mg is None else {"start_dose_mg": start_mg}
    now = arm.model_copy(update={"drug": drug, "titration": name, **start})
    if name == HOLD:
        if start_mg is not None:
            raise InputError("titration = 'hold' goes on with the dose before; legal: without start_dose_mg")
        rule = titration.held(r.rule)
    elif start_mg is None and name == r.titration:
        rule = r.rule
    else:
        rule = scenario.rule(now)
    level, ladder = protocol.CARRIED_ON, list(map(float, rule.levels_mg))
    if start_mg is not None:
        level = scenario.start_level(now)
    elif ladder != r.ladder:
        if not (r.aside and not r.treated):
            raise InputError(
                f"titration: its levels are not those of the stage before ({shown(r.ladder)}); "
                "legal: the same levels, or start_dose_mg"
            )
        rule, name = r.rule, r.titration  # off treatment since, and nobody says what else
    second = r.second if drug == PLACEBO else drug != drugs[0]
    aside = r.aside and start_mg is None
    return Regimen(stage, drug, name, rule, level, treated, arm.dose_every_d, second, aside)


def _other(row: StageRow, r: Regimen, entered: Regimen) -> Regimen:
    """What patients take who stay in the trial and do not enter a stage, in which others take ``entered``.

    Off treatment, the stage's rule is theirs where they could follow it: for a restart of the last dose.
    """
    if row.others != "off":
        return r
    off = entered._replace(start_level=protocol.CARRIED_ON, treated=False)
    if (entered.drug, entered.ladder) == (r.drug, r.ladder):
        return off
    return off._replace(drug=r.drug, titration=r.titration, rule=r.rule, second=r.second, aside=True)


def _switched(scenario: Scenario, arm: Arm, r: Regimen, drugs: Sequence[str]) -> Regimen:
    """What patients take who switch by the rule of regimen ``r``."""
    to = arm.switch_to
    if to is None:
        name = f" {r.titration}" if r.titration else ""
        raise InputError(f"titration{name}: its action 'switch' needs switch_to of the arm, which is missing")
    now = arm.model_copy(update=to.model_dump())
    try:
        rule, level = scenario.rule(now), scenario.start_level(now)
    except InputError as error:
        raise InputError(f"switch_to: {error}") from None
    if titration.SWITCH in rule.action:
        raise InputError(
            f"switch_to: its titration{f' {to.titration}' if to.titration else ''} has the action 'switch' again; "
            "legal: a rule without it"
        )
    return Regimen(r.stage, to.drug, to.titration, rule, level, True, r.dose_every_d, to.drug != drugs[0])


def _check_ladders(regimens: Sequence[Regimen]) -> None:
    """InputError where two drugs follow one rule: its levels are doses of one of them."""
    followed: dict[str | None, str] = {}
    for r in regimens:
        if r.drug != PLACEBO and len(r.rule.action) and followed.setdefault(r.titration, r.drug) != r.drug:
            name = f" {r.titration}" if r.titration else ""
            raise InputError(
                f"titration{name}: for {followed[r.titration]} and for {r.drug}; legal: a rule for each drug"
            )


def _stage(row: StageRow | None, r: Regimen, two_drugs: bool) -> protocol.Stage:
    return protocol.Stage(
        rule=r.rule,
        start_level=np.int32(r.start_level),
        dose_scale=np.float32(r.drug != PLACEBO),
        treated=np.bool_(r.treated),
        who=np.int32(protocol.WHO.index(row.who) if row else protocol.ALL),
        others=np.int32(protocol.OTHERS.index(row.others) if row else protocol.LEAVE),
        relapse_below=np.float32((row.relapse_below_1e9_per_l or 0) if row and not r.treated else 0),
        at_relapse=np.int32(protocol.AT_RELAPSE.index(row.at_relapse) if row else protocol.STAY),
        dose_every_d=np.int32(r.dose_every_d),
        loading_mg=np.float32(r.loading[0]),
        loading_d=np.int32(r.loading[1]),
        second=np.bool_(r.second) if two_drugs else None,
    )
