"""From a scenario to what is simulated: each arm with its population, dose rule and patient numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pkpd.parameters import Library, Population, load_library, with_values
from pkpd.randomisation import Allocation, allocations
from pkpd.regimens import active_drugs
from pkpd.screening import screen_of
from pkpd.stages import protocol_of
from pkpd.trial import Arm, RescueRule

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

# What parameters of patients do not say of healthy volunteers; their interindividual sds go with them.
OF_ITP = frozenset({
    "production_1e9_per_l_per_h", "baseline_platelets_1e9_per_l", "immune_half_saturation_1e9_per_l",
    "immune_log_activity", "immune_drift_log_sd", "immune_drift_time_d", "rescue_max_probability_per_week",
    "rescue_count_1e9_per_l", "non_responder_share",
})  # fmt: skip
NO_RESCUE = {"rescue_max_probability_per_week": 0.0}
COMPARATOR = "hetrombopag"  # placebo patients follow this drug's rule at 0 mg


class PlannedArm(NamedTuple):
    """One arm ready to simulate.

    first_patient: numbers run on across the arms of parallel groups; of a crossover each arm has the same. fixed: names
    of population parameters that the scenario sets, so that no posterior replaces them. ec50_ratio: factor on the EC50
    of a draw, [draws] where it differs between them; the population has a single one already. allocation: which of the
    trial's patients are the arm's own where they are randomised in blocks; None: those from first_patient on.
    """

    name: str
    n: int
    first_patient: int
    drug: str
    population: Population
    arm: Arm
    disease: str = "itp"
    fixed: tuple[str, ...] = ()
    ec50_ratio: Any = 1.0
    allocation: Allocation | None = None
    second_drug: str = ""  # the other that its patients may take, of which is population.second


def first_patients(scenario: Scenario, sizes: Sequence[int]) -> list[int]:
    """Number of the first patient of each arm when the arms have the given sizes."""
    crossover = scenario.trial.design == "crossover"
    return [0 if crossover else sum(sizes[:arm]) for arm in range(len(sizes))]


def _meal_ratio(library: Library, meal: str) -> float:
    return library.food(meal).fed_bioavailability_ratio


def _with_ec50(population: Population, ratio: float | tuple[float, ...]) -> Population:
    """The population with another EC50, unless that is one for each draw."""
    if isinstance(ratio, tuple) or ratio == 1:
        return population
    return with_values(population, {"receptor_ec50_nM": population.typical.receptor_ec50_nM * ratio})


def planned_arms(scenario: Scenario, dtype: Any = jnp.float32, library: Library | None = None) -> list[PlannedArm]:
    """The arms of a scenario. ``library`` replaces that of its drug (and of placebo) in its disease, as a fit's config
    may ask.

    The scenario's own ``[parameters]`` are applied in either case. InputError as in ``load_library``.
    """
    scenario.need_patients()
    arms: list[PlannedArm] = []
    disease, crossover = scenario.entry.disease, scenario.trial.design == "crossover"
    sizes = [a.n for a in scenario.arms]
    firsts = first_patients(scenario, sizes)
    own_patients = allocations(scenario.randomisation, sizes)
    table = scenario.entry.table()
    for period, (a, first) in enumerate(zip(scenario.arms, firsts, strict=True)):
        taken, second = (*active_drugs(scenario, a), "", "")[:2]
        own, *others = (
            library if library and (library.drug, library.disease) == (drug, disease) else load_library(drug, disease)
            for drug in (taken or COMPARATOR, *filter(None, [second]))
        )
        values = {**scenario.parameters, **scenario.entry.shares, **({} if scenario.rescue.enabled else NO_RESCUE)}
        population, *of_second = (
            _with_ec50(with_values(x.population(dtype), values), a.ec50_ratio) for x in (own, *others)
        )
        if of_second:
            population = population._replace(second=of_second[0])
        by_rule = scenario.rescue.below_1e9_per_l
        food = own.food(a.meal)
        arm = Arm(
            rule=scenario.rule(a),
            start_level=np.int32(scenario.start_level(a)),
            dose_scale=np.float32(a.drug != "placebo"),
            fed_bioavailability_ratio=np.float32(food.fed_bioavailability_ratio),
            fed_absorption_ratio=np.float32(food.fed_absorption_ratio),
            baseline_below=np.float32(scenario.entry.platelets_below_1e9_per_l),
            dropout_hazard_per_week=np.float32(scenario.dropout.hazard_per_week),
            treatment_d=None if a.treatment_d is None else np.int32(a.treatment_d),
            period=np.uint32(period) if crossover else None,
            protocol=protocol_of(scenario, a, partial(_meal_ratio, own)),
            table=table,
            limits=scenario.entry.limits(scenario.asks_for_ages is not None),
            screen=None if scenario.screening is None else screen_of(scenario.screening, scenario.entry),
            rescue=None if by_rule is None else RescueRule(np.float32(by_rule), np.int32(scenario.rescue.from_d)),
        )
        ratio = np.asarray(a.ec50_ratio) if isinstance(a.ec50_ratio, tuple) else a.ec50_ratio
        fixed = tuple(sorted(values))
        arms.append(
            PlannedArm(
                a.name,
                a.n,
                first,
                taken or "placebo",
                population,
                arm,
                disease,
                fixed,
                ratio,
                allocation=own_patients[period],
                second_drug=second,
            )
        )
    return arms
