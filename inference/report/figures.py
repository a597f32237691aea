"""All figures of the report as inlined pictures, numbered in the order in which a reader meets them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from inference import arviz, labels, plots, plots_posterior, plots_typical, store
from inference.report import numbers

if TYPE_CHECKING:
    import pandas as pd

    from inference.curves import SingleDoses, TypicalCourses
    from inference.store import FitResult

WORST = 8  # parameters in the rank plot: those with the largest R-hat


class Picture(NamedTuple):
    """A figure ready for the page."""

    number: int
    uri: str
    alt: str


def pictures(
    result: FitResult,
    summary: pd.DataFrame,
    courses: TypicalCourses,
    single: SingleDoses | None,
    half_life_h: tuple[float, float] | None,
) -> dict[str, Picture]:
    """The figures by name; those that need a posterior are missing when only the prior was drawn."""
    wanted: dict[str, tuple[str, Callable[[], Figure]]] = {
        "observed": ("Observed counts with predictive intervals", lambda: plots.observed_predicted(result)),
        "courses": ("Median platelet counts by arm with bands", lambda: plots.platelet_courses(result)),
        "examples": ("Platelets and doses of individual virtual patients", lambda: plots.examples(result)),
        "doses": ("Share of patients at each dose over time", lambda: plots.dose_levels(result)),
        "concentration": ("Free concentration over a dosing day", lambda: plots_typical.concentration(courses)),
    }
    if single is not None:
        wanted["single"] = (
            "Dose-normalised exposure and half-life after single doses",
            lambda: plots_typical.single_doses(single, half_life_h),
        )
    wanted |= {
        "pathways": ("Pathway activity over a day and over 8 weeks", lambda: plots_typical.pathways(courses)),
        "factors": ("Drives of platelet production and platelets", lambda: plots_typical.factors(courses)),
    }
    if not result.prior_only:
        names = list(result.posterior)
        wanted["contraction"] = ("Parameters ranked by how much they were narrowed",
                                 lambda: plots_posterior.contraction(summary))  # fmt: skip
    wanted["densities"] = ("Prior and posterior densities", lambda: plots_posterior.prior_posterior(result, summary))
    if not result.prior_only:
        wanted["correlations"] = (
            "Posterior correlations",
            lambda: plots_posterior.correlations(names, numbers.correlation(result)),
        )
        tree = store.tree(result)
        worst = summary.nlargest(WORST, "rhat")["parameter"].tolist()
        titles = {name: labels.symbol(name) for name in worst}
        wanted["ranks"] = ("Rank plots of the chains", lambda: arviz.rank_plot(tree, worst, titles))
        if "energy" in result.sample_stats:
            wanted["energy"] = ("Energy of NUTS", lambda: arviz.energy_plot(tree))
        if result.rounds:
            wanted["rounds"] = ("Rounds of the fit", lambda: plots_posterior.rounds(result))
    with plots.style():
        return {name: Picture(i, data_uri(draw()), alt) for i, (name, (alt, draw)) in enumerate(wanted.items(), 1)}


def data_uri(fig: Figure) -> str:
    """The figure inside the page itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(plots.svg(fig).encode()).decode()
