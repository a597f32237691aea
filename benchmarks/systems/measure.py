"""Measures one system on given cores: python -m benchmarks.systems.measure SYSTEM TASK.npz CPUS [SETTING].

CPUS are numbers with commas between; SETTING leaves out those with other names. Prints a JSON object a setting, or one
with the reason why the system does not run here. The process is bound to the cores before anything that starts threads
is imported.
"""

from __future__ import annotations

import os
import sys


def main(system: str, file: str, cpus: list[int], only: str = "") -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
    os.environ["NUMBA_NUM_THREADS"] = str(len(cpus))
    import importlib
    import json
    from pathlib import Path

    from benchmarks.records import quantiles
    from benchmarks.systems import task as tasks

    try:
        module = importlib.import_module(f"benchmarks.systems.with_{system}")
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    task = tasks.load(Path(file))
    settings = [s for s in module.SETTINGS if only in ("", s.name)]
    for m in module.measured(task, len(cpus), settings):
        of_counts, of_concentrations = tasks.errors(task, m.counts, m.concentration_nM)
        row = {
            "system": system,
            "setting": m.setting.name,
            "precision": m.setting.precision,
            "cores": len(cpus),
            "patients": m.setting.patients,
            "rate": m.setting.patients / m.seconds,
            "count": quantiles(of_counts),
            "concentration": quantiles(of_concentrations),
            "seconds_compile": m.seconds_compile,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(cpu) for cpu in sys.argv[3].split(",")], *sys.argv[4:])
