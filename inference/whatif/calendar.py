"""When a trial's patients come, when its looks can be taken, and how many patients it has by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from inference.whatif.counts import CELL, looks_of, sizes_analysed, sizes_at_looks
from inference.whatif.decisions import columns_of
from pkpd import random

if TYPE_CHECKING:
    from pkpd.accrual import Accrual
    from pkpd.scenario import Scenario

PLACE = 1 << 21  # stands where a patient's number does in keys: apart from patients, arms and imputations
DAYS_A_WEEK = 7.0
ROUNDING = 1e-6  # of patients


def calendar(
    design: Scenario, seed: int, first: int, n_trials: int, ended: np.ndarray | None = None
) -> np.ndarray | None:
    """Day of each look from the first patient in, and patients randomised by then, [trials, rows, 2]; None without
    ``[accrual]``. The rows are those of ``counts.sizes_analysed``.

    Patients come by a Poisson process whose rate grows to its full value over the ramp, and are randomised as they
    come, all arms in proportion. A look is taken when the last of its patients has the endpoint; who came in the
    meantime are randomised too, until the trial is full. Where losers are dropped, ``ended`` is the look [trials,
    comparisons] that ended each comparison: see ``after_drops``, whose third number is there too.
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
    if ended is not None:
        return after_drops(design, arrival, ended)
    day = arrival[:, sizes - 1] + design.endpoint_d
    enrolled = np.stack([(arrival <= at[:, None]).sum(axis=1) for at in day.T], axis=1)
    enrolled = np.minimum(enrolled, full)
    return np.stack([day, enrolled], axis=2)


def after_drops(design: Scenario, arrival: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Day of each look, patients randomised by then, and those of them in arms that no comparison reads any more,
    [trials, looks, 3], where an arm takes nobody in after the day of the look that ended its comparison.

    arrival [trials, patients]: days on which patients come, at the rate of the whole trial whoever takes them in; the
    arms that are open share them in proportion to their sizes, until they are full. Once no comparison is left, the
    looks that would follow are those of a trial in which the same arms went on.
    """
    sizes, (control, active) = sizes_at_looks(design).astype(float), columns_of(design)
    trials, planned = len(arrival), sizes[-1]
    open_ = np.ones((trials, sizes.shape[1]), bool)
    came, inside = np.zeros((trials, 1)), [np.zeros((trials, sizes.shape[1]))]  # by the day of each look; in each arm
    found = np.empty((trials, len(sizes), 3))
    for k, needed in enumerate(sizes):
        target = (open_ * needed).sum(axis=1)
        # The number of patients who have come when the open arms have those of this look.
        last = came[:, -1] + np.maximum(target - (open_ * inside[-1]).sum(axis=1), 0)
        for j in range(len(inside) - 1, 0, -1):
            low, high = ((open_ * inside[i]).sum(axis=1) for i in (j - 1, j))
            share = (target - low) / np.where(high > low, high - low, 1)
            last = np.where(
                (target <= high) & (high > low), came[:, j - 1] + share * (came[:, j] - came[:, j - 1]), last
            )
        place = np.clip(np.ceil(last - ROUNDING).astype(np.int64), 1, arrival.shape[1]) - 1
        day = np.take_along_axis(arrival, place[:, None], axis=1)[:, 0] + design.endpoint_d
        day = np.maximum(day, found[:, k - 1, 0]) if k else day
        room = (open_ * (planned - inside[-1])).sum(axis=1)
        new = np.minimum((arrival <= day[:, None]).sum(axis=1) - came[:, -1], np.round(room))
        share = np.where(room > 0, new / np.where(room > 0, room, 1), 0)[:, None]
        inside.append(inside[-1] + open_ * (planned - inside[-1]) * share)
        came = np.concatenate([came, came[:, -1:] + new[:, None]], axis=1)
        on = open_.copy()
        on[:, active] &= ended > k
        on[:, control] = True
        going = np.asarray(on[:, active].any(axis=1))
        open_ = np.where(going[:, None], on, open_)
        lost = [
            np.maximum(inside[-1][:, arm] - sizes[np.minimum(ended[:, i], k), arm], 0) for i, arm in enumerate(active)
        ]
        found[:, k] = np.stack([day, came[:, -1], np.where(ended <= k, np.stack(lost, axis=1), 0).sum(axis=1)], axis=1)
    return found


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
