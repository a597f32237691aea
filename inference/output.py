"""Writing results whole or not at all: temporary siblings, renamed at the end.

Every failure of the operating system becomes an InputError that names the path and what would help, and leaves
nothing behind. What cannot be renamed into place (a device, a pipe) is written to directly.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pkpd.errors import InputError

ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file grew beyond the limit on file sizes (see ulimit -f)",
    errno.EACCES: "no permission to write here; choose a folder of yours",
    errno.EPERM: "no permission to write here; choose a folder of yours",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "is a folder; a file is expected",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "the symbolic links of this path lead in a circle",
}
RUN_MARK = "manifest.json"  # every finished run folder has one; nothing else is ever replaced by --force
CHECKPOINT = "checkpoint"  # a folder in an unfinished run, worth keeping when it holds anything


def explain(error: OSError, path: Path | None = None) -> InputError:
    """The InputError that says in one line why ``path`` could not be written.

    A file that the error names itself, outside the folder of ``path``, is what could not be used instead.
    """
    reason = ADVICE.get(error.errno or 0) or error.strerror or str(error).partition("\n")[0]
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if named is not None and (path is None or not named.absolute().is_relative_to(path.absolute().parent)):
        return InputError(f"{named}: cannot be used: {reason}")
    return InputError(f"{path or 'standard output'}: cannot be written: {reason}")


@contextmanager
def atomic_path(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary path for the caller to write; it becomes ``path`` at the end, or vanishes on any exception.

    InputError if ``path`` exists (unless ``force``), is a folder, or cannot be written. A device or pipe gets a
    copy of what was written.
    """
    path = Path(path)
    with _reported(path):
        refuse_existing_file(path, force=force)
        if path.exists() and not path.is_file():
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / path.name
                yield temporary
                with open(temporary, "rb") as source, open(path, "wb") as target:
                    shutil.copyfileobj(source, target)
            return
        path = Path(os.path.realpath(path))  # a symbolic link stays one: what it points to is replaced
        with _parents(path):
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
            os.close(handle)
            try:
                yield Path(name)
                os.chmod(name, 0o666 & ~_umask())
                _sync(Path(name))
                os.replace(name, path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise


def write_bytes(path: str | Path, content: bytes, *, force: bool = True) -> None:
    """Writes a file whole or not at all; InputError if that fails, or if it exists and ``force`` is False."""
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str, *, force: bool = True) -> None:
    """Writes a UTF-8 text file whole or not at all; errors as in ``write_bytes``."""
    write_bytes(path, content.encode(), force=force)


def refuse_existing_file(path: str | Path, *, force: bool = False) -> None:
    """InputError, before any work is done, if a result may not be written to ``path``."""
    path = Path(path)
    with _reported(path):
        if path.is_dir():
            raise InputError(f"{path}: is a folder; the name of a file is expected")
        if path.is_file() and not force:
            raise InputError(f"{path}: exists already; choose another name, or replace it with --force")
        _check_parents(path)


def refuse_existing_run(path: str | Path, *, force: bool = False, resume: bool = False) -> None:
    """InputError, before any work is done, if a run folder may not be made at ``path``."""
    path = Path(path)
    with _reported(path):
        _check_parents(path)
        if path.exists() or path.is_symlink():
            if not path.is_dir():
                raise InputError(f"{path}: is a file; the name of a new folder is expected")
            if any(path.iterdir()):
                if not force:
                    raise InputError(f"{path}: exists already; choose another name, or replace it with --force")
                if not (path / RUN_MARK).is_file():
                    raise InputError(f"{path}: is not a run folder (it has no {RUN_MARK}), so --force leaves it alone")
        if staging_of(path).exists() and not (force or resume):
            raise InputError(
                f"{path}: an unfinished run lies in {staging_of(path)}; "
                "continue it with --resume, or drop it with --force"
            )


def staging_of(path: Path) -> Path:
    """Where the run folder ``path`` is built before it is renamed."""
    path = path.absolute()
    return path.with_name(f".{path.name}.partial")


@contextmanager
def run_directory(path: str | Path, *, force: bool = False, resume: bool = False) -> Iterator[Path]:
    """A folder for the caller to fill; it becomes ``path`` at the end.

    On any exception it vanishes, except that a run which was interrupted, or met a full disk, and left something in
    ``checkpoint/`` is kept for ``resume``. ``force`` replaces a finished run and drops an unfinished one. InputErrors
    as in ``refuse_existing_run``, and where another process is at work on the same run.
    """
    asked = path
    refuse_existing_run(path, force=force, resume=resume)
    path = Path(path).absolute()
    staging = staging_of(path)
    with _reported(path), _parents(path), ExitStack() as held:
        if force and not resume and staging.exists():
            with _alone(staging, asked):
                shutil.rmtree(staging)
        resumed = staging.exists()
        staging.mkdir(exist_ok=True)
        held.enter_context(_alone(staging, asked))
        try:
            yield staging
            _replace_folder(staging, path)
        except BaseException as error:
            refused = isinstance(error, InputError) and not isinstance(error.__cause__, OSError)
            worth_keeping = resumed or not refused
            if not (worth_keeping and has_checkpoint(staging)):
                shutil.rmtree(staging, ignore_errors=True)
            if isinstance(error, InputError):  # says where the file was to be, not where it was built
                raise InputError(str(error).replace(str(staging), str(asked))) from error
            raise


@contextmanager
def _alone(staging: Path, path: str | Path) -> Iterator[None]:
    """Holds an unfinished run for this process; the system lets go of it however the process ends."""
    folder = os.open(staging, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path}: another process is at work on this run; wait for it, or choose another name"
            ) from None
        yield
    finally:
        os.close(folder)


def has_checkpoint(folder: Path) -> bool:
    """Whether an unfinished run left anything to continue from."""
    checkpoint = folder / CHECKPOINT
    return checkpoint.is_dir() and any(checkpoint.iterdir())


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turns an OSError into the InputError that explains it; a broken pipe is left to the caller."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise explain(error, path) from error


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Makes the folders above ``path``, and takes those it made away again on any exception."""
    missing = [p for p in path.parents if not p.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def _check_parents(path: Path) -> None:
    """InputError if a part of the path above ``path`` is a file, or the folder there cannot be written to."""
    for parent in path.absolute().parents:
        if parent.is_dir():
            if not os.access(parent, os.W_OK | os.X_OK) and not path.exists():
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        if parent.exists():
            raise InputError(f"{path}: cannot be written: {parent} is a file, not a folder")


def _replace_folder(staging: Path, path: Path) -> None:
    """Renames ``staging`` to ``path``; a finished run that is there is moved aside first, then removed."""
    for file in staging.rglob("*"):
        if file.is_file():
            _sync(file)
    if not path.exists():
        os.rename(staging, path)
        return
    aside = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
    try:
        os.rename(staging, path)
    except OSError:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Makes the system write the file out now: a disk that fills up late is an error here, not a torn file."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
