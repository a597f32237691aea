"""A design as a protocol has it: stages, the rows of its dose rules, what it is called in words."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from inference.whatif.further import SECOND
from pkpd import titration
from pkpd.regimens import regimens_of
from pkpd.scenario_text import describe
from pkpd.stages import arm_in

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
    "down_or_stop": "one level down, from the lowest stop",
    "switch": "switch to the second drug",
}
QUANTITY_WORDS = {
    "response_any": "response at least once",
    "response_75": "response at ≥ 75% of visits",
    "response_30_doubled": "≥ 30 and doubled, once",
    "rescue": "rescue therapy",
    "longest_response_d": "longest response",
    "total_response_d": "total response",
    "overshoot_250": "count above 250 at a visit",
    "overshoot_400": "count above 400 at a visit",
    "days_above_250": "days above 250",
    "days_above_400": "days above 400",
    "share_in_range": "share of visits in range",
    "relapse": "relapse off treatment",
    "time_to_relapse_d": "time to relapse, of those who relapsed",
    "response_at_end": "response at the last visit",
    "in_trial_at_end": "in the trial at the end",
    "dose_at_end_mg": "dose at the end",
    "cmax_at_end_ng_per_ml": "Cmax at the end",
    "auc_at_end_ng_h_per_ml": "AUC of the last interval",
    "trough_at_end_ng_per_ml": "trough at the end",
    "second_drug_at_end": "on the second drug at the end",
    "second_dose_at_end_mg": "dose at the end, second drug",
    "second_cmax_at_end_ng_per_ml": "Cmax at the end, second drug",
    "second_auc_at_end_ng_h_per_ml": "AUC of the last interval, second drug",
    "second_trough_at_end_ng_per_ml": "trough at the end, second drug",
    "width_interval": "mean width of the interval",
    "coverage_interval": "coverage of the interval",
    "patients": "patients entered until all comparisons ended",
    "weeks": "duration of the trial",
    "randomised": "patients randomised",
    "baseline_measured": "baseline count as measured at screening, mean",
    "baseline_true": "true count at the first dose, mean",
    "log_ratio_baseline_true_to_measured": "log of true to measured baseline (regression to the mean)",
    "screened_per_patient": "screened for each patient who entered",
    "screened": "candidates screened",
    "screen_failures": "screen failures",
    "screen_failure_share": "screen failures, of the screened",
}
STAGE_WORDS = {  # of means over the visits of a stage, whose name follows
    "response_any": "response at least once", "response_end": "response at its last visit",
    "total_response_d": "total response", "durable_response": "durable response",
    "share_in_range": "share of visits in range", "taken_mg": "taken in all", "dose_at_end_mg": "dose at its end",
    "auc_ng_h_per_ml": "AUC a day", "cmax_ng_per_ml": "Cmax", "trough_ng_per_ml": "trough at its last visit",
}  # fmt: skip
COUNTED = ("patients", "screened", "screen_failures", "screened_per_patient")


# Names of people and letters of methods as they are written, and units in words.
WRITTEN = {
    "cochran-mantel-haenszel": "Cochran-Mantel-Haenszel", "fisher": "Fisher", "cox": "Cox", "mmrm": "MMRM",
    "ancova": "ANCOVA", "newcombe": "Newcombe", "miettinen-nurminen": "Miettinen-Nurminen", "holm": "Holm",
    "hochberg": "Hochberg", "bonferroni": "Bonferroni", "pocock": "Pocock", "obrien-fleming": "O'Brien-Fleming",
    "x 10^9/L": "×10⁹/L",
}  # fmt: skip


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
    if design.stages:
        ends = [row.until_d for row in design.stages]
        spans = list(zip(design.stages, [0, *ends[:-1]], ends, strict=True))
        return [
            Stage(row.name, first, last, {arm.name: in_stage(design, arm, k) for arm in design.arms})
            for k, (row, first, last) in enumerate(spans)
        ]
    last, found = design.trial.visits_d[-1], []
    until = {arm.name: arm.treatment_d or last for arm in design.arms}
    for end in sorted(set(until.values())):
        labels = {arm.name: treatment(design, arm) for arm in design.arms if until[arm.name] == end}
        found.append(Stage("treatment", 0, end, labels))
        if end < last:
            found.append(Stage("follow-up", end, last, dict.fromkeys(labels, "no study drug")))
    return found


def in_stage(design: Scenario, arm: Arm, index: int) -> str:
    """What the patients of an arm take in a stage, in few words."""
    now, said = arm_in(design, arm, index)
    if index == 0:
        return treatment(design, now)
    if said.treatment == "off":
        return "off treatment"
    if now.drug == "placebo":
        return "placebo"
    words = now.drug + (f" from {said.start_dose_mg:g} mg" if said.start_dose_mg is not None else "")
    return f"{words}, {said.titration}" if said.titration and said.titration != now.drug else words


def treatment(design: Scenario, arm: Arm) -> str:
    """What the patients of an arm take, in few words."""
    if design.outcome is not None:
        return "stated outcome"
    if arm.drug == "placebo":
        return "placebo"
    titrated = len(design.rule(arm).action) > 0
    words = f"{arm.drug} {'from ' if titrated else ''}{arm.start_dose_mg:g} mg{', titrated' if titrated else ''}"
    words += f" every {arm.dose_every_d} days" if arm.dose_every_d > 1 else ""
    words += f", switch to {arm.switch_to.drug} from {arm.switch_to.start_dose_mg:g} mg" if arm.switch_to else ""
    meal = meal_words(" or ".join(arm.meals) or arm.meal)
    return words if meal == "fasted" else f"{words}, {meal}"


def meal_words(meal: str) -> str:
    """A meal, or several, as they are written."""
    return re.sub(r"(\d)h", r"\1 h", meal.replace("_", " "))


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
    """The rules that are more than a fixed dose, each once, with the arms that follow them in any stage."""
    if design.outcome is not None:
        return []
    followed: dict[str, dict[str, None]] = {}
    for arm in design.arms:
        for regimen in regimens_of(design, arm).regimens:
            name = regimen.titration
            if name is None and design.titration:
                name = next(iter(design.titration))
            if name in design.titration:
                followed.setdefault(name, {})[arm.name] = None
    rules = {name: design.titration[name].rule() for name in followed}
    return [Protocol(name, tuple(followed[name]), rule, rule_rows(rule)) for name, rule in rules.items()]


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
        when += _weights(rule, i)
        action = titration.ACTIONS[int(rule.action[i])]
        words = {-1: "any", 0: "on treatment", 1: "interrupted"}[state]
        count, timing = " and ".join(limits) or "any", "; ".join(when) or "any visit"
        rows.append(RuleRow(action, above, below, count, words, timing, ACTION_WORDS[action]))
    return tuple(rows)


def _weights(rule: Rule, row: int) -> list[str]:
    found = []
    for columns, unit in zip(titration.OF_PATIENTS, ("kg", "years"), strict=True):
        if getattr(rule, columns[0]) is not None:
            low, high = (float(getattr(rule, name)[row]) for name in columns)
            found += [f"from {low:g} {unit}"] * (low > 0) + [f"below {high:g} {unit}"] * math.isfinite(high)
    return found


def unit_of(quantity: str) -> str:
    """Unit in which the page shows a quantity of the summary: "%" for shares, "" for what has none of these."""
    if quantity in COUNTED or quantity.startswith("randomised"):
        return "patients"
    if quantity.startswith("week"):
        return "weeks"
    if quantity in ("baseline_measured", "baseline_true"):
        return "10⁹/L"
    if quantity.endswith("_estimable"):
        return "%"
    if quantity.startswith("log_"):
        return "log"
    if quantity.startswith(("mean_difference", "width_interval")):
        return ""
    if quantity.startswith(("risk_difference", "width")):
        return "points"
    ends = {"_ng_h_per_ml": "ng·h/mL", "_ng_per_ml": "ng/mL", "_mg": "mg", "_d": "days"}
    found = next((unit for end, unit in ends.items() if quantity.endswith(end) or f"{end}_" in quantity), None)
    return "days" if quantity.startswith("days_above") else found or "%"


def in_words(design: Scenario) -> list[tuple[str, str]]:
    """What the design says of entry, visits, rescue, analysis and looks: name and text."""
    lines = [line for line in describe(design).splitlines() if line != design.trial.description.strip()]
    found = [m.groups() for line in lines if (m := re.fullmatch(r"([A-Z][a-z -]+): (.+)", line))]
    rows = [(name, written(text)) for name, text in found if name not in ELSEWHERE]
    if design.analysis is None:
        return rows
    endpoint = design.analysis.endpoint
    return [(name, text.replace(endpoint, words(endpoint)) if name == "Analysis" else text) for name, text in rows]


def written(text: str) -> str:
    """A text with methods called as they are written."""
    every = "|".join(map(re.escape, WRITTEN))
    return re.sub(rf"(?<![\w-])({every})(?![\w-])", lambda found: WRITTEN[found[1]], text)


def words(quantity: str) -> str:
    """A quantity of the summary in words."""
    return written(_words(quantity))


def _words(quantity: str) -> str:
    if quantity in QUANTITY_WORDS:
        return QUANTITY_WORDS[quantity]
    of = quantity.removeprefix(SECOND)
    of_stage = next((name for name in STAGE_WORDS if of.startswith(f"{name}_")), None)
    if of_stage is not None:
        drug = "" if of == quantity else ", second drug"
        return f"{of.removeprefix(f'{of_stage}_')}: {STAGE_WORDS[of_stage]}{drug}"
    replaced = (
        (r"response_(week|day)_(\d+)", r"response at \1 \2"),
        (r"kept_at_look_(\d+)", r"arm kept at look \1"),
        (r"dropped_at_look_(\d+)", r"arm dropped at look \1"),
        (r"extended_at_look_(\d+)", r"patients added at look \1"),
        (r"rejected_if_extended", r"rejected, of trials with patients added"),
        (r"(.+)_estimable", r"trials with an estimate: \1"),
        (r"log_(odds|hazard)_ratio_(.+)", r"log \1 ratio, \2"),
        (r"mean_difference_(.+)", r"mean difference in \1"),
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
            inner = match.group(1) if match.groups() else ""
            return text.replace(inner, _words(inner)) if inner.startswith("response") else text.replace("_", " ")
    return quantity.replace("_", " ")
