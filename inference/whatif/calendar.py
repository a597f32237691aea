"""When a trial's patients come, when its looks can be taken, and how many patients it has by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from inference.whatif.counts import CELL, looks_of, sizes_analysed
from pkpd import random

if TYPE_CHECKING:
    from pkpd.accrual import Accrual
    from pkpd.scenario import Scenario

PLACE = 1 << 21  # stands where a patient's number does in keys: apart from patients, arms and imputations
DAYS_A_WEEK = 7.0


def calendar(design: Scenario, seed: int, first: int, n_trials: int) -> np.ndarray | None:
    """Day of each look from the first patient in, and patients randomised by then, [trials, rows, 2]; None without
    ``[accrual]``. The rows are those of ``counts.sizes_analysed``.

    Patients come by a Poisson process whose rate grows to its full value over the ramp, and are randomised as they
    come, all arms in proportion. A look is taken when the last of its patients has the endpoint; who came in the
    meantime are randomised too, until the trial is full.
    """
    if design.accrual is None:
        return None
    sizes = sizes_analysed(design).sum(axis=1)
    full = np.maximum(sizes, sizes[len(looks_of(design)) - 1])  # who may have come by a row's day
    total = int(sizes[-1])
    cells = np.arange(first // CELL, -(-(first + n_trials) // CELL))
    skipped = first - CELL * int(cells[0])
    arrival = arrivals(design.accrual, seed, cells, total)[skipped : skipped + n_trials]
    arrival = arrival - arrival[:, :1]
    day = arrival[:, sizes - 1] + design.endpoint_d
    enrolled = np.stack([(arrival <= at[:, None]).sum(axis=1) for at in day.T], axis=1)
    enrolled = np.minimum(enrolled, full)
    return np.stack([day, enrolled], axis=2)


def arrivals(accrual: Accrual, seed: int, cells: np.ndarray, n: int) -> np.ndarray:
    """Days [trials of the cells, n] on which patients are randomised; t = 0 opens the trial."""
    k = len(cells)
    keys = random.patient_keys(random.root(seed), np.zeros(k, int), cells, np.full(k, PLACE))
    drawn = [random.generator(key) for key in jax.device_put(keys, jax.devices("cpu")[0])]
    waited = np.concatenate([g.standard_exponential((CELL, n)) for g in drawn]).cumsum(axis=1)
    # The expected number by day t is rate t^2/(2 ramp) on the ramp, then rate (t - ramp/2); each patient is one more.
    rate, ramp = accrual.patients_per_week / DAYS_A_WEEK, DAYS_A_WEEK * accrual.ramp_weeks
    on_ramp = np.sqrt(2 * ramp * waited / rate)
    return np.where(waited < rate * ramp / 2, on_ramp, waited / rate + ramp / 2)
