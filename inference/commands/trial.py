"""``pkpd trial``: operating characteristics of a design, from the library's values or from a posterior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inference import output
from inference.console import say, show_table
from inference.manifest import write_manifest
from inference.progress import bars
from inference.startup import start_jax
from inference.store import check_run

DIGITS = "%.10g"


def run(
    scenario: str,
    *,
    settings: Sequence[str],
    posterior: Path | None,
    out: Path | None,
    null: bool,
    seed: int,
    engine: str,
    force: bool,
) -> None:
    """Simulates the trials of a scenario, prints their summary, and writes it if ``out`` is given."""
    from pkpd.scenario import load_scenario

    design = load_scenario(scenario, settings)
    if posterior is not None:
        check_run(posterior)
    if out is not None:
        output.refuse_existing_run(out, force=force)
    start_jax()
    from inference.report.trial import trial_report
    from inference.trials import run_trial

    with bars() as progress:
        table = run_trial(design, posterior=posterior, seed=seed, engine=engine, null=null, progress=progress)
    show_table(f"trial: {scenario}", list(table.columns), table.itertuples(index=False))
    if out is None:
        return
    with output.run_directory(out, force=force) as folder:
        output.write_text(folder / "summary.csv", table.to_csv(index=False, float_format=DIGITS))
        write_manifest(folder, "trial", seed, {"scenario": repr(design) + (", null" if null else "")})
        trial_report(folder, design, table, posterior, seed, engine, null)
    say(f"{out / 'summary.csv'}: {len(table)} rows")
