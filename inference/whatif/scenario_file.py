"""Writes the tables of a scenario as a TOML file that reads like one written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference.config import dump_toml


def as_toml(table: Mapping[str, Any]) -> str:
    """TOML text of tables, which ``read_toml`` reads back to the same: lists of tables as ``[[..]]``, a table each."""
    return _table(table, ()).lstrip("\n")


def value_text(value: Any) -> str:
    """A value as TOML, on one line."""
    return dump_toml({"v": [value]}).removeprefix("v = [").rstrip("\n").removesuffix("]")


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> str:
    scalars = {key: value for key, value in table.items() if not _below(value)}
    text = "".join(f"{_key(key)} = {value_text(value)}\n" for key, value in scalars.items())
    for key, value in table.items():
        if key in scalars:
            continue
        own = (*path, _key(key))
        several = isinstance(value, list)
        head = f"\n[[{'.'.join(own)}]]\n" if several else f"\n[{'.'.join(own)}]\n"
        text += "".join(head + _table(row, own) for row in (value if several else [value]))
    return text


def _below(value: Any) -> bool:
    """Whether a value is a table or a list of tables."""
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
    )


def _key(name: str) -> str:
    return dump_toml({name: 0}).rpartition(" = ")[0]
