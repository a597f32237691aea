"""What a search says in words: the design it ends with, what cannot be told from it, and how far it was optimistic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from inference.whatif.candidates import text_of
from inference.whatif.confirmation import VIOLATED, compared, optimism
from inference.whatif.errors import NORMAL_95
from inference.whatif.figures import error
from inference.whatif.racing import BUDGET, INFEASIBLE, clusters, violation
from inference.whatif.scenario_file import as_toml
from inference.whatif.search_file import split_keys
from inference.whatif.search_table import chosen_of, column_of

if TYPE_CHECKING:
    from inference.whatif.best_design import Result
    from inference.whatif.candidates import Candidate, Candidates
    from inference.whatif.confirmation import Confirmed
    from inference.whatif.search_file import Search


def confirmed_rows(search: Search, found: Candidates, result: Result) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the designs that were confirmed: estimates with their errors in brackets."""
    names = [name_of(key, search) for key in search.keys]
    columns = ["", *names, *(column_of(search, target) for target in search.targets), "against the given", "optimism"]
    rows = []
    for one in result.confirmed:
        candidate = found.start if one.number is None else found.found[one.number]
        cluster = clusters(one.figures[0].values.size, result.n_draws)
        figures = [with_error(f.estimate, error(f, cluster)) for f in one.figures]
        told = [f"{text}, {verdict}" for text, verdict in zip(figures[1:], one.verdicts, strict=True)]
        against = own = ""
        if one.number is not None:
            against = with_error(one.difference, one.difference_se, "+")
            searched = result.last.standings[one.number].figures[0]
            own = with_error(*optimism(search, searched, one, result.search_draws, result.n_draws), "+")
        rows.append([one.role, *map(text_of, candidate.values.values()), figures[0], *told, against, own])
    return columns, rows


def name_of(key: str, search: Search) -> str:
    """A key of the search as a table calls it: the last part of its name, where no other has the same."""
    short = {k: ", ".join(dict.fromkeys(one.rpartition(".")[2] for one in split_keys(k))) for k in search.keys}
    return short[key] if list(short.values()).count(short[key]) == 1 else key


def with_error(estimate: float, se: float, sign: str = "") -> str:
    """An estimate with its error in brackets, to the error's second digit; one that is exact alone."""
    if not se > 0:
        return f"{estimate + 0.0:{sign}.5g}"
    digits = min(max(1 - math.floor(math.log10(se)), 0), 6)
    return f"{estimate:{sign}.{digits}f} ({se:.{digits}f})"


def lines(search: Search, found: Candidates, result: Result) -> list[str]:
    """The conclusion, a sentence a line; nothing where no design keeps the constraints."""
    chosen = chosen_of(result.confirmed)
    if chosen is None or chosen.number is None:
        return []
    n = chosen.figures[0].values.size
    said = [_left(search, result, found.start.design.trial.n_trials)]
    rejected = sum(not one.holds for one in result.confirmed if one.number is not None)
    if rejected:
        said.append(f"{rejected} of those confirmed violated a constraint on fresh trials")
    said.append(f"chosen: {values_text(found.found[chosen.number])}")
    cluster = clusters(n, result.n_draws)
    objective = with_error(chosen.figures[0].estimate, error(chosen.figures[0], cluster))
    said.append(
        f"{search.objective.label}: {objective} in {n:,} fresh trials, {compared(chosen, search.objective.sign)}"
    )
    for constraint, figure, verdict in zip(search.constraints, chosen.figures[1:], chosen.verdicts, strict=True):
        said.append(f"{constraint.text}: {with_error(figure.estimate, error(figure, cluster))}, {verdict}")
    given = result.confirmed[0]
    broken = [c.text for c, v in zip(search.constraints, given.verdicts, strict=True) if v == VIOLATED]
    if broken:
        said.append(f"the scenario as given violates: {'; '.join(broken)}")
    return [*said, *_optimism(search, result, chosen), *_at_the_end(search, found.found[chosen.number])]


def _left(search: Search, result: Result, n_trials: int) -> str:
    """Whom the race left, and what is known of them."""
    last, ties = result.last, result.choice.ties
    cluster = clusters(last.n_trials, result.search_draws)
    if len(ties) > 1:
        rule = "the one closest to the scenario as given" if search.ties == "closest" else "the best by its estimate"
        first, *rest = (last.standings[i].figures[0].values for i in ties)
        alike = sum(np.array_equal(first, other) for other in rest)
        same = f" ({1 + alike} of them alike in every trial)" if alike else ""
        text = f"{len(ties)} designs are within error of each other after the search{same}, preferred: {rule}"
    elif len(last.left) == 1:
        text = "one design is left of the search"
    else:
        text = f"{len(last.left)} designs are left of the search"
    others = [last.standings[i] for i in last.left if i not in ties]
    violating = sum(violation(search, s, cluster) > 0 for s in others)
    if len(others) > violating:
        text += f"; {len(others) - violating} worse than the best by more than its 95% error"
    if violating:
        text += f"; {violating} violating a constraint by their estimates, within error"
    unknown = sum(s.dropped == BUDGET for s in last.standings)
    if unknown:
        text += f"; {unknown} were left out for want of trials, not known to be worse (budget_trials)"
    elif len(last.left) > 1 and last.n_trials < search.most_of(n_trials):
        text += f"; more trials would tell more of them apart (budget_trials = {search.budget_trials})"
    return text


def values_text(candidate: Candidate) -> str:
    """The values of a design by key."""
    return ", ".join(f"{key} = {text_of(value)}" for key, value in candidate.values.items())


def best_text(search: Search, found: Candidates, chosen: Confirmed, by: str) -> str:
    """The scenario file of the chosen design; its head says what it is best in, what was changed, and how to repeat
    the numbers of its confirmation: ``by`` a command."""
    assert chosen.number is not None
    best = found.found[chosen.number]
    head = [f"{search.objective.aim} {search.objective.label}"]
    head += [f"{c.text}: {verdict}" for c, verdict in zip(search.constraints, chosen.verdicts, strict=True)]
    for key, value in best.values.items():
        before, now = text_of(found.start.values[key]), text_of(value)
        head.append(f"{key} = {now}" + ("" if before == now else f", was {before or 'not set'}"))
    head.append(f"the numbers of its confirmation: {by}")
    trial = {key: value for key, value in best.data["trial"].items() if key != "mc_se_below"}  # it had all trials
    data = {**best.data, "trial": {**trial, "name": best.design.trial.name}}
    return "".join(f"# {' '.join(line.split())}\n" for line in head) + "\n" + as_toml(data)


def nobody(search: Search, found: Candidates, result: Result) -> str:
    """Why no design came out of a search."""
    limits = "; ".join(constraint.text for constraint in search.constraints)
    if result.confirmed:
        tried = [one for one in result.confirmed if one.number is not None]
        first = tried[0]
        assert first.number is not None
        broken = next(c for c, verdict in zip(search.constraints, first.verdicts, strict=True) if verdict == VIOLATED)
        figure = first.figures[1 + search.constraints.index(broken)]
        return (
            f"--search: none of the {len(tried)} designs that were confirmed keeps the constraints ({limits}); "
            f"the first, {values_text(found.found[first.number])}, has {figure.estimate:.4g} for {broken.label}; "
            "legal: other limits or values, more trials, or more designs to confirm"
        )
    infeasible = sum(s.dropped == INFEASIBLE for s in result.last.standings)
    return f"--search: all {infeasible} designs clearly violate a constraint ({limits}); legal: other limits or values"


def _at_the_end(search: Search, chosen: Candidate) -> list[str]:
    """Keys whose chosen number is the smallest or largest that was tried."""
    said = []
    for key, value in chosen.values.items():
        tried = [v for v in search.keys[key] if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(tried) > 2 and value in (min(tried), max(tried)):
            end = "smallest" if value == min(tried) else "largest"
            said.append(f"{key} = {text_of(value)} is the {end} value tried: a better one may lie beyond")
    return said


def _optimism(search: Search, result: Result, chosen: Confirmed) -> list[str]:
    assert chosen.number is not None
    standing = result.last.standings[chosen.number]
    gap, se = optimism(search, standing.figures[0], chosen, result.search_draws, result.n_draws)
    if se == 0:
        return []  # no chance in it
    own = error(standing.figures[0], clusters(standing.n_trials, result.search_draws))
    seen = f"the search saw {with_error(standing.figures[0].estimate, own)} in its {standing.n_trials:,} trials"
    if abs(gap) <= NORMAL_95 * se:
        return [f"{seen}: the two agree within error (optimism {with_error(gap, se, '+')})"]
    return [f"{seen}: {'optimistic' if gap > 0 else 'pessimistic'} by {with_error(abs(gap), se)}"]
