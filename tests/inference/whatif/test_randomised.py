"""Randomised patients in all that a run hands over: data sets, cohorts, patients, re-estimation, who gains."""

import tomllib

import numpy as np
import pytest

from inference import trials
from inference.whatif import gains, patients
from inference.whatif.dataset import dataset
from pkpd.planned import planned_arms
from pkpd.scenario import build, load_scenario
from tests.pkpd.test_scenario import LEAST

SMALL = ("arms.1.n=16", "arms.2.n=16", "arms.3.n=8", "trial.visits_d=[7, 14]", "analysis.endpoint=response_week_2")
IN_BLOCKS = (*SMALL, "randomisation={block=5, strata={baseline_1e9_per_l=[15.0], female=true}}")
GROWS = {
    "looks": [0.5, 1.0], "boundary": "obrien-fleming",
    "reestimate": {"at_look": 1, "max_factor": 1.5, "conditional_power": 0.8},
}  # fmt: skip


@pytest.fixture(scope="module")
def designs():
    return load_scenario("phase3", SMALL), load_scenario("phase3", IN_BLOCKS)


def numbers(a, seed, number):
    return trials.numbers_of(a, {}, seed)(np.full(a.n, number), np.arange(a.n))


def test_a_data_set_has_the_patients_of_its_trial(designs):
    plain, own = (dataset(d, {}, 3, 1, "auto").drop_duplicates("ID").set_index("ID") for d in designs)
    assert own.index.tolist() == plain.index.tolist() == list(range(1, 41))
    np.testing.assert_array_equal(own[["BLPLT", "WT"]], plain[["BLPLT", "WT"]])
    assert (own["ARM"] != plain["ARM"]).any()
    for index, a in enumerate(planned_arms(designs[1]), start=1):
        assert own.index[own["ARM"] == index].tolist() == (numbers(a, 1, 3) + 1).tolist()


def test_a_cohort_and_a_table_of_patients_have_the_numbers_of_the_trial(designs):
    cohort = [table[table["visit"] == 0] for table in trials.simulate_cohort(designs[1], seed=2)]
    people = list(patients.parts(designs[1], {}, 2, 2, "auto"))
    for a, one, table in zip(planned_arms(designs[1]), cohort, people, strict=True):
        assert one["patient"].tolist() == numbers(a, 2, 0).tolist()
        first = table[table["trial"] == 0]
        assert first["patient"].tolist() == numbers(a, 2, 0).tolist()
        np.testing.assert_array_equal(first["baseline_1e9_per_l"], one["platelets_observed"])
        last = table[table["trial"] == 1]
        assert last["patient"].tolist() == numbers(a, 2, 1).tolist()


def test_patients_of_a_re_estimation_are_randomised_after_the_planned_ones():
    raw = tomllib.loads(LEAST)
    raw["arms"][0]["n"] = raw["arms"][1]["n"] = 18
    d = build(raw | {"interims": GROWS, "randomisation": {"block": 6, "strata": {"female": True}}}, "grows")
    planned, later = [], []
    for _, a, start in trials._groups(d, planned_arms(d)):
        (later if start else planned).append(numbers(a, 1, 5))
    assert sorted(np.concatenate(planned)) == list(range(36))
    assert sorted(np.concatenate(later)) == list(range(36, 54)) and [len(x) for x in later] == [9, 9]


def test_arms_are_paired_where_they_have_the_same_patients(designs):
    plain, own = designs
    again = load_scenario("phase3", [*IN_BLOCKS, "titration.up_every_d=28"])
    resized = load_scenario("phase3", [*IN_BLOCKS, "arms.1.n=18", "arms.2.n=18", "arms.3.n=9"])
    assert gains.paired_arms(again, own) == {arm.name: arm.n for arm in own.arms}
    assert gains.paired_arms(plain, own) == gains.paired_arms(own, plain) == {}
    assert gains.paired_arms(resized, own) == {}


def test_the_analysis_reads_covariates_of_patients():
    """A stratified test and a regression by sex run, and are not those without it."""
    found = {}
    for name, asked in {
        "plain": "analysis.strata={weight_kg=[60.0]}", "by sex": "analysis.strata={weight_kg=[60.0], female=true}",
    }.items():  # fmt: skip
        table = trials.run_trial(load_scenario("phase3", [*SMALL, "trial.n_trials=200", asked]))
        found[name] = table.set_index(["comparison", "quantity"])["estimate"]
    assert found["plain"].index.equals(found["by sex"].index) and not found["plain"].equals(found["by sex"])
