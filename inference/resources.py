"""Cores and memory that this process may use, and how many fits fit into them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pkpd.devices import threads
from pkpd.errors import InputError

# A fit's peak resident memory as measured on Linux: 1.0 GB with --quick, 1.3 GB as it comes (one replicate); a margin.
FIT_GB = 1.5
ROOT = Path("/")


class Share(NamedTuple):
    """How many fits run at once, and the threads of each."""

    at_once: int
    threads: int


def share(fits: int, jobs: int | None = None, memory_gb: float | None = None) -> Share:
    """Fits at once and threads of each; ``jobs`` and ``memory_gb`` are what the user gives, None for what there is.

    A fit on one thread takes little longer than on two, so it is fits that the cores are shared out to first.
    InputError where the memory given is less than one fit takes.
    """
    if memory_gb is not None and not memory_gb >= FIT_GB:
        raise InputError(f"--memory {memory_gb:g}: one fit takes {FIT_GB:g} GB; legal: at least that")
    available = cores()
    most = available if jobs is None else jobs
    if jobs is None or memory_gb is not None:
        most = int(min(most, (memory_gb or available_gb()) / FIT_GB))
    at_once = max(1, min(fits, most))
    return Share(at_once, max(1, available // at_once))


def cores(root: Path = ROOT) -> int:
    """Threads that PKPD_THREADS gives, else cores this process may run on, within the quota of its container."""
    if os.environ.get("PKPD_THREADS"):
        return threads()
    quotas = [int(quota) / int(period) for quota, period in _quotas(root) if int(quota) > 0]
    return max(1, int(min([threads(), *quotas])))


def available_gb(root: Path = ROOT) -> float:
    """Memory (1e9 bytes) that can be had without swapping, at most the limit of the container."""
    limits = [int(text) for text in _read(root, "memory", "memory.max", "memory.limit_in_bytes") if text != "max"]
    return min([_free_bytes(root), *limits]) / 1e9


def _free_bytes(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _quotas(root: Path) -> Iterator[tuple[str, str]]:
    """Microseconds of processor time in so many microseconds, of every control group; -1 for no limit."""
    for text in _read(root, "cpu", "cpu.max", ""):
        quota, period = text.split()
        yield quota.replace("max", "-1"), period
    yield from zip(
        _read(root, "cpu", "", "cpu.cfs_quota_us"), _read(root, "cpu", "", "cpu.cfs_period_us"), strict=False
    )


def _read(root: Path, controller: str, version_2: str, version_1: str) -> Iterator[str]:
    """Contents of a file of this process's control group and of every one above, in either version of Linux's."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        file = version_1 if controllers else version_2
        if not file or (controllers and controller not in controllers.split(",")):
            continue
        top = root / "sys/fs/cgroup" / (controllers and controller)
        at = top / path.strip("/")
        for folder in (at, *at.parents):
            if folder.is_relative_to(top) and (folder / file).is_file():
                yield (folder / file).read_text().strip()
