"""Randomisation in blocks within strata: sizes, balance, what stays as it was, and the message of each bad table."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.trials import courses, numbers_of, roster
from inference.whatif.effects import traits
from inference.whatif.mantel_haenszel import cochran_mantel_haenszel
from pkpd.errors import InputError
from pkpd.notebook import simulate_scenario, summarise_scenario
from pkpd.planned import planned_arms
from pkpd.randomisation import allocate, spread
from pkpd.scenario import load_scenario
from pkpd.scenario_text import describe
from pkpd.strata import Strata, stratum_of

derandomized = partial(settings, deadline=None, derandomize=True)
SMALL = ("arms.1.n=16", "arms.2.n=16", "arms.3.n=8", "trial.visits_d=[7, 14]", "analysis.endpoint=response_week_2")
STRATA = "randomisation.strata={baseline_1e9_per_l=[15.0], splenectomy=true}"
IN_BLOCKS = (*SMALL, "randomisation.block=5", STRATA, "analysis.strata='as randomised'")


def numbers(scenario, n_trials, draws=None, seed=1, first=0):
    """Patient numbers [trials, patients] of each arm."""
    found = []
    for a in planned_arms(scenario):
        number, place = np.divmod(np.arange(n_trials * a.n), a.n)
        found.append(numbers_of(a, draws or {}, seed)(number + first, place).reshape(n_trials, a.n))
    return found


@st.composite
def trials(draw):
    """Sizes of arms, strata and random numbers of a few trials, and a block."""
    ratio = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    each = draw(st.integers(1, 12))
    sizes = [each * r for r in ratio]
    sizes[0] += draw(st.integers(-1, 1)) if sizes[0] > 1 else 0  # near the ratio only
    block = sum(ratio) * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = sum(sizes), draw(st.integers(1, 6))
    return sizes, block, rng.integers(0, k, (5, n)), rng.random((5, n), np.float32), rng.random(5, np.float32)


@derandomized(max_examples=300)
@given(trials())
def test_sizes_are_exact_and_no_stratum_is_out_of_balance_by_a_block(found):
    sizes, block, stratum, u, turn = found
    arm = allocate(stratum, u, turn, sizes, block)
    share = np.array(sizes) / sum(sizes)
    for a, n in enumerate(sizes):
        assert ((arm == a).sum(1) == n).all()
    for s in np.unique(stratum):
        own = stratum == s
        counts = np.stack([(own & (arm == a)).sum(1) for a in range(len(sizes))], 1)
        assert (np.abs(counts - own.sum(1)[:, None] * share) <= block / 2 + 1).all()
        if np.gcd.reduce(sizes) * block % sum(sizes) == 0:  # the block has the ratio exactly
            ends = 2 * block * share * (1 - share)
            assert (np.abs(counts - own.sum(1)[:, None] * share) <= ends + 1e-9).all()


@derandomized(max_examples=200)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(0, 200), st.integers(0, 200))
def test_arms_take_turns_as_evenly_as_whole_patients_allow(sizes, first, last):
    first, last = sorted((first % (sum(sizes) + 1), last % (sum(sizes) + 1)))
    for a, n in enumerate(sizes):
        due = (last - first) * n / sum(sizes)
        assert abs((spread(sizes)[first:last] == a).sum() - due) <= 1 + len(sizes) / 2
    np.testing.assert_array_equal(np.bincount(spread(sizes)), sizes)


def test_every_patient_has_each_arm_with_its_share():
    """Of 7, 5 and 2 patients in blocks of 4, which cannot have that ratio."""
    rng = np.random.default_rng(3)
    n, T, sizes = 14, 40_000, (7, 5, 2)
    stratum = np.broadcast_to(np.arange(n) % 3 > 0, (T, n)).astype(int)
    arm = allocate(stratum, rng.random((T, n), np.float32), rng.random(T, np.float32), sizes, 4)
    for a, size in enumerate(sizes):
        p = size / n
        assert (np.abs((arm == a).mean(0) - p) < 4 * np.sqrt(p * (1 - p) / T)).all()


def test_an_arm_has_its_own_patients_in_the_order_in_which_they_come():
    d = load_scenario("phase3", IN_BLOCKS)
    arms = numbers(d, 50)
    assert [x.shape for x in arms] == [(50, 16), (50, 16), (50, 8)]
    assert all((np.diff(x) > 0).all() for x in arms)
    np.testing.assert_array_equal(np.sort(np.concatenate(arms, 1), 1), np.broadcast_to(np.arange(40), (50, 40)))
    assert len(np.unique(np.concatenate(arms, 1), axis=0)) == 50


@pytest.mark.parametrize("draws", [{}, {"receptor_ec50_nM": np.linspace(20, 30, 7)}], ids=["library", "posterior"])
def test_trials_are_the_same_in_chunks_of_any_size(draws, monkeypatch):
    d = load_scenario("phase3", IN_BLOCKS)
    whole = numbers(d, 60, draws)
    for first, n in ((0, 1), (13, 30), (59, 1)):
        for part, all_of in zip(numbers(d, n, draws, first=first), whole, strict=True):
            np.testing.assert_array_equal(part, all_of[first : first + n])
    for tile in (16, 96):  # less than a trial at once, and more
        monkeypatch.setattr("pkpd.randomisation.TILE", tile)
        for part, all_of in zip(numbers(d, 60, draws), whole, strict=True):
            np.testing.assert_array_equal(part, all_of)
    monkeypatch.undo()
    other = numbers(d, 60, draws, seed=2)
    assert (other[0] != whole[0]).any()


def test_shares_of_a_posterior_decide_the_strata():
    d = load_scenario("phase3", IN_BLOCKS)
    varied = {"splenectomy_share": np.array([0.0, 0.5])}
    plain = numbers(d, 40, {"receptor_ec50_nM": np.array([20.0, 20.0])})
    found = numbers(d, 40, varied)
    same = [(x == y).all(1) for x, y in zip(found, plain, strict=True)]
    assert not np.all(same) and not np.all(np.array(same)[:, 1::2])


def course_patients(design, n_trials, engine="auto"):
    """By arm: trial and traits of the patients whose courses are simulated."""
    found = []
    for a in planned_arms(design):
        tiles = [(number, traits(v)) for _, number, v in courses(design, a, {}, n_trials, 1, engine)]
        known = {name: np.concatenate([t[name] for _, t in tiles]) for name in tiles[0][1]}
        found.append((np.concatenate([number for number, _ in tiles]), known))
    return found


def test_the_patients_of_the_courses_are_balanced_and_keep_their_numbers():
    d, T = load_scenario("phase3", IN_BLOCKS), 100
    sizes = np.array([16, 16, 8])
    counts = np.zeros((3, T, 4))
    for a, (number, known) in enumerate(course_patients(d, T)):
        np.add.at(counts[a], (number, stratum_of(d.randomisation.strata, known)), 1)
    assert (counts.sum((0, 2)) == 40).all() and (counts.sum(2) == sizes[:, None]).all()
    due = counts.sum(0) * (sizes / 40)[:, None, None]
    assert (np.abs(counts - due) <= 2 * 5 * (sizes / 40 * (1 - sizes / 40))[:, None, None] + 1e-5).all()
    # the patient of a number is the same in the plain design, in which arms have their patients by number
    plain = course_patients(load_scenario("phase3", SMALL), T)
    together = np.concatenate([known["weight_kg"].reshape(T, -1) for _, known in plain], 1)
    for (_, known), own in zip(course_patients(d, T), numbers(d, T), strict=True):
        np.testing.assert_array_equal(known["weight_kg"].reshape(T, -1), np.take_along_axis(together, own, 1))


def test_strata_of_a_screening_are_those_of_the_measured_counts():
    asked = ["screening={visits_d=[-7, 0], criterion='mean'}", "randomisation.strata={baseline_1e9_per_l=[15.0]}"]
    d = load_scenario("phase3", [*SMALL, "randomisation.block=5", *asked])
    counts = []
    for _, known in course_patients(d, 10):
        high = known["baseline_1e9_per_l"].reshape(10, -1) >= 15
        counts.append(high.sum(1))
    of_all = np.sum(counts, 0)
    for own, share in zip(counts, (0.4, 0.4, 0.2), strict=True):
        assert (np.abs(own - of_all * share) <= 2 * 5 * share * (1 - share) + 1e-9).all()
    with pytest.raises(InputError, match="platelets_from_1e9_per_l: a screening has no lower limit"):
        load_scenario("phase3", [*SMALL, asked[0], "entry.platelets_from_1e9_per_l=5"])


def test_two_designs_with_one_randomisation_have_the_same_patients():
    one = load_scenario("phase3", IN_BLOCKS)
    other = load_scenario("phase3", [*IN_BLOCKS, "titration.up_every_d=28", "arms.1.start_dose_mg=5.0"])
    for x, y in zip(numbers(one, 20), numbers(other, 20), strict=True):
        np.testing.assert_array_equal(x, y)


def test_arms_are_alike_in_the_strata_and_independent_in_all_else():
    """Over 2,000 trials: the difference in the share of a stratum varies less, weights of two arms are uncorrelated."""
    T = 2000
    share, weight = {}, {}
    for name, design in {"plain": SMALL, "in blocks": IN_BLOCKS}.items():
        arms = planned_arms(load_scenario("phase3", design))[:2]
        found = [_traits_of(a, roster(a, {}, T, seed=1)) for a in arms]
        share[name] = [x["baseline_1e9_per_l"].reshape(T, -1) < 15 for x in found]
        weight[name] = [x["weight_kg"].reshape(T, -1) for x in found]
    spread_of = {k: np.std(a.mean(1) - b.mean(1)) for k, (a, b) in share.items()}
    assert spread_of["in blocks"] < 0.5 * spread_of["plain"]
    for a, b in weight.values():
        assert abs(np.corrcoef(a.mean(1), b.mean(1))[0, 1]) < 3 / np.sqrt(T)


def _traits_of(a, people):
    """Traits of patients of a roster, without their courses."""
    from pkpd import cohort, random
    from pkpd.parameters import Demography

    population, *numbers = people.who(np.arange(people.n))
    keys = random.patient_keys(random.root(1), *numbers)
    demography = Demography(*(np.float32(x) for x in population.demography))
    t = jax.jit(cohort.traits, static_argnums=3)(demography, keys, a.arm.baseline_below, np.float32, None, None)
    return {"baseline_1e9_per_l": np.asarray(t.baseline_1e9_per_l), "weight_kg": np.asarray(t.weight_kg)}


def test_a_stratified_test_of_a_stratified_trial_has_no_less_power():
    """20 patients an arm, response 0.2 and 0.8 without treatment by stratum, log odds ratio 2, over 20,000 trials."""
    rng = np.random.default_rng(11)
    T, sizes = 20_000, (20, 20)
    stratum = rng.integers(0, 2, (T, 40))
    u, chance = rng.random((T, 40), np.float32), rng.random((T, 40))
    power = {}
    for name, strata in {"in blocks": stratum, "plain": np.zeros_like(stratum)}.items():
        arm = allocate(strata, u, rng.random(T, np.float32), sizes, 4 if name == "in blocks" else 40)
        odds = np.array([0.25, 4.0])[stratum] * np.exp(2.0 * (arm == 1))
        response = chance < odds / (1 + odds)
        z = cochran_mantel_haenszel(response, arm == 1, stratum=stratum).z
        power[name] = (z > 1.96).mean()
    assert 0.3 < power["plain"] < 0.95
    assert power["in blocks"] > power["plain"] - 3 * np.sqrt(0.25 / T)


def test_without_the_table_nothing_changes():
    plain = load_scenario("phase3", SMALL)
    assert all(a.allocation is None for a in planned_arms(plain))
    for own, a in zip(numbers(plain, 3), planned_arms(plain), strict=True):
        np.testing.assert_array_equal(own, np.broadcast_to(a.first_patient + np.arange(a.n), (3, a.n)))


def test_notebooks_have_the_first_trial():
    d = load_scenario("phase3", IN_BLOCKS)
    data = simulate_scenario(d)
    for (name, own), n in zip(data.groupby("arm"), (8, 16, 16), strict=True):
        index = [arm.name for arm in d.arms].index(name)
        np.testing.assert_array_equal(own["patient"].values, numbers(d, 1)[index][0])
        assert own.sizes["patient"] == n
    assert (summarise_scenario(d)["patients"] == [16, 16, 8]).all()


def test_without_strata_blocks_are_of_patients_as_they_come():
    d = load_scenario("phase3", [*SMALL, "randomisation.block=5"])
    for first in range(0, 40, 5):
        inside = [((x >= first) & (x < first + 5)).sum(1) for x in numbers(d, 30)]
        np.testing.assert_array_equal(inside, np.broadcast_to([[2], [2], [1]], (3, 30)))


def test_in_words():
    lines = describe(load_scenario("phase3", IN_BLOCKS)).splitlines()
    ask = "2:2:1, permuted blocks of 5 within strata of baseline count below and from 15, splenectomy or not"
    assert f"Randomisation: {ask}" in lines
    assert "Strata: splenectomy or not" in lines


HOLM = "analysis.multiplicity=holm"


def secondary(strata):
    test = "endpoint='response_any', test='cochran-mantel-haenszel'"
    return f"analysis.secondary=[{{{test}, strata={strata}}}]"


def test_secondary_endpoints_have_the_same_strata_if_they_ask_for_them():
    d = load_scenario("phase3", [*SMALL, HOLM, "randomisation.block=5", STRATA, secondary("'as randomised'")])
    assert d.analysis.strata is None and d.analysis.secondary[0].strata == d.randomisation.strata
    by_age = load_scenario("phase3", [*SMALL, HOLM, secondary("{age_y=[60.0]}")])
    assert by_age.asks_for_ages == "analysis.secondary[1].strata.age_y"
    told = r"analysis.secondary\[1\].strata: corticosteroid: corticosteroid_share = 0, so all patients are alike"
    with pytest.raises(InputError, match=told):
        load_scenario("phase3", [*SMALL, HOLM, secondary("{corticosteroid=true}")])


def test_strata_are_numbered_by_all_that_divides_them():
    strata = Strata(baseline_1e9_per_l=(10.0, 15.0), splenectomy=True)
    known = {
        "baseline_1e9_per_l": np.array([9.0, 10, 15, 15]),
        "splenectomy": np.array([0, 1, 0, 1]),
        "weight_kg": [1] * 4,
    }
    assert stratum_of(strata, known).tolist() == [0, 3, 4, 5] and strata.number == 6


BAD = {
    ("randomisation={strata={baseline_1e9_per_l=[15.0]}}",): "randomisation.block is missing",
    ("randomisation.block=0",): "randomisation.block = 0: legal: greater than or equal to 1",
    ("randomisation={block=5, startum={}}",): "randomisation: unknown key 'startum'; did you mean 'strata'?",
    ("randomisation={block=5, strata={}}",): "randomisation.strata: no strata; legal: baseline_1e9_per_l, weight_kg",
    ("randomisation={block=5, strata={splenectomy=false}}",): "randomisation.strata: no strata; legal",
    (
        "randomisation={block=5, strata={splenectomy=1}}",
    ): "randomisation.strata.splenectomy = 1: legal: a valid boolean",
    ("randomisation={block=5, strata={splenectomised=true}}",): "did you mean 'splenectomy'?",
    ("randomisation={block=5, strata={weight_kg=[60, 50]}}",): "randomisation.strata.weight_kg = ",
    ("randomisation.block=6",): "block = 6: no whole number of patients at 2:2:1; legal: a multiple of 5",
    ("randomisation.block=40", STRATA): "block = 40: the 40 patients are one block, whose strata balance nothing",
    ("arms.1.n=17", "randomisation.block=5"): "at 17:16:8; legal: a multiple of 41, or a ratio = [..]",
    ("randomisation={block=5, ratio=[2, 2]}",): "ratio = [2, 2]; legal: a whole number above 0 for each of 3 arms",
    ("randomisation={block=5, ratio=[2, 2, 0]}",): "ratio = [2, 2, 0]; legal: a whole number above 0",
    ("randomisation={block=6, ratio=[1, 1, 1]}",): "makes 13.33 of 40 patients where an arm has 8;",
    ("analysis.strata='as randomized'",): "analysis.strata = 'as randomized': legal: a table",
    ("analysis.strata='as randomised'",): "analysis.strata = 'as randomised': [randomisation] has no strata",
    ("analysis.strata='as randomised'", "randomisation.block=5"): "[randomisation] has no strata",
    ("randomisation={block=5, strata={corticosteroid=true}}",): (
        "randomisation.strata: corticosteroid: corticosteroid_share = 0, so all patients are alike; "
        "legal: parameters.corticosteroid_share between 0 and 1"
    ),
    ("analysis.strata={east_asian=true}",): "analysis.strata: east_asian: east_asian_share = 1",
    ("analysis.test=logistic", "analysis.covariates=['corticosteroid']"): "analysis.covariates: corticosteroid",
    ("analysis.test=logistic", "analysis.covariates=['splenectomi']"): "did you mean 'splenectomy'?",
    ("analysis.test=logistic", "analysis.covariates=['female','female']"): "one is named twice",
    (
        "analysis.covariates=['female']",
    ): "covariates: test = 'cochran-mantel-haenszel' has none; legal: test = 'logistic'",
}


@pytest.mark.parametrize(("asked", "told"), BAD.items(), ids=["; ".join(x) for x in BAD])
def test_bad_tables_are_one_clear_error(asked, told):
    with pytest.raises(InputError) as error:
        load_scenario("phase3", [*SMALL, *asked])
    assert told in str(error.value) and "\n" not in str(error.value)


def test_designs_without_randomised_patients_are_refused():
    with pytest.raises(InputError, match="randomisation: a crossover has all patients in all arms"):
        load_scenario("food_effect", ["randomisation.block=2"])
    with pytest.raises(InputError, match="randomisation: stated outcomes have no patients; legal: without it"):
        load_scenario("group_sequential", ["randomisation.block=2"])
    with pytest.raises(InputError, match="randomisation: one arm has nothing to randomise; legal: at least two"):
        load_scenario("children", ["randomisation.block=2"])


def test_secondary_endpoints_take_the_strata_of_the_randomisation():
    second = "[{endpoint='response_any', test='logistic', strata='as randomised', covariates=['age_y']}]"
    settings = ["randomisation={strata={baseline_1e9_per_l=[15.0]}, block=5}", f"analysis.secondary={second}",
                "arms.1.n=20", "arms.2.n=20", "arms.3.n=10", "analysis.multiplicity=holm"]  # fmt: skip
    scenario = load_scenario("phase3", settings)
    assert scenario.analysis.secondary[0].strata == scenario.randomisation.strata
    assert scenario.asks_for_ages == "analysis.secondary[1].covariates"
    with pytest.raises(InputError, match=r"analysis.secondary\[1\].strata = 'as randomised': .randomisation. has no"):
        load_scenario("phase3", settings[1:])
    bad = second.replace("'as randomised'", "{splenectomy=true}")
    with pytest.raises(InputError, match=r"analysis.secondary\[1\].strata: splenectomy"):
        load_scenario("phase3", [f"analysis.secondary={bad}", "parameters.splenectomy_share=0", settings[-1]])
