"""The race of candidates: whom it drops and how often the best, its budget; the winner's curse and what confirms it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.whatif.candidates import Candidate
from inference.whatif.confirmation import (
    CHOSEN,
    GIVEN,
    HOLDS,
    NEARLY,
    REJECTED,
    RUNNER_UP,
    VIOLATED,
    choose,
    compared,
    confirm,
    optimism,
    verdict,
)  # fmt: skip
from inference.whatif.figures import Figure, bounds, difference, error
from inference.whatif.racing import BUDGET, INFEASIBLE, WORSE, Round, Standing, clusters, race
from inference.whatif.search_file import Search
from pkpd.validated import validate


def search(aim: str = "max", constraints: tuple = (), **more) -> Search:
    rows = [{"quantity": f"c{i}", **c} for i, c in enumerate(constraints)]
    keys = {"trial.missed_visit_share": [0.0]}
    data = {"objective": {"quantity": "y", "aim": aim}, "constraints": rows, "keys": keys, **more}
    return validate(Search, data, "search.toml")


def world(
    means: np.ndarray, seed: int, shared_sd: float = 1.0, own_sd: float = 1.0, n_draws: int = 1, draw_sd=0.0, most=1600
):
    """A look at candidates whose targets have the means [candidates, targets]: noise of a trial that all share, of its
    draw, which all share too, and of the candidate alone."""
    rng = np.random.default_rng(seed)
    common = (
        shared_sd * rng.standard_normal((most, 1))
        + draw_sd * rng.standard_normal((n_draws, 1))[clusters(most, n_draws)]
    )
    noise = own_sd * rng.standard_normal((len(means), most, means.shape[1]))
    asked = []

    def look(numbers, n_trials):
        asked.append((tuple(numbers), n_trials))
        found = [
            [Figure(float(v.mean()), v) for v in (means[i] + common[:n_trials] + noise[i, :n_trials]).T]
            for i in numbers
        ]
        return found

    return look, asked


def last_of(asked: Search, means, look, most=1600) -> Round:
    *_, last = race(asked, len(means), 1, most, look)
    return last


def test_the_best_is_left_and_the_clearly_worse_are_dropped_early():
    means = np.linspace(0, 2, 21)[:, None]
    look, asked = world(means, 1, most=6400)
    rounds = list(race(search(), 21, 1, 6400, look))
    assert rounds[-1].left == (20,) and rounds[0].left[0] > 10
    assert [n for _, n in asked] == [100 * 2**k for k in range(len(rounds))]
    dropped = rounds[-1].standings[0]
    assert dropped.dropped == WORSE and dropped.n_trials == 100 and "less than a feasible design" in dropped.why
    assert rounds[-1].spent == sum(s.n_trials for s in rounds[-1].standings) < 50_000


def test_less_is_better_where_the_aim_says_so():
    means = np.linspace(0, 2, 5)[:, None]
    assert last_of(search("min"), means, world(means, 2, most=6400)[0], 6400).left == (0,)


def test_the_best_is_dropped_no_more_often_than_said():
    """Ten alike: any one of them is dropped in less than ``drop_error`` of the races, and not far less."""
    repeats, means = 300, np.zeros((10, 1))
    for drop_error, least in ((0.05, 0.0), (0.4, 0.05)):
        asked = search(drop_error=drop_error, budget_trials=10**6)
        lost = sum(9 not in last_of(asked, means, world(means, s, 0.5, most=400)[0], 400).left for s in range(repeats))
        assert least <= lost / repeats <= drop_error + 3 * np.sqrt(drop_error * (1 - drop_error) / repeats)


def test_the_best_at_the_limit_of_a_constraint_is_kept():
    """Candidates at distances like the errors of the first rounds; the best barely keeps its constraint."""
    means = np.stack([np.r_[np.linspace(-0.2, 0.25, 9), 0.3], np.r_[np.linspace(-0.4, 0.4, 9), -0.01]], axis=1)
    asked = search(constraints=({"at_most": 0.0},))
    assert sum(9 not in last_of(asked, means, world(means, s, 0.5)[0], 800).left for s in range(100)) <= 5


def test_who_violates_a_constraint_beyond_doubt_is_dropped_and_beats_nobody():
    """The candidate with the best objective is infeasible; the one next to it is not dropped because of it."""
    means = np.array([[5.0, 1.0], [1.0, -1.0], [0.0, -1.0]])
    last = last_of(search(constraints=({"at_most": 0.0},)), means, world(means, 3)[0], 400)
    assert [s.dropped for s in last.standings] == [INFEASIBLE, "", WORSE]
    assert "c0 of whole trial at most 0" in last.standings[0].why
    at_least = search(constraints=({"at_least": 0.0},))
    assert [s.dropped for s in last_of(at_least, means, world(means, 3)[0], 400).standings] == [
        "",
        INFEASIBLE,
        INFEASIBLE,
    ]


def test_a_candidate_of_uncertain_feasibility_drops_nobody():
    """Best by far, its constraint at the limit itself: the feasible one behind it stays until that is decided."""
    means = np.array([[5.0, 0.0], [1.0, -1.0]])
    look, _ = world(means, 4)
    last = last_of(search(constraints=({"at_most": 0.0},)), means, look, 400)
    assert last.standings[1].dropped == ""


def test_the_budget_is_kept_and_those_it_does_not_pay_for_are_not_called_worse():
    means = np.zeros((30, 1))
    look, _ = world(means, 5)
    rounds = list(race(search(budget_trials=5000), 30, 1, 10**6, look))
    assert all(r.spent <= 5000 for r in rounds) and rounds[-1].spent > 4000
    reasons = [s.dropped for s in rounds[-1].standings]
    assert (
        BUDGET in reasons and WORSE not in reasons and "pays for" in next(s.why for s in rounds[-1].standings if s.why)
    )
    best = max(rounds[0].standings, key=lambda s: s.figures[0].estimate)
    assert any(s.figures[0].values[0] == best.figures[0].values[0] for s in rounds[1].standings if s.n_trials == 200)


def test_differences_are_by_the_pairs():
    """Common noise ten times the gap: pairs tell the two apart in one round, errors of each alone would not."""
    means = np.array([[0.0], [0.2]])
    look, _ = world(means, 6, shared_sd=2.0, own_sd=0.1)
    first = next(race(search(), 2, 1, 100, look))
    assert first.left == (1,)
    alone = [error(s.figures[0], clusters(100, 1)) for s in first.standings]
    assert min(alone) > 0.15


def test_errors_are_clustered_by_draw():
    look, _ = world(np.zeros((1, 1)), 7, 0.0, 0.1, n_draws=10, draw_sd=1.0)
    figure = look([0], 1000)[0][0]
    assert error(figure, clusters(1000, 10)) > 8 * error(figure, clusters(1000, 1))
    low, high = bounds(figure, clusters(1000, 10), 0.025)
    assert (high - low) / 2 == pytest.approx(2.262 * error(figure, clusters(1000, 10)), rel=1e-3)  # Student's, 9 df


def test_bounds_of_shares_are_wide_even_where_all_trials_agree():
    none = Figure(0.0, np.zeros(100), True)
    low, high = bounds(none, clusters(100, 1), 0.025)
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(0.037, abs=0.001)
    assert bounds(Figure(60.0, np.full(100, 60.0)), clusters(100, 1), 0.025) == (60.0, 60.0)


def candidates(distances) -> list[Candidate]:
    return [Candidate({}, {}, None, d) for d in distances]  # type: ignore[arg-type]


def test_of_designs_within_error_the_closest_to_the_start_is_preferred():
    means = np.array([[1.0], [1.0], [1.0], [-5.0]])
    look, _ = world(means, 8, own_sd=0.3)
    last = last_of(search(), means, look, 200)
    by_estimate = choose(search(ties="best"), candidates([3, 2, 1, 0]), last, 1)
    closest = choose(search(), candidates([3, 2, 1, 0]), last, 1)
    assert set(closest.ties) <= {0, 1, 2} and len(closest.ties) > 1
    assert closest.order[0] == max(closest.ties) and set(closest.order) == set(by_estimate.order)
    top = max(by_estimate.ties, key=lambda i: last.standings[i].figures[0].estimate)
    assert by_estimate.order[0] == top


def test_the_search_is_optimistic_and_its_confirmation_is_not():
    """30 candidates alike, the best-looking chosen: over 400 searches the estimate that chose it lies above the truth,
    the confirmed one does not, and optimism is that difference."""
    means = np.full((31, 1), 0.5)
    asked = search(ties="best", most_trials=100)
    seen, fresh, gaps, errors = [], [], [], []
    for seed in range(400):
        look, _ = world(means, 2 * seed)
        again, _ = world(means, 2 * seed + 1)
        last = last_of(asked, means[:30], look, 100)
        choice = choose(asked, candidates(np.ones(30)), last, 1)
        given_, chosen, *_ = confirm(asked, choice, 200, 1, 30, again)
        assert chosen.role == CHOSEN and chosen.number == choice.order[0] and given_.role == GIVEN
        searched = last.standings[chosen.number].figures[0]
        seen.append(searched.estimate)
        fresh.append(chosen.figures[0].estimate)
        gap, se = optimism(asked, searched, chosen, 1, 1)
        gaps.append(gap)
        errors.append(se)
    seen, fresh = np.array(seen), np.array(fresh)
    assert seen.mean() - 0.5 > 10 * seen.std() / 20  # 20: the root of 400
    assert abs(fresh.mean() - 0.5) < 3 * fresh.std() / 20
    assert np.array(gaps) == pytest.approx(seen - fresh)
    assert np.mean(errors) == pytest.approx(np.sqrt(2 / 100 + 2 / 200), rel=0.05)


def standing(*values) -> Standing:
    return Standing(tuple(Figure(float(v.mean()), v) for v in values), len(values[0]), 1)


def test_a_violated_design_is_followed_by_the_next_up_to_a_number():
    """On fresh trials the first two violate: roles say so, the third is chosen; with fewer to confirm, nobody is."""
    rng = np.random.default_rng(9)
    noise = rng.standard_normal((5, 100)) * 0.1
    fine = rng.standard_normal(100) * 0.1 - 1
    last = Round(1, 100, 500, (0, 1, 2, 3), tuple(standing(10 - 3 * i + noise[i], fine) for i in range(4)))
    asked = search(constraints=({"at_most": 0.0},))
    choice = choose(asked, candidates(np.zeros(4)), last, 1)
    assert choice.order == (0, 1, 2, 3) and choice.ties == (0,)

    def again(numbers, n):
        shift = {0: 1.0, 1: 1.0, 2: -1.0, 3: -1.0, 4: 1.0}
        return [[Figure(float(i), np.full(n, float(i))), Figure(shift[i], shift[i] + noise[0])] for i in numbers]

    found = list(confirm(asked, choice, 100, 1, 4, again))
    assert [(one.number, one.role) for one in found] == [(None, GIVEN), (0, REJECTED), (1, REJECTED), (2, CHOSEN)]
    assert found[0].verdicts == (VIOLATED,) and found[3].verdicts == (HOLDS,) and found[3].difference == -2.0
    few = search(constraints=({"at_most": 0.0},), confirm=2)
    assert [one.role for one in confirm(few, choice, 100, 1, 4, again)] == [GIVEN, REJECTED, REJECTED]


def test_runners_up_within_error_are_confirmed_beside_the_chosen():
    rng = np.random.default_rng(10)
    last = Round(1, 100, 400, (0, 1, 2, 3), tuple(standing(rng.standard_normal(100)) for _ in range(4)))
    choice = choose(search(), candidates([1, 3, 0, 2]), last, 1)
    assert choice.ties == (2, 0, 3)
    look, asked = world(np.zeros((5, 1)), 11)
    found = list(confirm(search(), choice, 100, 1, 4, look))
    assert [one.role for one in found] == [GIVEN, CHOSEN, RUNNER_UP, RUNNER_UP] and len(asked) == 1
    gap, se = difference(look([2], 100)[0][0], look([4], 100)[0][0], clusters(100, 1))
    assert (found[1].difference, found[1].difference_se) == (gap, se)


@pytest.mark.parametrize(
    ("limit", "mean", "said"),
    [
        ({"at_most": 0.5}, 0.4, HOLDS),
        ({"at_most": 0.5}, 0.49, NEARLY),
        ({"at_most": 0.5}, 0.51, VIOLATED),
        ({"at_least": 0.5}, 0.6, HOLDS),
        ({"at_least": 0.5}, 0.51, NEARLY),
        ({"at_least": 0.5}, 0.49, VIOLATED),
        ({"at_least": 0.5}, float("nan"), VIOLATED),
    ],
)
def test_verdicts(limit, mean, said):
    """Error 0.02."""
    asked = search(constraints=(limit,))
    values = np.tile([0.2, -0.2], 50) * np.sqrt(99 / 100) + mean
    assert verdict(asked.constraints[0], Figure(mean, values), clusters(100, 1)) == said
    exact = Figure(0.5, np.full(100, 0.5))
    assert verdict(asked.constraints[0], exact, clusters(100, 1)) == HOLDS


@given(st.integers(2, 6), st.integers(0, 10**6), st.booleans())
@settings(deadline=None, derandomize=True, max_examples=30)
def test_a_race_never_loses_everybody_who_may_be_feasible(n, seed, least):
    """Whatever the numbers: those left are not clearly infeasible, and somebody is left unless all are."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 0.5, (n, 2))
    asked = search("min" if least else "max", ({"at_most": 0.0},), budget_trials=3000)
    last = last_of(asked, means, world(means, seed)[0], 800)
    infeasible = [s.dropped == INFEASIBLE for s in last.standings]
    assert last.left or all(infeasible)
    assert all(
        len(s.figures[0].values) == s.n_trials == last.n_trials for i, s in enumerate(last.standings) if i in last.left
    )


def test_what_is_said_of_the_difference():
    from inference.whatif.confirmation import Confirmed

    def said(gap, se, sign=1):
        return compared(Confirmed(0, CHOSEN, (), (), gap, se), sign)

    assert said(0.0, 0.0) == "the same as the scenario as given in every trial"
    assert said(0.01, 0.01).startswith("within error of the scenario as given (+0.01")
    assert said(0.1, 0.01).startswith("better") and said(0.1, 0.01, -1).startswith("worse")
    assert said(20.0, 0.0, -1) == "worse than the scenario as given by 20"
