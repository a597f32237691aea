"""What a run was made with: versions, devices, seed, and hashes of data, config and code."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from inference.output import RUN_MARK, write_text

DISTRIBUTION = "hetrombopag-pkpd"
PACKAGES = (
    "jax", "jaxlib", "llvmlite", "numpyro", "blackjax", "diffrax", "arviz-base", "arviz-stats", "arviz-plots",
    "numpy", "pandas", "scipy", "xarray", "h5netcdf", "pyarrow", "pydantic",
)  # fmt: skip


def version() -> str:
    """Version of the installed distribution, or a word for a checkout that is not installed."""
    return _version(DISTRIBUTION) or "checkout, not installed"


def versions() -> dict[str, str]:
    """Versions of this package, Python and the packages that decide the numbers."""
    found = {name: _version(name) or "missing" for name in PACKAGES}
    return {DISTRIBUTION: version(), "python": platform.python_version(), **found}


def devices() -> list[str]:
    """The devices JAX computes on, in words. Starts its back end."""
    import jax

    return [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]


def precision() -> dict[str, Any]:
    """Precision of the cohorts and of the reference solver, and what engine "auto" is, as this process runs."""
    import jax

    from pkpd.devices import resolve_engine

    return {
        "float64_enabled": bool(jax.config.read("jax_enable_x64")),
        "cohorts": "float32",
        "reference": "float64",
        "engine_auto": resolve_engine(),
    }


def hash_of(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over names (relative to ``root``) and contents, independent of the order of ``paths``."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def code_hash() -> str:
    """Hash of the Python files of both packages."""
    import inference
    import pkpd

    roots = [Path(package.__path__[0]) for package in (pkpd, inference)]
    return hash_of((file for root in roots for file in root.rglob("*.py")), roots[0].parent)


def data_hash() -> str:
    """Hash of the published data tables."""
    from pkpd.datatables import data_folder

    return hash_of(data_folder().glob("*.csv"), data_folder())


def library_hash() -> str:
    """Hash of the parameter library and the shipped scenarios."""
    from pkpd import scenario, tables

    return hash_of((file for folder in (tables.FOLDER, scenario.FOLDER) for file in folder.glob("*.toml")),
                   tables.FOLDER.parent)  # fmt: skip


def hashes(inputs: Mapping[str, str | bytes]) -> dict[str, str]:
    """SHA-256 of all that decides a result: code, published data, library and ``inputs`` (config, the user's files)."""
    own = {name: text.encode() if isinstance(text, str) else text for name, text in inputs.items()}
    shipped = {"code": code_hash(), "data": data_hash(), "library": library_hash()}
    return shipped | {name: hashlib.sha256(content).hexdigest() for name, content in own.items()}


def write_manifest(
    folder: Path, command: str, seed: int, inputs: Mapping[str, str | bytes], sha256: Mapping[str, str] | None = None
) -> None:
    """Writes ``manifest.json`` into a run folder; ``inputs`` are the texts (config, scenario) that decided it.

    ``sha256``: their ``hashes`` where they were taken earlier, before work during which a file may have been edited.
    """
    content = {
        "command": command,
        "arguments": sys.argv[1:],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "versions": versions(),
        "platform": platform.platform(),
        "devices": devices(),
        "precision": precision(),
        "sha256": dict(sha256 or hashes(inputs)),
    }
    write_text(folder / RUN_MARK, json.dumps(content, indent=2) + "\n")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
