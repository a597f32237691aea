"""How every system is timed: warm calls, processor seconds on one core, wall seconds on several."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ENOUGH_S = 2.0  # calls are repeated for so long


class Setting(NamedTuple):
    """One row of a tuning table. patients: how many are solved in one call; options: what the system's file says."""

    name: str
    precision: str
    patients: int
    options: tuple


class Measured(NamedTuple):
    """counts (1e9/L) and concentration_nM at the visits [weeks, patients], seconds of the fastest warm call."""

    setting: Setting
    counts: np.ndarray
    concentration_nM: np.ndarray
    seconds: float
    seconds_compile: float


def clock(cores: int) -> Callable[[], float]:
    """Processor time on one core, which others on the machine hardly change; wall time on several."""
    return time.process_time if cores == 1 else time.perf_counter


def fastest(run: Callable[[], tuple], cores: int) -> tuple[tuple, float]:
    """Result and seconds of the fastest call."""
    now, best, spent = clock(cores), np.inf, 0.0
    while spent < ENOUGH_S:
        start = now()
        result = run()
        last = now() - start
        best, spent = min(best, last), spent + last
    return result, best


def compilation(call: Callable[[], object], cores: int) -> float:
    """Seconds that the first call takes longer than the second."""
    now, times = clock(cores), []
    for _ in range(2):
        start = now()
        call()
        times.append(now() - start)
    return max(times[0] - times[1], 0.0)
