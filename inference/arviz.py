"""The one file that touches ArviZ: convergence of chains, and the plots ArviZ draws better than we would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Convergence(NamedTuple):
    """How well the chains of some parameters agree; every field [parameters]."""

    rhat: NDArray[np.float64]
    ess_bulk: NDArray[np.float64]
    ess_tail: NDArray[np.float64]
    mcse_mean: NDArray[np.float64]  # in units of the parameter


def convergence(draws: Mapping[str, NDArray[np.float64]]) -> Convergence:
    """Rank-normalised R-hat, bulk and tail effective draws (Vehtari et al. 2021) of draws [chains, draws] by name."""
    from arviz_stats.base import array_stats

    stacked = np.stack([np.asarray(values, np.float64) for values in draws.values()])
    axes = {"chain_axis": 1, "draw_axis": 2}
    return Convergence(
        np.asarray(array_stats.rhat(stacked, **axes), np.float64),
        np.asarray(array_stats.ess(stacked, method="bulk", **axes), np.float64),
        np.asarray(array_stats.ess(stacked, method="tail", prob=(0.05, 0.95), **axes), np.float64),
        np.asarray(array_stats.mcse(stacked, method="mean", **axes), np.float64),
    )
