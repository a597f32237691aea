"""The parameter pytrees: names, shapes, immutability, replaced values, and what a bad value is told."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkpd import cohort, random, tables
from pkpd.errors import InputError
from pkpd.parameters import (
    CovariateRatios,
    Demography,
    Noise,
    Parameters,
    Variability,
    check_parameters,
    load_library,
    with_values,
)


@pytest.fixture(scope="module")
def library():
    return load_library()


def test_names_of_the_schema_are_those_of_the_pytrees():
    groups = tables.schema()
    assert tuple(groups["drug"]) + tuple(groups["physiology"]) == Parameters._fields
    assert tuple(groups["noise"]) == Noise._fields
    assert tuple(groups["demography"]) == Demography._fields
    assert tuple(groups["covariates"]) == CovariateRatios._fields
    assert groups["varying"] == Variability._fields
    assert set(Variability._fields) <= set(Parameters._fields) | set(Noise._fields)


@pytest.mark.parametrize("drug", ["eltrombopag", "hetrombopag"])
@pytest.mark.parametrize("disease", ["healthy", "itp"])
def test_population_is_a_pytree_of_scalars(drug, disease):
    population = load_library(drug, disease).population()
    leaves = jax.tree.leaves(population._replace(correlation_cholesky=jnp.zeros((), jnp.float32)))
    assert all(leaf.shape == () and leaf.dtype == jnp.float32 and bool(jnp.isfinite(leaf)) for leaf in leaves)
    assert population.correlation_cholesky.shape == (13, 13)


def test_float64_needs_the_switch(library):
    with jax.enable_x64(False), pytest.raises(InputError, match="jax_enable_x64"):
        library.population(jnp.float64)
    with jax.enable_x64(True):
        population = library.population(jnp.float64)
        assert {leaf.dtype for leaf in jax.tree.leaves(population)} == {jnp.dtype("float64")}
        assert float(population.typical.senescence_per_h) == library.value("senescence_per_h")


def test_library_is_immutable_and_survives_pickling(library):
    with pytest.raises(TypeError):
        library.entries["clearance_l_per_h"] = None
    with pytest.raises(TypeError):
        library.food_entries["meal_1h_after"]["fed_absorption_ratio"] = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        library.drug = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        library.entry("clearance_l_per_h").value = 1.0
    copy = pickle.loads(pickle.dumps(library))
    assert copy == library
    with pytest.raises(TypeError):
        copy.entries["clearance_l_per_h"] = None


def test_with_values_reaches_every_part(library):
    population = library.population()
    new = with_values(
        population,
        {
            "receptor_ec50_nM": np.array([1.0, 2.0]),
            "residual_log_sd": 0.5,
            "residual_log_sd_iiv_log_sd": jnp.array([0.1, 0.2]),
            "weight_median_kg": 70,
            "east_asian_clearance_ratio": 0.67,
        },
    )
    assert new.typical.receptor_ec50_nM.tolist() == [1, 2]
    assert float(new.noise.residual_log_sd) == 0.5
    assert np.allclose(new.iiv_log_sd.residual_log_sd, [0.1, 0.2])
    assert float(new.demography.weight_median_kg) == 70
    assert float(new.covariates.east_asian_clearance_ratio) == pytest.approx(0.67)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}
    changed = sum(a is not b for a, b in zip(jax.tree.leaves(population), jax.tree.leaves(new), strict=True))
    assert changed == 5
    assert float(population.typical.receptor_ec50_nM) == 27


def test_with_values_of_every_name_changes_one_leaf(library):
    population = library.population()
    for name in library.names():
        new = with_values(population, {name: 0.123})
        pairs = zip(jax.tree.leaves(population), jax.tree.leaves(new), strict=True)
        assert [float(b) for a, b in pairs if a is not b] == [pytest.approx(0.123)], name


def test_with_values_is_traced(library):
    population = library.population()

    @jax.jit
    def clearance(log_value):
        return with_values(population, {"clearance_l_per_h": jnp.exp(log_value)}).typical.clearance_l_per_h

    assert float(jax.grad(clearance)(1.0)) == pytest.approx(math.e)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clearence_l_per_h": 1}, "did you mean 'clearance_l_per_h'?"),
        ({"kappa_stat3_iiv_log_sd": 1}, "unknown population parameter 'kappa_stat3_iiv_log_sd'"),
        ({"clearance_l_per_h": np.ones((2, 2))}, "clearance_l_per_h: array of shape (2, 2); legal: a scalar"),
    ],
)
def test_with_values_refuses(library, values, message):
    with pytest.raises(InputError, match=re.escape(message)):
        with_values(library.population(), values)


def test_overrides_reach_every_group():
    library = load_library(
        overrides={"clearance_l_per_h_iiv_log_sd": 0.1, "weight_median_kg": 70, "female_clearance_ratio": 0.9}
    )
    assert library.entry("clearance_l_per_h").iiv_log_sd == 0.1
    assert float(library.population().iiv_log_sd.clearance_l_per_h) == pytest.approx(0.1)
    assert library.value("weight_median_kg") == 70
    assert library.entry("female_clearance_ratio").status == "assumed"


def test_shares_are_checked_after_all_overrides(library):
    both = {"share_proliferation": 0.6, "share_survival": 0.1}
    assert float(library.parameters(**both).share_proliferation) == pytest.approx(0.6)
    assert load_library(overrides=both).value("share_survival") == 0.1


BAD_VALUES = [
    ({"clearence_l_per_h": 1.0}, "unknown parameter 'clearence_l_per_h'; did you mean 'clearance_l_per_h'?"),
    ({"central_volume_l": -30.0}, "central_volume_l = -30: out of range; legal: a number > 0 and <= 100000 (unit L)"),
    ({"central_volume_l": 0}, "central_volume_l = 0: out of range"),
    ({"clearance_l_per_h": -1}, "clearance_l_per_h = -1: out of range"),
    ({"clearance_l_per_h": "7.66"}, "clearance_l_per_h = '7.66': not a number"),
    ({"clearance_l_per_h": True}, "clearance_l_per_h = True: not a number"),
    ({"clearance_l_per_h": [7.66]}, "clearance_l_per_h = [7.66]: not a number"),
    ({"clearance_l_per_h": None}, "clearance_l_per_h = None: not a number"),
    ({"clearance_l_per_h": 10**400}, "not a number"),
    ({"receptor_ec50_nM": math.nan}, "receptor_ec50_nM = nan: out of range"),
    ({"receptor_ec50_nM": math.inf}, "receptor_ec50_nM = inf: out of range"),
    ({"immune_log_activity": -math.inf}, "immune_log_activity = -inf: out of range"),
    ({"socs_strength": 1.0}, "socs_strength = 1: out of range; legal: a number >= 0 and < 1"),
    ({"bioavailability": 1.5}, "bioavailability = 1.5: out of range"),
    ({"dimer_efficacy": 1.01}, "dimer_efficacy = 1.01: out of range"),
    (
        {"share_survival": 0.3},
        "share_proliferation (0.5) + share_survival (0.3) + share_maturation (0.3) = 1.1: must add to 1",
    ),
    ({"tpo_sink_constant": 0.1}, "tpo_sink_megakaryocytes (0.3) = 0.9: must add to 1"),
    ({"lag_time_h": 22.0}, "lag_time_h (22) + absorption_switch_h (3) = 25 h: must be at most 24 h"),
    ({"absorption_switch_h": 23.9}, "= 24.4 h: must be at most 24 h"),
]


@pytest.mark.parametrize(("values", "message"), BAD_VALUES)
def test_bad_values(library, values, message):
    """The same message whether the value comes as an override, a keyword or from a case file."""
    with pytest.raises(InputError) as error:
        load_library(overrides=values)
    assert str(error.value).startswith("overrides: ") and message in str(error.value)
    with pytest.raises(InputError) as error:
        library.parameters(**values)
    assert message in str(error.value)
    defaults = {name: library.value(name) for name in Parameters._fields}
    with pytest.raises(InputError) as error:
        check_parameters(defaults | values, "case.toml: parameters")
    assert str(error.value).startswith("case.toml: parameters: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_only_typical_values_are_parameters_of_a_case(library):
    with pytest.raises(InputError, match="unknown parameter 'residual_log_sd'"):
        library.parameters(residual_log_sd=0.2)
    with pytest.raises(InputError, match=r"overrides: weight_min_kg \(100\), .*increasing order"):
        load_library(overrides={"weight_min_kg": 100})


def test_the_edges_of_ranges_are_legal(library):
    edges = {"target_baseline_nM": 0, "quasi_steady_state_constant_nM": 1e12, "max_stimulation": 0}
    assert float(library.parameters(**edges).target_baseline_nM) == 0
    assert float(library.parameters(lag_time_h=12, absorption_switch_h=12).lag_time_h) == 12
    assert float(library.parameters(lag_time_h=np.float32(0.25)).lag_time_h) == 0.25


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(Parameters._fields), value=st.floats() | st.integers() | st.text() | st.booleans())
def test_any_value_is_taken_or_refused_in_words(name, value):
    """Whatever is put in place of a number: a float inside its range, or one line that names the key."""
    field = tables.field_of(name)
    try:
        number = tables.check_value(value, field, f"case.toml: {name}")
    except InputError as error:
        assert str(error).startswith(f"case.toml: {name} = ") and len(str(error).splitlines()) == 1
    else:
        assert field.lower <= number <= field.upper and not isinstance(value, (bool, str))


def test_correlations_by_name_correlate_the_patients():
    """One matrix for all patients, and one for each; the random effects of a million draws have them."""
    population = load_library().population()
    name = "correlation[clearance_l_per_h,receptor_ec50_nM]"
    keys = random.patient_keys(random.root(1), *(np.zeros(20_000, np.int32),) * 2, np.arange(20_000, dtype=np.int32))
    below = np.float32(30)

    def found(value):
        p = cohort.draw(with_values(population, {name: value}), keys, below).parameters
        size = np.log(np.asarray(p.clearance_l_per_h)) - 0.75 * np.log(np.asarray(weights))
        return np.corrcoef(size, np.log(np.asarray(p.receptor_ec50_nM)))[0, 1]

    weights = cohort.draw(population, keys, below).weight_kg
    assert abs(found(0.7) - 0.7) < 0.02 and abs(found(0.0)) < 0.02
    assert abs(found(np.full(20_000, -0.5)) + 0.5) < 0.02
    with pytest.raises(InputError, match="legal: correlation"):
        with_values(population, {"correlation[clearance_l_per_h,lag_time_h]": 0.5})
