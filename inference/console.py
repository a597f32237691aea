"""Tables on stdout: as wide as the terminal, and never cut where a program reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH_OF_A_FILE = 160


def console() -> Any:
    """The rich console of stdout."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE, highlight=False, soft_wrap=False)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints rows under a title; numbers to five digits, brackets as they are."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(f"{cell:.5g}" if isinstance(cell, float) else str(cell)) for cell in row))
    console().print(table)


def say(text: str) -> None:
    """One line on stdout."""
    print(text)
