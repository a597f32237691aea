"""The assay as a run writes it: three tables, the comparison of EC50s, and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from inference import plots_assay
from inference.console import say, show_table
from pkpd import assay
from pkpd.parameters import Parameters, load_library

DECADES = 3  # the concentrations reach from this far below to this far above the EC50
PER_DECADE = 12
MULTIPLES = (0.0, 0.1, 1.0, 10.0)  # of the EC50: concentrations of the time course
TIMES = 61
MINUTES_PER_HOUR = 60
DIGITS = "%.10g"


class Medium(NamedTuple):
    """A dish: its name, TPO relative to healthy plasma, and whether its cells have the receptor."""

    name: str
    tpo: float
    receptor: bool


class Result(NamedTuple):
    """What the assay found, as tidy tables."""

    response: pd.DataFrame
    time_course: pd.DataFrame
    summary: pd.DataFrame
    comparison: pd.DataFrame


def media(tpo: float) -> tuple[Medium, ...]:
    """The dishes compared: without TPO, on top of ``tpo`` (left out where 0), and without receptor."""
    on_top = (Medium(f"TPO {tpo:g} × healthy", tpo, True),) if tpo > 0 else ()
    return (Medium("no TPO", 0.0, True), *on_top, Medium(f"no receptor, TPO {tpo:g} × healthy", tpo, False))


def measure(*, tpo: float, minutes: float) -> Result:
    """Runs the assay with the library's hetrombopag, read ``minutes`` after the drug and at rest.

    InputError if tpo or minutes is negative or not finite. Needs double precision switched on.
    """
    assay.check("tpo", tpo)
    assay.check("minutes", minutes)
    library = load_library()
    p = library.parameters(jnp.float64)
    ec50 = float(p.receptor_ec50_nM)
    dishes = media(tpo)
    levels = ec50 * np.concatenate([[0.0], np.logspace(-DECADES, DECADES, 2 * DECADES * PER_DECADE + 1)])
    few, times = ec50 * np.array(MULTIPLES), np.linspace(0.0, minutes, TIMES)

    ratios = np.array([[dish.tpo] for dish in dishes])
    receptor = np.array([[dish.receptor] for dish in dishes])
    read = assay.time_course([minutes / MINUTES_PER_HOUR], ratios, levels, p, receptor)
    early = np.stack([leaf[-1] for leaf in read])
    late = np.stack(assay.at_rest(ratios, levels, p, receptor))
    course = np.stack(assay.time_course(times / MINUTES_PER_HOUR, ratios, few, p, receptor))

    response = _tidy(
        {"medium": dishes, "concentration_nM": levels}, {"value": early, "value_at_rest": late}, p, minutes=minutes
    )
    moved = np.moveaxis(course, 1, -1)  # readout, medium, concentration, time
    over_time = _tidy({"medium": dishes, "concentration_nM": few, "minutes": times}, {"value": moved}, p)
    summary = _summary(dishes, levels, {f"{minutes:g} min": early, "at rest": late}, p)
    alone = (summary["medium"] == "no TPO") & (summary["time"] == "at rest") & (summary["readout"] == "proliferation")
    compared = assay.comparison(library, p, float(summary.loc[alone, "EC50_nM"].iloc[0]))
    return Result(response, over_time, summary, compared)


def write(folder: Path, *, tpo: float, minutes: float) -> Result:
    """Writes response.csv, time_course.csv, summary.csv, comparison.csv and assay.png into ``folder``.

    Returns the tables. InputErrors as in ``measure``.
    """
    result = measure(tpo=tpo, minutes=minutes)
    for name, table in result._asdict().items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format=DIGITS)
    plots_assay.save(plots_assay.picture(result, minutes=minutes), folder / "assay.png")
    return result


def show(result: Result) -> None:
    """Prints the potencies and, side by side, the EC50s with their ratio and why they differ."""
    found = result.summary[result.summary["EC50_nM"].notna()]
    columns = ["medium", "time", "readout", "bottom", "top", "EC50_nM", "hill_slope"]
    show_table("Concentration and response", columns, found[columns].itertuples(index=False))
    silent = ", ".join(sorted(set(result.summary["medium"]) - set(found["medium"])))
    say(f"No response: {silent or 'none'}\n")
    compared = result.comparison
    columns = ["quantity", "EC50_nM", "EC50_ng_per_ml", "ratio_to_in_vitro", "status"]
    show_table(f"EC50 of {compared['drug'].iloc[0]}", columns, compared[columns].itertuples(index=False))
    say(f"Why they differ: {compared['reason'].iloc[-1]}.\n")


def _tidy(axes: dict[str, Any], values: dict[str, np.ndarray], p: Parameters, **constant: float) -> pd.DataFrame:
    """A row for each combination of ``axes`` (media first) and readout; each of values is [readout, *axes]."""
    dishes = axes["medium"]
    names = assay.Readouts._fields
    levels = {"medium": [dish.name for dish in dishes], **{k: v for k, v in axes.items() if k != "medium"}}
    frame = pd.MultiIndex.from_product([*levels.values(), names], names=[*levels, "readout"]).to_frame(index=False)
    by_name = {dish.name: dish for dish in dishes}
    frame.insert(1, "tpo_relative", [by_name[name].tpo for name in frame["medium"]])
    frame.insert(2, "receptor", ["yes" if by_name[name].receptor else "no" for name in frame["medium"]])
    at = frame.columns.get_loc("concentration_nM") + 1
    frame.insert(at, "concentration_ng_per_ml", frame["concentration_nM"] * float(p.molar_mass_g_per_mol) / 1000)
    for name, number in constant.items():
        frame.insert(at + 1, name, number)
    frame["unit"] = frame["readout"].map(assay.UNITS)
    for name, value in values.items():
        frame[name] = np.moveaxis(value, 0, -1).ravel()
    return frame


def _summary(dishes: tuple[Medium, ...], levels: np.ndarray, at: dict[str, np.ndarray], p: Parameters) -> pd.DataFrame:
    """Potency of every readout in every medium, at each time; values are [readout, medium, concentration]."""
    rows = []
    for m, dish in enumerate(dishes):
        for time, values in at.items():
            for readout, curves in zip(assay.Readouts._fields, values, strict=True):
                found = assay.potency(levels, curves[m])
                mass = found.ec50_nM * float(p.molar_mass_g_per_mol) / 1000
                row = (dish.name, time, readout, found.bottom, found.top, found.ec50_nM, mass, found.hill_slope)
                rows.append((*row, found.misfit, assay.UNITS[readout]))
    columns = ["medium", "time", "readout", "bottom", "top", "EC50_nM", "EC50_ng_per_ml", "hill_slope"]
    return pd.DataFrame(rows, columns=[*columns, "fit_error_share", "unit"])
