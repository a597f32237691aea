"""The command line: help, exit codes, messages, and how it ends when something else ends it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from inference import cli
from inference.progress import bars, silent
from inference.startup import _mend
from pkpd import devices
from pkpd.errors import InputError

COMMANDS = ("fit", "trial", "simulate", "profile", "assay", "check", "report", "info")


def program(root: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root)} | options.pop("env", {})
    command = [sys.executable, "-m", "inference", *arguments]
    return subprocess.run(command, env=environment, text=True, check=False, **options)


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {command} " in shown for command in COMMANDS)
    assert "not for treatment decisions" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_help(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert f"pkpd {command}" in capsys.readouterr().out


def test_no_arguments_is_a_call_for_help(capsys):
    assert cli.main([]) == 0
    assert "Usage: pkpd" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pkpd ")


def test_engines_are_those_of_the_device_policy():
    assert tuple(engine.value for engine in cli.Engine) == (devices.AUTOMATIC, *devices.ENGINES)


def end_check_with(monkeypatch, error: BaseException) -> int:
    def run(file: Path) -> None:
        raise error

    monkeypatch.setattr("inference.commands.check.run", run)
    return cli.main(["check", "anything"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "pkpd: interrupted\n"),
        (typer.Abort(), 130, "pkpd: interrupted\n"),
        (InputError("a.toml: wrong"), 2, "pkpd: error: a.toml: wrong\n"),
        (OSError(28, "No space", "/x/a.csv"), 2, "pkpd: error: /x/a.csv: cannot be used: the disk is full"),
        (MemoryError(), 2, "pkpd: error: out of memory"),
        (ZeroDivisionError("by zero"), 1, "pkpd: internal error: ZeroDivisionError: by zero at test_cli.py:"),
    ],
)  # fmt: skip
def test_every_end_is_one_message_and_a_code(monkeypatch, capsys, error, code, said):
    assert end_check_with(monkeypatch, error) == code
    written = capsys.readouterr()
    assert written.err.startswith(said) and written.err.count("\n") == 1 and written.out == ""


def test_a_defect_of_ours_shows_its_traceback_when_asked(monkeypatch):
    monkeypatch.setenv("PKPD_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        end_check_with(monkeypatch, ZeroDivisionError())


def test_a_reader_that_has_gone_is_told_nothing(monkeypatch, capsys):
    assert end_check_with(monkeypatch, BrokenPipeError(32, "Broken pipe")) == 1
    assert capsys.readouterr().err == ""


def test_a_full_standard_output(root):
    with open("/dev/full", "w") as full:
        done = program(root, "--version", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == (
        "pkpd: error: standard output: cannot be written: the disk is full; free some space or choose another place\n"
    )


def test_a_file_name_that_is_not_text(root, tmp_path):
    done = program(root, "check", os.fsdecode(b"\xff.toml"), cwd=tmp_path, capture_output=True)
    assert done.returncode == 2 and "no such file" in done.stderr and done.stderr.count("\n") == 1


WAITING = """
import sys, time
import inference.commands.check as check
from inference import cli, output
def run(file):
    with output.run_directory("run") as folder:
        (folder / "part").write_text("half")
        print("ready", flush=True)
        time.sleep(60)
check.run = run
sys.argv = ["pkpd", "check", "x"]
cli.entry()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_half_written(root, tmp_path, number, code):
    running = subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    assert [path.name for path in tmp_path.iterdir()] == [".run.partial"]
    running.send_signal(number)
    _, said = running.communicate(timeout=30)
    assert running.returncode == code and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


DRAWING = """
import time
from inference.progress import bars
with bars() as progress:
    for i in range(3):
        progress("round 1", i, 2)
        time.sleep(0.3)
"""


def test_progress_is_drawn_on_a_terminal_with_time_to_go(root):
    leader, follower = pty.openpty()
    running = subprocess.Popen([sys.executable, "-c", DRAWING], cwd=root, stderr=follower, stdout=subprocess.PIPE)
    running.wait(timeout=30)
    os.close(follower)
    drawn = os.read(leader, 100_000).decode()
    os.close(leader)
    assert running.stdout is not None and running.stdout.read() == b""
    assert "round 1" in drawn and "2/2" in drawn and "to go" in drawn


def test_progress_is_silent_where_nobody_looks(capsys):
    with bars() as progress:
        assert progress is silent
        progress("round 1", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_cut_off_compiled_program_is_removed_and_other_warnings_are_shown(tmp_path):
    (tmp_path / "jit_f-0123-cache").write_text("cut off")
    (tmp_path / "jit_g-0123-cache").write_text("whole")
    shown: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *where, **more: shown.append(str(message))
        _mend(tmp_path)
        warnings.warn("Error reading persistent compilation cache entry for 'jit_f': error: truncated", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [path.name for path in tmp_path.iterdir()] == ["jit_g-0123-cache"]
    assert shown == ["something else"]
