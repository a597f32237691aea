"""The page of several designs side by side: what is swept, what it does, and with how many trials that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from inference import plots_designs
from inference.report import environment, style
from inference.report.figures import data_uri
from inference.report.protocol import unit_of, words
from inference.report.trial import NAME
from inference.report.trial_figures import Picture
from inference.store import RUN_MARK
from inference.whatif.characteristics import TRIAL, effect_of
from inference.whatif.designs import Design, curves, swept_labels
from inference.whatif.gains import IN_THIRDS
from pkpd.scenario_text import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POWERS = "(power|type_1_error)_"
COVARIATES = {
    "baseline_1e9_per_l": ("baseline", "×10⁹/L"), "weight_kg": ("weight", "kg"),
    "receptor_ec50_nM": ("EC50 at the receptor", "nM"),
}  # fmt: skip
THIRDS = ("lowest third", "middle third", "highest third")
OF_THE_TRIAL = ("patients", "randomised", "screened", "weeks")
ABOVE = "overshoot_250"
OF_ARMS = ("rescue", ABOVE, "overshoot_400", "share_in_range", "relapse")


def write(
    folder: Path,
    found: Sequence[Design],
    differences: pd.DataFrame,
    gains: pd.DataFrame | None,
    command: str,
    seed: int,
    posterior: Path | None = None,
    null: bool = False,
) -> None:
    """Writes ``report.html`` of the designs in ``folder``, whose own reports are in folders of their names there."""
    from inference.output import write_text

    manifest = json.loads((folder / found[0].name / RUN_MARK).read_text(encoding="utf-8"))
    hashes = {d.name: json.loads((folder / d.name / RUN_MARK).read_text(encoding="utf-8"))["sha256"] for d in found}
    write_text(folder / NAME, render(found, differences, gains, command, seed, manifest, hashes, posterior, null))


def render(
    found: Sequence[Design],
    differences: pd.DataFrame,
    gains: pd.DataFrame | None,
    command: str,
    seed: int,
    manifest: Mapping[str, Any],
    hashes: Mapping[str, Mapping[str, str]],
    posterior: Path | None = None,
    null: bool = False,
) -> str:
    """The page, as HTML text."""
    marks = dict(zip((d.name for d in found), letters(len(found)), strict=True))
    keys = list(found[0].swept)
    tables = {
        "rows": design_rows(found, marks),
        "rates": rate_rows(found, marks),
        "trial_rows": trial_rows(found, marks),
        "differences": difference_rows(found, differences, marks, null),
        "gains": gain_rows(gains, marks) if gains is not None else [],
    }
    figures = pictures(found, keys, marks, tables["gains"])
    context: dict[str, Any] = {
        **tables,
        "name": found[0].scenario.trial.name,
        "description": found[0].scenario.trial.description.strip(),
        "keys": keys,
        "short": {key: label for key, label in zip(keys, swept_labels(found)(found[0]), strict=True)},
        "figures": figures,
        "n_designs": len(found),
        "n_trials": sorted({int(d.summary["n_trials"].max()) for d in found}),
        "n_draws": int(found[0].summary["n_draws"].max()),
        "saved": saved(tables["differences"]),
        "simulated": found[0].scenario.outcome is None,
        "powered": not curves(found).empty,
        "described": describe(found[0].scenario),
        "command": command,
        "seed": seed,
        "posterior": posterior,
        "null": null,
        "versions": manifest["versions"],
        "hashes": _hashes(hashes, marks),
        "style": style(),
    }
    every = {
        "swept": "What is swept",
        "power": ("Type I error and response" if null else "Power and response") if context["powered"] else "Response",
        "overshoot": "Overshoot against response" if "overshoot" in figures else "",
        "differences": "Differences to design A" if tables["differences"] else "",
        "size": "Size and duration" if tables["trial_rows"] else "",
        "gains": "Who gains, who loses" if tables["gains"] else "",
        "made": "How it was made",
    }
    context["sections"] = {key: title for key, title in every.items() if title}
    return environment().get_template("designs.html").render(context)


def _hashes(hashes: Mapping[str, Mapping[str, str]], marks: Mapping[str, str]) -> dict[str, str]:
    """What decides the designs: what is common to all once, the rest by design."""
    first = next(iter(hashes.values()))
    common = {k: v for k, v in first.items() if all(own.get(k) == v for own in hashes.values())}
    return common | {
        f"{k} of {marks[name]}": v for name, own in hashes.items() for k, v in own.items() if k not in common
    }


def letters(n: int) -> list[str]:
    """Short marks of designs: A to Z, then A2 to Z2, and so on."""
    return [chr(65 + i % 26) + (str(i // 26 + 1) if i >= 26 else "") for i in range(n)]


# Tables


def main_endpoint(d: Design) -> str:
    """The endpoint of the analysis where the summary has it by arm, else the one reported first."""
    arms = {arm.name for arm in d.scenario.arms}
    own = d.summary[d.summary["comparison"].isin(arms)]["quantity"]
    named = d.scenario.analysis.endpoint if d.scenario.analysis else ""
    return named if named in set(own) else str(own.iloc[0])


def design_rows(found: Sequence[Design], marks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each design: its mark, swept values, patients, and the address of its own page."""
    return [
        {
            "mark": marks[d.name],
            "swept": d.swept,
            "arms": ", ".join(f"{arm.name} {arm.n:,}" for arm in d.scenario.arms),
            "patients": (max if d.scenario.trial.design == "crossover" else sum)(arm.n for arm in d.scenario.arms),
            "link": quote(f"./{d.name}/{NAME}", safe="/=+"),
        }
        for d in found
    ]


def rate_curves(found: Sequence[Design]) -> pd.DataFrame:
    """The main endpoint of every arm, and relapse, as ``whatif.designs.curves`` has powers."""
    rows = []
    for d in found:
        own = d.summary[d.summary["quantity"].isin([main_endpoint(d), "relapse"])]
        for row in own.itertuples(index=False):
            rows.append({**d.swept, **{k: getattr(row, k) for k in ("comparison", "quantity", "estimate", "mc_se")}})
    return pd.DataFrame(rows)


def rate_rows(found: Sequence[Design], marks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Powers, main endpoints and safety with their errors, a cell for each design; percent, or own unit."""
    rows: list[dict[str, Any]] = []
    for d in found:
        arms = {arm.name for arm in d.scenario.arms}
        chances = d.summary["quantity"].str.match(POWERS)
        of_arms = d.summary["comparison"].isin(arms) & d.summary["quantity"].isin([main_endpoint(d), *OF_ARMS])
        for row in pd.concat([d.summary[chances], d.summary[of_arms]]).itertuples(index=False):
            unit = unit_of(row.quantity)
            scale = 100.0 if unit == "%" else 1.0
            figures = {k: scale * getattr(row, k) for k in ("estimate", "mc_se", "lower", "upper")}
            said = words(row.quantity)
            rows.append({"mark": marks[d.name], "of": row.comparison, "quantity": said, "unit": unit, **figures})
    found_rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        own = {"quantity": row["quantity"], "of": row["of"], "unit": row["unit"], "cells": {}}
        found_rows.setdefault((row["quantity"], row["of"]), own)["cells"][row["mark"]] = row
    return list(found_rows.values())


def trial_rows(found: Sequence[Design], marks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Expected size and duration of each design that has interims or accrual."""
    rows = []
    for d in found:
        own = d.summary[d.summary["comparison"] == TRIAL].set_index("quantity")
        cells = {q: (own.loc[q, "estimate"], own.loc[q, "mc_se"]) for q in OF_THE_TRIAL if q in own.index}
        if cells:
            rows.append({"mark": marks[d.name], **cells})
    return rows


def difference_rows(
    found: Sequence[Design], table: pd.DataFrame, marks: Mapping[str, str], null: bool
) -> list[dict[str, Any]]:
    """The main differences to the first design: power, effect, main endpoint and safety by arm, size."""
    rows = []
    by_name = {d.name: d for d in found}
    for row in table.to_dict("records"):
        d, quantity = by_name[row["design"]], row["quantity"]
        effect = effect_of(d.scenario.analysis) if d.scenario.analysis else ""
        if quantity not in ("power", effect, main_endpoint(d), *OF_ARMS, "patients"):
            continue
        unit = "points" if quantity == "power" or unit_of(quantity) in ("%", "points") else unit_of(quantity)
        scale = 100.0 if unit == "points" else 1.0
        keys = ("difference", "mc_se", "lower", "upper", "mc_se_if_independent")
        said = "type I error" if null and quantity == "power" else words(quantity)
        if (
            quantity == effect and d.scenario.analysis and row["comparison"].count(": ") == 0
        ):  # of no secondary endpoint
            said = words(f"{effect}_{d.scenario.analysis.endpoint}")
        rows.append(
            {
                "mark": marks[row["design"]], "of": row["comparison"], "quantity": said, "unit": unit,
                "saved": row["trials_saved"] if np.isfinite(row["trials_saved"]) else None,
                "independent": row["trials_saved"] * row["n_trials"] if np.isfinite(row["trials_saved"]) else None,
                "still": row["difference"] == 0 and row["mc_se"] == 0, **{k: scale * row[k] for k in keys},
            }
        )  # fmt: skip
    return rows


def saved(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The median over differences of how many times as many independent trials their errors would take."""
    known = [row["saved"] for row in rows if row["saved"] is not None]
    return float(np.median(known)) if known else None


def gain_rows(table: pd.DataFrame, marks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of ``gains.csv`` in words and percent, but for arms that are the same in both designs.

    third: a band without its limits, which differ between arms.
    """
    rows = []
    for (design, arm), own in table.groupby(["design", "arm"], sort=False):
        if not own[["only_design", "only_against", "days_above_250_change"]].any(axis=None):
            continue
        seen: dict[str, int] = {}
        for row in own.to_dict("records"):
            shares = {k: 100 * row[k] for k in ("both", "only_design", "only_against", "neither", "net_gain")}
            more = {k: row[k] for k in ("patients", "days_above_250_change", "days_above_250_change_mc_se")}
            covariate, _, limits = row["band"].partition(" ")
            seen[covariate] = seen.get(covariate, 0) + 1
            called = COVARIATES.get(covariate, (covariate.replace("_", " "), ""))
            third = f"{called[0]}, {THIRDS[seen[covariate] - 1]}" if covariate in IN_THIRDS else ""
            band = " ".join(part for part in (called[0], limits, called[1]) if part)
            rows.append(
                {
                    "mark": marks[str(design)], "arm": arm, "endpoint": words(row["endpoint"]), "band": band,
                    "third": third or band, "error": 100 * row["net_gain_mc_se"], **shares, **more,
                }
            )  # fmt: skip
    return rows


# Figures


def pictures(
    found: Sequence[Design], keys: Sequence[str], marks: Mapping[str, str], gains: Sequence[Mapping[str, Any]]
) -> dict[str, Picture]:
    """The pictures of the page by name, numbered in its order."""
    made: dict[str, tuple[Figure, str]] = {}
    for name, what, table in (("power", "Power", curves(found)), ("rates", "Response", rate_curves(found))):
        if table.empty:
            continue
        table = table.assign(said=[words(q) for q in table["quantity"]])
        if len(keys) <= 2:
            figure = plots_designs.power_curves(table, keys)
            assert figure is not None
            made[name] = figure, f"{what} with Monte Carlo errors against {' and '.join(keys)}"
        else:
            made[name] = (
                plots_designs.dots(table, list(marks.values())),
                f"{what} of designs {', '.join(marks.values())}",
            )
        if len(keys) == 2 and min(table[key].nunique() for key in keys) > 2:
            drawn = plots_designs.heat_map(table, keys)
            made[f"{name}-map"] = drawn, f"{what} as a heat map over {' and '.join(keys)}"
    points = overshoot_points(found, marks)
    if points:
        drawn = plots_designs.overshoot(points, joined=len(keys) == 1)
        made["overshoot"] = drawn, "Overshoot against response: a point for every design and arm"
    if gains:
        made["gains"] = plots_designs.gains(gains), "Net gain over design A by design, arm and covariate band"
    return {name: Picture(i, data_uri(figure), alt) for i, (name, (figure, alt)) in enumerate(made.items(), 1)}


def overshoot_points(found: Sequence[Design], marks: Mapping[str, str]) -> list[plots_designs.Point]:
    """Main endpoint and counts above 250 of every arm of every design, in percent; none of stated outcomes."""
    points = []
    for d in found:
        row = {(r.comparison, r.quantity): (100 * r.estimate, 100 * r.mc_se) for r in d.summary.itertuples()}
        for arm in d.scenario.arms:
            x, y = row.get((arm.name, main_endpoint(d))), row.get((arm.name, ABOVE))
            if x is not None and y is not None:
                points.append(plots_designs.Point(marks[d.name], arm.name, *x, *y))
    return points
