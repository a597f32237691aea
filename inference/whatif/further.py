"""What is reported of simulated patients beside the endpoints of the published trials: means and shares by arm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pkpd import outcomes, protocol
from pkpd.estimands import Estimand, read
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
# Of the count at entry (1e9/L): as measured and true, means; the mean of the logarithm of their ratio, which is what
# regresses to the mean; and how many were screened for each patient who entered.
OF_SCREENING = ("baseline_measured", "baseline_true", "log_ratio_baseline_true_to_measured", "screened_per_patient")


def names(design: Scenario) -> tuple[str, ...]:
    """What is reported of a design, in this order."""
    found = list(OVER_THE_LANDMARK)
    if design.landmark + 1 >= outcomes.DURABLE[1]:
        found.append("durable_response")
    if any(stage.relapse_below_1e9_per_l for stage in design.stages):
        found += ["relapse", "time_to_relapse_d"]
    if design.screening is not None:
        found += OF_SCREENING
    return (*found, "response_at_end", "in_trial_at_end", "stopped_by_rule", *AT_THE_END)


def values(design: Scenario, a: PlannedArm, v: Visits) -> tuple[np.ndarray, np.ndarray]:
    """Values and whom they are of, both [further endpoints, patients].

    Responses end with rescue and with leaving the trial; "over the landmark": until its visit. time_to_relapse_d is the
    mean over those who relapsed.
    """
    n = v.baseline.shape[0]
    everybody, stays = np.ones(n, bool), ~np.asarray(v.dropped)[-1]
    if v.reason is not None:
        stays &= np.asarray(v.reason)[-1] == protocol.IN_TRIAL
    r, days = read(v, ALL_RESCUE_COMPOSITE), design.trial.visits_d
    stages = a.arm.protocol.stages if a.arm.protocol is not None else None
    found = []
    for name in names(design):
        if name == "in_trial_at_end":
            found.append((stays, everybody))
        elif name == "response_at_end":
            found.append((outcomes.responses(r)[-1], everybody))
        elif name in OF_SCREENING:
            found.append((_screened(v)[name], everybody))
        elif name == "stopped_by_rule":
            found.append((np.asarray(v.stopped)[-1], everybody))
        elif name in AT_THE_END:
            found.append((np.asarray(getattr(v, AT_THE_END[name]))[-1], stays))
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
