"""Prediction of trials that were not fitted: against direct simulation, the run's weights, what the command writes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from inference import predictions, store
from inference.cli import BAD_INPUT, main
from inference.config import Config, load
from inference.drawn import draws_of
from inference.predictions import COLUMNS, Predicted
from inference.trials import with_draws
from pkpd import endpoints, trial
from pkpd.errors import InputError
from pkpd.planned import planned_arms
from pkpd.published import targets
from pkpd.scenario import load_scenario
from pkpd.streaming import summarise
from tests.inference import made_up

TABLE = """study,arm,n,quantity,value,unit,status,source,time_d
ours,a,6,response_at_day,3,patients,unpublished,our own,14
ours,a,6,platelet_rise,200,%,unpublished,our own,14
ours,both,10,response_any,6,patients,unpublished,our own,14
"""
SCENARIO = """
[trial]
name = "two arms"
assumptions = ["made up for a test"]
visits_d = [7, 14]
[[arms]]
name = "a"
drug = "hetrombopag"
n = 6
start_dose_mg = 7.5
treatment_d = 7
[[arms]]
name = "b"
drug = "hetrombopag"
n = 4
start_dose_mg = 5.0
treatment_d = 7
[entry]
platelets_below_1e9_per_l = 30
[published]
table = "t.csv"
study = "ours"
[[predictions]]
quantity = "response_at_day"
note = "because"
[[predictions]]
quantity = "platelet_rise"
seen = "in advance"
[[predictions]]
quantity = "response_any"
published_arm = "both"
[[predictions]]
quantity = "response_at_day"
statistic = "response_any"
"""
CROSSOVER = """
[trial]
design = "crossover"
visits_d = [7, 14]
[[arms]]
name = "one"
drug = "hetrombopag"
n = 9
start_dose_mg = 7.5
treatment_d = 7
[[arms]]
name = "again"
drug = "hetrombopag"
n = 9
start_dose_mg = 7.5
treatment_d = 7
[entry]
disease = "healthy"
platelets_below_1e9_per_l = 400
[rescue]
enabled = false
[parameters]
residual_log_sd = 0.07
[published]
table = "t.csv"
study = "ours"
[[predictions]]
quantity = "cmax_change"
reference = "one"
within_subject_log_sd = 0.3
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a scenario, its table and a made-up run."""
    (tmp_path / "t.csv").write_text(TABLE + "ours,again,9,cmax_change,-1,%,unpublished,our own,\n")
    (tmp_path / "s.toml").write_text(SCENARIO)
    (tmp_path / "c.toml").write_text(CROSSOVER)
    (tmp_path / "run").mkdir()
    result = made_up.result(draws=40)
    store.save(result, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weighted(result, chain, draw, log_weight):
    return result._replace(
        correction={"chain_of": np.array(chain), "draw_of": np.array(draw), "log_weight": np.array(log_weight)}
    )


def only(result, chain, draw):
    """The result with every draw equal to one."""
    return result._replace(
        posterior={n: np.full_like(v, v[chain, draw]) for n, v in result.posterior.items()}, correction={}
    )


# Draws


def test_draws_are_resampled_by_their_weights():
    result = made_up.result(draws=40)
    share = np.array([0.5, 0.25, 0.2, 0.05])
    result = weighted(result, [0, 1, 3, 3], [5, 0, 39, 7], np.log(share) + 3)
    n = 1001
    found = draws_of(result, n, seed=4)
    values = result.posterior["receptor_ec50_nM"][[0, 1, 3, 3], [5, 0, 39, 7]]
    times = np.array([(found["receptor_ec50_nM"] == v).sum() for v in values])
    assert times.sum() == n and np.all(np.abs(times - n * share) < 1)  # systematic: within one of its due
    rows = np.searchsorted(np.sort(values), found["receptor_ec50_nM"])
    other = result.posterior["max_stimulation"][[0, 1, 3, 3], [5, 0, 39, 7]][np.argsort(values)]
    assert np.array_equal(found["max_stimulation"], other[rows])  # whole vectors, not parameters one by one


def test_draws_without_weights_are_spaced_through_all_chains():
    result = made_up.result(draws=40)
    found = draws_of(result, 16, seed=1)
    flat = result.posterior["receptor_ec50_nM"].reshape(-1)
    assert np.array_equal(found["receptor_ec50_nM"], flat[np.linspace(0, 159, 16).astype(int)])


def test_all_the_weight_on_one_draw_is_a_posterior_of_that_draw(work):
    design, config, result = load_scenario("s.toml"), Config(), made_up.result(draws=40)
    heavy = weighted(result, [2, 0, 1], [11, 3, 8], [0.0, -800.0, -800.0])
    one, other = (predictions.predict(design, draws_of(r, 64, 1), config, seed=1) for r in (heavy, only(result, 2, 11)))
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(one, other, strict=True))
    third = predictions.predict(design, draws_of(only(result, 0, 3), 64, 1), config, seed=1)
    assert any(not np.array_equal(a.samples, b.samples) for a, b in zip(one, third, strict=True))


# Against direct simulation


def test_a_point_mass_predicts_what_direct_simulation_gives(work):
    """Mean and spread of the trials against the share of a cohort with another seed: binomial, patients being alike."""
    design, config = load_scenario("s.toml"), Config()
    result = only(made_up.result(draws=40), 1, 7)
    D = 2000
    found = predictions.predict(design, draws_of(result, D, 1), config, seed=1)
    at_14, rise, both, any_a = found
    values = {n: float(v[0, 0]) for n, v in result.posterior.items()}
    n, shares = 20_000, {}
    for a in planned_arms(design):
        population = with_draws(a, {k: np.array([v]) for k, v in values.items()}, np.zeros(n, int))
        s = summarise(trial.roster(population, np.arange(n)), a.arm, (7, 14), seed=99)
        shares[a.name] = dict(zip(endpoints.NAMES, np.diag(s.events) / s.patients, strict=True))
    expected = {
        "at_14": 6 * shares["a"]["response_week_8"],
        "any_a": 6 * shares["a"]["response_any"],
        "both": 6 * shares["a"]["response_any"] + 4 * shares["b"]["response_any"],
    }
    for name, p in {"at_14": at_14, "any_a": any_a, "both": both}.items():
        mean, sd = p.samples.mean(), p.samples.std()
        assert abs(mean - expected[name]) < 4 * sd / np.sqrt(D) + 4 * 10 * 0.5 / np.sqrt(n), name
    p = shares["a"]["response_any"]
    assert any_a.samples.var() == pytest.approx(6 * p * (1 - p), rel=0.15)
    assert both.target.arms == ("a", "b") and both.samples.max() > 6
    assert (any_a.samples >= at_14.samples).all() and rise.samples.shape == (D,)


def test_every_draw_is_a_trial_of_its_own_patients(work):
    """Trial d of the prediction is the simulation with draw d of the same patients, and no other."""
    design, config, result = load_scenario("s.toml"), Config(), made_up.result(draws=40)
    draws = draws_of(result, 8, 1)
    found = predictions.predict(design, draws, config, seed=5)
    a = planned_arms(design)[0]
    for d in range(8):
        population = with_draws(a, draws, np.full(6, d))
        v = next(trial.simulate(population, a.arm, (7, 14), 5, np.arange(6), d))
        counts = np.where(v.rescued, 0, v.platelets_observed)
        assert found[0].samples[d] == (counts[1] >= 50).sum()
        assert found[1].samples[d] == pytest.approx(100 * (v.platelets_observed[1] / v.baseline - 1).mean(), rel=1e-5)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(work):
    design, config, result = load_scenario("s.toml"), Config(), made_up.result(draws=40)
    one, again, other = (
        predictions.table(predictions.predict(design, draws_of(result, 64, s), config, seed=s)) for s in (1, 1, 2)
    )
    assert one.equals(again) and not one.equals(other)


def test_within_subject_error_is_that_of_the_scenario(work):
    """Two periods with the same dose differ by the within-subject error alone: log-sd 0.3/sqrt(9) of the mean ratio."""
    design, config = load_scenario("c.toml"), Config()
    draws = draws_of(made_up.result(draws=40), 1000, 1)
    [p] = predictions.predict(design, draws, config)
    log_ratio = np.log1p(p.samples / 100)
    assert log_ratio.mean() == pytest.approx(0, abs=4 * 0.1 / np.sqrt(1000))
    assert log_ratio.std() == pytest.approx(0.1, rel=0.1)
    exact = load_scenario("c.toml", ["predictions.1.within_subject_log_sd=0.0"])
    [p] = predictions.predict(exact, {n: v[:20] for n, v in draws.items()}, config)
    assert np.abs(p.samples).max() < 1e-9


# What a posterior of patients says of others


def test_healthy_volunteers_keep_what_is_theirs(work):
    [a, _] = planned_arms(load_scenario("c.toml"))
    draws = {n: v.reshape(-1)[:4] for n, v in made_up.result(draws=40).posterior.items()}
    population = with_draws(a, draws, np.arange(4))
    for name in ("receptor_ec50_nM", "max_stimulation", "mean_transit_time_h", "clearance_l_per_h"):
        assert np.allclose(getattr(population.typical, name), draws[name], rtol=1e-6)
    assert population.typical.production_1e9_per_l_per_h == np.float32(0.05)
    assert np.shape(population.iiv_log_sd.production_1e9_per_l_per_h) == ()
    assert np.shape(population.typical.immune_half_saturation_1e9_per_l) == ()
    # what the scenario sets is not replaced, and without rescue there is none
    assert population.noise.residual_log_sd == np.float32(0.07)
    assert population.noise.rescue_max_probability_per_week == 0


def test_a_posterior_does_not_bring_rescue_back():
    off = load_scenario("phase3", ["rescue.enabled=false", "parameters.max_stimulation=7.0"])
    draws = {n: v.reshape(-1)[:2] for n, v in made_up.result(draws=40).posterior.items()}
    for a in planned_arms(off):
        population = with_draws(a, draws, np.arange(2))
        assert population.noise.rescue_max_probability_per_week == 0
        assert population.typical.max_stimulation == 7
        assert np.allclose(population.typical.production_1e9_per_l_per_h, draws["production_1e9_per_l_per_h"])


def test_the_library_of_the_run_is_that_of_its_config():
    config = load(
        options={"centre": "alternative_centre", "parameters": {"dimer_efficacy": 0.9, "weight_median_kg": 50}}
    )
    ours, healthy = (predictions.library_of(config, disease) for disease in ("itp", "healthy"))
    assert (ours.value("dimer_efficacy"), ours.value("weight_median_kg")) == (0.9, 50)
    assert ours.value("production_1e9_per_l_per_h") == 0.48  # of the centre
    assert healthy.value("dimer_efficacy") == 0.9 and healthy.value("receptor_ec50_nM") == 18
    assert healthy.value("production_1e9_per_l_per_h") == 0.05 and healthy.value("weight_median_kg") == 62


# Intervals and score


def predicted(samples, observed, unit="patients", seen="", published="response_any"):
    design = load_scenario("first_in_patient")
    target = targets(design)[0]._replace(observed=observed, unit=unit, seen=seen, published=published)
    return Predicted(target, np.asarray(samples))


def test_intervals_of_counts_are_counts_and_hold_their_ends():
    counts = np.repeat(np.arange(5), 20)
    p = predicted(counts, 4.0)
    assert p.quantiles().tolist() == [0, 1, 2, 3, 4] and p.inside()
    assert not predicted(counts, 5.0).inside()
    x = np.linspace(0, 1, 1001)
    p = predicted(x, 0.025, unit="%")
    assert p.quantiles() == pytest.approx([0.025, 0.25, 0.5, 0.75, 0.975])


def test_a_number_on_the_edge_of_its_interval_is_said_to_be():
    x = np.arange(1000.0)
    for observed, verdict in (
        (500, "yes"), (24, "NO, on the edge"), (30, "yes, on the edge"), (10, "NO"), (2000, "NO"),
        (970, "yes, on the edge"),
    ):  # fmt: skip
        assert predicted(x, observed, unit="%").verdict() == verdict


def test_score_tells_numbers_that_were_seen_apart():
    inside, outside = predicted(np.arange(10), 5.0), predicted(np.arange(10), 50.0)
    seen = predicted(np.arange(10), 5.0, seen="in advance", published="rescue")
    every = [inside, outside, inside, seen]
    assert predictions.score(every, seen=False) == (2, 3, 2)
    assert predictions.score(every, seen=True) == (1, 1, 1)
    first, second = predictions.score_text(every)
    assert first.startswith("2 of 3 predictions of 2 published numbers that no parameter was set by (some are read in")
    assert second.startswith("1 of 1 predictions of 1 published numbers that were seen when parameters were set have")


def test_numbers_of_fitted_arms_are_no_prediction(work):
    (work / "s.toml").write_text(SCENARIO.replace('name = "a"', 'name = "start 5 mg"'))
    (work / "t.csv").write_text(TABLE.replace("ours,a,", "ours,start 5 mg,"))
    design = load_scenario("s.toml")
    draws = {n: v.reshape(-1)[:2] for n, v in made_up.result(draws=40).posterior.items()}
    config = load(options={"data": {"table": "t.csv"}})
    found = predictions.predict(design, draws, config, fitted=("start 5 mg",))
    assert [p.target.seen for p in found] == ["this run fitted counts of this arm"] * 2 + ["", found[0].target.seen]
    elsewhere = predictions.predict(design, draws, Config(), fitted=("start 5 mg",))
    assert elsewhere[0].target.seen == ""


# The command


def test_predict_writes_table_page_and_manifest(work, capsys):
    assert main("predict run --scenario s.toml --draws 50 --out p --seed 3".split()) == 0
    said = capsys.readouterr().out
    for part in ("response_at_day_14", "response_any_to_day_14", "published numbers that no parameter was set by"):
        assert part in said
    table = pd.read_csv(work / "p" / "predictions.csv")
    assert tuple(table.columns) == COLUMNS and len(table) == 4
    assert table["observed"].tolist() == [3, 200, 6, 3] and table["study"].unique().tolist() == ["ours"]
    assert (table["q2.5"] <= table["median"]).all() and (table["median"] <= table["q97.5"]).all()
    assert (table["inside"] == table["observed"].between(table["q2.5"], table["q97.5"])).all()
    manifest = json.loads((work / "p" / "manifest.json").read_text())
    assert manifest["command"] == "predict" and manifest["seed"] == 3
    assert {"scenario s.toml", "posterior", "data", "code"} <= set(manifest["sha256"])
    page = (work / "p" / "report.html").read_text()
    for part in ("Made up for a test.", "because.", "in advance", "data:image/svg+xml;base64,", "our own", "Two arms"):
        assert part in page
    assert "http" not in page.replace("http-equiv", "")  # self-contained, and our own numbers have no DOI
    assert main("predict run --scenario s.toml --draws 50 --out p --seed 3".split()) == BAD_INPUT
    assert "exists already" in capsys.readouterr().err
    assert main("predict run --scenario s.toml --draws 50 --out p --seed 3 --force".split()) == 0
    pd.testing.assert_frame_equal(pd.read_csv(work / "p" / "predictions.csv"), table)


def test_misses_are_named_with_what_may_explain_them(work, capsys):
    (work / "t.csv").write_text(TABLE.replace("rise,200", "rise,-99"))
    assert main("predict run --scenario s.toml --draws 50".split()) == 0
    said = capsys.readouterr().out
    assert "outside: ours, a, platelet_rise_day_14: no reason is known" in said
    assert sorted(path.name for path in work.iterdir()) == ["c.toml", "run", "s.toml", "t.csv"]


BAD = {
    "predict nowhere --scenario s.toml": "nowhere: no such folder; the run folder of a fit is expected",
    "predict . --scenario s.toml": "is not the run folder of a fit",
    "predict s.toml --scenario s.toml": "s.toml: is a file; the run folder of a fit is expected",
    "predict prior --scenario s.toml": "prior: holds a prior only; legal: a run with a posterior",
    "predict run --scenario phase3": "phase3: predicts nothing; legal: a scenario with [published] and [[predictions]]",
    "predict run --scenario phase4": "phase4: no such file or shipped scenario; did you mean 'phase3'?",
    "predict run --scenario first_in_patients": "did you mean 'first_in_patient'?",
    "predict run --scenario s.toml --scenario bad.toml": "bad.toml: predictions[1]: unknown key 'quantty'",
    "predict run --scenario s.toml --draws 1": "'--draws'",
    "predict run --scenario s.toml --out t.csv": "t.csv: is a file; the name of a new folder is expected",
    "predict healthy --scenario s.toml": "a run of hetrombopag in healthy: cannot predict",
    "predict": "Missing argument 'RUN'",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input(work, capsys, arguments):
    (work / "bad.toml").write_text(SCENARIO.replace("quantity", "quantty", 1))
    for name in ("prior", "healthy"):
        (work / name).mkdir()
        store.save(made_up.result(draws=20, prior_only=name == "prior"), work / name)
    config = work / "healthy" / store.CONFIG
    config.write_text(config.read_text().replace('disease = "itp"', 'disease = "healthy"'))
    before = sorted(work.rglob("*"))
    assert main(arguments.split()) == BAD_INPUT
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("pkpd: error: ") and said.err.count("\n") == 1
    assert BAD[arguments] in said.err
    assert sorted(work.rglob("*")) == before


def test_a_fit_takes_patients_in_parallel_groups(work):
    from inference.config import plan

    for name, message in (("meal_timing", "entry.disease = 'healthy'; legal: the same"), ("c.toml", "disease = 'itp'")):
        with pytest.raises(InputError, match=message):
            plan(load(options={"scenario": name}))
    with pytest.raises(InputError, match="is a crossover; legal: parallel groups"):
        plan(load(options={"scenario": "c.toml", "disease": "healthy"}))
