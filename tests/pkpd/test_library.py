"""What the shipped library holds: every value against the publications and agreed defaults, and every prior."""

from __future__ import annotations

import math
import re

import pytest
from scipy import stats

from pkpd.datatables import published
from pkpd.errors import InputError
from pkpd.parameters import SD_NAMES, CovariateRatios, Noise, Parameters, load_centre, load_library, with_priors

DRUGS = ("eltrombopag", "hetrombopag")
# Written down from the publications and the agreed defaults, independently of the TOML files.
DEFAULTS = {
    "bioavailability": 1,
    "lag_time_h": 0.5,
    "absorption_rate_first_per_h": 0.05,
    "absorption_rate_second_per_h": 0.3,
    "absorption_switch_h": 3,
    "clearance_l_per_h": 7.66,
    "central_volume_l": 30,
    "intercompartmental_clearance_l_per_h": 5,
    "peripheral_volume_l": 150,
    "target_baseline_nM": 20,
    "target_degradation_per_h": 0.693,
    "quasi_steady_state_constant_nM": 5,
    "complex_internalisation_per_h": 0.2,
    "receptor_ec50_nM": 27,
    "dimer_efficacy": 0.95,
    "dimer_hill": 1,
    "kappa_stat3": 0.6,
    "kappa_stat5": 0.3,
    "kappa_akt": 0.4,
    "kappa_erk": 0.5,
    "rate_stat3_per_h": 2,
    "rate_stat5_per_h": 2,
    "rate_akt_per_h": 3,
    "rate_erk_per_h": 4,
    "socs_strength": 0.3,
    "socs_rate_per_h": 0.2,
    "max_stimulation": 9.4,
    "share_proliferation": 0.5,
    "share_survival": 0.2,
    "share_maturation": 0.3,
    "stat5_weight": 0.7,
    "production_1e9_per_l_per_h": 0.77,
    "mean_transit_time_h": 132,
    "healthy_mean_transit_time_h": 132,
    "senescence_per_h": 1 / 216,
    "immune_half_saturation_1e9_per_l": 21,
    "immune_log_activity": 0,
    "baseline_platelets_1e9_per_l": 15,
    "tpo_turnover_per_h": 0.0231,
    "tpo_sink_constant": 0.2,
    "tpo_sink_platelets": 0.5,
    "tpo_sink_megakaryocytes": 0.3,
    "healthy_platelets_1e9_per_l": 250,
    "tpo_half_activation": 4,
    "molar_mass_g_per_mol": 458.47,
    "residual_log_sd": 0.21,
    "immune_drift_log_sd": 0.55,
    "immune_drift_time_d": 30,
    "rescue_max_probability_per_week": 0.085,
    "rescue_count_1e9_per_l": 12,
}
SDS = dict(zip(SD_NAMES, (0.58, 0.68, 0.75, 0.6, 0.24, 0.15, 0.5, 0.3, 0.2, 0.2, 0.3, 0.5, 0.2), strict=True))
FREE_LOG_SDS = {
    "clearance_l_per_h": 0.10,
    "central_volume_l": 0.12,
    "target_degradation_per_h": 0.15,
    "mean_transit_time_h": 0.10,
    "receptor_ec50_nM": 0.7,
    "max_stimulation": 0.4,
    "production_1e9_per_l_per_h": 0.4,
    "residual_log_sd": 0.4,
    "immune_drift_log_sd": 0.4,
    "immune_half_saturation_1e9_per_l": 0.6,
    "immune_drift_time_d": 0.6,
    "rescue_max_probability_per_week": 0.6,
    "rescue_count_1e9_per_l": 0.3,
}


@pytest.fixture(scope="module")
def library():
    return load_library()


def test_defaults(library):
    assert {n: library.value(n) for n in (*Parameters._fields, *Noise._fields)} == pytest.approx(DEFAULTS, rel=1e-15)
    assert {n: library.value(n) for n in SD_NAMES} == SDS


def test_interindividual_sds_of_published_cvs(library):
    table = published("pharmacokinetics").query("spread_type == 'cv_percent'").set_index("quantity")
    for name, quantity in (
        ("clearance_l_per_h", "clearance"),
        ("central_volume_l", "central_volume"),
        ("target_degradation_per_h", "target_degradation_rate"),
    ):
        assert library.entry(name).status == "published"
        assert library.value(name) == table.loc[quantity, "value"]
        log_sd = math.sqrt(math.log1p((table.loc[quantity, "spread"] / 100) ** 2))
        assert library.value(name + "_iiv_log_sd") == pytest.approx(log_sd, abs=0.005)


def test_published_entries_name_their_paper():
    """Only numbers printed in a paper may be called published; this lists all of them."""
    found = {}
    for drug in DRUGS:
        library = load_library(drug)
        groups = (library.entries, library.sd_entries, library.covariate_entries, library.demography_entries)
        entries = [entry for group in groups for entry in group.values()]
        found[drug] = {entry.name for entry in entries if entry.status == "published"}
        assert all(re.search(r"(19|20)\d\d", e.source) for e in entries if e.status in ("published", "secondary"))
    demography = {"weight_min_kg", "weight_max_kg", "baseline_min_1e9_per_l", "age_min_y", "age_max_y"}
    assert found["hetrombopag"] == demography | {
        "clearance_l_per_h",
        "central_volume_l",
        "target_degradation_per_h",
    }
    assert found["eltrombopag"] == demography | {
        "clearance_l_per_h",
        "central_volume_l",
        "intercompartmental_clearance_l_per_h",
        "peripheral_volume_l",
        "female_clearance_ratio",
        "corticosteroid_clearance_ratio",
        "east_asian_clearance_ratio",
        "healthy_clearance_ratio",
    }


def test_tuned_values_say_so(library):
    tuned = ("receptor_ec50_nM", "max_stimulation", "production_1e9_per_l_per_h", *Noise._fields)
    for name in (*tuned, "immune_half_saturation_1e9_per_l"):
        assert library.entry(name).status == "assumed"
        assert "tuned to phase III" in library.entry(name).source


def test_eltrombopag_matches_its_published_model():
    library = load_library("eltrombopag")
    table = published("drug_models").query("study in ('Gibiansky 2011', 'Farrell 2014')")
    value = {q: v for q, v in zip(table["quantity"], table["value"], strict=True) if q != "clearance_effect"}
    names = {
        "clearance": "clearance_l_per_h",
        "central_volume": "central_volume_l",
        "peripheral_volume": "peripheral_volume_l",
        "intercompartmental_clearance": "intercompartmental_clearance_l_per_h",
        "absorption_rate_first": "absorption_rate_first_per_h",
        "absorption_rate_second": "absorption_rate_second_per_h",
        "lag_time": "lag_time_h",
        "absorption_switch": "absorption_switch_h",
    }
    assert {q: library.value(n) for q, n in names.items()} == {q: value[q] for q in names}
    effects = table.query("quantity == 'clearance_effect'").set_index("arm")["value"]
    for arm, name in (
        ("East Asian", "east_asian"),
        ("steroids", "corticosteroid"),
        ("female", "female"),
        ("healthy",) * 2,
    ):
        ratio = 1 + effects[f"eltrombopag, {arm}"] / 100
        assert library.value(f"{name}_clearance_ratio") == pytest.approx(ratio)
    assert library.value("target_baseline_nM") == 0
    for name in ("dimer_efficacy", "dimer_hill"):
        assert library.value(name) == load_library().value(name)


def test_hetrombopag_has_no_covariate_effect(library):
    assert all(library.value(name) == 1 for name in CovariateRatios._fields)


def test_baseline_law_gives_the_printed_table(library):
    """Truncated to [1, 30) the law has the trial's median 13 and its share below 10."""
    mean, sd = library.value("baseline_log_mean"), library.value("baseline_log_sd")
    low, high = math.log(library.value("baseline_min_1e9_per_l")), math.log(30)
    law = stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)
    table = published("phase3_arms").query("arm != 'all'")
    below = table.query("quantity == 'baseline_platelets_below_10'")
    assert math.exp(law.median()) == pytest.approx(13, abs=0.5)
    assert law.cdf(math.log(10)) == pytest.approx(below["value"].sum() / below["n"].sum(), abs=0.01)


def test_shares_of_covariates_are_those_of_the_trial(library):
    table = published("phase3_arms")
    for name in ("female", "splenectomy"):
        rows = table.query("quantity == @name")
        assert library.value(f"{name}_share") == pytest.approx(rows["value"].sum() / rows["n"].sum(), rel=1e-12)


def test_healthy_volunteers_have_no_immune_clearance():
    """Production stays below senescence, also 4 sd up at the lowest healthy count."""
    library = load_library(disease="healthy")
    production = library.entry("production_1e9_per_l_per_h")
    lowest_loss = library.value("senescence_per_h") * library.value("baseline_min_1e9_per_l")
    assert library.value("baseline_platelets_1e9_per_l") == 230
    assert production.value * math.exp(4 * production.iiv_log_sd) < lowest_loss


def test_alternative_centre(library):
    centre = load_centre()
    assert centre == {
        "receptor_ec50_nM": 18,
        "max_stimulation": 7.8,
        "production_1e9_per_l_per_h": 0.48,
        "immune_half_saturation_1e9_per_l": 44,
        "residual_log_sd": 0.42,
        "immune_drift_time_d": 12,
    }
    other = load_library(overrides=centre)
    assert {n for n in library.names() if other.value(n) != library.value(n)} == set(centre)
    assert other.entry("receptor_ec50_nM").prior == library.entry("receptor_ec50_nM").prior
    assert other.entry("receptor_ec50_nM").status == "assumed"


@pytest.mark.parametrize("meal", ["high_fat_breakfast", "meal_1h_after", "meal_2h_after"])
def test_food_lowers_what_is_absorbed(library, meal):
    food = library.food(meal)
    assert 0 < food.fed_bioavailability_ratio < 1 <= food.fed_absorption_ratio
    assert all(entry.status != "published" for entry in library.food_entries[meal].values())


def test_fasted_is_neutral_and_unknown_meals_are_refused(library):
    assert library.food("fasted") == (1, 1)
    with pytest.raises(InputError, match=r"unknown meal 'meal_1h_afetr'; did you mean 'meal_1h_after'"):
        library.food("meal_1h_afetr")


def test_free_parameters_and_their_priors(library):
    assert set(library.free_names()) == set(FREE_LOG_SDS) | set(SD_NAMES)
    assert {n: library.entry(n).prior.log_sd for n in FREE_LOG_SDS} == FREE_LOG_SDS
    tight = {"clearance_l_per_h", "central_volume_l", "target_degradation_per_h"}
    for name in SD_NAMES:
        log_sd = 0.1 if name.removesuffix("_iiv_log_sd") in tight else 0.3
        assert library.entry(name).prior.log_sd == log_sd


def test_fixed_priors(library):
    w5 = library.entry("stat5_weight").prior
    assert (w5.distribution, w5.alpha, w5.beta, w5.free) == ("beta", 14, 6, False)
    assert stats.beta(w5.alpha, w5.beta).mean() == pytest.approx(library.value("stat5_weight"))
    shares = {library.entry(f"share_{n}").prior for n in ("proliferation", "survival", "maturation")}
    assert [(p.distribution, p.concentration, p.free) for p in shares] == [("dirichlet", 40, False)]
    shift = library.priors["between_study_shift"]
    assert (shift.distribution, shift.scale) == ("halfnormal", 0.2)
    assert shift.members == ("receptor_ec50_nM", "production_1e9_per_l_per_h")
    rates = [n for n in Parameters._fields if n.startswith(("kappa_", "rate_", "socs_"))]
    assert {library.entry(n).prior.log_sd for n in rates} == {0.3}
    fixed = ("bioavailability", "lag_time_h", "absorption_switch_h", "absorption_rate_first_per_h", "dimer_efficacy")
    assert all(library.entry(n).prior is None for n in (*fixed, "tpo_sink_constant", "senescence_per_h"))


def test_priors_can_be_replaced(library):
    table = {"distribution": "lognormal", "log_sd": 0.8, "free": False, "status": "assumed", "source": "a test"}
    changed = with_priors(library, {"receptor_ec50_nM": table, "dimer_hill": table | {"free": True}}, "fit.toml")
    assert changed.entry("receptor_ec50_nM").prior.log_sd == 0.8
    assert set(changed.free_names()) ^ set(library.free_names()) == {"receptor_ec50_nM", "dimer_hill"}
    assert library.entry("receptor_ec50_nM").prior.log_sd == 0.7


LOGNORMAL = {"distribution": "lognormal", "log_sd": 0.3, "free": True, "status": "assumed", "source": "a test"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("receptor_ec5_nM", {}, "unknown parameter 'receptor_ec5_nM'; did you mean 'receptor_ec50_nM'?"),
        ("receptor_ec50_nM", {"log_sd": 0}, "receptor_ec50_nM: log_sd = 0: out of range"),
        ("receptor_ec50_nM", {"log_sd": math.inf}, "log_sd = inf: out of range"),
        ("receptor_ec50_nM", {"log_sd": "wide"}, "log_sd = 'wide': not a number"),
        ("receptor_ec50_nM", {"distribution": "lognormall"}, "did you mean 'lognormal'?"),
        ("receptor_ec50_nM", {"distribution": 3}, "distribution = 3: not legal; legal: lognormal, beta"),
        ("receptor_ec50_nM", {"free": "yes"}, "free = 'yes': not legal; legal: true or false"),
        ("receptor_ec50_nM", {"alpha": 2.0}, "unknown key 'alpha'"),
        ("receptor_ec50_nM", {"sd": 2.0}, "unknown key 'sd'"),
        ("receptor_ec50_nM", {"log_sd": None}, "missing key 'log_sd'"),
        ("receptor_ec50_nM", {"status": "guess"}, "status = 'guess': not legal; legal: published"),
        ("receptor_ec50_nM", {"source": " "}, "needs the words of its source"),
        ("immune_log_activity", {}, "immune_log_activity = 0: a lognormal prior needs a value > 0"),
        (
            "shares",
            {"distribution": "dirichlet", "log_sd": None, "concentration": 40, "members": ["share_survivall"]},
            "members: unknown name 'share_survivall'; did you mean 'share_survival'?",
        ),
        (
            "shares",
            {"distribution": "dirichlet", "log_sd": None, "concentration": 40, "members": []},
            "members = []: not legal; legal: a list of parameter names",
        ),
    ],
)
def test_bad_priors(library, name, change, message):
    table = {k: v for k, v in (LOGNORMAL | change).items() if v is not None}
    with pytest.raises(InputError, match=r"^fit\.toml: ") as error:
        with_priors(library, {name: table}, "fit.toml")
    assert message in str(error.value)
