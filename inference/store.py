"""The one file that knows what a run folder looks like on disk: everything a finished fit knows, saved and read back.

``posterior.nc`` follows ArviZ's schema (``xarray.open_datatree`` reads it): groups posterior, prior,
posterior_predictive, prior_predictive, observed_data, log_likelihood (of an arm's counts together, fitted or not),
constant_data and sample_stats; what is not of that schema has groups of its own: surface, courses, examples, rounds,
fixed_parameters, correction, imputed, further_studies. Units are in the attributes of the variables.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.output import RUN_MARK, write_bytes, write_text
from pkpd.endpoints import NAMES
from pkpd.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from inference.arviz import Convergence

CONFIG, POSTERIOR, SUMMARY, DIAGNOSTICS = "config.toml", "posterior.nc", "summary.csv", "diagnostics.json"
NEEDED = (CONFIG, POSTERIOR, SUMMARY, DIAGNOSTICS, RUN_MARK)
COLUMNS = ("parameter", "unit", "mean", "sd", "q2.5", "q50", "q97.5",
           "rhat", "ess_bulk", "ess_tail", "prior_sd", "contraction")  # fmt: skip
PLATELET_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEDIAN_QUANTILES = (0.025, 0.5, 0.975)
COUNT_UNIT = "1e9/L"
STUDIES = "studies.csv"
NUMBER = "imputation"  # of the refit that a chain belongs to
IMPUTATIONS = "imputations.csv"
TIMES = "seconds_of_rounds"  # in the diagnostics


class FitResult(NamedTuple):
    """Everything a finished fit knows, as NumPy arrays and plain dicts. A arms, V visits, D simulated trials."""

    config_toml: str
    arms: tuple[str, ...]
    quantities: tuple[str, ...]  # pkpd.endpoints.NAMES
    fitted: tuple[bool, ...]  # per arm; False: left out of the likelihood
    observed: NDArray[np.int64]  # [A, 5]
    n: NDArray[np.int64]  # [A]
    posterior: Mapping[str, NDArray[np.float64]]  # population parameters only, [chains, draws]; {} when prior only
    prior: Mapping[str, NDArray[np.float64]]  # [draws]
    sample_stats: Mapping[str, NDArray[Any]]  # [chains, draws]
    posterior_predictive: NDArray[np.int64]  # [D, A, 5] counts of freshly simulated trials
    prior_predictive: NDArray[np.int64]  # [D', A, 5]
    logits: NDArray[np.float64] | None  # of the surface, [chains, draws, A, 6]
    visit_days: NDArray[np.int64]  # [V]
    platelets_quantiles: NDArray[np.float64]  # [A, V + 1, 5] of true counts over patients and draws; 0 is baseline
    median_quantiles: NDArray[np.float64]  # [A, V + 1, 3] of an arm's median count over draws
    level_share: NDArray[np.float64]  # [A, V, L + 1] of patients in the interval before a visit; first: no dose
    levels_mg: NDArray[np.float64]  # [L]
    # of E patients an arm: platelets_true, platelets_observed, dose_mg [A, E, V]; baseline [A, E]
    examples: Mapping[str, NDArray[np.float64]]
    rounds: list[dict[str, Any]]
    diagnostics: dict[str, Any]
    verdict: str
    reasons: list[str]
    seconds: dict[str, float]
    fixed: list[dict[str, Any]]  # name, value, unit, source, status of everything not estimated
    manifest: dict[str, Any]  # written by inference.manifest; {} until then
    correction: Mapping[str, NDArray[Any]] = {}  # chain_of, draw_of, log_weight [draws of the correction], or {}
    imputed: Mapping[str, NDArray[Any]] = {}  # [chains] imputation, and what it drew of each fixed parameter, or {}

    # what further studies reported, with predictions: a row a number, columns as of predictions.csv
    further: list[dict[str, Any]] = []  # noqa: RUF012
    log_likelihood: NDArray[np.float64] | None = None  # [chains, draws, A] of each arm's counts on the surface

    @property
    def prior_only(self) -> bool:
        """Whether nothing was fitted: the predictions are those of the prior."""
        return not self.posterior


def save(result: FitResult, folder: str | Path) -> None:
    """Write the files of a run into an existing folder; ``manifest.json`` only if the result holds one.

    Raises InputError where a file cannot be written, ValueError where the arrays of the result do not fit together.
    """
    folder = Path(folder)
    problem = misfit(result)
    if problem:
        raise ValueError(problem)
    write_text(folder / CONFIG, result.config_toml)
    write_bytes(folder / POSTERIOR, _netcdf(tree(result)))
    write_text(folder / SUMMARY, summary(result).to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    head = {"verdict": result.verdict, "reasons": list(result.reasons)}
    times = {"seconds": result.seconds, TIMES: [_timed(row, True) for row in result.rounds]}
    write_text(folder / DIAGNOSTICS, _json(head | dict(result.diagnostics) | times))
    if result.further:
        import pandas as pd

        text = pd.DataFrame(result.further).to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_text(folder / STUDIES, text)
    if result.imputed:
        from inference.imputation import variances

        table = variances(result.posterior, np.asarray(result.imputed[NUMBER]))
        write_text(folder / IMPUTATIONS, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    if result.manifest:
        write_text(folder / RUN_MARK, _json(result.manifest))


def load(folder: str | Path) -> FitResult:
    """The result a run folder holds; InputError that names the file if it is no run, or damaged."""
    folder = Path(folder)
    check_run(folder)
    manifest, diagnostics = (read_json(folder / name) for name in (RUN_MARK, DIAGNOSTICS))
    try:
        config = (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{folder / CONFIG}: cannot be read as text") from None
    for key, kind in (("verdict", str), ("reasons", list), ("seconds", dict)):
        if not isinstance(diagnostics.get(key), kind):
            raise InputError(f"{folder / DIAGNOSTICS}: no legal '{key}'; the run is damaged: fit again")
    path = folder / POSTERIOR
    try:
        result = _from_groups(_groups(path), config, diagnostics, manifest)
        problem = misfit(result)
    except Exception as error:  # a damaged file can fail anywhere in HDF5, h5netcdf, xarray or here
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: is damaged or of another version; fit again ({reason})") from None
    if problem:
        raise InputError(f"{path}: is damaged: {problem}")
    return result


def load_fitted(folder: str | Path) -> FitResult:
    """As ``load``; InputError too if the run holds a prior only."""
    result = load(folder)
    if result.prior_only:
        raise InputError(f"{folder}: holds a prior only; legal: a run with a posterior")
    return result


def check_run(folder: Path) -> None:
    """InputError unless ``folder`` is the folder of a finished fit, with all its files."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; the run folder of a fit is expected")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: is not the run folder of a fit: {missing[0]} is missing")


def misfit(r: FitResult) -> str:
    """What does not fit together in a result, or an empty string."""
    arms, visits, levels, kinds = len(r.arms), len(r.visit_days), len(r.levels_mg), len(NAMES)
    if tuple(r.quantities) != NAMES:
        return f"quantities are {', '.join(r.quantities)}; legal: {', '.join(NAMES)}"
    chains = {np.shape(values) for values in r.posterior.values()}
    shapes: dict[str, tuple[Any, Any]] = {
        "fitted": (np.shape(r.fitted), (arms,)),
        "observed": (np.shape(r.observed), (arms, kinds)),
        "n": (np.shape(r.n), (arms,)),
        "posterior_predictive": (np.shape(r.posterior_predictive)[1:], (arms, kinds)),
        "prior_predictive": (np.shape(r.prior_predictive)[1:], (arms, kinds)),
        "platelets_quantiles": (np.shape(r.platelets_quantiles), (arms, visits + 1, len(PLATELET_QUANTILES))),
        "median_quantiles": (np.shape(r.median_quantiles), (arms, visits + 1, len(MEDIAN_QUANTILES))),
        "level_share": (np.shape(r.level_share), (arms, visits, levels + 1)),
    }
    if chains:
        shapes["posterior"] = (next(iter(chains))[2:], ()) if len(chains) == 1 else (tuple(chains), "one shape for all")
    if r.logits is not None and chains:
        shapes["logits"] = (np.shape(r.logits), (*next(iter(chains)), arms, np.shape(r.logits)[-1]))
    if r.log_likelihood is not None and chains:
        shapes["log_likelihood"] = (np.shape(r.log_likelihood), (*next(iter(chains)), arms))
    for name, (found, expected) in shapes.items():
        if found != expected:
            return f"{name} has the shape {found}; expected {expected}"
    return "" if r.prior else "no prior draws"


def summary(result: FitResult) -> pd.DataFrame:
    """Table with ``COLUMNS``, a row for each free parameter: posterior moments, convergence, how far it was narrowed.

    contraction = 1 - (posterior sd/prior sd)^2 with both sds taken on the log scale (every parameter that is above 0
    in all prior draws; on its own scale otherwise): 0 where the data say nothing, near 1 where they say everything.
    ``sd`` and ``prior_sd`` are in the unit of the parameter. When only the prior was drawn the moments are the
    prior's, and convergence and contraction are blank.
    """
    import pandas as pd

    found = result.posterior or result.prior
    at = _convergence(result) if result.posterior else None
    rows = []
    for i, (name, draws) in enumerate(found.items()):
        prior = np.asarray(result.prior[name], np.float64)
        low, middle, high = np.quantile(draws, (0.025, 0.5, 0.975))
        agreed = (math.nan,) * 4 if at is None else (at.rhat[i], at.ess_bulk[i], at.ess_tail[i],
                                                     contraction(draws, prior))  # fmt: skip
        rows.append((name, unit(name), np.mean(draws), _sd(draws), low, middle, high,
                     *agreed[:3], _sd(prior), agreed[3]))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _convergence(result: FitResult) -> Convergence:
    """R-hat, effective draws and errors; chains of different imputations are not compared, their draws add up."""
    from inference import arviz

    if not result.imputed:
        return arviz.convergence(result.posterior)
    number = np.asarray(result.imputed[NUMBER])
    each = [arviz.convergence({n: v[number == i] for n, v in result.posterior.items()}) for i in np.unique(number)]
    return arviz.Convergence(
        rhat=np.max([c.rhat for c in each], axis=0),
        ess_bulk=np.sum([c.ess_bulk for c in each], axis=0),
        ess_tail=np.sum([c.ess_tail for c in each], axis=0),
        mcse_mean=np.sqrt(np.sum([c.mcse_mean**2 for c in each], axis=0)) / len(each),
    )


def contraction(posterior: NDArray[np.float64], prior: NDArray[np.float64]) -> float:
    """1 - (posterior sd/prior sd)^2, on the log scale where the prior is positive."""
    posterior, prior = log_scale(posterior, prior)
    return 1.0 - (_sd(posterior) / _sd(prior)) ** 2


def log_scale(posterior: NDArray[np.float64], prior: NDArray[np.float64]) -> tuple[Any, Any]:
    """Both sets of draws on the scale on which they are compared: logs if all prior draws are above 0."""
    if np.min(prior) > 0 and np.min(posterior) > 0:
        return np.log(posterior), np.log(prior)
    return np.asarray(posterior), np.asarray(prior)


def unit(name: str) -> str:
    """Unit of a population parameter; "-" for interindividual sds and what the schema does not know."""
    from pkpd.tables import field_of

    try:
        return field_of(name.rpartition(".")[2]).unit  # another drug's parameter carries its name in front
    except InputError:
        return "-"


def tree(result: FitResult) -> xr.DataTree:
    """The result as labelled arrays, group by group as in ``posterior.nc``."""
    import xarray as xr

    arm = {"arm": list(result.arms)}
    events = arm | {"quantity": list(result.quantities)}
    days = {"day": [0, *np.asarray(result.visit_days).tolist()]}
    by_draw = ("chain", "draw")

    def counts(values: Any, attrs: Mapping[str, str]) -> Any:
        array = np.asarray(values, np.int32)
        return _dataset({"count": ((*by_draw, "arm", "quantity"), array[None], dict(attrs))}, events)

    patients = {"unit": "patients"}
    groups = {
        "posterior": _dataset({n: (by_draw, np.asarray(v), {"unit": unit(n)}) for n, v in result.posterior.items()}),
        "prior": _dataset({n: (by_draw, np.asarray(v)[None], {"unit": unit(n)}) for n, v in result.prior.items()}),
        "sample_stats": _dataset({n: (by_draw, np.asarray(v), {}) for n, v in result.sample_stats.items()}),
        "posterior_predictive": counts(result.posterior_predictive, patients),
        "prior_predictive": counts(result.prior_predictive, patients),
        "observed_data": _dataset({"count": (("arm", "quantity"), np.asarray(result.observed), patients)}, events),
        "constant_data": _dataset({"n": ("arm", np.asarray(result.n), patients),
                                   "fitted": ("arm", np.asarray(result.fitted, bool), {})}, arm),
        "courses": _dataset({
            "platelets_quantiles": (("arm", "day", "quantile"), result.platelets_quantiles, {"unit": COUNT_UNIT}),
            "median_quantiles": (("arm", "day", "median_quantile"), result.median_quantiles, {"unit": COUNT_UNIT}),
            "level_share": (("arm", "visit_day", "dose_mg"), result.level_share, {"unit": "share of patients"}),
        }, arm | days | {"visit_day": days["day"][1:], "quantile": list(PLATELET_QUANTILES),
                         "median_quantile": list(MEDIAN_QUANTILES), "dose_mg": [0.0, *result.levels_mg]}),
        "examples": _dataset({n: (("arm", "patient", "visit_day")[: np.ndim(v)], np.asarray(v),
                                  {"unit": "mg" if n == "dose_mg" else COUNT_UNIT})
                              for n, v in result.examples.items()}, arm),
        "rounds": _dataset(_columns([_timed(row, False) for row in result.rounds], "round")),
        "fixed_parameters": _dataset(_columns(result.fixed, "parameter")),
    }  # fmt: skip
    if result.correction:
        groups["correction"] = _dataset({n: ("weighted", np.asarray(v), {}) for n, v in result.correction.items()})
    if result.imputed:
        groups["imputed"] = _dataset(
            {n: ("chain", np.asarray(v), {"unit": unit(n)}) for n, v in result.imputed.items()}
        )
    if result.further:
        groups["further_studies"] = _dataset(_columns(result.further, "number"))
    if result.log_likelihood is not None:
        own = np.asarray(result.log_likelihood)
        groups["log_likelihood"] = _dataset({"count": ((*by_draw, "arm"), own, {})}, arm)
    if result.logits is not None:
        groups["surface"] = _dataset({"logits": ((*by_draw, "arm", "logit"), np.asarray(result.logits), {})}, arm)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"title": "arm-level fit"}), **groups})


def _dataset(variables: Mapping[str, Any], coords: Mapping[str, Any] | None = None) -> Any:
    import xarray as xr

    made = xr.Dataset({n: (dims, np.asarray(v), attrs) for n, (dims, v, attrs) in variables.items()}, coords)
    # ArviZ's schema numbers chains and draws; some of its plots need the numbers
    return made.assign_coords({d: np.arange(size) for d, size in made.sizes.items() if d in ("chain", "draw")})


def _columns(rows: Iterable[Mapping[str, Any]], dim: str) -> dict[str, Any]:
    """Variables of a list of records: numbers with NaN where a record has no such key, or text."""
    rows = list(rows)
    names = dict.fromkeys(key for row in rows for key in row)
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        numeric = all(v is None or isinstance(v, int | float | np.number) for v in values)
        column = [math.nan if v is None else v for v in values] if numeric else ["" if v is None else str(v)
                                                                                for v in values]  # fmt: skip
        columns[name] = (dim, np.asarray(column), {})
    return columns


def _netcdf(tree: xr.DataTree) -> bytes:
    """The tree as a NetCDF-4 file in memory, so that a full disk is met by one write and not inside HDF5."""
    import h5netcdf
    import h5py

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        for node in tree.subtree:
            group = file if node.path == "/" else file.create_group(node.path)
            group.attrs.update(node.attrs)
            group.dimensions = dict(node.sizes)
            for name, variable in node.variables.items():
                values, attrs = variable.values, dict(variable.attrs)
                if values.dtype.kind in "UO":
                    values, dtype = values.astype(object), h5py.string_dtype()
                elif values.dtype == bool:
                    values, dtype, attrs["dtype"] = values.astype(np.int8), np.int8, "bool"  # as xarray writes it
                else:
                    dtype = values.dtype
                group.create_variable(str(name), variable.dims, dtype, data=values).attrs.update(attrs)
    return buffer.getvalue()


def _groups(path: Path) -> dict[str, dict[str, Any]]:
    """Arrays by group and name, text as str; the file is closed again."""
    import xarray as xr

    with xr.open_datatree(path, engine="h5netcdf") as tree:
        return {node.name: {str(k): v.values for k, v in node.variables.items()}
                for node in tree.subtree if node.name}  # fmt: skip


def _from_groups(g: Mapping[str, Any], config: str, diagnostics: dict[str, Any], manifest: dict[str, Any]) -> FitResult:
    names = {"chain", "draw"}
    courses, events = g["courses"], g["observed_data"]
    diagnostics, rounds = dict(diagnostics), _rows(g["rounds"])
    return FitResult(
        config_toml=config,
        arms=tuple(map(str, events["arm"])),
        quantities=tuple(map(str, events["quantity"])),
        fitted=tuple(map(bool, g["constant_data"]["fitted"])),
        observed=events["count"],
        n=g["constant_data"]["n"],
        posterior={k: v for k, v in g["posterior"].items() if k not in names},
        prior={k: v[0] for k, v in g["prior"].items() if k not in names},
        sample_stats={k: v for k, v in g["sample_stats"].items() if k not in names},
        posterior_predictive=g["posterior_predictive"]["count"][0],
        prior_predictive=g["prior_predictive"]["count"][0],
        logits=g["surface"]["logits"] if "surface" in g else None,
        log_likelihood=g["log_likelihood"]["count"] if "log_likelihood" in g else None,
        visit_days=courses["visit_day"],
        platelets_quantiles=courses["platelets_quantiles"],
        median_quantiles=courses["median_quantiles"],
        level_share=courses["level_share"],
        levels_mg=courses["dose_mg"][1:],
        examples={k: v for k, v in g["examples"].items() if k != "arm"},
        rounds=[row | now for row, now in zip(rounds, diagnostics.pop(TIMES, [{}] * len(rounds)), strict=True)],
        fixed=_rows(g["fixed_parameters"]),
        verdict=diagnostics.pop("verdict"),
        reasons=diagnostics.pop("reasons"),
        seconds=diagnostics.pop("seconds"),
        diagnostics=diagnostics,
        manifest=manifest,
        correction=g.get("correction", {}),
        further=_rows(g.get("further_studies", {})),
        imputed={k: v for k, v in g.get("imputed", {}).items() if k not in names},
    )


def _timed(row: Mapping[str, Any], times: bool) -> dict[str, Any]:
    """What a round took, or all else: times stay out of posterior.nc, whose arrays a seed decides to the bit."""
    return {k: v for k, v in row.items() if k.startswith("seconds_") == times}


def _rows(columns: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """The records that ``_columns`` took apart; a NaN was no entry."""
    lists = {name: values.tolist() for name, values in columns.items()}
    rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    return [{k: v for k, v in row.items() if v == v} for row in rows]


def _sd(values: Any) -> float:
    return float(np.std(values, ddof=1))


def _json(content: Any) -> str:
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON types only: arrays as lists, and null where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path}: is not JSON; the run is damaged: fit again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON table; the run is damaged: fit again")
    return content
