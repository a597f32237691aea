"""The fit and the what-ifs: NumPyro and ArviZ live here, and the command line. ``Trial`` is a design from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.notebook import Trial

__all__ = ["Trial"]


def __getattr__(name: str) -> Any:
    if name != "Trial":  # imported when it is first used: a command that needs no JAX starts without it
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    from inference.notebook import Trial

    return Trial
