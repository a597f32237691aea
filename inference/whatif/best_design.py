"""A search from beginning to end: the race of the candidates, then the chosen and its rivals on fresh trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from inference import checkpoint
from inference.checkpoint import NOTHING_KEPT
from inference.output import CHECKPOINT
from inference.progress import Progress, silent
from inference.trials import Plan, number_of, posterior_draws
from inference.whatif import characteristics, runs
from inference.whatif.confirmation import Choice, Confirmed, choose, confirm
from inference.whatif.figures import Figure
from inference.whatif.racing import BUDGET, INFEASIBLE, WORSE, Round, race
from inference.whatif.search_table import chosen_of
from inference.whatif.search_work import Simulated, search_draws, workers
from pkpd.devices import AUTOMATIC

if TYPE_CHECKING:
    from inference.whatif.candidates import Candidates
    from inference.whatif.search_file import Search

SEEDS = 2**31  # seeds are below it
FIRST_LOOK = 2  # trials of the scenario as given before the search


class Result(NamedTuple):
    """What a search found: the race after its last round, the order of confirmation, who was confirmed, the summary of
    the chosen on fresh trials (None where no design keeps the constraints), and the numbers of posterior draws."""

    last: Round
    choice: Choice
    confirmed: tuple[Confirmed, ...]
    summary: pd.DataFrame | None
    search_draws: int
    n_draws: int


def fresh(seed: int) -> int:
    """Seed of the confirmation of a search with this seed."""
    return (seed + 1) % SEEDS


def best_design(
    search: Search,
    candidates: Candidates,
    *,
    posterior: Path | None = None,
    seed: int = 1,
    engine: str = AUTOMATIC,
    scheduler: str | None = None,
    folder: Path | None = None,
    identity: str = "",
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> Result:
    """The best of the candidates, confirmed on other trials (and posterior draws) than those it was chosen by.

    ``folder`` keeps what was simulated in ``checkpoint/``, of the search that ``identity`` names, and the same search
    goes on from there. ``tell`` is told of every round.
    """
    start = candidates.start.design
    n_trials = start.trial.n_trials
    n = min(start.trial.posterior_draws, n_trials)
    draws, own = posterior_draws(posterior, n), search_draws(posterior, n)
    designs = [*(c.design for c in candidates.found), start]
    plan = Plan(start, draws, seed, engine)
    with workers(scheduler, plan) as (kind, by):
        keep = NOTHING_KEPT
        if folder is not None:
            of_run = runs.identity(plan, kind, null=False)
            keep = checkpoint.begin(folder / CHECKPOINT, {**of_run, "search": identity})

        def trials_of(name: str, of_draws: dict[str, np.ndarray], own_seed: int) -> Simulated:
            return Simulated(
                designs, search.targets, name=name, draws=of_draws, seed=own_seed, engine=engine, by=by, keep=keep
            )

        def look(numbers: Sequence[int], trials: int) -> list[list[Figure]]:
            stage = f"search: {len(numbers)} designs, {trials} trials each"
            return simulated.figures(numbers, trials, progress, stage)

        def look_again(numbers: Sequence[int], trials: int) -> list[list[Figure]]:
            return again.figures(numbers, trials, progress, f"confirmation: {len(numbers)} designs")

        simulated, again = trials_of("search", own, seed), trials_of("confirmation", draws, fresh(seed))
        given = len(designs) - 1
        look_again([given], min(FIRST_LOOK, n_trials))  # a row that no summary has is told before the search
        for last in race(search, len(candidates.found), simulated.n_draws, search.most_of(n_trials), look):
            tell(round_text(last))
        choice = choose(search, candidates.found, last, simulated.n_draws)
        confirmed: tuple[Confirmed, ...] = ()
        summary = None
        if choice.order:
            confirmed = tuple(confirm(search, choice, n_trials, again.n_draws, given, look_again))
        chosen = chosen_of(confirmed)
        if chosen is not None and chosen.number is not None:
            counts = again.counts[chosen.number, False]
            summary = characteristics.table(designs[chosen.number], counts, again.n_draws)
    return Result(last, choice, confirmed, summary, simulated.n_draws, number_of(draws))


def round_text(found: Round) -> str:
    """What a round found, in a line."""
    why = [found.standings[i].dropped for i in found.raced]
    said = [
        f"{why.count(WORSE)} clearly worse", f"{why.count(INFEASIBLE)} clearly infeasible",
        f"{why.count(BUDGET)} left out for want of trials",
    ]  # fmt: skip
    said = [text for text in said if not text.startswith("0 ")] or ["nobody dropped"]
    designs = f"{len(found.raced)} design{'s' if len(found.raced) > 1 else ''}"
    return (
        f"round {found.number}: {designs}, {found.n_trials} trials each: {', '.join(said)}; "
        f"{len(found.left)} left, {found.spent} trials so far"
    )
