"""``pkpd report``: the report of a run folder, made again."""

from __future__ import annotations

from pathlib import Path

from inference.console import say
from inference.startup import start_jax
from pkpd.errors import InputError

NEEDED = ("config.toml", "posterior.nc", "summary.csv", "diagnostics.json")


def check_run(folder: Path) -> None:
    """InputError unless ``folder`` is a run folder of a fit with all its files."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; the run folder of a fit is expected")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: is not the run folder of a fit: {missing[0]} is missing")


def run(folder: Path) -> None:
    """Rebuilds ``report.html`` of a run."""
    check_run(folder)
    start_jax()
    from inference import report

    report.build(folder)
    say(f"report: {folder / 'report.html'}")
