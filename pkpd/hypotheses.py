"""The hypotheses of an analysis by name, and procedures over them: a graph, an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from pkpd.errors import InputError, nearest
from pkpd.tomlfile import shown
from pkpd.validated import Probability, Table

if TYPE_CHECKING:
    from pkpd.analysis import Analysis

ROUNDING = 1e-9  # of weights that should add to 1


class Graph(Table):
    """Graphical procedure: each hypothesis' share of alpha, and which shares of it pass on once it is rejected.

    A hypothesis is an arm, for its primary endpoint, or ``"ARM: ENDPOINT"``, see ``hypotheses``.
    """

    weights: dict[str, Probability]
    transitions: dict[str, dict[str, Probability]] = Field(default_factory=dict)


def hypotheses(analysis: Analysis, active: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Names of hypotheses: the place of the arm, and 0 for its primary endpoint or the secondary's number from 1.

    An arm's primary hypothesis is called by the arm, or ``"ARM: ENDPOINT"`` as the others are.
    """
    names = {f"{arm}: {analysis.endpoint}": (i, 0) for i, arm in enumerate(active)}
    names |= {f"{arm}: {s.label}": (i, k) for i, arm in enumerate(active) for k, s in enumerate(analysis.secondary, 1)}
    return names | {arm: (i, 0) for i, arm in enumerate(active)}


def check_graph(graph: Graph, known: Mapping[str, tuple[int, int]]) -> None:
    """InputError where weights or transitions are not those of known hypotheses, or give out more than there is."""
    rows = {"weights": graph.weights, **{f"transitions.{name}": row for name, row in graph.transitions.items()}}
    for place, names in {"transitions": list(graph.transitions), **{k: list(v) for k, v in rows.items()}}.items():
        seen: dict[tuple[int, int], str] = {}
        for name in names:
            if name not in known:
                raise InputError(f"analysis.graph: {shown(name)} is no arm with a comparison{nearest(name, known)}")
            if known[name] in seen:
                raise InputError(f"analysis.graph.{place}: {shown(name)} is {shown(seen[known[name]])} too; legal: one")
            seen[known[name]] = name
    for place, row in rows.items():
        if sum(row.values()) > 1 + ROUNDING:
            raise InputError(f"analysis.graph.{place} add to {sum(row.values()):g}; legal: at most 1")
    for name, row in graph.transitions.items():
        if any(share and known[to] == known[name] for to, share in row.items()):
            raise InputError(f"analysis.graph.transitions.{name}: a share for itself; legal: for other arms")


def check_order(order: Sequence[str], known: Mapping[str, tuple[int, int]]) -> None:
    """InputError where an order is not one of all hypotheses, each arm's primary before its secondaries."""
    seen: set[tuple[int, int]] = set()
    for name in order:
        if name not in known:
            raise InputError(f"analysis.order: {shown(name)} is no arm with a comparison{nearest(name, known)}")
        arm, k = known[name]
        if (arm, k) in seen:
            raise InputError(f"analysis.order: {shown(name)} comes twice; legal: once")
        if k and (arm, 0) not in seen:
            raise InputError(f"analysis.order: {shown(name)} comes before the primary endpoint of its arm")
        seen.add((arm, k))
    for name, at in known.items():
        if at not in seen:
            raise InputError(f"analysis.order: {shown(name)} is missing; legal: every hypothesis once")
