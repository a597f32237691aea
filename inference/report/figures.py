"""All figures of the report as inlined pictures, numbered in the order in which a reader meets them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from inference import arviz, labels, plots, plots_posterior, plots_typical, store
from inference.report import numbers

if TYPE_CHECKING:
    import pandas as pd

    from inference.curves import SingleDoses, TypicalCourses
    from inference.store import FitResult

ORDER = ("observed", "courses", "examples", "doses", "concentration", "single", "pathways", "factors", "contraction",
         "densities", "correlations", "ridge", "ranks", "energy", "rounds")  # fmt: skip
WORST = 8  # parameters in the rank plot: those with the largest R-hat


class Drawn(NamedTuple):
    """A figure as data URI, and what it shows in words for who cannot see it."""

    uri: str
    alt: str


class Picture(NamedTuple):
    """A figure ready for the page."""

    number: int
    uri: str
    alt: str


def pictures(drawn: Mapping[str, Drawn]) -> dict[str, Picture]:
    """Pictures by name, numbered in the order of ``ORDER``."""
    shown = [name for name in ORDER if name in drawn]
    return {name: Picture(number, *drawn[name]) for number, name in enumerate(shown, 1)}


def of_result(result: FitResult, summary: pd.DataFrame) -> dict[str, Drawn]:
    """What the result alone shows; figures of a posterior are missing when only the prior was drawn."""
    wanted: dict[str, tuple[str, Callable[[], Figure]]] = {
        "observed": ("Observed counts with predictive intervals", lambda: plots.observed_predicted(result)),
        "courses": ("Median platelet counts by arm with bands", lambda: plots.platelet_courses(result)),
        "examples": ("Platelets and doses of individual virtual patients", lambda: plots.examples(result)),
        "doses": ("Share of patients at each dose over time", lambda: plots.dose_levels(result)),
        "densities": ("Prior and posterior densities", lambda: plots_posterior.prior_posterior(result, summary)),
    }
    if not result.prior_only:
        names = list(result.posterior)
        worst = summary.nlargest(WORST, "rhat")["parameter"].tolist()
        titles = {name: labels.symbol(name) for name in worst}
        tree, matrix = store.tree(result), numbers.correlation(result)
        wanted |= {
            "contraction": ("Parameters by how much they were narrowed", lambda: plots_posterior.contraction(summary)),
            "correlations": ("Posterior correlations", lambda: plots_posterior.correlations(names, matrix)),
            "ridge": ("Noise against drug effect", lambda: plots_posterior.ridge(result)),
            "ranks": ("Rank plots of the chains", lambda: arviz.rank_plot(tree, worst, titles)),
        }
        if numbers.noise_ridge(result) is None:
            del wanted["ridge"]
        if "energy" in result.sample_stats:
            wanted["energy"] = ("Energy of NUTS", lambda: arviz.energy_plot(tree))
        if result.rounds:
            wanted["rounds"] = ("Rounds of the fit", lambda: plots_posterior.rounds(result))
    return _draw(wanted)


def of_typical(
    courses: TypicalCourses, single: SingleDoses | None, half_life_h: tuple[float, float]
) -> dict[str, Drawn]:
    """What the courses of the typical patient show."""
    wanted: dict[str, tuple[str, Callable[[], Figure]]] = {
        "concentration": ("Free concentration over a dosing day", lambda: plots_typical.concentration(courses)),
        "pathways": ("Pathway activity over a day and over 8 weeks", lambda: plots_typical.pathways(courses)),
        "factors": ("Drives of platelet production and platelets", lambda: plots_typical.factors(courses)),
    }
    if single is not None:
        wanted["single"] = (
            "Dose-normalised exposure and half-life after single doses",
            lambda: plots_typical.single_doses(single, half_life_h),
        )
    return _draw(wanted)


def _draw(wanted: Mapping[str, tuple[str, Callable[[], Figure]]]) -> dict[str, Drawn]:
    with plots.style():
        return {name: Drawn(data_uri(draw()), alt) for name, (alt, draw) in wanted.items()}


def data_uri(fig: Figure) -> str:
    """The figure inside the page itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(plots.svg(fig).encode()).decode()
