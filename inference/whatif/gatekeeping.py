"""Several endpoints of several arms: which hypotheses a trial rejects at its family-wise level.

serial: one graphical procedure (Bretz, Maurer, Brannath and Posch 2009) over arms and endpoints. Alpha starts on the
primary hypotheses as the multiplicity between arms has it; a rejected hypothesis gives all of its level to the next
endpoint of its arm, and the last one of an arm gives it to the primaries of the others (holm), to the next arm's
primary (fixed-sequence) or to nobody (bonferroni). A graph is a closed test of weighted Bonferroni tests, so the
family-wise error is at most alpha whichever nulls are true and however the endpoints depend on each other. So is a
user's own graph.

all-primaries: the arms' primary hypotheses by their multiplicity, and only if all of them are rejected the secondaries,
by such a graph at the full alpha. Serial gatekeeping of two families (Maurer, Hothorn and Lehmacher 1995): where a
primary null is true, a secondary is reached by rejecting it only, and else the second family's own procedure holds.
With hochberg the level is kept where Hochberg's test keeps it, as for comparisons with one control.

With looks an arm's secondaries are tested at the look at which its primary is rejected, each against the boundary that
the same spending of the same level has at that look (Glimm, Maurer and Bretz 2010; Tamhane, Mehta and Liu 2010): the
full level would not do. A secondary null is then rejected only where its own group-sequential test rejects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inference.whatif import multiplicity
from pkpd.hypotheses import hypotheses

if TYPE_CHECKING:
    from pkpd.analysis import Analysis
    from pkpd.scenario import Scenario


def chains(arms: int, endpoints: int, between: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights and transitions of hypotheses (arm by arm, its endpoints in order) that start on the first endpoints."""
    m = arms * endpoints
    first, last = np.arange(0, m, endpoints), np.arange(endpoints - 1, m, endpoints)
    transitions = np.zeros((m, m))
    down = np.setdiff1d(np.arange(m), last)
    transitions[down, down + 1] = 1
    weights = np.zeros(m)
    if between == "fixed-sequence":
        weights[0] = 1
        transitions[last[:-1], first[1:]] = 1
        return weights, transitions
    weights[first] = 1 / arms
    if between in ("holm", "hochberg") and arms > 1:
        transitions[np.ix_(last, first)] = (1 - np.identity(arms)) / (arms - 1)
    return weights, transitions


def graph_of(design: Scenario) -> tuple[np.ndarray, np.ndarray]:
    """Weights and transitions of the design's hypotheses, those of an arm one after another, its primary first."""
    analysis = design.analysis
    assert analysis is not None
    active, endpoints = design.active_arms, 1 + len(analysis.secondary)
    if analysis.graph is None and not analysis.order:
        return chains(len(active), endpoints, analysis.multiplicity)
    place = {name: arm * endpoints + k for name, (arm, k) in hypotheses(analysis, active).items()}
    m = len(active) * endpoints
    weights, transitions = np.zeros(m), np.zeros((m, m))
    if analysis.graph is None:
        order = [place[name] for name in analysis.order]
        weights[order[0]] = 1
        transitions[order[:-1], order[1:]] = 1
        return weights, transitions
    for name, share in analysis.graph.weights.items():
        weights[place[name]] = share
    for name, row in analysis.graph.transitions.items():
        for to, share in row.items():
            transitions[place[name], place[to]] = share
    return weights, transitions


def rejections(design: Scenario, p: np.ndarray) -> np.ndarray:
    """Which hypotheses are rejected, [trials, arms, endpoints], at the p of that shape; the primary comes first."""
    analysis = design.analysis
    assert analysis is not None
    if p.shape[2] == 1 and analysis.graph is None and not analysis.order:
        return multiplicity.METHODS[analysis.multiplicity](p[:, :, 0], analysis.alpha)[:, :, None]
    if analysis.gatekeeping == "all-primaries":
        return _gated(analysis, p)
    return multiplicity.graphical(p.reshape(len(p), -1), analysis.alpha, *graph_of(design)).reshape(p.shape)


def _gated(analysis: Analysis, p: np.ndarray) -> np.ndarray:
    """Secondaries behind the gate of all primaries."""
    trials, arms, endpoints = p.shape
    primary = multiplicity.METHODS[analysis.multiplicity](p[:, :, 0], analysis.alpha)
    graph = chains(arms, endpoints - 1, analysis.multiplicity)
    behind = multiplicity.graphical(p[:, :, 1:].reshape(trials, -1), analysis.alpha, *graph)
    behind &= np.asarray(primary.all(axis=1))[:, None]
    return np.concatenate([primary[:, :, None], behind.reshape(trials, arms, endpoints - 1)], axis=2)


def at_the_look(crossed: np.ndarray, p: np.ndarray, level: float) -> np.ndarray:
    """Secondaries [trials, arms, secondaries] of the arms that crossed at a look, in order at its nominal level."""
    return np.asarray(crossed[:, :, None] & np.logical_and.accumulate(p <= level, axis=2))
