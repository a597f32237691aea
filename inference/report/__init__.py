"""The report of a run: one self-contained HTML file, built from the run folder alone."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pkpd.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Environment

    from inference.config import Config, Plan
    from inference.store import FitResult
    from pkpd.model import Form
    from pkpd.parameters import Library

NAME = "report.html"
TEMPLATES = Path(__file__).parent / "templates"


def build(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    InputError if the folder is no run, a file of it is damaged, or the page cannot be written.
    """
    from inference import store
    from inference.config import load
    from inference.output import write_text

    folder = Path(run_dir)
    result = store.load(folder)
    config = load(folder / store.CONFIG)
    path = folder / NAME
    write_text(path, render(result, config))
    return path


def warm_up(library: Library, levels_mg: Any, draws: Mapping[str, Any], form: Form) -> None:
    """Imports and compiles what ``build`` will need; ``draws`` need only have the names of the run's."""
    from inference import assay, curves  # noqa: F401
    from inference.report import figures, numbers  # noqa: F401

    curves.typical_courses(library, curves.thinned(draws), tuple(map(float, np.asarray(levels_mg))), form)


def render(result: FitResult, config: Config) -> str:
    """The page of a result; ``config`` is that of the run."""
    return environment().get_template("report.html").render(context(result, config))


def environment() -> Environment:
    """Where the templates are found, with their filters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {f.__name__: f for f in (sig, plain, whole, percent, listed, first_upper, breakable)}
    return made


def style() -> str:
    """The style sheet, which goes into every page."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


def context(result: FitResult, config: Config) -> dict[str, Any]:
    """Everything the templates read."""
    from inference import curves, labels, manifest, store
    from inference.config import hill_is_one
    from inference.report import figures, numbers
    from pkpd import titration
    from pkpd.model import Form
    from pkpd.parameters import load_library

    plan, missing = _plan(config)
    draws = curves.thinned(result.posterior or result.prior)
    form = Form(signalling=config.signalling, hill_is_one=hill_is_one(config, plan.library))
    published, half_life = _published_pharmacokinetics()
    summary = store.summary(result)
    rows = numbers.predictions(result)

    def typical() -> tuple[Any, Any]:
        courses = curves.typical_courses(plan.library, draws, tuple(map(float, result.levels_mg)), form)
        if config.drug != "hetrombopag":  # the published single doses are those of hetrombopag
            return courses, None
        healthy = load_library(config.drug, "healthy", config.parameters)
        return courses, curves.single_doses(healthy, draws, form=form)

    with ThreadPoolExecutor(1) as aside:  # the engine compiles while figures are drawn
        awaited = aside.submit(typical)
        drawn = figures.of_result(result, summary)
        courses, single = awaited.result()
    drawn |= figures.of_typical(courses, single, half_life)
    posterior: dict[str, Any] = {}
    if not result.prior_only:
        matrix = numbers.correlation(result)
        posterior = {
            "pairs": numbers.strongest_pairs(list(result.posterior), matrix),
            "directions": numbers.directions(result),
            "noise_ridge": numbers.noise_ridge(result),
            "criteria": numbers.criteria(result),
        }
    scenario = None if missing else plan.scenario
    rules = {} if scenario is None else {name: titration.as_text(t.rule()) for name, t in scenario.titration.items()}
    estimable = plan.library.names()
    every = (*plan.library.demography_entries.values(), *plan.library.covariate_entries.values())
    laws = [entry for entry in every if entry.name not in estimable]
    return posterior | {
        "r": result,
        "runs": len({row.get("replicate", 1) for row in result.rounds}),
        "config": config,
        "library": plan.library,
        "missing": missing,
        "scenario": scenario,
        "rules": rules,
        "sources": _sources(config, plan, missing),
        "rows": rows,
        "fit": numbers.fit_of([row for row in rows if row["fitted"]]),
        "left_out": numbers.fit_of([row for row in rows if not row["fitted"]] if not result.prior_only else []),
        "everything": numbers.fit_of(rows),
        "medians": numbers.medians(result),
        "last_doses": numbers.last_doses(result),
        "courses": courses,
        "ec50s": _ec50s(result, config),
        "single": single,
        "published": published,
        "half_life": half_life,
        "parameters": numbers.parameters(summary),
        "priors": _priors(result, config, plan),
        "assay_limit": curves.ASSAY_LIMIT_NG_PER_ML,
        "fixed": result.fixed,
        "imputed": _imputed(result),
        "laws": laws,
        "statuses": numbers.statuses(result.fixed),
        "figures": figures.pictures(drawn),
        "labels": labels,
        "seconds": sum(result.seconds.values()),
        "library_changed": result.manifest.get("sha256", {}).get("library", manifest.library_hash())
        != manifest.library_hash(),
        "draws_word": "prior" if result.prior_only else "posterior",
        "n_draws": len(next(iter(draws.values()))),
        "little": numbers.LITTLE,
        "style": style(),
    }


def _plan(config: Config) -> tuple[Plan, str]:
    """The plan of the config, and why data or scenario of the user's own cannot be read any more (else blank)."""
    from inference.config import Config, Data, plan

    try:
        return plan(config), ""
    except InputError as error:
        shipped = {"scenario": Config().scenario, "data": Data()}
        return plan(config.model_copy(update=shipped)), str(error)


def _sources(config: Config, plan: Plan, missing: str) -> list[dict[str, str]]:
    """Source, DOI and status of the counts that were fitted, each once, with notes."""
    from pkpd.datatables import published, read_table
    from pkpd.endpoints import NAMES

    if missing:
        return []
    name = config.data.table
    table = read_table(name) if name.endswith(".csv") else published(name)
    used = table[table["quantity"].isin(NAMES) & table["arm"].isin(plan.data.arms)]
    columns = ["study", "source", "doi", "status"]
    found = used[columns].drop_duplicates().to_dict("records")
    notes = used[used["note"] != ""].drop_duplicates("note")
    return [row | {"notes": [f"{q}: {t}" for q, t in zip(notes["quantity"], notes["note"], strict=True)]}
            for row in found]  # fmt: skip


def _ec50s(result: FitResult, config: Config) -> dict[str, Any]:
    """EC50s in a dish and in plasma as ``pkpd assay --posterior`` has them; {} for a drug without a published one."""
    from inference import assay
    from pkpd.assay import in_vitro_ec50

    try:
        dish = in_vitro_ec50(config.drug)
    except InputError:
        return {}
    cells = assay.of_run(result, config, f"the {'prior' if result.prior_only else 'posterior'} of this run")
    return {"rows": assay.compare(cells).to_dict("records"), "source": dish["source"], "doi": dish["doi"]}


def _imputed(result: FitResult) -> list[dict[str, Any]] | None:
    """Variances within and between imputations, by parameter; None where nothing was imputed."""
    from inference.imputation import variances
    from inference.store import NUMBER

    if not result.imputed:
        return None
    return variances(result.posterior, np.asarray(result.imputed[NUMBER])).to_dict("records")


def _priors(result: FitResult, config: Config, plan: Plan) -> list[dict[str, Any]]:
    """Free parameters with centre and law, grouped by the words of their sources."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    laws = {name: law for law in plan.prior.elements for name in getattr(law, "names", (getattr(law, "name", ""),))}
    for name in result.prior:
        if name not in plan.library.names() or name not in laws:
            continue
        entry, law = plan.library.entry(name), laws[name]
        width = "changed in the config" if name in config.priors else entry.prior.source if entry.prior else ""
        shape = {k: v for k, v in vars(law).items() if isinstance(v, float) and k != "centre"}
        words = ", ".join([type(law).__name__.lower(), *(f"{k.replace('_', '-')} {v:g}" for k, v in shape.items())])
        row = {"name": name, "value": entry.value, "unit": entry.unit, "law": words}
        groups.setdefault((entry.status, entry.source, width), []).append(row)
    return [{"status": s, "centre": c, "width": w, "rows": rows} for (s, c, w), rows in groups.items()]


def _published_pharmacokinetics() -> tuple[dict[str, Any], tuple[float, float]]:
    """Published single numbers the report compares with, and the range of half-lives."""
    from pkpd.datatables import published

    table = published("pharmacokinetics")

    def rows(quantity: str) -> Any:
        return table[table["quantity"] == quantity]

    bounds = rows("auc_tau_upper_bound")
    low, high = (rows(f"terminal_half_life_{end}") for end in ("lowest", "highest"))
    found = {
        "auc_bound": dict(zip(bounds["dose_mg"], bounds["value"], strict=True)),
        "tmax": float(rows("tmax")["value"].iloc[0]),
        "source": str(low["source"].iloc[0]),
        "doi": str(low["doi"].iloc[0]),
    }
    return found, (float(low["value"].iloc[0]), float(high["value"].iloc[0]))


def sig(value: Any, digits: int = 3) -> str:
    """A number with some significant digits and no exponent between 0.0001 and ten million; "–" for none."""
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return "–"
    if isinstance(value, str):
        return value
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if isinstance(value, int) and "." in text else text


def plain(value: Any) -> str:
    """A number as it was given: no trailing zeros."""
    return f"{value:.6g}"


def whole(value: Any) -> str:
    """A whole number with separators; "–" for none."""
    return "–" if value is None else f"{value:,.0f}"


def percent(value: float) -> str:
    """A percentage without needless digits."""
    return f"{value:.1f}" if 0 < round(value, 1) < 10 else f"{value:.0f}"


def first_upper(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def breakable(name: str) -> Any:
    """A name that may be broken after its underscores."""
    from markupsafe import Markup, escape

    return Markup("_<wbr>").join(map(escape, name.split("_")))


def listed(words: Any) -> str:
    """Words as "a, b and c"."""
    words = [str(w) for w in words]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
