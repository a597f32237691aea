"""What every table of a TOML file that a user wrote is checked with: frozen, strictly typed, no unknown key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pkpd.errors import InputError, nearest
from pkpd.tomlfile import first_error, shown

MAX_DAY = 3660


def _as_tuple(value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, list):
        raise ValueError("a list")
    return tuple(value)


T = TypeVar("T")
List = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Count = Annotated[float, Field(gt=0, le=10_000)]  # 1e9/L
Probability = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[int, Field(ge=0, le=MAX_DAY)]


class Table(BaseModel):
    """A table of a scenario: frozen, strictly typed; an unknown key is an error that suggests the nearest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        # Before pydantic reports what is missing: a misspelt key is the cause, the missing one the symptom.
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                raise InputError(f"unknown key {shown(key)}{nearest(str(key), cls.model_fields)}")
        return data


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """``data`` as the pydantic ``model``; its first error as an InputError of one line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise first_error(error.errors(include_url=False), where) from None
