"""Several endpoints behind gates: against plain loops, strong control under partial nulls, and whole runs."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from inference import trials
from inference.progress import silent
from inference.whatif import gatekeeping, multiplicity, per_trial, runs
from inference.whatif.boundaries import nominal_levels
from inference.whatif.counts import by_endpoint, stated
from inference.whatif.decisions import critical_values, decide
from pkpd.errors import InputError
from pkpd.scenario import Scenario, build, load_scenario
from pkpd.scenario_text import describe

ALPHA = 0.05
ORDER = ["b", "b: first", "a", "b: second", "a: first", "a: second"]
GRAPH = {
    "weights": {"a": 0.7, "b: own": 0.3},
    "transitions": {"a": {"a: first": 0.5, "b": 0.5}, "b": {"b: first": 1.0}, "b: first": {"b: second": 0.4, "a": 0.6}},
}
WAYS = [
    {"multiplicity": "bonferroni"}, {"multiplicity": "holm"}, {"multiplicity": "fixed-sequence"},
    {"multiplicity": "fixed-sequence", "order": ORDER}, {"multiplicity": "graphical", "graph": GRAPH},
    *(
        {"multiplicity": name, "gatekeeping": "all-primaries"}
        for name in ("bonferroni", "holm", "hochberg", "fixed-sequence")
    ),
]  # fmt: skip


def design(arms=2, secondary=2, p=0.3, interims=None, n=30, trial=None, correlation=0.5, second=None, **analysis):
    """Arms a, b, .. against a control, endpoint ``own`` and secondaries; every probability p unless ``second`` says."""
    names = [*"abc"[:arms], "control"]
    labels = ["first", "second", "third"][:secondary]
    of = p if isinstance(p, dict) else dict.fromkeys(names, p)
    data = {
        "trial": {"n_trials": 20_000, **(trial or {})},
        "arms": [{"name": name, "n": n} for name in names],
        "outcome": {
            "response_probability": of,
            "secondary": {label: (second or {}).get(label, of) for label in labels}, "correlation": correlation,
        },
        "analysis": {
            "endpoint": "own", "test": "risk-difference", "control": "control", "sided": 1, "alpha": ALPHA,
            "secondary": [{"name": x, "endpoint": "other", "test": "risk-difference"} for x in labels], **analysis,
        },
    }  # fmt: skip
    return build({**data, **({"interims": interims} if interims else {})}, "design.toml")


def normal_p(trials_, effect, rho=0.5, seed=1):
    """One-sided p [trials, arms, endpoints] of statistics that share a control and correlate between endpoints."""
    arms, endpoints = effect.shape
    within = rho * np.ones((endpoints, endpoints)) + (1 - rho) * np.identity(endpoints)
    between = 0.5 * np.ones((arms, arms)) + 0.5 * np.identity(arms)
    z = np.random.default_rng(seed).multivariate_normal(effect.ravel(), np.kron(between, within), trials_)
    return stats.norm.sf(z).reshape(trials_, arms, endpoints)


def plainly(scenario: Scenario, p: np.ndarray) -> np.ndarray:
    """The rejections of one trial, p [arms, endpoints], hypothesis by hypothesis."""
    analysis = scenario.analysis
    arms, endpoints = p.shape
    won = np.zeros(p.shape, bool)
    if analysis.order:
        place = {
            "a": (0, 0),
            "b": (1, 0),
            "a: first": (0, 1),
            "a: second": (0, 2),
            "b: first": (1, 1),
            "b: second": (1, 2),
        }
        for name in analysis.order:
            if p[place[name]] > ALPHA:
                break
            won[place[name]] = True
        return won
    if analysis.gatekeeping == "all-primaries":
        won[:, 0] = multiplicity.METHODS[analysis.multiplicity](p[None, :, 0], ALPHA)[0]
        if not won[:, 0].all():
            return won
        start = 1
    else:
        start = 0
    if analysis.multiplicity == "fixed-sequence":
        for i, k in itertools.product(range(arms), range(start, endpoints)):
            if p[i, k] > ALPHA:
                break
            won[i, k] = True
        return won
    level, done = np.full(arms, ALPHA / arms), np.zeros(arms, bool)
    at = np.full(arms, start)
    moved = True
    while moved:  # each arm walks down its endpoints; at the end its level goes to those that are still at their first
        moved = False
        for i in range(arms):
            while not done[i] and p[i, at[i]] <= level[i]:
                won[i, at[i]], moved = True, True
                at[i] += 1
                if at[i] == endpoints:
                    done[i] = True
                    if analysis.multiplicity in ("holm", "hochberg") and arms == 2:
                        level[1 - i] += level[i]
    return won


@pytest.mark.parametrize("way", [w for w in WAYS if "graph" not in w], ids=str)
def test_rejections_are_those_of_a_plain_loop(way):
    scenario = design(**way)
    p = normal_p(3000, np.array([[2.5, 2.5, 2.0], [2.0, 1.5, 2.5]]))
    found = gatekeeping.rejections(scenario, p)
    assert found.tolist() == [plainly(scenario, row).tolist() for row in p]
    assert found.any(axis=0).all()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_familywise_error_is_kept_under_every_set_of_true_nulls(way):
    """Of statistics where every other null is far from true; one set of true nulls at a time, all 63 of them."""
    scenario, n = design(**way), 4000
    worst = 0.0
    for number, true in enumerate(itertools.product([True, False], repeat=6)):
        if not any(true):
            continue
        null = np.array(true).reshape(2, 3)
        found = gatekeeping.rejections(scenario, normal_p(n, np.where(null, 0.0, 6.0), seed=number))
        error = (found & null).any(axis=(1, 2)).mean()
        assert error <= ALPHA + 3.5 * np.sqrt(ALPHA * (1 - ALPHA) / n), true  # the largest of 63 sets, hence 3.5
        worst = max(worst, error)
    assert worst > ALPHA / 2


def test_the_full_level_for_secondaries_of_every_arm_would_not_keep_it():
    """What the checks refuse: multiplicity 'none' with several arms raises the error, and the test above sees it."""
    p = normal_p(4000, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    found = gatekeeping.rejections(design(arms=1), p[:, :1]) | gatekeeping.rejections(design(arms=1), p[:, 1:])
    assert found.any(axis=(1, 2)).mean() > ALPHA + 5 * np.sqrt(ALPHA * (1 - ALPHA) / 4000)


def test_a_graph_without_secondaries_is_the_multiplicity_between_arms():
    p = normal_p(2000, np.array([[2.0], [1.5], [2.5]]))
    for name in ("holm", "bonferroni", "fixed-sequence"):
        graph = gatekeeping.chains(3, 1, name)
        assert np.array_equal(
            multiplicity.graphical(p[:, :, 0], ALPHA, *graph), multiplicity.METHODS[name](p[:, :, 0], ALPHA)
        )


def test_stated_endpoints_have_their_law_and_correlation():
    scenario = design(arms=1, second={"first": {"a": 0.6, "control": 0.2}}, secondary=1, correlation=0.6)
    counts = stated(scenario, 1, 0, 20_000)
    primary, second = counts.analysed[:, 0], counts.secondary["first"][:, 0]
    assert second.mean(axis=0) == pytest.approx([18, 6], abs=0.1) and primary.mean(axis=0) == pytest.approx(
        [9, 9], abs=0.1
    )
    r = [np.corrcoef(primary[:, i], second[:, i])[0, 1] for i in (0, 1)]
    assert r == pytest.approx([0.6, 0.6], abs=0.03)
    assert abs(np.corrcoef(primary[:, 0], second[:, 1])[0, 1]) < 0.03
    whole = stated(scenario, 1, 0, 2500)
    parts = [stated(scenario, 1, first, n) for first, n in ((0, 700), (700, 1300), (2000, 500))]
    assert np.array_equal(np.concatenate([part.secondary["first"] for part in parts]), whole.secondary["first"])


def exact_powers():
    """One arm of 12 and control of 12, primary and an independent secondary: both powers by enumeration."""

    def chance(p, p0):
        counts = np.arange(13)
        mass = np.outer(stats.binom.pmf(counts, 12, p), stats.binom.pmf(counts, 12, p0))
        y, y0 = np.meshgrid(counts, counts, indexing="ij")
        pooled = (y + y0) / 24
        z = (y - y0) / 12 / np.sqrt(np.maximum(pooled * (1 - pooled) / 6, 1e-300))
        return mass[(y > y0) & (stats.norm.sf(z) <= ALPHA)].sum()

    return chance(0.6, 0.2), chance(0.5, 0.2)


def test_powers_are_those_of_exact_enumeration():
    first, second = exact_powers()
    scenario = design(
        arms=1, secondary=1, n=12, p={"a": 0.6, "control": 0.2}, correlation=0.0,
        second={"first": {"a": 0.5, "control": 0.2}},
    )  # fmt: skip
    table = trials.run_trial(scenario).set_index(["comparison", "quantity"])
    for comparison, quantity, exact in (
        ("a vs control", "power_risk-difference", first),
        ("a vs control: first", "power_risk-difference", first * second),
        ("a vs control: first", "power_if_the_primary_is_won", second),
        ("a vs control", "power_primary_and_all_secondary", first * second),
        ("whole trial", "power_any_endpoint", first),
    ):
        row = table.loc[(comparison, quantity)]
        assert row["estimate"] == pytest.approx(exact, abs=3 * row["mc_se"]), (comparison, quantity)
    assert table.loc[("a vs control: first", "risk_difference_other"), "estimate"] == pytest.approx(0.3, abs=0.005)
    assert table.loc[("a vs control: first", "coverage_newcombe"), "estimate"] > 0.93


@pytest.mark.parametrize("boundary", ["pocock", "obrien-fleming"])
def test_with_looks_a_secondary_meets_its_own_boundary_when_its_primary_does(boundary):
    looks = {"looks": [0.5, 1.0], "boundary": boundary}
    scenario = design(interims=looks, p={"a": 0.6, "b": 0.5, "control": 0.3}, multiplicity="bonferroni", n=40)
    counts = stated(scenario, 1, 0, 3000)
    found, endpoints = decide(scenario, counts), by_endpoint(scenario, counts)
    levels = nominal_levels(critical_values(scenario), 1)
    z = []
    for _, own in endpoints:  # pooled z of both arms at each look, [trials, looks, arms]
        y, n = own.analysed, np.array([20, 40])[:, None]
        pooled = (y[:, :, :2] + y[:, :, 2:]) / (2 * n)
        z.append((y[:, :, :2] - y[:, :, 2:]) / n / np.sqrt(np.maximum(pooled * (1 - pooled) * 2 / n, 1e-300)))
    p = stats.norm.sf(np.array(z))
    for trial, arm in itertools.product(range(3000), range(2)):
        crossed = [k for k in (0, 1) if p[0, trial, k, arm] <= levels[k]]
        assert found.rejected[trial, arm] == bool(crossed)
        won = [bool(crossed) and p[1, trial, crossed[0], arm] <= levels[crossed[0]]]
        won.append(won[0] and p[2, trial, crossed[0], arm] <= levels[crossed[0]])
        assert found.secondary[trial, arm].tolist() == won
    assert found.secondary.any(axis=0).all()


def test_with_looks_the_error_of_a_secondary_is_kept_though_its_primary_is_often_won_early():
    """The case in which the full level at the look would not do: the primary true effect is large."""
    scenario = design(
        arms=1, secondary=1, n=400, p={"a": 0.42, "control": 0.3}, correlation=0.9, alpha=0.025,
        second={"first": {"a": 0.3, "control": 0.3}}, interims={"looks": [0.5, 1.0], "boundary": "obrien-fleming"},
    )  # fmt: skip
    counts = stated(scenario, 1, 0, 40_000)
    se = np.sqrt(0.025 * 0.975 / 40_000)
    assert decide(scenario, counts).secondary.mean() <= 0.025 + 3 * se


@pytest.mark.parametrize("drop", [{}, {"drop_losers": {"at_look": 1, "keep": 1}}], ids=["looks", "losers dropped"])
@pytest.mark.parametrize("true", ["all", "of a", "secondary", "first of b"])
def test_with_looks_the_familywise_error_is_kept_under_partial_nulls(drop, true):
    """Two arms of 200 with two secondaries; ``true`` says which nulls are; everything else has a large effect."""
    effect = {
        "all": {}, "of a": {"b": (0.5, 0.5, 0.5)}, "secondary": {"a": (0.42, 0.3, 0.3), "b": (0.45, 0.3, 0.3)},
        "first of b": {"a": (0.5, 0.5, 0.5), "b": (0.5, 0.3, 0.5)},
    }[true]  # fmt: skip
    p = {arm: effect.get(arm, (0.3, 0.3, 0.3)) for arm in "ab"} | {"control": (0.3, 0.3, 0.3)}
    n = 20_000
    scenario = design(
        n=200, p={arm: x[0] for arm, x in p.items()}, correlation=0.8, multiplicity="bonferroni",
        second={label: {arm: x[k] for arm, x in p.items()} for k, label in ((1, "first"), (2, "second"))},
        interims={"looks": [0.5, 1.0], "boundary": "pocock", **drop},
    )  # fmt: skip
    found = decide(scenario, stated(scenario, 1, 0, n))
    every = np.concatenate([found.rejected[:, :, None], found.secondary], axis=2)
    null = np.array([p["a"], p["b"]]) == 0.3
    error = (every & null).any(axis=(1, 2)).mean()
    assert error <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / n)
    assert error > 0.005 or true == "secondary"


def test_type_1_error_of_all_endpoints():
    scenario = design(multiplicity="holm", n=200, p={"a": 0.6, "b": 0.5, "control": 0.3})
    table = trials.run_trial(scenario, null=True).set_index(["comparison", "quantity"])
    row = table.loc[("whole trial", "type_1_error_any_endpoint")]
    assert ALPHA / 2 < row["estimate"] <= ALPHA + 3 * row["mc_se"]
    assert ("a vs control: second", "type_1_error_risk-difference") in table.index


def test_the_table_of_trials_and_packed_counts_have_secondaries(tmp_path):
    scenario = design(trial={"n_trials": 2500}, multiplicity="holm", p={"a": 0.6, "b": 0.5, "control": 0.3})
    counts = stated(scenario, 1, 0, 2500)
    back = runs.unpacked(runs.packed(counts))
    assert all(np.array_equal(back.secondary[k], counts.secondary[k]) for k in ("first", "second"))
    cut = runs.joined([runs.trials_of(counts, chunk) for chunk in runs.chunks(2500, 700)])
    assert np.array_equal(decide(scenario, cut).secondary, decide(scenario, counts).secondary)
    table = per_trial.rows_of(scenario, counts, 0, 1)
    found = decide(scenario, counts)
    assert np.array_equal(table["b vs control: second: rejected"], found.secondary[:, 1, 1])
    assert np.all(table["b vs control: second: lower"] < table["b vs control: second: upper"])


def test_a_run_that_was_stopped_goes_on_with_secondaries(tmp_path):
    scenario = design(trial={"n_trials": 1000}, multiplicity="holm", p={"a": 0.6, "b": 0.5, "control": 0.3})
    first = trials.run_trial(scenario, folder=tmp_path)
    again = trials.run_trial(scenario, folder=tmp_path)  # all of it is kept
    pd.testing.assert_frame_equal(first, again)


SECONDARY = "analysis.secondary=[{endpoint='log_count_week_8',test='ancova'},{endpoint='share_in_range',test='ancova'}]"
SMALL = ["arms.1.n=15", "arms.2.n=15", "arms.3.n=15", "trial.n_trials=6", "analysis.multiplicity=holm"]


def test_secondaries_of_simulated_patients_are_what_they_are_as_primaries():
    scenario = load_scenario("phase3", [*SMALL, SECONDARY])
    counts = trials.patient_blocks(scenario, {}, 1, "auto", silent)(0, 6)
    for endpoint in ("log_count_week_8", "share_in_range"):
        alone = load_scenario("phase3", [*SMALL, f"analysis.endpoint={endpoint}", "analysis.test=ancova"])
        own = trials.patient_blocks(alone, {}, 1, "auto", silent)(0, 6)
        np.testing.assert_array_equal(counts.secondary[endpoint], own.effects)
    assert scenario.endpoint_d == 56 and "Gatekeeping: serial" in describe(scenario)


RESCUE = "analysis.secondary=[{endpoint='rescue',test='fisher'}]"
SEQUENCE = "analysis.multiplicity=fixed-sequence"
BAD = {
    ("analysis.secondary=[{endpoint='x'}]",): ("analysis.secondary[1].test is missing"),
    ("analysis.secondary=[{endpoint='response_week_9',test='fisher'}]",): (
        "analysis.secondary[1].endpoint = 'response_week_9' needs a visit on day 63"
    ),
    ("analysis.secondary=[{endpoint='rescue',test='ancova'}]",): (
        "analysis.secondary[1].test = 'ancova' is not for rescue"
    ),
    ("analysis.secondary=[{endpoint='rescue',test='bayesian'}]",): ("no p-value that a level is passed on to"),
    ("analysis.secondary=[{endpoint='rescue',test='fisher',nmae='x'}]",): ("did you mean 'name'"),
    ("analysis.secondary=[{endpoint='response_week_8',test='fisher'}]",): (
        "'response_week_8' is there before; legal: a name of its own"
    ),
    (
        RESCUE,
        "analysis.multiplicity=none",
    ): ("no family-wise level"),
    (
        RESCUE,
        "analysis.multiplicity=hochberg",
    ): ("legal: 'holm', or gatekeeping"),
    ("analysis.gatekeeping='serial'",): ("[[analysis.secondary]] is missing"),
    (
        RESCUE,
        "analysis.gatekeeping=paralel",
    ): ("'serial' or 'all-primaries'"),
    ("analysis.order=['start 5 mg','start 2.5 mg']",): ("order: multiplicity = 'holm' has none"),
    (
        SEQUENCE,
        "analysis.order=['start 5 mg']",
    ): ("'start 2.5 mg: response_week_8' is missing"),
    (
        SEQUENCE,
        "analysis.order=['start 5 mg','start 5 mg: response_week_8']",
    ): ("comes twice"),
    (
        SEQUENCE,
        "analysis.order=['start 5 gm']",
    ): ("did you mean 'start 5 mg'"),
    (
        SEQUENCE,
        RESCUE,
        "analysis.order=['start 5 mg: rescue']",
    ): ("comes before the primary endpoint of its arm"),
    (
        RESCUE,
        "analysis.multiplicity=graphical",
        "analysis.graph={weights={'start 5 mg: rescu'=1}}",
    ): ("did you mean 'start 5 mg: rescue'"),
    (
        "analysis.multiplicity=graphical",
        "analysis.graph={weights={'start 5 mg'=0.5,'start 5 mg: response_week_8'=0.5}}",
    ): ("is 'start 5 mg' too"),
    ("analysis.secondary=[{endpoint='response_any',test='risk-difference',margin=0.1}]",): (
        "a test at a margin has one side"
    ),
    (
        RESCUE,
        "analysis.multiplicity=closed-simes",
        "analysis.sided=1",
    ): ("leaves no level of a single arm"),
    ("analysis.secondary=[{endpoint='log_counts',test='mmrm',until_d=55}]",): (
        "analysis.secondary[1].until_d = 55: no visit"
    ),
}


@pytest.mark.parametrize("settings", BAD, ids=" ".join)
def test_bad_secondaries_are_one_clear_error(settings):
    with pytest.raises(InputError) as refused:
        load_scenario("phase3", ["analysis.multiplicity=holm", *settings])
    assert BAD[settings] in str(refused.value) and "\n" not in str(refused.value)


def test_looks_refuse_what_is_not_sound():
    looks = {"looks": [0.5, 1.0], "boundary": "pocock"}
    with pytest.raises(InputError, match="arms end at looks of their own"):
        design(interims=looks, multiplicity="bonferroni", gatekeeping="all-primaries")
    more = looks | {"reestimate": {"at_look": 1, "max_factor": 1.5, "conditional_power": 0.8}}
    with pytest.raises(InputError, match="keeps the level of the primary test alone"):
        design(arms=1, interims=more)


def test_stated_secondaries_are_of_every_name():
    with pytest.raises(InputError, match=r"outcome\.secondary: nothing is said of secondary endpoint 'second'"):
        build(
            {
                "trial": {"n_trials": 10},
                "arms": [{"name": "a", "n": 9}, {"name": "b", "n": 9}],
                "outcome": {"response_probability": {"a": 0.5, "b": 0.5}},
                "analysis": {
                    "endpoint": "x", "test": "fisher", "control": "b", "alpha": 0.05,
                    "secondary": [{"endpoint": "second", "test": "fisher"}],
                },
            },
            "design.toml",
        )  # fmt: skip


def test_nulls_that_no_parameter_makes_true_are_refused():
    margin = "analysis.secondary=[{endpoint='response_any',test='risk-difference',margin=0.1,sided=1}]"
    with pytest.raises(InputError, match=r"a margin of 0\.1 of response_any, and no parameter of the patients"):
        trials.run_trial(load_scenario("phase3", [*SMALL, margin]), null=True)
    against_a_drug = [RESCUE, "analysis.control='start 5 mg'", "arms.3.drug=hetrombopag", "arms.3.start_dose_mg=2.5"]
    with pytest.raises(InputError, match="where no null of rescue is true"):
        trials.run_trial(load_scenario("phase3", [*SMALL, *against_a_drug]), null=True)


def test_a_users_graph_is_read_by_name():
    weights, transitions = gatekeeping.graph_of(design(multiplicity="graphical", graph=GRAPH))
    # a, a: first, a: second, b, b: first, b: second
    assert weights.tolist() == [0.7, 0, 0, 0.3, 0, 0]
    shares = {(0, 1): 0.5, (0, 3): 0.5, (3, 4): 1.0, (4, 5): 0.4, (4, 0): 0.6}
    assert {at: transitions[at] for at in zip(*np.nonzero(transitions), strict=True)} == shares
    p = np.full((1, 2, 3), 0.5)
    p[0, 1] = [0.3 * ALPHA, 0.3 * ALPHA, 0.4 * 0.3 * ALPHA]  # b, then its first, then its second with 0.4 of that
    found = gatekeeping.rejections(design(multiplicity="graphical", graph=GRAPH), p)
    assert found[0].tolist() == [[False] * 3, [True] * 3]
    p[0, 1, 2] *= 1.01
    assert not gatekeeping.rejections(design(multiplicity="graphical", graph=GRAPH), p)[0, 1, 2]
