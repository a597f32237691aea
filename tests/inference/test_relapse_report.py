"""Relapse curves of the page of ``pkpd trial``: Kaplan-Meier against lifelines, bands, numbers at risk."""

from __future__ import annotations

import lifelines
import numpy as np
import pytest

from inference import plots, plots_relapse
from inference.report import relapse, trial, virtual
from inference.trials import run_trial
from pkpd.scenario import load_scenario
from tests.inference.test_report import Page


def made_up(trials: int, each: int, n: int | None = None, seed: int = 1) -> virtual.VirtualArm:
    rng = np.random.default_rng(seed)
    time, event = 7.0 * rng.integers(1, 13, (trials, each)), rng.random((trials, each)) < 0.6
    r = virtual.Relapse(time, event, rng.random((trials, each)) < 0.7)
    empty = virtual.Courses(*[np.zeros((1, 1))] * len(virtual.Courses._fields))
    n = each if n is None else n
    return virtual.VirtualArm(
        "a", "hetrombopag", "fasted", empty, np.zeros((trials, 1)), n == each, time.size, "", n, r
    )


def test_the_curve_and_its_error_are_those_of_lifelines():
    a = made_up(30, 20)
    (c,) = relapse.curves([a])
    inside = a.relapse.entered
    oracle = lifelines.KaplanMeierFitter().fit(a.relapse.time_d[inside], a.relapse.event[inside])
    np.testing.assert_allclose(c.share, oracle.survival_function_at_times(c.at_d), rtol=1e-12)
    events = oracle.event_table
    for day in (7, 21, 84):
        assert relapse.at_risk(c, day) == pytest.approx(events.loc[day, "at_risk"] / 30)
    d, n = events["observed"].to_numpy(), events["at_risk"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = c.share * np.sqrt(np.cumsum(np.where(d < n, d / (n * (n - d)), 0)))
    np.testing.assert_allclose(c.se, greenwood, rtol=1e-9)
    assert relapse.median_d(c) == oracle.median_survival_time_


def test_bands_are_of_whole_trials_or_else_greenwoods():
    whole, part = made_up(40, 25), made_up(40, 25, n=100)
    (over,), (own,) = relapse.curves([whole]), relapse.curves([part])
    assert over.over_trials and not own.over_trials
    single = []
    for t in range(40):
        i = whole.relapse.entered[t]
        fit = lifelines.KaplanMeierFitter().fit(whole.relapse.time_d[t, i], whole.relapse.event[t, i])
        single.append(fit.survival_function_at_times(over.at_d))
    np.testing.assert_allclose([over.low, over.high], np.quantile(single, (0.025, 0.975), axis=0), atol=1e-12)
    np.testing.assert_allclose(own.high[:-1] - own.share[:-1], 1.959964 * own.se[:-1], rtol=1e-5)
    assert (over.high - over.low)[3] > 3 * (own.high - own.low)[3]  # a trial of 25 is not 1,000 patients
    assert relapse.at_risk(own, 7) == pytest.approx(100 / 25 * relapse.at_risk(over, 7))


def test_an_arm_of_few_has_no_band():
    many, few = relapse.curves([made_up(40, 25), made_up(40, 4)._replace(name="b")])
    fig = plots_relapse.relapse([many, few], ["a", "b"])
    assert few.at_risk[0] < plots_relapse.FEWEST < many.at_risk[0]
    assert len(fig.axes[0].collections) == 1 and len(fig.axes[0].lines) == 2


def test_nobody_off_treatment_is_no_curve_and_few_relapses_no_median():
    a = made_up(2, 10)
    none = a._replace(relapse=a.relapse._replace(entered=np.zeros((2, 10), bool)))
    assert relapse.curves([none, a._replace(relapse=None)]) == []
    few = a._replace(relapse=a.relapse._replace(event=np.zeros((2, 10), bool)))
    (c,) = relapse.curves([few])
    assert relapse.median_d(c) is None and (c.share == 1).all()
    assert relapse.rows([c])[0]["median_d"] is None


@pytest.fixture(scope="module")
def withdrawal():
    return load_scenario("withdrawal", ["trial.n_trials=24", "arms.1.n=16"])


def test_the_page_shows_the_relapses_of_the_summary(withdrawal):
    table = run_trial(withdrawal, seed=2)
    arms = virtual.cohort(withdrawal, {}, 2, "auto")
    (c,) = relapse.curves(arms)
    r = arms[0].relapse
    rates = table.set_index(["comparison", "quantity"])["estimate"]
    assert r.event[r.entered].mean() == pytest.approx(rates["start 5 mg", "relapse"])
    assert r.time_d[r.event].mean() == pytest.approx(rates["start 5 mg", "time_to_relapse_d"])
    page = Page(trial.render(withdrawal, table, None, 2, "auto"))
    assert "Relapse after treatment" in page.text and "a relapse is a count below 30" in page.text
    assert f"{c.entered:,} virtual patients who were seen off treatment" in page.text
    fig = plots_relapse.relapse([c], ["start 5 mg"])
    assert plots.svg(fig).startswith("<?xml") and fig.axes[0].get_xlabel() == "week off treatment"
    assert fig.axes[1].texts[0].get_text() == f"{relapse.at_risk(c, 0):,.0f}"


def test_a_design_without_withdrawal_has_no_such_section():
    design = load_scenario("phase3", ["trial.n_trials=2", "arms.1.n=4", "arms.2.n=4", "arms.3.n=4"])
    assert all(a.relapse is None for a in virtual.cohort(design, {}, 1, "auto"))
