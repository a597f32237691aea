"""Patients in whom the drug does nothing: who they are, what they become, and that without them nothing changes."""

from __future__ import annotations

import numpy as np
import pytest

from pkpd import cohort, random, trial
from pkpd.parameters import load_library, with_values
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario
from pkpd.tables import FOLDER, read_toml

N = 600


@pytest.fixture(scope="module")
def keys():
    patient = np.arange(N, dtype=np.int32)
    return random.patient_keys(random.root(3), 0 * patient, 0 * patient, patient)


def drawn(keys, share):
    population = with_values(load_library().population(), {"non_responder_share": share})
    return cohort.draw(population, keys, np.float32(30)).parameters


def test_the_number_that_decides_takes_nothing_from_the_others(keys):
    six, seven = (np.asarray(random.uniform(keys, 0, "covariates", (n,))) for n in (6, 7))
    np.testing.assert_array_equal(six, seven[:6])
    assert abs(np.corrcoef(seven)[6, :6]).max() < 4 / np.sqrt(N)


def test_no_share_no_non_responder(keys):
    assert (
        load_library().value("non_responder_share") == load_library(disease="healthy").value("non_responder_share") == 0
    )
    assert (np.asarray(drawn(keys, 0.0).dimer_efficacy) == np.float32(0.95)).all()


def test_a_share_of_patients_forms_no_dimers_and_differs_in_nothing_else(keys):
    none, few, many = (drawn(keys, share) for share in (0.0, 0.1, 0.3))
    out_few, out_many = (np.asarray(p.dimer_efficacy) == 0 for p in (few, many))
    assert abs(out_many.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / N)
    assert (out_many | ~out_few).all(), "who does not respond at 10% does not at 30%"
    for name, value in many._asdict().items():
        if name != "dimer_efficacy":
            np.testing.assert_array_equal(value, getattr(none, name), err_msg=name)
    assert np.asarray(drawn(keys, 1.0).dimer_efficacy).max() == 0


def test_a_non_responder_has_the_counts_of_placebo():
    low, *_ = planned_arms(load_scenario("phase3"))
    all_out = with_values(low.population, {"non_responder_share": 1.0})
    runs = [(all_out, low.arm), (low.population, low.arm._replace(dose_scale=np.float32(0)))]
    found = [next(trial.simulate(p, arm, (28, 56), 5, range(64), engine="xla")) for p, arm in runs]
    np.testing.assert_allclose(found[0].platelets_true, found[1].platelets_true, rtol=1e-5)
    assert (found[0].dose_mg > 0).any() and not (found[1].dose_mg > 0).any()


def test_the_prior_lies_between_the_published_shares_of_eltrombopag():
    prior = read_toml(FOLDER / "priors.toml")["non_responder_share"]
    mean = prior["alpha"] / (prior["alpha"] + prior["beta"])
    assert 0.11 < mean < 0.19 and not prior["free"]
    assert "non_responder_share" in load_library().names()
    assert "female_share" not in load_library().names()
