"""``pkpd trial`` with several values of a key: a design each, and their differences under common random numbers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from inference import output
from inference.commands import trial
from inference.console import say, show_table
from inference.store import RUN_MARK, check_run
from inference.sweeps import Job
from inference.whatif import per_trial
from inference.whatif.patients import FILE as PATIENTS
from pkpd.errors import InputError
from pkpd.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from inference.whatif.designs import Design


def run(
    scenario: str,
    jobs: Sequence[Job],
    *,
    out: Path | None,
    posterior: Path | None,
    seed: int,
    engine: str,
    null: bool,
    resume: bool,
    force: bool,
    patients: bool = False,
    sensitivity: bool = False,
    **options: Any,
) -> None:
    """Runs every design into its folder in ``out``, then writes what they say together.

    summary.csv: the summaries of all. differences.csv: each against the first, see ``whatif.designs``. power.png: power
    against the swept keys. gains.csv with ``patients``: who gains and loses, see ``whatif.gains``. report.html: all of
    it. With ``resume`` designs that are finished, and whose scenario, seed and code are still the same, are read.
    """
    scenarios = {job.name: load_scenario(scenario, job.settings) for job in jobs}
    if out is None:
        raise InputError(f"{len(jobs)} designs, and each has a folder; legal: with --out")
    if out.is_file():
        raise InputError(f"{out}: is a file; legal: a folder for the {len(jobs)} designs")
    if posterior is not None:
        check_run(posterior)
    finished = {
        job.name: resume and _seed_and_hashes(out / job.name) == (seed, trial.made_of(design, posterior, engine, null))
        for job, design in zip(jobs, scenarios.values(), strict=True)
    }
    if patients:
        finished = {name: done and (out / name / PATIENTS).is_file() for name, done in finished.items()}
    if sensitivity:
        from inference.whatif.sensitivity import FILE as SENSITIVITY

        finished = {name: done and (out / name / SENSITIVITY).is_file() for name, done in finished.items()}
    for name, done in finished.items():
        if not done:
            output.refuse_existing_run(out / name, force=force or resume, resume=resume)
    for number, job in enumerate(jobs, start=1):
        done = finished[job.name]
        say(f"design {number} of {len(jobs)}: {job.name}{': unchanged' if done else ''}")
        if not done:
            unfinished = resume and output.staging_of(out / job.name).exists()
            trial.run(
                scenario, settings=job.settings, out=out / job.name, posterior=posterior, seed=seed, engine=engine,
                null=null, resume=unfinished, force=force or resume, patients=patients, sensitivity=sensitivity,
                quiet=True,
                **options,
            )  # fmt: skip
    command = _command(scenario, jobs, posterior, seed, null=null, patients=patients, sensitivity=sensitivity)
    made = {"command": command, "seed": seed, "posterior": posterior, "null": null}
    _together(out, jobs, scenarios, patients, made)


def _command(scenario: str, jobs: Sequence[Job], posterior: Path | None, seed: int, **flags: bool) -> str:
    """The command that makes these designs, but for its folder."""
    texts: dict[str, dict[str, None]] = {}
    for job in jobs:
        for setting in job.settings:
            key, _, text = setting.partition("=")
            texts.setdefault(key, {})[text] = None
    parts = ["pkpd", "trial", scenario]
    for key, values in texts.items():
        parts += ["--set", f"{key}={','.join(values)}"]
    parts += ["--posterior", str(posterior)] if posterior is not None else []
    return shlex.join([*parts, "--seed", str(seed), *(f"--{name}" for name, given in flags.items() if given)])


def _seed_and_hashes(folder: Path) -> tuple[int, dict[str, str]] | None:
    """What decided the run in a folder; None where there is none that can be read."""
    try:
        manifest = json.loads((folder / RUN_MARK).read_text(encoding="utf-8"))
        return manifest["seed"], manifest["sha256"]
    except (OSError, ValueError, KeyError):
        return None


def _together(
    out: Path, jobs: Sequence[Job], scenarios: dict[str, Scenario], patients: bool, made: dict[str, Any]
) -> None:
    from inference.plots_designs import power_curves
    from inference.report.designs import write
    from inference.whatif import designs

    found = [
        designs.Design(
            job.name, job.swept, scenarios[job.name], pd.read_parquet(out / job.name / per_trial.FILE),
            pd.read_csv(out / job.name / "summary.csv"),
        )
        for job in jobs
    ]  # fmt: skip
    summary, differences = designs.together(found)
    output.write_text(out / "summary.csv", summary.to_csv(index=False, float_format=trial.DIGITS))
    output.write_text(out / "differences.csv", differences.to_csv(index=False, float_format=trial.DIGITS))
    figure = power_curves(designs.curves(found), list(jobs[0].swept))
    if figure is not None:
        with output.atomic_path(out / "power.png", force=True) as path:
            figure.savefig(path, format="png", dpi=140)
    rates, less = designs.overview(found), designs.overview_of_differences(found, differences)
    n = f"{int(summary['n_trials'].max()):,} trials each"
    show_table(f"{len(jobs)} designs, {n}: Monte Carlo errors in brackets", list(rates), rates.itertuples(index=False))
    if len(less):
        first = ", ".join(f"{key} {value}" for key, value in designs.swept_labels(found)(found[0]).items())
        title = f"less the design with {first}: percentage points, the same patients in both"
        show_table(title, list(less), less.itertuples(index=False))
    say(f"{out / 'summary.csv'}, {out / 'differences.csv'}: all quantities")
    gained = _gains(out, found) if patients else None
    write(out, found, differences, gained, **made)
    say(f"{out / 'report.html'}: all designs, with links to the report of each")


def _gains(out: Path, found: Sequence[Design]) -> pd.DataFrame:
    from inference.whatif.gains import FILE, gains

    table = gains(found, {d.name: out / d.name / PATIENTS for d in found})
    output.write_text(out / FILE, table.to_csv(index=False, float_format=trial.DIGITS))
    whole = table[table["band"] == "all"]
    columns = ["design", "arm", "endpoint", "patients", "only_design", "only_against", "net_gain", "net_gain_mc_se"]
    show_table(f"patients against {found[0].name}", columns, whole[columns].itertuples(index=False))
    say(f"{out / FILE}: {len(table)} rows, by covariates")
    return table
