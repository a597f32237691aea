"""Runs of trials on Dask workers: the numbers of the embedded run, whatever happens to a worker; what is refused."""

import os
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest

from inference import trials
from inference.cli import BAD_INPUT, main
from inference.output import staging_of
from inference.trials import run_trial
from inference.whatif import cluster, per_trial, runs
from inference.whatif.counts import stated
from pkpd.devices import TILE
from pkpd.errors import InputError
from pkpd.scenario import load_scenario
from tests.inference.whatif.designs import design
from tests.inference.whatif.test_gatekeeping import design as gated
from tests.inference.whatif.test_trial_command import SCENARIO

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def address():
    """A scheduler with two workers, all in this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    ) as local:
        yield local.scheduler_address


@pytest.fixture(autouse=True)
def many_chunks(monkeypatch):
    monkeypatch.setattr(runs, "STATED", 2000)  # of 20,000 trials


def test_stated_outcomes_are_those_of_the_embedded_run(address):
    told = []
    for scenario in (design(), gated(multiplicity="holm"), design(trial={"mc_se_below": 0.006})):
        embedded = run_trial(scenario, seed=5)
        assert run_trial(scenario, seed=5, scheduler=address, progress=lambda *at: told.append(at)).equals(embedded)
    assert 5000 < embedded["n_trials"][0] < 8000  # the second ended early
    done = [at[1] for at in told[: told.index(("trials", 1, 1))]]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 20_000 and len(done) == 11


def test_patients_and_posterior_draws_are_those_of_the_embedded_run(address, monkeypatch, tmp_path):
    small = load_scenario("phase3", ["trial.n_trials=30"])
    draws = {"receptor_ec50_nM": np.array([9.0, 10.0, 14.0]), "residual_log_sd": np.array([0.2, 0.3, 0.25])}
    monkeypatch.setattr(trials, "posterior_draws", lambda run, n: draws)
    monkeypatch.setitem(runs.COURSES, TILE, 8 * runs.patients_of(small))
    folders = tmp_path / "here", tmp_path / "there"
    for folder, scheduler in zip(folders, (None, address), strict=True):
        folder.mkdir()
        table = run_trial(small, seed=3, folder=folder, scheduler=scheduler)
        assert set(table["n_draws"]) == {3}
    one, other = ((folder / per_trial.FILE).read_bytes() for folder in folders)
    assert one == other


def test_what_has_arrived_is_kept_and_the_run_goes_on_anywhere(address, monkeypatch, tmp_path, capsys):
    """A chunk fails for good: an error; what has arrived by then is kept, and the embedded run counts only the rest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SCENARIO.replace("3000", "20_000"))
    counted = []

    def broken(plan, progress=None):
        def block(first, n):
            counted.append(first)
            if first == 8000:
                time.sleep(2)
                raise InputError("no room left")
            return stated(plan.design, plan.seed, first, n)

        return block

    with monkeypatch.context() as m:
        m.setattr(trials, "block_of", broken)
        assert main(f"trial s.toml --out r --scheduler {address}".split()) == BAD_INPUT
    err = capsys.readouterr().err
    assert "error: no room left" in err and "what was computed for r is kept" in err
    assert counted.count(8000) == 1 + cluster.RETRIES and len(set(counted)) == 10
    kept = {int(file.stem.split("-")[1]) for file in staging_of(tmp_path / "r").rglob("*.npz")}
    assert len(kept) >= 7 and 8000 not in kept  # another may still be on its way when the last try fails
    counted.clear()
    with monkeypatch.context() as m:
        m.setattr(trials, "stated", lambda *a: counted.append(a[2]) or stated(*a))
        assert main("trial s.toml --out r --resume".split()) == 0
    assert counted == sorted(set(range(0, 20_000, 2000)) - kept) and main("trial s.toml --out one".split()) == 0
    assert (tmp_path / "r" / per_trial.FILE).read_bytes() == (tmp_path / "one" / per_trial.FILE).read_bytes()


def test_workers_of_another_version_are_refused_by_name(address, monkeypatch):
    kind = runs.kind_here("auto")
    for other, message in (
        ({"code": "0123456789abcdef"}, "its code of this package is .*, that of this process 0123456789ab;"),
        ({"versions": {**kind["versions"], "jax": "9.9"}}, "its jax is .*, that of this process 9.9; install the same"),
    ):
        with monkeypatch.context() as m:
            m.setattr(cluster, "decisive", lambda engine, other=other: other)
            with pytest.raises(InputError, match=rf"^worker inproc://\S+: {message}"):
                run_trial(design(), seed=1, scheduler=address)
    asked = []

    def changing(engine):  # the client, the first worker, then one that came later
        asked.append(engine)
        return kind if len(asked) < 3 else {**kind, "device": "gpu"}

    monkeypatch.setattr(runs, "kind_here", changing)
    with pytest.raises(InputError, match=r"its device is gpu, that of inproc://\S+ cpu;"):
        run_trial(design(), seed=77, scheduler=address)


def test_errors_of_dask_in_one_line():
    for error, message in (
        (distributed.KilledWorker("pkpd-trials-1", None, 3), "every worker that took pkpd-trials-1 was lost"),
        (distributed.client.FutureCancelledError("x", "lost"), "the connection was lost"),
        (distributed.comm.CommClosedError("reset by peer"), "the connection was lost"),
        (ModuleNotFoundError("No module named 'inference'"), "this package is missing there.*pip install"),
    ):
        with pytest.raises(InputError, match=f"^--scheduler tcp://a:1: {message}"), cluster.explained("tcp://a:1"):
            raise error
    with pytest.raises(RuntimeError, match="of ours"), cluster.explained("tcp://a:1"):
        raise RuntimeError("of ours")


def test_nothing_answers_or_dask_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "s.toml").write_text(SCENARIO)
    for where in (f"tcp://127.0.0.1:{port}", "nonsense", "foo://a:1"):
        assert main(f"trial s.toml --out r --scheduler {where}".split()) == BAD_INPUT
        err = capsys.readouterr().err
        assert f"--scheduler {where}: no Dask scheduler answers (" in err and err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main("trial s.toml --out r --scheduler tcp://a:1".split()) == BAD_INPUT
    assert "pip install 'hetrombopag-pkpd[cluster]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


@pytest.mark.slow
def test_one_two_and_four_workers_and_one_killed(tmp_path, monkeypatch):
    """Workers are processes; the killed one dies (SIGKILL) with a chunk in work, once a first one has arrived."""
    scenario = load_scenario("phase3", ["trial.n_trials=120"])
    monkeypatch.setitem(runs.COURSES, TILE, 5 * runs.patients_of(scenario))  # 24 chunks
    monkeypatch.setenv("PKPD_THREADS", "1")
    found = {"here": tmp_path / "here"}
    found["here"].mkdir()
    run_trial(scenario, seed=3, folder=found["here"])
    killed = []

    def kill(pid, checkpoint):
        while not list(checkpoint.glob("*.npz")):
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        killed.append(len(list(checkpoint.glob("*.npz"))))

    for name, n in (("1", 1), ("2", 2), ("4", 4), ("killed", 2)):
        folder = found[name] = tmp_path / name
        folder.mkdir()
        with distributed.LocalCluster(
            n_workers=n, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as local:
            if name == "killed":
                pid = local.workers[0].pid
                threading.Thread(target=kill, args=(pid, folder / "checkpoint"), daemon=True).start()
            run_trial(scenario, seed=3, folder=folder, scheduler=local.scheduler_address)
    assert killed and 1 <= killed[0] < 20
    assert len({(folder / per_trial.FILE).read_bytes() for folder in found.values()}) == 1


def test_the_example_for_kubernetes_holds_commands_that_dask_takes(root):
    yaml = pytest.importorskip("yaml")
    from distributed.cli import dask_scheduler, dask_worker

    parts = list(yaml.safe_load_all((root / "inference/whatif/examples/kubernetes.yaml").read_text(encoding="utf-8")))
    assert [part["kind"] for part in parts] == ["Service", "Deployment", "Deployment"]
    service, *deployments = parts
    mains = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    for part in deployments:
        [container] = part["spec"]["template"]["spec"]["containers"]
        dask, name, *arguments = container["command"]
        assert dask == "dask" and part["metadata"]["name"] == f"pkpd-{name}"
        assert part["spec"]["selector"]["matchLabels"] == part["spec"]["template"]["metadata"]["labels"]
        read = mains[name].make_context(name, arguments).params  # fails on an option there is not
        assert read["port" if name == "scheduler" else "nthreads"] in ("8786", 1)
        if name == "worker":
            assert read["scheduler"] == f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
