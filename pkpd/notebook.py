"""What a notebook needs: a scenario in, a labelled dataset with units and a table of endpoints out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
import pandas as pd

from pkpd import endpoints, protocol, streaming, trial
from pkpd.planned import PlannedArm, first_patients, planned_arms
from pkpd.randomisation import allocations, numbering

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import xarray as xr

    from pkpd.parameters import Library, Population
    from pkpd.scenario import Scenario

HOURS_A_DAY = 24
QUANTILES = (0.025, 0.25, 0.5, 0.75, 0.975)
# name of a leaf of Visits -> unit and words; a blank unit is a yes or no
UNITS = {
    "platelets_true": ("1e9/L", "platelet count without error"),
    "platelets_observed": ("1e9/L", "platelet count as measured; missing after dropout"),
    "dose_mg": ("mg", "daily dose at the end of the interval before the visit"),
    "interrupted": ("", "treatment interrupted during that interval"),
    "stopped": ("", "treatment stopped for good"),
    "rescued": ("", "rescued at this visit or before"),
    "dropped": ("", "left the trial"),
    "cmax_ng_per_ml": ("ng/mL", "highest free concentration of the interval"),
    "auc_ng_h_per_ml": ("ng h/mL", "area under the free concentration of the interval"),
    "trough_ng_per_ml": ("ng/mL", "free concentration at the visit"),
    "baseline": ("1e9/L", "platelet count at entry"),
    "weight_kg": ("kg", "body weight"),
}

# and of an arm with a protocol
OF_PROTOCOLS = {
    "visit_d": ("d", "day on which the visit took place"),
    "missed": ("", "visit missed"),
    "stage": ("", "number of the stage that ends with the visit, from 0"),
    "taken_mg": ("mg", "dose taken since the last visit, in all"),
    "relapsed": ("", "relapsed off treatment at this visit or before"),
}
# and where patients were screened, whose ``baseline`` is then as measured
OF_SCREENING = {"baseline_true": ("1e9/L", "platelet count without error at the first dose")}


def simulate_scenario(
    scenario: Scenario, library: Library | None = None, seed: int = 1, patients: int | None = None
) -> xr.Dataset:
    """Simulates one trial: variables [visit, patient] and [patient], coordinates ``arm`` and ``time_h``.

    ``library`` replaces the shipped parameters of its drug; ``patients`` an arm replaces the scenario's own numbers.
    """
    import xarray as xr

    arms = planned_arms(scenario, library=library)
    numbers = _numbers(scenario, arms, patients, seed)
    two_drugs = any(arm.second_drug for arm in arms)
    parts = [_arm(arm, own, scenario, seed, two_drugs) for arm, own in zip(arms, numbers, strict=True)]
    dataset = xr.concat(parts, "patient")
    dataset.attrs = {
        "scenario": scenario.trial.name,
        "seed": seed,
        "landmark": scenario.landmark,
        "endpoints": list(scenario.endpoint_names),
    }
    return dataset


def _numbers(
    scenario: Scenario, arms: list[PlannedArm], patients: int | None, seed: int
) -> Sequence[np.ndarray | range]:
    """Numbers of the patients of each arm of the trial, ``patients`` an arm or as many as the scenario has."""
    sizes = [patients or arm.n for arm in arms]
    own = allocations(scenario.randomisation, sizes)
    found: list[np.ndarray | range] = []
    for arm, allocation, first, n in zip(arms, own, first_patients(scenario, sizes), sizes, strict=True):
        if allocation is None:
            found.append(range(first, first + n))
            continue
        of = numbering(allocation, partial(_population, arm), arm.arm, 1, seed)
        found.append(of(np.zeros(n, int), np.arange(n)))
    return found


def _population(arm: PlannedArm, draw: np.ndarray) -> Population:
    return arm.population


def endpoint_table(dataset: xr.Dataset) -> pd.DataFrame:
    """Share of patients with each endpoint by arm: columns ``n``, ``share`` and its Monte Carlo error ``mc_se``."""
    rows = []
    for arm in dict.fromkeys(dataset["arm"].values.tolist()):
        own = dataset.isel(patient=np.flatnonzero(dataset["arm"].values == arm))
        observed, rescued, baseline = (
            jnp.asarray(own[name].values) for name in ("platelets_observed", "rescued", "baseline")
        )
        counts, rescued = endpoints.until(dataset.attrs["landmark"], observed, rescued)
        found = endpoints.events(counts, baseline, rescued)
        n = own.sizes["patient"]
        for name, share in zip(dataset.attrs["endpoints"], np.asarray(found).mean(axis=1).tolist(), strict=True):
            rows.append((arm, name, n, share, (share * (1 - share) / n) ** 0.5))
    return pd.DataFrame(rows, columns=["arm", "endpoint", "n", "share", "mc_se"]).set_index(["arm", "endpoint"])


def summarise_scenario(
    scenario: Scenario,
    library: Library | None = None,
    seed: int = 1,
    patients: int | None = None,
    progress: Callable[[int], None] = lambda patients: None,
) -> xr.Dataset:
    """One trial of any size without keeping its patients: the same patients as of ``simulate_scenario``, as a summary.

    Memory does not grow with ``patients`` an arm; ``progress`` is called with the patients of the arm done so far.
    Variables by arm and visit (0 is the baseline): see ``summary_dataset``.
    """
    arms = planned_arms(scenario, library=library)
    summaries = {}
    for arm, own in zip(arms, _numbers(scenario, arms, patients, seed), strict=True):
        people = trial.roster(arm.population, own)
        days = tuple(scenario.trial.visits_d)
        summaries[arm.name] = streaming.summarise(people, arm.arm, days, seed, scenario.landmark, progress=progress)
    return summary_dataset(scenario, arms, summaries).assign_attrs(seed=seed)


def summary_dataset(
    scenario: Scenario, arms: list[PlannedArm], summaries: Mapping[str, streaming.Summary]
) -> xr.Dataset:
    """Labelled summaries of the arms, units in the attributes of each variable.

    By arm: ``patients``, ``failed`` (solver; in no other number), ``endpoint_share``, ``endpoint_mc_se`` and
    ``endpoint_both``, the share with both of two events. By arm and visit: shares of patients ``response``, ``stopped``
    and so on, ``dose_share`` on each dose, ``second_dose_share`` on each of the second drug where an arm has one, and
    of the counts and exposures mean, sd and quantiles; ``log_count_covariance`` between visits.
    """
    import xarray as xr

    two_drugs = any(arm.second_drug for arm in arms)
    parts = [_labelled(arm, summaries[arm.name], scenario, two_drugs) for arm in arms]
    dataset = xr.concat(parts, "arm", join="outer", fill_value={"dose_share": 0.0, "second_dose_share": 0.0})
    dataset.attrs = {"scenario": scenario.trial.name, "landmark": scenario.landmark}
    return dataset


def summary_table(dataset: xr.Dataset) -> pd.DataFrame:
    """The summary as a table, a row a number: ``arm``, ``visit`` (none: of the whole course), ``quantity``, ``of``
    (endpoint, quantile or dose), ``value`` and ``unit``; covariances between visits are left out."""
    rows = []
    for name, variable in dataset.data_vars.items():
        if {"endpoint_2", "visit_2"} & set(variable.dims):
            continue
        table = variable.to_dataframe("value").reset_index()
        label = {"endpoint", "quantile", "dose_mg", "second_dose_mg"} & set(table.columns)
        table["of"] = table[label.pop()].astype(str) if label else ""
        rows.append(table.assign(quantity=name, unit=variable.attrs["units"]))
    table = pd.concat(rows).dropna(subset="value")
    table = table.assign(
        arm=pd.Categorical(table["arm"], dataset["arm"].values.tolist()), visit=table["visit"].astype("Int64")
    )
    columns = ["arm", "visit", "quantity", "of", "value", "unit"]
    return table.sort_values(["arm", "visit"], kind="stable", na_position="first", ignore_index=True)[columns]


def _labelled(planned: PlannedArm, s: streaming.Summary, scenario: Scenario, two_drugs: bool) -> xr.Dataset:
    import xarray as xr

    share, covariance = streaming.event_shares(s)
    variables: dict[str, tuple] = {
        "patients": ((), s.patients, "", "patients that were solved"),
        "failed": ((), s.failed, "", "patients whose course left the range of the solver"),
        "endpoint_share": ("endpoint", share, "", "share of patients with the event"),
        "endpoint_mc_se": ("endpoint", np.sqrt(np.diag(covariance)), "", "Monte Carlo error of the share"),
        "endpoint_both": (("endpoint", "endpoint_2"), s.events / s.patients, "", "share of patients with both events"),
    }
    for name, counted in zip(streaming.STATES, s.states, strict=True):
        words = UNITS[name][1] if name in UNITS else "count of at least 50 without rescue"
        variables[name] = ("visit", np.concatenate([[0], counted]) / s.patients, "", f"share of patients: {words}")
    for name in streaming.HISTOGRAMS:
        histogram, (unit, words) = getattr(s, name), UNITS[name]
        missing = len(scenario.trial.visits_d) + 1 - len(histogram)  # no exposure at the baseline
        histogram = np.pad(histogram, ((missing, 0), (0, 0)))
        mean, sd = streaming.moments(histogram)
        variables[f"{name}_mean"] = ("visit", mean, unit, f"mean: {words}")
        variables[f"{name}_sd"] = ("visit", sd, unit, f"standard deviation: {words}")
        quantiles = streaming.quantiles(histogram, np.array(QUANTILES))
        variables[f"{name}_quantile"] = (("visit", "quantile"), quantiles, unit, f"quantile: {words}")
    plan = planned.arm.protocol
    ladder = np.concatenate([[0.0], planned.arm.rule.levels_mg if plan is None else protocol.doses_mg(plan.stages)])
    given = (np.arange(len(ladder)) == 0) | (ladder > 0)  # a placebo's only level may be 0 mg

    def share_on(counted: np.ndarray) -> np.ndarray:
        return np.concatenate([np.full((1, counted.shape[1]), np.nan), counted / s.patients])

    words = "share of patients on this daily dose before the visit"
    variables["dose_share"] = (("visit", "dose_mg"), share_on(s.doses[:, : len(ladder)][:, given]), "", words)
    coords: dict[str, tuple] = {"dose_mg": ("dose_mg", ladder[given], {"units": "mg"})}
    if two_drugs:
        shares = share_on(s.doses[:, len(ladder) :])
        variables["second_dose_share"] = (("visit", "second_dose_mg"), shares, "", f"{words}, of the second drug")
        second = np.zeros(0) if plan is None else protocol.doses_mg(plan.stages, second=True)
        coords["second_dose_mg"] = ("second_dose_mg", second.astype(np.float64), {"units": "mg"})
    log_covariance = streaming.log_covariance(s)
    variables["log_count_covariance"] = (("visit", "visit_2"), log_covariance, "", "of the natural log of the counts")
    days, names = [0, *scenario.trial.visits_d], list(scenario.endpoint_names)
    return xr.Dataset(
        {
            name: (dims, value, {"units": unit, "long_name": words})
            for name, (dims, value, unit, words) in variables.items()
        },
        coords={
            "arm": planned.name,
            "visit": np.arange(len(days)),
            "time_h": (
                "visit",
                HOURS_A_DAY * np.asarray(days),
                {"units": "h", "long_name": "time from the first dose"},
            ),
            "visit_2": np.arange(len(days)),
            "endpoint": names,
            "endpoint_2": names,
            "quantile": list(QUANTILES),
            **coords,
        },
    )


def _arm(
    planned: PlannedArm, numbers: np.ndarray | range, scenario: Scenario, seed: int, two_drugs: bool
) -> xr.Dataset:
    import xarray as xr

    days = tuple(scenario.trial.visits_d)
    tiles = list(trial.simulate(planned.population, planned.arm, days, seed, numbers))
    units = UNITS | (OF_PROTOCOLS if planned.arm.protocol is not None else {})
    units |= OF_SCREENING if planned.arm.screen is not None else {}
    visits = {name: np.concatenate([getattr(tile, name) for tile in tiles], axis=-1) for name in units}
    variables = {
        name: (("visit", "patient")[-values.ndim :], values, {"units": units[name][0], "long_name": units[name][1]})
        for name, values in visits.items()
    }
    if two_drugs:
        drug = np.full((len(days), len(numbers)), planned.drug, object)
        if planned.second_drug:
            drug[np.concatenate([tile.second for tile in tiles], axis=-1)] = planned.second_drug
        said = {"units": "", "long_name": "drug of which dose and concentrations are"}
        variables["drug"] = (("visit", "patient"), drug.astype(str), said)
    hours = ("visit", HOURS_A_DAY * np.asarray(days), {"units": "h", "long_name": "time from the first dose"})
    return xr.Dataset(
        variables,
        coords={
            "visit": ("visit", np.arange(1, len(days) + 1)),
            "time_h": hours,
            "patient": ("patient", np.asarray(numbers)),
            "arm": ("patient", np.full(len(numbers), planned.name)),
        },
    )
