"""Interim looks of a trial: when they are taken, their boundary, futility, and what may change."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from pkpd.adaptation import DropLosers, Reestimate, check_adaptation
from pkpd.errors import InputError
from pkpd.tomlfile import shown
from pkpd.validated import List, Table

if TYPE_CHECKING:
    from pkpd.analysis import Analysis

WITH_PARAMETER = {"power-family": "rho, above 0", "hwang-shih-decani": "gamma"}


class Interims(Table):
    """Looks at shares of the patients of every arm, the last at 1, with a boundary and perhaps non-binding futility.

    spending_parameter: rho of the power family, gamma of Hwang, Shih and DeCani. An arm is futile at a look whose
    conditional power (at the effect seen) or predictive power (flat prior) of the last look is below futility_below.
    """

    looks: List[float]
    boundary: Literal[
        "pocock", "obrien-fleming", "lan-demets-obrien-fleming", "lan-demets-pocock", "power-family",
        "hwang-shih-decani",
    ]  # fmt: skip
    spending_parameter: float | None = Field(default=None, ge=-40, le=40)
    futility: Literal["none", "conditional-power", "predictive-power"] = "none"
    futility_below: float | None = Field(default=None, gt=0, lt=1)
    drop_losers: DropLosers | None = None
    reestimate: Reestimate | None = None

    @field_validator("looks")
    @classmethod
    def _increasing(cls, looks: tuple[float, ...]) -> tuple[float, ...]:
        if not 2 <= len(looks) <= 50:
            raise ValueError("2 to 50 shares of the patients, the last of them 1")
        for first, second in itertools.pairwise((0.0, *looks)):
            if second <= first:
                raise ValueError(f"shares that increase from above 0, but {second:g} follows {first:g}")
        if looks[-1] != 1:
            raise ValueError(f"shares of the patients, the last of them 1, not {looks[-1]:g}")
        return looks

    @model_validator(mode="after")
    def _fits_together(self) -> Interims:
        needs = WITH_PARAMETER.get(self.boundary)
        if needs and self.spending_parameter is None:
            raise InputError(f"spending_parameter is missing: {self.boundary} needs {needs}")
        if not needs and self.spending_parameter is not None:
            raise InputError(
                f"spending_parameter = {self.spending_parameter:g}: {self.boundary} has none; "
                f"legal: boundary = {' or '.join(map(repr, WITH_PARAMETER))}"
            )
        if self.boundary == "power-family" and self.spending_parameter is not None and self.spending_parameter <= 0:
            raise InputError(f"spending_parameter = {self.spending_parameter:g}: rho of the power family is above 0")
        if (self.futility == "none") != (self.futility_below is None):
            raise InputError("futility and futility_below go together: which power, and the limit below it")
        return self


def patients_at(looks: Sequence[float], n: int) -> tuple[int, ...]:
    """Patients of an arm of n at each look: the nearest whole number."""
    return tuple(math.floor(share * n + 0.5) for share in looks)


def check_interims(interims: Interims, analysis: Analysis | None, sizes: Mapping[str, int]) -> None:
    """InputError where looks do not go with the analysis or with the sizes of the arms."""
    if analysis is None:
        raise InputError("interims: [analysis] is missing; a look needs a test")
    if analysis.test == "bayesian":
        raise InputError("interims: boundaries are for test statistics; legal: another test than 'bayesian'")
    if not 1e-6 <= analysis.alpha < 0.5:
        raise InputError(f"analysis.alpha = {analysis.alpha:g}: with [interims], legal: from 1e-6 to below 0.5")
    legal = ("none", "bonferroni", "closed-dunnett", "closed-simes")
    if len(sizes) > 2 and analysis.multiplicity not in legal:
        raise InputError(
            f"interims: multiplicity = {analysis.multiplicity!r} with several looks is not available; "
            f"legal: {', '.join(map(repr, legal))}"
        )
    if len(sizes) > 2 and analysis.secondary and analysis.gatekeeping == "all-primaries":
        raise InputError(
            "analysis.gatekeeping = 'all-primaries': with [interims] arms end at looks of their own; legal: 'serial'"
        )
    if analysis.secondary and interims.reestimate:
        raise InputError(
            "analysis.secondary: interims.reestimate keeps the level of the primary test alone; legal: without one"
        )
    for name, n in sizes.items():
        for first, second in itertools.pairwise((0, *patients_at(interims.looks, n))):
            if second <= first:
                raise InputError(f"interims.looks: arm {shown(name)} of {n} patients has no new patient at a look")
    check_adaptation(interims, analysis, sizes)
