"""Estimands: what a patient's visits count as once intercurrent events have a strategy (ICH E9(R1)).

Rescue changes neither dose nor platelets in this model, so counts after a rescue are what the patient would have had
without it: treatment policy reads them as they are, and says nothing of what rescue does to a count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from pkpd.errors import InputError
from pkpd.validated import Count, Table, Text

if TYPE_CHECKING:
    from pkpd.trial import Visits

Strategy = Literal["composite", "treatment-policy", "hypothetical"]
EVENTS = ("rescue", "discontinuation", "treatment_stop", "overshoot")


class Estimand(Table):
    """Population, strategy of each intercurrent event, and what stands for values that are missing.

    rescue: from its visit on. discontinuation: leaving the trial. treatment_stop: the dose rule stops the drug, even
    where a later stage begins it again. overshoot: from the first count above ``overshoot_above_1e9_per_l`` on.
    composite: non-response from then on. treatment-policy: counts as observed. hypothetical: counts from then on are
    missing. missing: non-response; the last observed count; or multiple imputation of log counts, missing at random in
    each arm (``imputations`` of them).
    """

    population: Text = "all patients randomised"
    rescue: Strategy = "composite"
    discontinuation: Literal["composite", "hypothetical"] = "composite"
    treatment_stop: Strategy = "treatment-policy"
    overshoot: Strategy = "treatment-policy"
    overshoot_above_1e9_per_l: Count = 400.0
    missing: Literal["non-response", "last-observation", "multiple-imputation"] = "non-response"
    imputations: int = Field(default=20, ge=2, le=1000)

    @model_validator(mode="after")
    def _fits_together(self) -> Estimand:
        if "imputations" in self.model_fields_set and self.missing != "multiple-imputation":
            raise InputError("imputations belongs to missing = 'multiple-imputation'")
        return self


class Read(NamedTuple):
    """How an estimand reads visits, [visits, patients]: counts (1e9/L, nan where missing) and who failed by then."""

    counts: np.ndarray
    failed: np.ndarray


def read(v: Visits, estimand: Estimand) -> Read:
    """Counts and failures of visits under an estimand, the last observation carried forward if it says so."""
    count = np.array(v.platelets_observed, np.float64)
    above = np.logical_or.accumulate(np.nan_to_num(count) > estimand.overshoot_above_1e9_per_l, axis=0)
    stopped = np.logical_or.accumulate(np.asarray(v.stopped), axis=0)  # a later stage may begin treatment again
    happened = dict(zip(EVENTS, map(np.asarray, (v.rescued, v.dropped, stopped, above)), strict=True))
    failed = np.zeros(count.shape, bool)
    for event, since in happened.items():
        strategy = getattr(estimand, event)
        if strategy == "composite":
            failed |= since
        elif strategy == "hypothetical":
            count[since] = np.nan
    if estimand.missing == "last-observation":
        count = carried_forward(count, np.asarray(v.baseline, np.float64))
    return Read(count, failed)


def carried_forward(count: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Counts [visits, patients] with nan replaced by the last count before it, at first the baseline."""
    everything = np.concatenate([baseline[None], count])
    last = np.maximum.accumulate(np.where(np.isfinite(everything), np.arange(len(everything))[:, None], 0), axis=0)
    return np.take_along_axis(everything, last, axis=0)[1:]


def describe(estimand: Estimand, reads: str = "responses") -> list[str]:
    """The estimand in words, a line an attribute; ``reads``: what of it decides the endpoint (``outcomes.reads``)."""
    if reads == "nothing":
        return [f"Population: {estimand.population}", "Intercurrent events: the endpoint is of what is observed"]
    words = {
        "composite": "counts as non-response from then on (composite)",
        "treatment-policy": "counts are used as observed (treatment policy)",
        "hypothetical": "as if it had not happened (hypothetical)",
    }
    names = {
        "rescue": "Rescue",
        "discontinuation": "Leaving the trial",
        "treatment_stop": "Stop by the dose rule",
        "overshoot": f"Count above {estimand.overshoot_above_1e9_per_l:g}",
    }
    missing = estimand.missing.replace("-", " ")
    if reads == "counts":
        words["composite"] = words["treatment-policy"]
        del names["discontinuation"]  # counts end there, and are missing
        missing = "left out, missing at random" if estimand.missing == "non-response" else missing
    extra = f", {estimand.imputations} imputations" if estimand.missing == "multiple-imputation" else ""
    return [
        f"Population: {estimand.population}",
        *(f"{names[event]}: {words[getattr(estimand, event)]}" for event in EVENTS if event in names),
        f"Missing counts: {missing}{extra}",
    ]
