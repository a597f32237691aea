"""What hangs on each assumption of a design: its trials again with a low and with a high value, all else the same.

Trial t of the changed design has the patients and random numbers of trial t as it is, so a change shows with the small
error of pairs (``whatif.designs``). One assumption is moved at a time: what two do together is not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from inference import trials
from inference.checkpoint import NOTHING_KEPT, Checkpoint
from inference.progress import Progress, silent
from inference.whatif import designs, per_trial, runs
from inference.whatif.assumed import Assumed, assumptions, centres
from inference.whatif.characteristics import effect_of
from inference.whatif.null import under_null
from pkpd.errors import InputError

if TYPE_CHECKING:
    from pkpd.scenario import Scenario

FILE = "sensitivity.csv"
COLUMNS = (
    "assumption", "of", "unit", "value", "setting", "at", "range", "comparison", "quantity", "difference", "mc_se",
    "lower", "upper", "within_2_errors", "n_trials", "n_draws",
)  # fmt: skip
PATIENT_DAYS = 3e8  # simulated in all, which takes some minutes
FEWEST, MOST, MOST_STATED = 40, 400, 10_000  # trials of each value
ERRORS = 2.0  # a change within so many of its errors may be noise


def sensitivity(
    design: Scenario,
    *,
    posterior: Path | None = None,
    seed: int = 1,
    engine: str = "auto",
    null: bool = False,
    progress: Progress = silent,
    keep: Checkpoint = NOTHING_KEPT,
) -> pd.DataFrame:
    """Changes of power, of the effect and of the main endpoint of each arm, two settings of every assumption.

    Rows: COLUMNS; differences are those of ``designs.differences`` to the design as it is, over fewer trials than the
    run has (``trials_of_each``). Values that were simulated are kept one by one in ``keep``, and read from there.
    """
    check(design, null)
    design = under_null(design) if null else design
    known = trials.posterior_draws(posterior, 1)
    found = assumptions(design, known)
    n = trials_of_each(design, 2 * len(found) + 1)
    draws = trials.posterior_draws(posterior, min(design.trial.posterior_draws, n))
    n_draws = trials.number_of(draws)
    held = {name: np.full(n_draws, value) for name, value in centres(found, design.entry.disease).items()}
    done, total = 0, 2 * len(found) + 1

    def simulated(name: str, scenario: Scenario, moved: Mapping[str, float]) -> designs.Design:
        nonlocal done
        own = {**draws, **held, **{k: np.full(n_draws, v) for k, v in moved.items()}}
        table = _kept(keep, name, lambda: _trials(trials.Plan(scenario, own, seed, engine), n, n_draws))
        done += 1
        progress("sensitivity", done, total)
        return designs.Design(name, {}, scenario, table, pd.DataFrame())

    progress("sensitivity", 0, total)
    rows: list[dict[str, Any]] = []
    base = simulated("as it is", design, {})
    wanted = quantities(design)
    for i, a in enumerate(found):
        for setting, at, moved in (("low", a.low, a.draws[0]), ("high", a.high, a.draws[1])):
            if at == a.value:
                continue
            scenario = design if a.change is None else a.change(design, at)
            scenario = under_null(scenario) if null else scenario  # of that control, where responses are stated
            changed = simulated(f"{i}-{a.key}-{setting}", scenario, moved)
            differences = designs.differences(changed, base)
            for row in differences.to_dict("records"):
                if (row["comparison"], row["quantity"]) in wanted:
                    rows.append(_row(a, setting, at, row, n_draws, null))
    progress("sensitivity", total, total)
    return pd.DataFrame(rows, columns=COLUMNS)


def check(design: Scenario, null: bool) -> None:
    """InputError where a changed assumption would leave the null: arms are at the margin for the values as they are."""
    analysis = design.analysis
    if not null or analysis is None or design.outcome is not None:
        return
    control = next(arm for arm in design.arms if arm.name == analysis.control)
    if analysis.margin != 0 or control.drug != "placebo":
        raise InputError(
            f"{design.trial.name}: --sensitivity: under this null the arms are moved to the margin, and with another "
            "assumption they would be off it; legal: without --null"
        )


def trials_of_each(design: Scenario, values: int) -> int:
    """Trials of every value, no more than the run itself has."""
    most = design.trial.n_trials
    if design.outcome is not None:
        return min(most, MOST_STATED)
    patient_days = values * runs.patients_of(design) * design.trial.visits_d[-1]
    return min(most, max(FEWEST, min(MOST, int(PATIENT_DAYS / patient_days))))


def quantities(design: Scenario) -> dict[tuple[str, str], None]:
    """What is told of every change, most telling first: by comparison power and effect, by arm the main endpoint, and
    relapse where there is one."""
    found: dict[tuple[str, str], None] = {}
    if design.analysis is not None:
        of = [f"{arm} vs {design.analysis.control}" for arm in design.active_arms]
        found |= {(comparison, "power"): None for comparison in of}
        found |= {(comparison, effect_of(design.analysis)): None for comparison in of}
    rates = [main_endpoint(design)] + ["relapse"] * any(stage.relapse_below_1e9_per_l for stage in design.stages)
    return found | {(arm.name, rate): None for rate in rates for arm in design.arms}


def main_endpoint(design: Scenario) -> str:
    """The endpoint of the analysis where it is a rate of the arms, else the landmark response."""
    if design.outcome is None:
        named = design.analysis.endpoint if design.analysis else ""
        return named if named in design.endpoint_names else design.endpoint_names[0]
    from inference.whatif.counts import stated_probabilities

    names = stated_probabilities(design)[0]
    return design.analysis.endpoint if design.analysis else names[-1]


def _trials(plan: trials.Plan, n: int, n_draws: int) -> pd.DataFrame:
    """The table of the first n single trials of a plan."""
    block = trials.block_of(plan)
    size = runs.trials_a_chunk(plan.design, runs.kind_here(plan.engine)["tile_width"])
    parts = [per_trial.rows_of(plan.design, block(*c), c.first, n_draws) for c in runs.chunks(n, size)]
    return pd.concat(parts, ignore_index=True)


def _kept(keep: Checkpoint, name: str, make: Any) -> pd.DataFrame:
    """The table of a value: the one that was kept, or what ``make`` gives, which is kept from now on."""

    def arrays() -> dict[str, np.ndarray]:
        table = make()
        return {"columns": np.array(table.columns, str), "values": table.to_numpy(np.float64)}

    kept = keep.piece("".join(c if c.isalnum() or c in "-._" else "_" for c in name), arrays)
    return pd.DataFrame(kept["values"], columns=[str(c) for c in kept["columns"]])


def _row(a: Assumed, setting: str, at: float, row: Mapping[str, Any], n_draws: int, null: bool) -> dict[str, Any]:
    quantity = "type_1_error" if null and row["quantity"] == "power" else row["quantity"]
    figures = {k: row[k] for k in ("comparison", "difference", "mc_se", "lower", "upper", "n_trials")}
    noise = abs(row["difference"]) <= ERRORS * row["mc_se"]
    return {
        "assumption": a.key, "of": a.of, "unit": a.unit, "value": a.value, "setting": setting, "at": at,
        "range": a.range, "quantity": quantity, "within_2_errors": noise, "n_draws": n_draws, **figures,
    }  # fmt: skip
