"""``pkpd profile``: one patient with explicit parameters, as CSV."""

from __future__ import annotations

from pathlib import Path

from inference import output
from inference.console import say
from inference.startup import start_jax
from pkpd.case import load_case

DIGITS = "%.12g"


def run(case: Path, *, out: Path, solver: str, force: bool) -> None:
    """Solves the case and writes its table to ``out``."""
    load_case(case)  # what is wrong with it is told before anything is computed
    output.refuse_existing_file(out, force=force)
    start_jax()
    from pkpd.profile import run_case

    table = run_case(case, solver)
    with output.atomic_path(out, force=force) as path:
        table.to_csv(path, index=False, float_format=DIGITS)
    say(f"{out}: {len(table)} times, {len(table.columns)} columns, solver {solver}")
