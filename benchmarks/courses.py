"""Many patient-courses as whole trials with their analyses: time, and peak memory by number of trials.

    python -m benchmarks.courses [--courses 60000000] [--scenario phase3] [--set KEY=VALUE] [--posterior RUN] [--json F]

A course is one patient of one simulated trial. Each size is a process of its own, that runs ``run_trial`` into a
folder: chunks kept on disk, the summary, and the table of single trials. A hundredth, a tenth and all of ``--courses``
are run, so that their peaks can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scale import peak_rss_mb
from inference.startup import start_jax
from pkpd.scenario import load_scenario

SHARES = (0.01, 0.1, 1.0)


def case(scenario: str, settings: list[str], n_trials: int, posterior: Path | None) -> dict[str, Any]:
    """The record of one size, measured in this process; a small run before it compiles everything."""
    start_jax()
    from inference.trials import run_trial
    from inference.whatif import per_trial, runs

    design = load_scenario(scenario, [*settings, f"trial.n_trials={n_trials}"])
    draws = min(design.trial.posterior_draws, n_trials)
    small = design.model_copy(update={"trial": design.trial.model_copy(update={"n_trials": draws})})
    run_trial(small, posterior=posterior)
    before = peak_rss_mb()
    start, used = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        table = run_trial(design, posterior=posterior, folder=Path(folder))
        kept_mb = (Path(folder) / per_trial.FILE).stat().st_size / 2**20
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    courses = n_trials * runs.patients_of(design)
    return {
        "scenario": scenario, "n_trials": n_trials, "courses": courses, "cores": len(os.sched_getaffinity(0)),
        "engine": runs.kind_here("auto")["engine"], "device": runs.kind_here("auto")["device"], "seconds": seconds,
        "courses_per_second": courses / seconds, "processor_us_per_course": processor / courses * 1e6,
        "peak_rss_mb": peak_rss_mb(), "peak_rss_before_mb": before, "table_mb": kept_mb, "rows": len(table),
        "loadavg": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--courses", type=int, default=60_000_000)
    parser.add_argument("--scenario", default="phase3")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--posterior", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        return print(json.dumps(case(args.scenario, args.set, args.case, args.posterior)))
    from inference.whatif.runs import patients_of

    a_trial = patients_of(load_scenario(args.scenario, args.set))
    print(f"{'trials':>9s} {'courses':>12s} {'seconds':>9s} {'courses/s':>11s} {'processor us':>13s} {'peak MB':>9s}")
    records = []
    for share in SHARES:
        words = [sys.executable, "-m", "benchmarks.courses", *sys.argv[1:]]
        words += ["--case", str(max(1, -(-round(share * args.courses) // a_trial)))]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        records.append(r := json.loads(done.stdout))
        print(
            f"{r['n_trials']:9,d} {r['courses']:12,d} {r['seconds']:9.1f} {r['courses_per_second']:11,.0f} "
            f"{r['processor_us_per_course']:13.2f} {r['peak_rss_mb']:9.0f}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
