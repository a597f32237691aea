"""The config of a fit: TOML file, ``--set`` and options of the command line, in that order, into one frozen object.

A default here is a setting of the computation; every number of the model is in the library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from pkpd.errors import InputError, nearest
from pkpd.random import LARGEST_SEED
from pkpd.scenario import Scenario, load_scenario, shipped
from pkpd.tables import schema
from pkpd.tomlfile import apply_settings, read_toml
from pkpd.validated import List, Table, validate

if TYPE_CHECKING:
    from inference.arms import ArmData
    from inference.priors import JointPrior
    from inference.studies import Study as FurtherStudy
    from pkpd.parameters import Library

Engine = Literal["auto", "kernel", "xla", "reference"]

MAX_ROUNDS = 20
LEAST_CORRECTED = 50  # draws from whose tail a Pareto law can be told
# What --quick changes, unless the config says otherwise: a thin thread through the whole fit, never a final result.
QUICK: dict[str, Any] = {
    "rounds": [{"vectors": 640, "patients": 48}, {"vectors": 1024, "patients": 64}],
    "sampler": {"chains": 4, "warmup": 200, "draws": 250},
    "predictive": {"draws": 150, "patients": 512},
    "replicates": 1,
    "refine": {"patients": 0, "cubic": 0},
    "correction": {"draws": 0},
}

Name = Annotated[str, Field(min_length=1)]


class Data(Table):
    """Which counts are fitted: a shipped table or a file, and arms of it to leave out."""

    table: Name = "phase3_arms"
    leave_out: List[Name] = ()


class Study(Table):
    """A further study: a scenario that names the published numbers, all of which are fitted."""

    scenario: Name


class Omega(Table):
    """Correlations of random effects that are estimated: blocks of parameters, or one of all that vary."""

    blocks: List[List[Name]] = ()
    full: bool = False
    concentration: float = Field(2.0, gt=0, le=1000)  # of the LKJ prior of each block; 1 is uniform

    @model_validator(mode="after")
    def _fits_together(self) -> Omega:
        members = [name for block in self.blocks for name in block]
        for name in members:
            if name not in schema()["varying"]:
                raise InputError(f"omega.blocks: {name!r} does not vary{nearest(name, schema()['varying'])}")
            if members.count(name) > 1:
                raise InputError(f"omega.blocks: {name!r} stands twice; legal: once in all blocks")
        if any(len(block) < 2 for block in self.blocks) or (self.full and self.blocks):
            raise InputError("omega: legal: blocks of two parameters or more, or full = true")
        return self

    def structure(self) -> tuple[tuple[str, ...], ...]:
        """The blocks, each in the order of the random effects."""
        varying = schema()["varying"]
        return (varying,) if self.full else tuple(tuple(sorted(block, key=varying.index)) for block in self.blocks)


class Round(Table):
    """One round of the surface: population vectors, and patients simulated for each."""

    vectors: int = Field(ge=16, le=10**6)
    patients: int = Field(ge=8, le=10**5)


class Sampler(Table):
    """NUTS on the surface."""

    chains: int = Field(4, ge=2, le=64)
    warmup: int = Field(1000, ge=50, le=10**5)
    draws: int = Field(1000, ge=50, le=10**5)


class Refine(Table):
    """Further rounds, as large as the measured error of the surface asks for, and the richer shape that is tried."""

    cubic: int = Field(6, ge=0, le=12)  # directions along which that is cubic; 0 for a quadratic surface only
    surface_error: float = Field(0.1, gt=0, le=10)  # at most, in sampling sds of the trial's counts
    patients: int = Field(10**7, ge=0, le=10**9)  # of a round, at most; 0 for no further round


class Correction(Table):
    """Posterior draws that are simulated afresh and weighted, each with so many patients an arm; 0 draws for none."""

    draws: int = Field(1000, ge=0, le=10**5)
    patients: int = Field(16384, ge=2048, le=10**6)
    rounds: int = Field(1, ge=0, le=5)  # further rounds, from the weighted draws, while it does not confirm the fit

    @model_validator(mode="after")
    def _enough(self) -> Correction:
        if 0 < self.draws < LEAST_CORRECTED:
            raise InputError(f"correction.draws = {self.draws}; legal: 0, or {LEAST_CORRECTED} and more")
        return self


class Predictive(Table):
    """Posterior draws that are simulated afresh, and virtual patients an arm for each."""

    draws: int = Field(1000, ge=20, le=10**5)
    patients: int = Field(2048, ge=64, le=10**6)


class Config(Table):
    """Everything that decides what a fit does; the run directory keeps it as ``config.toml``."""

    seed: int = Field(1, ge=0, le=LARGEST_SEED)
    quick: bool = False
    prior_only: bool = False
    engine: Engine = "auto"
    signalling: Literal["dynamic", "quasi-steady"] = "dynamic"
    scenario: Name = "phase3"
    drug: Name = "hetrombopag"
    disease: Name = "itp"
    centre: str = ""  # a named set of the library, such as alternative_centre, instead of its own values
    tuned_log_sd_factor: float = Field(1.0, gt=0, le=10)
    free: List[Name] = ()
    fix: List[Name] = ()
    widening: float = Field(1.25, ge=1, le=4)  # of the posterior from which the next round is drawn
    data: Data = Data()
    omega: Omega = Omega()
    studies: List[Study] = ()  # fitted beside the counts of ``data``
    rounds: List[Round] = (Round(vectors=3072, patients=128), Round(vectors=6144, patients=128))
    refine: Refine = Refine()
    replicates: int = Field(2, ge=1, le=16)  # runs that share no random number; their draws are pooled
    correction: Correction = Correction()
    imputations: int = Field(0, ge=0, le=1000)  # refits at prior draws of what is fixed, pooled; 0 for one fit
    sampler: Sampler = Sampler()
    predictive: Predictive = Predictive()
    parameters: dict[str, float] = Field(default_factory=dict)  # values of the library to replace, by name
    priors: dict[str, dict[str, Any]] = Field(default_factory=dict)  # changes of priors, by parameter or group

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if not 1 <= len(self.rounds) <= MAX_ROUNDS:
            raise InputError(f"rounds: {len(self.rounds)} given; legal: 1 to {MAX_ROUNDS}")
        for name in self.free:
            if name in self.fix:
                raise InputError(f"{name!r} is in both free and fix; legal: in one of them")
        if self.imputations == 1:
            raise InputError("imputations = 1: one tells nothing of the variance between; legal: 0, or 2 and more")
        return self

    def to_toml(self) -> str:
        """The config as TOML that ``load`` reads back to an equal one."""
        return dump_toml(self.model_dump(mode="python"))


class Plan(NamedTuple):
    """What a config asks for, read and checked."""

    library: Library
    prior: JointPrior
    data: ArmData  # of the scenario's arms, whether fitted or left out
    fitted: ArmData
    scenario: Scenario
    studies: tuple[FurtherStudy, ...]


def plan(config: Config, where: str = "config") -> Plan:
    """Everything the config names; InputError for what does not exist, is out of range or does not fit together."""
    try:
        return _plan(config)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _plan(config: Config) -> Plan:
    from inference.arms import from_table
    from inference.priors import JointPrior, Lkj, joint_prior
    from inference.studies import further_prior, plan_study
    from pkpd.datatables import published, read_table
    from pkpd.parameters import load_centre, load_library

    values = (load_centre(config.centre) if config.centre else {}) | config.parameters
    library = load_library(config.drug, config.disease, values)
    priors = {name: dict(table) for name, table in config.priors.items()}
    designs = {s.scenario: load_scenario(s.scenario) for s in config.studies}
    if len(designs) < len(config.studies):
        raise InputError("studies: a scenario is named twice; legal: each once")
    further_drugs = tuple(
        dict.fromkeys(a.drug for d in designs.values() for a in d.arms if a.drug not in (config.drug, "placebo"))
    )
    for free, names in ((True, config.free), (False, config.fix)):
        for name in names:
            priors.setdefault(name, {})["free"] = free
    own = {name: table for name, table in priors.items() if name.partition(".")[0] not in further_drugs}
    factor, number = config.tuned_log_sd_factor, 1 + len(designs)
    prior = joint_prior(library, own, tuned_log_sd_factor=factor, studies=number)
    source = config.data.table
    table = read_table(source) if source.endswith(".csv") else published(source)
    scenario = load_scenario(config.scenario)
    if scenario.entry.disease != config.disease:
        raise InputError(
            f"disease = {config.disease!r}, but scenario {config.scenario} has entry.disease = "
            f"{scenario.entry.disease!r}; legal: the same"
        )
    if scenario.outcome is not None:
        raise InputError(f"scenario {config.scenario} states outcomes; legal: one with patients, which a fit simulates")
    if scenario.trial.design == "crossover":
        raise InputError(f"scenario {config.scenario} is a crossover; legal: parallel groups, which a fit takes")
    if any(arm.ec50_ratio != 1 for arm in scenario.arms):
        raise InputError(
            f"scenario {config.scenario} has an arm with ec50_ratio, which a fit estimates; legal: without"
        )
    reported = from_table(table, source=source)
    data = reported.select([arm.name for arm in scenario.arms if arm.name in reported.arms] or [scenario.arms[0].name])
    fitted = _kept(config, data)
    sizes = {arm.name: arm.n for arm in scenario.arms}
    for arm, n in zip(data.arms, data.n.tolist(), strict=True):
        if arm not in sizes:
            raise InputError(f"{source}: arm {arm!r} is not in scenario {config.scenario}{nearest(arm, sizes)}")
        if n != sizes[arm]:
            raise InputError(f"{source}: arm {arm!r}: n = {n}, but {sizes[arm]} in scenario {config.scenario}")
    prior = JointPrior((*prior.elements, *(Lkj(b, config.omega.concentration) for b in config.omega.structure())))
    for first, second, _ in library.correlations:
        inside = [{first, second} & set(block) for block in config.omega.structure()]
        if any(len(found) == 1 for found in inside):
            raise InputError(
                f"omega: the library correlates {first} with {second}; legal: both in one block, or neither"
            )
    studies = tuple(plan_study(config, name, design, library) for name, design in designs.items())
    names = (scenario.trial.name, *(s.name for s in studies))
    if len(set(names)) < len(names):
        raise InputError(f"studies: two have the trial.name {names[-1]!r}; legal: a name for each")
    prior = further_prior(prior, library, names, further_drugs, priors)
    return Plan(library, prior, data, fitted, scenario, studies)


def _kept(config: Config, data: ArmData) -> ArmData:
    """The arms that are fitted: none at all only where further studies are."""
    if config.studies and set(data.arms) <= set(config.data.leave_out):
        return replace(data, arms=(), n=data.n[:0], counts=data.counts[:0])
    return data.without(config.data.leave_out)


def hill_is_one(config: Config, library: Library) -> bool:
    """Whether the Hill coefficient is 1 in every draw of a fit: the cheaper form of the model serves."""
    freed = any(name.endswith("dimer_hill") for name in (*config.free, *config.priors))
    return library.value("dimer_hill") == 1 and not freed


def load(
    path: str | Path | None = None, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Config:
    """The Config of a TOML file (None: all defaults), changed by ``key=value`` settings and then by options.

    InputError names file, key, value and what is legal, with the nearest legal name for an unknown key.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        raw = read_toml(path)
        validate(Config, raw, str(path))  # what is wrong in the file is said of the file
        raw = _beside(raw, Path(path).absolute().parent)
    raw = _beside(merged(apply_settings(raw, settings), dict(options or {})), Path.cwd())
    if raw.get("quick") is True:
        raw = merged(QUICK, raw)
    return validate(Config, raw, "--set" if settings else "options")


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


def named_files(config: Config) -> dict[str, Path]:
    """The user's own files that a config names, by key; what ships with the package is not among them."""
    own = {} if config.scenario in shipped() and not Path(config.scenario).is_file() else {"scenario": config.scenario}
    own |= {"data.table": config.data.table} if config.data.table.endswith(".csv") else {}
    for number, study in enumerate(config.studies, start=1):
        where = f"studies[{number}]"
        own |= {f"{where}.scenario": study.scenario} if study.scenario.endswith(".toml") else {}
        source = load_scenario(study.scenario).published
        own |= {f"{where}.table": source.table} if source and source.table.endswith(".csv") else {}
    return {key: Path(name) for key, name in own.items()}


def inputs(config: Config) -> dict[str, str | bytes]:
    """What decides a fit beside code, published data and library: the text of the config, the files that it names."""
    return {"config": config.to_toml()} | {key: path.read_bytes() for key, path in named_files(config).items()}


def _beside(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The table with the files it names found from ``folder``: where the config lies, or where the command runs."""
    result = dict(raw)
    if str(raw.get("scenario", "")).endswith(".toml"):
        result["scenario"] = str(folder / raw["scenario"])
    data = raw.get("data")
    if isinstance(data, Mapping) and str(data.get("table", "")).endswith(".csv"):
        result["data"] = {**data, "table": str(folder / data["table"])}
    if isinstance(raw.get("studies"), list):
        result["studies"] = [
            {**s, "scenario": str(folder / s["scenario"])} if str(s.get("scenario", "")).endswith(".toml") else s
            for s in raw["studies"]
            if isinstance(s, Mapping)
        ]
    return result
