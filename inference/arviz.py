"""The one file that touches ArviZ: convergence of chains, and the plots ArviZ draws better than we would."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

RANK_COLUMNS, RANK_DRAWS = 4, 250  # draws a chain: more cost seconds and show no more


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


def pareto_smoothed(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Pareto-smoothed log weights [n] of an importance sampler, and k-hat (Vehtari et al. 2024); 0 if all are equal."""
    from arviz_stats.base import array_stats

    if np.ptp(log_weights) == 0:
        return np.asarray(log_weights, np.float64), 0.0
    smoothed, khat = array_stats.psislw(-np.asarray(log_weights, np.float64))  # it wants what weights are 1 over
    return np.asarray(smoothed, np.float64), float(khat)


def density(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and kernel density of draws [n]."""
    from arviz_stats.base import array_stats

    x, y, _ = array_stats.kde(np.asarray(values, np.float64), grid_len=256)
    return np.asarray(x), np.asarray(y)


def rank_plot(tree: xr.DataTree, names: Sequence[str], titles: Mapping[str, str]) -> Figure:
    """Rank plots of some parameters of group posterior: chains that agree stay inside the grey envelope."""
    from arviz_base.labels import MapLabeller

    rows = -(-len(names) // RANK_COLUMNS)
    thinned = tree["posterior"].to_dataset()[list(names)]
    thinned = thinned.isel(draw=slice(None, None, max(1, thinned.sizes["draw"] // RANK_DRAWS)))
    tree = type(tree).from_dict({"posterior": thinned})
    options: dict[str, Any] = {"var_names": list(names), "labeller": MapLabeller(var_name_map=dict(titles))}
    return _drawn(
        "plot_rank", tree, (10.0, 0.6 + 1.7 * rows), "Ranks of the draws by chain", col_wrap=RANK_COLUMNS, **options
    )


def energy_plot(tree: xr.DataTree) -> Figure:
    """Marginal and transition energy of NUTS by chain, with the Bayesian fraction of missing information."""
    from matplotlib.ticker import MaxNLocator

    fig = _drawn("plot_energy", tree, (7.5, 3.0), "Energy of NUTS")
    fig.axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    fig.axes[1].set_title("energy less its mean")
    return fig


def bfmi(energy: NDArray[np.float64]) -> float:
    """Smallest Bayesian fraction of missing information over the chains of ``energy`` [chains, draws]."""
    return float(np.min(np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.var(energy, axis=1)))


def _drawn(plot: str, tree: xr.DataTree, size: tuple[float, float], title: str, **options: Any) -> Figure:
    """A plot of ArviZ as a Figure that pyplot no longer holds."""
    import matplotlib

    if "matplotlib.pyplot" not in sys.modules:  # a notebook's own back end stays
        matplotlib.use("Agg")
    import arviz_plots
    from matplotlib import pyplot

    shape = {"figsize": size, "layout": "constrained"}
    drawn = getattr(arviz_plots, plot)(tree, backend="matplotlib", figure_kwargs=shape, **options)
    fig = drawn.viz["figure"].item()
    fig.suptitle(title, x=0.008, ha="left")
    pyplot.close(fig)
    return fig
