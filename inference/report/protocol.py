"""A design as a protocol has it: stages, the rows of its dose rules, what it is called in words."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from pkpd import titration
from pkpd.scenario_text import describe

if TYPE_CHECKING:
    from pkpd.scenario import Arm, Scenario
    from pkpd.titration import Rule

# Lines of a described scenario that the page shows elsewhere.
ELSEWHERE = {"Trial", "Assumption", "Arm", "Parameter", "Published", "Simulated"}
ACTION_WORDS = {
    "stop": "stop for good",
    "interrupt": "interrupt",
    "resume": "resume, same level",
    "resume_lower": "resume one level lower",
    "down": "one level down",
    "up": "one level up",
}
QUANTITY_WORDS = {
    "response_any": "response at least once",
    "response_75": "response at ≥ 75% of visits",
    "response_30_doubled": "≥ 30 and doubled, once",
    "rescue": "rescue therapy",
    "patients": "patients entered until all comparisons ended",
}


class Stage(NamedTuple):
    """A stage of some arms from its first day to its last, and what each of them does in it."""

    name: str
    first_d: int
    last_d: int
    labels: dict[str, str]


def stages_of(design: Scenario) -> list[Stage]:
    """The stages of a design in their order; none where it has no calendar."""
    if not design.trial.visits_d:
        return []
    last, found = design.trial.visits_d[-1], []
    ends = {arm.name: arm.treatment_d or last for arm in design.arms}
    for end in sorted(set(ends.values())):
        labels = {arm.name: treatment(design, arm) for arm in design.arms if ends[arm.name] == end}
        found.append(Stage("treatment", 0, end, labels))
        if end < last:
            found.append(Stage("follow-up", end, last, dict.fromkeys(labels, "no study drug")))
    return found


def treatment(design: Scenario, arm: Arm) -> str:
    """What the patients of an arm take, in few words."""
    if design.outcome is not None:
        return "stated outcome"
    if arm.drug == "placebo":
        return "placebo"
    titrated = len(design.rule(arm).action) > 0
    words = f"{arm.drug} {'from ' if titrated else ''}{arm.start_dose_mg:g} mg{', titrated' if titrated else ''}"
    return words if arm.meal == "fasted" else f"{words}, {arm.meal.replace('_', ' ')}"


class Protocol(NamedTuple):
    """A dose rule with the arms that follow it."""

    name: str
    arms: tuple[str, ...]
    rule: Rule
    rows: tuple[RuleRow, ...]

    @property
    def text(self) -> str:
        """The rule in the words of the engine."""
        return titration.as_text(self.rule)

    @property
    def title(self) -> str:
        """Its name where it has one, and its levels."""
        levels = " – ".join(f"{float(level):g}" for level in self.rule.levels_mg)
        return f"{self.name + ': ' if self.name else ''}levels {levels} mg once daily"


class RuleRow(NamedTuple):
    """A row of a rule: its limits (1e9/L), and in words its counts, state, times and action."""

    action: str
    above: float
    below: float
    counts: str
    state: str
    timing: str
    does: str


def protocols(design: Scenario) -> list[Protocol]:
    """The rules that are more than a fixed dose, each once."""
    if design.outcome is not None:
        return []
    names = {name for name, table in design.titration.items()}
    found: dict[str, list[Arm]] = {}
    for arm in design.arms:
        if len(design.rule(arm).action):
            found.setdefault(arm.titration if arm.titration in names else next(iter(names)), []).append(arm)
    rules = {name: design.rule(arms[0]) for name, arms in found.items()}
    return [Protocol(n, tuple(a.name for a in found[n]), rule, rule_rows(rule)) for n, rule in rules.items()]


def rule_rows(rule: Rule) -> tuple[RuleRow, ...]:
    """The rows of a rule in the order of reading."""
    rows = []
    for i in range(len(rule.action)):
        above, below, every = float(rule.above[i]), float(rule.below[i]), int(rule.every_d[i])
        spell, wait, state = (
            int(x[i]) for x in (rule.min_days_at_top_below, rule.min_days_since_change, rule.while_interrupted)
        )
        limits = [f"above {above:g}"] * math.isfinite(above) + [f"below {below:g}"] * math.isfinite(below)
        when = [f"every {every} days"] * (every > 0) + [f"≥ {wait} days since the last change"] * (wait > 0)
        when += [f"after ≥ {spell} days at the top level, all counts below {below:g}"] * (spell > 0)
        action = titration.ACTIONS[int(rule.action[i])]
        words = {-1: "any", 0: "on treatment", 1: "interrupted"}[state]
        count, timing = " and ".join(limits) or "any", "; ".join(when) or "any visit"
        rows.append(RuleRow(action, above, below, count, words, timing, ACTION_WORDS[action]))
    return tuple(rows)


def in_words(design: Scenario) -> list[tuple[str, str]]:
    """What the design says of entry, visits, rescue, analysis and looks: name and text."""
    lines = [line for line in describe(design).splitlines() if line != design.trial.description.strip()]
    found = [m.groups() for line in lines if (m := re.fullmatch(r"([A-Z][a-z -]+): (.+)", line))]
    return [(name, text) for name, text in found if name not in ELSEWHERE]


def words(quantity: str) -> str:
    """A quantity of the summary in words."""
    if quantity in QUANTITY_WORDS:
        return QUANTITY_WORDS[quantity]
    replaced = (
        (r"response_(week|day)_(\d+)", r"response at \1 \2"),
        (r"risk_difference_(.+)_bias", r"bias of the difference in \1"),
        (r"risk_difference_(.+)", r"difference in \1"),
        (r"(power|type_1_error)_(any|all)", r"\1, \2 comparison"),
        (r"(power|type_1_error)_(.+)_futility_ignored", r"\1, \2, futility ignored"),
        (r"(power|type_1_error)_(.+)", r"\1, \2"),
        (r"width_(.+)", r"mean width of the \1 interval"),
        (r"coverage_(.+)", r"coverage of the \1 interval"),
    )
    for pattern, to in replaced:
        if match := re.fullmatch(pattern, quantity):
            text = match.expand(to).replace("type_1_error", "type I error").replace("all comparison", "all comparisons")
            inner = match.group(1)
            return text.replace(inner, words(inner)) if inner.startswith("response") else text.replace("_", " ")
    return quantity.replace("_", " ")
