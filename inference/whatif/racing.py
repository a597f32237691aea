"""A race of candidates under common random numbers: few trials of all, twice as many of those that may be the best.

A candidate is dropped when it is clearly infeasible (a constraint is violated beyond its error), or clearly worse than
one that is clearly feasible, by the difference over the same trials. "Clearly": at a level at which the best candidate
is dropped with a chance of at most ``drop_error``, over all comparisons and rounds (Bonferroni's bound; errors are
clustered by posterior draw, and taken for Student's). Where the budget does not pay for twice the trials of all that
are left, only the best-looking go on, as many as it pays for: these are left out, not known to be worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inference.whatif.errors import NORMAL_95
from inference.whatif.figures import Figure, bounds, difference, error, student

if TYPE_CHECKING:
    from inference.whatif.search_file import Constraint, Search

WORSE, INFEASIBLE, BUDGET = "worse", "infeasible", "left out"

# Figures of the objective and of the constraints in order, over the first so many trials of some candidates.
Look = Callable[[Sequence[int], int], list[list[Figure]]]


class Standing(NamedTuple):
    """What is known of a candidate: its figures over ``n_trials``, and in which round and why it was dropped."""

    figures: tuple[Figure, ...] = ()
    n_trials: int = 0
    round: int = 0  # the last one in which it was simulated
    dropped: str = ""  # WORSE, INFEASIBLE, BUDGET, or nothing
    why: str = ""


class Round(NamedTuple):
    """The race after a round: every candidate's standing, the trials so far of all, and who was in the round."""

    number: int
    n_trials: int
    spent: int
    raced: tuple[int, ...]
    standings: tuple[Standing, ...]

    @property
    def left(self) -> tuple[int, ...]:
        """Candidates that were not dropped, by number."""
        return tuple(i for i, s in enumerate(self.standings) if not s.dropped)


def clusters(n_trials: int, n_draws: int) -> np.ndarray:
    """Number of the posterior draw of each trial; a single one stands for no clusters."""
    return np.arange(n_trials) % n_draws


def race(search: Search, n: int, n_draws: int, most_trials: int, look: Look) -> Iterator[Round]:
    """Rounds of ``n`` candidates until one is left, all trials are done, or the budget is spent."""
    rounds = 1 + math.ceil(math.log2(max(1, most_trials / search.first_trials)))
    # what may go wrong with the best: a constraint of its own, a rival that is not feasible, or not better, after all
    tail = search.drop_error / (rounds * (len(search.constraints) + n * (2 if search.constraints else 1)))
    standings, left = [Standing()] * n, list(range(n))
    trials, spent, number = min(search.first_trials, most_trials), 0, 1
    while True:
        for i, found in zip(left, look(left, trials), strict=True):
            spent += trials - standings[i].n_trials
            standings[i] = Standing(tuple(found), trials, number)
        cluster = clusters(trials, n_draws)
        for i, (dropped, why) in decided(search, {i: standings[i] for i in left}, cluster, tail).items():
            standings[i] = standings[i]._replace(dropped=dropped, why=why)
        raced, left = tuple(left), [i for i in left if not standings[i].dropped]
        more = min(2 * trials, most_trials)
        pays_for = (search.budget_trials - spent) // max(more - trials, 1)
        ends = len(left) < 2 or more == trials or pays_for < 2
        if not ends:
            order = ranked(search, standings, left, cluster)
            for i in order[pays_for:]:
                why = f"the budget of {search.budget_trials} trials pays for {pays_for} designs of {more} trials"
                standings[i] = standings[i]._replace(dropped=BUDGET, why=why)
            left = order[:pays_for]
        yield Round(number, trials, spent, raced, tuple(standings))
        if ends:
            return
        trials, number = more, number + 1


def decided(
    search: Search, standings: dict[int, Standing], cluster: np.ndarray, tail: float
) -> dict[int, tuple[str, str]]:
    """Who is dropped after a round, and why."""
    found: dict[int, tuple[str, str]] = {}
    feasible = []
    for i, s in standings.items():
        margins = [
            _margin(c, f, cluster, tail) for c, f in zip(search.constraints, s.figures[1:], strict=True)
        ]  # fmt: skip
        over = [c for c, (nearest, _) in zip(search.constraints, margins, strict=True) if nearest > 0]
        if over:
            figure = s.figures[1 + search.constraints.index(over[0])]
            found[i] = (INFEASIBLE, f"{over[0].text}, it is {figure.estimate:.4g}")
        elif all(farthest <= 0 for _, farthest in margins):
            feasible.append(i)
    best = sorted(feasible, key=lambda i: _loss(search, standings[i]))
    t = student(cluster, tail)
    for i, s in standings.items():
        for k in best if i not in found else ():
            gap, se = _ahead(search, standings[k], s, cluster)
            if gap <= 0:
                break  # the others of the list are no better
            if gap > t * se:
                found[i] = (WORSE, f"{_signed(search, gap)} than a feasible design, error {se:.3g}")
                break
    return found


def ranked(search: Search, standings: Sequence[Standing], left: Sequence[int], cluster: np.ndarray) -> list[int]:
    """Candidates from the best: those whose estimates meet the constraints by the objective, then by the violation."""

    def key(i: int) -> tuple[bool, float, float]:
        over = violation(search, standings[i], cluster)
        return not over <= 0, over if over > 0 else 0.0, _loss(search, standings[i])

    return sorted(left, key=key)


def violation(search: Search, s: Standing, cluster: np.ndarray) -> float:
    """How far the estimates are beyond the constraints, in errors; 0 where they meet all."""
    worst = 0.0
    for constraint, figure in zip(search.constraints, s.figures[1:], strict=True):
        over = constraint.sign * (figure.estimate - constraint.limit)
        if over > 0:
            worst = max(worst, over / max(error(figure, cluster), 1e-12))
        elif np.isnan(over):
            return math.inf
    return worst


def within_error(search: Search, standings: Sequence[Standing], order: Sequence[int], cluster: np.ndarray) -> list[int]:
    """Of the candidates ``order`` (from the best), the first and those within 95% error of it that are feasible too."""
    first = order[0]
    ties = [first]
    for i in order[1:]:
        gap, se = _ahead(search, standings[first], standings[i], cluster)
        if violation(search, standings[i], cluster) <= violation(search, standings[first], cluster):
            ties += [i] if gap <= NORMAL_95 * se else []
    return ties


def _margin(constraint: Constraint, figure: Figure, cluster: np.ndarray, tail: float) -> tuple[float, float]:
    """How far beyond the limit the truth is at least, and at most."""
    low, high = bounds(figure, cluster, tail)
    ends = (low - constraint.limit, high - constraint.limit)
    return ends if constraint.sign > 0 else (-ends[1], -ends[0])


def _loss(search: Search, s: Standing) -> float:
    loss = -search.objective.sign * s.figures[0].estimate
    return math.inf if np.isnan(loss) else loss


def _ahead(search: Search, one: Standing, other: Standing, cluster: np.ndarray) -> tuple[float, float]:
    """By how much the objective of one is better than that of another, and the error of that."""
    gap, se = difference(one.figures[0], other.figures[0], cluster)
    return search.objective.sign * gap, se


def _signed(search: Search, gap: float) -> str:
    return f"{gap:.4g} {'less' if search.objective.sign > 0 else 'more'}"
