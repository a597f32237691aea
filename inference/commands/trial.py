"""``pkpd trial``: operating characteristics of a design, from the library's values or from a posterior."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from inference import checkpoint, output, sweeps
from inference.console import say, show_table
from inference.manifest import hashes, write_manifest
from inference.progress import bars
from inference.startup import start_jax
from inference.store import RUN_MARK, check_run
from pkpd.errors import InputError

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

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
    scheduler: str | None,
    dataset: int | None,
    resume: bool,
    force: bool,
    patients: bool = False,
    sensitivity: bool = False,
    quiet: bool = False,
) -> None:
    """Simulates the trials of a scenario, prints their summary, and writes it if ``out`` is given.

    ``dataset``: number of a trial that is written as a data set with NONMEM's columns. ``patients``: the
    patients of all trials are written, see ``whatif.patients``; they are simulated once more, on this machine.

    ``sensitivity``: what hangs on every assumption is simulated and written, see ``whatif.sensitivity``.

    Several values of a key are a design each, see ``commands.designs``. quiet: nothing is printed.

    What was simulated for ``out`` is kept until then, and an interrupted run goes on from there with ``resume``.
    """
    from pkpd.scenario import load_scenario

    jobs = sweeps.expand({Path(scenario).stem: Path(scenario)}, sweeps.sweep(settings))
    if len(jobs) > 1:
        from inference.commands import designs

        return designs.run(
            scenario, jobs, out=out, posterior=posterior, seed=seed, engine=engine, null=null, scheduler=scheduler,
            dataset=dataset, patients=patients, sensitivity=sensitivity, resume=resume, force=force,
        )  # fmt: skip
    design = load_scenario(scenario, jobs[0].settings)
    from inference.whatif.dataset import check_number

    if posterior is not None:
        check_run(posterior)
    if out is None and dataset is not None:
        raise InputError("--dataset: a data set is written to the folder of --out; legal: with --out")
    if out is None and patients:
        raise InputError("--patients: the table is written to the folder of --out; legal: with --out")
    if out is None and sensitivity:
        raise InputError("--sensitivity: the table is written to the folder of --out; legal: with --out")
    if dataset is not None:
        check_number(design, dataset)
    if patients and design.outcome is not None:
        raise InputError(f"--patients: {design.trial.name} states responses, nobody is simulated; legal: without it")
    if out is None and resume:
        raise InputError(
            "--resume: nothing is kept of a run without --out; legal: with the --out of the unfinished run"
        )
    if out is not None:
        output.refuse_existing_run(out, force=force, resume=resume)
    start_jax()
    from inference.report.trial import trial_report
    from inference.trials import posterior_draws, run_trial
    from inference.whatif.null import under_null

    if sensitivity:
        from inference.whatif.sensitivity import check

        check(design, null)
    title = f"trial: {scenario}"
    options: dict[str, Any] = {
        "posterior": posterior, "seed": seed, "engine": engine, "null": null, "scheduler": scheduler,
    }  # fmt: skip
    made_with = made_of(design, posterior, engine, null)
    if null:  # once for all that follows: where arms have to be moved to a margin it takes longer than the trials
        draws = posterior_draws(posterior, min(design.trial.posterior_draws, design.trial.n_trials))
        with bars() as progress:
            design = under_null(design, draws, seed, engine, progress)
    if out is None:
        with bars() as progress:
            table = run_trial(design, progress=progress, **options)
        show(title, table)
        return
    try:
        with output.run_directory(out, force=force, resume=resume) as folder:
            with bars() as progress:
                table = run_trial(design, progress=progress, folder=folder, **options)
            output.write_text(folder / "summary.csv", table.to_csv(index=False, float_format=DIGITS))
            write_manifest(folder, "trial", seed, {}, made_with)
            if dataset is not None:
                _write_dataset(folder, design, dataset, posterior=posterior, seed=seed, engine=engine, null=null)
            if patients:
                _write_patients(folder, design, int(table["n_trials"].max()), posterior, seed, engine, null)
            sensitive = _write_sensitivity(folder, design, posterior, seed, engine, null) if sensitivity else None
            trial_report(folder, design, table, posterior, seed, engine, null, sensitive)
    except (KeyboardInterrupt, InputError):
        if output.has_checkpoint(output.staging_of(out)):
            print(f"pkpd: what was computed for {out} is kept; --resume continues from there", file=sys.stderr)
        raise
    checkpoint.finish(out / output.CHECKPOINT)
    if quiet:
        return
    show(title, table)
    say(f"{out / 'summary.csv'}: {len(table)} rows")


def made_of(design: Scenario, posterior: Path | None, engine: str, null: bool) -> dict[str, str]:
    """Hashes of all that decides a run beside its seed."""
    run = b"" if posterior is None else (posterior / RUN_MARK).read_bytes()
    options = f"engine {engine}" + (", null" if null else "")
    return hashes({"scenario": repr(design), "posterior": run, "options": options})


def _write_dataset(
    folder: Path, design: Scenario, number: int, *, posterior: Path | None, seed: int, engine: str, null: bool
) -> None:
    from inference.trials import posterior_draws
    from inference.whatif.dataset import MISSING, dataset
    from inference.whatif.null import under_null

    draws = posterior_draws(posterior, min(design.trial.posterior_draws, design.trial.n_trials))
    rows = dataset(under_null(design, draws, seed, engine) if null else design, draws, number, seed, engine)
    text = rows.to_csv(index=False, na_rep=MISSING, float_format="%.10g")
    output.write_text(folder / f"trial-{number}.csv", text)


def _write_patients(
    folder: Path, design: Scenario, n_trials: int, posterior: Path | None, seed: int, engine: str, null: bool
) -> None:
    from inference.commands.simulate import write_parquet
    from inference.trials import posterior_draws
    from inference.whatif import patients
    from inference.whatif.null import under_null

    draws = posterior_draws(posterior, min(design.trial.posterior_draws, design.trial.n_trials))
    with bars() as progress:
        at_null = under_null(design, draws, seed, engine) if null else design
        tables = patients.parts(at_null, draws, n_trials, seed, engine, progress)
        write_parquet(folder / patients.FILE, tables)


def _write_sensitivity(
    folder: Path, design: Scenario, posterior: Path | None, seed: int, engine: str, null: bool
) -> pd.DataFrame:
    from inference.whatif.sensitivity import FILE, sensitivity

    keep = checkpoint.Checkpoint(folder / output.CHECKPOINT / "sensitivity")
    with bars() as progress:
        table = sensitivity(
            design, posterior=posterior, seed=seed, engine=engine, null=null, progress=progress, keep=keep
        )
    output.write_text(folder / FILE, table.to_csv(index=False, float_format=DIGITS))
    return table


def show(title: str, table: pd.DataFrame) -> None:
    """The table but for the quantiles over trials, which ``summary.csv`` has; with design and numbers in the title."""
    rows = table[~table["quantity"].str.contains(r"_q[0-9.]+$")]
    columns = ["comparison", "quantity", "estimate", "mc_se", "lower", "upper"]
    n_trials, n_draws = table["n_trials"].iloc[0], table["n_draws"].iloc[0]
    draws = f"{n_draws:,} population draws" if n_draws > 1 else "1 population draw"
    full = f"{title}: {table['design'].iloc[0]}, {n_trials:,} trials, {draws}"
    show_table(full, columns, rows[columns].itertuples(index=False))
