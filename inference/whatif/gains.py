"""Counterfactual patients: the same virtual patients under two designs, who gains and who loses, by covariates.

A patient is one of a trial, a draw and a number, and these decide its random numbers. So patients are paired within
arms of the same name whose patients have the same numbers: arms whose first patient differs (as all arms after one
whose size was changed) hold other patients and are left out, and of arms that differ in size those in both are paired.
Arms of a trial with ``[randomisation]`` are paired where that and the sizes of all arms are the same in both designs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from inference.whatif.designs import Design
from inference.whatif.patients import outcome_name
from inference.whatif.runs import Chunk, chunks
from pkpd import outcomes
from pkpd.planned import first_patients

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

FILE = "gains.csv"
COLUMNS = (
    "design", "against", "arm", "endpoint", "band", "patients", "both", "only_design", "only_against", "neither",
    "net_gain", "net_gain_mc_se", "days_above_250_change", "days_above_250_change_mc_se",
)  # fmt: skip
BASELINE = 15.0  # 1e9/L
IN_THIRDS = ("weight_kg", "receptor_ec50_nM")
READ = ("trial", "draw", "patient", "baseline_1e9_per_l", *IN_THIRDS, "days_above_250")
PAIR = ["trial", "draw", "patient"]
ROWS = 2**17  # patients of an arm held at a time, unless one trial has more

Bands = dict[str, Callable[[pd.DataFrame], pd.Series]]


def gains(designs: Sequence[Design], files: Mapping[str, Path]) -> pd.DataFrame:
    """Each design against the first, from the ``patients.parquet`` of each, by arm and band of the first design's
    covariates (``bands_of``). Memory does not grow with the trials.

    endpoint: the binary endpoint of the analysis, else the landmark response. both, only_design, only_against, neither:
    shares of the patients who have it under both designs, and so on. net_gain: only_design less only_against.
    days_above_250_change: mean over patients. Errors are clustered by posterior draw; without a posterior patients are
    independent. A design of another endpoint or number of posterior draws than the first is left out.
    """
    rows = []
    for design in designs[1:]:
        endpoint, column = _response(design.scenario)
        if (endpoint, column) != _response(designs[0].scenario) or _draws(design) != _draws(designs[0]):
            continue
        for arm, n in paired_arms(design.scenario, designs[0].scenario).items():
            two = [(files[d.name], column) for d in (designs[0], design)]
            for band, totals in _totals(two, arm, n, min(len(d.trials) for d in (designs[0], design))).items():
                rows.append((design.name, designs[0].name, arm, endpoint, band, *_row(totals)))
    return pd.DataFrame(rows, columns=COLUMNS)


def paired_arms(design: Scenario, against: Scenario) -> dict[str, int]:
    """Arms that hold the same patients in both designs, and how many: the smaller number of the two."""
    both = []
    for s in (design, against):
        sizes = [arm.n for arm in s.arms]
        both.append({arm.name: (k, arm.n) for arm, k in zip(s.arms, first_patients(s, sizes), strict=True)})
    here, there = both
    if design.randomisation or against.randomisation:
        same = design.randomisation == against.randomisation and list(here.items()) == list(there.items())
        return {name: n for name, (_, n) in here.items()} if same else {}
    return {name: min(n, there[name][1]) for name, (k, n) in here.items() if name in there and there[name][0] == k}


def bands_of(people: pd.DataFrame) -> Bands:
    """Bands by name: all; baseline below and from BASELINE; thirds of weight and EC50, whose limits are those of these
    patients, in three digits. Limits that coincide make no thirds.
    """
    found: Bands = {"all": lambda p: pd.Series(True, p.index)}
    found |= _between("baseline_1e9_per_l", [-np.inf, BASELINE, np.inf])
    for name in IN_THIRDS:
        limits = [float(f"{x:.3g}") for x in np.quantile(people[name], [1 / 3, 2 / 3])]
        if limits[0] < limits[1]:
            found |= _between(name, [-np.inf, *limits, np.inf])
    return found


def _between(name: str, limits: Sequence[float]) -> Bands:
    found: Bands = {}
    for low, high in itertools.pairwise(limits):
        below = f"below {high:g}" if np.isfinite(high) else ""
        words = " to ".join(part for part in (f"from {low:g}" if np.isfinite(low) else "", below) if part)
        found[f"{name} {words}"] = partial(_inside, name, low, high)
    return found


def _inside(name: str, low: float, high: float, people: pd.DataFrame) -> pd.Series:
    return (people[name] >= low) & (people[name] < high)


def _response(design: Scenario) -> tuple[str, str]:
    """The endpoint that is gained, and its column."""
    name = outcome_name(design)
    return (name, "outcome") if outcomes.kind(name) == "binary" else (design.endpoint_names[0], "landmark_response")


def _draws(design: Design) -> int:
    return int(design.summary["n_draws"].max())


def _totals(two: Sequence[tuple[Path, str]], arm: str, n: int, n_trials: int) -> dict[str, pd.DataFrame]:
    """By band, sums over the paired patients of each draw; ``two``: files and columns, the first design's first."""
    bands: Bands = {}
    totals: dict[str, pd.DataFrame] = {}
    for block in chunks(n_trials, max(1, ROWS // n)):
        against, here = (_read(file, column, arm, block) for file, column in two)
        pairs = against.merge(here[[*PAIR, "has", "days_above_250"]], on=PAIR, suffixes=("_against", ""))
        pairs = pairs[pairs["has"].notna() & pairs["has_against"].notna()]
        if not len(pairs):
            continue
        bands = bands or bands_of(pairs)
        values = _values(pairs)
        for name, inside in bands.items():
            own = values[inside(pairs)].groupby("draw").sum()
            totals[name] = own if name not in totals else totals[name].add(own, fill_value=0)
    return {name: total for name, total in totals.items() if len(total)}


def _read(file: Path, column: str, arm: str, block: Chunk) -> pd.DataFrame:
    """Patients of an arm in some of the trials; ``has`` is 1 or 0 of the endpoint, nan where it is of nobody."""
    within = [("arm", "=", arm), ("trial", ">=", block.first), ("trial", "<", block.first + block.n)]
    table = pq.read_table(file, columns=[*READ, column], filters=within).to_pandas()
    return table.assign(has=table[column].astype(np.float64))


def _values(pairs: pd.DataFrame) -> pd.DataFrame:
    """What is summed of every pair."""
    here, there = pairs["has"] > 0, pairs["has_against"] > 0
    gain = here.astype(np.float64) - there
    days = pairs["days_above_250"].astype(np.float64) - pairs["days_above_250_against"]
    return pd.DataFrame(
        {
            "draw": pairs["draw"], "patients": 1.0, "both": here & there, "only_design": here & ~there,
            "only_against": there & ~here, "neither": ~here & ~there, "gain": gain, "gain_2": gain**2, "days": days,
            "days_2": days**2,
        }
    )  # fmt: skip


def _row(totals: pd.DataFrame) -> tuple[float, ...]:
    """Columns of ``gains`` from ``patients`` on."""
    n = totals["patients"].sum()
    shares = (totals[name].sum() / n for name in ("both", "only_design", "only_against", "neither"))
    found = [x for name in ("gain", "days") for x in _mean_and_error(totals, name)]
    return (int(n), *shares, *found)


def _mean_and_error(totals: pd.DataFrame, name: str) -> tuple[float, float]:
    """As ``errors.clustered_se`` of every patient's value, from sums by draw."""
    n, C = totals["patients"].sum(), len(totals)
    mean = totals[name].sum() / n
    if C > 1:
        left = totals[name] - mean * totals["patients"]
        return float(mean), float(np.sqrt(C / (C - 1) * (left**2).sum()) / n)
    squares = totals[f"{name}_2"].sum() - n * mean**2
    return float(mean), float(np.sqrt(max(squares, 0.0) / (n - 1) / n)) if n > 1 else float("nan")
