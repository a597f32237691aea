"""What a search says in words: the design it ends with, what cannot be told from it, and how far it was optimistic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.whatif.candidates import text_of
from inference.whatif.confirmation import compared, optimism
from inference.whatif.errors import NORMAL_95
from inference.whatif.racing import INFEASIBLE
from inference.whatif.search_table import chosen_of

if TYPE_CHECKING:
    from inference.whatif.best_design import Result
    from inference.whatif.candidates import Candidate, Candidates
    from inference.whatif.confirmation import Confirmed
    from inference.whatif.search_file import Search


def lines(search: Search, found: Candidates, result: Result) -> list[str]:
    """The conclusion, a sentence a line; nothing where no design keeps the constraints."""
    chosen = chosen_of(result.confirmed)
    if chosen is None or chosen.number is None:
        return []
    ties, n = result.choice.ties, chosen.figures[0].values.size
    said = []
    if len(ties) > 1:
        rule = "the one closest to the scenario as given" if search.ties == "closest" else "the best estimate"
        said.append(f"{len(ties)} designs are within error of each other after the search; preferred: {rule}")
    elif len(result.last.left) > 1:
        said.append("the best is told apart from all others by the search")
    else:
        said.append("one design was left by the search")
    rejected = sum(not one.holds for one in result.confirmed if one.number is not None)
    if rejected:
        said.append(f"{rejected} of those confirmed violated a constraint on fresh trials")
    said.append(f"chosen: {values_text(found.found[chosen.number])}")
    objective = chosen.figures[0].estimate
    said.append(f"{search.objective.label}: {objective:.4f} on {n:,} fresh trials, {compared(chosen, search.objective.sign)}")
    said += [
        f"{constraint.text}: {figure.estimate:.4g}, {verdict}"
        for constraint, figure, verdict in zip(search.constraints, chosen.figures[1:], chosen.verdicts, strict=True)
    ]
    said.append(_optimism(search, result, chosen))
    return said


def values_text(candidate: Candidate) -> str:
    """The values of a design by key."""
    return ", ".join(f"{key} = {text_of(value)}" for key, value in candidate.values.items())


def nobody(search: Search, found: Candidates, result: Result) -> str:
    """Why no design came out of a search."""
    limits = "; ".join(constraint.text for constraint in search.constraints)
    if result.confirmed:
        tried = [one for one in result.confirmed if one.number is not None]
        first = tried[0]
        assert first.number is not None
        broken = [c for c, verdict in zip(search.constraints, first.verdicts, strict=True) if verdict == "violated"][0]
        figure = first.figures[1 + search.constraints.index(broken)]
        return (
            f"--search: none of the {len(tried)} designs that were confirmed keeps the constraints ({limits}); "
            f"the first, {values_text(found.found[first.number])}, has {figure.estimate:.4g} for {broken.label}; "
            "legal: other limits or values, more trials, or more designs to confirm"
        )
    infeasible = sum(s.dropped == INFEASIBLE for s in result.last.standings)
    return f"--search: all {infeasible} designs clearly violate a constraint ({limits}); legal: other limits or values"


def _optimism(search: Search, result: Result, chosen: Confirmed) -> str:
    assert chosen.number is not None
    searched = result.last.standings[chosen.number]
    gap, se = optimism(search, searched.figures[0], chosen, result.search_draws, result.n_draws)
    seen = f"the search saw {searched.figures[0].estimate:.4f} in {searched.n_trials:,} trials"
    beyond = "beyond" if abs(gap) > NORMAL_95 * se else "within"
    return f"{seen}: optimistic by {gap:+.4f} (error {se:.4f}), {beyond} what chance does"
