"""What is left of a search on fresh random numbers: estimates, constraints, optimism, and the gain over the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inference.whatif.errors import NORMAL_95
from inference.whatif.figures import Figure, bounds, difference, error
from inference.whatif.racing import Look, Round, clusters, ranked, within_error

if TYPE_CHECKING:
    from inference.whatif.candidates import Candidate
    from inference.whatif.search_file import Constraint, Search

RUNNERS_UP = 2  # at most, that are confirmed beside the chosen design
HOLDS, NEARLY, VIOLATED = "holds", "holds within error", "violated"
TAIL = 0.025  # of the bounds that are told
CHOSEN, RUNNER_UP, REJECTED, GIVEN = "chosen", "runner-up", "not confirmed", "as given"


class Choice(NamedTuple):
    """Whom a race leaves: candidates in the order in which they are confirmed, and those within error of the best."""

    order: tuple[int, ...]
    ties: tuple[int, ...]


class Confirmed(NamedTuple):
    """A design on fresh trials; number: of the candidate, None of the scenario as given.

    figures: of the objective and the constraints. verdicts: of the constraints in order. difference, difference_se: of
    the objective to the scenario as given, over the same trials.
    """

    number: int | None
    role: str
    figures: tuple[Figure, ...]
    verdicts: tuple[str, ...]
    difference: float
    difference_se: float

    @property
    def holds(self) -> bool:
        """Whether no constraint is violated."""
        return VIOLATED not in self.verdicts


def choose(search: Search, found: Sequence[Candidate], last: Round, n_draws: int) -> Choice:
    """The order of confirmation: the chosen of those within error of the best, the others of these, who else is left.

    Chosen is the closest to the scenario as given, or with ``ties = "best"`` the first. Nobody where none is left.
    """
    cluster = clusters(last.n_trials, n_draws)
    order = ranked(search, last.standings, last.left, cluster)
    if not order:
        return Choice((), ())
    ties = within_error(search, last.standings, order, cluster)
    if search.ties == "closest":
        ties = sorted(ties, key=lambda i: found[i].distance)  # a stable sort: among equals the better estimate
    return Choice((*ties, *(i for i in order if i not in ties)), tuple(ties))


def confirm(search: Search, choice: Choice, n_trials: int, n_draws: int, given: int, look: Look) -> Iterator[Confirmed]:
    """The scenario as given (design number ``given``), the chosen, and runners-up; while constraints are violated, the
    next in order, up to ``search.confirm`` of them. All over the same trials, which none of them was chosen by."""
    cluster = clusters(n_trials, n_draws)
    runners_up = min(len(choice.ties) - 1, RUNNERS_UP, search.confirm - 1)
    first = choice.order[: 1 + runners_up]
    start, *rest = look([given, *first], n_trials)
    yield _confirmed(search, None, GIVEN, start, start, cluster)
    chosen = False
    for i, found in zip(first, rest, strict=True):
        one = _with_role(_confirmed(search, i, RUNNER_UP, found, start, cluster), chosen)
        chosen = chosen or one.holds
        yield one
    for i in choice.order[len(first) : search.confirm]:
        if chosen:
            return
        one = _with_role(_confirmed(search, i, RUNNER_UP, look([i], n_trials)[0], start, cluster), chosen)
        chosen = one.holds
        yield one


def _with_role(one: Confirmed, chosen: bool) -> Confirmed:
    """The design with its role: the first that keeps the constraints is the chosen one, the next are its rivals."""
    return one if chosen else one._replace(role=CHOSEN if one.holds else REJECTED)


def _confirmed(
    search: Search, number: int | None, role: str, found: Sequence[Figure], start: Sequence[Figure], cluster: np.ndarray
) -> Confirmed:
    verdicts = tuple(verdict(c, f, cluster) for c, f in zip(search.constraints, found[1:], strict=True))
    return Confirmed(number, role, tuple(found), verdicts, *difference(found[0], start[0], cluster))


def verdict(constraint: Constraint, figure: Figure, cluster: np.ndarray) -> str:
    """Whether a constraint holds: with its 95% bound, with its estimate alone, or not."""
    low, high = (constraint.sign * (bound - constraint.limit) for bound in bounds(figure, cluster, TAIL))
    if max(low, high) <= 0:
        return HOLDS
    return NEARLY if constraint.sign * (figure.estimate - constraint.limit) <= 0 else VIOLATED


def optimism(search: Search, searched: Figure, one: Confirmed, search_draws: int, n_draws: int) -> tuple[float, float]:
    """By how much better the search saw the objective than fresh trials do, and the error of that."""
    fresh = one.figures[0]
    errors = (error(f, clusters(len(f.values), n)) for f, n in ((searched, search_draws), (fresh, n_draws)))
    return search.objective.sign * (searched.estimate - fresh.estimate), float(np.hypot(*errors))


def compared(one: Confirmed, sign: int) -> str:
    """In words, the objective of a confirmed design against the scenario as given."""
    gap, se = one.difference, one.difference_se
    if gap == 0:
        return "the same as the scenario as given" + (" in every trial" if se == 0 else "")
    if abs(gap) <= NORMAL_95 * se:
        return f"within error of the scenario as given ({gap:+.4g}, error {se:.2g}, the same patients)"
    word = "better" if gap * sign > 0 else "worse"
    by = f"{abs(gap):.4g}" + (f" (error {se:.2g}, the same patients)" if se > 0 else "")
    return f"{word} than the scenario as given by {by}"
