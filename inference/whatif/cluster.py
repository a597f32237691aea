"""The chunks of a run of trials on the workers of a Dask scheduler (the optional extra ``cluster``).

A task is named after all that decides its numbers and its trials. A worker says with its counts what it computed them
with; counts of another version are refused. What a lost worker was at, the scheduler gives to another one. Modules of
JAX are imported in functions: the scheduler reads this file too, and needs none of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import socket
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pkpd.errors import InputError

if TYPE_CHECKING:
    from distributed import Client, Future

    from inference.trials import Plan
    from inference.whatif.counts import Counts
    from inference.whatif.runs import Chunk, Work

INSTALL = "pip install 'hetrombopag-pkpd[cluster]'"
CONNECT_S = 10  # for the scheduler to answer
PATIENCE_S = 5  # for a first worker, before it is said that there is none
AHEAD = 256  # chunks at most that the scheduler holds
RETRIES = 2  # of a chunk that ends in an error, as out of memory
MEANING = {"code": "code of this package", "library": "parameter library"}  # of what is told as a hash
ONE_AT_A_TIME = threading.Lock()  # a chunk keeps all cores of its worker busy, whatever threads Dask gives it


class Told(NamedTuple):
    """What a worker answers: its address, what it computes with, see ``runs.kind_here``, and what it counted."""

    worker: str
    kind: dict[str, Any]
    counts: Counts | None = None


@lru_cache
def start_worker() -> None:
    """What a process does before it computes anything."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from inference.startup import start_jax

    start_jax()


def count(plan: bytes, chunk: tuple[int, int] | None = None, kind: Mapping[str, Any] | None = None) -> Told:
    """Runs on a worker: a chunk of a pickled plan, unless this worker is not of that kind; its kind alone without."""
    from distributed import get_worker

    with ONE_AT_A_TIME:
        start_worker()
        from inference import trials
        from inference.whatif import runs

        read: Plan = pickle.loads(plan)
        told = Told(get_worker().address, runs.kind_here(read.engine))
        if chunk is None or told.kind != kind:
            return told
        return told._replace(counts=trials.block_of(read)(*chunk))


def as_is(plan: bytes) -> bytes:
    """A task whose result is the plan: sent once, and made again where the worker that held it is lost."""
    return plan


@contextmanager
def workers(address: str, plan: Plan) -> Iterator[tuple[dict[str, Any], Work]]:
    """What the workers of a scheduler compute with, and their work; InputError, one line, for whatever fails."""
    with connected(address) as client, explained(address):
        sent = pickle.dumps(plan)
        name = hashlib.sha256(sent).hexdigest()
        shared = client.submit(as_is, sent, key=f"pkpd-plan-{name}")
        told = _patiently(client.submit(count, shared, pure=False, retries=RETRIES), address)
        refuse_others(told, decisive(plan.engine), "this process")
        name = hashlib.sha256(json.dumps([name, told.kind]).encode()).hexdigest()[:32]
        yield told.kind, work_of(client, shared, name, told)


def work_of(client: Client, shared: Future, name: str, first: Told) -> Work:
    """The work that workers do of whom the ``first`` told; ``name``: of all that decides the numbers."""

    def work(chunks: Iterable[Chunk]) -> Generator[tuple[Chunk, Counts], None, None]:
        from distributed import as_completed

        todo = iter(chunks)
        at_work: dict[Future, Chunk] = {}

        def send(n: int) -> list[Future]:
            new = {}
            for chunk in islice(todo, n):
                key = f"pkpd-trials-{name}-{chunk.first}-{chunk.n}"
                new[client.submit(count, shared, tuple(chunk), first.kind, key=key, retries=RETRIES)] = chunk
            at_work.update(new)
            return list(new)

        try:
            done = as_completed(send(AHEAD))
            for future in done:
                told: Told = future.result()
                refuse_others(told, first.kind, first.worker)
                done.update(send(1))
                assert told.counts is not None
                yield at_work.pop(future), told.counts
        finally:
            client.cancel(list(at_work))

    return work


def decisive(engine: str) -> dict[str, Any]:
    """What workers must have in common with this process: a kind without what hangs on the machine alone."""
    from inference.whatif import runs

    return {name: value for name, value in runs.kind_here(engine).items() if name in ("code", "library", "versions")}


def refuse_others(told: Told, wanted: Mapping[str, Any], whose: str) -> None:
    """InputError that names the worker and what it has in another version than is wanted."""
    for name, value in wanted.items():
        own = told.kind[name]
        if own == value:
            continue
        if isinstance(value, dict):
            name = next(package for package in value if own[package] != value[package])
            own, value = own[name], value[name]
        if name in MEANING:
            name, own, value = MEANING[name], str(own)[:12], str(value)[:12]
        raise InputError(
            f"worker {told.worker}: its {name} is {own}, that of {whose} {value}; "
            "install the same versions on every machine, and start the workers again"
        )


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """The client of a scheduler; InputError where Dask is missing or nothing answers."""
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError as error:
        raise InputError(f"--scheduler needs Dask ({error}); type {INSTALL}") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told here, in one line
    try:
        if not address.startswith("inproc://"):  # a client that finds nobody takes its time to give up
            socket.create_connection(get_address_host_port(address), timeout=CONNECT_S).close()
        client = Client(address, timeout=CONNECT_S)
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers ({reason}); "
            "legal: its address, as tcp://host:8786; dask scheduler starts one and prints it"
        ) from None
    try:
        yield client
    finally:
        with suppress(TimeoutError):
            client.close(timeout=CONNECT_S)


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turns what Dask and workers raise into the InputError that says what to do.

    Its cause is an OSError: what had arrived by then is worth keeping, see ``output.run_directory``.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error.__cause__, OSError):
            raise
        why = _told(error)
        if why is None:
            raise
        raise InputError(str(error) if why == "" else f"--scheduler {address}: {why}") from ConnectionError(address)


def _told(error: Exception) -> str | None:
    """What is wrong with the cluster; empty where the error says it itself, None where it is of another kind."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    if isinstance(error, InputError):
        return ""
    if isinstance(error, KilledWorker):
        return f"every worker that took {error.args[0]} was lost (for want of memory perhaps, see their logs)"
    if isinstance(error, CancelledError | CommClosedError | ConnectionError | TimeoutError):
        return "the connection was lost; is the scheduler still there?"
    for e in (error, error.__cause__):  # a scheduler that cannot read a task says so with a cause, a worker without
        if isinstance(e, ImportError | AttributeError) and "inference" in str(e):
            return f"this package is missing there, or of another version ({e}); on every machine: {INSTALL}"
    return None


def _patiently(future: Future, address: str) -> Told:
    """The result of a first task; while there is no worker to do it, that is said once."""
    try:
        return future.result(timeout=PATIENCE_S)
    except TimeoutError:
        if not future.client.nthreads():
            why = "none is connected (one where this package is missing leaves at its first task)"
            print(f"pkpd: waiting for a worker of {address}: {why}", file=sys.stderr)
        return future.result()
