"""The phase III trial from the shipped tables, without what reads and checks a scenario: needs JAX and NumPy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pkpd import tables, titration, trial

TABLE = tables.read_toml(Path(trial.__file__).parent / "scenarios" / "phase3.toml")
VISITS_D = tuple(TABLE["trial"]["visits_d"])


def arm(start_mg: float, dtype: Any = np.float32) -> trial.Arm:
    """The arm that starts at ``start_mg``; a test holds it to that of ``planned_arms``."""
    rule = titration.compact(**TABLE["titration"])
    return trial.Arm(
        rule=rule,
        start_level=np.int32(titration.level_of(rule, start_mg)),
        baseline_below=dtype(TABLE["entry"]["platelets_below_1e9_per_l"]),
    )
