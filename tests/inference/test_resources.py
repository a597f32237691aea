"""Cores and memory of a batch, in and outside a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference import resources
from inference.resources import FIT_GB, Share, available_gb, cores, share
from pkpd.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """8 cores and memory for 6 fits."""
    monkeypatch.setattr(resources, "cores", lambda: 8)
    monkeypatch.setattr(resources, "available_gb", lambda: 6.5 * FIT_GB)


@pytest.mark.parametrize(
    ("fits", "jobs", "memory_gb", "expected"),
    [
        (100, None, None, Share(6, 1)),  # memory for six
        (3, None, None, Share(3, 2)),  # what is left of the cores goes to threads
        (1, None, None, Share(1, 8)),
        (100, 4, None, Share(4, 2)),
        (100, 20, None, Share(20, 1)),  # who says how many need not say why
        (100, None, 2 * FIT_GB, Share(2, 4)),
        (100, None, 100.0, Share(8, 1)),
        (100, None, float("inf"), Share(8, 1)),
        (100, 4, 3.9 * FIT_GB, Share(3, 2)),
        (2, 4, None, Share(2, 4)),
    ],
)
def test_fits_share_cores_and_memory(machine, fits, jobs, memory_gb, expected):
    assert share(fits, jobs, memory_gb) == expected


def test_one_fit_runs_on_a_full_machine_but_not_in_memory_that_is_said_to_be_too_small(machine, monkeypatch):
    monkeypatch.setattr(resources, "available_gb", lambda: 0.2)
    assert share(5) == Share(1, 8)
    for memory in (0.5, float("nan")):
        with pytest.raises(InputError, match=f"--memory {memory:g}: one fit takes"):
            share(5, None, memory)


def container(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8000000 kB\n",
                       **files}.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


VERSION_2 = "0::/user/batch\n"
VERSION_1 = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n"


@pytest.mark.parametrize(
    ("groups", "files", "cpus", "gb"),
    [
        (VERSION_2, {}, 16, 8.192),
        (VERSION_2, {"sys/fs/cgroup/user/cpu.max": "250000 100000\n", "sys/fs/cgroup/memory.max": "4000000000\n",
                     "sys/fs/cgroup/user/batch/cpu.max": "max 100000\n"}, 2, 4.0),
        (VERSION_2, {"sys/fs/cgroup/cpu.max": "50000 100000\n", "sys/fs/cgroup/memory.max": "max\n"}, 1, 8.192),
        (VERSION_1, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                     "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "2000000000"}, 4, 2.0),
        (VERSION_1, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                     "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 16, 8.192),
    ],
)  # fmt: skip
def test_the_limits_of_a_container_count(tmp_path, monkeypatch, groups, files, cpus, gb):
    monkeypatch.delenv("PKPD_THREADS", raising=False)
    monkeypatch.setattr(resources, "threads", lambda: 16)
    root = container(tmp_path, groups, files)
    assert cores(root) == cpus and available_gb(root) == pytest.approx(gb)


def test_here_there_is_a_core_and_some_memory(tmp_path, monkeypatch):
    monkeypatch.delenv("PKPD_THREADS", raising=False)
    assert cores() >= 1 and 0.05 < available_gb() < 1e5
    assert available_gb(tmp_path) > 0.05  # no /proc there: what the machine has
    monkeypatch.setenv("PKPD_THREADS", "3")
    assert cores() == 3
