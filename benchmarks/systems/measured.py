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


def fastest(run: Callable[[], tuple], cores: int) -> tuple[tuple, float]:
    """Result and seconds of the fastest call. On one core processor time, which others on the machine hardly change."""
    clock = time.process_time if cores == 1 else time.perf_counter
    best, spent = np.inf, 0.0
    while spent < ENOUGH_S:
        start = clock()
        result = run()
        last = clock() - start
        best, spent = min(best, last), spent + last
    return result, best


def compilation(call: Callable[[], object]) -> float:
    """Wall seconds that the first call takes longer than the second."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return max(times[0] - times[1], 0.0)
