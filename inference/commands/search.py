"""``pkpd trial --find-n``: the smallest trial whose power reaches a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inference import output, sweeps
from inference.commands import trial
from inference.console import say, show_table
from inference.manifest import write_manifest
from inference.progress import bars
from inference.startup import start_jax
from inference.store import check_run
from pkpd.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from inference.whatif.search import Tried
    from pkpd.scenario import Scenario

FILE = "search.csv"


def run(
    scenario: str,
    power: float,
    *,
    settings: Sequence[str],
    posterior: Path | None,
    out: Path | None,
    seed: int,
    engine: str,
    scheduler: str | None,
    force: bool,
    not_with: Sequence[str] = (),
) -> None:
    """Prints the sizes that were tried and the one that was confirmed, and writes them if ``out`` is given.

    ``out`` gets search.csv, and in summary.csv the characteristics of the confirmed size. not_with: options that were
    given and do not go with a search.
    """
    from inference.whatif.search import check, find_n
    from pkpd.scenario import load_scenario

    if not_with:
        raise InputError(f"--find-n: {not_with[0]} does not go with it; legal: one of the two")
    jobs = sweeps.expand({Path(scenario).stem: Path(scenario)}, sweeps.sweep(settings))
    if len(jobs) > 1:
        raise InputError(f"--find-n: {len(jobs)} designs by --set; legal: one value of each key")
    design = load_scenario(scenario, jobs[0].settings)
    check(design, power)
    if posterior is not None:
        check_run(posterior)
    if out is not None:
        output.refuse_existing_run(out, force=force)
    start_jax()
    from inference.trials import run_trial

    found: list[Tried] = []
    last: list[pd.DataFrame] = []

    def simulate(sized: Scenario, own_seed: int) -> pd.DataFrame:
        with bars() as progress:
            last[:] = [
                run_trial(
                    sized, posterior=posterior, seed=own_seed, engine=engine, scheduler=scheduler, progress=progress
                )
            ]
        return last[0]

    def search() -> None:
        for tried in find_n(design, power, seed, simulate):
            found.append(tried)
            say(_sentence(tried, power))

    if out is None:
        search()
    else:
        from inference.whatif.search import table

        made_with = trial.made_of(design, posterior, engine, False)
        with output.run_directory(out, force=force) as folder:
            search()
            output.write_text(folder / FILE, table(found).to_csv(index=False, float_format=trial.DIGITS))
            output.write_text(folder / "summary.csv", last[0].to_csv(index=False, float_format=trial.DIGITS))
            write_manifest(folder, "trial", seed, {}, made_with)
    _show(scenario, power, found)
    if out is not None:
        say(f"{out / FILE}: {len(found)} sizes")


def _sentence(tried: Tried, power: float) -> str:
    """What a size that was confirmed or not says of the target; one on the way: its size and power."""
    sizes = ", ".join(f"{arm.name} {arm.n}" for arm in tried.design.arms)
    said = f"{tried.role}: {sizes}: power {tried.power:.4f} (Monte Carlo error {tried.mc_se:.4f})"
    if tried.role == "not confirmed":
        return f"{said}, below {power:g} by more than its error; one step up"
    if tried.role == "confirmed":
        where = "reaches" if tried.power >= power else "within its error of"
        return f"{said}, {where} {power:g} on fresh trials; 95% interval {tried.lower:.4f} to {tried.upper:.4f}"
    return said


def _show(scenario: str, power: float, found: list[Tried]) -> None:
    from inference.whatif.search import table

    rows = table(found)
    show_table(f"smallest size of {scenario} with a power of {power:g}", list(rows), rows.itertuples(index=False))
