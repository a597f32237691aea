"""Searches from beginning to end: against exact enumeration, on patients, resumed, on workers, from a posterior."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from inference import store
from inference.checkpoint import NOTHING_KEPT
from inference.cli import BAD_INPUT, main
from inference.output import staging_of
from inference.plots_search import pareto
from inference.trials import Plan, block_of, posterior_draws, run_trial
from inference.whatif import characteristics, figures, runs, search_work
from inference.whatif.best_design import best_design, fresh
from inference.whatif.candidates import Candidates, candidates
from inference.whatif.confirmation import CHOSEN
from inference.whatif.search_file import Search
from inference.whatif.search_work import Simulated, search_draws
from inference.whatif.two_by_two import p_values
from pkpd import trial
from pkpd.scenario import load_scenario
from pkpd.validated import validate
from tests.inference import made_up
from tests.inference.whatif.test_trial_command import SCENARIO

BOTH = "arms.a.n, arms.b.n"
SEARCH = """
[objective]
quantity = "patients"
aim = "min"
[[constraints]]
comparison = "a vs b"
quantity = "power"
at_least = 0.8
[[constraints]]
comparison = "a vs b"
quantity = "type_1_error"
at_most = 0.05
[keys]
"arms.a.n, arms.b.n" = [20, 30, 36, 42, 48, 60]
analysis.alpha = [0.03, 0.05, 0.07, 0.15]
"""
RULE = """
first_trials = 20
budget_trials = 1000
[objective]
arm = "start 5 mg"
quantity = "response_week_4"
aim = "max"
[[constraints]]
arm = "start 5 mg"
quantity = "days_above_250"
at_most = 4
[keys]
titration.up_below = [30, 60]
titration.down_above = [150, 200, 250]
titration.up_every_d = [7, 14]
arms."start 5 mg".start_dose_mg = [2.5, 5.0]
"""
TINY = ["trial.visits_d=[14,28]", "analysis.endpoint=response_week_4", "arms.1.n=8", "arms.2.n=8", "arms.3.n=4",
        "trial.n_trials=40", "trial.posterior_draws=10"]  # fmt: skip


def search(text: str, **more) -> Search:
    return validate(Search, {**tomllib.loads(text), **more}, "q.toml")


def stated(**more) -> Candidates:
    data = tomllib.loads(SCENARIO.replace("3000", "4000"))
    return candidates(search(SEARCH, **more), data, "s.toml")


def exact(n: int, alpha: float, p: float = 0.5, p0: float = 0.2, n0: int | None = None) -> float:
    """Chance that Fisher's test rejects, by enumeration."""
    n0 = n0 or n
    y, y0 = (x.ravel() for x in np.mgrid[: n + 1, : n0 + 1])
    reject = p_values("fisher", y, n, y0, n0, 2) <= alpha
    return float((stats.binom.pmf(y, n, p) * stats.binom.pmf(y0, n0, p0))[reject].sum())


@pytest.fixture(scope="module")
def tables():
    grid = [(n, alpha) for n in (20, 30, 36, 42, 48, 60) for alpha in (0.03, 0.05, 0.07, 0.15)]
    return {at: (exact(*at), exact(*at, 0.2, 0.2)) for at in grid}


def test_the_smallest_design_with_power_and_size_is_found(tables):
    """Fisher's size is below its level, so that a level above 0.05 is allowed and saves patients."""
    allowed = [(n, alpha) for (n, alpha), (power, size) in tables.items() if power >= 0.8 and size <= 0.05]
    smallest = min(n for n, _ in allowed)
    found = stated()
    result = best_design(search(SEARCH), found, seed=3)
    chosen = next(one for one in result.confirmed if one.role == CHOSEN)
    values = found.found[chosen.number].values
    assert (values[BOTH], values["analysis.alpha"]) in allowed and values[BOTH] == smallest
    for figure, truth in zip(chosen.figures[1:], tables[values[BOTH], values["analysis.alpha"]], strict=True):
        assert figure.estimate == pytest.approx(truth, abs=3.5 * np.sqrt(truth * (1 - truth) / 4000))
    assert chosen.figures[0].estimate == 2 * smallest and result.confirmed[0].figures[0].estimate == 60
    dropped = {i for i, s in enumerate(result.last.standings) if s.dropped == "infeasible"}
    truly = [found.found[i].values for i in dropped]
    assert len(dropped) > 8 and not {(v[BOTH], v["analysis.alpha"]) for v in truly} & set(allowed)


def test_the_confirmation_is_the_run_of_the_chosen_design_with_another_seed():
    found = stated()
    result = best_design(search(SEARCH), found, seed=7)
    chosen = next(one for one in result.confirmed if one.role == CHOSEN)
    again = run_trial(found.found[chosen.number].design, seed=fresh(7))
    assert again.equals(result.summary) and fresh(2**31 - 1) == 0
    row = again.set_index("quantity").loc["power_fisher"]
    assert row["estimate"] == chosen.figures[1].estimate


def test_searches_are_optimistic_where_candidates_are_close():
    """72 patients allocated in eight ways, of powers nearly alike, the best estimate chosen in 30 searches. It is above
    the exact power by more than 3 errors (less the noise that all candidates share, whose trials are the same); what is
    confirmed misses the exact power by less than 3."""
    pairs = [[n, 72 - n] for n in range(29, 45, 2)]
    data = tomllib.loads(SCENARIO.replace("3000", "400"))
    asked = {"first_trials": 20, "most_trials": 20, "ties": "best", "keys": {BOTH: pairs}}
    asked["objective"] = {"comparison": "a vs b", "quantity": "power", "aim": "max"}
    asked = validate(Search, asked, "q.toml")
    found = candidates(asked, data, "s.toml")
    powers = [exact(n, 0.05, n0=n0) for n, n0 in pairs]
    assert np.ptp(powers) < 0.06
    gaps, misses = [], []
    for seed in range(30):
        result = best_design(asked, found, seed=1000 + 2 * seed)
        chosen = next(one for one in result.confirmed if one.role == CHOSEN)
        seen = np.array([s.figures[0].estimate for s in result.last.standings]) - powers
        gaps.append(seen[chosen.number] - seen.mean())
        misses.append(chosen.figures[0].estimate - powers[chosen.number])
    assert np.mean(gaps) > 3 * np.std(gaps) / np.sqrt(30)
    assert abs(np.mean(misses)) < 3 * np.std(misses) / np.sqrt(30)


@pytest.mark.parametrize("name", ["phase3", "group_sequential", "phase3_stages"])
def test_figures_are_the_rows_of_the_summary(name):
    """Every row, its estimate and its error; of a quantile the difference to itself has the error of two."""
    settings = ["trial.n_trials=60", *(f"arms.{i}.n={n}" for i, n in ((1, 12), (2, 10)))]
    design = load_scenario(name, settings)
    draws = {} if design.outcome else {"receptor_ec50_nM": np.array([9.0, 10.0, 14.0, 11.0, 8.0])}
    counts = block_of(Plan(design, draws, 3, "auto"))(0, 60)
    n_draws = 5 if draws else 1
    table = characteristics.table(design, counts, n_draws)
    found = figures.figures(design, counts, n_draws)
    cluster = np.arange(60) % n_draws
    rows = set(zip(table["comparison"], table["quantity"], strict=True))
    assert set(found) == rows | {("whole trial", "patients")}
    for row in table.itertuples(index=False):
        figure = found[row.comparison, row.quantity]
        assert figure.estimate == pytest.approx(row.estimate, nan_ok=True)
        assert len(figure.values) == 60 and figure.values.mean() == pytest.approx(row.estimate, nan_ok=True)
        assert figures.error(figure, cluster) == pytest.approx(row.mc_se, nan_ok=True)
        se = figures.difference(figure, figure, cluster)[1]
        assert se == pytest.approx(np.sqrt(2) * row.mc_se if "_q" in row.quantity else 0.0, nan_ok=True)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO.replace("3000", "1000"))
    few = SEARCH.replace("20, 30, 36, 42, 48, 60", "30, 36, 48").replace("0.03, 0.05, 0.07, 0.15", "0.05, 0.07, 0.15")
    (tmp_path / "q.toml").write_text(few.replace("at_least = 0.8", "at_least = 0.7"))
    (tmp_path / "rule.toml").write_text(RULE)
    return tmp_path


def rule_search(*more: str) -> list[str]:
    return ["trial", "phase3", "--search", "rule.toml", *(x for s in TINY for x in ("--set", s)), *more]


def test_a_rule_is_searched_with_the_same_patients_and_one_program(here, capsys, monkeypatch):
    """The command on simulated patients: files, the round trip of best.toml, no program compiled for a candidate."""
    compiled = []
    kept = search_work.block_of
    monkeypatch.setattr(
        search_work, "block_of", lambda plan: compiled.append(trial._visits._cache_size()) or kept(plan)
    )
    assert main(rule_search("--out", "r", "--seed", "5")) == 0
    assert len(compiled) > 20 and len(set(compiled[3:])) == 1
    out = capsys.readouterr().out
    assert "24 combinations, 16 designs; 8 are no scenarios" in out and "round 1: 16 designs, 20 trials each" in out
    assert "chosen: titration.up_below" in out and "days_above_250 of start 5 mg at most 4:" in out
    every = pd.read_csv("r/search.csv", keep_default_na=False)
    assert len(every) == 16 and (every["n_trials"] >= 20).all() and list(every["outcome"]).count("chosen") == 1
    assert (every.loc[every["outcome"] == "worse", "why"] != "").all()
    confirmed = pd.read_csv("r/confirmed.csv")
    assert confirmed["role"][0] == "as given" and (confirmed["n_trials"] == 40).all()
    assert json.loads((here / "r/manifest.json").read_text())["command"] == "trial"
    assert (here / "r/search.png").read_bytes().startswith(b"\x89PNG") and not (here / "r/checkpoint").exists()
    head = (here / "r/best.toml").read_text()
    assert "--seed 6" in head and ", was " in head and (here / "r/search.toml").read_text() == RULE
    assert main(["trial", "r/best.toml", "--seed", "6", "--out", "again"]) == 0
    assert (here / "again/summary.csv").read_bytes() == (here / "r/summary.csv").read_bytes()
    summary = pd.read_csv("r/summary.csv").set_index(["comparison", "quantity"])["estimate"]
    chosen = confirmed[confirmed["role"] == "chosen"].iloc[0]
    assert summary["start 5 mg", "response_week_4"] == pytest.approx(chosen["response_week_4"])
    given = run_trial(load_scenario("phase3", TINY), seed=6).set_index(["comparison", "quantity"])["estimate"]
    assert given["start 5 mg", "response_week_4"] == pytest.approx(confirmed["response_week_4"][0])
    assert chosen["difference"] == pytest.approx(chosen["response_week_4"] - confirmed["response_week_4"][0])


def test_an_interrupted_search_goes_on_where_it_was(here, capsys, monkeypatch):
    """Cut off in its 40th piece: the same files in the end, and no piece is simulated twice."""
    kept, counted = search_work.block_of, []

    def until(limit):
        def block_of(plan):
            def block(first, n):
                counted.append(first)
                if len(counted) == limit:
                    raise KeyboardInterrupt
                return kept(plan)(first, n)

            return block

        counted.clear()
        monkeypatch.setattr(search_work, "block_of", block_of)

    until(0)
    assert main("trial s.toml --search q.toml --out whole".split()) == 0
    said, pieces = capsys.readouterr().out.splitlines(), len(counted)
    until(40)
    assert main("trial s.toml --search q.toml --out cut".split()) == 130
    assert "--resume continues from there" in capsys.readouterr().err and staging_of(here / "cut").exists()
    until(0)
    assert main("trial s.toml --search q.toml --out cut".split()) == BAD_INPUT
    (here / "other.toml").write_text(SEARCH)
    assert main("trial s.toml --search other.toml --out cut --resume".split()) == BAD_INPUT
    assert "another search" in capsys.readouterr().err and counted == []
    assert main("trial s.toml --search q.toml --out cut --resume".split()) == 0
    assert len(counted) == pieces - 39
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if "cut/" not in line] == [line for line in said if "whole/" not in line]
    for file in ("search.csv", "confirmed.csv", "summary.csv", "best.toml", "search.png"):
        assert (here / "cut" / file).read_bytes() == (here / "whole" / file).read_bytes()


def test_without_a_folder_and_with_settings_and_seed_the_same_is_printed(here, capsys):
    outputs = []
    for more in ("", "--out r1", "--seed 9"):
        assert main(f"trial s.toml --search q.toml --set arms.a.n=25 {more}".split()) == 0
        outputs.append([line for line in capsys.readouterr().out.splitlines() if "search.csv" not in line])
    assert outputs[0] == outputs[1] != outputs[2]
    assert any("as given" in line and "[25, 30]" in line for line in outputs[0])


def test_where_nobody_keeps_the_constraints_it_is_said_after_all_is_written(here, capsys):
    """Power between 0.05 above and below the limit: uncertain after few trials, violated after many."""
    text = SEARCH.replace('"arms.a.n, arms.b.n" = [20, 30, 36, 42, 48, 60]', f'"{BOTH}" = [28, 29]')
    text = "first_trials = 20\nmost_trials = 20\n" + text.replace("at_least = 0.8", "at_least = 0.66")
    text = text.replace("analysis.alpha = [0.03, 0.05, 0.07, 0.15]", "analysis.alpha = [0.03, 0.04]")
    (here / "q.toml").write_text(text)
    assert main("trial s.toml --search q.toml --out r".split()) == BAD_INPUT
    err = capsys.readouterr().err
    assert (
        "designs that were confirmed keeps the constraints (power of a vs b at least 0.66" in err and "legal: " in err
    )
    assert {p.name for p in (here / "r").iterdir()} == {
        "search.csv", "confirmed.csv", "search.png", "search.toml", "manifest.json",
    }  # fmt: skip
    assert set(pd.read_csv("r/confirmed.csv")["role"]) == {"as given", "not confirmed"}


def test_where_all_designs_are_infeasible_the_candidates_are_written_and_drawn(here, capsys):
    (here / "q.toml").write_text(SEARCH.replace("at_least = 0.8", "at_least = 0.999"))
    assert main("trial s.toml --search q.toml --out r".split()) == BAD_INPUT
    assert "designs clearly violate a constraint (power of a vs b at least 0.999" in capsys.readouterr().err
    assert {p.name for p in (here / "r").iterdir()} == {"search.csv", "search.png", "search.toml", "manifest.json"}


def test_a_search_from_a_posterior_is_confirmed_on_other_draws(here, capsys):
    result = made_up.result(draws=100)
    store.save(result, here / "run")
    own, others = posterior_draws(here / "run", 40), search_draws(here / "run", 40)
    name = next(iter(own))
    assert len(others[name]) == 39 and not set(own[name]) & set(others[name])
    rank = np.argsort(np.argsort(others[name]))
    assert rank[:8].max() > 25 and rank[:8].min() < 14  # the first few are from all over
    assert len(search_draws(here / "run", 1)[name]) == 1 and search_draws(None, 40) == {}
    few = RULE.replace("[150, 200, 250]", "[200]").replace("[2.5, 5.0]", "[5.0]").replace("= 4", "= 9")
    (here / "rule.toml").write_text(few)
    assert main(rule_search("--posterior", "run", "--out", "r")) == 0
    head = (here / "r/best.toml").read_text()
    assert "--posterior run" in head
    assert main("trial r/best.toml --seed 2 --posterior run --out again".split()) == 0
    assert (here / "again/summary.csv").read_bytes() == (here / "r/summary.csv").read_bytes()
    assert set(pd.read_csv("r/summary.csv")["n_draws"]) == {10}


def test_trials_go_on_from_round_to_round():
    """40 trials of two designs in steps are those of one look, chunk by chunk, in any size of chunk."""
    designs = [load_scenario("phase3", [*TINY, f"titration.up_below={x}"]) for x in (40, 60)]
    target = search(RULE).targets
    options = {"draws": {}, "seed": 3, "engine": "auto", "by": search_work._here, "keep": NOTHING_KEPT}
    steps = Simulated(designs, target, name="steps", **options)
    steps.figures([0, 1], 10)
    stepped = steps.figures([1, 0], 40)
    whole = Simulated(designs, target, name="whole", **options).figures([1, 0], 40)
    for one, other in zip(stepped, whole, strict=True):
        assert all(np.array_equal(a.values, b.values) for a, b in zip(one, other, strict=True))
    first = block_of(Plan(designs[0], {}, 3, "auto"))(0, 40)
    at = first.names.index("response_week_4")
    assert np.array_equal(whole[1][0].values, first.by_arm["start 5 mg"][:, at] / 8)


def test_workers_find_what_this_process_finds(monkeypatch):
    distributed = pytest.importorskip("distributed")
    found = stated()
    embedded = best_design(search(SEARCH), found, seed=3)
    monkeypatch.setattr(runs, "STATED", 300)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    ) as local:
        spread = best_design(search(SEARCH), found, seed=3, scheduler=local.scheduler_address)
    assert spread.summary.equals(embedded.summary) and spread.choice == embedded.choice
    assert [s._replace(figures=()) for s in spread.last.standings] == [
        s._replace(figures=()) for s in embedded.last.standings
    ]


def test_what_cannot_be_told_apart_is_said_to_be(here, capsys):
    """Levels between two of the p-values that Fisher's test has here: the same decisions, whatever the trials."""
    (here / "q.toml").write_text(
        """first_trials = 50
        [objective]
        comparison = "a vs b"
        quantity = "power"
        aim = "max"
        [keys]
        analysis.alpha = [0.0501, 0.0502, 0.0503, 0.02]
        """
    )
    assert main("trial s.toml --search q.toml --out r".split()) == 0
    out = capsys.readouterr().out
    assert "3 designs are within error of each other after the search (3 of them alike in every trial)" in out
    assert "preferred: the one closest to the scenario as given" in out and "chosen: analysis.alpha = 0.0501" in out
    confirmed = pd.read_csv("r/confirmed.csv")
    assert list(confirmed["role"]) == ["as given", "chosen", "runner-up", "runner-up"]
    assert confirmed["power"][1:].nunique() == 1 and "smallest" not in out
    text = (here / "q.toml").read_text()
    for budget, said in (
        (250, "more trials would tell more of them apart"),
        (300, "2 were left out for want of trials"),
    ):
        (here / "q.toml").write_text(f'budget_trials = {budget}\nties = "best"\n{text}')
        assert main("trial s.toml --search q.toml".split()) == 0
        assert said in capsys.readouterr().out


def test_the_front_is_of_those_that_no_other_beats():
    rng = np.random.default_rng(1)
    points = np.round(rng.uniform(0, 1, (60, 2)), 1)
    for worse in (1, -1):
        for better in (1, -1):
            front = {tuple(p) for p in pareto(points, worse, better)}
            x, y = worse * points[:, 0], -better * points[:, 1]
            beaten = [any((x <= a) & (y <= b) & ((x < a) | (y < b))) for a, b in zip(x, y, strict=True)]
            assert front == {tuple(p) for p, b in zip(points, beaten, strict=True) if not b}
    assert len(pareto(np.array([[np.nan, 1.0], [1.0, 2.0]]), 1, 1)) == 1
