"""Figures of the typical patient at posterior draws: concentration, pathways, factors, platelets, single doses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from inference import labels
from inference.curves import CONCENTRATION, PLATELETS, SingleDoses, TypicalCourses
from inference.plots import figure, mark_target, set_count_axis, set_day_axis, style

SHOWN_MG = (2.5, 5.0, 7.5)
FIRST, LAST = 0, 1  # of the two dosing days


def concentration(courses: TypicalCourses) -> Figure:
    """Free concentration over a dosing day: the first one, and at steady state."""
    with style():
        fig = figure(3.4, "Free plasma concentration, typical patient")
        axes = fig.subplots(1, 2, sharey=True)
        for ax, day, title in zip(axes, (FIRST, LAST), ("day 1", f"day {courses.days[-1]}"), strict=True):
            for i, colour in _doses(courses):
                _band(ax, courses.hours, courses.dosing_day[CONCENTRATION][i, day], colour)
            _hour_axis(ax)
            ax.set_title(title)
        axes[0].set_ylabel("free hetrombopag (ng/mL)")
        axes[0].set_ylim(0)
        fig.legend(handles=_handles(courses), loc="outside lower center", ncols=4)
    return fig


def pathways(courses: TypicalCourses) -> Figure:
    """Pathway activity over the last dosing day (first day dashed), and its daily mean over 8 weeks."""
    with style():
        fig = figure(5.2, "Signalling pathways, typical patient")
        axes = fig.subplots(2, len(labels.PATHWAYS), sharey="row", sharex="row")
        for column, (name, title) in enumerate(labels.PATHWAYS.items()):
            day, weeks = axes[:, column]
            for i, colour in _doses(courses):
                _band(day, courses.hours, courses.dosing_day[name][i, LAST], colour)
                day.plot(courses.hours, courses.dosing_day[name][i, FIRST, :, 1], color=colour, lw=1, ls="--")
                _band(weeks, courses.days, courses.daily[name][i], colour)
            _hour_axis(day)
            set_day_axis(weeks, courses.days[-1])
            day.set_title(title)
        axes[0, 0].set_ylabel("activity over a dosing day\n(share of maximum)")
        axes[1, 0].set_ylabel("daily mean over 8 weeks\n(share of maximum)")
        dashed = Line2D([], [], color="#666666", lw=1, ls="--", label="day 1, median")
        fig.legend(handles=[*_handles(courses), dashed], loc="outside lower center", ncols=5)
    return fig


def factors(courses: TypicalCourses) -> Figure:
    """Fold change of the three drives of platelet production, and platelets on a fixed dose, over 8 weeks."""
    with style():
        fig = figure(3.3, "Drives of platelet production and platelets, typical patient, dose not titrated")
        axes = fig.subplots(1, len(labels.FACTORS) + 1)
        for ax, (name, title) in zip(axes, labels.FACTORS.items(), strict=False):
            for i, colour in _doses(courses):
                _band(ax, courses.days, courses.daily[name][i], colour)
            ax.set_title(title.partition(" (")[0])
            ax.set_ylim(0.9)
            set_day_axis(ax, courses.days[-1])
        axes[0].set_ylabel("fold change, daily mean")
        for i, colour in _doses(courses):
            _band(axes[-1], courses.days, courses.daily[PLATELETS][i], colour)
        shown = courses.daily[PLATELETS][[i for i, _ in _doses(courses)]]
        set_count_axis(axes[-1], shown.min(), shown.max())
        mark_target(axes[-1])
        set_day_axis(axes[-1], courses.days[-1])
        axes[-1].set_title("platelets")
        axes[-1].set_ylabel(labels.COUNT)
        fig.legend(handles=_handles(courses), loc="outside lower center", ncols=4)
    return fig


def single_doses(single: SingleDoses, published_half_life_h: tuple[float, float] | None = None) -> Figure:
    """Dose-normalised exposure and half-life after one dose, against the published range of half-lives."""
    colour = labels.ARM_COLOURS[0]
    panels: Sequence[tuple[str, str, Mapping[str, Any]]] = (
        ("AUC per mg", "free AUC to infinity/dose (ng h/mL/mg)", {"all": single.auc_per_mg}),
        ("Cmax per mg", "Cmax/dose (ng/mL/mg)", {"all": single.cmax_per_mg}),
        ("half-life", "half-life (h)", {"terminal phase": single.half_life_h, "as an assay sees it":
                                        single.half_life_assay_h}),
    )  # fmt: skip
    with style():
        fig = figure(3.2, "One dose in healthy volunteers: is the model as nonlinear as published?")
        axes = fig.subplots(1, 3)
        for ax, (title, label, lines) in zip(axes, panels, strict=True):
            for line, (name, values) in zip(("o-", "s--"), lines.items(), strict=False):
                low, middle, high = np.asarray(values).T
                errors = np.nan_to_num(np.stack([middle - low, high - middle]))
                ax.errorbar(single.doses_mg, middle, errors, fmt=line, color=colour, mfc="white", capsize=3, label=name)
            ax.set_xscale("log")
            ax.set_xticks(single.doses_mg, [f"{d:g}" for d in single.doses_mg], minor=False)
            ax.minorticks_off()
            ax.set_ylim(0)
            ax.set_xlabel("dose (mg)")
            ax.set_ylabel(label)
            ax.set_title(title)
        if published_half_life_h is not None:
            low, high = published_half_life_h
            axes[2].axhspan(low, high, color=labels.PRIOR_COLOUR, alpha=0.6, lw=0, zorder=0,
                            label=f"published {low:g}–{high:g} h")  # fmt: skip
        axes[2].set_ylim(0, max(axes[2].get_ylim()[1], 45))
        axes[2].legend(loc="upper left", fontsize=8)
    return fig


def _doses(courses: TypicalCourses) -> list[tuple[int, str]]:
    """Index and colour of the doses that are drawn."""
    colours = labels.dose_colours(courses.doses_mg)
    shown = [i for i, dose in enumerate(courses.doses_mg) if dose in SHOWN_MG] or range(len(colours))
    return [(i, colours[i]) for i in shown]


def _band(ax: Axes, x: np.ndarray, bands: np.ndarray, colour: str) -> None:
    low, middle, high = bands.T
    ax.fill_between(x, low, high, color=colour, alpha=0.25, lw=0)
    ax.plot(x, middle, color=colour, lw=1.8)


def _handles(courses: TypicalCourses) -> list[Any]:
    lines = [Line2D([], [], color=c, lw=2, label=f"{courses.doses_mg[i]:g} mg a day") for i, c in _doses(courses)]
    return [*lines, Patch(color="#666666", alpha=0.25, lw=0, label="95% interval over draws")]


def _hour_axis(ax: Axes) -> None:
    ax.set_xlim(0, 24)
    ax.set_xticks(range(0, 25, 6))
    ax.set_xlabel("hours since the dose")
