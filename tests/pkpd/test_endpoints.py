"""Endpoints against hand-made paths, enumeration over rescue times, and brute-force Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkpd import endpoints

DAYS = [7, 14, 21, 28, 35, 42, 49, 56]
WEEK_8, ANY, AT_75, LOW, RESCUE = range(5)
NEVER = 99

# name: counts at the 8 visits, baseline, visit of rescue (1 to 8, NEVER), events as in endpoints.NAMES
PATHS = {
    "never": ([10] * 8, 10, NEVER, "00000"),
    "always": ([60] * 8, 10, NEVER, "11110"),
    "50 is a response": ([10] * 7 + [50], 10, NEVER, "11010"),
    "49.99 is none": ([10] * 7 + [49.99], 10, NEVER, "00010"),
    "6 of 8 are 75%": ([60] * 6 + [10] * 2, 10, NEVER, "01110"),
    "5 of 8 are not": ([60] * 5 + [10] * 3, 10, NEVER, "01010"),
    "6 of 8 with a gap": ([60, 10, 60, 10, 60, 60, 60, 60], 10, NEVER, "11110"),
    "30 and doubled": ([30] + [10] * 7, 15, NEVER, "00010"),
    "29.99 and doubled": ([29.99] + [10] * 7, 10, NEVER, "00000"),
    "30, not doubled": ([30] * 8, 15.1, NEVER, "00000"),
    "55, not doubled": ([55] * 8, 28, NEVER, "11100"),
    "30 and doubled at the first visit only": ([30, 29] + [10] * 6, 14.6, NEVER, "00010"),
    "doubled of 2 is not 30": ([4] * 8, 2, NEVER, "00000"),
    "missing counts are no responses": ([60, np.nan, 60, 60, 60, 60, np.nan, np.nan], 10, NEVER, "01010"),
    "rescue alone": ([10] * 8, 10, 3, "00001"),
    "rescue at the last visit spoils that visit": ([10] * 7 + [60], 10, 8, "00001"),
    "rescue at the visit of the first response": ([10, 60] + [10] * 6, 10, 2, "00001"),
    "rescue the visit after": ([10, 60] + [10] * 6, 10, 3, "01011"),
    "responses after a rescue do not count": ([10] + [60] * 7, 10, 1, "00001"),
    "rescue before the sixth response": ([60] * 8, 10, 6, "01011"),
    "rescue after the sixth response": ([60] * 8, 10, 7, "01111"),
    "rescue after 75%, at week 8": ([60] * 8, 10, 8, "01111"),
    "30 and doubled only after rescue": ([10] * 4 + [40] * 4, 10, 4, "00001"),
}


def rescued_from(visit, n_visits=8):
    return np.arange(1, n_visits + 1) >= visit


@pytest.mark.parametrize("name", PATHS)
def test_hand_made_paths(name):
    counts, baseline, rescue, expected = PATHS[name]
    observed, rescued = np.array(counts, np.float32)[:, None], rescued_from(rescue)[:, None]
    found = endpoints.events(observed, np.array([baseline], np.float32), rescued)
    assert "".join(str(int(event)) for event in found[:, 0]) == expected
    assert found.dtype == bool and found.shape == (len(endpoints.NAMES), 1)


def test_all_paths_at_once_under_jit():
    counts, baselines, rescues, expected = zip(*PATHS.values(), strict=True)
    observed = np.array(counts, np.float32).T
    rescued = np.stack([rescued_from(visit) for visit in rescues], axis=1)
    found = jax.jit(endpoints.events)(observed, np.array(baselines, np.float32), rescued)
    np.testing.assert_array_equal(np.asarray(found).T, [[flag == "1" for flag in flags] for flags in expected])


def test_response_at_each_visit():
    observed = np.array([[49.99, 50, 50.01, 60]], np.float32)
    assert endpoints.response(observed, np.array([[False, False, False, True]])).tolist() == [
        [False, True, True, False]
    ]


@pytest.mark.parametrize(("visits", "needed"), [(8, 6), (4, 3), (9, 7), (1, 1), (5, 4), (24, 18)])
def test_visits_for_75(visits, needed):
    assert endpoints.visits_for_75(visits) == needed


def test_week_8_of_a_longer_calendar_is_the_visit_asked_for():
    observed = np.array([[10.0], [60.0], [10.0]], np.float32)
    none = np.zeros((3, 1), bool)
    assert not endpoints.events(observed, np.array([10.0]), none)[WEEK_8, 0]
    assert endpoints.events(observed, np.array([10.0]), none, landmark=1)[WEEK_8, 0]
    mean, _ = endpoints.expected_events(observed, np.array([10.0]), np.full((3, 1), 0.1), landmark=1)
    assert float(mean[WEEK_8, 0]) == pytest.approx(0.9**2)


def enumerated(observed, baseline, probability, landmark):
    """Moments by summing over every possible visit of rescue, in float64, one patient."""
    n = len(observed)
    mean, second, unrescued = np.zeros(5), np.zeros((5, 5)), 1.0
    for visit in [*range(1, n + 1), NEVER]:
        weight = unrescued * (probability[visit - 1] if visit <= n else 1.0)
        if visit <= n:
            unrescued *= 1 - probability[visit - 1]
        free = [count for index, count in enumerate(observed, start=1) if index < visit]
        landmark_visit = range(1, n + 1)[landmark]
        happened = np.array(
            [
                landmark_visit < visit and observed[landmark] >= 50,
                any(count >= 50 for count in free),
                sum(count >= 50 for count in free) >= 0.75 * n,
                any(count >= 30 and count >= 2 * baseline for count in free),
                visit <= n,
            ],
            float,
        )
        mean += weight * happened
        second += weight * np.outer(happened, happened)
    return mean, second


COUNTS = st.sampled_from([1.0, 10.0, 29.0, 30.0, 40.0, 49.0, 50.0, 60.0, 300.0])
CHANCES = st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 1.0])


@settings(max_examples=300, deadline=None)
@given(
    visits=st.lists(st.tuples(COUNTS, CHANCES), min_size=8, max_size=8),
    baseline=st.sampled_from([2.0, 10.0, 15.0, 20.0, 27.0]),
    landmark=st.sampled_from([-1, 3]),
)
def test_expected_events_are_the_sum_over_rescue_times(visits, baseline, landmark):
    counts, chances = (np.array(values) for values in zip(*visits, strict=True))
    mean, second = endpoints.expected_events(
        counts[:, None].astype(np.float32),
        np.array([baseline]),
        chances[:, None].astype(np.float32),
        landmark,
    )
    expected_mean, expected_second = enumerated(counts, baseline, chances, landmark)
    np.testing.assert_allclose(mean[:, 0], expected_mean, atol=2e-6)
    np.testing.assert_allclose(second[:, :, 0], expected_second, atol=2e-6)


def test_expected_events_against_brute_force_monte_carlo():
    """20 random paths, 200,000 rescue histories each: means and second moments within 5 standard errors."""
    rng = np.random.default_rng(7)
    paths, draws = 20, 200_000
    observed = np.exp(rng.normal(3.7, 0.9, (8, paths))).astype(np.float32)
    baseline = rng.uniform(5, 29, paths).astype(np.float32)
    chance = rng.uniform(0, 0.3, (8, paths)).astype(np.float32)
    mean, second = endpoints.expected_events(observed, baseline, chance)
    tally = jax.jit(endpoints.events)
    for path in range(paths):
        hit = rng.random((8, draws)) < chance[:, [path]]
        rescued = np.maximum.accumulate(hit, axis=0)
        repeated = np.repeat(observed[:, [path]], draws, axis=1)
        found = np.asarray(tally(repeated, np.full(draws, baseline[path]), rescued), float)
        moments = found @ found.T / draws
        error = 5 * np.sqrt(np.maximum(moments * (1 - moments), 1e-5) / draws)
        assert (np.abs(moments - second[:, :, path]) <= error).all()
        assert (np.abs(np.diag(moments) - mean[:, path]) <= np.diag(error)).all()


def test_moments_are_those_of_indicators():
    rng = np.random.default_rng(3)
    observed, chance = np.exp(rng.normal(3.7, 1, (8, 500))), rng.uniform(0, 0.4, (8, 500))
    mean, second = endpoints.expected_events(
        observed.astype(np.float32), rng.uniform(1, 30, 500), chance.astype(np.float32)
    )
    np.testing.assert_array_equal(second, np.swapaxes(second, 0, 1))
    np.testing.assert_array_equal(np.stack([second[k, k] for k in range(5)]), mean)
    np.testing.assert_allclose(second[RESCUE, WEEK_8], 0, atol=1e-6)  # a patient rescued by week 8 is no responder
    assert (second[ANY, AT_75] == mean[AT_75]).all()  # at 75% of visits implies at least once
    covariance = second - mean[:, None] * mean[None, :]
    assert np.linalg.eigvalsh(np.moveaxis(np.asarray(covariance, np.float64), -1, 0)).min() > -1e-5


def test_without_rescue_the_expectation_is_the_event():
    rng = np.random.default_rng(5)
    observed = np.exp(rng.normal(3.7, 1, (8, 300))).astype(np.float32)
    baseline = rng.uniform(1, 30, 300).astype(np.float32)
    mean, _ = endpoints.expected_events(observed, baseline, np.zeros((8, 300), np.float32))
    np.testing.assert_array_equal(mean, endpoints.events(observed, baseline, np.zeros((8, 300), bool)))


# Rescue


def test_rescue_probability_follows_its_formula():
    # Half the maximum at the count c; a slope of 4 on the log count: 1/(1 + 2^4) at twice c.
    at = endpoints.rescue_probability(jnp.array([12.0, 24.0, 6.0]), 0.085, 12.0, 7)
    np.testing.assert_allclose(at, [0.085 / 2, 0.085 / 17, 0.085 * 16 / 17], rtol=1e-5)


def test_rescue_probability_of_other_intervals():
    weekly = float(endpoints.rescue_probability(jnp.array(12.0), 0.4, 12.0, 7))
    assert float(endpoints.rescue_probability(jnp.array(12.0), 0.4, 12.0, 14)) == pytest.approx(1 - 0.8**2)
    assert float(endpoints.rescue_probability(jnp.array(12.0), 0.4, 12.0, 3.5)) == pytest.approx(1 - 0.8**0.5)
    assert weekly == pytest.approx(0.2)


def test_rescue_probability_is_at_most_1():
    assert float(endpoints.rescue_probability(jnp.array(1.0), 3.0, 50.0, 7)) == 1.0
    assert float(endpoints.rescue_probability(jnp.array(1.0), 3.0, 50.0, 1)) == 1.0


# Durations: responses as a string of visits 1 to 8, longest run, total, day of the first response
RUNS = {
    "00000000": (0, 0, np.inf),
    "10000000": (0, 0, 7),
    "01010101": (0, 0, 14),
    "11000000": (7, 7, 7),
    "00000011": (7, 7, 49),
    "11111111": (49, 49, 7),
    "01110110": (14, 21, 14),
    "11011101": (14, 21, 7),
    "11101111": (21, 35, 7),
    "11110111": (21, 35, 7),
    "00000001": (0, 0, 56),
}


@pytest.mark.parametrize("visits", RUNS)
def test_run_durations(visits):
    responds = np.array([flag == "1" for flag in visits])[:, None]
    longest, total = endpoints.run_durations(responds, DAYS)
    first = endpoints.time_to_first_response(responds, DAYS)
    assert (float(longest[0]), float(total[0]), float(first[0])) == RUNS[visits]


def test_run_durations_use_the_days_of_the_visits():
    responds = np.array([[1, 0], [1, 1], [1, 1], [0, 1], [1, 1], [1, 0]], bool)
    longest, total = jax.jit(endpoints.run_durations, static_argnums=1)(responds, (6, 14, 20, 30, 31, 60))
    np.testing.assert_array_equal(longest, [29, 17])
    np.testing.assert_array_equal(total, [43, 17])


def test_durations_end_at_rescue():
    observed = np.full((8, 1), 60.0, np.float32)
    responds = endpoints.response(observed, rescued_from(5)[:, None])
    longest, total = endpoints.run_durations(responds, DAYS)
    assert (float(longest[0]), float(total[0])) == (21, 21)
