"""The page of ``pkpd trial``: what it shows is what was simulated, and nothing else of it is left out."""

from __future__ import annotations

import re

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import plots, plots_protocol, plots_swimmers, plots_trial
from inference.cli import main
from inference.report import protocol, sig, trial, trial_figures, virtual
from inference.trials import posterior_draws, run_trial
from inference.whatif import further
from inference.whatif.decisions import critical_values, power_to_come
from pkpd import titration
from pkpd.scenario import load_scenario
from tests.inference.test_report import NASTY, Page

SCENARIO = """
[trial]
name = "two arms"
description = "Made up for a test"
assumptions = ["a made-up assumption"]
visits_d = [7, 14, 28]
n_trials = 24
[[arms]]
name = "drug"
drug = "hetrombopag"
n = 12
start_dose_mg = 2.5
titration = "usual"
[[arms]]
name = "short"
drug = "hetrombopag"
n = 6
start_dose_mg = 5.0
titration = "none"
treatment_d = 14
[[arms]]
name = "placebo"
drug = "placebo"
n = 6
titration = "usual"
[entry]
platelets_below_1e9_per_l = 30
[dropout]
hazard_per_week = 0.1
[parameters]
immune_drift_log_sd = 0.4
[titration.usual]
levels_mg = [2.5, 5, 7.5]
up_below = 50
up_every_d = 14
up_min_days_since_change = 14
hold_above = 250
resume_below = 150
[analysis]
endpoint = "response_week_4"
test = "fisher"
control = "placebo"
alpha = 0.05
"""
SEED = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    (folder / "s.toml").write_text(SCENARIO)
    assert main(["trial", str(folder / "s.toml"), "--out", str(folder / "run"), "--seed", str(SEED)]) == 0
    return folder


@pytest.fixture(scope="module")
def design(made):
    return load_scenario(made / "s.toml")


@pytest.fixture(scope="module")
def arms(design):
    return virtual.cohort(design, {}, SEED, "auto")


def stated(*changes: str):
    return load_scenario("group_sequential", ["trial.n_trials=400", *changes])


def page_of(design, **options) -> Page:
    return Page(trial.render(design, run_trial(design, seed=SEED), None, SEED, "auto", **options))


# The page


def test_the_page_is_self_contained_and_every_figure_says_what_and_of_whom(made):
    text = (made / "run" / "report.html").read_text()
    page = Page(text)
    sources = page.all("img", "src")
    assert len(sources) == 10 and all(s.startswith("data:image/svg+xml;base64,") for s in sources)
    assert "http" not in text.replace("http-equiv", "")
    alts = page.all("img", "alt")
    assert len(set(alts)) == len(alts) and min(map(len, alts)) > 20
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.S)
    assert len(captions) == len(sources)
    assert all(re.search("virtual patients|simulated trials|No patient is shown", c) for c in captions)
    assert [int(n) for n in re.findall(r"<b>Figure (\d+)\.</b>", text)] == list(range(1, 11))
    assert page.all("a", "href")[:11] == [f"#{i}" for i in page.all("h2", "id")]
    for words in ("A made-up assumption.", "immune_drift_log_sd = 0.4", "hazard 0.1 per week", "Made up for a test"):
        assert words in page.text
    assert "clinical" not in page.text.lower()


def test_its_numbers_are_those_of_the_summary(made, design):
    """Every estimate, error and range, in percent, in the cells of a row."""
    page = re.sub('</?b>| class="nowrap"', "", (made / "run" / "report.html").read_text())
    rows = trial.ranges(run_trial(design, seed=SEED))
    assert len(rows) > 20
    for row in rows:
        scale = 100 if protocol.unit_of(row["quantity"]) in ("%", "points") else 1
        estimate, error, low, high = (
            sig(None if row[k] is None else scale * row[k], digits)
            for k, digits in (("estimate", 3), ("mc_se", 2), ("low", 3), ("high", 3))
        )
        if row["low"] is None and row["comparison"] in {arm.name for arm in design.arms}:
            assert f"<td>{estimate} ({error})</td>" in page, row
            continue
        interval = "–" if row["low"] is None else f"{low} to {high}"
        cells = f"<td>{estimate}</td><td>{error}</td>"
        assert re.search(f'{re.escape(cells)}(<td>[^<]+</td><td class="l">[^<]+</td>)?<td>{interval}</td>', page), row


def test_the_same_trials_make_the_same_page(made, design):
    table = run_trial(design, seed=SEED)
    again = trial.render(design, table, None, SEED, "auto")
    assert again == (made / "run" / "report.html").read_text()


def test_names_cannot_break_the_page():
    name = "x<b>&"
    renamed = stated(
        f'analysis.control="{name}"', f'arms.2.name="{name}"',
        f'outcome={{response_probability={{active=0.4, "{name}"=0.1}}}}',
    )  # fmt: skip
    named = renamed.model_copy(update={"trial": renamed.trial.model_copy(update={"name": NASTY})})
    page = page_of(named)
    assert f"active vs {name}" in page.text and not page.all("script", "src") and NASTY[:8] in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_stated_outcomes_have_no_patients(tmp_path):
    page = page_of(stated())
    assert "nobody was simulated" in page.text and "Interim looks" in page.text
    for absent in ("Swimmer", "Patients one by one", "Exposure", "virtual patients", "Overshoot", "held fixed"):
        assert absent not in page.text
    profile = load_scenario(
        "group_sequential",
        ["trial.n_trials=400", "trial.visits_d=[7, 14]", "analysis.endpoint=response_week_2",
         "outcome={response_profile={active=[0.2, 0.4], placebo=[0.1, 0.1]}}"],
    )  # fmt: skip
    table = run_trial(profile)
    figures = trial_figures.pictures(profile, trial.rate_rows(profile, table), [], table, [])
    assert list(figures) == ["schematic", "response", "looks"]


def test_healthy_volunteers_have_no_response():
    volunteers = load_scenario("food_effect", ["trial.n_trials=4"])
    page = page_of(volunteers)
    assert "say nothing about an effect" in page.text and "12volunteers in a trial, each in all periods" in page.text
    assert "Overshoot" not in page.text and "Response over time" not in page.text
    assert "hetrombopag 7.5 mg, high fat breakfast" in page.text


# The virtual patients


def test_virtual_patients_are_those_of_the_trials(design, arms):
    """Trials small enough to be simulated whole again: exactly the rates of the summary."""
    table = run_trial(design, seed=SEED).set_index(["comparison", "quantity"])["estimate"]
    for a, arm in zip(arms, design.arms, strict=True):
        assert a.whole and a.rates.shape == (24, 3) and a.patients == 24 * arm.n == a.simulated
        assert a.response[design.landmark] == pytest.approx(table[(a.name, "response_week_4")], abs=1e-12)
        mean_of_kept = a.courses.response.mean(axis=1)
        np.testing.assert_allclose(mean_of_kept, a.response, atol=1e-12)
        assert np.isnan(a.courses.platelets[a.courses.dropped]).all()


def test_a_part_of_them_is_kept(design, arms, monkeypatch):
    monkeypatch.setattr(virtual, "KEPT", 20)
    fewer = virtual.cohort(design, {}, SEED, "auto")
    for a, b in zip(arms, fewer, strict=True):
        rows = np.linspace(0, a.simulated - 1, 20).astype(int)
        assert b.patients == 20 and np.array_equal(a.rates, b.rates)
        np.testing.assert_array_equal(b.courses.platelets, a.courses.platelets[:, rows])


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 10**7), st.integers(1, 10**6), st.integers(virtual.KEPT, 10**6))
def test_trials_are_whole_where_enough_of_them_fit(n, n_trials, most):
    trials, each = virtual.spread(n, n_trials, most)
    assert 1 <= trials <= n_trials and 1 <= each <= n
    assert trials * each <= most + min(virtual.PARTS, n_trials)
    if n * min(virtual.MIN_TRIALS, n_trials) <= most:
        assert each == n and (trials == n_trials or (trials + 1) * n > most)


def test_shares_of_doses_and_states_add_to_one(arms):
    for a in arms[:2]:
        share = virtual.states(a.courses, np.array([2.5, 5, 7.5]))
        np.testing.assert_allclose(share.sum(axis=0), 1)
        assert share[0, 0] == 0 < share[0, 2]  # nobody has left before the first visit
    short = virtual.states(arms[1].courses, np.array([5.0]))
    assert short[3, :2].tolist() == [0, 0] and short[4, 2] == 0 and short[3, 2] > 0.5  # no drug after day 14


def made_up(n: int, visits: int, **values) -> virtual.Courses:
    shape = (visits, n)
    zeros, no = np.zeros(shape), np.zeros(shape, bool)
    empty = virtual.Courses(np.full(n, 10.0), zeros + 20, zeros, no, no, no, no, no, no, zeros, zeros, zeros, no)
    return empty._replace(**{k: np.asarray(v) for k, v in values.items()})


def test_days_above_are_those_of_the_intervals_before_a_high_count():
    nan = np.nan
    c = made_up(3, 3, platelets=[[300, 20, 260], [249, 20, nan], [401, 250, nan]])
    days = np.array([7, 10, 24])
    assert virtual.days_above(c, days, 250).tolist() == [7 + 14, 0, 7]
    assert virtual.days_above(c, days, 400).tolist() == [14, 0, 0]


def test_exposure_is_that_of_the_last_interval_on_a_dose():
    c = made_up(2, 3, dose_mg=[[5, 5], [5, 2.5], [2.5, 0]], cmax_ng_per_ml=[[1, 2], [3, 4], [5, 6]])
    arm = virtual.VirtualArm("a", "hetrombopag", "fasted", c, np.zeros((1, 3)), True, 2)
    found = virtual.exposure(arm)
    assert {dose: x[0].tolist() for dose, x in found.items()} == {2.5: [5, 4], 5: [3, 2]}


@pytest.mark.filterwarnings("error")
def test_quantiles_where_everybody_has_left_are_none():
    c = made_up(3, 2, platelets=[[1, 2, np.nan], [np.nan] * 3])
    q = virtual.count_quantiles(c, (0.0, 0.5, 1.0))
    assert q[:, 0].tolist() == [10, 10, 10] and q[:, 1].tolist() == [1, 1.5, 2] and np.isnan(q[:, 2]).all()


def test_swimmers_are_chosen_without_regard_to_outcome(arms):
    c = arms[0].courses
    rows = np.linspace(0, len(c.baseline) - 1, 10).astype(int)
    shown = plots_swimmers.some(c, 10)
    assert sorted(shown.baseline) == sorted(c.baseline[rows])
    responses = shown.response.sum(axis=0)
    assert (np.diff(responses) <= 0).all()
    fig = plots_swimmers.swimmers(arms[0], np.array([7, 14, 28]), plots_trial.palette(arms)["hetrombopag"])
    left = np.concatenate([np.zeros_like(c.dropped[:1]), c.dropped[:-1]])
    drawn = plots_swimmers.some(c, plots_swimmers.SWIMMERS)
    kept = plots_swimmers.some(c._replace(dropped=left), plots_swimmers.SWIMMERS).dropped
    assert len(fig.axes[0].patches) == (~kept).sum() and len(drawn.baseline) == 40


def test_events_are_marked_once_at_their_visit():
    later = [[False], [True], [True]]
    events = plots_swimmers._events(made_up(1, 3, rescued=later, stopped=later, dropped=later, relapsed=later))
    assert {name: np.flatnonzero(x).tolist() for name, x in events.items()} == {
        "response": [], "rescue": [1], "stop": [0], "relapse": [1], "left the trial": [1],
    }  # fmt: skip


# The protocol


def texts(fig) -> str:
    words = [
        t.get_text() for ax in fig.axes for t in (*ax.texts, *ax.get_yticklabels(), *ax.get_xticklabels(), ax.title)
    ]
    return " | ".join(" ".join(w.split()) for w in words)


def test_stages_follow_each_arms_days_of_treatment(design):
    first, rest, whole = protocol.stages_of(design)
    assert (first.name, first.first_d, first.last_d, list(first.labels)) == ("treatment", 0, 14, ["short"])
    assert (rest.first_d, rest.last_d, rest.labels) == (14, 28, {"short": "no study drug"})
    assert whole.labels == {"drug": "hetrombopag from 2.5 mg, titrated", "placebo": "placebo"} and whole.last_d == 28


def test_the_endpoint_is_drawn_where_it_is_read(design):
    assert trial_figures._endpoint(design) == (28, "endpoint: response at week 4")
    by_day = load_scenario("eltrombopag_773b")
    assert trial_figures._endpoint(by_day) == (43, "endpoint: response at day 43")
    any_time = load_scenario("phase3", ["analysis.endpoint=response_any"])
    assert trial_figures._endpoint(any_time) == (56, "endpoint: response at least once, by then")
    assert trial_figures._endpoint(load_scenario("food_effect")) is None
    relapse = load_scenario(
        "withdrawal",
        ["arms=[{name='a', n=9, drug='hetrombopag', start_dose_mg=5, titration='usual'}, "
         "{name='b', n=9, drug='hetrombopag', start_dose_mg=2.5, titration='usual'}]",
         "analysis={endpoint='time_to_relapse', test='log-rank', control='a', alpha=0.05}"],
    )  # fmt: skip
    assert trial_figures._endpoint(relapse) == (280, "endpoint: time to relapse, by then")


def test_any_list_of_stages_can_be_drawn():
    stages = [
        protocol.Stage("screening", 0, 14, {"a": "no drug", "b": "no drug"}),
        protocol.Stage("double-blind", 14, 70, {"a": "drug", "b": "placebo"}),
        protocol.Stage("open label", 70, 168, {"a": "drug", "b": "drug"}),
    ]
    fig = plots_protocol.schematic(stages, {"a": 20, "b": 10}, range(7, 169, 7), "entry", (70, "endpoint"))
    said = texts(fig)
    for part in ("screening", "double-blind", "open label", "no drug", "placebo", "entry", "endpoint", "a n = 20"):
        assert part in said
    widths = [p.get_width() for p in fig.axes[0].patches if p.get_alpha()]
    assert sum(widths) == pytest.approx(2 * 24) and fig.axes[0].get_xlabel() == "week"
    assert plots.svg(fig).startswith("<?xml")


def test_rows_of_a_rule_are_its_bands_in_words_and_as_a_picture(design):
    (found,) = protocol.protocols(design)
    assert found.arms == ("drug", "placebo") and found.text == titration.as_text(design.rule(design.arms[0]))
    cells = [(row.counts, row.state, row.timing, row.does) for row in found.rows]
    assert cells == [
        ("above 250", "on treatment", "any visit", "interrupt"),
        ("below 150", "interrupted", "any visit", "resume one level lower"),
        ("below 50", "on treatment", "every 14 days; ≥ 14 days since the last change", "one level up"),
    ]
    ax = plots_protocol.rule([found]).axes[0]
    low, high = ax.get_xlim()
    bands = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
    assert bands == [(250, pytest.approx(high)), (low, pytest.approx(150)), (low, pytest.approx(50))]
    assert [t.get_text() for t in ax.texts] == ["while interrupted", "every 14 days; ≥ 14 days since the\nlast change"]


def test_the_stages_of_a_scenario_say_what_each_arm_takes():
    staged = load_scenario("phase3_stages")
    found = protocol.stages_of(staged)
    assert [(s.name, s.first_d, s.last_d) for s in found] == [
        ("double-blind", 0, 70), ("open-label", 70, 168), ("taper", 168, 210), ("extension", 210, 378),
    ]  # fmt: skip
    assert [s.labels["placebo"] for s in found] == [
        "placebo", "eltrombopag from 25 mg", "eltrombopag, taper of eltrombopag", "off treatment",
    ]  # fmt: skip
    assert found[2].labels["start 5 mg"] == "hetrombopag, taper"
    rules = {p.name: p for p in protocol.protocols(staged)}
    assert set(rules) == {"hetrombopag", "taper", "eltrombopag", "taper of eltrombopag"}
    assert rules["eltrombopag"].arms == ("placebo",) and rules["taper"].rows[0].does.startswith("one level down")
    assert set(protocol.ACTION_WORDS) == set(titration.ACTIONS[1:]) == set(plots_protocol.ACTIONS)


@pytest.mark.parametrize(
    ("quantity", "unit"),
    [("power_fisher", "%"), ("days_above_250", "days"), ("overshoot_250", "%"), ("dose_at_end_mg", "mg"),
     ("auc_at_end_ng_h_per_ml", "ng·h/mL"), ("risk_difference_rescue", "points"), ("log_odds_ratio_relapse", "log"),
     ("longest_response_d", "days"), ("patients", "patients"), ("weeks", "weeks"), ("week_of_look_2", "weeks"),
     ("randomised", "patients"), ("randomised_by_look_1", "patients"), ("screened", "patients"),
     ("log_odds_ratio_relapse_estimable", "%")],
)  # fmt: skip
def test_units_of_quantities(quantity, unit):
    assert protocol.unit_of(quantity) == unit and "_" not in protocol.words(quantity)


def test_every_shipped_rule_has_rows():
    for name in ("phase3", "phase3_alternative_titration", "eltrombopag_773b"):
        shipped = load_scenario(name)
        for found in protocol.protocols(shipped):
            assert len(found.rows) == len(found.rule.action) > 0
            assert all(row.does in protocol.ACTION_WORDS.values() for row in found.rows)


def test_every_quantity_of_a_summary_has_words():
    """Plain words: nothing with an underscore is left over."""
    tables = [run_trial(stated(), null=null) for null in (False, True)]
    found = {protocol.words(q) for table in tables for q in table["quantity"] if not q.endswith(trial.RANGE)}
    assert not [text for text in found if "_" in text]
    assert {"power, risk-difference", "type I error, risk-difference, futility ignored", "rejected at look 1",
            "difference in durable response", "mean width of the Miettinen-Nurminen interval"} <= found  # fmt: skip
    assert protocol.words("risk_difference_response_week_8_bias") == "bias of the difference in response at week 8"
    assert protocol.words("power_all") == "power, all comparisons"
    assert protocol.words("total_response_d_open-label") == "open-label: total response"
    assert protocol.words("second_taken_mg_open-label") == "open-label: taken in all, second drug"
    assert set(protocol.STAGE_WORDS) == set(further.OF_STAGE)


# Looks and decisions


@pytest.mark.parametrize("kind", ["predictive-power", "conditional-power"])
def test_the_futility_limit_is_where_the_decision_turns(kind):
    sequential = stated(f"interims.futility={kind}")
    limits = trial_figures.futile_below(sequential)
    assert np.isnan(limits[-1])
    for t, z in zip(sequential.interims.looks[:-1], limits, strict=False):
        power = power_to_come(np.array([z]), t, critical_values(sequential)[-1], kind)
        assert power[0] == pytest.approx(sequential.interims.futility_below)
    assert np.isnan(trial_figures.futile_below(load_looks_without_futility())).all()


def load_looks_without_futility():
    return load_scenario("group_sequential", ["interims={looks=[0.5, 1.0], boundary='pocock'}", "trial.n_trials=50"])


def test_ends_of_trials_fill_the_bar():
    sequential = stated()
    looks = trial_figures.looks_of(sequential, run_trial(sequential, seed=SEED))
    ax = plots_protocol.looks(looks).axes[1]
    assert sum(p.get_width() for p in ax.patches) == pytest.approx(100)
    name = "active vs placebo"
    rejected = sum(
        p.get_width() for p in ax.patches if p.get_facecolor()[:3] == pytest.approx((0, 0.447, 0.698), abs=0.01)
    )
    assert rejected == pytest.approx(100 * looks.rejected[name].sum())


def test_arms_that_are_dropped_are_no_failures_at_the_end():
    dropping = stated(
        "arms=[{name='low', n=20}, {name='high', n=20}, {name='placebo', n=20}]",
        "outcome.response_probability={low=0.2, high=0.5, placebo=0.2}", "analysis.multiplicity=bonferroni",
        "interims={looks=[0.5, 1], boundary='pocock', drop_losers={at_look=1, keep=1}}",
    )  # fmt: skip
    table = run_trial(dropping, seed=SEED)
    looks = trial_figures.looks_of(dropping, table)
    rows = table.set_index(["comparison", "quantity"])["estimate"]
    assert looks.dropped["low vs placebo"][0] == rows["low vs placebo", "dropped_at_look_1"] > 0.3
    pink = matplotlib.colors.to_rgba(plots_protocol.DROPPED)
    ax = plots_protocol.looks(looks).axes[1]
    widths = [p.get_width() for p in ax.patches if p.get_facecolor() == pink]
    assert sum(widths) == pytest.approx(100 * sum(x.sum() for x in looks.dropped.values()))
    assert sum(p.get_width() for p in ax.patches) == pytest.approx(200)


def test_a_fixed_dose_that_all_take_has_no_picture_of_doses():
    fixed = load_scenario("dose_finding", ["trial.n_trials=2"])
    assert not any(trial_figures._changes(a) for a in virtual.cohort(fixed, {}, SEED, "auto"))


def test_methods_are_called_as_they_are_written():
    assert protocol.words("power_cochran-mantel-haenszel") == "power, Cochran-Mantel-Haenszel"
    said = dict(protocol.in_words(load_scenario("phase3")))
    assert said["Analysis"].startswith("response at week 8 against placebo, Cochran-Mantel-Haenszel")
    assert said["Entry"] == "platelets below 30 ×10⁹/L"


def test_words_of_a_lane_hide_the_lines_of_days_behind_them():
    staged = load_scenario("phase3_stages")
    sizes = {arm.name: arm.n for arm in staged.arms}
    fig = plots_protocol.schematic(protocol.stages_of(staged), sizes, staged.trial.visits_d, "entry", (56, "endpoint"))
    inside = [t for t in fig.axes[0].texts if t.get_text().startswith(("hetrombopag", "placebo", "off"))]
    assert len(inside) > 8 and all(t.get_bbox_patch() is not None and t.get_zorder() > 5 for t in inside)
    first, lane = inside[0].get_bbox_patch().get_facecolor(), fig.axes[0].patches[0]
    shown = np.array(lane.get_facecolor()[:3]) * lane.get_alpha() + 1 - lane.get_alpha()
    np.testing.assert_allclose(first[:3], shown, atol=0.01)
    assert "5 mg" in plots_protocol.wrapped("hetrombopag from 5 mg", 18)


def test_words_of_a_rule_never_lie_on_its_labels():
    """Of a band over all counts, or all but the lowest, inside it."""
    tapers = protocol.protocols(load_scenario("phase3_stages"))
    for p, ax in zip(tapers, plots_protocol.rule(tapers).axes, strict=True):
        low, high = ax.get_xlim()
        for text in ax.texts:
            if p.name.startswith("taper"):
                assert text.get_ha() == "center" and low < text.xy[0] < high


def test_power_of_a_posterior_is_called_assurance(design):
    table = run_trial(design, seed=SEED)
    rows = trial.decisions(design, table, n_draws=20)
    assert next(row["quantity"] for row in rows if row["main"]) == "assurance, Fisher"
    assert rows[0]["main"] and not rows[-1]["main"]
    difference = next(row for row in rows if row["quantity"] == "difference in response at week 4")
    assert difference["unit"] == "points" and difference["low"] < difference["estimate"] < difference["high"]


def test_what_a_posterior_replaces_is_not_held_fixed(design):
    assert posterior_draws(None, 3) == {}
    fixed = trial.fixed_values(design, {"clearance_l_per_h": np.ones(2)})
    rows = {row["name"]: row for row in fixed["hetrombopag"]}
    assert list(fixed) == ["hetrombopag"] and "clearance_l_per_h" not in rows
    assert rows["immune_drift_log_sd"]["value"] == 0.4 and "scenario" in rows["immune_drift_log_sd"]["source"]
    assert {row["status"] for row in rows.values()} <= {"published", "secondary", "derived", "assumed"}
