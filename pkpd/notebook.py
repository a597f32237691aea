"""What a notebook needs: a scenario in, a labelled dataset with units and a table of endpoints out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
import pandas as pd

from pkpd import endpoints, trial
from pkpd.planned import PlannedArm, planned_arms

if TYPE_CHECKING:
    import xarray as xr

    from pkpd.parameters import Library
    from pkpd.scenario import Scenario

HOURS_A_DAY = 24
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


def simulate_scenario(
    scenario: Scenario, library: Library | None = None, seed: int = 1, patients: int | None = None
) -> xr.Dataset:
    """Simulates one trial: variables [visit, patient] and [patient], coordinates ``arm`` and ``time_h``.

    ``library`` replaces the shipped parameters of its drug; ``patients`` an arm replaces the scenario's own numbers.
    """
    import xarray as xr

    arms = planned_arms(scenario, library=library)
    sizes = [patients or arm.n for arm in arms]
    # numbers run on across the arms, so that arms are independent samples
    firsts = np.cumsum([0, *sizes])
    parts = [
        _arm(arm, np.arange(first, first + n), scenario, seed)
        for arm, first, n in zip(arms, firsts, sizes, strict=False)
    ]
    dataset = xr.concat(parts, "patient")
    dataset.attrs = {
        "scenario": scenario.trial.name,
        "seed": seed,
        "landmark": scenario.landmark,
        "endpoints": list(scenario.endpoint_names),
    }
    return dataset


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


def _arm(planned: PlannedArm, numbers: np.ndarray, scenario: Scenario, seed: int) -> xr.Dataset:
    import xarray as xr

    days = tuple(scenario.trial.visits_d)
    tiles = list(trial.simulate(planned.population, planned.arm, days, seed, numbers))
    visits = {name: np.concatenate([getattr(tile, name) for tile in tiles], axis=-1) for name in UNITS}
    variables = {
        name: (("visit", "patient")[-values.ndim :], values, {"units": UNITS[name][0], "long_name": UNITS[name][1]})
        for name, values in visits.items()
    }
    hours = ("visit", HOURS_A_DAY * np.asarray(days), {"units": "h", "long_name": "time from the first dose"})
    return xr.Dataset(
        variables,
        coords={
            "visit": ("visit", np.arange(1, len(days) + 1)),
            "time_h": hours,
            "patient": ("patient", numbers),
            "arm": ("patient", np.full(len(numbers), planned.name)),
        },
    )
