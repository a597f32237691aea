"""The page of ``pkpd trial``: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.report import environment, style
from inference.report.protocol import in_words, protocols, treatment, unit_of, words

if TYPE_CHECKING:
    import pandas as pd

    from inference.report.virtual import VirtualArm
    from pkpd.scenario import Scenario

NAME = "report.html"
RANGE = ("_q2.5", "_q97.5")
CHANCES = ("power_", "type_1_error_")
OVERSHOOT = (250.0, 400.0)  # 1e9/L


def trial_report(
    folder: Path,
    design: Scenario,
    table: pd.DataFrame,
    posterior: Path | None,
    seed: int,
    engine: str,
    null: bool,
    sensitive: pd.DataFrame | None = None,
) -> None:
    """Writes ``report.html`` of trials simulated with these arguments, whose summary is ``table``.

    sensitive: the table of ``whatif.sensitivity``, where it was asked for.
    """
    from inference.output import write_text

    write_text(folder / NAME, render(design, table, posterior, seed, engine, null, sensitive))


def render(
    design: Scenario,
    table: pd.DataFrame,
    posterior: Path | None,
    seed: int,
    engine: str,
    null: bool = False,
    sensitive: pd.DataFrame | None = None,
) -> str:
    """The page; the virtual patients of its pictures are simulated here, as ``run_trial`` simulated its own."""
    from inference.drawn import draws_of
    from inference.report import relapse, sensitivity, virtual
    from inference.report.trial_figures import pictures
    from inference.store import load_fitted
    from inference.whatif.null import under_null
    from pkpd.scenario_text import describe

    if sensitive is not None and sensitive.empty:  # nothing assumed can be moved
        sensitive = None
    run = None if posterior is None else load_fitted(posterior)
    n = min(design.trial.posterior_draws, design.trial.n_trials)
    draws = {} if run is None else draws_of(run, n)
    if null:
        design = under_null(design, draws, seed, engine)
    arms = [] if design.outcome is not None else virtual.cohort(design, draws, seed, engine)
    n_draws = int(table["n_draws"].max())
    rates = rate_rows(design, table)
    overshoot = overshoot_rows(design, rates, arms) if arms else []
    relapses = relapse.curves(arms)
    found = pictures(design, rates, overshoot, table, arms, sensitive)
    decided = decisions(design, table, n_draws)
    ends = [row for row in decided if "at look" in row["quantity"]]
    context: dict[str, Any] = {
        "design": design,
        "null": null,
        "run": run,
        "posterior": posterior,
        "seed": seed,
        "n_trials": int(table["n_trials"].max()),
        "n_draws": n_draws,
        "patients": (sum if design.trial.design == "parallel" else max)(arm.n for arm in design.arms),
        "healthy": bool(arms) and design.entry.disease == "healthy",
        "description": describe(design),
        "said": in_words(design),
        "treatments": {arm.name: treatment(design, arm) for arm in design.arms},
        "protocols": protocols(design),
        "decisions": [row for row in decided if row not in ends],
        "rates": _by_words([row for row in rates if row["low"] is not None]),
        "means": _by_words([row for row in rates if row["low"] is None]),
        "looks": look_rows(design),
        "ends": ends,
        "figures": found,
        "arms": arms,
        "kept": _kept(arms),
        "simulated": sum(a.simulated for a in arms),
        "banded": all(a.response_range is not None for a in arms),
        "whole_trials": min((len(a.rates) for a in arms), default=0),
        "overshoot": overshoot,
        "relapse": relapse.rows(relapses),
        "relapse_days": relapse.days_read(relapses) if relapses else [],
        "relapse_below": relapse.limits(design),
        "relapse_curves": relapses,
        "sensitive": None if sensitive is None else sensitivity.context(design, sensitive),
        "fixed": fixed_values(design, draws) if arms else {},
        "style": style(),
    }
    context["sections"] = _sections(context)
    return environment().get_template("trial.html").render(context)


def _by_words(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by what they are of, in their order."""
    return {q: [row for row in rows if row["words"] == q] for q in dict.fromkeys(row["words"] for row in rows)}


def _kept(arms: Sequence[VirtualArm]) -> str:
    """How many virtual patients the pictures show, in words."""
    each = sorted({a.patients for a in arms})
    if len(each) > 1:
        return f"{each[0]:,} to {each[-1]:,} virtual patients of each arm"
    return "".join(f"{n:,} virtual patients of each arm" for n in each)


def _sections(found: Mapping[str, Any]) -> dict[str, str]:
    """Sections of the page that make sense for it: id and title."""
    every = {
        "design": "The design",
        "rule": "The dose rule" if found["protocols"] else "",
        "decisions": "What the trial decides" if found["decisions"] else "",
        "rates": "What the arms report",
        "looks": "Interim looks" if found["looks"] else "",
        "platelets": "Platelet counts" if found["arms"] else "",
        "doses": "Doses" if "doses" in found["figures"] else "",
        "relapse": "Relapse after treatment" if "relapse" in found["figures"] else "",
        "patients": "Patients one by one" if "swimmers-1" in found["figures"] else "",
        "overshoot": "Overshoot against response" if "overshoot" in found["figures"] else "",
        "exposure": "Exposure" if "exposure" in found["figures"] else "",
        "assumed": "What was assumed",
        "sensitivity": "What hangs on the assumptions" if found["sensitive"] else "",
        "made": "How it was made",
    }
    return {key: title for key, title in every.items() if title}


# Tables


def ranges(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the summary, the two quantiles over trials joined to the row they belong to (else None)."""
    rows = {(row["comparison"], row["quantity"]): row for row in table.to_dict("records")}
    found = []
    for (comparison, quantity), row in rows.items():
        if quantity.endswith(RANGE):
            continue
        ends = [rows.get((comparison, quantity + end)) for end in RANGE]
        low, high = (None if end is None else end["estimate"] for end in ends)
        found.append(row | {"low": low, "high": high})
    return found


def decisions(design: Scenario, table: pd.DataFrame, n_draws: int) -> list[dict[str, Any]]:
    """Rows of comparisons in words, power or type I error first; shares in percent, differences in points."""
    names = {arm.name for arm in design.arms}
    rows = [row for row in ranges(table) if row["comparison"] not in names]
    found = []
    for row in sorted(rows, key=lambda row: not row["quantity"].startswith(CHANCES)):
        quantity, text = row["quantity"], words(row["quantity"])
        main = quantity.startswith(CHANCES)
        unit = unit_of(quantity)
        scale = 100.0 if unit in ("%", "points") else 1.0
        keys = ("estimate", "mc_se", "lower", "upper", "low", "high")
        numbers = {k: None if row[k] is None else scale * row[k] for k in keys}
        if main and n_draws > 1:
            text = text.replace("power", "assurance")
        found.append({"comparison": row["comparison"], "quantity": text, "unit": unit, "main": main, **numbers})
    return found


def rate_rows(design: Scenario, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rates by arm and endpoint, with their words."""
    names = {arm.name for arm in design.arms}
    own = [row for row in ranges(table) if row["comparison"] in names]
    found = [row | {"words": words(row["quantity"]), "unit": unit_of(row["quantity"])} for row in own]
    return [row | {"scale": 100.0 if row["unit"] == "%" else 1.0} for row in found]


def look_rows(design: Scenario) -> list[Any]:
    """The table of looks; none without interims."""
    from inference.whatif.boundary_table import boundary_table

    return boundary_table(design) if design.interims else []


def overshoot_rows(
    design: Scenario, rates: Sequence[dict[str, Any]], arms: Sequence[VirtualArm]
) -> list[dict[str, Any]]:
    """By arm: response as in the summary, and share, days and Monte Carlo errors of counts above the limits."""
    from inference.report.virtual import days_above

    response = {row["comparison"]: row for row in rates if row["quantity"] == design.endpoint_names[0]}
    rows = []
    for a in arms:
        own = response[a.name]
        row: dict[str, Any] = {"arm": a.name, "response": own["estimate"], "error_response": own["mc_se"]}
        for limit in OVERSHOOT:
            days = days_above(a.courses, np.array(design.trial.visits_d), limit)
            above = days > 0
            row |= {
                f"above_{limit:.0f}": float(above.mean()),
                f"error_{limit:.0f}": float(above.std() / np.sqrt(a.patients)),
                f"days_{limit:.0f}": float(days.mean()),
                f"days_each_{limit:.0f}": float(days[above].mean()) if above.any() else None,
            }
        rows.append(row)
    return rows


def fixed_values(design: Scenario, draws: Mapping[str, np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    """By drug: every value of the library that no posterior replaces, with its status; the scenario's own as such.

    Of a further drug only what differs from the first.
    """
    from inference.drawn import NEW
    from inference.studies import values_of
    from pkpd.parameters import load_library
    from pkpd.planned import COMPARATOR, planned_arms

    arms = planned_arms(design)
    found: dict[str, list[dict[str, Any]]] = {}
    taken = [(a, drug) for a in arms for drug in (a.drug, a.second_drug) if drug not in ("", "placebo")]
    for a, drug in taken or [(arms[0], COMPARATOR)]:  # placebo patients have the same disease
        if drug in found:
            continue
        library, only = load_library(drug, a.disease), a._replace(drug=drug, second_drug="")
        drawn = set(values_of(NEW, only, COMPARATOR, draws))
        groups = (library.entries, library.sd_entries, library.demography_entries, library.covariate_entries)
        rows = []
        for name, e in ((name, e) for group in groups for name, e in group.items() if name not in drawn):
            row = {"name": name, "value": e.value, "unit": e.unit, "status": e.status, "source": e.source}
            if name in a.fixed:
                value = design.parameters.get(name, 0.0)  # else the scenario's [rescue] switched it off
                row |= {"value": value, "status": "assumed", "source": "set by the scenario"}
            rows.append(row)
        known = [row for others in found.values() for row in others]
        found[drug] = [row for row in rows if row not in known]
    return found
