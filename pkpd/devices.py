"""The device policy: which devices and engine run tiles of patients, in which precision. The only file that decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import jax

from pkpd.errors import InputError, nearest

TILE = 2048  # patients; the one width that is compiled, a multiple of 128
GPU_TILE = 262_144  # 22 of the 26 million courses a second that an H200 does in larger ones
REFERENCE_TILE = 128  # the reference solver steps a batch at the pace of its slowest patient
MOST_THREADS = 1024
PRECISIONS = ("float32", "float64")
ENGINES = ("kernel", "xla", "reference")
AUTOMATIC = "auto"

Item = TypeVar("Item")
Result = TypeVar("Result")


def workers() -> list[jax.Device]:
    """One entry per tile that may run at a time: a thread per core on a single CPU device, else one per device."""
    devices = jax.local_devices()
    return devices * threads() if len(devices) == 1 and devices[0].platform == "cpu" else devices


def threads() -> int:
    """Threads on a single CPU device: what PKPD_THREADS says, else the cores this process may use."""
    asked = os.environ.get("PKPD_THREADS", "")
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or not 1 <= int(asked) <= MOST_THREADS:
        raise InputError(f"PKPD_THREADS = {asked!r}: not legal; legal: a whole number from 1 to {MOST_THREADS}")
    return int(asked)


def kernel_trouble() -> str:
    """Why the kernel (vector code on a CPU, Pallas on a GPU) cannot run here; empty where it can."""
    platform = jax.default_backend()
    if platform == "gpu":
        from pkpd.engine import pallas

        return pallas.trouble()
    if platform != "cpu":
        return f"there is vector code for a cpu and a Pallas kernel for a gpu, and JAX computes on a {platform}"
    try:
        from pkpd.engine.vector import custom_call
    except ImportError as error:
        return f"llvmlite is missing ({error}); type pip install llvmlite"
    return custom_call.trouble()


def resolve_engine(name: str = AUTOMATIC) -> str:
    """The engine of that name, or for "auto" the fastest that runs here; InputError that says what is legal."""
    if name == AUTOMATIC:
        return "xla" if kernel_trouble() else "kernel"
    if name not in ENGINES:
        raise InputError(f"engine {name!r}{nearest(name, (AUTOMATIC, *ENGINES))}")
    if name == "kernel" and (why := kernel_trouble()):
        raise InputError(f"engine 'kernel' cannot run: {why}; legal here: xla, reference")
    return name


def tile_width(engine: str) -> int:
    """Patients in a tile of an engine."""
    if engine == "reference":
        return REFERENCE_TILE
    return TILE if jax.default_backend() == "cpu" else GPU_TILE


def check_precision(precision: str) -> str:
    """The precision if it can be had; InputError that says what to type otherwise."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}; legal: {', '.join(PRECISIONS)}")
    if precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError(
            "precision 'float64' needs jax.config.update('jax_enable_x64', True) at the start of the program"
        )
    return precision


def map_tiles(function: Callable[..., Result], tiles: Iterable[Any]) -> Iterator[Result]:
    """``function(*tile)`` for every tile of host arrays, in order, on all workers; results are on the host (NumPy).

    At most two tiles a worker are under way, so memory does not grow with the number of tiles.
    """
    devices = workers()

    def on(device: jax.Device, tile: Any) -> Any:
        with jax.default_device(device):
            return jax.device_get(function(*tile))  # compiled functions take host arrays at a tenth of the cost

    with ThreadPoolExecutor(len(devices)) as pool:
        todo = iter(enumerate(tiles))
        under_way: list[Any] = []
        for i, tile in islice(todo, 2 * len(devices)):
            under_way.append(pool.submit(on, devices[i % len(devices)], tile))
        try:
            while under_way:
                result = under_way.pop(0).result()
                for i, tile in islice(todo, 1):
                    under_way.append(pool.submit(on, devices[i % len(devices)], tile))
                yield result
        finally:
            for future in under_way:
                future.cancel()
