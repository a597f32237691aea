"""Mechanistic population simulation of thrombopoietin-receptor agonists in immune thrombocytopenia, in JAX.

What a notebook needs is exported here and imported when it is first used; the modules hold the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pkpd.engine.recorded import course as recorded_course
    from pkpd.errors import InputError
    from pkpd.notebook import endpoint_table, simulate_scenario, summarise_scenario, summary_table
    from pkpd.parameters import Library, load_library, with_values
    from pkpd.planned import planned_arms
    from pkpd.profile import run_case
    from pkpd.scenario import load_scenario
    from pkpd.trial import simulate

# name -> module, and after a colon its name there where that is another
_HOME = {
    "InputError": "errors",
    "Library": "parameters",
    "endpoint_table": "notebook",
    "load_library": "parameters",
    "load_scenario": "scenario",
    "planned_arms": "planned",
    "recorded_course": "engine.recorded:course",
    "run_case": "profile",
    "simulate": "trial",
    "simulate_scenario": "notebook",
    "summarise_scenario": "notebook",
    "summary_table": "notebook",
    "with_values": "parameters",
}

__all__ = [
    "InputError",
    "Library",
    "endpoint_table",
    "load_library",
    "load_scenario",
    "planned_arms",
    "recorded_course",
    "run_case",
    "simulate",
    "simulate_scenario",
    "summarise_scenario",
    "summary_table",
    "with_values",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pkpd' has no attribute {name!r}")
    module, _, there = _HOME[name].partition(":")
    return getattr(import_module(f"pkpd.{module}"), there or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
