"""``pkpd trial --search``: the design that is best by a row of the summary, among those that keep constraints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import checkpoint, output, sweeps
from inference.commands import trial
from inference.console import say, show_table
from inference.manifest import hashes, write_manifest
from inference.progress import bars
from inference.startup import start_jax
from inference.store import RUN_MARK, check_run
from pkpd.errors import InputError

if TYPE_CHECKING:
    from inference.whatif.best_design import Result
    from inference.whatif.candidates import Candidates
    from inference.whatif.search_file import Search

FILES = ("search.csv", "confirmed.csv", "search.png", "best.toml", "summary.csv")
COPY = "search.toml"  # of the search, beside them


def run(
    scenario: str,
    name: str,
    *,
    settings: Sequence[str],
    posterior: Path | None,
    out: Path | None,
    seed: int,
    engine: str,
    scheduler: str | None,
    resume: bool,
    force: bool,
    not_with: Sequence[str] = (),
) -> None:
    """Searches, confirms on fresh trials, prints both, and writes them if ``out`` is given (FILES).

    InputError at the end, after all is written, where no design keeps the constraints. not_with: options that were
    given and do not go with a search.
    """
    from inference.whatif.candidates import candidates, raw_scenario
    from inference.whatif.search_file import load_search, path_of
    from pkpd.scenario import load_scenario

    if not_with:
        raise InputError(f"--search: {not_with[0]} does not go with it; legal: one of the two")
    search = load_search(name)
    jobs = sweeps.expand({Path(scenario).stem: Path(scenario)}, sweeps.sweep(settings))
    if len(jobs) > 1:
        raise InputError(f"--search: {len(jobs)} designs by --set; legal: one value of each key, others in its [keys]")
    design = load_scenario(scenario, jobs[0].settings)
    if design.outcome is not None and posterior is not None:
        raise InputError(f"{design.trial.name}: [outcome] states responses; legal: without --posterior")
    if posterior is not None:
        check_run(posterior)
    if out is None and resume:
        raise InputError(
            "--resume: nothing is kept of a search without --out; legal: with the --out of the unfinished search"
        )
    if out is not None:
        output.refuse_existing_run(out, force=force, resume=resume)
    text = path_of(name).read_text(encoding="utf-8-sig")
    try:
        found = candidates(search, raw_scenario(scenario, jobs[0].settings), scenario)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    say(number_of_candidates(found))
    start_jax()
    from inference.whatif.best_design import best_design

    options: dict[str, Any] = {"posterior": posterior, "seed": seed, "engine": engine, "scheduler": scheduler}
    if out is None:
        with bars() as progress:
            result = best_design(search, found, progress=progress, tell=say, **options)
        return _show(search, found, result)
    run_of = b"" if posterior is None else (posterior / RUN_MARK).read_bytes()
    made_with = hashes({"scenario": repr(design), "search": text, "posterior": run_of, "options": f"engine {engine}"})
    try:
        with output.run_directory(out, force=force, resume=resume) as folder:
            with bars() as progress:
                result = best_design(
                    search, found, folder=folder, identity=made_with["search"], progress=progress, tell=say, **options
                )
            _write(folder, search, found, result, again_by(seed, posterior, engine))
            output.write_text(folder / COPY, text)
            write_manifest(folder, "trial", seed, {}, made_with)
    except (KeyboardInterrupt, InputError):
        if output.has_checkpoint(output.staging_of(out)):
            print(f"pkpd: what was computed for {out} is kept; --resume continues from there", file=sys.stderr)
        raise
    checkpoint.finish(out / output.CHECKPOINT)
    say(", ".join(str(out / file) for file in FILES if (out / file).exists()))
    _show(search, found, result)


def number_of_candidates(found: Candidates) -> str:
    """How many designs are compared, and which combinations are not."""
    text = f"{found.combinations:,} combinations, {len(found.found)} designs"
    if len(found.found) + found.skipped < found.combinations:
        text += ", a space-filling subset"
    if found.skipped:
        text += f"; {found.skipped} are no scenarios and left out, the first: {found.why}"
    return text


def again_by(seed: int, posterior: Path | None, engine: str) -> str:
    """The command that gives the numbers of a confirmation again."""
    from inference.whatif.best_design import fresh
    from pkpd.devices import AUTOMATIC

    more = "" if posterior is None else f" --posterior {posterior}"
    return f"pkpd trial best.toml --seed {fresh(seed)}{more}" + ("" if engine == AUTOMATIC else f" --engine {engine}")


def _write(folder: Path, search: Search, found: Candidates, result: Result, by: str) -> None:
    from inference.plots_search import search_figure
    from inference.whatif.search_table import candidate_table, chosen_of, confirmed_table
    from inference.whatif.search_text import best_text

    every = candidate_table(search, found, result.last, result.choice, result.confirmed, result.search_draws)
    again = confirmed_table(search, found, result.last, result.confirmed, result.search_draws, result.n_draws)
    output.write_text(folder / "search.csv", every.to_csv(index=False, float_format=trial.DIGITS))
    if result.confirmed:
        output.write_text(folder / "confirmed.csv", again.to_csv(index=False, float_format=trial.DIGITS))
    with output.atomic_path(folder / "search.png", force=True) as path:
        search_figure(search, every, again).savefig(path, format="png", dpi=140)
    chosen = chosen_of(result.confirmed)
    if chosen is None or result.summary is None:
        return
    output.write_text(folder / "summary.csv", result.summary.to_csv(index=False, float_format=trial.DIGITS))
    output.write_text(folder / "best.toml", best_text(search, found, chosen, by))


def _show(search: Search, found: Candidates, result: Result) -> None:
    """Prints what was confirmed and what can be said of it; InputError where no design keeps the constraints."""
    from inference.whatif.search_text import confirmed_rows, lines, nobody

    if result.confirmed:
        columns, rows = confirmed_rows(search, found, result)
        trials = f"{len(result.confirmed[0].figures[0].values):,} fresh trials each"
        show_table(f"{search.objective.aim} {search.objective.label}; {trials} (Monte Carlo errors)", columns, rows)
    for line in lines(search, found, result):
        say(line)
    if result.summary is None:
        raise InputError(nobody(search, found, result))
