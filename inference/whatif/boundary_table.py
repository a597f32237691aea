"""The looks of a sequential trial as a protocol prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inference.whatif.boundaries import exit_probabilities, nominal_levels
from inference.whatif.counts import sizes_at_looks
from inference.whatif.decisions import critical_values

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

COLUMNS = ("look", "share", "patients by arm", "critical z", "p at or below", "error spent")


def boundary_table(design: Scenario) -> list[tuple[int, float, str, float, float, float]]:
    """A row a look: its share, patients of each arm, boundary of one comparison, and the error spent up to there."""
    interims, analysis = design.interims, design.analysis
    assert interims is not None and analysis is not None
    critical = critical_values(design)
    spent = np.cumsum(exit_probabilities(critical, interims.looks, analysis.sided))
    patients = [", ".join(map(str, row)) for row in sizes_at_looks(design).tolist()]
    levels = nominal_levels(critical, analysis.sided)
    numbers = zip(interims.looks, patients, critical, levels.tolist(), spent.tolist(), strict=True)
    return [(k, *row) for k, row in enumerate(numbers, start=1)]
