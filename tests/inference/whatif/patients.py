"""Made-up patients for tests of analyses: strata of unequal size, arms 2 to 1, some patients not in the analysis."""

from typing import NamedTuple

import numpy as np


class Patients(NamedTuple):
    """Arrays [trials, patients]; ``baseline`` is a log count."""

    treated: np.ndarray
    present: np.ndarray
    stratum: np.ndarray
    baseline: np.ndarray
    rng: np.random.Generator

    @property
    def common(self):
        """The arguments that every analysis takes by name."""
        return {"present": self.present, "stratum": self.stratum}

    @property
    def with_baseline(self):
        return {**self.common, "covariates": self.baseline[..., None]}


def patients(seed, n_trials, n, share_present=0.9, strata=3):
    rng = np.random.default_rng(seed)
    shape = (n_trials, n)
    treated = rng.permuted(np.broadcast_to(np.arange(n) % 3 > 0, shape), axis=1)
    stratum = np.minimum(rng.geometric(0.5, shape) - 1, strata - 1)
    return Patients(treated, rng.random(shape) < share_present, stratum, rng.normal(2.5, 0.7, shape), rng)


def indicators(stratum):
    """Columns of 0 and 1 [patients, strata] of the strata that occur."""
    return (stratum[:, None] == np.unique(stratum)).astype(float)
