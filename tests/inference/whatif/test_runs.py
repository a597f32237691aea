"""Runs of trials in chunks: the same to the bit however they are cut, kept as they come, resumed, refused by name."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import output, trials
from inference.checkpoint import Checkpoint
from inference.cli import BAD_INPUT, INTERRUPTED, main
from inference.trials import run_trial
from inference.whatif import characteristics, per_trial, runs
from inference.whatif.counts import CELL, Counts, stated
from inference.whatif.decisions import decide
from inference.whatif.errors import clustered_se
from inference.whatif.intervals import newcombe
from inference.whatif.runs import Chunk, chunks
from pkpd.devices import GPU_TILE, TILE
from pkpd.scenario import load_scenario
from tests.inference.whatif.designs import design
from tests.inference.whatif.test_trial_command import SCENARIO

LOOKS = design(n=(20, 15), interims={"looks": [0.4, 1.0], "boundary": "pocock"})
TOTAL = 4500


def block(first, n):
    return stated(LOOKS, 3, first, n)


def shuffled(seed):
    """The work in this process in another order."""

    def work(todo):
        todo = list(todo)
        for i in np.random.default_rng(seed).permutation(len(todo)):
            yield todo[i], block(*todo[i])

    return work


def same(a: Counts, b: Counts) -> bool:
    equal = a.by_arm.keys() == b.by_arm.keys() and all(np.array_equal(a.by_arm[k], b.by_arm[k]) for k in a.by_arm)
    return a.names == b.names and equal and np.array_equal(a.analysed, b.analysed)


def together(*args, **options):
    return runs.joined(list(runs.consecutive(*args, **options)))


@pytest.fixture(scope="module")
def whole():
    return block(0, TOTAL)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(size=st.integers(150, TOTAL + 10), seed=st.integers(0, 99))
def test_the_same_counts_in_chunks_of_any_size_in_any_order(whole, size, seed):
    found = together(chunks(TOTAL, size), shuffled(seed))
    assert same(found, whole)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(size=st.sampled_from([250, 500, 1000, 2000, 5000]), seed=st.integers(0, 99))
def test_where_a_run_is_long_enough_does_not_depend_on_its_chunks(whole, size, seed):
    def error(rejected):
        return clustered_se(rejected[:, 0], np.zeros(len(rejected), int))

    until = runs.Until(lambda counts: decide(LOOKS, counts).rejected, error, 0.0115)
    found = together(chunks(TOTAL, size), shuffled(seed), until=until)
    sizes = range(CELL, TOTAL, CELL)
    errors = [error(decide(LOOKS, runs.trials_of(whole, runs.Chunk(0, n))).rejected) for n in sizes]
    first = [found < 0.0115 for found in errors].index(True)
    assert 1 <= first <= 2 and same(found, runs.trials_of(whole, Chunk(0, (first + 1) * CELL)))


@given(st.lists(st.integers(1, 10**5), min_size=1, max_size=6), st.sampled_from([TILE, GPU_TILE]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_chunks_are_cells_or_divide_them_and_are_small(n, width):
    scenario = load_scenario("phase3")
    arms = [scenario.arms[0].model_copy(update={"n": size}) for size in n]
    size = runs.trials_a_chunk(scenario.model_copy(update={"arms": arms}), width)
    assert size % CELL == 0 or CELL % size == 0
    assert size == 1 or size * sum(n) <= runs.COURSES[width] < 2.6 * size * sum(n) or size == CELL
    covered = [trial for first, k in chunks(2003, size) for trial in range(first, first + k)]
    assert covered == list(range(2003))


def test_counts_are_packed_and_unpacked():
    odd = Counts(("a", "b/c"), {"x / y": np.arange(6).reshape(3, 2), "file": np.ones((3, 2), np.int32)}, None)
    back = runs.unpacked(runs.packed(odd))
    assert back.names == odd.names and back.analysed is None and list(back.by_arm) == list(odd.by_arm)
    assert all(np.array_equal(back.by_arm[k], odd.by_arm[k]) for k in odd.by_arm)


def test_only_what_is_missing_or_damaged_is_counted_again(tmp_path, whole, capsys):
    counted, parts = [], chunks(TOTAL, 1000)

    def noting(todo):
        for chunk in todo:
            counted.append(chunk.first)
            if len(counted) == 4:
                raise KeyboardInterrupt
            yield chunk, block(*chunk)

    with pytest.raises(KeyboardInterrupt):
        together(parts, noting, Checkpoint(tmp_path))
    assert len(list(tmp_path.glob("*.npz"))) == 3
    file = tmp_path / "trials-1000-1000.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(bytes(content))
    assert same(together(parts, noting, Checkpoint(tmp_path)), whole)
    assert counted == [0, 1000, 2000, 3000, 1000, 3000, 4000]
    assert "trials-1000-1000.npz is damaged" in capsys.readouterr().err
    assert same(together(parts, noting, Checkpoint(tmp_path)), whole) and len(counted) == 7


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "STATED", 500)  # six chunks
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def interrupted_after(n, monkeypatch, counted):
    def broken(*args):
        counted.append(args[2])
        if len(counted) > n:
            raise KeyboardInterrupt
        return stated(*args)

    monkeypatch.setattr(trials, "stated", broken)


def test_an_interrupted_command_is_resumed_to_the_same_files(here, monkeypatch, capsys):
    assert main("trial s.toml --out whole --seed 4".split()) == 0
    counted = []
    with monkeypatch.context() as m:
        interrupted_after(2, m, counted)
        assert main("trial s.toml --out r --seed 4".split()) == INTERRUPTED
    err = capsys.readouterr().err
    assert "what was computed for r is kept; --resume continues from there" in err and not (here / "r").exists()
    assert main("trial s.toml --out r --seed 4".split()) == BAD_INPUT
    assert "an unfinished run lies in" in capsys.readouterr().err
    with monkeypatch.context() as m:
        interrupted_after(99, m, counted)
        assert main("trial s.toml --out r --seed 4 --resume".split()) == 0
    assert counted == [0, 500, 1000, 1000, 1500, 2000, 2500]
    for name in ("summary.csv", per_trial.FILE):
        assert (here / "r" / name).read_bytes() == (here / "whole" / name).read_bytes()
    assert sorted(f.name for f in (here / "r").iterdir()) == [
        "manifest.json", "report.html", "summary.csv", per_trial.FILE,
    ]  # fmt: skip


def test_an_unfinished_run_of_something_else_is_refused_by_name(here, monkeypatch, capsys):
    with monkeypatch.context() as m:
        interrupted_after(2, m, [])
        assert main("trial s.toml --out r".split()) == INTERRUPTED
    kept = sorted(output.staging_of(here / "r").rglob("*.npz"))
    capsys.readouterr()
    for more, what in (
        ("--seed 2", "another seed"),
        ("--set arms.a.n=31", "another scenario"),
        ("--null", "another hypothesis (--null)"),
    ):
        assert main(f"trial s.toml --out r --resume {more}".split()) == BAD_INPUT
        assert f"pkpd: error: r: the unfinished run was begun with {what};" in capsys.readouterr().err
    kind = {**runs.kind_here("auto"), "code": "0"}
    monkeypatch.setattr(runs, "kind_here", lambda engine: kind)
    assert main("trial s.toml --out r --resume".split()) == BAD_INPUT
    assert "begun with another version of the code" in capsys.readouterr().err
    assert sorted(output.staging_of(here / "r").rglob("*.npz")) == kept and len(kept) == 2
    assert main("trial s.toml --resume".split()) == BAD_INPUT
    assert "nothing is kept of a run without --out" in capsys.readouterr().err


def test_a_posterior_belongs_to_the_identity():
    kind = runs.kind_here("auto")
    draws = [{"x": np.array(v)} for v in ([1.0, 2.0], [1.0, 2.0], [1.0, 2.5])]
    one, same_one, other = (runs.identity(trials.Plan(LOOKS, d, 1, "auto"), kind, False) for d in draws)
    assert one == same_one and [key for key in one if one[key] != other[key]] == ["posterior"]


def test_single_trials_are_what_the_summary_is_of(tmp_path):
    """Rates, power and bounds of the summary from the table alone; decisions and bounds from its counts."""
    interims = {"looks": [0.5, 1.0], "boundary": "pocock", "futility": "predictive-power", "futility_below": 0.1}
    for scenario in (design(n=(24, 20), interims=interims), design(n=(24, 20))):
        folder = tmp_path / str(scenario.interims is None)
        folder.mkdir()
        summary = run_trial(scenario, seed=2, folder=folder).set_index(["comparison", "quantity"])["estimate"]
        table, pair = pd.read_parquet(folder / per_trial.FILE), "a vs control"
        assert table["trial"].tolist() == list(range(20_000)) and set(table["draw"]) == {0}
        assert (table["a: cured"] / 24).mean() == pytest.approx(summary[("a", "cured")], rel=1e-12)
        assert table[f"{pair}: rejected"].mean() == pytest.approx(summary[(pair, "power_risk-difference")], rel=1e-12)
        found = table[f"{pair}: risk_difference"]
        assert found.mean() == pytest.approx(summary[(pair, "risk_difference_cured")], rel=1e-12)
        at_end = table[table[f"{pair}: look"] == (2 if scenario.interims else 1)]
        y, y0 = at_end["a: cured"].to_numpy(), at_end["control: cured"].to_numpy()
        assert len(at_end) > 1000
        np.testing.assert_allclose(at_end[f"{pair}: risk_difference"], y / 24 - y0 / 20)
        low, high = newcombe(y, 24, y0, 20, 0.95)
        np.testing.assert_allclose(at_end[[f"{pair}: lower", f"{pair}: upper"]].to_numpy().T, [low, high])
        if scenario.interims:
            assert set(table[f"{pair}: look"]) == {1, 2} and table[f"{pair}: futile"].any()
            early = table[table[f"{pair}: look"] == 1]
            assert (early[f"{pair}: rejected"] | early[f"{pair}: futile"]).all()


@settings(max_examples=6, deadline=None, derandomize=True)
@given(size=st.integers(150, TOTAL + 10))
def test_summary_and_table_of_trials_in_parts_are_those_of_the_whole_to_the_bit(whole, tmp_path_factory, size):
    folder = tmp_path_factory.mktemp("parts")
    rows = characteristics.begun(LOOKS, 7)
    with per_trial.writing(folder / "parts", LOOKS, 7) as write:
        for part in runs.consecutive(chunks(TOTAL, size), runs.here(block)):
            characteristics.add(rows, LOOKS, part)
            write(part)
    pd.testing.assert_frame_equal(rows.table(), characteristics.table(LOOKS, whole, 7), check_exact=True)
    with per_trial.writing(folder / "whole", LOOKS, 7) as write:
        write(whole)
    assert (folder / "parts").read_bytes() == (folder / "whole").read_bytes()
    table = pd.read_parquet(folder / "whole")
    assert (table["draw"] == table["trial"] % 7).all() and len(table) == TOTAL


def peak_bytes(n_trials, monkeypatch, small):
    """Highest memory of NumPy and Python while so many trials of 424 patients are simulated, in chunks of 4 trials."""
    monkeypatch.setitem(runs.COURSES, TILE, 4 * runs.patients_of(small))
    scenario = small.model_copy(update={"trial": small.trial.model_copy(update={"n_trials": n_trials})})
    tracemalloc.start()
    run_trial(scenario, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_that_of_the_tiles_at_work_whatever_the_trials(monkeypatch):
    small = load_scenario("phase3", ["trial.n_trials=40"])
    run_trial(small, seed=1)  # compiles
    few, many = peak_bytes(8, monkeypatch, small), peak_bytes(80, monkeypatch, small)
    one_trial_of_visits = 424 * 8 * 11 * 4  # bytes of what 72 more trials would hold were they kept
    assert many - few < 0.02 * 72 * one_trial_of_visits


def test_patients_in_chunks_are_the_patients_of_the_whole(monkeypatch):
    small = load_scenario("phase3", ["trial.n_trials=30"])
    whole = run_trial(small, seed=3)
    monkeypatch.setitem(runs.COURSES, TILE, 8 * runs.patients_of(small))
    assert runs.trials_a_chunk(small) == 8 and run_trial(small, seed=3).equals(whole)


def test_a_killed_command_is_resumed_to_the_same_files(tmp_path, root):
    """SIGKILL once some chunks are kept: those are whole, and the resumed run ends as the one that was left alone."""
    (tmp_path / "s.toml").write_text(SCENARIO.replace("3000", "200_000"))
    start = "from inference.whatif import runs; runs.STATED = 500; from inference.cli import entry; entry()"
    words = [sys.executable, "-c", start, "trial", "s.toml", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    kept = output.staging_of(tmp_path / "r") / output.CHECKPOINT
    with subprocess.Popen([*words, "r"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as process:
        while len(list(kept.glob("*.npz"))) < 20 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    before = list(kept.glob("trials-*[0-9].npz"))  # not what was being written
    assert process.returncode == -signal.SIGKILL and 19 <= len(before) < 400
    assert all(np.load(file)["analysed"].shape == (500, 1, 2) for file in before)
    for name, more in (("r", ["--resume"]), ("whole", [])):
        done = subprocess.run([*words, name, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "damaged" not in done.stderr, done.stderr
    for name in ("summary.csv", per_trial.FILE):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
