"""What every test starts from: precision and kept programs as on the command line, no screen for pictures."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

from inference.startup import KEPT_ABOVE_S, cache_folder

# Read by JAX when it is imported, in this process and in those the tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(KEPT_ABOVE_S))

ROOT = Path(__file__).resolve().parent.parent
# Memory maps and resident memory of a process beyond which its compiled programs are let go. Linux allows 65,530 maps
# by default, XLA's compiler dies beyond, and every program has some; what is needed again comes back from the cache.
MAPS, RESIDENT = 12_000, 2 * 2**30


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Between two files: compiled programs are let go where they have become many."""
    yield
    of_process = Path("/proc/self")
    if not of_process.exists():
        return
    resident = int((of_process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resident > RESIDENT or len((of_process / "maps").read_bytes().splitlines()) > MAPS:
        import jax

        jax.clear_caches()
        gc.collect()
