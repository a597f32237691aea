"""The calendar of a trial that drops losers: arithmetic by hand, a slow recruitment desk, and whole runs."""

from __future__ import annotations

import numpy as np
import pytest

from inference.trials import Plan, block_of, run_trial
from inference.whatif import calendar as calendars
from inference.whatif.counts import stated
from inference.whatif.decisions import decide
from pkpd.scenario import load_scenario
from tests.inference.whatif.designs import design

LOOKS = {"looks": [0.5, 1.0], "boundary": "obrien-fleming", "drop_losers": {"at_look": 1, "keep": 1}}


def dropping(n=(12, 12, 12), looks=LOOKS, endpoint_d=6, p=(0.5, 0.3, 0.4), rate=7.0, n_trials=2000):
    scenario = design(
        n=n, p=p, sided=1, multiplicity="bonferroni", interims=looks, trial={"n_trials": n_trials},
    )  # fmt: skip
    accrual = {"patients_per_week": rate, "endpoint_d": endpoint_d}
    return type(scenario).model_validate({**scenario.model_dump(exclude_unset=True), "accrual": accrual})


def test_by_hand():
    """A patient a day, the endpoint 6 days later, 12 patients an arm, a look after half of them."""
    arrival, scenario = np.tile(np.arange(36.0), (3, 1)), dropping()
    # one arm dropped at the look; none; both ended at the look
    found = calendars.after_drops(scenario, arrival, np.array([[1, 0], [1, 1], [0, 0]]))
    # 18 patients have come by day 17, so the look is on day 23, with 24 patients, 8 in each arm
    assert found[:, 0, :2].tolist() == [[23, 24]] * 3
    assert found[:, 0, 2].tolist() == [2, 0, 4]
    # two arms with 8 of 12 each: 8 more patients, the last on day 31
    assert found[0, 1].tolist() == [37, 32, 2]
    assert found[1, 1, :2].tolist() == [41, 36]


def test_an_endpoint_that_comes_late_leaves_nothing_to_drop():
    """All 36 have come before the look, so the second look follows at once the last of its patients."""
    arrival = np.arange(36.0)[None]
    found = calendars.after_drops(dropping(endpoint_d=60), arrival, np.array([[1, 0]]))
    assert found[0].tolist() == [[77, 36, 6], [95, 36, 6]]


def test_nobody_dropped_is_the_calendar_of_all_arms():
    looks = {"looks": [0.3, 0.6, 1.0], "boundary": "pocock", "drop_losers": {"at_look": 1, "keep": 1}}
    for endpoint_d in (1, 20, 200):
        scenario = dropping(n=(20, 10, 15), looks=looks, endpoint_d=endpoint_d)
        whole = calendars.calendar(scenario, 1, 0, 300)
        ended = np.full((300, 2), 2)
        np.testing.assert_array_equal(calendars.calendar(scenario, 1, 0, 300, ended)[:, :, :2], whole)


def desk(arrival, sizes, endpoint_d, ended):
    """One trial: patients one after another to the open arm that is farthest behind its share."""
    planned, arms = sizes[-1], range(sizes.shape[1])
    inside, when, open_ = [0] * len(arms), [[] for _ in arms], set(arms)
    days, k, queue = [], 0, list(arrival)
    closing = None
    while k < len(sizes):
        if all(inside[a] >= sizes[k, a] for a in open_):
            closing = max(when[a][sizes[k, a] - 1] for a in open_) + endpoint_d
            closing = max([closing, *days[-1:]])
        if closing is not None and (not queue or queue[0] > closing):
            days.append(closing)
            left = {0, *(a + 1 for a, at in enumerate(ended) if at > k)}
            open_ = left if len(left) > 1 else open_
            k, closing = k + 1, None
            continue
        day = queue.pop(0)
        free = [a for a in sorted(open_) if inside[a] < planned[a]]
        if free:
            arm = min(free, key=lambda a: (inside[a] + 1) / planned[a])
            inside[arm] += 1
            when[arm].append(day)
    return days, sum(inside)


def test_a_slow_desk_agrees_to_a_patient():
    """Shares are real numbers in the calendar and whole patients at the desk: within one patient an arm."""
    looks = {"looks": [0.4, 0.7, 1.0], "boundary": "pocock", "drop_losers": {"at_look": 1, "keep": 1}}
    scenario = dropping(n=(30, 30, 30), looks=looks, endpoint_d=10, rate=14.0)
    rng, trials = np.random.default_rng(1), 200
    arrival = np.cumsum(rng.exponential(0.5, (trials, 90)), axis=1)
    arrival -= arrival[:, :1]
    ended = rng.integers(0, 3, (trials, 2))
    found = calendars.after_drops(scenario, arrival, ended)
    # the desk has the control first
    sizes = np.tile(np.array([12, 21, 30])[:, None], (1, 3))
    for trial in range(trials):
        days, came = desk(arrival[trial], sizes, 10, ended[trial])
        end = ended[trial].max()
        for k in range(end + 1):
            assert abs(found[trial, k, 0] - days[k]) <= 3 * np.diff(arrival[trial]).max()
        if end == 2:
            assert abs(found[trial, 2, 1] - came) <= 2


def test_dropping_an_arm_ends_the_trial_sooner_and_spares_patients():
    n = 2000
    scenario = dropping(n=(60, 60, 60), endpoint_d=28, p=(0.3, 0.3, 0.3), rate=5.0, n_trials=n)
    table = run_trial(scenario).set_index("quantity")["estimate"]
    assert table["randomised"] < 180 and table["patients"] < table["randomised"]
    # 90 patients, then 4 weeks with 20 more; a third of them in vain; the two arms left need 60 each in all
    assert table["randomised_by_look_1"] == pytest.approx(110, abs=1)
    assert table["randomised"] == pytest.approx(110 + 2 * (60 - 110 / 3), abs=3)
    assert table["weeks"] == pytest.approx((table["randomised"] - 1) / 5 + 4, abs=1)
    assert table["randomised_beyond_the_last_look_of_their_arm"] == pytest.approx(20 / 3, abs=1)


def test_the_calendar_of_drops_does_not_depend_on_the_chunk():
    scenario = dropping()
    block = block_of(Plan(scenario, {}, 1, "auto"))
    parts = [block(first, n).calendar for first, n in ((0, 7), (7, 993), (1000, 500))]
    whole = block(0, 1500)
    np.testing.assert_array_equal(np.concatenate(parts), whole.calendar)
    expected = calendars.calendar(scenario, 1, 0, 1500, decide(scenario, stated(scenario, 1, 0, 1500)).look)
    np.testing.assert_array_equal(whole.calendar, expected)


def test_simulated_patients_too():
    settings = [
        "arms.1.n=12", "arms.2.n=12", "arms.3.n=12", "trial.n_trials=12", "analysis.multiplicity=bonferroni",
        "interims={looks=[0.5,1.0],boundary='obrien-fleming',drop_losers={at_look=1,keep=1}}",
        "accrual={patients_per_week=1}",
    ]  # fmt: skip
    table = run_trial(load_scenario("phase3", settings)).set_index("quantity")["estimate"]
    assert 18 < table["randomised_by_look_1"] <= table["randomised"] <= 36
