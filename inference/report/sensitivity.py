"""What the page of a trial shows of the sensitivity to its assumptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from inference.report.protocol import words
from inference.whatif import sensitivity

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

PANELS = 4  # quantities that are shown, in the picture and beside each other in the table
BARS = 16  # assumptions in the picture

Quantity = tuple[str, str]  # of what (a comparison or an arm), and its name


class Change(NamedTuple):
    """A change in percentage points with its Monte Carlo error, and whether it lies within two of them."""

    points: float
    error: float
    noise: bool


class Row(NamedTuple):
    """An assumption with the changes of each shown quantity at its low and high value; None where it is not varied."""

    name: str
    of: str
    unit: str
    value: float
    low: float | None
    high: float | None
    range: str
    changes: dict[Quantity, tuple[Change | None, Change | None]]

    @property
    def largest(self) -> float:
        """The largest change beyond its noise, in points; 0 where there is none."""
        every = [c for pair in self.changes.values() for c in pair if c is not None and not c.noise]
        return max((abs(c.points) for c in every), default=0.0)


def shown(design: Scenario, table: pd.DataFrame) -> list[Quantity]:
    """Powers and main endpoints that any assumption moves, in this order; at most PANELS."""
    real = {(row.comparison, row.quantity) for row in table[~table["within_2_errors"]].itertuples()}
    return [q for q in _rates(design, table) if q in real][:PANELS]


def unmoved(design: Scenario, table: pd.DataFrame) -> list[Quantity]:
    """Those that no assumption moves beyond the noise."""
    real = {(row.comparison, row.quantity) for row in table[~table["within_2_errors"]].itertuples()}
    return [q for q in _rates(design, table) if q not in real]


def _rates(design: Scenario, table: pd.DataFrame) -> list[Quantity]:
    there = set(zip(table["comparison"], table["quantity"], strict=True))
    rates = ("power", "relapse", sensitivity.main_endpoint(design))
    wanted = [q for q in sensitivity.quantities(design) if q[1] in rates]
    null = [(of, "type_1_error" if name == "power" else name) for of, name in wanted]
    return [q for q in dict.fromkeys([*wanted, *null]) if q in there]


def rows(table: pd.DataFrame, quantities: list[Quantity]) -> list[Row]:
    """Every assumption of the table, the largest change first."""
    found = []
    for (name, of), own in table.groupby(["assumption", "of"], sort=False):
        first, at = own.iloc[0], own.drop_duplicates("setting").set_index("setting")["at"]
        cells = own.set_index(["comparison", "quantity", "setting"])
        changes = {q: (_change(cells, q, "low"), _change(cells, q, "high")) for q in quantities}
        low, high = (float(at[k]) if k in at else None for k in ("low", "high"))
        found.append(Row(str(name), str(of), first["unit"], float(first["value"]), low, high, first["range"], changes))
    return sorted(found, key=lambda row: -row.largest)


def _change(cells: pd.DataFrame, quantity: Quantity, setting: str) -> Change | None:
    key = (*quantity, setting)
    if key not in cells.index:
        return None
    row = cells.loc[key]
    return Change(100 * float(row["difference"]), 100 * float(row["mc_se"]), bool(row["within_2_errors"]))


def said(quantity: Quantity) -> str:
    """A quantity in words, with whose it is."""
    return f"{words(quantity[1])}: {quantity[0]}"


def context(design: Scenario, table: pd.DataFrame) -> dict[str, Any]:
    """What the template needs of the table."""
    quantities = shown(design, table)
    every = rows(table, quantities)
    return {
        "quantities": quantities,
        "said": [said(q) for q in quantities],
        "unmoved": [said(q) for q in unmoved(design, table)],
        "moved": [row for row in every if row.largest > 0],
        "still": [row for row in every if row.largest == 0],
        "n_trials": int(table["n_trials"].max()),
        "changes": sum(c is not None for row in every for pair in row.changes.values() for c in pair),
        "bars": BARS,
    }
