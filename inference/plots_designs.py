"""Figure of designs side by side: power against what was swept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from inference import labels, plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 3.4  # inches a row of panels


def power_curves(curves: pd.DataFrame, keys: Sequence[str]) -> Figure | None:
    """Power with its 95% Monte Carlo interval against the first key, a line for each value of the second, a panel for
    each comparison and test; None where there is no power, or more than two keys.
    """
    if curves.empty or not 1 <= len(keys) <= 2:
        return None
    panels = list(curves.groupby(["comparison", "quantity"], sort=False))
    columns = min(3, len(panels))
    with plots.style():
        fig = plots.figure(HEIGHT * -(-len(panels) // columns), "Power of designs")
        axes = fig.subplots(-(-len(panels) // columns), columns, squeeze=False, sharey=True).ravel()
        for ax, ((comparison, quantity), rows) in zip(axes, panels, strict=False):
            _panel(ax, rows, keys)
            ax.set_title(f"{comparison}\n{quantity.replace('_', ' ')}", fontsize="small")
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        if len(keys) == 2:
            fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", title=keys[1], ncols=4)
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, keys: Sequence[str]) -> None:
    numeric = all(isinstance(x, int | float) for x in rows[keys[0]])
    at = {value: value if numeric else i for i, value in enumerate(dict.fromkeys(rows[keys[0]]))}
    groups = rows.groupby(keys[1], sort=False) if len(keys) == 2 else [("", rows)]
    for (name, group), colour in zip(groups, labels.ARM_COLOURS * 4, strict=False):
        x = np.array([at[value] for value in group[keys[0]]], float)
        error = 1.96 * group["mc_se"].to_numpy(float)
        order = np.argsort(x)
        ax.errorbar(
            x[order], group["estimate"].to_numpy(float)[order], error[order], color=colour, marker="o", markersize=4,
            linewidth=1.2, capsize=2, label=str(name),
        )  # fmt: skip
    if not numeric:
        ax.set_xticks(list(at.values()), [str(value) for value in at])
    ax.set(xlabel=keys[0], ylim=(-0.02, 1.02))
