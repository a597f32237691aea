"""One exception for everything a user can get wrong, so that every front end reports it the same way."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message names the file, key or row, the value, and what would be accepted."""


def nearest(name: str, legal: Iterable[str]) -> str:
    """Text that suggests the legal name nearest to ``name``, or lists all of them when none is near.

    >>> nearest("clearence_l_per_h", ["clearance_l_per_h", "dimer_hill"])
    "; did you mean 'clearance_l_per_h'?"
    """
    legal = sorted(legal)
    close = difflib.get_close_matches(name, legal, n=3, cutoff=0.6)
    if close:
        # of names equally near, the one that begins alike
        best = max(close, key=lambda c: (difflib.SequenceMatcher(None, c, name).ratio(), _alike(c, name)))
        return f"; did you mean '{best}'?"
    return f"; legal names: {', '.join(legal)}"


def _alike(one: str, other: str) -> int:
    """Characters in common from the start."""
    same = (a == b for a, b in zip(one, other, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, same))
