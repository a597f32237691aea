"""Which runs a command asks for: configs crossed with the values that ``--set`` gives to a key, and their names."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pkpd.tomlfile import alternatives, value_of

LONGEST_NAME = 120
_SAFE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")
_TAKEN = re.compile(r".*\.(log|csv)", re.IGNORECASE)  # what else lies beside the run folders
_QUOTES_AND_BRACKETS = str.maketrans("", "", "'\"[]{} ")


class Job(NamedTuple):
    """One run: the name of its folder, its config (None: all defaults), settings, and swept values by key."""

    name: str
    file: Path | None
    settings: tuple[str, ...] = ()
    swept: Mapping[str, Any] = {}


def sweep(settings: Sequence[str]) -> dict[str, list[str]]:
    """The different values, as texts, of every key of ``--set``.

    Several values of one key are a sweep: ``seed=1,2`` is the same as ``seed=1`` and ``seed=2``. InputError for what
    is not ``key=value``.

    >>> sweep(["seed=1,2", "quick=true", "seed=3"])
    {'seed': ['1', '2', '3'], 'quick': ['true']}
    """
    values: dict[str, list[str]] = {}
    for setting in settings:
        key, texts = alternatives(setting)
        values.setdefault(key, []).extend(texts)
    return {key: list(dict.fromkeys(texts)) for key, texts in values.items()}


def expand(files: Mapping[str, Path | None], values: Mapping[str, Sequence[str]]) -> list[Job]:
    """A job for every config (by the name of its runs) and every combination of values, the last key fastest."""
    swept = [key for key, texts in values.items() if len(texts) > 1]
    jobs = []
    for stem, file in files.items():
        for texts in itertools.product(*values.values()):
            chosen = dict(zip(values, texts, strict=True))
            name = run_name(stem, {key: chosen[key] for key in swept})
            settings = tuple(f"{key}={text}" for key, text in chosen.items())
            jobs.append(Job(name, file, settings, {key: _plain(chosen[key]) for key in swept}))
    return jobs


def run_name(stem: str, swept: Mapping[str, str]) -> str:
    """Folder of a run. Where a name or value is not fit for that it is changed, and a hash tells it from its like.

    >>> run_name("phase3", {"seed": "2"}), run_name("phase3", {"data.leave_out": "['placebo']"})
    ('phase3-seed=2', 'phase3-data.leave_out=placebo-64766ea9')
    """
    text = "-".join([stem, *(f"{key}={value}" for key, value in swept.items())])
    good = all(_SAFE.fullmatch(part) for part in (stem, *swept.values())) and not _TAKEN.fullmatch(text)
    if good and len(text) <= LONGEST_NAME:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    safe = re.sub(r"[^A-Za-z0-9_.+=-]+", "_", text.translate(_QUOTES_AND_BRACKETS)).lstrip(".")
    return f"{safe[:LONGEST_NAME]}-{digest}"


def _plain(text: str) -> Any:
    """A value as a table shows it: a number or a string; anything else as it was typed."""
    value = value_of(text)
    return value if isinstance(value, str | int | float) else text
