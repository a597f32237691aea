"""A fit that is killed (SIGKILL) at random moments and resumed ends as the fit that was left alone, to the bit.

    python -m benchmarks.kills --out DIR [--kills 10] [--seed 1]

One fit runs through; then, for each kill, the same fit is started, killed at a moment drawn evenly from the whole one's
time, and resumed with ``--resume``. Compared are every array of posterior.nc and the bytes of all files of the run but
those that hold times. Two runs, correction and every kind of checkpoint take part; six parameters are free, so that a
fit is short. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr

from inference import output, store
from pkpd.parameters import load_library

FREE = ("receptor_ec50_nM", "max_stimulation", "production_1e9_per_l_per_h", "receptor_ec50_nM_iiv_log_sd",
        "residual_log_sd", "immune_drift_log_sd")  # fmt: skip
SMALL = (
    "rounds=[{vectors=128,patients=64},{vectors=128,patients=64}]",
    "refine={patients=0,cubic=0}",
    "sampler={chains=2,warmup=150,draws=150}",
    "correction={draws=50,patients=2048}",
    "predictive={draws=50,patients=128}",
)
SAME = (store.POSTERIOR, store.SUMMARY, store.CONFIG)


def command(run: Path, settings: list[str], *more: str) -> list[str]:
    """The ``pkpd fit`` of the run."""
    sets = [word for s in settings for word in ("--set", s)]
    return [sys.executable, "-c", "from inference.cli import entry; entry()", "fit", "--out", str(run), *sets, *more]


def killed(words: list[str], seconds: float) -> bool:
    """Starts the command and kills it after so many seconds; False where it had ended before."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        if process.poll() is not None:
            return False
        process.send_signal(signal.SIGKILL)
    return True


def finished(words: list[str]) -> float:
    """Runs the command to its end; seconds."""
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pkpd fit ended with exit code {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - start


def differences(one: Path, other: Path) -> tuple[int, list[str]]:
    """Number of arrays compared, and what differs between two runs: arrays of posterior.nc by name, and files."""
    found, arrays = [], 0
    trees = [xr.open_datatree(run / store.POSTERIOR, engine="h5netcdf") for run in (one, other)]
    for group in trees[0].groups:
        for name in trees[0][group].variables:
            a, b = (np.asarray(tree[group][name]) for tree in trees)
            arrays += 1
            if a.dtype != b.dtype or a.tobytes() != b.tobytes():
                found.append(f"{group}/{name}")
    for tree in trees:
        tree.close()
    return arrays, found + [name for name in SAME if (one / name).read_bytes() != (other / name).read_bytes()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    args = parser.parse_args()
    fixed = ", ".join(f'"{name}"' for name in load_library().free_names() if name not in FREE)
    settings = [f"fix=[{fixed}]", *SMALL]
    whole, run = args.out / "whole", args.out / "killed"
    for folder in (whole, run, output.staging_of(whole), output.staging_of(run)):
        shutil.rmtree(folder, ignore_errors=True)
    seconds = finished(command(whole, settings))
    print(f"left alone: {seconds:.0f} s", flush=True)
    bad, number, rng = 0, 0, np.random.default_rng(args.seed)
    while number < args.kills:
        moment = rng.uniform(0, seconds)
        shutil.rmtree(run, ignore_errors=True)
        if not killed(command(run, settings), moment):
            print(f"had ended before {moment:.1f} s: another moment", flush=True)
            continue
        number += 1
        kept = sorted(f.relative_to(output.staging_of(run)) for f in output.staging_of(run).rglob("*.npz"))
        again = finished(command(run, settings, "--resume"))
        arrays, differ = differences(whole, run)
        bad += bool(differ)
        told = f"differ: {', '.join(differ)}" if differ else f"{arrays} arrays and {len(SAME)} files equal"
        how = f"killed after {moment:.1f} s with {len(kept)} pieces kept, resumed in {again:.0f} s"
        print(f"{number}: {how}; {told}", flush=True)
    print("equal to the bit" if not bad else f"{bad} of {args.kills} differ")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
