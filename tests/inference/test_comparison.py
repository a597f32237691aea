"""Models side by side: elpd against closed forms, what is comparable, the words, and what the command writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from inference import comparison, comparison_text, store
from inference.cli import BAD_INPUT, main
from inference.comparison import Elpd, Model, Run
from inference.config import load
from inference.predictions import Predicted
from pkpd.errors import InputError
from pkpd.published import Target
from tests.inference import made_up
from tests.inference.test_report import Page

LINEAR = {"name": comparison.KIM, "value": 1e5, "unit": "1e9/L", "source": "a test", "status": "assumed"}


def normal_model(n=20_000, seed=0):
    """y_a ~ N(mu, 1) for three arms, mu ~ N(0, 1): exact posterior draws' log likelihoods [4, n, 3], and y."""
    y = np.array([0.3, -0.4, 1.5])
    rng = np.random.default_rng(seed)
    mu = y.sum() / 4 + rng.standard_normal((4, n)) / 2
    return stats.norm.logpdf(y, mu[..., None], 1), y


def test_an_arm_left_out_by_importance_sampling_has_its_closed_form():
    log_likelihood, y = normal_model()
    for i, seen in enumerate(y):
        rest = np.delete(y, i)
        exact = stats.norm.logpdf(seen, rest.sum() / 3, np.sqrt(1 + 1 / 3))
        value, se, khat = comparison.left_out(log_likelihood[..., i])
        assert abs(value - exact) < 4 * se + 0.003 and se < 0.01 and khat < 0.5


def test_an_arm_that_was_left_out_is_averaged_over_the_draws():
    rng = np.random.default_rng(1)
    mu = 0.5 + 0.7 * rng.standard_normal((4, 5000))
    value, se = comparison.predictive_density(stats.norm.logpdf(1.0, mu, 1))
    assert abs(value - stats.norm.logpdf(1.0, 0.5, np.sqrt(1.49))) < 4 * se
    repeated = [comparison.predictive_density(stats.norm.logpdf(1.0, 0.7 * rng.standard_normal((2, 500)), 1))
                for _ in range(100)]  # fmt: skip
    values, errors = np.array(repeated).T
    assert 0.7 < values.std() / errors.mean() < 1.4


def test_an_arm_that_says_too_much_is_told_by_khat():
    rng = np.random.default_rng(2)
    value, se, khat = comparison.left_out(-30 * rng.standard_exponential((4, 500)))
    assert khat > 0.7 and not Elpd("a", value, se, khat, "").trusted
    assert Elpd("a", value, se, None, "").trusted


def run(name, *settings, log_evidence=None, seed=0, linear=False, shift=0.0, **changed):
    config = load(None, list(settings))
    result = made_up.result(draws=60, seed=seed, leave_out=config.data.leave_out)
    found = {} if log_evidence is None else dict(
        zip(("log_evidence", "log_evidence_se", "log_evidence_khat"), log_evidence, strict=True)
    )  # fmt: skip
    return Run(
        name,
        Path(name),
        result._replace(
            config_toml=config.to_toml(),
            diagnostics=result.diagnostics | found,
            log_likelihood=result.log_likelihood + shift,
            fixed=[*result.fixed, *([LINEAR] if linear else [])],
            **changed,
        ),
        config,
    )


def test_a_run_without_an_arm_serves_the_model_it_is_of():
    whole, without = run("whole"), run("without", 'data.leave_out=["placebo"]', "seed=9", seed=4)
    other = run("other", 'signalling="quasi-steady"')
    found = comparison.models([whole, without, other])
    assert [m.name for m in found] == ["whole", "other"]
    first, second = found
    assert [e.khat is None for e in first.arms] == [False, False, True] and first.arms[2].how == "exact: without"
    exact = comparison.predictive_density(without.result.log_likelihood[..., 2])
    assert first.arms[2][1:3] == exact
    assert [e.khat is None for e in second.arms] == [False] * 3
    assert first.differs == {"signalling": "dynamic"} and second.differs == {"signalling": "quasi-steady"}
    alone = comparison.models([without, other])
    assert [m.name for m in alone] == ["without", "other"] and "arms that were fitted" in alone[1].reason


def test_the_importance_sampling_with_the_smaller_khat_is_taken():
    r = run("a")
    plain = comparison.by_arm(r)
    told = {e.arm: {"log": -9.0, "se": 0.1, "khat": e.khat + d} for e, d in zip(plain, (-0.1, 0.1), strict=False)}
    found = comparison.by_arm(r._replace(result=r.result._replace(diagnostics={"elpd_arms": told})))
    assert [e.how for e in found] == ["proposals on the surface", "PSIS-LOO", "PSIS-LOO"]
    assert found[0].value == -9 and found[1:] == plain[1:]


def test_other_data_are_shown_but_not_compared():
    first = run("first", log_evidence=(-40.0, 0.1, 0.2))
    counts = first.result.observed.copy()
    counts[0, 4] += 1
    second = run("second", log_evidence=(-41.0, 0.1, 0.2), observed=counts)
    found = comparison.models([first, second])
    assert found[1].reason == "other counts than first" and np.isnan(found[1].elpd) and np.isnan(found[1].evidence[0])
    assert comparison.best(found, "elpd") is None and comparison.best(found, "evidence") is None
    sentences = comparison_text.verdict(found)
    assert "second: not compared: other counts than first" in sentences
    assert "Evidence: not compared: no two runs have it" in sentences
    third = run("third", 'scenario="eltrombopag_773a"')
    assert "endpoints of the scenario" in comparison.models([first, third])[1].reason
    gone = run("gone", 'scenario="gone.toml"')
    assert "cannot be read" in comparison.models([first, gone])[1].reason


def test_an_old_run_says_so():
    found = comparison.models([run("old")._replace(result=made_up.result(draws=60)._replace(log_likelihood=None)),
                               run("new", "tuned_log_sd_factor=2")])  # fmt: skip
    assert np.isnan(found[0].elpd)
    assert any("old: predictive accuracy: the run holds no log" in s for s in comparison_text.verdict(found))


@pytest.mark.parametrize(
    ("factor", "se", "words"),
    [
        (6.0, 0.2, "very strong evidence"),
        (5.2, 0.2, "strong evidence"),
        (2.0, 0.2, "positive evidence"),
        (1.2, 0.2, "the data cannot tell"),
        (9.0, 4.5, "the data cannot tell"),
    ],
)
def test_a_bayes_factor_is_shortened_by_two_errors_before_it_has_a_word(factor, se, words):
    assert comparison_text.grade(factor, se) == words


def test_the_difference_of_two_models():
    a, b = comparison.models(
        [
            run("a", log_evidence=(-40.0, 0.3, 0.2)),
            run("b", "tuned_log_sd_factor=2", log_evidence=(-46.0, 0.4, 0.2), shift=np.array([-1.0, -2.0, -6.0])),
        ]
    )
    assert comparison.best([a, b], "elpd") is a and comparison.best([a, b], "evidence") is a
    d = comparison.elpd_difference(b, a)
    assert d.value == pytest.approx(-9) and d.se == pytest.approx(np.sqrt(3) * np.std([1, 2, 6], ddof=1))
    f = comparison.log_bayes_factor(b, a)
    assert (f.value, f.se) == (pytest.approx(-6), pytest.approx(0.5))
    said = comparison_text.verdict([a, b])
    assert "Bayes factor 403.4 (log 6.00, error 0.50): very strong evidence against b" in said
    assert any("b is worse by 9.00" in s and "the data cannot tell it from a" in s for s in said)
    assert comparison.elpd_difference(a, a).mc_se == 0


def rise(observed, samples):
    fields = dict.fromkeys(Target._fields, "")
    fields |= {"study": "healthy", "arm": "fasted", "arms": ("fasted",), "quantity": "platelet_rise", "n": 15}
    fields |= {"observed": observed, "unit": "%", "statistic": "platelet_rise", "reference": None, "last": 1}
    return Predicted(Target(**fields), samples)


def test_the_question_of_healthy_volunteers_is_answered():
    rng = np.random.default_rng(3)
    near, far = (np.expm1(rng.normal(np.log1p(r), 0.03, 4000)) * 100 for r in (0.15, 0.6))
    found = comparison.models(
        [
            run("saturable", log_evidence=(-40.0, 0.1, 0.2)),
            run("linear", f"parameters.{comparison.KIM}=1e5", log_evidence=(-43.0, 0.1, 0.2), linear=True),
        ]
    )
    found = [m._replace(healthy=(rise(15.8, x),)) for m, x in zip(found, (near, far), strict=True)]
    exact = stats.norm.logpdf(np.log(1.158), np.log(1.15), 0.03)
    assert comparison.healthy_score(found[0]) == pytest.approx(exact, abs=0.1)
    said = comparison_text.question(found)
    assert "saturable clearance explains" in said[-2] and "linear clearance does not explain" in said[-2]
    assert "(1 of 1 rises and 15 of 15 counts inside)" in said[-2] and "(0 of 1 rises" in said[-2]
    assert "To deny saturation (linear instead of saturable) costs 3.00 (error 0.14)" in said[-1]
    assert comparison_text.question(found[:1])[-1].startswith("saturable (saturable immune clearance)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    made = (
        run("one", log_evidence=(-40.0, 0.1, 0.2)),
        run("two", f"parameters.{comparison.KIM}=1e5", log_evidence=(-42.5, 0.1, 0.8), linear=True, seed=2),
    )
    for r in made:
        (base / r.name).mkdir()
        store.save(r.result, base / r.name)
    return [str(base / r.name) for r in made]


def test_the_command_prints_and_writes(folders, tmp_path, capsys):
    out = tmp_path / "side"
    assert main(["compare", *folders, "--scenario", "none", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Evidence: best is one" in printed and "k-hat of 0.80" in printed
    assert sorted(p.name for p in out.iterdir()) == ["comparison.csv", "manifest.json", "report.html"]
    table = pd.read_csv(out / "comparison.csv")
    assert tuple(table.columns) == comparison.COLUMNS
    factor = table[table["quantity"] == "log_bayes_factor"].set_index("model")["estimate"]
    assert factor.to_dict() == {"one": 0, "two": -2.5}
    rates = table[(table["quantity"] == "response_week_8 (%)") & (table["model"] == "one")].set_index("arm")
    assert rates.loc["placebo", "observed"] == pytest.approx(100 * 5 / 85, rel=1e-4)
    page = (out / "report.html").read_text()
    Page(page)  # its tags nest
    assert "Models side by side" in page and "http-equiv" in page and "<script" not in page
    assert json.loads((out / "manifest.json").read_text())["command"] == "compare"
    assert main(["compare", *folders, "--scenario", "none", "--out", str(out)]) == BAD_INPUT
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}"], "1 run to compare; legal: two or more"),
        (["{0}", "{0}"], "is named twice; legal: each run once"),
        (["{0}", "nowhere"], "nowhere: no such folder"),
        (["{0}", "{1}", "--scenario", "meal_timin"], "did you mean 'meal_timing'"),
    ],
)
def test_what_cannot_be_compared_is_refused(folders, arguments, message, capsys):
    assert main(["compare", *(a.format(*folders) for a in arguments)]) == BAD_INPUT
    assert message in capsys.readouterr().err


def test_names_of_runs_tell_them_apart(folders):
    assert [r.name for r in comparison.read([Path(f) for f in folders])] == ["one", "two"]
    with pytest.raises(InputError, match="two or more"):
        comparison.read([Path(folders[0])])


def test_a_model_knows_its_clearance():
    linear, saturable = run("a", linear=True), run("b")
    assert Model(linear, {}, "", ()).linear and not Model(saturable, {}, "", ()).linear
