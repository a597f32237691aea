"""mrgsolve: the model in C++ (mrgsolve.cpp), run and timed in R (mrgsolve.R), where Rscript and the package are there.

Every event is a record that carries the absorption rate and omega in force up to it, so LSODA restarts there.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.systems import task as tasks
from benchmarks.systems.measured import ENOUGH_S, Measured, Setting

FOLDER = Path(__file__).parent
PATIENTS = 256
SETTINGS = tuple(Setting(f"LSODA, rtol {rtol:g}", "float64", PATIENTS, (rtol,)) for rtol in (1e-2, 1e-3, 1e-4, 1e-6))

if not shutil.which("Rscript"):
    raise ImportError("no Rscript on PATH")
_found = subprocess.run(["Rscript", "-e", "library(mrgsolve)"], capture_output=True, text=True, check=False)
if _found.returncode:
    raise ImportError("R has no mrgsolve")


def records(t: tasks.Task) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The data set, a row an event of a patient, and the parameters that all patients share by name and value."""
    course, n = tasks.stretches(t), t.omega.shape[1]
    omega = t.omega[course.week]

    def up_to(x: np.ndarray) -> np.ndarray:
        """Of the stretch that ends at a record; of the first one at time 0."""
        return np.concatenate([x[:1], x])

    rows = {
        "time": np.concatenate([np.zeros((1, n)), np.cumsum(course.hours, 0)]),
        "amt": np.concatenate([course.arriving_nmol, np.zeros((1, n))]),
        "ka_per_h": up_to(course.ka_per_h),
        "omega": up_to(omega),
        "visit": np.broadcast_to(np.concatenate([[False], course.visit])[:, None], (len(omega) + 1, n)).astype(int),
    }
    frame = pd.DataFrame({name: x.T.ravel() for name, x in rows.items()})
    frame.insert(0, "ID", np.repeat(np.arange(1, n + 1), len(omega) + 1))
    frame["evid"] = np.where(frame["amt"] > 0, 1, np.where(frame["visit"] == 1, 0, 2))
    frame["cmt"] = 1
    for name, x in t.parameters.items():
        if x.ndim:
            frame[name] = np.repeat(x, len(omega) + 1)
    by_record = {"molar_mass_g_per_mol", "bioavailability", "lag_time_h", "dimer_hill", "immune_log_activity"}
    shared = {
        k: float(x) for k, x in t.parameters.items() if not x.ndim and k not in by_record and "absorption" not in k
    }
    return frame, pd.DataFrame({"name": list(shared), "value": list(shared.values())})


def measured(task: tasks.Task, cores: int, settings: Sequence[Setting]) -> Iterator[Measured]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for frame, file in zip(records(tasks.first(task, PATIENTS)), ("records.csv", "shared.csv"), strict=True):
            frame.to_csv(folder / file, index=False)
        data = [folder / file for file in ("records.csv", "shared.csv", "out")]
        files = [FOLDER / "mrgsolve.R", FOLDER / "mrgsolve.cpp", *data]
        tolerances = [f"{s.options[0]:g}" for s in settings]
        done = subprocess.run(
            ["Rscript", *map(str, files), str(cores), str(ENOUGH_S), *tolerances],
            capture_output=True,
            text=True,
            check=True,
        )
        for i, (s, line) in enumerate(zip(settings, done.stdout.splitlines(), strict=True), 1):
            found = pd.read_csv(f"{folder / 'out'}_{i}.csv")
            _, seconds, build = map(float, line.split())
            counts, C = (found[c].to_numpy().reshape(PATIENTS, tasks.WEEKS).T for c in ("P", "C_nM"))
            yield Measured(s, counts, C, seconds, build)
