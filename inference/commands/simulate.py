"""``pkpd simulate``: the virtual cohort of a scenario as Parquet, a row a patient and visit."""

from __future__ import annotations

from pathlib import Path

from inference import output
from inference.console import say
from inference.progress import bars
from inference.startup import start_jax
from inference.store import check_run


def run(scenario: str, *, posterior: Path | None, out: Path | None, seed: int, engine: str, force: bool) -> None:
    """Simulates every arm and writes the cohort part by part, so that memory does not grow with its size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pkpd.scenario import load_scenario

    design = load_scenario(scenario)
    if posterior is not None:
        check_run(posterior)
    out = out or Path(f"{Path(scenario).stem}.parquet")
    output.refuse_existing_file(out, force=force)
    start_jax()
    from inference.trials import simulate_cohort

    rows = 0
    with bars() as progress, output.atomic_path(out, force=force) as path:
        writer: pq.ParquetWriter | None = None
        try:
            for part in simulate_cohort(design, posterior=posterior, seed=seed, engine=engine, progress=progress):
                table = pa.Table.from_pandas(part, preserve_index=False)
                writer = writer or pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
                rows += len(part)
        finally:
            if writer is not None:
                writer.close()
    say(f"{out}: {rows} rows")
