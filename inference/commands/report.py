"""``pkpd report``: the report of a run folder, made again."""

from __future__ import annotations

from pathlib import Path

from inference.console import say
from inference.startup import start_jax
from inference.store import check_run


def run(folder: Path) -> None:
    """Rebuilds ``report.html`` of a run."""
    check_run(folder)
    start_jax()
    from inference import report

    report.build(folder)
    say(f"report: {folder / 'report.html'}")
