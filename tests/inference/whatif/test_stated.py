"""Outcomes of stated probability: their law, and that their bits depend on nothing but seed, trial, arm and look."""

import itertools

import numpy as np
import pytest
from scipy import stats

from inference.trials import run_trial
from inference.whatif.counts import CELL, binomial_quantile, sizes_analysed, stated
from inference.whatif.decisions import decide
from pkpd.errors import InputError
from pkpd.scenario import build
from pkpd.scenario_text import describe
from tests.inference.whatif.designs import design


def test_counts_are_binomial():
    """Chi-square of 50,000 counts against the law, and both certain outcomes."""
    for n, p in ((6, 0.3), (40, 0.15)):
        u = np.random.default_rng(1).random(50_000)
        seen = np.bincount(binomial_quantile(u, n, p), minlength=n + 1)
        expected = len(u) * stats.binom.pmf(np.arange(n + 1), n, p)
        common = expected > 5
        assert (
            stats.chisquare(seen[common], expected[common] * seen[common].sum() / expected[common].sum()).pvalue > 0.01
        )
    assert (binomial_quantile(np.array([0.0, 0.5, 1 - 2**-53]), 7, 1.0) == 7).all()
    assert (binomial_quantile(np.array([0.0, 0.5, 1 - 2**-53]), 7, 0.0) == 0).all()


def test_the_same_bits_whatever_the_chunks():
    d = design(n=(20, 15, 30), p=(0.5, 0.2, 0.4), interims={"looks": [0.4, 1.0], "boundary": "pocock"})
    whole = stated(d, 7, 0, 3500)
    for edges in ((0, 1, 999, 1000, 2600, 3500), (0, CELL, 3500)):
        parts = [stated(d, 7, a, b - a) for a, b in itertools.pairwise(edges)]
        assert np.array_equal(np.concatenate([part.analysed for part in parts]), whole.analysed)
        for name, counts in whole.by_arm.items():
            assert np.array_equal(np.concatenate([part.by_arm[name] for part in parts]), counts)
    assert not np.array_equal(stated(d, 8, 0, 3500).analysed, whole.analysed)


def test_looks_add_up_and_arms_are_independent():
    d = design(n=(20, 15, 30), p=(0.5, 0.2, 0.4), interims={"looks": [0.4, 0.7, 1.0], "boundary": "pocock"})
    found = stated(d, 1, 0, 2000).analysed
    assert (np.diff(found, axis=1) >= 0).all()
    last = found[:, -1].astype(float)
    np.testing.assert_allclose(last.mean(0), [10, 3, 12], atol=4 * np.sqrt(7.2 / 2000))
    correlations = np.corrcoef(last.T)[np.triu_indices(3, 1)]
    steps = np.corrcoef(np.diff(found[:, :, 0], axis=1, prepend=0).T)[np.triu_indices(3, 1)]
    assert (np.abs([*correlations, *steps]) < 3.5 / np.sqrt(2000)).all()


def test_two_designs_share_their_random_numbers():
    """The difference of two designs varies far less than between independent seeds; an added arm changes no other."""
    one = stated(design(p=(0.50, 0.2)), 1, 0, 4000).analysed[:, 0, 0]
    other = stated(design(p=(0.52, 0.2)), 1, 0, 4000).analysed[:, 0, 0]
    fresh = stated(design(p=(0.52, 0.2)), 2, 0, 4000).analysed[:, 0, 0]
    assert (other >= one).all() and np.var(other - one) < 0.2 * np.var(fresh - one)
    more = stated(design(n=(12, 12, 9), p=(0.5, 0.2, 0.9), names=("a", "control", "new")), 1, 0, 4000).analysed
    assert np.array_equal(more[:, 0, 0], one)


def test_a_profile_reports_every_visit_and_tests_its_own():
    data = {
        "trial": {"visits_d": [7, 20, 28], "n_trials": 4000},
        "arms": [{"name": "a", "n": 30}, {"name": "b", "n": 20}],
        "outcome": {"response_profile": {"a": [0.2, 0.5, 0.7], "b": [0.1, 0.1, 0.3]}},
        "analysis": {"endpoint": "response_week_4", "test": "fisher", "control": "b", "alpha": 0.05},
    }
    table = run_trial(build(data, "s.toml"), seed=1).set_index(["comparison", "quantity"])
    for arm, n in (("a", 30), ("b", 20)):
        for name, p in zip(
            ("response_week_1", "response_day_20", "response_week_4"),
            data["outcome"]["response_profile"][arm],
            strict=True,
        ):
            assert table.loc[(arm, name), "estimate"] == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n / 4000))
    difference = table.loc[("a vs b", "risk_difference_response_week_4")]
    assert difference["estimate"] == pytest.approx(0.4, abs=4 * difference["mc_se"])


def test_stated_outcomes_have_no_patients_and_no_posterior(tmp_path):
    from pkpd.planned import planned_arms

    for refused in (
        lambda: planned_arms(design()),
        lambda: design().landmark,
        lambda: run_trial(design(), posterior=tmp_path),
    ):
        with pytest.raises(InputError, match=r"\[outcome\] states responses"):
            refused()


LOOKS = {"looks": [0.5, 1.0], "boundary": "pocock", "drop_losers": {"at_look": 1, "keep": 1}}
ONE_SIDED = {"sided": 1, "alpha": 0.05}


@pytest.mark.parametrize(
    "said",
    [
        {"test": "fisher", **ONE_SIDED},
        {"test": "bayesian", "threshold": 0.95},
        {"test": "risk-difference", "multiplicity": "closed-dunnett", **ONE_SIDED},
        {"test": "cochran-mantel-haenszel", "multiplicity": "bonferroni", "interims": LOOKS, **ONE_SIDED},
    ],
)
def test_a_rescue_is_tested_for_fewer(said):
    """Decisions on rescues, one-sided, are those on the patients without one, dropping of losers included."""
    rescue, response = (
        design(n=(30, 30, 30), p=(0.15, 0.5, 0.3), endpoint=endpoint, **said) for endpoint in ("rescue", "response")
    )
    counts = stated(rescue, 1, 0, 300)
    found = decide(rescue, counts)
    without = counts._replace(analysed=sizes_analysed(rescue) - counts.analysed)
    for one, other in zip(found, decide(response, without), strict=True):
        assert np.array_equal(one, other)
    assert found.rejected[:, 0].mean() > 0.5


def test_the_words_of_a_design_have_all_that_is_stated():
    data = design().model_dump(exclude_unset=True)
    data["outcome"] |= {"correlation": 0.3, "secondary": {"rescue": {"a": 0.1, "control": 0.45}}}
    data["analysis"] |= {"secondary": [{"endpoint": "rescue", "test": "fisher"}]}
    said = describe(build(data, "design.toml"))
    assert "response 0.2, rescue 0.45" in said and "correlation 0.3 of primary" in said
