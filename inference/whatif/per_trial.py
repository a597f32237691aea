"""The table of single trials, a row each: what every arm counted, and what the analysis found and decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from inference.whatif import further
from inference.whatif.characteristics import TRIAL, effect_of, estimated, patients
from inference.whatif.counts import Counts, by_endpoint, looks_of
from inference.whatif.decisions import columns_of, decide

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

FILE = "trials.parquet"
ROWS = 10_000  # written at a time


@contextmanager
def writing(path: Path, design: Scenario, n_draws: int) -> Iterator[Callable[[Counts], None]]:
    """A function that is given the counts of consecutive trials, and writes the table of single trials as Parquet.

    Columns, in this order:
    trial: number from 0. draw: number of the posterior draw that all patients of the trial follow; 0 without posterior.
    ``ARM: ENDPOINT``: patients of the arm with the endpoint, for every arm and endpoint, at the end of the trial.
    ``ARM: mean FURTHER``: mean (share) over its patients of what ``whatif.further`` names, nan where it is of nobody.
    For every comparison of the analysis, each at the look that ended it, where those are the patients seen by then:
    ``ARM vs CONTROL: risk_difference`` (or another effect, as the test estimates it), ``..: lower``, ``..: upper``: of
    the analysis' endpoint, and the bounds of its interval at the analysis' confidence. ``..: rejected``: whether the
    null was. ``..: look``: number of that look, from 1. ``..: futile``: whether it ended as futile; with interims only.
    ``..: dropped``: whether the arm was, where losers are. ``..: extended``: whether a re-estimation added patients.
    ``ARM vs CONTROL: ENDPOINT: ..``: effect, bounds and rejection of each secondary endpoint, at the same look.
    ``whole trial: patients``: whose outcomes were used, with interims only.
    """
    writer: pq.ParquetWriter | None = None
    waiting: list[pa.Table] = []
    first = 0

    def groups(least: int) -> None:
        """Writes groups of ROWS rows, wherever the parts end, while ``least`` are waiting."""
        nonlocal writer, waiting
        while sum(part.num_rows for part in waiting) >= least:
            rows = pa.concat_tables(waiting).combine_chunks()
            writer = writer or pq.ParquetWriter(path, rows.schema)
            writer.write_table(rows.slice(0, ROWS))
            waiting = [rows.slice(ROWS)]

    def write(counts: Counts) -> None:
        nonlocal first
        waiting.append(pa.Table.from_pandas(rows_of(design, counts, first, n_draws), preserve_index=False))
        first += waiting[-1].num_rows
        groups(ROWS)

    try:
        yield write
        groups(1)
    finally:
        if writer is not None:
            writer.close()


def rows_of(design: Scenario, counts: Counts, first: int, n_draws: int) -> pd.DataFrame:
    """The rows of trials from ``first`` on."""
    n_trials = len(next(iter(counts.by_arm.values())))
    trial = first + np.arange(n_trials, dtype=np.int32)
    columns: dict[str, np.ndarray] = {"trial": trial, "draw": trial % np.int32(n_draws)}
    for arm in design.arms:
        for j, name in enumerate(counts.names):
            columns[f"{arm.name}: {name}"] = counts.by_arm[arm.name][:, j].astype(np.int32)
        if counts.sums is None or counts.numbers is None:
            continue
        for j, name in enumerate(further.names(design)):
            of = counts.numbers[arm.name][:, j]
            columns[f"{arm.name}: mean {name}"] = counts.sums[arm.name][:, j] / np.where(of > 0, of, np.nan)
    if design.analysis is None:
        return pd.DataFrame(columns)
    found, (_, active) = decide(design, counts), columns_of(design)
    for i, at in enumerate(active):
        look = found.look[:, i]
        figures = estimated(design, counts, i, look)
        comparison = f"{design.arms[at].name} vs {design.analysis.control}"
        for name, values in zip((effect_of(design.analysis), "lower", "upper"), figures, strict=True):
            columns[f"{comparison}: {name}"] = values
        columns[f"{comparison}: rejected"] = found.rejected[:, i]
        last = len(looks_of(design))
        columns[f"{comparison}: look"] = np.minimum(look + 1, last).astype(np.int32)
        if design.interims is None:
            continue
        columns[f"{comparison}: futile"] = found.futile[:, i]
        if design.interims.drop_losers is not None:
            columns[f"{comparison}: dropped"] = found.dropped[:, i]
        if design.interims.reestimate is not None:
            columns[f"{comparison}: extended"] = look >= last
    for k, (one, own) in enumerate(by_endpoint(design, counts)[1:]):
        for i, at in enumerate(active):
            assert one.analysis is not None
            comparison = f"{design.arms[at].name} vs {one.analysis.control}: {design.analysis.secondary[k].label}"
            figures = estimated(one, own, i, found.look[:, i])
            for name, values in zip((effect_of(one.analysis), "lower", "upper"), figures, strict=True):
                columns[f"{comparison}: {name}"] = values
            columns[f"{comparison}: rejected"] = found.secondary[:, i, k]
    if design.interims is not None:
        columns[f"{TRIAL}: patients"] = patients(design, found).astype(np.int32)
    return pd.DataFrame(columns)
