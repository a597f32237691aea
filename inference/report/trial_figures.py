"""The pictures of the page of ``pkpd trial``, as far as they make sense for its design."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from inference import plots_protocol, plots_relapse, plots_sensitivity, plots_swimmers, plots_trial
from inference.report import relapse, sensitivity
from inference.report.figures import data_uri
from inference.report.protocol import meal_words, protocols, stages_of, words
from inference.report.virtual import count_quantiles, exposure
from inference.whatif.decisions import critical_values

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from inference.report.virtual import VirtualArm
    from pkpd.scenario import Scenario

Made = dict[str, tuple["Figure", str]]  # figures with their words, by name
MOST_SWIMMERS = 4  # arms whose patients are shown one by one


class Picture(NamedTuple):
    """A figure of the page, and what it shows in words."""

    number: int
    uri: str
    alt: str


def pictures(
    design: Scenario,
    rates: Sequence[dict[str, Any]],
    overshoot: Sequence[dict[str, Any]],
    table: pd.DataFrame,
    arms: Sequence[VirtualArm],
    sensitive: pd.DataFrame | None = None,
) -> dict[str, Picture]:
    """Every picture by name, numbered in the order of the page. The rows are those of the page's tables."""
    made = _of_design(design, bool(arms))
    shown = [row for row in rates if row["low"] is not None]
    rated = [plots_protocol.Rate(r["comparison"], r["words"], r["estimate"], r["low"], r["high"]) for r in shown]
    healthy = bool(arms) and design.entry.disease == "healthy"  # whose response is no aim
    if not healthy and (design.outcome is None or not design.outcome.response_profile):
        made["rates"] = plots_protocol.rates(rated), "Rates by endpoint and arm: " + _spoken(rates)
    if not healthy:
        made |= _of_response(design, rates, arms)
    if design.interims is not None:
        looks = looks_of(design, table)
        values = ", ".join(f"{z:.2f}" for z in looks.critical)
        made["looks"] = plots_protocol.looks(looks), f"Critical values of the looks: {values}"
    if arms:
        made |= _of_patients(design, arms, overshoot)
    if sensitive is not None:
        made |= _of_assumptions(design, sensitive)
    return {name: Picture(i, data_uri(figure), alt) for i, (name, (figure, alt)) in enumerate(made.items(), 1)}


def _of_design(design: Scenario, simulated: bool) -> Made:
    made: Made = {}
    if stages := stages_of(design):
        sizes = {arm.name: arm.n for arm in design.arms}
        entry = f"entry: count below {design.entry.platelets_below_1e9_per_l:g} ×10⁹/L" if simulated else "entry"
        before = design.screening.visits_d if design.screening else ()
        figure = plots_protocol.schematic(stages, sizes, design.trial.visits_d, entry, _endpoint(design), before)
        made["schematic"] = figure, f"Schematic of the design: {len(sizes)} arms over {stages[-1].last_d} days"
    if found := protocols(design):
        rows = "; ".join(f"{row.counts}: {row.does}" for row in found[0].rows)
        made["rule"] = plots_protocol.rule(found), f"Dose rule as bands of count. {rows}"
    return made


def _spoken(rows: Sequence[dict[str, Any]]) -> str:
    """The first endpoint of every arm in words."""
    first = [row for row in rows if row["quantity"] == rows[0]["quantity"]]
    return ", ".join(f"{row['comparison']} {100 * row['estimate']:.0f}% {row['words']}" for row in first)


def _endpoint(design: Scenario) -> tuple[int, str] | None:
    """Day and words of the endpoint that is analysed, or else reported first; none of healthy volunteers."""
    if design.outcome is None and design.entry.disease == "healthy":
        return None
    if design.outcome is not None:
        day = design.trial.visits_d[-1]
        return (day, f"endpoint: {words(design.analysis.endpoint)}") if design.analysis else None
    name = design.analysis.endpoint if design.analysis else design.endpoint_names[0]
    at_one_visit = name.startswith(("response_week", "response_day", "log_"))
    day = design.landmark_day
    if name in ("relapse", "time_to_relapse"):  # of the stage off treatment, whole
        day = design.trial.visits_d[-1]
    elif design.analysis:
        day = design.trial.visits_d[design.visits_counted - 1]
    return day, f"endpoint: {words(name)}{'' if at_one_visit else ', by then'}"


def _of_response(design: Scenario, rows: Sequence[dict[str, Any]], arms: Sequence[VirtualArm]) -> Made:
    """Response over time: of simulated patients, or as stated of every visit."""
    days = np.array(design.trial.visits_d)
    curves = [plots_trial.Curve(a.name, days, a.response, a.response_range) for a in arms]
    if design.outcome is not None and design.outcome.response_profile:
        for arm in design.arms:
            own = [row for row in rows if row["comparison"] == arm.name]
            mean, low, high = (np.array([row[k] for row in own], float) for k in ("estimate", "low", "high"))
            curves.append(plots_trial.Curve(arm.name, days, mean, np.stack([low, high])))
    if not curves:
        return {}
    last = ", ".join(f"{c.arm} {100 * c.share[-1]:.0f}%" for c in curves)
    return {"response": (plots_trial.response(curves), f"Response over time by arm; at the last visit: {last}")}


def looks_of(design: Scenario, table: pd.DataFrame) -> plots_protocol.Looks:
    """The looks of a design, and at which of them its trials ended."""
    assert design.interims is not None and design.analysis is not None
    row = table.set_index(["comparison", "quantity"])["estimate"]
    of, n = [f"{arm} vs {design.analysis.control}" for arm in design.active_arms], len(design.interims.looks)

    def by_look(kind: str) -> dict[str, np.ndarray]:
        return {c: np.array([row.get((c, f"{kind}_at_look_{k + 1}"), 0.0) for k in range(n)]) for c in of}

    shares, critical, limits = np.array(design.interims.looks), np.array(critical_values(design)), futile_below(design)
    ends = (by_look("rejected"), by_look("futile"), by_look("dropped"))
    return plots_protocol.Looks(shares, critical, limits, design.analysis.sided, *ends)


def futile_below(design: Scenario) -> np.ndarray:
    """Statistic z [looks] below which a comparison is futile, see ``decisions.power_to_come``; NaN where none is."""
    assert design.interims is not None
    t, limit = np.array(design.interims.looks), design.interims.futility_below
    if limit is None:
        return np.full(len(t), np.nan)
    variance = 1 - t if design.interims.futility == "conditional-power" else (1 - t) / t
    B = t * (critical_values(design)[-1] - np.sqrt(variance) * stats.norm.isf(limit))
    return np.where(t < 1, B / np.sqrt(t), np.nan)


def _of_patients(design: Scenario, arms: Sequence[VirtualArm], overshoot: Sequence[dict[str, Any]]) -> Made:
    days, treated = np.array(design.trial.visits_d), [a for a in arms if a.drug != "placebo"]
    made: Made = {"counts": (plots_trial.counts(arms, days), f"Platelet counts over time by arm; {_medians(arms)}")}
    if any(_changes(a) for a in treated):
        made["doses"] = plots_trial.doses(treated, days), "Share of patients at each dose over time by arm"
    if curves := relapse.curves(arms):
        half = ", ".join(f"{c.arm} {relapse.median_d(c) or 'not reached'}" for c in curves)
        drawn = plots_relapse.relapse(curves, [a.name for a in arms])
        made["relapse"] = drawn, f"Time without relapse after treatment ended by arm; median days: {half}"
    if design.entry.disease == "itp":
        made |= _of_response_and_overshoot(design, treated or list(arms), overshoot)
    groups: dict[str, list[np.ndarray]] = {}
    for a in treated:
        meal = "" if a.meal == "fasted" else f", {meal_words(a.meal)}"
        for second, drug in enumerate(filter(None, (a.drug, a.second_drug))):
            for dose, measures in exposure(a, bool(second)).items():
                groups.setdefault(f"{drug} {dose:g} mg{meal}", []).append(measures)
    if groups:
        joined = {name: np.concatenate(parts, axis=1) for name, parts in groups.items()}
        made["exposure"] = plots_trial.exposure(joined), "Cmax, AUC and trough by dose"
    return made


def _changes(a: VirtualArm) -> bool:
    """Whether not everybody takes one dose throughout."""
    return bool((a.courses.dose_mg != a.courses.dose_mg.flat[0]).any() or a.courses.dropped.any())


def _of_response_and_overshoot(
    design: Scenario, arms: Sequence[VirtualArm], overshoot: Sequence[dict[str, Any]]
) -> Made:
    made: Made = {}
    days, colours = np.array(design.trial.visits_d), plots_trial.palette(arms)
    for i, a in enumerate(arms[:MOST_SWIMMERS], 1):
        shown = f"{min(plots_swimmers.SWIMMERS, a.patients)} virtual patients of {a.name}: doses, responses and events"
        made[f"swimmers-{i}"] = plots_swimmers.swimmers(a, days, colours[a.drug], colours.get(a.second_drug)), shown
    said = [f"{r['arm']}: {100 * r['response']:.0f}% against {100 * r['above_250']:.0f}%" for r in overshoot]
    drawn = plots_trial.overshoot(overshoot, words(design.endpoint_names[0]))
    made["overshoot"] = drawn, "Response against counts above 250; " + ", ".join(said)
    return made


def _of_assumptions(design: Scenario, table: pd.DataFrame) -> Made:
    quantities = sensitivity.shown(design, table)
    rows = [row for row in sensitivity.rows(table, quantities) if row.largest > 0][: sensitivity.BARS]
    if not rows:
        return {}
    most = ", ".join(f"{row.name} {row.largest:.1f}" for row in rows[:3])
    drawn = plots_sensitivity.tornado(rows, quantities)
    return {"sensitivity": (drawn, f"Changes by assumption, the largest first; largest in points: {most}")}


def _medians(arms: Sequence[VirtualArm]) -> str:
    last = {a.name: count_quantiles(a.courses, (0.5,))[0, -1] for a in arms}
    return "medians at the last visit: " + ", ".join(f"{name} {x:.0f}" for name, x in last.items() if np.isfinite(x))
