"""Ages of patients: drawn where something asks for them, in dose rules, entry, strata and regressions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from inference.trials import courses, numbers_of
from inference.whatif import patients
from pkpd import cohort, random, titration
from pkpd.errors import InputError
from pkpd.parameters import load_library
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario
from pkpd.scenario_text import describe
from pkpd.strata import stratum_of

SHORT = ("trial.visits_d=[7, 14]", "analysis.endpoint=response_week_2", "arms.1.n=300", "arms.2.n=300", "arms.3.n=300")
BY_AGE = (
    "titration={levels_mg=[2.5, 5], bands=["
    "{action='up', below=1000, every_d=7, age_below_y=40}, {action='up', below=1000, every_d=14, age_from_y=60}]}"
)
ROWS = "baseline_1e9_per_l,weight_kg,age_y\n10,60,30\n12,61,45\n14,62,70\n"
NO_AGE = "baseline_1e9_per_l,weight_kg\n10,60\n"
N = 20_000


@pytest.fixture(scope="module")
def keys():
    numbers = jnp.arange(N, dtype=jnp.int32)
    return random.patient_keys(random.root(7), 0 * numbers, 0 * numbers, numbers)


def drawn(keys, limits):
    return jax.jit(cohort.draw)(load_library().population(), keys, np.float32(30), None, limits)


def person(a, numbers):
    """Baseline, weight and age of the patients of an arm with the given numbers in trial 0 of seed 1."""
    of = random.patient_keys(random.root(1), 0 * numbers, 0 * numbers, numbers)
    who = jax.jit(cohort.draw)(a.population, of, a.arm.baseline_below, a.arm.table, a.arm.limits)
    known = {"age_y": who.age_y, "weight_kg": who.weight_kg}
    known["baseline_1e9_per_l"] = who.parameters.baseline_platelets_1e9_per_l
    return {name: np.asarray(x) for name, x in known.items()}


def test_ages_have_their_truncated_law_and_move_nothing_else(keys):
    found = drawn(keys, cohort.Limits(age_from=np.float32(0), age_below=np.float32(np.inf)))
    plain = drawn(keys, None)
    assert plain.age_y is None
    for a, b in zip(jax.tree.leaves(found._replace(age_y=None)), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    age = np.asarray(found.age_y)
    assert 18 <= age.min() < 18.1 and 73.5 < age.max() <= 74
    assert abs(np.median(age) - 40) < 0.4  # of 38, 41 and 42 in 168, 171 and 85 patients
    law = stats.truncnorm(*(np.log(np.array([18, 74]) / 40.5) / 0.35))
    assert stats.kstest(np.log(age / 40.5) / 0.35, law.cdf).pvalue > 1e-3
    for other in (found.weight_kg, found.parameters.baseline_platelets_1e9_per_l, found.parameters.receptor_ec50_nM):
        assert abs(stats.spearmanr(age, other).statistic) < 4 / np.sqrt(N)


def test_ages_between_limits_have_the_law_of_all_such_ages(keys):
    every = np.asarray(drawn(keys, cohort.Limits(age_from=np.float32(0), age_below=np.float32(np.inf))).age_y)
    some = np.asarray(drawn(keys, cohort.Limits(age_from=np.float32(30), age_below=np.float32(65))).age_y)
    assert some.min() >= 30 and some.max() < 65
    assert stats.ks_2samp(some, every[(every >= 30) & (every < 65)]).pvalue > 1e-3


@pytest.mark.parametrize("staged", [False, True], ids=["one rule", "stages"])
def test_a_row_with_ages_concerns_patients_of_those_ages_only(staged):
    d = load_scenario("phase3", [*SHORT, BY_AGE, *(["trial.visit_window_d=1"] if staged else [])])
    a = planned_arms(d)[0]
    assert (a.arm.protocol is not None) is staged
    (v,) = [v for _, _, v in courses(d, a, {}, 1, 1, "auto")]
    age, dose = np.asarray(v.age_y), np.asarray(v.dose_mg)
    assert (age < 40).any() and (age >= 60).any()
    np.testing.assert_array_equal(dose[0], 2.5)
    np.testing.assert_array_equal(dose[1], np.where(age < 40, 5.0, 2.5))
    table = next(iter(patients.parts(d, {}, 1, 1, "auto")))
    np.testing.assert_array_equal(table["age_y"], age)
    told = [line for line in describe(d).splitlines() if line.endswith("one level up")]
    assert ["age below 40 y" in line for line in told] == [True, False] and "age from 60 y" in told[1]


def test_a_patient_at_a_limit_is_of_the_upper_row():
    bands = [titration.Band("up", below=100, age_from_y=40.0), titration.Band("stop", below=100, age_below_y=40.0)]
    rule = titration.from_bands([1.0, 2.0], bands)
    state = titration.start(rule, 0, 2)
    after = titration.decide(rule, state, jnp.array([50.0, 50.0]), 7, None, jnp.array([40.0, 39.99]))
    assert after.level.tolist() == [1, 0] and after.stopped.tolist() == [False, True]


def test_ages_of_a_table(tmp_path):
    (tmp_path / "table.csv").write_text(ROWS)
    d = load_scenario("phase3", [*SHORT, BY_AGE, f"entry.patients='{tmp_path / 'table.csv'}'", "entry.age_below_y=70"])
    found = person(planned_arms(d)[0], np.arange(300))
    assert {*zip(found["age_y"].tolist(), found["weight_kg"].tolist(), strict=True)} == {(30, 60), (45, 61)}
    lines = describe(d).splitlines()
    assert "Entry: platelets below 30 x 10^9/L, age below 70 y" in lines
    assert any("drawn from 2 of" in line and "age 37.5 y" in line for line in lines)


def test_strata_and_regressions_by_age():
    asked = ["randomisation={block=3, strata={age_y=[40.0, 60.0]}}", "analysis.strata='as randomised'"]
    d = load_scenario("phase3", [*SHORT, *asked])
    counts = []
    for a in planned_arms(d):
        own = numbers_of(a, {}, 1)(np.zeros(300, int), np.arange(300))
        counts.append(np.bincount(stratum_of(d.analysis.strata, person(a, own)), minlength=3))
    assert (np.ptp(counts, axis=0) <= 3).all() and (np.array(counts) > 10).all()
    assert "Strata: age below and from 40, 60" in describe(d).splitlines()
    adjusted = load_scenario("phase3", [*SHORT, "analysis.test=logistic", "analysis.covariates=['age_y']"])
    assert adjusted.asks_for_ages == "analysis.covariates"
    assert planned_arms(adjusted)[0].arm.limits.age_from == 0


def test_nothing_is_drawn_where_nothing_asks():
    d = load_scenario("phase3", [*SHORT, "entry.age_from_y=20"])
    assert d.asks_for_ages is None and planned_arms(d)[0].arm.limits is None


BAD = {
    ("entry.age_from_y=50", "entry.age_below_y=40"): "age_from_y = 50: nobody is below 40 as well; legal: below 40",
    ("entry.age_below_y=0",): "entry.age_below_y = 0: legal: greater than 0",
    ("entry.age_from_y=200",): "entry.age_from_y = 200: legal: less than or equal to 150",
    ("entry.age_from_y=75",): "entry: age from 75 y: nobody or hardly anybody is eligible, ages are 18 to 74 y",
    ("entry.age_from=18",): "entry: unknown key 'age_from'; did you mean 'age_from_y'?",
    (BY_AGE.replace("age_below_y=40", "age_below_y='old'"),): "age_below_y = 'old': legal: a valid number",
    (BY_AGE.replace("age_below_y=40", "age_below_y=40, age_from_y=50"),): "age_from_y = 50 must be at least 0 and",
    ("randomisation={block=3, strata={age_y=[60, 40]}}",): "randomisation.strata.age_y = ",
    ("parameters.age_max_y=10",): "must be in increasing order",
}  # fmt: skip


@pytest.mark.parametrize(("asked", "told"), BAD.items(), ids=["; ".join(x) for x in BAD])
def test_bad_ages_are_one_clear_error(asked, told):
    with pytest.raises(InputError) as error:
        load_scenario("phase3", [*SHORT, *asked])
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "asked", "told"),
    [
        (NO_AGE, BY_AGE, "titration.bands: table.csv of entry.patients has no column age_y"),
        (NO_AGE, "entry.age_from_y=18", "entry.age_from_y: table.csv of entry.patients has no column age_y"),
        (NO_AGE, "analysis.strata={age_y=[60.0]}", "analysis.strata.age_y: table.csv of entry.patients has no"),
        (ROWS.replace("70", "old"), BY_AGE, "line 4: age_y = 'old'; legal: a number above 0 and at most 150"),
        (ROWS, "entry.age_from_y=80", "platelets below 30 x 10^9/L (3), age from 80 y (0)"),
    ],
)  # fmt: skip
def test_bad_ages_of_a_table_are_one_clear_error(tmp_path, monkeypatch, rows, asked, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text(rows)
    with pytest.raises(InputError) as error:
        load_scenario("phase3", [*SHORT, "entry.patients=table.csv", asked])
    assert told in str(error.value) and "\n" not in str(error.value)
