"""What an unfinished fit or run of trials has computed, piece by piece, so that it goes on from there.

A piece is a set of arrays that follow from config, data and code alone. It is written whole or not at all, so a run
that was killed at any moment finds the pieces that were complete; one that is damaged all the same is made again from
those before it. ``identity.json`` says what they follow from, and another config, data set or version is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inference.output import explain
from pkpd.errors import InputError

Arrays = Mapping[str, np.ndarray]
IDENTITY = "identity.json"
MEANING = {  # of the keys of an identity, as they are told to the user
    "config": "another config",
    "hypothesis": "another hypothesis (--null)",
    "data": "other data",
    "library": "another parameter library",
    "code": "another version of the code",
    "versions": "other versions of its packages",
    "precision": "another precision",
}


class Checkpoint(NamedTuple):
    """A folder of pieces; None keeps nothing."""

    folder: Path | None = None

    def at(self, name: str) -> Checkpoint:
        """The pieces of one part of the fit."""
        return Checkpoint(None if self.folder is None else self.folder / name)

    def kept(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of a piece; None if it was not kept, or is damaged, which is said on stderr."""
        return None if self.folder is None else _read(self.folder / f"{name}.npz")

    def keep(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays, which are kept as a piece from now on."""
        made = {key: np.asarray(value) for key, value in arrays.items()}
        if self.folder is not None:
            _write(self.folder / f"{name}.npz", made)
        return made

    def piece(self, name: str, make: Callable[[], Arrays]) -> dict[str, np.ndarray]:
        """The arrays of a piece: those kept, or what ``make`` returns, which is kept from now on."""
        kept = self.kept(name)
        return self.keep(name, make()) if kept is None else kept

    def drop(self, name: str) -> None:
        """Forget the pieces of a part, once a later piece holds what came of them."""
        if self.folder is not None:
            for file in sorted((self.folder / name).rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            with suppress(FileNotFoundError):
                (self.folder / name).rmdir()


NOTHING_KEPT = Checkpoint()


def begin(folder: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in ``folder``, new or to go on with.

    InputError, naming what differs, if it was begun with another ``identity``; a folder whose identity cannot be read
    is begun again.
    """
    file = folder / IDENTITY
    text = json.dumps(dict(identity), sort_keys=True, indent=1)
    if file.exists():
        before = _identity(file)
        if before is None:
            _tell(f"{file} is damaged: the run begins again")
            Checkpoint(folder.parent).drop(folder.name)
        else:
            for key, value in json.loads(text).items():
                if before.get(key) != value:
                    what = MEANING.get(key, f"another {key}")
                    raise InputError(
                        f"{folder.parent}: the unfinished run was begun with {what}; "
                        "resume it with its own, or drop it with --force"
                    )
            return Checkpoint(folder)
    elif folder.exists() and any(".part" not in f.name for f in folder.iterdir()):
        raise InputError(
            f"{folder.parent}: the unfinished run does not say what it was begun with; drop it with --force"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _replace(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return Checkpoint(folder)


def finish(folder: Path) -> None:
    """Drop the checkpoint of a run that is finished and in its place."""
    shutil.rmtree(folder, ignore_errors=True)


def _identity(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _read(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file; None if there is none, or it is damaged (every member has a checksum)."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive can fail anywhere in zipfile, zlib or NumPy
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        _tell(f"{file} is damaged ({reason}): what it held is computed again from what came before it")
        return None


def _write(file: Path, arrays: Arrays) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    _replace(file, lambda temporary: np.savez(temporary, **arrays))


def _replace(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all; InputError where that fails, with the cause."""
    temporary = file.with_name(f"{file.stem}.part{file.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise explain(error, file) from error


def _tell(message: str) -> None:
    print(f"pkpd: {message}", file=sys.stderr)
