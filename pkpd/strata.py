"""Strata of patients: who is alike in baseline count, weight and covariates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Discriminator, Tag, field_validator, model_validator

from pkpd.errors import InputError
from pkpd.patients import COVARIATES
from pkpd.validated import List, Table

LIMITS = {"baseline_1e9_per_l": "baseline count", "weight_kg": "weight", "age_y": "age"}  # what has limits, in words
AS_RANDOMISED = "as randomised"  # in place of an analysis' own strata: those of [randomisation]
MOST = 1000  # strata: far more than any trial fills


class Strata(Table):
    """What divides patients into strata: limits of baseline count (1e9/L), weight (kg) and age (y), a limit is of the
    upper; and covariates that a patient has or not, each named with true.
    """

    baseline_1e9_per_l: List[float] = ()
    weight_kg: List[float] = ()
    age_y: List[float] = ()
    female: bool = False
    splenectomy: bool = False
    corticosteroid: bool = False
    east_asian: bool = False
    hepatic_impairment: bool = False

    @field_validator(*LIMITS)
    @classmethod
    def _increasing(cls, limits: tuple[float, ...]) -> tuple[float, ...]:
        if not limits or any(second <= first for first, second in itertools.pairwise((0.0, *limits))):
            raise ValueError("limits that increase from above 0")
        return limits

    @model_validator(mode="after")
    def _any(self) -> Strata:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise InputError(f"no strata; legal: {', '.join(LIMITS)}, or true of {', '.join(COVARIATES)}")
        if self.number > MOST:
            raise InputError(f"{self.number} strata; legal: at most {MOST}")
        return self

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates that divide patients."""
        return tuple(name for name in COVARIATES if getattr(self, name))

    @property
    def number(self) -> int:
        """How many strata there are."""
        return int(np.prod([len(getattr(self, name)) + 1 for name in LIMITS]) * 2 ** len(self.covariates))


def _known_word(value: Any) -> Any:
    if isinstance(value, str) and value != AS_RANDOMISED:
        raise ValueError(f"a table of strata, or {AS_RANDOMISED!r}")
    return value


# Messages name no member of the union: an empty tag is left out of the key.
StrataOrSame = Annotated[
    Annotated[Strata, Tag("")] | Annotated[Literal["as randomised"], Tag("text")],
    Discriminator(lambda value: "text" if value == AS_RANDOMISED else ""),
    BeforeValidator(_known_word),
]


def stratum_of(strata: Strata | None, traits: Mapping[str, Any]) -> np.ndarray:
    """Number of the stratum [..] of patients whose ``traits`` [..] are named as the keys of ``Strata``; 0 without."""
    found = np.zeros(np.shape(traits["baseline_1e9_per_l"]), np.int64)
    if strata is None:
        return found
    for name in LIMITS:
        if limits := getattr(strata, name):
            found = found * (len(limits) + 1) + np.searchsorted(limits, np.asarray(traits[name]), side="right")
    for name in strata.covariates:
        found = found * 2 + (np.asarray(traits[name]) > 0)
    return found


def described(strata: Strata) -> list[str]:
    """Each thing that divides patients, in words."""
    limits = {words: getattr(strata, name) for name, words in LIMITS.items()}
    lines = [f"{words} below and from {', '.join(f'{x:g}' for x in x)}" for words, x in limits.items() if x]
    return lines + [f"{name.replace('_', ' ')} or not" for name in strata.covariates]
