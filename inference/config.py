"""The config of a fit: TOML file, ``--set`` and options of the command line, in that order, into one frozen object.

A default here is a setting of the computation; every number of the model is in the library.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from inference.validation import input_error
from pkpd.errors import InputError

if TYPE_CHECKING:
    from inference.arms import ArmData
    from inference.priors import JointPrior
    from pkpd.parameters import Library

Engine = Literal["xla", "reference"]
ENGINES: tuple[str, ...] = get_args(Engine)
MAX_SEED = 2**32 - 1
# What --quick changes, unless the config says otherwise: a thin thread through the whole fit, never a final result.
QUICK: dict[str, Any] = {
    "rounds": [{"vectors": 1024, "patients": 64}, {"vectors": 1024, "patients": 64}],
    "sampler": {"chains": 4, "warmup": 400, "draws": 400},
    "predictive": {"draws": 200, "patients": 512},
}
BARE_WORD = re.compile(r"[A-Za-z][\w ./+-]*")

Name = Annotated[str, Field(min_length=1)]
PriorTable = dict[str, bool | float]


class Table(BaseModel):
    """A table of the config: frozen, typed, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Table):
    """Which counts are fitted: a shipped table or a file, and arms of it to leave out."""

    table: Name = "phase3_arms"
    leave_out: tuple[Name, ...] = ()


class Round(Table):
    """One round of the surface: population vectors, and patients simulated for each."""

    vectors: int = Field(ge=16, le=10**6)
    patients: int = Field(ge=8, le=10**5)


class Sampler(Table):
    """NUTS on the surface."""

    chains: int = Field(4, ge=2, le=64)
    warmup: int = Field(1000, ge=50, le=10**5)
    draws: int = Field(1000, ge=50, le=10**5)


class Predictive(Table):
    """Posterior draws that are simulated afresh, and virtual patients an arm for each."""

    draws: int = Field(1000, ge=20, le=10**5)
    patients: int = Field(2048, ge=64, le=10**6)


class Config(Table):
    """Everything that decides what a fit does; the run directory keeps it as ``config.toml``."""

    seed: int = Field(1, ge=0, le=MAX_SEED)
    quick: bool = False
    prior_only: bool = False
    engine: Engine = "xla"
    signalling: Literal["dynamic", "quasi-steady"] = "dynamic"
    scenario: Name = "phase3"
    drug: Name = "hetrombopag"
    disease: Name = "itp"
    centre: str = ""  # a named set of the library, such as alternative_centre, instead of its own values
    tuned_log_sd_factor: float = Field(1.0, gt=0, le=10)
    free: tuple[Name, ...] = ()
    fix: tuple[Name, ...] = ()
    widening: float = Field(1.25, ge=1, le=4)  # of the posterior from which the next round is drawn
    data: Data = Data()
    rounds: tuple[Round, ...] = Field(
        (Round(vectors=3072, patients=128), Round(vectors=6144, patients=128)), min_length=1, max_length=20
    )
    sampler: Sampler = Sampler()
    predictive: Predictive = Predictive()
    parameters: dict[str, float] = {}  # values of the library to replace, by name
    priors: dict[str, PriorTable] = {}  # changes of priors, by parameter or group

    @field_validator("fix")
    @classmethod
    def _once(cls, fix: tuple[str, ...], info: Any) -> tuple[str, ...]:
        both = sorted(set(fix) & set(info.data.get("free", ())))
        if both:
            raise ValueError(f"{both[0]} is also in free; name it in one of them")
        return fix

    def library(self) -> Library:
        """The parameter library the config asks for; InputError for an unknown name or a value out of range."""
        from pkpd.parameters import load_centre, load_library

        values = (load_centre(self.centre) if self.centre else {}) | self.parameters
        return load_library(self.drug, self.disease, values)

    def joint_prior(self, library: Library) -> JointPrior:
        """The prior of what is free; InputError for an unknown name or a prior that makes no sense."""
        from inference.priors import joint_prior

        tables = {name: dict(table) for name, table in self.priors.items()}
        for name in self.free:
            tables.setdefault(name, {})["free"] = True
        for name in self.fix:
            tables.setdefault(name, {})["free"] = False
        return joint_prior(library, tables, tuned_log_sd_factor=self.tuned_log_sd_factor)

    def arm_data(self) -> ArmData:
        """The counts to fit, without the arms left out; InputError for a bad table or an unknown arm."""
        from inference.arms import from_table
        from pkpd.datatables import published, read_table

        table = read_table(self.data.table) if self.data.table.endswith(".csv") else published(self.data.table)
        return from_table(table, source=self.data.table).without(self.data.leave_out)

    def to_toml(self) -> str:
        """The config as TOML that ``load`` reads back to an equal one."""
        return dump_toml(self.model_dump(mode="python"))


def load(
    path: str | Path | None = None, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Config:
    """The Config of a TOML file (None: all defaults), changed by ``key=value`` settings and then by options.

    InputError names file, key, value and what is legal, with the nearest legal name for an unknown key.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        from pkpd.tables import read_toml

        raw = read_toml(Path(path))
        if not raw:
            raise InputError(f"{path}: is empty; legal: keys of a config, such as seed = 1")
        validated(raw, str(path))  # what is wrong in the file is said of the file
        raw = _beside(raw, Path(path).parent)
    for setting in settings:
        raw = merged(raw, parse_setting(setting))
    raw = merged(raw, dict(options or {}))
    if raw.get("quick") is True:
        raw = merged(QUICK, raw)
    return validated(raw, "--set" if settings else "options")


def validated(raw: Mapping[str, Any], where: str) -> Config:
    """The Config of a parsed TOML table; errors as in ``load``."""
    try:
        return Config.model_validate(_tuples(raw))
    except ValidationError as error:
        raise input_error(error, Config, where) from None


def parse_setting(setting: str) -> dict[str, Any]:
    """``sampler.draws=500`` as a nested table; the value is TOML, or a bare word taken as a string."""
    key, equals, value = setting.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key) or "\n" in setting:
        raise InputError(f"--set {setting!r}: not key=value; legal: such as --set sampler.draws=500")
    try:
        return tomllib.loads(f"{key} = {value}")
    except (ValueError, RecursionError):
        if not BARE_WORD.fullmatch(value):
            raise InputError(
                f"--set {setting!r}: {value!r} is not a TOML value; legal: such as 5, true, [1, 2], a word"
            ) from None
    return tomllib.loads(f'{key} = "{value}"')


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the entries of ``over`` on top, table by table."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def dump_toml(table: Mapping[str, Any]) -> str:
    """TOML text of scalars, lists and tables; a table inside a table is written inline."""
    scalars = [f"{_toml_key(k)} = {_toml(v)}" for k, v in table.items() if not isinstance(v, Mapping)]
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            scalars += ["", f"[{_toml_key(name)}]", *(f"{_toml_key(k)} = {_toml(v)}" for k, v in inner.items())]
    return "\n".join(scalars) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _toml(key)


def _beside(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The table with the files it names found from ``folder``, where the config lies."""
    result = dict(raw)
    if str(raw.get("scenario", "")).endswith(".toml"):
        result["scenario"] = str(folder / raw["scenario"])
    if str(raw.get("data", {}).get("table", "")).endswith(".csv"):
        result["data"] = {**raw["data"], "table": str(folder / raw["data"]["table"])}
    return result


def _tuples(value: Any) -> Any:
    """Lists as tuples, which is what strict validation expects of a frozen field."""
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
