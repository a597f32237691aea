"""The titration controller: a table of courses, and random courses against a controller in plain Python."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkpd import titration
from pkpd.errors import InputError
from pkpd.titration import Band

LEVELS = (2.5, 3.75, 5.0, 7.5)
TOP = len(LEVELS) - 1
DECIDE = jax.jit(titration.decide)
PHASE_3 = {
    "up_below": 50,
    "up_every_d": 14,
    "up_min_days_since_change": 14,
    "down_above": 200,
    "hold_above": 250,
    "resume_below": 150,
    "stop_after_d": 28,
}
RULE = titration.compact(LEVELS, **PHASE_3)


def course(counts, start_mg, days=None, rule=RULE):
    """Doses from each visit on, and the last state, of one patient with these counts at (weekly) visits."""
    dosing = titration.start(rule, titration.level_of(rule, start_mg), 1)
    doses = []
    for day, count in zip(days or range(7, 7 * len(counts) + 7, 7), counts, strict=True):
        dosing = DECIDE(rule, dosing, jnp.array([count], jnp.float32), day)
        doses.append(float(titration.dose_mg(rule, dosing)[0]))
    return doses, dosing


# name: start dose in mg, counts at days 7, 14, ..., doses given from each of these visits on
COURSES = {
    "in the band nothing happens": (5, [60, 100, 150, 199], [5, 5, 5, 5]),
    # one level up: even weeks only, strictly below 50, 14 days since the last change
    "up on day 14, not on day 7": (5, [10, 10], [5, 7.5]),
    "up again 14 days later": (2.5, [10, 10, 10, 10, 10, 10], [2.5, 3.75, 3.75, 5, 5, 7.5]),
    "no rise on an odd week": (5, [60, 60, 10], [5, 5, 5]),
    "49.99 is below 50": (5, [60, 49.99], [5, 7.5]),
    "50 is not below 50": (5, [60, 50], [5, 5]),
    "a rise needs only the count of its own visit": (5, [100, 49], [5, 7.5]),
    "no rise 7 days after a step down": (5, [220, 40, 40, 40], [3.75, 3.75, 3.75, 5]),
    "rise exactly 14 days after a step down": (5, [60, 220, 40, 40], [5, 3.75, 3.75, 5]),
    "at the top a rise changes nothing": (7.5, [60, 40, 60], [7.5, 7.5, 7.5]),
    # one level down: any visit, strictly above 200
    "200 is not above 200": (5, [200], [5]),
    "200.01 is above 200": (5, [200.01], [3.75]),
    "down week after week": (7.5, [201, 201, 201, 201], [5, 3.75, 2.5, 2.5]),
    "a down step needs no waiting": (5, [10, 10, 210], [5, 7.5, 5]),
    "250 is a step down, not an interruption": (5, [250], [3.75]),
    # interruption: strictly above 250, before the step down
    "250.01 interrupts": (5, [250.01], [0]),
    "interruption keeps the level until it resumes": (5, [300, 149], [0, 3.75]),
    "still above 250: stays interrupted": (5, [300, 300, 300], [0, 0, 0]),
    "150 does not resume": (5, [300, 150], [0, 0]),
    "149.99 resumes": (5, [300, 149.99], [0, 3.75]),
    "above 200 while interrupted lowers nothing": (7.5, [300, 220, 220, 140], [0, 0, 0, 5]),
    "the lowest stays lowest on resumption": (2.5, [300, 100], [0, 2.5]),
    "resumes rather than rises on an even week": (5, [300, 10], [0, 3.75]),
    "no rise 7 days after resumption": (5, [60, 300, 100, 40], [5, 0, 3.75, 3.75]),
    "rise 14 days after resumption": (5, [300, 100, 40, 40], [0, 3.75, 3.75, 5]),
    "at the lowest level resumption is a change": (
        2.5,
        [60, 300, 100, 40, 40, 40],
        [2.5, 0, 2.5, 2.5, 2.5, 3.75],
    ),
    "interrupts a second time": (7.5, [300, 100, 300, 100], [0, 5, 0, 3.75]),
    # the ends of the ladder: an action that changes nothing is not a change
    "a step down at the bottom delays no rise": (2.5, [210, 40], [2.5, 3.75]),
    "a rise at the top is no change": (7.5, [60, 40, 210, 100, 100, 40], [7.5, 7.5, 5, 5, 5, 7.5]),
    # stop for good: 28 days at the top with every count below 50
    "stop 28 days after a start at the top": (7.5, [10, 10, 10, 10, 10], [7.5, 7.5, 7.5, 0, 0]),
    "stop 28 days after reaching the top": (5, [10] * 7, [5, 7.5, 7.5, 7.5, 7.5, 0, 0]),
    "a count before the top does not matter": (5, [100] + [10] * 6, [5, 7.5, 7.5, 7.5, 7.5, 0, 0]),
    "one count of 50 starts the 28 days anew": (7.5, [10, 50, 10, 10, 10, 10], [7.5] * 5 + [0]),
    "49.99 does not": (7.5, [10, 49.99, 10, 10], [7.5, 7.5, 7.5, 0]),
    "a count of 50 on the last day saves": (7.5, [10, 10, 10, 50, 10], [7.5] * 5),
    "never below the top": (2.5, [10, 60, 10, 60, 10, 60, 10, 60], [2.5] * 8),
    "interruption at the top breaks the spell": (
        7.5,
        [10, 10, 300, 10, 10, 10, 10, 10, 10, 10, 10],
        [7.5, 7.5, 0, 5, 5, 7.5, 7.5, 7.5, 7.5, 0, 0],
    ),
    "stopped for good: nothing resumes": (7.5, [10, 10, 10, 10, 300, 100, 210, 10], [7.5] * 3 + [0] * 5),
}


@pytest.mark.parametrize("name", COURSES)
def test_table_of_courses(name):
    start_mg, counts, expected = COURSES[name]
    assert course(counts, start_mg)[0] == expected


def test_flags_tell_interruption_from_stop():
    interrupted = course([300], 5)[1]
    assert interrupted.interrupted[0] and not interrupted.stopped[0]
    stopped = course([10] * 4, 7.5)[1]
    assert stopped.stopped[0] and not stopped.interrupted[0]


def test_a_missing_count_changes_no_dose():
    always_down = titration.from_bands(LEVELS, [Band("down")])
    assert course([float("nan"), 10], 5, rule=always_down)[0] == [5, 3.75]
    assert course([60, float("nan"), 60, float("nan")], 5)[0] == [5] * 4


def test_after_a_stop_nothing_moves():
    stopped = course([10] * 4, 7.5)[1]
    for day, count in ((35, 300), (42, 10), (49, 210), (56, 100)):
        later = titration.decide(RULE, stopped, jnp.array([count], jnp.float32), day)
        for one, other in zip(later, stopped, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("counts", "start_mg", "last_change_d"),
    [
        ([100, 100], 5, 0),  # the start of treatment is day 0
        ([100, 40], 5, 14),
        ([210], 5, 7),
        ([210], 2.5, 0),  # no level below: no change
        ([100, 40], 7.5, 0),  # no level above: no change
        ([300], 2.5, 7),
        ([300, 300], 2.5, 7),  # already interrupted
        ([300, 100], 2.5, 14),  # the dose given changes from 0 to the lowest
    ],
)
def test_day_of_last_change(counts, start_mg, last_change_d):
    assert int(course(counts, start_mg)[1].last_change_d[0]) == last_change_d


def test_irregular_visits_follow_the_calendar_of_days():
    # Day 13 and 15 are no multiples of 14; day 28 is. Day 29 is 28 days after no level at the top.
    assert course([10, 10, 10, 10], 5, days=[13, 15, 28, 29])[0] == [5, 5, 7.5, 7.5]
    # At the top from day 28: day 55 is too early, day 57 is late enough.
    assert course([10, 10, 10], 5, days=[28, 55, 57])[0] == [7.5, 7.5, 0]


def test_day_0_is_not_on_the_calendar():
    every_14 = titration.compact(LEVELS, up_below=50, up_every_d=14, up_min_days_since_change=0)
    assert course([10, 10], 2.5, days=[0, 14], rule=every_14)[0] == [2.5, 3.75]


def test_each_threshold_belongs_to_its_own_row():
    rule = titration.compact(LEVELS, **(PHASE_3 | {"down_above": 250, "hold_above": 400}))
    assert course([250, 251, 400, 401], 7.5, rule=rule)[0] == [7.5, 5, 3.75, 0]


def test_placebo_follows_the_same_rule_at_0_mg():
    dosing = titration.start(RULE, 2, 3)
    given = []
    for day, counts in ((7, [10, 300, 60]), (14, [10, 100, 60])):
        dosing = titration.decide(RULE, dosing, jnp.array(counts, jnp.float32), day)
        given.append(np.asarray(0.0 * titration.dose_mg(RULE, dosing)))
    np.testing.assert_array_equal(given, np.zeros((2, 3)))
    np.testing.assert_array_equal(dosing.level, [3, 1, 2])  # levels move as they would under drug


def test_fixed_dose_never_changes():
    rule = titration.fixed(3.0)
    assert course([10, 10, 10, 10, 300, 10], 3.0, rule=rule)[0] == [3.0] * 6
    assert float(titration.dose_mg(titration.fixed(0.0), titration.start(titration.fixed(0.0), 0, 1))[0]) == 0
    assert titration.as_text(rule) == "Fixed dose: 3 mg once daily."


def test_same_under_jit_and_scan_with_a_traced_day():
    rng = np.random.default_rng(1)
    counts = jnp.asarray(np.exp(rng.normal(4.5, 1.3, (12, 500))), jnp.float32)
    days = jnp.arange(7, 7 * 12 + 7, 7)
    start = titration.start(RULE, 1, 500)

    @jax.jit
    def scanned(rule, start, counts):
        def visit(dosing, at):
            dosing = titration.decide(rule, dosing, *at)
            return dosing, titration.dose_mg(rule, dosing)

        return jax.lax.scan(visit, start, (counts, days))

    dosing, doses = start, []
    for day, count in zip(range(7, 91, 7), counts, strict=True):
        dosing = titration.decide(RULE, dosing, count, day)
        doses.append(titration.dose_mg(RULE, dosing))
    final, scanned_doses = scanned(RULE, start, counts)
    np.testing.assert_array_equal(scanned_doses, np.stack(doses))
    for one, other in zip(final, dosing, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {int(dose * 100) for dose in np.unique(doses)} == {0, 250, 375, 500, 750}


def test_start_levels_may_differ_between_patients():
    dosing = titration.start(RULE, jnp.array([0, TOP]), 2)
    np.testing.assert_array_equal(titration.dose_mg(RULE, dosing), [2.5, 7.5])


# A second controller, from the words of the protocol, one patient, plain code; nothing shared.


class Plain:
    def __init__(self, start_level):
        self.level, self.given, self.stopped = start_level, LEVELS[start_level], False
        self.changed_on = 0
        self.doses = []  # dose given from day 0 on, one entry a day
        self.visits = []  # (day, count)

    def advance(self, day):
        self.doses += [self.given] * (day - len(self.doses))

    def top_without_response(self, day):
        """28 days, all on the top dose, and no visit in them (after the first day) with 50 or more."""
        if day < 28 or any(dose != LEVELS[-1] for dose in self.doses[day - 28 : day]):
            return False
        return all(count < 50 for visit, count in self.visits if day - 28 < visit <= day)

    def visit(self, day, count):
        self.advance(day)
        self.visits.append((day, count))
        if self.stopped:
            return
        interrupted = self.given == 0
        before = self.given
        if self.top_without_response(day):
            self.stopped, self.given = True, 0
        elif count > 250 and not interrupted:
            self.given = 0
        elif interrupted and count < 150:
            self.level = self.level - 1 if self.level > 0 else 0
            self.given = LEVELS[self.level]
        elif count > 200:
            if not interrupted and self.level > 0:
                self.level = self.level - 1
                self.given = LEVELS[self.level]
        elif day in range(14, 10_000, 14) and count < 50 and day - self.changed_on >= 14:
            if self.level + 1 < len(LEVELS):
                self.level = self.level + 1
                self.given = LEVELS[self.level]
        if self.given != before:
            self.changed_on = day


BOUNDARY = st.sampled_from([1.0, 49.0, 50.0, 51.0, 149.0, 150.0, 151.0, 199.0, 200.0, 201.0, 250.0, 251.0])
MOSTLY_LOW = st.one_of(st.just(10.0), st.just(10.0), st.just(10.0), BOUNDARY)
GAPS = st.sampled_from([7, 7, 7, 7, 14, 1, 3, 10, 28])


@settings(max_examples=400, deadline=None)
@given(
    start_level=st.integers(0, TOP),
    visits=st.lists(st.tuples(GAPS, st.one_of(BOUNDARY, MOSTLY_LOW)), min_size=1, max_size=24),
)
def test_random_courses_agree_with_plain_python(start_level, visits):
    plain, dosing, day = Plain(start_level), titration.start(RULE, start_level, 1), 0
    for gap, count in visits:
        day += gap
        plain.visit(day, count)
        dosing = DECIDE(RULE, dosing, jnp.array([count], jnp.float32), day)
        now = (float(titration.dose_mg(RULE, dosing)[0]), bool(dosing.stopped[0]))
        assert now == (plain.given, plain.stopped), f"day {day}"
        assert bool(dosing.interrupted[0]) == (plain.given == 0 and not plain.stopped)


def test_many_weekly_courses_agree_with_plain_python():
    """Every kind of action occurs in 3,000 weekly courses, and each agrees with the plain controller."""
    rng = np.random.default_rng(20)
    n, weeks = 3000, 16
    walk = np.cumsum(rng.normal(0, 0.7, (weeks, n)), axis=0) + rng.normal(3.5, 1.2, n)
    counts = np.maximum(np.exp(walk), 1).round(0)
    levels = rng.integers(0, TOP + 1, n)
    dosing = titration.start(RULE, jnp.asarray(levels), n)
    given_mg, stopped = [], []
    for week in range(weeks):
        dosing = DECIDE(RULE, dosing, jnp.asarray(counts[week], jnp.float32), 7 * week + 7)
        given_mg.append(np.asarray(titration.dose_mg(RULE, dosing)))
        stopped.append(np.asarray(dosing.stopped))
    expected = np.zeros((weeks, n))
    for patient in range(n):
        plain = Plain(int(levels[patient]))
        for week in range(weeks):
            plain.visit(7 * week + 7, counts[week, patient])
            expected[week, patient] = plain.given
    np.testing.assert_array_equal(given_mg, expected)
    change = np.diff(expected, axis=0)
    assert (change > 0).any() and (change < 0).any() and np.mean(stopped[-1]) > 0.1


# General rules


def test_bands_can_say_what_the_compact_form_says():
    bands = [
        Band("stop", below=50, min_days_at_top_below=28),
        Band("interrupt", above=250),
        Band("resume_lower", below=150, while_interrupted=True),
        Band("down", above=200),
        Band("up", below=50, every_d=14, min_days_since_change=14),
    ]
    for one, other in zip(titration.from_bands(LEVELS, bands), RULE, strict=True):
        np.testing.assert_array_equal(one, other)


def test_order_of_rows_decides():
    down_first = [Band("down", above=100), Band("interrupt", above=100)]
    assert course([120], 5, rule=titration.from_bands(LEVELS, down_first))[0] == [3.75]
    assert course([120], 5, rule=titration.from_bands(LEVELS, down_first[::-1]))[0] == [0]


def test_one_row_acts_even_where_it_changes_nothing():
    # At the bottom the step down holds the visit: the interruption below it is not reached.
    rule = titration.from_bands(LEVELS, [Band("down", above=100), Band("interrupt", above=200)])
    assert course([250], 2.5, rule=rule)[0] == [2.5]


def test_resumption_at_the_same_level_and_stop_in_any_state():
    rule = titration.from_bands(
        LEVELS,
        [
            Band("stop", above=500, while_interrupted=None),
            Band("interrupt", above=250),
            Band("resume", below=150, while_interrupted=True),
        ],
    )
    assert course([300, 100], 5, rule=rule)[0] == [0, 5]
    doses, dosing = course([300, 600, 100], 5, rule=rule)
    assert doses == [0, 0, 0] and bool(dosing.stopped[0]) and not bool(dosing.interrupted[0])


def test_actions_left_out_do_not_happen():
    only_up = titration.compact(LEVELS, up_below=50, up_every_d=14, up_min_days_since_change=0)
    assert course([300, 10, 10, 10], 2.5, rule=only_up)[0] == [2.5, 3.75, 3.75, 5]
    only_down = titration.compact(LEVELS, down_above=200)
    assert course([10, 10, 210], 5, rule=only_down)[0] == [5, 5, 3.75]


def test_a_single_level_interrupts_resumes_and_stops():
    rule = titration.compact([5.0], **PHASE_3)
    assert course([300, 100, 10, 10, 10, 10], 5, rule=rule)[0] == [0, 5, 5, 5, 5, 0]
    assert course([300, 10, 10, 10, 10, 10], 5, rule=rule)[0] == [0, 5, 5, 5, 5, 0]


def test_printed_as_a_protocol():
    assert titration.as_text(RULE) == "\n".join(
        [
            "Levels: 2.5, 3.75, 5, 7.5 mg once daily. At a visit the first line that applies acts:",
            "1. after 28 days at 7.5 mg with every count below 50: stop for good",
            "2. count above 250, while not interrupted: interrupt",
            "3. count below 150, while interrupted: resume one level lower",
            "4. count above 200, while not interrupted: one level down",
            "5. on days 14, 28, 42, ..., count below 50, at least 14 days since the dose given last changed, "
            "while not interrupted: one level up",
        ]
    )


class Bad(NamedTuple):
    changes: dict
    message: str


BAD = [
    Bad({"levels_mg": []}, "levels_mg"),
    Bad({"levels_mg": [2.5, 2.5]}, "must increase: 2.5 follows 2.5"),
    Bad({"levels_mg": [5, 2.5]}, "must increase: 2.5 follows 5"),
    Bad({"levels_mg": [0, 2.5]}, "0 is not a dose"),
    Bad({"levels_mg": [-1.0, 2.5]}, "-1.0 is not a dose"),
    Bad({"levels_mg": [2.5, float("nan")]}, "nan is not a dose"),
    Bad({"levels_mg": [2.5, float("inf")]}, "inf is not a dose"),
    Bad({"levels_mg": ["2.5"]}, "'2.5' is not a dose"),
    Bad({"up_below": 150}, "up_below = 150 must be below resume_below = 150"),
    Bad({"up_below": 200, "resume_below": 210}, "up_below = 200 must be below down_above = 200"),
    Bad({"down_above": 250}, "down_above = 250 must be below hold_above = 250"),
    Bad({"down_above": 300}, "down_above = 300 must be below hold_above = 250"),
    Bad({"resume_below": 251}, "resume_below = 251 must be at most hold_above = 250"),
    Bad({"up_below": -5}, "up_below = -5"),
    Bad({"hold_above": float("nan")}, "hold_above = nan"),
    Bad({"up_every_d": 0}, "up_every_d = 0"),
    Bad({"up_every_d": 14.5}, "up_every_d = 14.5"),
    Bad({"up_min_days_since_change": -1}, "up_min_days_since_change = -1"),
    Bad({"stop_after_d": 0}, "stop_after_d = 0"),
    Bad({"stop_after_d": True}, "stop_after_d = True"),
    Bad({"up_every_d": None}, "up_every_d is missing"),
    Bad({"resume_below": None}, "resume_below is missing"),
    Bad({"up_below": None, "up_every_d": None, "up_min_days_since_change": None}, "up_below is missing"),
    Bad(dict.fromkeys(PHASE_3), "no action"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.message)
def test_bad_rules_are_refused(bad):
    keys = {"levels_mg": LEVELS} | PHASE_3 | bad.changes
    with pytest.raises(InputError) as refused:
        titration.compact(**keys)
    assert bad.message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("band", "message"),
    [
        (Band("dwon", above=200), "did you mean 'down'?"),
        (Band("none", above=200), "unknown action 'none'"),
        (Band("down", above=200, below=100), "above = 200 must be smaller than below = 100"),
        (Band("down", above=float("nan")), "above = nan"),
        (Band("up", below=50, every_d=-14), "every_d = -14"),
        (Band("down", above=200, while_interrupted=True), "needs while_interrupted = false"),
        (Band("resume_lower", below=150), "needs while_interrupted = true"),
        (Band("stop", min_days_at_top_below=28), "needs a limit below"),
        (Band("stop", below=50, min_days_at_top_below=28, while_interrupted=True), "not while interrupted"),
    ],
)
def test_bad_bands_are_refused(band, message):
    with pytest.raises(InputError, match=r"bands row 2") as refused:
        titration.from_bands(LEVELS, [Band("up", below=50), band])
    assert message in str(refused.value)


def test_two_limits_for_days_at_the_top_are_refused():
    stops = [Band("stop", below=low, min_days_at_top_below=28) for low in (30, 50)]
    with pytest.raises(InputError, match="share one value of below, not 30, 50"):
        titration.from_bands(LEVELS, stops)


@pytest.mark.parametrize("dose", [-1.0, float("nan"), float("inf"), "5", True])
def test_bad_fixed_dose(dose):
    with pytest.raises(InputError, match="dose_mg"):
        titration.fixed(dose)


def test_start_dose_off_the_ladder():
    with pytest.raises(InputError, match=r"start_dose_mg = 4 is not on the ladder of 2\.5, 3\.75, 5, 7\.5 mg"):
        titration.level_of(RULE, 4)
