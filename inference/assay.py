"""The assay as a run writes it: three tables, the comparison of EC50s, and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from inference import curves, plots_assay
from inference.console import say, show_table
from pkpd import assay
from pkpd.parameters import Library, Parameters, load_library, with_values

if TYPE_CHECKING:
    from inference.config import Config
    from inference.store import FitResult

DECADES = 3  # the concentrations reach from this far below to this far above the EC50
PER_DECADE = 12
MULTIPLES = (0.0, 0.1, 1.0, 10.0)  # of the EC50: concentrations of the time course
TIMES = 61
MINUTES_PER_HOUR = 60
DIGITS = "%.10g"
EC50_DRAWS = 4096  # at most, of the posterior: for the intervals of the EC50s
BAND_DRAWS = 256  # of these: for the bands of the curves
BAND_STEP = 0.25  # of the fastest time constant: RK4 is then exact to about 1e-5, far below the width of a band
SHARES = ("share_proliferation", "share_survival", "share_maturation")


class Medium(NamedTuple):
    """A dish: its name, TPO relative to healthy plasma, and whether its cells have the receptor."""

    name: str
    tpo: float
    receptor: bool


class Cells(NamedTuple):
    """The cells in the dish: the typical one, at which curves are drawn, and draws of it where it is uncertain."""

    library: Library
    typical: Parameters  # scalars
    draws: Parameters | None = None  # leaves [draws]
    source: str = ""  # of the draws


class Result(NamedTuple):
    """What the assay found, as tidy tables; with draws ``response`` holds their 95% bands too."""

    response: pd.DataFrame
    time_course: pd.DataFrame
    summary: pd.DataFrame
    comparison: pd.DataFrame


def media(tpo: float) -> tuple[Medium, ...]:
    """The dishes compared: without TPO, on top of ``tpo`` (left out where 0), and without receptor."""
    on_top = (Medium(f"TPO {tpo:g} × healthy", tpo, True),) if tpo > 0 else ()
    return (Medium("no TPO", 0.0, True), *on_top, Medium(f"no receptor, TPO {tpo:g} × healthy", tpo, False))


def of_library() -> Cells:
    """Cells with the library's hetrombopag. Needs double precision switched on."""
    library = load_library()
    return Cells(library, library.parameters(jnp.float64))


def of_run(result: FitResult, config: Config, source: str) -> Cells:
    """Cells with the drug of a run: its posterior draws (prior draws where only those are there), evenly spaced, and
    what it held fixed; the typical cell has the medians.
    """
    library = load_library(config.drug, config.disease)
    found: dict[str, Any] = {row["name"]: row["value"] for row in result.fixed}
    found |= curves.thinned(result.posterior or result.prior, EC50_DRAWS)
    values = {name: value for name, value in found.items() if name in Parameters._fields}
    p = with_values(library.population(jnp.result_type(float)), values).typical
    draws = Parameters(*(np.atleast_1d(leaf) for leaf in np.broadcast_arrays(*p)))
    typical = jax.tree.map(lambda leaf: jnp.asarray(np.median(leaf), leaf.dtype), draws)
    whole = sum(getattr(typical, name) for name in SHARES)  # medians of shares need not add to 1
    return Cells(library, typical._replace(**{n: getattr(typical, n) / whole for n in SHARES}), draws, source)


def compare(cells: Cells) -> pd.DataFrame:
    """In-vitro and plasma EC50s side by side, with draws as medians and 95% intervals (``pkpd.assay.comparison``)."""
    p = cells.typical if cells.draws is None else cells.draws
    column = Parameters(*(jnp.asarray(leaf)[..., None] for leaf in p))
    levels = column.receptor_ec50_nM * _multiples()  # every draw is read about its own EC50
    grown = jax.jit(assay.at_rest)(0.0, levels, column).proliferation
    ec50 = assay.potency(levels, grown).ec50_nM if cells.draws is None else assay.ec50s(levels, grown)
    return assay.comparison(cells.library, p, ec50, cells.source)


def measure(*, tpo: float, minutes: float, cells: Cells | None = None) -> Result:
    """Runs the assay (without ``cells``: with the library's hetrombopag), read ``minutes`` after the drug and at rest.

    InputError if tpo or minutes is negative or not finite. Needs double precision switched on.
    """
    assay.check("tpo", tpo)
    assay.check("minutes", minutes)
    cells = cells or of_library()
    p = cells.typical
    ec50 = float(p.receptor_ec50_nM)
    dishes = media(tpo)
    levels = ec50 * _multiples()
    few, times = ec50 * np.array(MULTIPLES), np.linspace(0.0, minutes, TIMES)

    ratios = np.array([[dish.tpo] for dish in dishes])
    receptor = np.array([[dish.receptor] for dish in dishes])
    read = assay.time_course([minutes / MINUTES_PER_HOUR], ratios, levels, p, receptor)
    early = np.stack([leaf[-1] for leaf in read])
    late = np.stack(assay.at_rest(ratios, levels, p, receptor))
    course = np.stack(assay.time_course(times / MINUTES_PER_HOUR, ratios, few, p, receptor))

    values = {"value": early, "value_at_rest": late}
    if cells.draws is not None:
        values |= _bands(minutes / MINUTES_PER_HOUR, ratios, levels, cells.draws, receptor)
    response = _tidy({"medium": dishes, "concentration_nM": levels}, values, p, minutes=minutes)
    moved = np.moveaxis(course, 1, -1)  # readout, medium, concentration, time
    over_time = _tidy({"medium": dishes, "concentration_nM": few, "minutes": times}, {"value": moved}, p)
    summary = _summary(dishes, levels, {f"{minutes:g} min": early, "at rest": late}, p)
    return Result(response, over_time, summary, compare(cells))


def write(folder: Path, *, tpo: float, minutes: float, cells: Cells | None = None) -> Result:
    """Writes response.csv, time_course.csv, summary.csv, comparison.csv and assay.png into ``folder``.

    Returns the tables. InputErrors as in ``measure``.
    """
    result = measure(tpo=tpo, minutes=minutes, cells=cells)
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
    if compared["lower_nM"].notna().any():
        columns[2:4] = ["lower_nM", "upper_nM", "EC50_ng_per_ml", "ratio_to_in_vitro", "ratio_lower", "ratio_upper"]
        compared = compared.astype(object).where(compared.notna(), "")
    show_table(f"EC50 of {compared['drug'].iloc[0]}", columns, compared[columns].itertuples(index=False))
    say(f"Why they differ: {compared['reason'].iloc[-1]}.\n")


def _multiples() -> np.ndarray:
    """Concentrations of a response curve as multiples of the receptor EC50: 0, then evenly on the log scale."""
    return np.concatenate([[0.0], np.logspace(-DECADES, DECADES, 2 * DECADES * PER_DECADE + 1)])


def _bands(hours: float, tpo: Any, levels: Any, draws: Parameters, receptor: Any) -> dict[str, np.ndarray]:
    """95% bands over evenly spaced draws, each [readout, medium, concentration], by column of the response table."""
    few = curves.thinned(draws._asdict(), BAND_DRAWS)
    p = Parameters(**{name: jnp.asarray(leaf)[:, None, None] for name, leaf in few.items()})
    early = assay.time_course([hours], tpo, levels, p, receptor, BAND_STEP)
    read = {"value": [leaf[-1] for leaf in early], "value_at_rest": assay.at_rest(tpo, levels, p, receptor)}
    ends = dict(zip(("lower", "upper"), assay.INTERVAL, strict=True))
    return {f"{name}_{end}": np.quantile(np.stack(x), q, axis=1) for name, x in read.items() for end, q in ends.items()}


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
            for readout, by_dish in zip(assay.Readouts._fields, values, strict=True):
                found = assay.potency(levels, by_dish[m])
                mass = found.ec50_nM * float(p.molar_mass_g_per_mol) / 1000
                row = (dish.name, time, readout, found.bottom, found.top, found.ec50_nM, mass, found.hill_slope)
                rows.append((*row, found.misfit, assay.UNITS[readout]))
    columns = ["medium", "time", "readout", "bottom", "top", "EC50_nM", "EC50_ng_per_ml", "hill_slope"]
    return pd.DataFrame(rows, columns=[*columns, "fit_error_share", "unit"])
