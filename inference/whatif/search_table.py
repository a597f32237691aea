"""What a search says in tables: every candidate, and the designs that were confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from inference.whatif.candidates import text_of
from inference.whatif.confirmation import CHOSEN, Choice, Confirmed, optimism
from inference.whatif.figures import Figure, error
from inference.whatif.racing import Round, clusters

if TYPE_CHECKING:
    from inference.whatif.candidates import Candidates
    from inference.whatif.search_file import Search, Target


def column_of(search: Search, target: Target) -> str:
    """Column of a target: its quantity, with whose it is where several have the same."""
    several = [t.quantity for t in search.targets].count(target.quantity) > 1
    return f"{target.of}: {target.quantity}" if several else target.quantity


def candidate_table(
    search: Search, candidates: Candidates, last: Round, choice: Choice, confirmed: Sequence[Confirmed], n_draws: int
) -> pd.DataFrame:
    """A row a candidate, in the order of the combinations: values of the keys, trials of the search, its estimates with
    their Monte Carlo errors, the last round it was in, what became of it (``outcome``, ``why``), and how far it is from
    the scenario as given (a key's change as a share of its range, summed)."""
    roles = {one.number: one.role for one in confirmed}
    rows = []
    for i, (candidate, s) in enumerate(zip(candidates.found, last.standings, strict=True)):
        outcome = roles.get(i) or s.dropped or ("within error" if i in choice.ties else "left")
        rows.append(
            {
                "candidate": i + 1,
                **{key: _plain(value) for key, value in candidate.values.items()},
                "distance": candidate.distance,
                "n_trials": s.n_trials,
                **_figures(search, s.figures, s.n_trials, n_draws),
                "round": s.round,
                "outcome": outcome,
                "why": s.why,
            }
        )
    return pd.DataFrame(rows)


def confirmed_table(
    search: Search, candidates: Candidates, last: Round, confirmed: Sequence[Confirmed], n_draws: int, search_draws: int
) -> pd.DataFrame:
    """A row a confirmed design: estimates on fresh trials with their errors, ``optimism`` (by how much better the
    search saw the objective), the difference of the objective to the scenario as given, whether constraints hold."""
    rows = []
    for one in confirmed:
        candidate = candidates.start if one.number is None else candidates.found[one.number]
        n = len(one.figures[0].values)
        row: dict[str, Any] = {
            "role": one.role,
            "candidate": "" if one.number is None else one.number + 1,
            **{key: _plain(value) for key, value in candidate.values.items()},
            "n_trials": n,
            **_figures(search, one.figures, n, n_draws),
        }
        for constraint, said in zip(search.constraints, one.verdicts, strict=True):
            row[f"{column_of(search, constraint)}: {'at most' if constraint.sign > 0 else 'at least'}"] = (
                constraint.limit
            )
            row[f"{column_of(search, constraint)}: verdict"] = said
        row |= {"difference": one.difference, "difference_mc_se": one.difference_se}
        gap, se = float("nan"), float("nan")
        if one.number is not None:
            s = last.standings[one.number]
            gap, se = optimism(search, s.figures[0], one, search_draws, n_draws)
        rows.append({**row, "optimism": gap, "optimism_mc_se": se})
    return pd.DataFrame(rows)


def chosen_of(confirmed: Sequence[Confirmed]) -> Confirmed | None:
    """The design that the search ends with; None where no constraint-keeping one was confirmed."""
    return next((one for one in confirmed if one.role == CHOSEN), None)


def _figures(search: Search, found: Sequence[Figure], n_trials: int, n_draws: int) -> dict[str, float]:
    row = {}
    for target, figure in zip(search.targets, found, strict=True):
        name = column_of(search, target)
        row[name] = figure.estimate
        row[f"{name}: mc_se"] = error(figure, clusters(n_trials, n_draws))
    return row


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else text_of(value)
