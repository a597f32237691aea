"""Dropped arms and re-estimated sizes against exact enumeration, their type I error, and bits that are no chunk's."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from inference import trials
from inference.whatif import adaptive, per_trial
from inference.whatif.counts import sizes_analysed, stated
from inference.whatif.decisions import critical_values, decide
from pkpd.scenario import load_scenario
from tests.inference.whatif.designs import design


def looks(**adaptation):
    return {"looks": [0.5, 1.0], "boundary": "pocock", **adaptation}


def figures(scenario, **options):
    return trials.run_trial(scenario, seed=1, **options).set_index(["comparison", "quantity"])


def within(row, exact, errors=3.0):
    assert row["estimate"] == pytest.approx(exact, abs=errors * max(row["mc_se"], 1e-4))


def pooled_z(y, n, y0, n0):
    """The z of two proportions with pooled variance, one trial."""
    p = (y + y0) / (n + n0)
    return (y / n - y0 / n0) / math.sqrt(p * (1 - p) * (1 / n + 1 / n0)) if 0 < p < 1 else 0.0


def test_the_best_are_kept_ties_to_the_earlier():
    value = np.array([[0.1, 0.3, 0.3], [0.2, 0.2, 0.2], [0.9, 0.1, 0.2], [0.5, 0.5, 0.1]])
    eligible = np.array([[True, True, True], [True, True, True], [False, True, True], [False, False, False]])
    one = [[False, True, False], [True, False, False], [False, False, True], [False, False, False]]
    assert np.array_equal(adaptive.best(value, eligible, 1), one)
    two = [[False, True, True], [True, True, False], [False, True, True], [False, False, False]]
    assert np.array_equal(adaptive.best(value, eligible, 2), two)


def test_dropped_losers_are_those_of_exact_enumeration():
    """Two active arms of 4 + 4 patients, one kept: power, probabilities of being kept and mean size, in plain loops."""
    p, half = {"a": 0.8, "control": 0.2, "b": 0.6}, 4
    scenario = design(
        n=(8, 8, 8), p=tuple(p.values()), names=tuple(p), sided=1, alpha=0.2, multiplicity="bonferroni",
        interims=looks(drop_losers={"at_look": 1, "keep": 1}), trial={"n_trials": 40_000},
    )  # fmt: skip
    c = critical_values(scenario)
    mass = {arm: stats.binom.pmf(range(half + 1), half, x) for arm, x in p.items()}
    counts = range(half + 1)
    exact = dict.fromkeys(("a", "b", "any", "a kept", "b kept", "patients"), 0.0)
    # chance of a rejection at the end, given responders of arm and control at the look
    at_end = {
        (arm, y, y0): sum(
            mass[arm][u] * mass["control"][v]
            for u, v in itertools.product(counts, counts)
            if pooled_z(y + u, 8, y0 + v, 8) >= c[1]
        )
        for arm in "ab"
        for y, y0 in itertools.product(counts, counts)
    }
    for y, y0, x in itertools.product(counts, counts, counts):
        chance = mass["a"][y] * mass["control"][y0] * mass["b"][x]
        crossed = {arm: pooled_z(k, half, y0, half) >= c[0] for arm, k in (("a", y), ("b", x))}
        going = [arm for arm in "ab" if not crossed[arm]]
        kept = "" if not going else going[0] if len(going) == 1 else "a" if y >= x else "b"
        later = at_end[kept, y if kept == "a" else x, y0] if kept else 0.0
        for arm in "ab":
            exact[arm] += chance * (1.0 if crossed[arm] else later if arm == kept else 0.0)
            exact[f"{arm} kept"] += chance * (arm == kept)
        exact["any"] += chance * (1.0 if any(crossed.values()) else later)
        exact["patients"] += chance * (12 + 8 * bool(kept))
    found = figures(scenario)
    for arm in "ab":
        within(found.loc[(f"{arm} vs control", "power_risk-difference")], exact[arm])
        within(found.loc[(f"{arm} vs control", "kept_at_look_1")], exact[f"{arm} kept"])
    within(found.loc[("whole trial", "power_any")], exact["any"])
    within(found.loc[("whole trial", "patients")], exact["patients"])
    assert 0.3 < exact["a kept"] < 0.6 and 0.1 < exact["b kept"] < 0.5  # neither choice is a matter of course


def test_the_type_1_error_of_dropping_losers_is_within_its_level():
    scenario = design(
        n=(60, 60, 60, 60), p=(0.5, 0.3, 0.4, 0.3), multiplicity="bonferroni", alpha=0.05,
        interims=looks(drop_losers={"at_look": 1, "keep": 2}),
    )  # fmt: skip
    found = figures(scenario, null=True)
    error = found.loc[("whole trial", "type_1_error_any")]
    assert error["estimate"] < 0.05 + 3 * error["mc_se"] and error["estimate"] > 0.01
    kept = sum(found.loc[(f"{arm} vs control", "kept_at_look_1"), "estimate"] for arm in ("a", "more 0", "more 1"))
    assert 1.9 < kept <= 2


def test_the_promising_zone_is_that_of_its_definition():
    """Its lower end solves conditional error at the largest size = that planned, a linear equation in z; published for
    half the patients and twice the size: a conditional power of 0.36."""
    c = stats.norm.isf(0.025)
    for t, most, published in ((0.25, 1.5, 0.42), (0.5, 1.5, 0.41), (0.5, 2.0, 0.36), (0.75, 2.0, 0.33)):
        z, r = np.linspace(-3, 4, 70_001), np.linspace(1, most, 2001)
        step = adaptive.promising_step(z, t, r, c, 1, 0.8)
        power = stats.norm.sf((c - z / np.sqrt(t)) / np.sqrt(1 - t))
        a, b = 1 / math.sqrt(1 - t), 1 / math.sqrt(most - t)
        lowest = c * (a - b * math.sqrt(most)) / (a - b) / math.sqrt(t)
        zone = z[step > 0]
        assert zone[0] == pytest.approx(lowest, abs=2e-4) and (np.diff(np.flatnonzero(step)) == 1).all()
        assert power[step > 0][0] == pytest.approx(published, abs=0.006)
        assert power[step > 0][-1] == pytest.approx(0.8, abs=2e-3) and (step[power >= 0.8] == 0).all()
        raised = adaptive.conditional_error(z, t, r[step], c, 1) > adaptive.conditional_error(z, t, 1.0, c, 1) + 1e-15
        assert not raised.any()


def chosen(y, y0, c, n, sizes, target):
    """The size of one trial by a plain search, from the responders of the first half of n in each arm."""
    t, z = 0.5, pooled_z(y, n // 2, y0, n // 2)
    if z <= 0:
        return n
    drift, error = z / math.sqrt(t), stats.norm.sf((c - z * math.sqrt(t)) / math.sqrt(1 - t))
    if stats.norm.sf((c - z / math.sqrt(t)) / math.sqrt(1 - t)) >= target:
        return n
    for size in sizes:
        more = size / n - t
        if stats.norm.sf(stats.norm.isf(error) - drift * math.sqrt(more)) >= target:
            break
    new_error = stats.norm.sf((c * math.sqrt(size / n) - z * math.sqrt(t)) / math.sqrt(more))
    return size if new_error <= error else n


def test_re_estimated_sizes_are_those_of_exact_enumeration():
    n, p, p0, target = 20, 0.55, 0.25, 0.8
    grow = {"at_look": 1, "max_factor": 2.0, "conditional_power": target, "steps": 4}
    for null in (False, True):
        scenario = design(
            n=(n, n), p=(p, p0), sided=1, alpha=0.1, interims=looks(reestimate=grow), trial={"n_trials": 40_000}
        )
        sizes = sizes_analysed(scenario)[1:, 0].tolist()
        assert sizes == [20, 25, 30, 35, 40]
        c, treated = critical_values(scenario), p0 if null else p
        first = [stats.binom.pmf(range(11), 10, x) for x in (treated, p0)]
        power = extended = patients = 0.0
        for y, y0 in itertools.product(range(11), range(11)):
            chance = first[0][y] * first[1][y0]
            if pooled_z(y, 10, y0, 10) >= c[0]:
                power, patients = power + chance, patients + 20 * chance
                continue
            size = chosen(y, y0, c[1], n, sizes[1:], target)
            extended, patients = extended + chance * (size > n), patients + 2 * size * chance
            second = [stats.binom.pmf(range(size - 9), size - 10, x) for x in (treated, p0)]
            power += chance * sum(
                second[0][u] * second[1][v]
                for u, v in itertools.product(range(size - 9), range(size - 9))
                if pooled_z(y + u, size, y0 + v, size) >= c[1]
            )
        found = figures(scenario, null=null)
        within(found.loc[("a vs control", f"{'type_1_error' if null else 'power'}_risk-difference")], power)
        within(found.loc[("a vs control", "extended_at_look_1")], extended)
        within(found.loc[("whole trial", "patients")], patients)
        assert extended > 0.05


def test_the_type_1_error_of_re_estimation_is_within_its_level():
    """Against that of the same trials without it: paired, as the first patients are the same."""
    grow = {"at_look": 2, "max_factor": 3.0, "conditional_power": 0.9}
    common = {"n": (200, 100), "p": (0.3, 0.3), "alpha": 0.05, "trial": {"n_trials": 40_000}}
    three = {"looks": [0.3, 0.6, 1.0], "boundary": "obrien-fleming"}
    found = figures(design(**common, interims={**three, "reestimate": grow}), null=True)
    plain = figures(design(**common, interims=three), null=True)
    error, before = (x.loc[("a vs control", "type_1_error_risk-difference")] for x in (found, plain))
    assert error["estimate"] < 0.05 + 3 * error["mc_se"]
    assert error["estimate"] < before["estimate"] + 3 * error["mc_se"]
    assert found.loc[("a vs control", "extended_at_look_2"), "estimate"] > 0.02
    same = ("a", "cured")  # the arms' rates are of the planned patients in both
    assert found.loc[same, "estimate"] == plain.loc[same, "estimate"]


def test_the_same_decisions_whatever_the_chunks(tmp_path):
    grow = {"at_look": 1, "max_factor": 2.0, "conditional_power": 0.8}
    drop = {"at_look": 1, "keep": 1}
    three = {"n": (30, 20, 30), "p": (0.5, 0.2, 0.4), "multiplicity": "bonferroni"}
    for scenario in (
        design(n=(30, 20), interims=looks(reestimate=grow)),
        design(**three, interims=looks(drop_losers=drop)),
    ):
        whole = stated(scenario, 7, 0, 2500)
        parts = [stated(scenario, 7, a, b - a) for a, b in itertools.pairwise((0, 1, 999, 1700, 2500))]
        assert np.array_equal(np.concatenate([part.analysed for part in parts]), whole.analysed)
        found = decide(scenario, whole)
        for field in ("rejected", "look", "dropped"):
            together = np.concatenate([getattr(decide(scenario, part), field) for part in parts])
            assert np.array_equal(together, getattr(found, field))
        table = per_trial.rows_of(scenario, whole, 0, 1)
        assert set(table["a vs control: look"]) == {1, 2} and table["whole trial: patients"].nunique() > 1
        changed = table["a vs control: extended" if scenario.interims.reestimate else "a vs control: dropped"]
        assert 0 < changed.mean() < 1
    assert (table.loc[changed, "a vs control: look"] == 1).all() and not table.loc[
        changed, "a vs control: rejected"
    ].any()


@pytest.mark.parametrize("test", ["cochran-mantel-haenszel", "logistic"])
def test_patients_beyond_the_planned_ones(test):
    """Counted by look or analysed by patient: the planned patients are those of the design without re-estimation, and
    the counts those of its chunks."""
    more = ["trial.n_trials=30", "trial.visits_d=[14,28]", "analysis.endpoint=response_week_4", f"analysis.test={test}"]
    arms = "arms=[{name='drug', n=9, drug='hetrombopag', start_dose_mg=2.5}, {name='placebo', n=5, drug='placebo'}]"
    plain_looks = "looks=[0.5, 1], boundary='pocock'"
    grow = "reestimate={at_look=1, max_factor=2, conditional_power=0.9, steps=2}"
    plain = load_scenario("phase3", [arms, *more, f"interims={{{plain_looks}}}"])
    larger = load_scenario("phase3", [arms, *more, f"interims={{{plain_looks}, {grow}}}"])
    assert sizes_analysed(larger).tolist() == [[5, 3], [9, 5], [14, 8], [18, 10]]
    planned = trials.patient_blocks(plain, {}, 3, "auto", trials.silent)(0, 30)
    whole = trials.patient_blocks(larger, {}, 3, "auto", trials.silent)(0, 30)
    parts = [trials.patient_blocks(larger, {}, 3, "auto", trials.silent)(*at) for at in ((0, 11), (11, 19))]
    field = "effects" if test == "logistic" else "analysed"
    np.testing.assert_allclose(getattr(planned, field), getattr(whole, field)[:, :2], rtol=1e-9, atol=1e-12)
    assert np.array_equal(
        np.concatenate([getattr(part, field) for part in parts]), getattr(whole, field), equal_nan=True
    )
    for arm, counts in planned.by_arm.items():
        assert np.array_equal(counts, whole.by_arm[arm]) and np.array_equal(planned.sums[arm], whole.sums[arm])
    if test != "logistic":
        added = np.diff(whole.analysed, axis=1)[:, 1:]
        assert (added >= 0).all() and (added <= [5, 3]).all() and added[..., 0].mean() > 1
