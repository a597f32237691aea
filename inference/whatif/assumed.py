"""What of a design is assumed, and between which values each assumption is varied to see what hangs on it.

Of the library: every value with the status "assumed" that no posterior replaces and that acts in the design. Of the
scenario: values that it sets, dropout, missed visits and doses, stated responses. The range is that of the library's
prior where there is one, else a stated one: half and double, a share half and double its odds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from inference.drawn import NEW
from inference.studies import values_of
from pkpd.parameters import SD_SUFFIX, Library, load_library
from pkpd.planned import COMPARATOR, OF_ITP, planned_arms
from pkpd.tables import Entry, Field, Prior, field_of, schema

if TYPE_CHECKING:
    from pkpd.planned import PlannedArm
    from pkpd.scenario import Scenario

PRIOR, ODDS, HALF, NARROW = "prior, 95%", "odds ×½, ×2", "×½, ×2", "×0.8, ×1.25"
# Definitions, and what virtual patients draw in place of: nothing that could be another number.
DEFINED = frozenset({
    "bioavailability", "immune_log_activity", "reference_weight_kg", "molar_mass_g_per_mol",
    "baseline_platelets_1e9_per_l",
})  # fmt: skip
WITHOUT_TARGET = frozenset(
    {"target_degradation_per_h", "quasi_steady_state_constant_nM", "complex_internalisation_per_h"}
)
# What half and double would make absurd: weights of adults, exponents, ratios that are 1 for no effect.
NARROWLY = ("weight_median_kg", "weight_min_kg", "weight_max_kg", "allometric_", "_clearance_ratio")
OF_A_TABLE = ("weight_", "baseline_", "age_", "female_share", "splenectomy_share", "corticosteroid_share")
Draws = Mapping[str, np.ndarray]
Change = Callable[["Scenario", float], "Scenario"]


class Assumed(NamedTuple):
    """An assumption with its low and high value, and how it is changed.

    key: where it stands, ``of``: the drug, "patients" or "scenario". draws: population parameters that move with it, by
    the names of a posterior's draws, at the low and at the high value; change: of the scenario, else None.
    """

    key: str
    of: str
    unit: str
    value: float
    low: float
    high: float
    range: str
    source: str
    draws: tuple[dict[str, float], dict[str, float]] = ({}, {})
    change: Change | None = None


def assumptions(design: Scenario, draws: Draws) -> list[Assumed]:
    """All of a design whose posterior draws are ``draws``, the scenario's own first."""
    found = list(_of_scenario(design))
    return found + (list(_of_library(design, draws)) if design.outcome is None else [])


def centres(found: list[Assumed], disease: str) -> dict[str, float]:
    """Values, as they are in a disease, of all population parameters that some assumption of the library moves."""
    own: dict[str, float] = {}
    for a in found:
        for name in a.draws[0]:
            drug, _, tail = name.rpartition(".")
            own[name] = load_library(drug or COMPARATOR, disease).value(tail)
    return own


# Ranges


def interval(value: float, prior: Prior | None, field: Field) -> tuple[float, float, str]:
    """Low and high value within the field's range, and where they come from."""
    low, high, words = _interval(value, prior, field)
    return _inside(low, value, field), _inside(high, value, field), words


def _interval(value: float, prior: Prior | None, field: Field) -> tuple[float, float, str]:
    if prior is not None and prior.distribution == "lognormal" and prior.log_sd is not None:
        factor = float(np.exp(stats.norm.ppf(0.975) * prior.log_sd))
        return value / factor, value * factor, PRIOR
    if prior is not None and prior.distribution in ("beta", "dirichlet"):
        law = (prior.alpha, prior.beta)
        if prior.distribution == "dirichlet" and prior.concentration is not None:
            law = (prior.concentration * value, prior.concentration * (1 - value))
        low, high = (float(x) for x in stats.beta.ppf((0.025, 0.975), *law))
        return min(low, value), max(high, value), PRIOR
    if any(part in field.name for part in NARROWLY):
        return 0.8 * value, 1.25 * value, NARROW
    if field.name.endswith("_log_mean"):
        return value - float(np.log(2)), value + float(np.log(2)), HALF
    if field.lower == 0 and field.upper == 1:
        return of_odds(value, 0.5), of_odds(value, 2.0), ODDS
    return value / 2, 2 * value, HALF


def of_odds(p: float, factor: float) -> float:
    """The probability whose odds are this many times those of p."""
    return p * factor / (1 - p + p * factor)


def _inside(x: float, value: float, field: Field) -> float:
    """x, or the bound it is beyond; halfway to a bound that is not legal itself."""
    if x < field.lower or (field.lower_open and x == field.lower):
        return (value + field.lower) / 2 if field.lower_open else field.lower
    if x > field.upper or (field.upper_open and x == field.upper):
        return (value + field.upper) / 2 if field.upper_open else field.upper
    return x


# Of the library


def _of_library(design: Scenario, draws: Draws) -> Iterator[Assumed]:
    arms = planned_arms(design)
    seen: set[str] = set()
    taken = [(a, drug) for a in arms for drug in (a.drug, a.second_drug) if drug not in ("", "placebo")]
    for a, drug in taken or [(arms[0], COMPARATOR)]:  # placebo patients have the same disease
        library = load_library(drug, a.disease)
        only = a._replace(drug=drug, second_drug="")
        replaced = set(values_of(NEW, only, COMPARATOR, draws)) | set(a.fixed)
        for name, entry in _entries(library):
            own = name.removesuffix(SD_SUFFIX) in schema()["drug"]
            key = f"{drug}.{name}" if own and drug != COMPARATOR else name
            if entry.status != "assumed" or key in seen or name in replaced or not _acts(name, library, a, design):
                continue
            seen.add(key)
            field = field_of(name)
            low, high, words = interval(entry.value, entry.prior, field)
            if low < high:
                of = drug if own else "patients"
                moved = (_with_group(library, key, name, low), _with_group(library, key, name, high))
                yield Assumed(name, of, entry.unit, entry.value, low, high, words, entry.source, moved)


def _entries(library: Library) -> Iterator[tuple[str, Entry]]:
    groups = (library.entries, library.sd_entries, library.demography_entries, library.covariate_entries)
    return ((name, entry) for group in groups for name, entry in group.items())


def _acts(name: str, library: Library, a: PlannedArm, design: Scenario) -> bool:
    """Whether the value can matter to the patients of such an arm at all."""
    base = name.removesuffix(SD_SUFFIX)
    if base in DEFINED or (base in WITHOUT_TARGET and library.value("target_baseline_nM") == 0):
        return False
    if a.disease == "healthy" and base in OF_ITP:
        return False
    by_chance = design.rescue.enabled and design.rescue.below_1e9_per_l is None
    if base.startswith("rescue_") and not by_chance:
        return False
    if name.startswith("age_") and design.asks_for_ages is None:
        return False
    if design.entry.patients is not None and name.startswith(OF_A_TABLE):
        return False
    if name.endswith("_clearance_ratio"):  # moves with a part of the patients; of all or none it is no difference
        return 0 < library.value(name.replace("_clearance_ratio", "_share")) < 1
    if name.endswith("_share") and (ratio := name.replace("_share", "_clearance_ratio")) in library.covariate_entries:
        return library.value(ratio) != 1
    return True


def _with_group(library: Library, key: str, name: str, value: float) -> dict[str, float]:
    """The value by the name of its draws; shares that add to 1 with it give way in proportion."""
    found = {key: value}
    for group in schema()["rules"]["add_to_1"]:
        if name in group:
            rest = {other: library.value(other) for other in group if other != name}
            found |= {other: x * (1 - value) / sum(rest.values()) for other, x in rest.items()}
    return found


# Of the scenario


def _of_scenario(design: Scenario) -> Iterator[Assumed]:
    if design.outcome is not None:
        yield from _of_outcome(design)
        return
    source = "set by the scenario"
    for name, value in design.parameters.items():
        low, high, words = interval(value, load_library().entry(name).prior, field_of(name))
        if low < high and name not in DEFINED and not _in_group(name):
            yield Assumed(
                name, "scenario", field_of(name).unit, value, low, high, words, source,
                change=_parameter(name),
            )  # fmt: skip
    drop = design.dropout
    if drop.hazard_per_week > 0:
        yield _plain("dropout.hazard_per_week", "1/week", drop.hazard_per_week, _in_dropout("hazard_per_week"))
    if drop.low_count_1e9_per_l is not None:
        ratio = drop.low_count_hazard_ratio
        yield _plain("dropout.low_count_hazard_ratio", "-", ratio, _in_dropout("low_count_hazard_ratio"))
    missed = design.trial.missed_visit_share
    if missed > 0:
        yield _share("trial.missed_visit_share", missed, _missed_visits)
    for arm in design.arms:
        if not isinstance(arm.ec50_ratio, tuple) and arm.ec50_ratio != 1:
            yield _plain(f"arms.{arm.name}.ec50_ratio", "-", arm.ec50_ratio, _potency(arm.name))
    doses = {arm.adherence.missed_share for arm in design.arms if arm.adherence is not None}
    if doses:
        value = max(doses)
        runs = [arm.adherence.mean_missed_run_d for arm in design.arms if arm.adherence is not None]
        most = min((run / (1 + run) for run in runs if run is not None), default=1.0)  # else runs would be longer
        found = _share("arms.adherence.missed_share", value, _missed_doses(value))
        yield found._replace(high=min(found.high, most))


def _parameter(name: str) -> Change:
    return lambda s, x: s.model_copy(update={"parameters": {**s.parameters, name: x}})


def _potency(arm: str) -> Change:
    def change(design: Scenario, x: float) -> Scenario:
        arms = [a.model_copy(update={"ec50_ratio": x}) if a.name == arm else a for a in design.arms]
        return design.model_copy(update={"arms": tuple(arms)})

    return change


def _in_group(name: str) -> bool:
    return any(name in group for group in schema()["rules"]["add_to_1"])


def _plain(key: str, unit: str, value: float, change: Change) -> Assumed:
    return Assumed(key, "scenario", unit, value, value / 2, 2 * value, HALF, "set by the scenario", change=change)


def _share(key: str, value: float, change: Change) -> Assumed:
    low, high = of_odds(value, 0.5), of_odds(value, 2.0)
    return Assumed(key, "scenario", "-", value, low, high, ODDS, "set by the scenario", change=change)


def _in_dropout(key: str) -> Change:
    return lambda s, x: s.model_copy(update={"dropout": s.dropout.model_copy(update={key: x})})


def _missed_visits(design: Scenario, x: float) -> Scenario:
    return design.model_copy(update={"trial": design.trial.model_copy(update={"missed_visit_share": x})})


def _missed_doses(largest: float) -> Change:
    """Missed doses of all arms: the largest share becomes x, the odds of the others move as much."""

    def change(design: Scenario, x: float) -> Scenario:
        factor = x / (1 - x) / (largest / (1 - largest))
        arms = []
        for arm in design.arms:
            if arm.adherence is not None:
                share = of_odds(arm.adherence.missed_share, factor)
                arm = arm.model_copy(update={"adherence": arm.adherence.model_copy(update={"missed_share": share})})
            arms.append(arm)
        return design.model_copy(update={"arms": tuple(arms)})

    return change


def _of_outcome(design: Scenario) -> Iterator[Assumed]:
    """Stated responses of an arm, all visits at once: the odds of each move as much as those of the last."""
    assert design.outcome is not None
    stated = design.outcome.response_profile or {k: (p,) for k, p in design.outcome.response_probability.items()}
    name = "response_profile" if design.outcome.response_profile else "response_probability"
    for arm in design.arms:
        last = stated[arm.name][-1]
        if 0 < last < 1:
            words = f"{ODDS}{', every visit' if name == 'response_profile' else ''}"
            found = _share(f"outcome.{name}.{arm.name}", last, _stated(name, arm.name, last))
            yield found._replace(range=words)


def _stated(table: str, arm: str, last: float) -> Change:
    def change(design: Scenario, x: float) -> Scenario:
        assert design.outcome is not None
        factor = x / (1 - x) / (last / (1 - last))
        own = getattr(design.outcome, table)
        now = own[arm]
        moved = tuple(of_odds(p, factor) for p in now) if isinstance(now, tuple) else of_odds(now, factor)
        outcome = design.outcome.model_copy(update={table: {**own, arm: moved}})
        return design.model_copy(update={"outcome": outcome})

    return change
