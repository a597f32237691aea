"""Trials from Python: a design in, its operating characteristics as data frames out; ``pkpd trial`` without files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from inference.progress import Progress, silent
from inference.startup import start_jax
from pkpd.devices import AUTOMATIC
from pkpd.errors import InputError
from pkpd.scenario import Scenario, build, load_scenario
from pkpd.scenario_text import describe
from pkpd.tomlfile import apply_settings

if TYPE_CHECKING:
    import numpy as np

IN_PYTHON = "the design"  # how messages call tables that no file holds
Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """What the trials of a design found. summary: a row a figure, as in ``summary.csv``; trials: a row a trial."""

    design: Scenario
    summary: pd.DataFrame
    trials: pd.DataFrame

    def less(self, other: Result) -> pd.DataFrame:
        """Every quantity of these trials less that of others with the same seed, which have the same patients.

        Columns as in ``differences.csv``, see ``whatif.designs``: with the error of the pairs, and how many times as
        many independent trials would have been needed for it.
        """
        from inference.whatif.designs import Design, differences

        here, there = (Design(name, {}, r.design, r.trials, r.summary) for name, r in (("this", self), ("that", other)))
        return differences(here, there)


@dataclass(frozen=True)
class Trial:
    """A design: a shipped scenario by name, a TOML file, or its tables as a mapping; changed by ``settings``.

    settings: values by dotted key, as of ``--set``: ``{"arms.1.n": 100, "titration.up_every_d": 28}``. posterior:
    folder of a fit, over whose draws the trials average; without it the library's values. seed: designs of the same
    seed have the same virtual patients. InputError, one line, for whatever is wrong with the design.
    """

    source: Source
    settings: Mapping[str, Any] | None = None
    posterior: Path | str | None = None
    seed: int = 1
    engine: str = AUTOMATIC

    def __post_init__(self) -> None:
        """Checks the design at once."""
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed = {self.seed}; legal: from 0 to 2147483647")
        _ = self.design

    def __str__(self) -> str:
        """The design in words."""
        return describe(self.design)

    @cached_property
    def design(self) -> Scenario:
        """The scenario, checked."""
        words = [f"{key}={_toml(value)}" for key, value in (self.settings or {}).items()]
        if isinstance(self.source, Mapping):
            return build(apply_settings(self.source, words), IN_PYTHON)
        return load_scenario(self.source, words)

    def changed(self, settings: Mapping[str, Any]) -> Trial:
        """The same trial with other values, for the same virtual patients."""
        everything = {**(self.settings or {}), **settings}
        return Trial(self.source, everything, self.posterior, self.seed, self.engine)

    def run(self, *, null: bool = False, scheduler: str | None = None, progress: Progress = silent) -> Result:
        """Simulates and analyses the trials; ``null``: under the null of the analysis. See ``trials.run_trial``."""
        from inference.trials import run_trial
        from inference.whatif import per_trial

        start_jax()
        with tempfile.TemporaryDirectory() as folder:
            summary = run_trial(
                self.design, posterior=self._run(), seed=self.seed, engine=self.engine, null=null, progress=progress,
                scheduler=scheduler, folder=Path(folder),
            )  # fmt: skip
            return Result(self.design, summary, pd.read_parquet(Path(folder) / per_trial.FILE))

    def patients(self) -> pd.DataFrame:
        """Virtual patients, a row a patient and visit: one trial for each posterior draw, one in all without."""
        from inference.trials import simulate_cohort

        start_jax()
        parts = simulate_cohort(self.design, posterior=self._run(), seed=self.seed, engine=self.engine)
        return pd.concat(parts, ignore_index=True).astype({"arm": str})

    def dataset(self, number: int = 0) -> pd.DataFrame:
        """One of the trials of ``run`` as a data set with NONMEM's columns, see ``whatif.dataset``."""
        from inference.whatif.dataset import dataset

        start_jax()
        return dataset(self.design, self._draws(), number, self.seed, self.engine)

    def report(self, found: Result, path: Path | str) -> None:
        """Writes the self-contained page of ``pkpd trial`` on what ``run`` found, without ``null``."""
        from inference.output import write_text
        from inference.report.trial import render

        start_jax()
        write_text(Path(path), render(self.design, found.summary, self._run(), self.seed, self.engine))

    def _run(self) -> Path | None:
        from inference.store import check_run

        if self.posterior is None:
            return None
        check_run(Path(self.posterior))
        return Path(self.posterior)

    def _draws(self) -> dict[str, np.ndarray]:
        from inference.trials import posterior_draws

        return posterior_draws(self._run(), min(self.design.trial.posterior_draws, self.design.trial.n_trials))


def _toml(value: Any) -> str:
    """A value as TOML has it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value)
    raise InputError(f"{value!r}: legal: a number, text, true or false, a list or a mapping of these")
