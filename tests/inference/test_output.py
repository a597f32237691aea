"""Results are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from inference import output
from pkpd.errors import InputError


def contents(folder: Path) -> set[str]:
    """Every path below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path):
    target = tmp_path / "new" / "folder" / "a.txt"
    with output.atomic_path(target) as path:
        path.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert target.stat().st_mode & 0o777 == 0o666 & ~output._umask()
    assert contents(tmp_path) == {"new", "new/folder", "new/folder/a.txt"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError, SystemExit, RuntimeError])
def test_whatever_goes_wrong_leaves_no_file_and_no_folder(tmp_path, error):
    with pytest.raises(error), output.atomic_path(tmp_path / "new" / "a.txt") as path:
        path.write_text("half")
        raise error
    with pytest.raises(error), output.run_directory(tmp_path / "runs" / "a") as folder:
        (folder / "part.csv").write_text("half")
        raise error
    assert contents(tmp_path) == set()


def test_an_existing_file_is_replaced_only_by_force(tmp_path):
    target = tmp_path / "a.txt"
    output.write_text(target, "old")
    with pytest.raises(InputError, match=r"exists already; .* --force"):
        output.write_text(target, "new", force=False)
    assert target.read_text() == "old"
    output.write_text(target, "new", force=True)
    assert target.read_text() == "new"


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    output.write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def make_run(path: Path, text: str = "done", **options: bool) -> None:
    with output.run_directory(path, **options) as folder:
        (folder / output.RUN_MARK).write_text("{}")
        (folder / "result.txt").write_text(text)


def test_a_run_appears_whole_and_is_replaced_only_by_force(tmp_path):
    run = tmp_path / "run"
    make_run(run)
    with pytest.raises(InputError, match="exists already"):
        make_run(run)
    make_run(run, "again", force=True)
    assert (run / "result.txt").read_text() == "again"
    assert contents(tmp_path) == {"run", f"run/{output.RUN_MARK}", "run/result.txt"}


def test_an_empty_folder_may_become_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    make_run(tmp_path / "run")
    assert (tmp_path / "run" / "result.txt").read_text() == "done"


def test_force_never_replaces_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is not a run folder"):
        make_run(tmp_path, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_failed_replacement_keeps_the_old_run(tmp_path):
    make_run(tmp_path / "run", "old")
    with pytest.raises(RuntimeError), output.run_directory(tmp_path / "run", force=True):
        raise RuntimeError
    assert (tmp_path / "run" / "result.txt").read_text() == "old"


def interrupt_with_checkpoint(run: Path, error: type[BaseException], **options: bool) -> None:
    with suppress(error), output.run_directory(run, **options) as folder:
        (folder / output.CHECKPOINT).mkdir(exist_ok=True)
        (folder / output.CHECKPOINT / "round1").write_text("hours of work")
        raise error


def test_an_interrupted_run_with_a_checkpoint_can_be_resumed(tmp_path):
    run = tmp_path / "run"
    interrupt_with_checkpoint(run, KeyboardInterrupt)
    assert not run.exists()
    with pytest.raises(InputError, match="--resume"):
        make_run(run)
    with output.run_directory(run, resume=True) as folder:
        assert (folder / output.CHECKPOINT / "round1").read_text() == "hours of work"
    assert contents(tmp_path) == {"run", "run/checkpoint", "run/checkpoint/round1"}


def test_an_unfinished_run_is_dropped_by_force(tmp_path):
    run = tmp_path / "run"
    interrupt_with_checkpoint(run, KeyboardInterrupt)
    make_run(run, force=True)
    assert contents(tmp_path) == {"run", f"run/{output.RUN_MARK}", "run/result.txt"}


@pytest.mark.parametrize("how", [{"resume": True}, {"force": True}], ids=["resume", "force"])
def test_a_run_that_another_process_is_at_work_on_is_left_alone(tmp_path, how):
    """The lock is of the open folder, so a second opening in this process stands for another process."""
    with output.run_directory(tmp_path / "run") as first:
        (first / "checkpoint").mkdir()
        (first / "checkpoint" / "piece").write_text("kept")
        with pytest.raises(InputError, match="run: another process is at work on this run"):
            with output.run_directory(tmp_path / "run", **how):
                raise AssertionError("not reached")
        assert (first / "checkpoint" / "piece").read_text() == "kept"
        (first / output.RUN_MARK).write_text("{}")
    assert (tmp_path / "run" / output.RUN_MARK).exists()


def test_bad_input_leaves_nothing_even_with_a_checkpoint_unless_it_was_resumed(tmp_path):
    interrupt_with_checkpoint(tmp_path / "run", InputError)
    assert contents(tmp_path) == set()
    interrupt_with_checkpoint(tmp_path / "run", KeyboardInterrupt)
    interrupt_with_checkpoint(tmp_path / "run", InputError, resume=True)
    assert ".run.partial/checkpoint/round1" in contents(tmp_path)


def bad_places(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        "below a file": (tmp_path / "file" / "a", "is a file, not a folder"),
        "far below a file": (tmp_path / "file" / "a" / "b" / "c", "is a file, not a folder"),
        "below a device": (Path("/dev/null/a"), "is a file, not a folder"),
        "name too long": (tmp_path / ("a" * 300), "the name is too long"),
        "where nothing can be made": (Path("/proc/a"), "cannot be written"),
        "below a circle of links": (tmp_path / "loop" / "a", "cannot be written"),
    }


@pytest.mark.parametrize("place", [
    "below a file", "far below a file", "below a device", "name too long", "where nothing can be made",
    "below a circle of links",
])  # fmt: skip
@pytest.mark.parametrize("kind", ["file", "run"])
def test_places_that_cannot_be_written(tmp_path, place, kind):
    path, message = bad_places(tmp_path)[place]
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        if kind == "file":
            output.write_text(path, "x")
        else:
            make_run(path)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_folder_without_permission(tmp_path, monkeypatch):
    # root may write anywhere, so what the system would say is said for it
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="no permission to write here"):
        output.write_text(tmp_path / "a.txt", "x")
    with pytest.raises(InputError, match="no permission to write here"):
        make_run(tmp_path / "run")
    assert contents(tmp_path) == set()


def test_a_full_device():
    with pytest.raises(InputError, match="/dev/full: cannot be written: the disk is full"):
        output.write_text(Path("/dev/full"), "x")
    assert Path("/dev/full").is_char_device()


LIMITED = """
import resource, sys
from pathlib import Path
from inference import output
from pkpd.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    if sys.argv[2] == "file":
        output.write_text(Path(sys.argv[1]), "x" * 100_000)
    else:
        with output.run_directory(Path(sys.argv[1])) as folder:
            output.write_text(folder / "a", "x" * 100_000)
except InputError as error:
    sys.exit(f"InputError: {error}")
"""


@pytest.mark.parametrize("kind", ["file", "run"])
def test_a_limit_on_file_sizes(tmp_path, kind, root):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "new" / "a"), kind],
        capture_output=True, text=True, cwd=root, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "InputError" in done.stderr and "limit on file sizes" in done.stderr
    assert contents(tmp_path) == set()


def test_an_error_about_another_file_names_that_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot be used"), output.run_directory(tmp_path / "run"):
        open("/nowhere/nowhere.csv")
    assert contents(tmp_path) == set()


def test_a_device_gets_a_copy():
    null = Path(os.devnull)
    output.write_text(null, "x")
    assert null.is_char_device()
