"""Running sums against the formulas on all trials at once: means, ratios, clustered errors, quantiles."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.whatif import summed
from inference.whatif.errors import clustered_se, quantile_with_se, wilson
from inference.whatif.summed import Mean, Rows

N = 3000


def figures(n_draws, seed=1):
    rng = np.random.default_rng(seed)
    of_draw = rng.normal(0, 0.3, n_draws)[np.arange(N) % n_draws]
    value = 1e4 + of_draw + rng.normal(0, 1, N)  # a mean far from 0: squares alone would lose digits
    share = rng.random(N) < 0.3 + 0.1 * np.tanh(of_draw)
    numbers = rng.integers(0, 5, N)
    sums = numbers * (0.2 + of_draw) + rng.normal(0, 1, N) * (numbers > 0)
    return value, share, sums, numbers, np.where(rng.random(N) < 0.9, value, np.nan)


def summary(n_draws, ends):
    value, share, sums, numbers, holed = figures(n_draws)
    rows = Rows("x", n_draws)
    for first, last in zip((0, *ends), (*ends, N), strict=True):
        part = slice(first, last)
        rows.begin(last - first)
        rows.add("a", "value", value[part])
        rows.add_quantiles("a", "value", value[part])
        rows.add("a", "share", share[part])
        rows.add_mean("a", "ratio", sums[part], numbers[part])
        rows.add_estimate("a", "whole", value[part], np.isfinite(value[part]))
        rows.add_estimate("a", "holed", holed[part], np.isfinite(holed[part]))
    return rows.table()


@pytest.mark.parametrize("n_draws", [1, 40])
def test_rows_are_the_formulas_on_all_trials(n_draws):
    value, share, sums, numbers, holed = figures(n_draws)
    cluster = np.arange(N) % n_draws
    found = summary(n_draws, ()).set_index("quantity")
    assert list(found.index) == [
        "value", "value_q2.5", "value_q97.5", "share", "ratio", "whole", "whole_q2.5", "whole_q97.5",
        "holed_estimable", "holed",
    ]  # fmt: skip
    for name, x in (("value", value), ("share", share), ("whole", value)):
        assert found.loc[name, "estimate"] == pytest.approx(x.mean(), rel=1e-12)
        assert found.loc[name, "mc_se"] == pytest.approx(clustered_se(x, cluster), rel=1e-9)
    assert found.loc["share", ["lower", "upper"]].tolist() == pytest.approx(
        wilson(share.mean(), clustered_se(share, cluster), N), rel=1e-9
    )
    for q in (0.025, 0.975):
        assert found.loc[f"value_q{100 * q:g}", ["estimate", "mc_se"]].tolist() == [*quantile_with_se(value, q)]
    ratio = sums.sum() / numbers.sum()
    assert found.loc["ratio", "estimate"] == pytest.approx(ratio, rel=1e-12)
    expected = clustered_se((sums - ratio * numbers) / numbers.mean(), cluster)
    assert found.loc["ratio", "mc_se"] == pytest.approx(expected, rel=1e-9)
    assert found.loc["holed", "estimate"] == pytest.approx(np.nanmean(holed), rel=1e-12)
    assert found.loc["holed_estimable", "estimate"] == pytest.approx(np.isfinite(holed).mean())


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    ends=st.lists(st.integers(1, N - 1), max_size=6, unique=True).map(sorted), least=st.sampled_from([1, 100, 10**6])
)
def test_parts_of_any_size_give_the_same_bits(ends, least):
    before = summed.LEAST_MERGED
    try:
        summed.LEAST_MERGED = least
        found = summary(40, ends)
    finally:
        summed.LEAST_MERGED = before
    pd.testing.assert_frame_equal(found, summary(40, ()), check_exact=True)


def test_few_different_values_take_no_more_memory_than_one_trial_each():
    kept = summed.Quantiles()
    for _ in range(20):
        kept.add(np.arange(100_000) % 31 / 30)
    assert len(kept.values) == 31 and kept.times.sum() == 2_000_000 and not kept.new


def test_nobody_and_a_single_trial_have_no_error():
    rows = Rows("x", 1)
    rows.begin(1)
    rows.add("a", "one", np.array([2.0]))
    rows.add_mean("a", "nobody", np.zeros(1), np.zeros(1, int))
    found = rows.table().set_index("quantity")
    assert found.loc["one", "estimate"] == 2 and np.isnan(found.loc["one", "mc_se"])
    assert found.loc["nobody", ["estimate", "mc_se", "lower", "upper"]].isna().all()


def test_coverage_is_that_of_the_mean_of_all_estimates():
    rng = np.random.default_rng(4)
    estimate = rng.normal(0.4, 1.0, 20_000)
    rows = Rows("x", 1)
    for part in (slice(0, 7000), slice(7000, None)):
        rows.begin(len(estimate[part]))
        rows.add_coverage("a", "coverage", estimate[part], estimate[part] - 1.96, estimate[part] + 1.96)
    (row,) = rows.table().itertuples()
    inside = np.abs(estimate - estimate.mean()) <= 1.96
    assert row.estimate == pytest.approx(inside.mean(), abs=1e-12) and 0.945 < row.estimate < 0.955
    assert row.mc_se == pytest.approx(inside.std() / np.sqrt(len(inside))) and row.lower < row.estimate < row.upper
    several = Rows("x", 5)
    several.begin(100)
    several.add_coverage("a", "coverage", estimate[:100], estimate[:100] - 1, estimate[:100] + 1)
    assert len(several.table()) == 0  # each draw has a truth of its own


def test_a_share_of_some_trials_has_bounds_even_where_all_agree():
    """20 of 20 trials of 40: Wilson's bounds of 20, not a width of 0; of no trial at all nothing is known."""
    mean = Mean(1)
    some = np.arange(40) < 20
    mean.add(np.zeros(40, int), some, some)
    assert mean.rows("if")[0][1:] == (1.0, 0.0, *wilson(1.0, 0.0, 20)) and wilson(1.0, 0.0, 20)[0] < 0.85
    none = Mean(1)
    none.add(np.zeros(40, int), np.zeros(40, bool), np.zeros(40, bool))
    assert np.isnan(none.rows("if")[0][1:]).all()
