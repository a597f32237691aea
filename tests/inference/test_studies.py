"""Further studies: what their parameters mean, what their outputs are, and a small fit of two drugs."""

import numpy as np
import pandas as pd
import pytest
from test_population import SMALL

from inference import population, studies
from inference.commands.check import run as check
from inference.config import load, plan
from inference.drawn import NEW, draws_of
from inference.moments import further_moments
from inference.progress import silent
from inference.store import load as load_run
from pkpd import trial
from pkpd.errors import InputError
from pkpd.parameters import with_values
from pkpd.statistics import STATISTICS

CLASS = ['studies=[{scenario="eltrombopag_773a"},{scenario="eltrombopag_773b"}]']
SHIFTED = [*CLASS, 'free=["between_study_shift"]']


@pytest.fixture(scope="module")
def p():
    return population.plan(load(None, SHIFTED))


def test_a_second_drug_has_its_own_pharmacology_and_shares_the_disease(p):
    names = p.prior.names
    assert {"receptor_ec50_nM", "eltrombopag.receptor_ec50_nM", "eltrombopag.clearance_l_per_h"} <= set(names)
    assert "eltrombopag.target_degradation_per_h" not in names  # no target: it has no effect
    assert "eltrombopag.max_stimulation" not in names  # of the patient, not of the drug
    assert sum(name.endswith("]") for name in names) == 6  # two members, three studies


def test_values_of_an_arm(p):
    values = {name: np.full(2, 0.5) for name in p.prior.names}
    values |= {"receptor_ec50_nM": np.array([10.0, 20.0]), "eltrombopag.receptor_ec50_nM": np.array([1e4, 2e4])}
    a = p.studies[0].arms["50 mg"]
    own = p.values(a, values, "TRA100773A")
    shift = np.exp(0.25)  # an sd of 0.5 between studies, half of it here
    np.testing.assert_allclose(own["receptor_ec50_nM"], [1e4 * shift, 2e4 * shift])
    np.testing.assert_allclose(own["production_1e9_per_l_per_h"], 0.5 * shift)
    assert "target_degradation_per_h" not in own and own["max_stimulation"][0] == 0.5
    assert "rescue_max_probability_per_week" not in own  # the scenario has no rescue
    hetrombopag = p.values(p.arms[0], values)
    np.testing.assert_allclose(hetrombopag["receptor_ec50_nM"], [10 * shift, 20 * shift])
    with_values(a.population, own), with_values(p.arms[0].population, hetrombopag)  # every name is one


def test_what_a_scenario_sets_of_a_further_drug_no_fit_replaces(p):
    a = p.studies[0].arms["50 mg"]
    fixed = a._replace(fixed=(*a.fixed, "receptor_ec50_nM"))
    values = {"eltrombopag.receptor_ec50_nM": np.ones(1), "eltrombopag.clearance_l_per_h": np.ones(1)}
    assert set(studies.values_of("another", fixed, "hetrombopag", values)) == {"clearance_l_per_h"}


def test_a_shift_is_the_studys_own(p):
    values = {name: np.zeros(1) for name in p.prior.names} | {"receptor_ec50_nM": np.ones(1)}
    values |= {"between_study_shift": np.ones(1), "receptor_ec50_nM_shift[TRA100773A]": np.full(1, 2.0)}
    assert p.values(p.arms[0], values)["receptor_ec50_nM"] == 1.0
    assert studies.values_of("another", p.arms[0], "hetrombopag", values)["receptor_ec50_nM"] == 1.0
    assert p.values(p.arms[0], values, "TRA100773A")["receptor_ec50_nM"] == np.exp(2.0)
    fixed = p.arms[0]._replace(fixed=("receptor_ec50_nM",))
    assert "receptor_ec50_nM" not in p.values(fixed, values, "TRA100773A")  # what the scenario sets is no study's


def test_outputs_are_what_the_patients_show(p):
    """Moments of a study against the statistics of the same simulated patients, one by one."""
    values = {name: np.asarray(v, np.float64)[None] for name, v in
              ((n, p.prior.constrained(p.prior.location())[n]) for n in p.prior.names)}  # fmt: skip
    found = further_moments(p, values, 256, 3, 0, silent, "test")
    s = p.studies[0]
    seen = {}
    for name, a in s.arms.items():
        own = with_values(a.population, {k: v[0] for k, v in p.values(a, values, s.name).items()})
        (v,) = trial.simulate(own, a.arm, s.days, 1, range(256), 0, 3, s.form)
        seen[name] = v
    for column, o in enumerate(s.outputs):
        t = s.targets[o.target]
        x = STATISTICS[t.statistic].each(seen[t.arms[0]], t.last)
        expected = np.mean(x <= o.cut) if o.cut is not None else np.mean(x)
        assert abs(found.successes[0, column] - expected) < 1e-12 and found.trials[0, column] == 1
    first, last = 0, len(s.outputs)
    assert found.successes.shape == (1, last + 2)
    assert np.all(found.second[0, first:last, last:] == 0)  # nothing between studies
    np.testing.assert_allclose(np.diagonal(found.second[0])[:4], found.successes[0, :4])  # y y = y of an event


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['studies=[{scenario="phase3_alternative_titration"}]'], "names no published number"),
        ([*CLASS, 'studies=[{scenario="eltrombopag_773a"},{scenario="eltrombopag_773a"}]'], "is named twice"),
        (['studies=[{scenaro="eltrombopag_773a"}]'], "unknown key 'scenaro'; did you mean 'scenario'"),
        (['free=["between_study_shift"]'], "needs at least two studies"),
        ([*CLASS, "priors={'eltrombopag.max_stimulation'={log_sd=1.0}}"], "is no parameter of eltrombopag's"),
        (["priors={'eltrombopag.receptor_ec50_nM'={log_sd=1.0}}"], "unknown parameter 'eltrombopag.receptor_ec50_nM'"),
    ],
)
def test_what_does_not_fit_together_is_told(settings, message):
    with pytest.raises(InputError, match=message):
        plan(load(None, settings))


ALONE = [*CLASS, 'data.leave_out=["placebo","start 2.5 mg","start 5 mg"]']


def test_further_studies_may_be_all_that_is_fitted():
    found = plan(load(None, ALONE))
    assert found.fitted.arms == () and found.data.arms and len(found.studies) == 2
    with pytest.raises(InputError, match="no arm is left"):
        plan(load(None, ALONE[1:]))


@pytest.mark.slow
def test_a_small_fit_without_the_first_trial(tmp_path):
    free = ("receptor_ec50_nM", "eltrombopag.receptor_ec50_nM")
    fixed = [n for n in population.plan(load(None, ALONE)).prior.names if n not in free]
    config = load(None, [*ALONE, *SMALL, "fix=[" + ", ".join(f'"{n}"' for n in fixed) + "]"])
    found = population.fit(config, tmp_path, silent)
    (tmp_path / "manifest.json").write_text("{}")
    result = load_run(tmp_path)
    assert found["verdict"] == "preliminary" and not any(result.fitted)
    table = pd.read_csv(tmp_path / "studies.csv")
    assert table["inside"].sum() >= 6  # two parameters only are free
    sd = {name: np.log(result.posterior[name]).std() for name in free}
    assert sd["eltrombopag.receptor_ec50_nM"] < 0.35  # half its prior's 0.7: eight counts speak of it
    assert sd["receptor_ec50_nM"] > 0.6  # no hetrombopag trial is fitted: the prior's 0.7


def test_check_says_how_every_number_is_read(tmp_path, capsys):
    file = tmp_path / "class.toml"
    file.write_text('[[studies]]\nscenario = "eltrombopag_773a"\n')
    check(file)
    told = capsys.readouterr().out
    assert "count of response_at_day on day 43" in told and "median of platelets between 121.6 and 134.4" in told
    assert "ok: config with 32 free coordinates, 3 arms, 8 numbers of 1 further studies" in told


def test_a_users_own_study_beside_its_scenario(tmp_path):
    """A CSV and a scenario of one's own, both found from where the config lies."""
    (tmp_path / "mine.csv").write_text(
        "study,arm,n,quantity,value,unit,time_d,spread,spread_type,status,source\n"
        "mine,5 mg,40,response_any,30,patients,28,,,unpublished,own records\n"
        "mine,5 mg,40,platelet_rise,250,%,28,180,sd,unpublished,own records\n"
    )
    (tmp_path / "mine.toml").write_text(
        '[trial]\nname = "mine"\nvisits_d = [14, 28]\n[[arms]]\nname = "5 mg"\ndrug = "hetrombopag"\nn = 40\n'
        'start_dose_mg = 5.0\n[entry]\nplatelets_below_1e9_per_l = 30\n[published]\ntable = "mine.csv"\n'
        'study = "mine"\n[[predictions]]\nquantity = "response_any"\n[[predictions]]\nquantity = "platelet_rise"\n'
    )
    (tmp_path / "fit.toml").write_text('[[studies]]\nscenario = "mine.toml"\n')
    (study,) = plan(load(tmp_path / "fit.toml")).studies
    assert [t.observed for t in study.targets] == [30.0, 250.0]
    assert abs(study.targets[1].standard_error - 180 / np.sqrt(40)) < 1e-9


@pytest.mark.slow
def test_a_small_fit_of_two_drugs(tmp_path):
    free = ("receptor_ec50_nM", "residual_log_sd", "eltrombopag.receptor_ec50_nM", "between_study_shift")
    everything = population.plan(load(None, SHIFTED)).prior.names
    fixed = [n for n in everything if n not in free and not n.endswith("]")]
    settings = [*SHIFTED, *SMALL, "rounds=[{vectors=256,patients=128},{vectors=256,patients=256}]"]
    config = load(None, [*settings, "fix=[" + ", ".join(f'"{n}"' for n in fixed) + "]"])
    population.fit(config, tmp_path, silent)
    (tmp_path / "manifest.json").write_text("{}")
    result = load_run(tmp_path)
    table = pd.read_csv(tmp_path / "studies.csv")
    assert len(table) == 10 and set(table["study"]) == {"TRA100773A", "TRA100773B"}
    assert table["inside"].sum() >= 6
    narrowed = np.log(result.posterior["eltrombopag.receptor_ec50_nM"]).std()
    assert narrowed < 0.5 * 0.7  # eight counts speak of it
    drawn = draws_of(result, 50)
    assert f"receptor_ec50_nM_shift[{NEW}]" in drawn
