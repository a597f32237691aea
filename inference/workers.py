"""Commands of ``pkpd`` in interpreters of their own, several at once: what happens to one never touches another.

A worker ends with its parent, however that ends: it watches a pipe that closes with the last process that holds it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

# What decides the threads of this program, of XLA and of linear algebra.
THREAD_VARIABLES = ("PKPD_THREADS", "NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
START = "import sys; sys.path[:] = {path!r}; from inference.workers import entry; entry()"
POLL_S = 0.05
GRACE_S = 5.0  # to tidy up in, for a worker that is told to end


class Task(NamedTuple):
    """Arguments of one ``pkpd``, and the file that gets what it prints."""

    arguments: Sequence[str]
    log: Path


class Ended(NamedTuple):
    """A task that is over: its exit code (negative: the signal that ended it) and wall time."""

    number: int
    code: int
    seconds: float


def run(tasks: Sequence[Task], at_once: int, threads: int) -> Generator[int | Ended, None, None]:
    """Run tasks, so many at once with so many threads each; yields the number of a task that starts, Ended at its end.

    They start in order. Closing the iterator, or an interruption, ends those that run and starts no other.
    """
    waiting = deque(range(len(tasks)))
    running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number = waiting.popleft()
                running[number] = _start(tasks[number], threads), time.monotonic()
                yield number
            for number, (process, begun) in list(running.items()):
                if process.poll() is not None:
                    del running[number]
                    yield Ended(number, process.returncode, time.monotonic() - begun)
            time.sleep(POLL_S)
    finally:
        _end([process for process, _ in running.values()])


def entry() -> NoReturn:
    """What a worker runs: the command line, ended by SIGTERM once the pipe on stdin closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from inference.cli import entry

    entry()


def _start(task: Task, threads: int) -> subprocess.Popen[bytes]:
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads))
    # On a GPU the first of several would take three quarters of its memory.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ | limits
    command = [sys.executable, "-P", "-c", START.format(path=sys.path), *task.arguments]
    with open(task.log, "wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent only, which ends its workers once
        )  # fmt: skip


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to all, and SIGKILL to those that take too long or when the user asks a second time."""
    try:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
