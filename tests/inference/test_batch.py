"""Many fits: what is run, what is left alone, what fails alone. The fits themselves are made up (``stand_in``)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from inference import batch, store, workers
from inference.batch import Options, changes, examine
from inference.cli import main
from inference.commands.fit import run as fit_one
from inference.config import load
from inference.output import CHECKPOINT, staging_of
from inference.sweeps import Job
from pkpd.errors import InputError
from tests.inference import stand_in


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty working folder, and fits that are made up in this process and its workers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "START", stand_in.WORKER)
    for name in ("population", "report"):
        monkeypatch.delitem(sys.modules, f"inference.{name}", raising=False)
        monkeypatch.delattr(f"inference.{name}", raising=False)
        monkeypatch.setitem(sys.modules, f"inference.{name}", None)
    stand_in.install()
    return tmp_path


def configs(folder: Path, **seeds: int) -> None:
    folder.mkdir(exist_ok=True)
    for name, seed in seeds.items():
        (folder / f"{name}.toml").write_text(f"seed = {seed}\n")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def summary(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "summary.csv").set_index("run")


def test_what_is_wrong_with_one_run_stops_no_other(work, capfd):
    configs(work / "configs", a=1, killed=stand_in.KILLED, broken=stand_in.BROKEN, lost=stand_in.LOST, bad=-1, z=3)
    (work / "configs" / "typo.toml").write_text("sede = 1\n")
    (work / "runs" / "z").mkdir(parents=True)
    (work / "runs" / "z" / "thesis.txt").write_text("precious")
    assert main("fit configs --jobs 3".split()) == 1
    table = summary(work / "runs")
    assert dict(table["status"]) == {"a": "new", "bad": "failed", "broken": "failed", "killed": "failed",
                                     "lost": "new", "typo": "failed", "z": "failed"}  # fmt: skip
    assert dict(table["verdict"].dropna()) == {"a": "preliminary", "lost": "failed"}
    for name, said in {
        "bad": "seed = -1: legal: greater than or equal to 0",
        "broken": "internal error: ZeroDivisionError: by zero",
        "killed": "ended by SIGKILL, perhaps for want of memory; see runs/killed.log",
        "typo": "did you mean 'seed'",
        "z": "is not a run folder",
    }.items():
        assert said in table["note"][name]
    shown = capfd.readouterr()
    assert "killed: failed: ended by SIGKILL" in shown.out and "lost: verdict failed: made up" in shown.out
    assert "4 to run: 3 at a time" in shown.err and "a: starts, new" in shown.err and "to go, about" in shown.err
    assert names(work / "runs") == {"a", "lost", "z", "summary.csv", "parameters.csv",
                                    "a.log", "broken.log", "killed.log", "lost.log"} | {".killed.partial"}  # fmt: skip
    assert "preliminary: made up" in (work / "runs" / "a.log").read_text()
    assert (work / "runs" / "z" / "thesis.txt").read_text() == "precious"


def test_a_sweep_of_a_folder_and_the_tables_it_leaves(work):
    configs(work / "configs", a=1, b=1)
    shutil.copy(Path(store.__file__).parents[1] / "pkpd" / "scenarios" / "phase3.toml", work / "configs" / "s.toml")
    assert main(["fit", "configs", "--set", "seed=4,5", "--set", "widening=2", "--out", "all"]) == 0
    assert names(work / "all") - {"summary.csv", "parameters.csv"} == {
        f"{name}-seed={seed}{end}" for name in "ab" for seed in (4, 5) for end in ("", ".log")
    }
    config = load(work / "all" / "b-seed=5" / "config.toml")
    assert (config.seed, config.widening) == (5, 2.0)
    table = summary(work / "all")
    assert list(table["seed"]) == [4, 5, 4, 5] and list(table["config"]) == ["a.toml"] * 2 + ["b.toml"] * 2
    assert table["rhat_max"]["a-seed=5"] == 1.005 and set(table["seconds"]) == {90.0}
    long = pd.read_csv(work / "all" / "parameters.csv")
    assert list(long.columns) == ["run", "config", "seed", *store.COLUMNS]
    assert list(long["mean"]) == [4.5, 5.5, 4.5, 5.5]
    assert "0.70" in (work / "all" / "parameters.csv").read_text()  # digits as the run has them


def test_a_sweep_needs_no_folder_and_no_config(work):
    configs(work, a=1)
    assert main("fit a.toml --set seed=4 --set seed=5 --jobs 2".split()) == 0
    assert main("fit --set widening=1.5,2 --seed 6 --quick --out own --jobs 2".split()) == 0
    assert {"a-seed=4", "a-seed=5"} <= names(work / "runs")
    config = load(work / "own" / "hetrombopag-phase3-widening=1.5" / "config.toml")
    assert (config.seed, config.quick, config.widening) == (6, True, 1.5)


def test_the_summary_does_not_depend_on_who_ends_first(work):
    configs(work / "configs", a=stand_in.SLOW, b=1)
    assert main("fit configs --jobs 1 --out one".split()) == 0
    assert main("fit configs --jobs 2 --out two".split()) == 0
    assert os.stat("two/a/manifest.json").st_mtime_ns > os.stat("two/b/manifest.json").st_mtime_ns
    for name in ("summary.csv", "parameters.csv"):
        assert (work / "one" / name).read_text() == (work / "two" / name).read_text()


def test_only_what_changed_runs_again(work, capfd):
    configs(work / "configs", a=1, b=2, lost=stand_in.LOST)
    assert main("fit configs".split()) == 1
    before = {name: os.stat(f"runs/{name}/manifest.json").st_mtime_ns for name in ("a", "b", "lost")}
    (work / "configs" / "b.toml").write_text("seed = 3\nwidening = 2\n")
    capfd.readouterr()
    assert main("fit configs".split()) == 1  # the verdict of the third is still what it was
    after = {name: os.stat(f"runs/{name}/manifest.json").st_mtime_ns for name in ("a", "b", "lost")}
    assert {name for name in before if before[name] != after[name]} == {"b"}
    table = summary(work / "runs")
    assert dict(table["status"]) == {"a": "unchanged", "b": "changed", "lost": "unchanged"}
    assert table["note"]["b"] == "config (seed, widening)" and table["rhat_max"]["b"] == 1.003
    assert "b: starts, changed: config (seed, widening)" in capfd.readouterr().err


@pytest.fixture
def finished(work) -> Path:
    """A run of a config that names its own table and scenario."""
    top = Path(store.__file__).parents[1]
    shutil.copy(top / "pkpd" / "scenarios" / "phase3.toml", work / "mine.toml")
    shutil.copy(top / "data" / "phase3_arms.csv", work / "mine.csv")
    (work / "a.toml").write_text('scenario = "mine.toml"\n[data]\ntable = "mine.csv"\n')
    code = fit_one(
        work / "a.toml", out=work / "a", settings=[], options={}, jobs=None, memory_gb=None, resume=False, force=False
    )
    assert code == 0 and changes(work / "a", load(work / "a.toml")) == ""
    return work / "a"


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def set_hash(run: Path, **hashes: str) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["sha256"] |= hashes
    (run / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda run: append(run.parent / "mine.toml", "# a word\n"), "scenario"),
        (lambda run: append(run.parent / "mine.csv", "\n"), "data.table"),
        (lambda run: (run.parent / "a.toml").write_text("seed = 2\n"), "config (seed, scenario, data.table)"),
        (lambda run: set_hash(run, code="0"), "code"),
        (lambda run: set_hash(run, data="0", library="0"), "published data, library"),
        (lambda run: (run / "posterior.nc").unlink(), "damaged"),
        (lambda run: (run / "manifest.json").write_text("{"), "damaged"),
        (lambda run: (run / "manifest.json").write_text("{}"), "damaged"),
        (lambda run: (run / "diagnostics.json").write_text('{"verdict": "final"}'), "damaged"),
        (lambda run: (run / "summary.csv").write_text(""), "damaged"),
        (lambda run: (run / "summary.csv").write_text("a,b\n1,2\n"), "damaged"),
        (lambda run: (run / "manifest.json").write_text('{"sha256": 3}'), "damaged"),
    ],
)  # fmt: skip
def test_what_has_changed_is_named(finished, change, why):
    change(finished)
    found = changes(finished, load(finished.parent / "a.toml"))
    assert found.startswith(why)
    assert examine(Job("a", finished.parent / "a.toml"), finished, Options({})) == ("changed", found)


def test_a_config_read_from_another_folder_or_by_another_name_of_it_is_the_same(finished, monkeypatch):
    monkeypatch.chdir("/")
    relative = os.path.relpath(finished.parent / "a.toml", "/")
    assert changes(finished, load(relative)) == ""


def test_force_runs_what_has_not_changed(finished):
    job = Job("a", finished.parent / "a.toml")
    assert examine(job, finished, Options({})).status == "unchanged"
    assert examine(job, finished, Options({}, force=True)) == ("changed", "--force")


def test_a_run_that_fails_leaves_the_one_before_it(work):
    configs(work / "configs", a=1)
    assert main("fit configs".split()) == 0
    configs(work / "configs", a=stand_in.KILLED)
    assert main("fit configs".split()) == 1
    assert load(work / "runs" / "a" / "config.toml").seed == 1
    assert dict(summary(work / "runs")["status"]) == {"a": "failed"}
    configs(work / "configs", a=stand_in.BROKEN)
    assert main("fit configs --force".split()) == 1
    assert load(work / "runs" / "a" / "config.toml").seed == 1


def test_an_unfinished_run_needs_a_word(work):
    configs(work, a=1)
    staging_of(work / "a").mkdir()
    job = Job("a", work / "a.toml")
    with pytest.raises(InputError, match=r"unfinished run; continue it with --resume, or drop it with --force"):
        examine(job, work / "a", Options({}))
    assert examine(job, work / "a", Options({}, resume=True)) == ("new", "")
    assert examine(job, work / "a", Options({}, force=True)) == ("new", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("fit empty", "holds no config"),
        ("fit configs --set seed", "is not key=value"),
        ("fit configs --set seed=1,2 --seed 3", "--set seed: several values, and --seed too"),
        ("fit configs --memory 0.1", "--memory 0.1: one fit takes 1.5 GB"),
        ("fit configs --jobs 0", "--jobs"),
        ("fit configs --out configs/a.toml", "is a file, not a folder"),
        ("fit configs --out run", "is the run folder of one fit"),
        ("fit configs --out mine", "mine/summary.csv: is not the table of a batch"),
    ],
)
def test_what_concerns_all_runs_is_exit_2_and_nothing_runs(work, capsys, arguments, said):
    configs(work / "configs", a=1)
    for folder in ("empty", "run", "mine"):
        (work / folder).mkdir()
    (work / "run" / "manifest.json").write_text("{}")
    (work / "mine" / "summary.csv").write_text("precious")
    assert main(arguments.split()) == 2
    written = capsys.readouterr()
    assert said in written.err and written.err.count("\n") == 1 and written.out == ""
    assert names(work) == {"configs", "empty", "run", "mine"} and names(work / "mine") == {"summary.csv"}


def start(work: Path, root: Path, arguments: str) -> subprocess.Popen[str]:
    """``pkpd`` in a process of its own, whose workers' fits are made up."""
    code = "from tests.inference.stand_in import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments.split()], cwd=work, env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_the_end_of_a_batch_ends_its_workers_and_it_can_be_resumed(work, root, number, code):
    configs(work / "configs", b=stand_in.WAITS, c=3)
    running = start(work, root, "fit configs --jobs 1")
    kept = staging_of(work / "runs" / "b") / CHECKPOINT / "round1"
    wait_for(lambda: kept.exists() and kept.read_text())
    worker = int(kept.read_text())
    assert alive(worker)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == code and "Traceback" not in said
    wait_for(lambda: not alive(worker))
    assert kept.exists() and "c" not in names(work / "runs")
    if number != signal.SIGKILL:
        assert "2 not finished; the same command with --resume goes on" in said
        assert dict(summary(work / "runs")["status"]) == {"b": "not finished", "c": "not finished"}
    if number == signal.SIGINT:
        again = start(work, root, "fit configs --resume")
        _, said = again.communicate(timeout=60)
        assert again.returncode == 0, said
        assert dict(summary(work / "runs")["status"]) == {"b": "new", "c": "new"}


def test_the_cause_of_a_failure_is_the_last_thing_said(tmp_path):
    log = tmp_path / "a.log"
    for text, code, said in [
        ("x\npkpd: error: a.toml: bad\n", 2, "a.toml: bad"),
        ("pkpd: first\npkpd: error: last\nTerminated\n", 1, "last"),
        ("Fatal: stack\n\n", 134, "Fatal: stack"),
        ("", 1, "no message"),
        ("half\n", -signal.SIGSEGV, "ended by SIGSEGV: half"),
        ("half\n", -signal.SIGKILL, "ended by SIGKILL, perhaps for want of memory"),
    ]:
        log.write_text(text)
        assert batch.cause(code, log) == said


def test_time_to_go():
    assert batch.time_to_go([10, 20], [], 4, 2) == 30  # four of 15 s, two at a time
    assert batch.time_to_go([10, 20], [5.0, 100.0], 0, 2) == 5  # 10 s are left of the first, none of the second
    assert [batch.duration(s) for s in (99.4, 100, 5999, 6000, 36000)] == [
        "99 s",
        "2 min",
        "100 min",
        "1.7 h",
        "10.0 h",
    ]


@pytest.mark.slow  # three fits, small but real
def test_the_same_bits_whatever_runs_beside_a_fit(tmp_path, root):
    text = (
        "quick = true\nrounds = [{vectors = 480, patients = 16}]\nsampler = {chains = 2, warmup = 50, draws = 50}\n"
        "predictive = {draws = 20, patients = 64}\n"
    )
    (tmp_path / "a.toml").write_text(text)
    for seeds, jobs, threads in (("1", 1, 3), ("1,2", 2, 1)):
        done = subprocess.run(
            [sys.executable, "-m", "inference", "fit", ".", "--set", f"seed={seeds}", "--jobs", str(jobs)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root), "PKPD_THREADS": str(threads)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert f"to run: {jobs} at a time, {threads} thread" in done.stderr
    alone, beside, other = (store.load(tmp_path / "runs" / name) for name in ("a", "a-seed=1", "a-seed=2"))
    for group in ("posterior", "prior", "sample_stats"):
        found, same = getattr(alone, group), getattr(beside, group)
        assert found and all(found[key].tobytes() == same[key].tobytes() for key in found)
    for field in ("logits", "posterior_predictive", "median_quantiles"):
        assert getattr(alone, field).tobytes() == getattr(beside, field).tobytes()
        assert getattr(alone, field).tobytes() != getattr(other, field).tobytes()
