"""``pkpd fit`` around the fit itself, which is replaced here: run folders, interruption and resumption."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from inference import population, report
from inference.cli import main
from inference.config import Config, load
from inference.output import CHECKPOINT


class Fits:
    """Stands for ``population.fit``: keeps the configs it was given and ends as it is told, by seed."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.interrupted_seeds: set[int] = set()
        self.failed_seeds: set[int] = set()
        self.found_checkpoint: list[bool] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, config: Config, folder: Path, progress) -> dict:
        self.configs.append(config)
        checkpoint = folder / CHECKPOINT / "round1"
        self.found_checkpoint.append(checkpoint.exists())
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_text("simulated")
        self.meanwhile()
        if config.seed in self.interrupted_seeds:
            raise KeyboardInterrupt
        verdict = "failed" if config.seed in self.failed_seeds else "preliminary"
        return {"verdict": verdict, "reasons": ["too few draws"]}


@pytest.fixture
def fits(monkeypatch, tmp_path) -> Fits:
    stand_in = Fits()
    monkeypatch.setattr(population, "fit", stand_in)
    monkeypatch.setattr(report, "build", lambda folder: (folder / "report.html").write_text("<p>report</p>"))
    monkeypatch.chdir(tmp_path)
    return stand_in


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_without_a_config_it_is_the_default_fit(fits, tmp_path, capsys):
    assert main(["fit"]) == 0
    assert fits.configs == [Config()]
    assert names(tmp_path) == {"hetrombopag-phase3"}
    run = tmp_path / "hetrombopag-phase3"
    assert names(run) == {"config.toml", "manifest.json", "report.html"}
    assert load(run / "config.toml") == Config()
    said = capsys.readouterr().out
    assert said.startswith("preliminary: too few draws\n") and "report.html" in said


def test_options_reach_the_config_and_the_manifest(fits, tmp_path):
    assert main("fit --quick --prior-only --seed 7 --set sampler.draws=99 --out a/b".split()) == 0
    (config,) = fits.configs
    assert (config.quick, config.prior_only, config.seed, config.sampler.draws) == (True, True, 7, 99)
    assert tomllib.loads((tmp_path / "a/b/config.toml").read_text())["seed"] == 7
    manifest = json.loads((tmp_path / "a/b/manifest.json").read_text())
    assert manifest["seed"] == 7 and set(manifest["sha256"]) == {"code", "data", "library", "config"}


def test_a_failed_verdict_is_exit_1_and_keeps_its_run(fits, tmp_path):
    fits.failed_seeds = {3}
    assert main("fit --seed 3 --out run".split()) == 1
    assert "report.html" in names(tmp_path / "run")


def test_a_run_takes_the_name_of_its_config(fits, tmp_path):
    (tmp_path / "wide.toml").write_text("tuned_log_sd_factor = 2.0\n")
    assert main(["fit", "wide.toml"]) == 0
    assert names(tmp_path) == {"wide.toml", "wide"}


def test_a_manifest_has_hashes_of_the_files_a_config_names_as_they_were_at_the_start(fits, tmp_path, root):
    table = (root / "data" / "phase3_arms.csv").read_bytes()
    scenario = (root / "pkpd" / "scenarios" / "phase3.toml").read_bytes()
    (tmp_path / "mine.csv").write_bytes(table)
    (tmp_path / "mine.toml").write_bytes(scenario)
    (tmp_path / "wide.toml").write_text('scenario = "mine.toml"\n[data]\ntable = "mine.csv"\n')
    fits.meanwhile = lambda: (tmp_path / "mine.csv").write_text("edited")
    assert main(["fit", "wide.toml"]) == 0
    sha256 = json.loads((tmp_path / "wide/manifest.json").read_text())["sha256"]
    config = (tmp_path / "wide/config.toml").read_bytes()
    for key, content in (("config", config), ("scenario", scenario), ("data.table", table)):
        assert sha256[key] == hashlib.sha256(content).hexdigest()


def test_the_config_of_a_run_names_its_files_wherever_it_is_read(fits, tmp_path, root, monkeypatch):
    (tmp_path / "mine.csv").write_bytes((root / "data" / "phase3_arms.csv").read_bytes())
    assert main("fit --set data.table=mine.csv --out deep/run".split()) == 0
    monkeypatch.chdir(tmp_path / "deep")
    assert load("run/config.toml").data.table == str(tmp_path / "mine.csv")


def test_an_interrupted_fit_is_resumed_with_its_own_config_only(fits, tmp_path, capsys):
    fits.interrupted_seeds = {1}
    assert main("fit --out run".split()) == 130
    assert "--resume continues from there" in capsys.readouterr().err
    assert names(tmp_path) == {".run.partial"}
    assert main("fit --out run".split()) == 2
    assert "an unfinished run lies in" in capsys.readouterr().err
    assert main("fit --out run --resume --seed 2".split()) == 2
    assert "has another config" in capsys.readouterr().err
    assert names(tmp_path) == {".run.partial"}
    fits.interrupted_seeds = set()
    assert main("fit --out run --resume".split()) == 0
    assert fits.found_checkpoint == [False, True] and names(tmp_path) == {"run"}


def test_resuming_what_never_began_begins_it(fits, tmp_path):
    assert main("fit --out run --resume".split()) == 0
    assert fits.found_checkpoint == [False] and names(tmp_path) == {"run"}
