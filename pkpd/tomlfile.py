"""Reads TOML that a user wrote: whatever is bad about a file or a setting is one InputError of one line."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkpd.errors import InputError, nearest

MAX_BYTES = 10_000_000
_BARE_WORD = re.compile(r"[A-Za-z][\w ./+-]*")
_KEY_PART = re.compile(r'"([^"]+)"|([^".\s]+)')
_SPLITTING = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'|[][{},]""")  # a quoted string, a bracket, a comma


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file (UTF-8, with or without a byte order mark, at most 10 MB).

    InputError if it is missing, a folder, no regular file, unreadable, empty, binary, too large or malformed.
    """
    text = _text(path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, or a number with too many digits
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "a value that cannot be read"
        raise InputError(f"{path}: malformed TOML: {_one_line(reason)}") from None
    if not data:
        raise InputError(f"{path}: is empty; a TOML file with at least one key is expected")
    return data


def apply_settings(data: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """``data`` with each ``key=value`` of ``settings`` applied in order; ``data`` itself is left alone.

    The key is dotted (``trial.n_trials``); a row of a list is reached by its name or its number from 1
    (``arms.placebo.n``, ``arms.1.n``), a part with dots or blanks in double quotes. The value is TOML, or a bare
    word that stands for a string. InputError for anything else, and for a path through something that is no table.
    """
    result: Any = _copy(data)
    for setting in settings:
        path, value = _setting(setting)
        at = result
        for index, part in enumerate(path[:-1]):
            at = _below(at, part, setting, ".".join(path[: index + 1]))
        last = path[-1]
        if isinstance(at, list):
            at[_row(at, last, setting)] = value
        else:
            at[last] = value
    return result


def alternatives(setting: str) -> tuple[str, list[str]]:
    """Key and values of a ``key=value`` setting, as texts: one value, or several that commas separate.

    Only what is no single value is taken apart, at commas outside brackets and quotes. InputError for anything else.

    >>> alternatives("seed = 1, 2"), alternatives("data.leave_out=['a'],['a','b']"), alternatives("free=['a','b']")
    (('seed', ['1', '2']), ('data.leave_out', ["['a']", "['a','b']"]), ('free', ["['a','b']"]))
    """
    key, _, text = setting.partition("=")
    try:
        path, texts = _setting(setting)[0], [text.strip()]
    except InputError:
        texts = _split(text)
        if len(texts) == 1:
            raise
        path, *_ = [_setting(f"{key}={one}")[0] for one in texts]
    return ".".join(part if _KEY_PART.fullmatch(part) else f'"{part}"' for part in path), texts


def value_of(text: str) -> Any:
    """The value that the right-hand side of a setting stands for."""
    return _setting(f"value={text}")[1]


def first_error(found: Sequence[Mapping[str, Any]], where: str) -> InputError:
    """The first of pydantic's ``errors()`` as an InputError that names place, key, value and what is legal."""
    first = found[0]
    key, kind, value = key_text(first["loc"]), first["type"], shown(first["input"])
    place = f"{where}: {key}" if key else where
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        text = f"{place}: {cause}"
    elif kind == "missing":
        text = f"{place} is missing"
    elif kind in ("model_type", "dict_type"):
        text = f"{place} = {value}: legal: a table"
    else:
        legal = re.sub("^(Value error, |Input should be |String should have )", "", first["msg"])
        text = f"{place} = {value}: legal: {legal}"
        if kind == "literal_error" and isinstance(first["input"], str):
            hint = nearest(first["input"], re.findall(r"'([^']*)'", first["ctx"]["expected"]))
            text += hint if "did you mean" in hint else ""
    return InputError(text + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""))


def key_text(location: Sequence[str | int]) -> str:
    """A path of keys and zero-based rows as a user reads it: ``("arms", 0, "n")`` is ``arms[1].n``."""
    parts = (f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location if part != "")
    return "".join(parts).lstrip(".")


def shown(value: Any) -> str:
    """A value on one line, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer with too many digits to print
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _text(path: str | Path) -> str:
    try:
        # Opening a pipe would wait for a writer, so what it is is asked first.
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:  # a null character in the path
        raise InputError(f"{str(path)!r}: is no path of a file") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{path}: is {what}; a TOML file is expected")
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES // 1_000_000} MB; a TOML file is expected")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path}: is not text (UTF-8); a TOML file is expected")
    return text


def _setting(setting: str) -> tuple[list[str], Any]:
    key, equals, text = setting.partition("=")
    key, text = key.strip(), text.strip()
    parts = [quoted or bare for quoted, bare in _KEY_PART.findall(key)]
    rebuilt = _KEY_PART.sub("k", key)
    if not equals or not parts or rebuilt != ".".join("k" * len(parts)):
        raise InputError(f"--set {setting!r}: is not key=value; legal: such as --set trial.n_trials=200")
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        if not _BARE_WORD.fullmatch(text):
            raise InputError(
                f"--set {setting!r}: {shown(text)} is no TOML value; legal: such as 5, true, [7, 14], a word"
            ) from None
        found = {"value": text}
    if list(found) != ["value"]:
        raise InputError(f"--set {setting!r}: holds more than one value")
    return parts, found["value"]


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for found in _SPLITTING.finditer(text):
        depth += (found[0] in ("[", "{")) - (found[0] in ("]", "}"))
        if found[0] == "," and depth == 0:
            parts.append(text[start : found.start()].strip())
            start = found.end()
    return [*parts, text[start:].strip()]


def _below(at: Any, part: str, setting: str, path: str) -> Any:
    below = at[_row(at, part, setting)] if isinstance(at, list) else at.setdefault(part, {})
    if not isinstance(below, dict | list):
        raise InputError(f"--set {setting!r}: {path} = {shown(below)} is no table")
    return below


def _row(rows: list[Any], part: str, setting: str) -> int:
    names = [str(row.get("name")) for row in rows if isinstance(row, dict)]
    if part in names and len(names) == len(rows):
        return names.index(part)
    if part.isdecimal() and 1 <= int(part) <= len(rows):
        return int(part) - 1
    raise InputError(f"--set {setting!r}: no row {part!r} among {len(rows)}{nearest(part, names) if names else ''}")


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(below) for key, below in value.items()}
    return [_copy(below) for below in value] if isinstance(value, list | tuple) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())
