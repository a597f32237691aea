"""``python -m inference`` is the command ``pkpd``."""

from inference.cli import entry

entry()
