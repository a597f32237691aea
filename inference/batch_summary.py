"""What came of a batch: ``summary.csv``, a row a run; ``parameters.csv``, a row a run and parameter; in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inference import store
from inference.console import say, show_table
from inference.output import refuse_existing_file, write_text
from inference.sweeps import Job
from pkpd.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY, PARAMETERS = "summary.csv", "parameters.csv"
FAILED = "failed"
FIGURES = ("rhat_max", "ess_bulk_min", "divergences", "surface_error_rms", "khat", "correction_ess", "runs_difference")
SHOWN = {"run": "run", "status": "status", "verdict": "verdict", "minutes": "minutes", "rhat_max": "R-hat",
         "ess_bulk_min": "bulk ESS", "surface_error_rms": "surface error", "khat": "k-hat",
         "runs_difference": "runs differ"}  # fmt: skip


class Outcome(NamedTuple):
    """What became of a job: "new", "changed", "unchanged", "failed" or "not finished"; and why."""

    status: str
    note: str = ""


def check(out: Path) -> None:
    """InputError if the tables of a batch may not be written to a folder, or would replace what is none of them."""
    if (out / store.RUN_MARK).exists():
        raise InputError(f"{out}: is the run folder of one fit; choose another folder for several")
    for name in (SUMMARY, PARAMETERS):
        refuse_existing_file(out / name, force=True)
        if (out / name).exists() and not (out / name).read_bytes().startswith(b"run,config,"):
            raise InputError(f"{out / name}: is not the table of a batch; choose another folder")


def results(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Diagnostics of a finished run and its table of parameters, digits as they are; InputError if it is damaged."""
    import pandas as pd

    store.check_run(folder)
    found = store.read_json(folder / store.DIAGNOSTICS)
    try:
        table = pd.read_csv(folder / store.SUMMARY, dtype=str, keep_default_na=False)
        found = found | {"reasons": "; ".join(found["reasons"]), "seconds": float(sum(found["seconds"].values()))}
        sound = isinstance(found["verdict"], str) and tuple(table.columns) == store.COLUMNS
    except (KeyError, TypeError, ValueError, AttributeError, OSError):
        sound = False
    if not sound:
        raise InputError(f"{folder}: the run is damaged: fit again")
    return found, table


def write(out: Path, outcomes: Sequence[tuple[Job, Outcome]]) -> pd.DataFrame:
    """Writes both tables, runs in the order given; returns the summary.

    ``seconds`` are those of the computation as the run has measured them; figures are as in its ``diagnostics.json``.
    """
    import pandas as pd

    summaries, parameters = [], []
    for job, (status, note) in outcomes:
        ids = {"run": job.name, "config": job.file.name if job.file else "", **job.swept}
        found: dict[str, Any] = {}
        if status not in (FAILED, "not finished"):
            found, table = results(out / job.name)
            parameters.append(pd.DataFrame({key: [value] * len(table) for key, value in ids.items()}).join(table))
        summaries.append(
            ids
            | {"status": status}
            | {name: found.get(name) for name in ("verdict", "reasons", "seconds", *FIGURES)}
            | {"note": note}
        )
    summary = pd.DataFrame(summaries)
    columns = [*summary.columns[: summary.columns.get_loc("status")], *store.COLUMNS]
    everything = pd.concat(parameters) if parameters else pd.DataFrame(columns=columns)
    for name, table in ((SUMMARY, summary), (PARAMETERS, everything)):
        write_text(out / name, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return summary


def show(out: Path, summary: pd.DataFrame) -> None:
    """Prints the summary, and every failure with its cause."""
    shown = summary.assign(minutes=(summary["seconds"].astype(float) / 60).round(2))[list(SHOWN)]
    rows = shown.astype(object).where(shown.notna(), "")
    show_table(f"{len(rows)} runs in {out}", list(SHOWN.values()), rows.itertuples(index=False))
    for row in summary.itertuples():
        if row.status == FAILED:
            say(f"{row.run}: failed: {row.note}")
        elif row.verdict == FAILED:
            say(f"{row.run}: verdict failed: {row.reasons}")
    say(f"tables: {out / SUMMARY}, {out / PARAMETERS}")
