"""``pkpd`` with a fit that is made up, in this process and in those it starts; the seed decides how a fit ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from inference import cli, store, workers
from inference.output import CHECKPOINT, RUN_MARK

# Seeds; any other ends well at once.
SLOW, WAITS, LOST, KILLED, BROKEN = 77, 60, 13, 9, 500


def fit(config, folder: Path, progress) -> dict:
    """Stands for ``population.fit``."""
    kept = folder / CHECKPOINT / "round1"
    if config.seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == BROKEN:
        raise ZeroDivisionError("by zero")
    if config.seed == WAITS and not kept.exists():
        kept.parent.mkdir()
        kept.write_text(str(os.getpid()))
        time.sleep(120)
    if config.seed == SLOW:
        other = folder.parent / "b"  # is waited for where it has been started
        while other.with_suffix(".log").exists() and not (other / RUN_MARK).exists():
            time.sleep(0.05)
    verdict = "failed" if config.seed == LOST else "preliminary"
    found = {"verdict": verdict, "reasons": ["made up"], "rhat_max": 1 + config.seed / 1000, "khat": None}
    (folder / store.DIAGNOSTICS).write_text(json.dumps(found | {"seconds": {"NUTS": 60.0, "correction": 30.0}}))
    rows = [",".join(store.COLUMNS), f"clearance_l_per_h,L/h,{config.seed}.5,0.70,6,7,8,1.001,900,800,0.8,0.1"]
    (folder / store.SUMMARY).write_text("\n".join(rows) + "\n")
    (folder / store.POSTERIOR).write_bytes(b"")
    return found


def install() -> None:
    """Puts the stand-in where ``pkpd fit`` looks for the fit and the report."""
    report = SimpleNamespace(build=lambda folder: (folder / "report.html").write_text("made up"))
    sys.modules["inference.population"] = SimpleNamespace(fit=fit)  # type: ignore[assignment]
    sys.modules["inference.report"] = report  # type: ignore[assignment]


def entry() -> None:
    """What a worker runs."""
    install()
    workers.entry()


def main() -> None:
    """The command line, whose workers run ``entry``."""
    workers.START = WORKER
    install()
    cli.entry()


WORKER = workers.START.replace("inference.workers", "tests.inference.stand_in")
