"""Conditions of entry: simulated patients have the law of all who meet them, rows of a table are left out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inference.whatif import patients
from pkpd import cohort, random
from pkpd.errors import InputError
from pkpd.notebook import simulate_scenario
from pkpd.parameters import load_library, with_values
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario
from pkpd.scenario_text import describe

derandomized = partial(settings, deadline=None, derandomize=True)
N = 20_000
ROWS = "weight_kg,baseline_1e9_per_l,female,splenectomy\n50,10,1,0\n60,20,0,0\n70,29.5,1,1\n80,30,1,1\n"


@jax.jit
def drawn(population, limits):
    numbers = jnp.arange(N, dtype=jnp.int32)
    keys = random.patient_keys(random.root(7), 0 * numbers, 0 * numbers, numbers)
    return cohort.draw(population, keys, np.float32(30), None, limits)


@pytest.fixture(scope="module")
def everybody():
    return drawn(load_library().population(), None)


@pytest.mark.parametrize(
    ("low", "below"), [(None, 60), (50, None), (55.5, 70), (85, None), (None, 45), (20, 200), (100, 115), (39, 115.5)]
)
def test_weights_between_limits_have_the_law_of_all_such_weights(everybody, low, below):
    limits = cohort.Limits(None, *(None if x is None else np.float32(x) for x in (low, below)))
    found = np.asarray(drawn(load_library().population(), limits).weight_kg)
    all_of = np.asarray(everybody.weight_kg)
    inside = all_of[(all_of >= (low or 0)) & (all_of < (below or np.inf))]
    assert (found >= (low or 0)).all() and (found < (below or np.inf)).all()
    assert stats.ks_2samp(found, inside).pvalue > 1e-3
    for end in (39, 115):  # to which weights are clipped: the shares there
        p, n = (inside == end).mean(), len(inside)
        assert abs((found == end).mean() - p) <= 4 * np.sqrt(p * (1 - p) * (1 / n + 1 / N))


@derandomized(max_examples=100)
@given(st.floats(-4, 4), st.floats(0.01, 5), st.lists(st.floats(0, 1 - 2**-23, width=32), min_size=9, max_size=9))
def test_truncated_normals_invert_their_law(low, width, u):
    u = np.sort(np.asarray(u, np.float32))
    z = np.asarray(jax.jit(cohort.truncated_normal)(u, np.float32(low), np.float32(low + width)))
    assert (np.diff(z) >= 0).all() and (z >= low - 1e-5).all() and (z <= low + width + 1e-5).all()
    law = stats.truncnorm(low, low + width)
    np.testing.assert_allclose(law.cdf(np.float64(z)), u, atol=2e-3 if low > -3 else 2e-2)


def test_counts_from_a_limit_have_the_law_of_all_such_counts(everybody):
    found = drawn(load_library().population(), cohort.Limits(np.float32(10))).parameters.baseline_platelets_1e9_per_l
    found, all_of = np.asarray(found), np.asarray(everybody.parameters.baseline_platelets_1e9_per_l)
    assert (found >= 10).all() and (found < 30).all()
    assert stats.ks_2samp(found, all_of[all_of >= 10]).pvalue > 1e-3


def test_conditions_move_nothing_else(everybody):
    found = drawn(load_library().population(), cohort.Limits(np.float32(5), np.float32(50), np.float32(80)))
    for name in ("receptor_ec50_nM", "max_stimulation", "dimer_efficacy"):
        np.testing.assert_array_equal(getattr(found.parameters, name), getattr(everybody.parameters, name))
    for a, b in zip(found.covariates, everybody.covariates, strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_alike_are_in_or_out():
    population = with_values(load_library().population(), {"weight_median_kg": 70.0, "weight_log_sd": 0.0})
    found = drawn(population, cohort.Limits(None, np.float32(60), np.float32(80))).weight_kg
    np.testing.assert_allclose(found, 70.0, rtol=1e-6)


def test_a_trial_has_only_patients_who_meet_its_conditions():
    asked = ["trial.visits_d=[7, 14]", "analysis.endpoint=response_week_2", "entry.platelets_from_1e9_per_l=8"]
    asked += ["entry.weight_from_kg=50", "entry.weight_below_kg=75", "entry.splenectomy=false", "entry.female=true"]
    d = load_scenario("phase3", asked)
    data = simulate_scenario(d)
    assert 8 <= data["baseline"].min() and data["baseline"].max() < 30
    assert 50 <= data["weight_kg"].min() and data["weight_kg"].max() < 75
    table = next(iter(patients.parts(d, {"splenectomy_share": np.array([0.5])}, 1, 1, "auto")))
    assert table["female"].all() and not table["splenectomy"].any()
    first = data.isel(patient=slice(0, len(table)))
    np.testing.assert_array_equal(table["weight_kg"], first["weight_kg"].values)
    line = "Entry: platelets from 8 to below 30 x 10^9/L, weight from 50 to below 75 kg, female, no splenectomy"
    assert line in describe(d).splitlines()


def test_rows_of_a_table_that_do_not_meet_the_conditions_are_left_out(tmp_path):
    (tmp_path / "table.csv").write_text(ROWS)
    base = [f"entry.patients='{tmp_path / 'table.csv'}'", "entry.platelets_below_1e9_per_l=40"]

    def weights(*more):
        d = load_scenario("phase3", [*base, *more])
        arms = planned_arms(d)
        assert arms[0].arm.limits is None
        return arms[0].arm.table.weight_kg.tolist()

    assert weights() == [50, 60, 70, 80]
    assert weights("entry.platelets_from_1e9_per_l=20") == [60, 70, 80]
    assert weights("entry.weight_from_kg=60", "entry.weight_below_kg=80") == [60, 70]
    assert weights("entry.female=true", "entry.splenectomy=false") == [50]
    assert weights("entry.corticosteroid=false") == [50, 60, 70, 80]  # no such column: drawn, and nobody has it
    arm = planned_arms(load_scenario("phase3", [*base, "entry.hepatic_impairment=false", "entry.splenectomy=false"]))[0]
    assert arm.fixed == ("hepatic_impairment_share",)


def test_steroids_are_set_by_their_share_and_told():
    asked = ["trial.visits_d=[7, 14]", "analysis.endpoint=response_week_2", "parameters.corticosteroid_share=0.3"]
    d = load_scenario("phase3", [*asked, "arms.1.n=2000"])
    table = next(iter(patients.parts(d, {}, 1, 1, "auto")))
    assert abs(table["corticosteroid"].mean() - 0.3) < 4 * np.sqrt(0.21 / 2000)
    assert "Covariates of patients: 30% corticosteroid" in describe(d).splitlines()
    by_steroids = [*asked, "analysis.strata={corticosteroid=true}"]
    assert load_scenario("phase3", by_steroids).analysis.strata.covariates == ("corticosteroid",)


BAD = {
    ("entry.platelets_from_1e9_per_l=30",): "platelets_from_1e9_per_l = 30: nobody is below 30 as well",
    ("entry.weight_from_kg=80", "entry.weight_below_kg=60"): "weight_from_kg = 80: nobody is below 60 as well",
    ("entry.weight_from_kg=0",): "entry.weight_from_kg = 0: legal: greater than 0",
    ("entry.weight_below_kg=2000",): "entry.weight_below_kg = 2000: legal: less than or equal to 1000",
    ("entry.weight_from_kg=116",): "weights are 39 to 115 kg; legal: limits that at least 0.01% meet",
    ("entry.weight_below_kg=39",): "entry: weight below 39 kg: nobody or hardly anybody is eligible",
    ("entry.platelets_from_1e9_per_l=29.9999",): "entry: platelets from 29.9999 to below 30 x 10^9/L: nobody or hardly",
    ("entry.splenectomy='no'",): "entry.splenectomy = 'no': legal: a valid boolean",
    ("entry.splenectomised=false",): "entry: unknown key 'splenectomised'; did you mean 'splenectomy'?",
    ("entry.corticosteroid=true",): "entry.corticosteroid = true: nobody is eligible, corticosteroid_share = 0; legal: "
    "parameters.corticosteroid_share above 0",
    ("entry.east_asian=false",): "entry.east_asian = false: nobody is eligible, east_asian_share = 1; legal",
    ("entry.splenectomy=false", "analysis.strata={splenectomy=true}"): "splenectomy: entry = 0, so all",
}  # fmt: skip


@pytest.mark.parametrize(("asked", "told"), BAD.items(), ids=["; ".join(x) for x in BAD])
def test_bad_conditions_are_one_clear_error(asked, told):
    with pytest.raises(InputError) as error:
        load_scenario("phase3", asked)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_table_of_which_nobody_is_eligible_is_one_clear_error(tmp_path):
    (tmp_path / "table.csv").write_text(ROWS)
    asked = [f"entry.patients='{tmp_path / 'table.csv'}'", "entry.weight_from_kg=55", "entry.splenectomy=true"]
    with pytest.raises(InputError) as error:
        load_scenario("phase3", [*asked, "entry.female=false"])
    counts = "platelets below 30 x 10^9/L (3), weight from 55 kg (3), no female (1), splenectomy (2)"
    assert counts in str(error.value) and "none of 4 patients is eligible" in str(error.value)
