"""``pkpd simulate``: the virtual cohort of a scenario as Parquet, or as a table of shares, moments and quantiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inference import output
from inference.console import say
from inference.progress import bars
from inference.startup import start_jax
from inference.store import check_run
from pkpd.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 2**17  # of a row group at least: readers skip and prefetch whole groups
DIGITS = "%.10g"


def run(
    scenario: str,
    *,
    posterior: Path | None,
    out: Path | None,
    summary: Path | None,
    patients: int | None,
    seed: int,
    engine: str,
    force: bool,
) -> None:
    """Simulates every arm and writes the cohort, or its summary, part by part: memory does not grow with its size."""
    from pkpd.scenario import load_scenario

    if out is not None and summary is not None:
        raise InputError("--out writes the patients and --summary their summary; give one of them")
    design = load_scenario(scenario)
    if patients is not None:
        arms = tuple(arm.model_copy(update={"n": patients}) for arm in design.arms)
        design = design.model_copy(update={"arms": arms})
    if posterior is not None:
        check_run(posterior)
    file = summary or out or Path(f"{Path(scenario).stem}.parquet")
    output.refuse_existing_file(file, force=force)
    start_jax()
    from inference.trials import simulate_cohort, summarise_cohort

    with bars() as progress:
        if summary is not None:
            table = summarise_cohort(design, posterior=posterior, seed=seed, engine=engine, progress=progress)
            output.write_text(file, table.to_csv(index=False, float_format=DIGITS), force=force)
            rows = len(table)
        else:
            parts = simulate_cohort(design, posterior=posterior, seed=seed, engine=engine, progress=progress)
            with output.atomic_path(file, force=force) as path:
                rows = write_parquet(path, parts)
    say(f"{file}: {rows} rows")


def write_parquet(path: Path, parts: Iterable) -> int:
    """Writes tables as they come, in row groups of at least ROWS rows but the last; returns the number of rows."""
    import pyarrow.parquet as pq

    rows, writer = 0, None
    try:
        for group in _groups(parts):
            writer = writer or pq.ParquetWriter(path, group.schema)
            writer.write_table(group, row_group_size=len(group))
            rows += len(group)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _groups(parts: Iterable) -> Iterator[pa.Table]:
    import pyarrow as pa

    held: list[pa.Table] = []
    for part in parts:
        table = pa.Table.from_pandas(part, preserve_index=False)
        # a word for every arm, whatever its coding in memory
        held.append(table.set_column(0, "arm", table["arm"].cast(pa.string())))
        if sum(map(len, held)) >= ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
