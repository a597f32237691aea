"""From a scenario to what is simulated: each arm with its population, dose rule and patient numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pkpd.parameters import Library, Population, load_library, with_values
from pkpd.trial import Arm

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

COMPARATOR = "hetrombopag"  # placebo patients follow this drug's rule at 0 mg


class PlannedArm(NamedTuple):
    """One arm ready to simulate. ``first_patient``: patient numbers run on across the arms of a trial."""

    name: str
    n: int
    first_patient: int
    drug: str
    population: Population
    arm: Arm


def planned_arms(scenario: Scenario, dtype: Any = jnp.float32, library: Library | None = None) -> list[PlannedArm]:
    """The arms of a scenario. ``library`` replaces that of its drug (and of placebo), as a fit's config may ask.

    The scenario's own ``[parameters]`` are applied in either case. InputError as in ``load_library``.
    """
    arms: list[PlannedArm] = []
    first = 0
    for a in scenario.arms:
        drug = COMPARATOR if a.drug == "placebo" else a.drug
        own = library if library is not None and library.drug == drug else load_library(drug)
        population = with_values(own.population(dtype), scenario.parameters)
        if not scenario.rescue.enabled:
            population = with_values(population, {"rescue_max_probability_per_week": 0.0})
        food = own.food(a.meal)
        arm = Arm(
            rule=scenario.rule(a),
            start_level=np.int32(scenario.start_level(a)),
            dose_scale=np.float32(a.drug != "placebo"),
            fed_bioavailability_ratio=np.float32(food.fed_bioavailability_ratio),
            fed_absorption_ratio=np.float32(food.fed_absorption_ratio),
            baseline_below=np.float32(scenario.entry.platelets_below_1e9_per_l),
            dropout_hazard_per_week=np.float32(scenario.dropout.hazard_per_week),
        )
        arms.append(PlannedArm(a.name, a.n, first, a.drug, population, arm))
        first += a.n
    return arms
