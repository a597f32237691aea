"""Tables of published numbers: one row is one number with its source. Reads and checks them line by line.

The shipped tables lie in ``data/`` of a checkout and in ``pkpd/data`` of an installed package; a study of
one's own has the same columns. What a quantity is, its unit and its range stand in ``quantities.csv``.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pkpd.errors import InputError, nearest
from pkpd.tables import STATUSES

REQUIRED = ("study", "arm", "n", "quantity", "value", "unit", "status", "source")
OPTIONAL = ("time_d", "dose_mg", "spread", "spread_type", "lower", "upper", "doi", "note")
COLUMNS = (*REQUIRED[:6], *OPTIONAL[:6], *REQUIRED[6:], *OPTIONAL[6:])
NUMBERS = ("value", "time_d", "dose_mg", "spread", "lower", "upper")
# A user's own numbers are neither published nor assumed; no shipped row is of this status.
TABLE_STATUSES = (*STATUSES, "unpublished")
SPREADS_OF_SIZE = ("sd", "se", "cv_percent")
SPREADS_OF_LIMITS = ("range", "iqr", "ci90", "ci95")
# Each counts patients who are all among those of the second.
NESTED = (("response_week_8", "response_any"), ("response_75", "response_any"))
LARGEST_N = 10_000_000


class Quantity(NamedTuple):
    """What a quantity is: ``kind`` is ``count`` (whole patients out of n) or ``number``."""

    kind: str
    unit: str
    lower: float
    upper: float
    description: str


def data_folder() -> Path:
    """Folder of the shipped tables: inside an installed package, else at the top of the checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "quantities.csv").is_file():
            return folder
    raise InputError(f"{package / 'data'}: the published data are missing; install the package again")


def table_names() -> tuple[str, ...]:
    """Names of the shipped tables, for ``published``."""
    return tuple(sorted(path.stem for path in data_folder().glob("*.csv") if path.stem != "quantities"))


def published(name: str) -> pd.DataFrame:
    """A shipped table by name, such as ``phase3_arms``; InputError suggests the nearest name.

    >>> int(published("in_vitro").query("arm == '32D-MPL, hetrombopag'").shape[0])
    1
    """
    if name not in table_names():
        raise InputError(f"unknown data table {name!r}{nearest(str(name), table_names())}")
    return read_table(data_folder() / f"{name}.csv")


@lru_cache(maxsize=1)
def quantities() -> Mapping[str, Quantity]:
    """Every legal quantity by name."""
    path = data_folder() / "quantities.csv"
    legal = {}
    for _, row in records(path, ("quantity", *Quantity._fields), ()):
        upper = float(row["upper"]) if row["upper"] else math.inf
        legal[row["quantity"]] = Quantity(row["kind"], row["unit"], float(row["lower"]), upper, row["description"])
    return legal


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of study results, checked; columns as ``COLUMNS``, absent optional ones filled with blanks.

    Text columns are strings, ``n`` a nullable integer, the rest floats with NaN for blank. Raises InputError
    that names file, line (of the file, the header being 1), column, value and what is legal.
    """
    path = Path(path)
    rows = [(line, _row(text, f"{path}: line {line}")) for line, text in records(path, REQUIRED, OPTIONAL)]
    if not rows:
        raise InputError(f"{path}: no rows below the header; legal: at least one")
    _check_times(rows, path)
    _check_nested(rows, path)
    frame = pd.DataFrame([row for _, row in rows], columns=list(COLUMNS))
    return frame.astype({"n": "Int64"} | {column: "float64" for column in NUMBERS})


def arm_counts(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Counts by arm: a row for each (study, arm) that reports all of ``names``, columns ``n`` and names.

    Rows keep the order of the table. InputError if no arm has them all, if a quantity stands at several times
    in one arm, or if the n of an arm differs between them.
    """
    names = list(names)
    legal = quantities()
    for name in names:
        if name not in legal:
            raise InputError(f"unknown quantity {name!r}{nearest(str(name), legal)}")
    found = []
    for (study, arm), group in table[table["quantity"].isin(names)].groupby(["study", "arm"], sort=False):
        if set(group["quantity"]) != set(names):
            continue
        place = f"{study}, {arm}"
        if len(group) > len(names):
            raise InputError(f"{place}: a quantity at several times; legal: each of {', '.join(names)} once")
        sizes = sorted(set(group["n"].dropna()))
        if len(sizes) != 1 or group["n"].isna().any():
            raise InputError(f"{place}: n = {', '.join(map(str, sizes)) or 'blank'}; legal: one n for an arm")
        values = group.set_index("quantity")["value"]
        found.append({"study": study, "arm": arm, "n": int(sizes[0])} | {name: int(values[name]) for name in names})
    if not found:
        raise InputError(f"no arm reports all of {', '.join(names)}")
    return pd.DataFrame(found).set_index(["study", "arm"])


def records(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line, text by column) for each row of a CSV file; the header and the shape of each row are checked."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(header, required, optional, path)
            records, line = [], reader.line_num
            for cells in reader:
                start, line = line + 1, reader.line_num
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{path}: line {start}: {len(cells)} cells; legal: {len(header)}, as in the header"
                    )
                records.append((start, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
            return records
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; a CSV file is expected") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text (UTF-8); a CSV file is expected") from None
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: malformed CSV: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _check_header(header: list[str], required: tuple[str, ...], optional: tuple[str, ...], path: Path) -> None:
    if not any(header):
        raise InputError(f"{path}: empty; legal: a header with {', '.join(required)}")
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise InputError(f"{path}: line 1: columns are separated by {name}; legal: by commas, with decimal points")
    for column in header:
        if column not in (*required, *optional):
            raise InputError(f"{path}: line 1: unknown column {column!r}{nearest(column, (*required, *optional))}")
        if header.count(column) > 1:
            raise InputError(f"{path}: line 1: column {column!r} stands twice; legal: once")
    for column in required:
        if column not in header:
            raise InputError(f"{path}: line 1: missing column {column!r}")


def _row(text: Mapping[str, str], where: str) -> dict:
    """One row as typed values; InputError names column, value and what is legal."""
    row: dict = {column: text.get(column, "") for column in COLUMNS}
    for column in ("study", "arm", "quantity", "unit", "source", "value"):
        if not row[column]:
            raise InputError(f"{where}: {column} is blank; legal: a {'number' if column == 'value' else 'text'}")
    legal = quantities()
    if row["quantity"] not in legal:
        raise InputError(f"{where}: unknown quantity {row['quantity']!r}{nearest(row['quantity'], legal)}")
    quantity = legal[row["quantity"]]
    if row["unit"] != quantity.unit:
        raise InputError(f"{where}: unit = {row['unit']!r}: wrong for {row['quantity']}; legal: {quantity.unit!r}")
    if row["status"] not in TABLE_STATUSES:
        hint = nearest(row["status"], TABLE_STATUSES)
        raise InputError(f"{where}: status = {row['status']!r}: not legal{hint}")
    for column in NUMBERS:
        row[column] = _number(row[column], where, column)
    row["n"] = _whole(row["n"], where)
    for column in ("time_d", "dose_mg", "spread"):
        if row[column] < 0:
            raise InputError(f"{where}: {column} = {row[column]:g}: negative; legal: 0 or more")
    if not quantity.lower <= row["value"] <= quantity.upper:
        high = "" if math.isinf(quantity.upper) else f" and at most {quantity.upper:g}"
        raise InputError(f"{where}: value = {row['value']:g}: out of range; legal: at least {quantity.lower:g}{high}")
    if quantity.kind == "count":
        _check_count(row, where)
    _check_spread(row, where)
    return row


def _check_times(rows: list[tuple[int, dict]], path: Path) -> None:
    """InputError where a study, arm and quantity stands twice at one time, or at times that go back."""
    seen: dict[tuple, dict[float | None, int]] = {}
    for line, row in rows:
        times = seen.setdefault((row["study"], row["arm"], row["quantity"]), {})
        time = None if math.isnan(row["time_d"]) else row["time_d"]
        if time in times:
            raise InputError(
                f"{path}: line {line}: same study, arm, quantity and time_d as line {times[time]}; legal: once"
            )
        latest = max((t for t in times if t is not None), default=-math.inf)
        if time is not None and time < latest:
            raise InputError(
                f"{path}: line {line}: time_d = {time:g}: earlier than {latest:g} in line {times[latest]}; "
                "legal: times of a study, arm and quantity in increasing order"
            )
        times[time] = line


def _check_nested(rows: list[tuple[int, dict]], path: Path) -> None:
    """InputError where more patients have an event than have one that contains it."""
    counts = {(r["study"], r["arm"], str(r["time_d"]), r["quantity"]): (line, r["value"]) for line, r in rows}
    for (*place, name), (line, value) in counts.items():
        for inner, outer in NESTED:
            most = counts.get((*place, outer), (0, math.inf))[1]
            if name == inner and value > most:
                raise InputError(
                    f"{path}: line {line}: {inner} = {value:g}: more than {outer} = {most:g} of the same arm; "
                    "legal: at most that"
                )


def _number(text: str, where: str, column: str) -> float:
    if not text:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {column} = {text!r}: not a finite number; legal: a number such as 12.5")
    return number


def _whole(text: str, where: str) -> int | None:
    if not text:
        return None
    number = int(text) if re.fullmatch(r"[0-9]{1,12}", text) else 0
    if not 1 <= number <= LARGEST_N:
        raise InputError(f"{where}: n = {text!r}: not legal; legal: a whole number from 1 to {LARGEST_N}")
    return number


def _check_count(row: Mapping, where: str) -> None:
    if row["n"] is None:
        raise InputError(f"{where}: n is blank; legal: a whole number, since {row['quantity']} counts out of n")
    if row["value"] != int(row["value"]) or row["value"] > row["n"]:
        raise InputError(
            f"{where}: value = {row['value']:g}: not a count out of n; legal: a whole number from 0 to {row['n']}"
        )


def _check_spread(row: Mapping, where: str) -> None:
    kind = row["spread_type"]
    size, limits = not math.isnan(row["spread"]), [not math.isnan(row[c]) for c in ("lower", "upper")]
    if kind and kind not in (*SPREADS_OF_SIZE, *SPREADS_OF_LIMITS):
        hint = nearest(kind, (*SPREADS_OF_SIZE, *SPREADS_OF_LIMITS))
        raise InputError(f"{where}: spread_type = {kind!r}: not legal{hint}")
    wanted = (kind in SPREADS_OF_SIZE, kind in SPREADS_OF_LIMITS)
    if size != wanted[0] or limits != [wanted[1]] * 2:
        raise InputError(
            f"{where}: spread_type = {kind!r} does not fit; legal: {', '.join(SPREADS_OF_SIZE)} with spread, "
            f"{', '.join(SPREADS_OF_LIMITS)} with lower and upper, blank with neither"
        )
    if wanted[1] and not row["lower"] <= row["value"] <= row["upper"]:
        raise InputError(
            f"{where}: lower = {row['lower']:g}, upper = {row['upper']:g}: do not enclose the value "
            f"{row['value']:g}; legal: lower <= value <= upper"
        )
