"""Arms with two drugs in what a run hands over: draws of a posterior, tables, summaries, the data set, the report."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from inference import plots_trial, trials
from inference.report import protocol, virtual
from inference.whatif import further
from inference.whatif.dataset import COLUMNS, DRUGS, dataset
from pkpd import notebook
from pkpd.parameters import load_library
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario

HETROMBOPAG, ELTROMBOPAG = [2.5, 3.75, 5.0, 7.5], [25.0, 50.0, 75.0]
SMALL = ["arms.1.n=250", "arms.2.n=40", "trial.n_trials=2", "trial.posterior_draws=1"]


@pytest.fixture(scope="module")
def design():
    return load_scenario("switch_at_failure", SMALL)


def test_draws_of_the_disease_reach_both_drugs_and_those_of_a_drug_its_own(design):
    switching, alone = planned_arms(design)
    draws = {
        "receptor_ec50_nM": np.array([20.0, 40.0]),
        "production_1e9_per_l_per_h": np.array([0.5, 0.9]),
        "receptor_ec50_nM_iiv_log_sd": np.array([0.3, 0.4]),
    }
    rows = np.array([1, 0, 1])
    found = trials.with_draws(switching, draws, rows)
    np.testing.assert_allclose(found.typical.receptor_ec50_nM, [40, 20, 40])
    for population in (found, found.second):
        np.testing.assert_allclose(population.typical.production_1e9_per_l_per_h, [0.9, 0.5, 0.9])
    eltrombopag = load_library("eltrombopag")
    assert found.second.typical.receptor_ec50_nM == eltrombopag.value("receptor_ec50_nM")
    assert found.second.typical.molar_mass_g_per_mol == eltrombopag.value("molar_mass_g_per_mol")
    named = draws | {"eltrombopag.receptor_ec50_nM": np.array([9000.0, 11000.0])}
    second = trials.with_draws(switching, named, rows).second
    np.testing.assert_allclose(second.typical.receptor_ec50_nM, [11000, 9000, 11000])
    moved = trials.with_draws(switching._replace(ec50_ratio=np.array([2.0, 3.0])), named, rows)
    np.testing.assert_allclose(moved.typical.receptor_ec50_nM, [120, 40, 120])
    np.testing.assert_allclose(moved.second.typical.receptor_ec50_nM, [33000, 18000, 33000])
    assert trials.with_draws(alone, named, rows).second is None


def test_tables_say_of_which_drug_a_dose_is(design):
    rows = pd.concat(list(trials.simulate_cohort(design, seed=2)), ignore_index=True)
    given = rows[rows["dose_mg"] > 0].groupby(["arm", "drug"], observed=True)["dose_mg"].unique()
    assert {key: sorted(mg) for key, mg in given.items()} == {
        ("hetrombopag, then eltrombopag", "hetrombopag"): HETROMBOPAG,
        ("hetrombopag, then eltrombopag", "eltrombopag"): ELTROMBOPAG,
        ("hetrombopag alone", "hetrombopag"): HETROMBOPAG,
    }
    assert "drug" not in pd.concat(list(trials.simulate_cohort(load_scenario("phase3", ["arms.1.n=3"])))).columns
    data = notebook.simulate_scenario(design, seed=2)
    assert set(np.unique(data["drug"])) == {"hetrombopag", "eltrombopag"}
    assert set(np.unique(data["dose_mg"].where(data["drug"] == "eltrombopag", 0))) == {0, *ELTROMBOPAG}


def test_summaries_have_a_ladder_for_each_drug(design):
    found = notebook.summarise_scenario(design, seed=2)
    both = found["dose_share"].sum("dose_mg") + found["second_dose_share"].sum("second_dose_mg")
    np.testing.assert_allclose(both[:, 1:], 1)
    assert found["dose_mg"].values.tolist() == [0, *HETROMBOPAG]
    assert found["second_dose_mg"].values.tolist() == ELTROMBOPAG
    assert found["second_dose_share"].sel(arm="hetrombopag alone")[1:].sum() == 0
    data = notebook.simulate_scenario(design, seed=2)
    own = data.isel(patient=data["arm"].values == "hetrombopag, then eltrombopag")
    at_end = ((own["drug"] == "eltrombopag") & (own["dose_mg"] == 75)).isel(visit=-1).mean()
    share = found["second_dose_share"].sel(arm="hetrombopag, then eltrombopag", second_dose_mg=75.0)[-1]
    assert float(share) == pytest.approx(float(at_end)) and share > 0
    table = notebook.summary_table(found)
    assert (table["quantity"] == "second_dose_share").any()


def test_the_data_set_numbers_the_drugs(design):
    rows = dataset(design, {}, 0, 2, "auto")
    assert tuple(rows.columns) == (*COLUMNS, "DRUG")
    doses = rows[rows["EVID"] == 1]
    for drug, levels in (("hetrombopag", HETROMBOPAG), ("eltrombopag", ELTROMBOPAG)):
        assert sorted(doses["AMT"][doses["DRUG"] == DRUGS[drug]].unique()) == levels
    a = planned_arms(design)[0]
    (v,) = (v for _, _, v in trials.courses(design, a, {}, 1, 2, "auto", 0))
    length = np.diff(a.arm.protocol.ends, prepend=0)[:, None]
    taken = (doses["AMT"] * (doses["ADDL"] + 1))[(doses["DRUG"] == 2) & (doses["ARM"] == 1)].sum()
    assert taken == pytest.approx(float((v.segment_mg * length * v.segment_second).sum()))
    seen = rows[(rows["EVID"] == 0) & (rows["ARM"] == 1) & (rows["VISIT"] == len(design.trial.visits_d))]
    assert (seen["DRUG"] == 2).sum() == (v.second[-1] & ~v.dropped[-1]).sum()
    assert "DRUG" not in dataset(load_scenario("phase3", ["trial.n_trials=1"]), {}, 0, 1, "auto").columns


def test_doses_and_exposures_at_the_end_are_of_each_drug_apart(design):
    a = planned_arms(design)[0]
    (v,) = (v for _, _, v in trials.courses(design, a, {}, 1, 2, "auto", 0))
    value, present = further.values(design, a, v)
    at = dict(zip(further.names(design), range(len(value)), strict=True))
    first, second = at["dose_at_end_mg"], at["second_dose_at_end_mg"]
    assert set(np.unique(value[first][present[first]])) <= {0, *HETROMBOPAG}
    assert set(np.unique(value[second][present[second]])) <= {0, *ELTROMBOPAG}
    assert not (present[first] & present[second]).any()
    share = value[at["second_drug_at_end"]][present[at["second_drug_at_end"]]].mean()
    assert 0.1 < share < 0.5
    assert not any(name.startswith("second_") for name in further.names(load_scenario("phase3")))


def test_the_report_names_the_drugs_and_their_rules(design):
    rules = {p.name: p for p in protocol.protocols(design)}
    assert rules["eltrombopag"].arms == ("hetrombopag, then eltrombopag",)
    first = rules["hetrombopag, switch"].rows[0]
    assert (first.does, first.counts) == ("switch to the second drug", "below 50")
    assert "switch to eltrombopag from 50 mg" in protocol.stages_of(design)[0].labels["hetrombopag, then eltrombopag"]
    arms = virtual.cohort(design, {}, 2, "auto")
    colours = plots_trial.palette(arms)
    assert {drug: sorted(own) for drug, own in colours.items()} == {
        "hetrombopag": HETROMBOPAG, "eltrombopag": ELTROMBOPAG,
    }  # fmt: skip
    fig = plots_trial.doses(arms, np.array(design.trial.visits_d))
    shown = [text.get_text() for text in fig.legends[0].get_texts()]
    assert "hetrombopag 7.5 mg" in shown and "eltrombopag 75 mg" in shown
    given = virtual.states(arms[0].courses, np.array(HETROMBOPAG), np.array(ELTROMBOPAG))
    np.testing.assert_allclose(given.sum(axis=0), 1)
    assert sorted(virtual.exposure(arms[0], second=True)) == ELTROMBOPAG
