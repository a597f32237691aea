"""The README's examples run as they stand."""

from __future__ import annotations

import re
import tomllib

import jax

from inference.config import Config, plan
from inference.sweeps import expand, sweep
from inference.trials import run_trial
from inference.whatif.candidates import candidates, raw_scenario
from inference.whatif.search_file import Search
from pkpd import outcomes
from pkpd.analysis import TESTS
from pkpd.planned import planned_arms
from pkpd.scenario import build, load_scenario
from pkpd.validated import validate


def block(root, heading: str, language: str) -> str:
    """The first code block of a language after a heading or line."""
    text = (root / "README.md").read_text()
    found = re.search(rf"```{language}\n(.*?)```", text[text.index(heading) :], re.DOTALL)
    assert found is not None
    return found[1]


def test_the_trial_example_is_five_lines_and_runs(root, capsys):
    code = block(root, "## In a notebook", "python")
    assert sum(bool(line) for line in code.splitlines()) == 5
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    found, less = names["found"], names["slower"].less(names["found"])
    assert len(found.trials) == 200 and {"estimate", "mc_se"} <= set(found.summary.columns)
    moved = less.set_index(["comparison", "quantity"])["difference"]
    assert moved["hetrombopag", "response_week_8"] < -0.05 and moved["placebo", "response_week_8"] == 0
    assert "trials_saved" in capsys.readouterr().out


def test_the_two_commands_to_an_answer_name_what_there_is(root):
    words = block(root, "From nothing to the answer in two commands", "").split()
    fit = block(root, "Install and run the fit", "").split()
    assert fit[:3] == ["python3", "-m", "venv"] and fit[-3:-1] == ["fit", "--out"]
    assert words[words.index("--posterior") + 1] == fit[-1]
    jobs = expand({"x": None}, sweep([words[i + 1] for i, word in enumerate(words) if word == "--set"]))
    designs = [load_scenario(words[2], job.settings) for job in jobs]
    rules = [(d.arms[0].start_dose_mg, d.titration[""].up_every_d) for d in designs]
    assert rules == [(2.5, 14), (2.5, 28), (5, 14), (5, 28)]


def test_the_notebook_example_is_five_lines_and_runs(root, capsys):
    code = block(root, "One trial, patient by patient", "python")
    assert sum(bool(line) for line in code.splitlines()) == 5
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    trial, scenario = names["trial"], names["scenario"]
    assert trial.sizes["patient"] == sum(arm.n for arm in scenario.arms)
    assert trial["platelets_observed"].attrs["units"] == "1e9/L"
    assert all("units" in variable.attrs for variable in trial.data_vars.values())
    table = names["pkpd"].endpoint_table(trial)
    assert table["share"].between(0, 1).all() and set(table.index.unique("arm")) == {a.name for a in scenario.arms}
    assert "response_week_8" in capsys.readouterr().out


def test_the_gradient_example_is_seven_lines_and_runs(root, capsys):
    code = block(root, "A course on recorded doses", "python")
    assert sum(bool(line) for line in code.splitlines()) == 7
    names: dict = {}
    jax.config.update("jax_disable_most_optimizations", True)  # it compiles for longer than it runs
    try:
        exec(compile(code, "README.md", "exec"), names)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert -10 < float(capsys.readouterr().out) < -1  # fewer platelets, 1e9/L, by nM
    assert names["gradient"]._fields == names["pkpd"].load_library().parameters()._fields


def test_the_protocol_of_the_readme_is_a_good_one(root):
    scenario = build(tomllib.loads(block(root, "### Protocols", "toml")), "README.md")
    assert [stage.name for stage in scenario.stages] == ["open-label", "taper", "withdrawal"]
    assert planned_arms(scenario)[0].arm.protocol is not None


def test_the_screened_trial_of_the_readme_is_a_good_one(root):
    scenario = build(tomllib.loads(block(root, "A trial that screens,", "toml")), "README.md")
    assert scenario.screening and scenario.randomisation and len(scenario.analyses) == 3
    assert scenario.arms[1].switch_to is not None and planned_arms(scenario)[1].arm.protocol is not None


def test_the_stated_trials_of_the_readme_run_with_and_without_their_graph(root):
    text = block(root, "Stated outcomes take several arms", "toml")
    scenario = build(tomllib.loads(text), "README.md")
    row = run_trial(scenario, seed=1).set_index(["comparison", "quantity"])["estimate"]
    assert (
        row["high vs placebo", "power_risk-difference"] > row["high vs placebo: rescue", "power_risk-difference"] > 0.2
    )
    graph = tomllib.loads(block(root, "**Secondary endpoints** are tested", "toml"))["analysis"]["graph"]
    data = tomllib.loads(text)
    del data["interims"]
    data["analysis"] |= {"multiplicity": "graphical", "graph": graph}
    again = run_trial(build(data, "README.md"), seed=1).set_index(["comparison", "quantity"])["estimate"]
    assert again["high vs placebo: rescue", "power_risk-difference"] > 0.2


def test_the_search_of_the_readme_is_one_of_the_shipped_trial(root):
    text = block(root, "`--search dose_rule` is shipped", "toml")
    search = validate(Search, tomllib.loads(text), "README.md")
    assert len(candidates(search, raw_scenario("phase3", []), "phase3").found) == 24


def test_the_tables_of_the_readme_name_all_endpoints_and_tests(root):
    text = (root / "README.md").read_text()
    part = text[text.index("### Analyses") : text.index("### Several designs")]
    missing = [n for of_kind in outcomes.KINDS.values() for n in of_kind if f"`{n}`" not in part]
    assert missing == [] and [t for t in TESTS if f"`{t}`" not in part] == []


def test_the_config_of_the_readme_is_a_good_one(root):
    config = validate(Config, tomllib.loads(block(root, "A config changes", "toml")), "README.md")
    assert "target_baseline_nM" in plan(config).prior.names


def test_the_studies_of_the_readme_are_good_ones(root):
    config = validate(Config, tomllib.loads(block(root, "## Several studies", "toml")), "README.md")
    found = plan(config)
    assert len(found.studies) == 2 and "between_study_shift" in found.prior.names
    assert any(e.name == "eltrombopag.receptor_ec50_nM" and e.log_sd == 1.5 for e in found.prior.elements)


def test_every_file_the_readme_points_to_exists(root):
    text = (root / "README.md").read_text()
    named = set(re.findall(r"\]\(([^):#]+)\)", text)) | set(
        re.findall(r"`((?:pkpd|inference|data|tests)/[\w/.]+)`", text)
    )
    assert len(named) > 10
    missing = [name for name in named if not (root / name).exists()]
    assert not missing


def test_the_design_of_the_readme_is_the_shipped_one(root):
    text = block(root, "## Designs and their", "toml")
    design, shipped = build(tomllib.loads(text), "README.md"), load_scenario("group_sequential")
    for part in ("arms", "outcome", "interims"):
        assert getattr(design, part) == getattr(shipped, part)
    assert (design.trial.n_trials, design.trial.mc_se_below) == (shipped.trial.n_trials, shipped.trial.mc_se_below)
    row = run_trial(shipped, seed=1).set_index(["comparison", "quantity"])["estimate"]
    said = re.search(
        r"has (\d+)% power with (\d+) patients on average instead of 96; its estimate is biased by ([\d.]+)",
        (root / "README.md").read_text(),
    )
    assert said is not None
    found = (100 * row["active vs placebo", "power_risk-difference"], row["whole trial", "patients"])
    assert [round(x) for x in found] == [int(said[1]), int(said[2])]
    bias = row["active vs placebo", "risk_difference_durable_response_bias"]
    assert round(bias, 3) == float(said[3])
