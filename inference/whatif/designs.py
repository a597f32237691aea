"""Designs side by side under common random numbers: differences between them, with the error of the pairs.

Trial t of one design and trial t of another follow the same posterior draw, and a patient of the same number is the
same patient with the same random numbers. So what a change of the design does shows with a smaller error than between
independent trials; ``trials_saved`` says how much smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from inference.whatif.errors import NORMAL_95, clustered_se

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

DIFFERENCE_COLUMNS = (
    "design", "against", "comparison", "quantity", "difference", "mc_se", "lower", "upper", "mc_se_if_independent",
    "trials_saved", "n_trials",
)  # fmt: skip


SHOWN = ("rescue", "share_in_range", "overshoot_400")  # of an arm, beside its first endpoint and its power


class Design(NamedTuple):
    """A design that was simulated: its name, swept values by key, scenario, table of single trials and summary."""

    name: str
    swept: Mapping[str, Any]
    scenario: Scenario
    trials: pd.DataFrame
    summary: pd.DataFrame


def per_trial(design: Design) -> dict[tuple[str, str], np.ndarray]:
    """What each trial found, by comparison (or arm) and quantity: rates, means, effects, whether it rejected."""
    n = {arm.name: arm.n for arm in design.scenario.arms}
    found: dict[tuple[str, str], np.ndarray] = {}
    for column in design.trials.columns.drop(["trial", "draw"]):
        of, _, quantity = column.rpartition(": ")
        values = design.trials[column].to_numpy(np.float64)
        if of in n and quantity.startswith("mean "):
            found[of, quantity.removeprefix("mean ")] = values
        elif of in n:
            found[of, quantity] = values / n[of]
        elif quantity not in ("lower", "upper", "look", "futile"):
            found[of, "power" if quantity == "rejected" else quantity] = values
    return found


def differences(design: Design, against: Design) -> pd.DataFrame:
    """Every quantity that both designs have, this one less the other, over the trials of both.

    ``mc_se``: of the paired difference, clustered by posterior draw. ``mc_se_if_independent``: had the trials of the
    two nothing in common. ``trials_saved``: how many times as many independent trials would give the paired error.
    Trials in which a quantity is of nobody are left out.
    """
    here, there = per_trial(design), per_trial(against)
    rows = []
    for comparison, quantity in here:
        if (comparison, quantity) not in there:
            continue
        two = [x[comparison, quantity] for x in (here, there)]
        n = min(map(len, two))
        x, y = (values[:n] for values in two)
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() < 2:
            continue
        x, y = x[known], y[known]
        _, cluster = np.unique(design.trials["draw"].to_numpy()[:n][known], return_inverse=True)
        difference, se = float((x - y).mean()), clustered_se(x - y, cluster)
        independent = float(np.hypot(clustered_se(x, cluster), clustered_se(y, cluster)))
        rows.append(
            (
                design.name, against.name, comparison, quantity, difference, se, difference - NORMAL_95 * se,
                difference + NORMAL_95 * se, independent, (independent / se) ** 2 if se > 0 else np.nan, len(x),
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)


def together(designs: Sequence[Design]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The summaries of all designs, named as they are told apart, and the differences of each to the first."""
    summary = pd.concat([d.summary.assign(design=d.name) for d in designs], ignore_index=True)
    return summary, pd.concat([differences(d, designs[0]) for d in designs[1:]], ignore_index=True)


def curves(designs: Sequence[Design]) -> pd.DataFrame:
    """Powers of all designs, a row each, with a column for every swept key."""
    rows = []
    for d in designs:
        powers = d.summary[d.summary["quantity"].str.match("(power|type_1_error)_")]
        for row in powers.itertuples(index=False):
            rows.append({**d.swept, **{k: getattr(row, k) for k in ("comparison", "quantity", "estimate", "mc_se")}})
    return pd.DataFrame(rows)


def overview(designs: Sequence[Design]) -> pd.DataFrame:
    """The first endpoint, SHOWN and the power of every arm of every design: percent, with the error in brackets."""
    rows = []
    for d in designs:
        found = {(r.comparison, r.quantity): (r.estimate, r.mc_se) for r in d.summary.itertuples()}
        for arm, cells in _cells(d, found):
            rows.append({**swept_labels(designs)(d), "arm": arm, **{k: _percent(*x) for k, x in cells.items()}})
    return pd.DataFrame(rows).fillna("")


def overview_of_differences(designs: Sequence[Design], table: pd.DataFrame) -> pd.DataFrame:
    """The same less the first design, in points, from ``differences``; arms that no design changes are left out.

    ``trials_saved``: of the first endpoint.
    """
    rows = []
    for d in designs[1:]:
        own = table[table["design"] == d.name]
        found = {(r.comparison, r.quantity): (r.difference, r.mc_se) for r in own.itertuples()}
        saved = {(r.comparison, r.quantity): r.trials_saved for r in own.itertuples()}
        for arm, cells in _cells(d, found):
            if any(se > 0 or difference for difference, se in cells.values()):
                shown = {k: _percent(*x, sign="+", unit="") for k, x in cells.items()}
                times = saved.get((arm, next(iter(cells))), float("nan"))
                more = {"trials_saved": f"{times:.1f} times" if np.isfinite(times) else ""}
                rows.append({**swept_labels(designs)(d), "arm": arm, **shown, **more})
    return pd.DataFrame(rows).fillna("")


def swept_labels(designs: Sequence[Design]) -> Callable[[Design], dict[str, str]]:
    """A function of a design: its swept values by the last part of their key, or by the whole where two end alike."""
    keys = list(designs[0].swept)
    ends = [key.rpartition(".")[2] for key in keys]
    short = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
    return lambda d: {short[key]: str(value) for key, value in d.swept.items()}


Figures = Mapping[tuple[str, str], tuple[float, float]]


def _cells(d: Design, found: Figures) -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    """By arm of a design: the figures that its overview shows, by their names."""
    first = d.summary["quantity"].iloc[0]
    analysis = d.scenario.analysis
    for arm in d.scenario.arms:
        keys = {name: (arm.name, name) for name in (first, *SHOWN)}
        if analysis is not None:
            of, test = f"{arm.name} vs {analysis.control}", analysis.test
            named = {"power": f"power_{test}", "type_1_error": f"type_1_error_{test}"}  # as the summary calls them
            keys |= {name: (of, quantity if (of, quantity) in found else name) for name, quantity in named.items()}
        yield arm.name, {name: found[key] for name, key in keys.items() if key in found}


def _percent(value: float, se: float, sign: str = "", unit: str = "%") -> str:
    """A share as percent, with as many digits as its error has two."""
    if not np.isfinite(value):
        return ""
    digits = 1 if not np.isfinite(se) or se >= 0.001 else 2
    return f"{100 * value:{sign}.{digits}f}{unit} ({100 * se:.{digits}f})"
