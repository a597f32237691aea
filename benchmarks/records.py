"""What the benchmarks share: records of systems as JSON, errors, times of warm calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Record(NamedTuple):
    """One measurement of one system; errors are relative, of the count at the visits, None where not measured."""

    system: str
    device: str
    cores: int
    precision: str
    patients: int
    patients_per_second: float
    error_median: float | None
    error_p999: float | None
    error_max: float | None
    seconds_compile: float
    jax_version: str


def write(path: Path, records: Sequence[Record]) -> None:
    """The records as a JSON list of objects."""
    path.write_text(json.dumps([r._asdict() for r in records], indent=1) + "\n", encoding="utf-8")


def quantiles(e: np.ndarray) -> list[float]:
    """Median, 99%, 99.9% and largest."""
    return [float(x) for x in np.quantile(e, [0.5, 0.99, 0.999, 1])]


def timed(function: Callable[[], Any], repeats: int = 3) -> tuple[Any, float, float]:
    """Result, seconds of the fastest of ``repeats`` calls, and how much longer the first one took."""
    start = time.perf_counter()
    result = function()
    first = time.perf_counter() - start
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return result, best, max(first - best, 0.0)
