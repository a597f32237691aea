"""What is reported of simulated patients beside the endpoints of the published trials: means and shares by arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pkpd import outcomes, protocol
from pkpd.estimands import Estimand, Read, read
from pkpd.regimens import active_drugs
from pkpd.trial import Visits

if TYPE_CHECKING:
    from pkpd.planned import PlannedArm
    from pkpd.scenario import Scenario

ALL_RESCUE_COMPOSITE = Estimand()
OVER_THE_LANDMARK = (
    "longest_response_d", "total_response_d", "overshoot_250", "overshoot_400", "days_above_250", "days_above_400",
    "share_in_range",
)  # fmt: skip
# Of the interval that ends with the last visit, patients in the trial: mean dose (mg a day prescribed), and exposure.
AT_THE_END = {
    "dose_at_end_mg": "dose_mg", "cmax_at_end_ng_per_ml": "cmax_ng_per_ml", "auc_at_end_ng_h_per_ml": "auc_ng_h_per_ml",
    "trough_at_end_ng_per_ml": "trough_ng_per_ml",
}  # fmt: skip
SECOND = "second_"  # and one of these: of patients who take the second drug of their arm; the others take the first
# Of the count at entry (1e9/L): as measured and true, means; the mean of the logarithm of their ratio, which is what
# regresses to the mean; and how many were screened for each patient who entered.
OF_SCREENING = ("baseline_measured", "baseline_true", "log_ratio_baseline_true_to_measured", "screened_per_patient")


# Of each stage, with its name behind: "share_in_range_open-label". See ``of_stage``.
OF_STAGE = (
    "response_any", "response_end", "total_response_d", "durable_response", "share_in_range", "taken_mg",
    "dose_at_end_mg", "auc_ng_h_per_ml", "cmax_ng_per_ml", "trough_ng_per_ml",
)  # fmt: skip
OF_DRUG = OF_STAGE[OF_STAGE.index("taken_mg") :]  # of one drug: with SECOND in front, of the second of the arm


class Window(NamedTuple):
    """The visits of a stage, from index ``start`` to before ``until``."""

    name: str
    start: int
    until: int


def windows(design: Scenario) -> list[Window]:
    """The visits of each stage: those after the end of the stage before, up to its own."""
    found, start = [], 0
    for stage in design.stages:
        until = design.trial.visits_d.index(stage.until_d) + 1
        found.append(Window(stage.name, start, until))
        start = until
    return found


def names_of_stage(window: Window) -> tuple[str, ...]:
    """What is reported of a stage; a durable response needs the visits for one."""
    short = window.until - window.start < outcomes.DURABLE[1]
    return tuple(name for name in OF_STAGE if not (short and name == "durable_response"))


def names(design: Scenario) -> tuple[str, ...]:
    """What is reported of a design, in this order."""
    found = list(OVER_THE_LANDMARK)
    if design.landmark + 1 >= outcomes.DURABLE[1]:
        found.append("durable_response")
    if any(stage.relapse_below_1e9_per_l for stage in design.stages):
        found += ["relapse", "time_to_relapse_d"]
    if design.screening is not None:
        found += OF_SCREENING
    found += ["response_at_end", "in_trial_at_end", "stopped_by_rule", *AT_THE_END]
    two_drugs = any(len(active_drugs(design, arm)) > 1 for arm in design.arms)
    if two_drugs:
        found += ["second_drug_at_end", *(SECOND + name for name in AT_THE_END)]
    for window in windows(design):
        of_stage = (*names_of_stage(window), *(SECOND + name for name in OF_DRUG if two_drugs))
        found += [f"{name}_{window.name}" for name in of_stage]
    return tuple(found)


def values(design: Scenario, a: PlannedArm, v: Visits) -> tuple[np.ndarray, np.ndarray]:
    """Values and whom they are of, both [further endpoints, patients].

    Responses end with rescue and with leaving the trial; "over the landmark": until its visit. time_to_relapse_d is the
    mean over those who relapsed. Those of a stage follow, in the order of ``names``.
    """
    n = v.baseline.shape[0]
    everybody, stays = np.ones(n, bool), ~np.asarray(v.dropped)[-1]
    if v.reason is not None:
        stays &= np.asarray(v.reason)[-1] == protocol.IN_TRIAL
    second = np.zeros(n, bool) if v.second is None else np.asarray(v.second)[-1]
    r, days = read(v, ALL_RESCUE_COMPOSITE), design.trial.visits_d
    stages = a.arm.protocol.stages if a.arm.protocol is not None else None
    found = []
    of_a_stage = (*OF_STAGE, *(SECOND + name for name in OF_DRUG))
    stagewise = {f"{name}_{window.name}": (name, window) for window in windows(design) for name in of_a_stage}
    for name in names(design):
        if name in stagewise:
            found.append(of_stage(*stagewise[name], v, r, days))
        elif name == "in_trial_at_end":
            found.append((stays, everybody))
        elif name == "response_at_end":
            found.append((outcomes.responses(r)[-1], everybody))
        elif name in OF_SCREENING:
            found.append((_screened(v)[name], everybody))
        elif name == "stopped_by_rule":
            found.append((np.asarray(v.stopped)[-1], everybody))
        elif name == "second_drug_at_end":
            found.append((second, stays))
        elif (of := name.removeprefix(SECOND)) in AT_THE_END:
            own = second if of != name else ~second
            found.append((np.asarray(getattr(v, AT_THE_END[of]))[-1], stays & own))
        elif name == "time_to_relapse_d":
            time = outcomes.outcome("time_to_relapse", v, r, days, len(days), stages)
            found.append((time.value, time.present & np.asarray(time.event, bool)))
        else:
            one = outcomes.outcome(name, v, r, days, design.landmark + 1, stages)
            found.append((one.value, one.present))
    value, present = (np.stack(x) for x in zip(*found, strict=True))
    return np.where(present, value, 0.0).astype(np.float64), present


def _screened(v: Visits) -> dict[str, np.ndarray]:
    assert v.screened is not None
    measured, true = (np.asarray(x, np.float64) for x in (v.baseline, v.baseline_true))
    values = (measured, true, np.log(true / measured), np.asarray(v.screened.candidates, np.float64))
    return dict(zip(OF_SCREENING, values, strict=True))


def of_stage(name: str, window: Window, v: Visits, r: Read, days: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A value over the visits of a stage and whom it is of, both [patients].

    response_end: at the stage's last visit. response_any, total_response_d, durable_response, share_in_range: as the
    endpoints of these names, over the stage's visits. taken_mg: all doses taken in the stage; nothing after leaving.
    These are of all patients. Of those in the trial and on the drug at its last visit: dose_at_end_mg, prescribed for
    its last interval; auc_ng_h_per_ml, mean area under the curve a day on the drug in the stage; cmax_ng_per_ml, the
    largest in these days; trough_ng_per_ml, at its last visit. Concentrations are of free drug. Doses and
    concentrations are of the first drug of the arm, with SECOND in front of the second.
    """
    at, last = slice(window.start, window.until), window.until - 1
    everybody, stays = np.ones(v.baseline.shape[0], bool), ~np.asarray(v.dropped)[last]
    if name == "response_end":
        return outcomes.responses(r)[last], everybody
    if (of := name.removeprefix(SECOND)) in OF_DRUG:
        second = np.zeros(np.shape(v.dropped), bool) if v.second is None else np.asarray(v.second)
        on = second if of != name else ~second
        return _of_drug(of, window, v, days, on[at], everybody if of == "taken_mg" else stays & on[last])
    found = outcomes.outcome(name, v, r, days, window.until, start=window.start)
    return found.value, found.present


def _of_drug(
    name: str, window: Window, v: Visits, days: Sequence[int], on: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A dose or concentration over a stage, of the intervals ``on`` [visits of the stage, patients] the drug."""
    at, last = slice(window.start, window.until), window.until - 1
    if name == "taken_mg":
        assert v.taken_mg is not None
        return np.where(on & ~np.asarray(v.dropped)[at], np.asarray(v.taken_mg)[at], 0.0).sum(axis=0), present
    if name == "dose_at_end_mg":
        return np.asarray(v.dose_mg)[last], present
    if name == "trough_ng_per_ml":
        return np.asarray(v.trough_ng_per_ml)[last], present
    if name == "cmax_ng_per_ml":
        return np.where(on, np.asarray(v.cmax_ng_per_ml)[at], 0.0).max(axis=0), present
    length = np.diff(outcomes.visit_days(v, days), axis=0, prepend=0)[at]
    on_d = np.where(on, length, 0).sum(axis=0)
    total = np.where(on, np.asarray(v.auc_ng_h_per_ml)[at], 0.0).sum(axis=0)
    return total / np.where(on_d > 0, on_d, 1), present
