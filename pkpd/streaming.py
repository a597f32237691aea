"""Cohorts larger than memory: courses reduced tile by tile to counts, and what is read from the counts.

Everything summed is a whole number (patients in a bin, products of bin numbers), so a summary is the same to the bit
however a cohort is cut, on any number of devices and threads, and summaries of parts add up to that of the whole.
A positive quantity is kept in bins of 1/128 of its natural logarithm (0.8%): a quantile read from them is within 0.4%
of a value of the sample, and the mean of a law smooth over a bin within 3e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil, gcd, log
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pkpd import endpoints, protocol
from pkpd.devices import AUTOMATIC
from pkpd.engine import grid
from pkpd.model import DYNAMIC, Form
from pkpd.trial import Arm, Roster, Visits, over_tiles

PER_E = 128  # bins in a factor of e
LOWEST, HIGHEST = 1e-2, 1e6  # of every quantity in its unit; what lies outside has a bin below and one above
BINS = ceil(PER_E * log(HIGHEST / LOWEST))
CENTRE = int(PER_E * log(endpoints.RESPONSE_COUNT / LOWEST))  # products are of bin numbers about this count
REACH = 1023  # counts 3,000 times smaller or larger than the centre enter products as such: sums of a group fit int32
GROUP = 2048  # patients whose products are summed in int32; REACH^2 GROUP < 2^31


class Summary(NamedTuple):
    """Whole numbers of one arm, V visits; visit 0 is the baseline where there are V + 1. Failed patients only counted.

    events: patients with both of two events of ``endpoints.NAMES``. states: responding, interrupted, stopped, rescued,
    dropped (the order of STATES). doses: on no dose, on each level of the ladder, and of the second drug's. Histograms
    [.., 1 + BINS + 1], the first bin below LOWEST, the last above. pairs, sums, products: of the observed counts of two
    visits, over the patients seen at both: how many; the sum of the first's bin number about CENTRE; the sum of the
    product.
    """

    patients: Any
    failed: Any
    events: Any  # [5, 5]
    states: Any  # [5, V]
    doses: Any  # [V, 1 + levels]
    platelets_observed: Any  # [V + 1, bins]
    platelets_true: Any  # [V + 1, bins]
    cmax_ng_per_ml: Any  # [V, bins]
    auc_ng_h_per_ml: Any  # [V, bins]
    trough_ng_per_ml: Any  # [V, bins]
    pairs: Any  # [V + 1, V + 1]
    sums: Any  # [V + 1, V + 1]
    products: Any  # [V + 1, V + 1]


STATES = ("response", "interrupted", "stopped", "rescued", "dropped")
HISTOGRAMS = Summary._fields[5:10]


@partial(jax.jit, static_argnames="landmark")
def of_tile(v: Visits, there: Array, levels_mg: Array, landmark: int, second_mg: Array | None = None) -> Summary:
    """Summary of the first ``there`` patients of a tile; pairs, sums and products by group [groups, V + 1, V + 1].

    levels_mg: of the first drug; second_mg: of the second, where the arm has one.
    """
    use = (jnp.arange(v.failed.shape[-1]) < there) & ~v.failed
    seen, rescued = endpoints.until(landmark, v.platelets_observed, v.rescued)
    events = (endpoints.events(seen, v.baseline, rescued) & use).astype(jnp.int32)
    by_visit = (endpoints.response(v.platelets_observed, v.rescued), v.interrupted, v.stopped, v.rescued, v.dropped)
    takes = v.dose_mg > 0
    given = [(v.dose_mg == 0)[None], (v.dose_mg == levels_mg[:, None, None]) & takes]
    if second_mg is not None and v.second is not None:
        given = [given[0], given[1] & ~v.second, (v.dose_mg == second_mg[:, None, None]) & takes & v.second]
    observed = jnp.concatenate([v.baseline[None], v.platelets_observed])
    true = jnp.concatenate([v.baseline_true[None], v.platelets_true])
    there_too = use & ~jnp.isnan(observed)
    k = jnp.where(there_too, jnp.clip(_bin(observed) - 1 - CENTRE, -REACH, REACH), 0)
    k, m = (x.reshape(len(x), -1, gcd(x.shape[1], GROUP)).astype(jnp.int32) for x in (k, there_too))
    together = partial(jnp.einsum, "ign,jgn->gij")
    return Summary(
        use.sum(),
        ((jnp.arange(len(use)) < there) & v.failed).sum(),
        events @ events.T,
        jnp.stack([(x & use).sum(-1) for x in by_visit]),
        (jnp.concatenate(given) & use).sum(-1).T,
        _histogram(observed, use),
        _histogram(true, use),
        _histogram(v.cmax_ng_per_ml, use),
        _histogram(v.auc_ng_h_per_ml, use),
        _histogram(v.trough_ng_per_ml, use),
        together(m, m),
        together(k, m),
        together(k, k),
    )


def _bin(x: Array) -> Array:
    """Number of the bin of x >= 0 in a histogram, int32."""
    return jnp.clip(jnp.floor(PER_E * jnp.log(x / LOWEST)), -1, BINS).astype(jnp.int32) + 1


def _histogram(x: Array, use: Array) -> Array:
    """Patients in each bin [rows, 1 + BINS + 1] of x [rows, patients]; NaN is in none."""
    counted = use & ~jnp.isnan(x)
    rows = jnp.arange(len(x))[:, None]
    return jnp.zeros((len(x), BINS + 2), jnp.int32).at[rows, jnp.where(counted, _bin(x), 0)].add(counted)


def merge(a: Summary, b: Summary) -> Summary:
    """Summary of the patients of both."""
    return Summary(*(x + y for x, y in zip(a, b, strict=True)))


def summarise(
    people: Roster,
    arm: Arm,
    days: tuple[int, ...],
    seed: int,
    landmark: int = -1,
    form: Form = DYNAMIC,
    steps: grid.Grid = grid.DEFAULT,
    engine: str = AUTOMATIC,
    progress: Callable[[int], None] = lambda patients: None,
) -> Summary:
    """Summary (int64) of any number of patients in the memory of a few tiles.

    landmark: index of the visit at which the endpoints end. progress: called with the patients done so far. Other
    arguments as for ``trial.simulate``.
    """

    def reduce(v: Visits, there: int) -> Summary:
        second = None
        if arm.protocol is not None:
            levels = jnp.asarray(protocol.doses_mg(arm.protocol.stages), v.dose_mg.dtype)
            if v.second is not None:
                second = jnp.asarray(protocol.doses_mg(arm.protocol.stages, second=True), v.dose_mg.dtype)
        else:
            levels = jnp.asarray(arm.rule.levels_mg, v.dose_mg.dtype) * jnp.asarray(arm.dose_scale, v.dose_mg.dtype)
        return of_tile(v, there, levels, landmark, second)

    total: Summary | None = None
    for part in over_tiles(reduce, people, arm, days, seed, form, steps, engine):
        part = Summary(*(np.asarray(x, np.int64) for x in part))
        part = part._replace(**{name: getattr(part, name).sum(0) for name in ("pairs", "sums", "products")})
        total = part if total is None else merge(total, part)
        progress(int(total.patients + total.failed))
    assert total is not None
    return total


def quantiles(histogram: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Quantiles [.., quantiles]: the middle of the bin that holds the sample's; 0 below LOWEST, infinity above HIGHEST.

    NaN where nobody was counted.
    """
    share = np.cumsum(histogram, -1)
    n = share[..., -1:]
    place = (share[..., None, :] < np.maximum(np.ceil(np.asarray(q)[:, None] * n[..., None]), 1)).sum(-1)
    return np.where(n > 0, middles()[np.minimum(place, BINS + 1)], np.nan)


def moments(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation; below LOWEST counts as 0, and the mean is infinite where any lies above HIGHEST."""
    n = histogram.sum(-1)
    x = middles()[:-1]
    inside = histogram[..., :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (inside * x).sum(-1) / n
        sd = np.sqrt((inside * (x - mean[..., None]) ** 2).sum(-1) / (n - 1))
    above = histogram[..., -1] > 0
    return np.where(above, np.inf, mean), np.where(above, np.nan, sd)


def middles() -> np.ndarray:
    """What a patient in each bin is read as: the geometric middle; 0 and infinity for the outer two."""
    return np.concatenate([[0.0], LOWEST * np.exp((np.arange(BINS) + 0.5) / PER_E), [np.inf]])


def log_covariance(s: Summary) -> np.ndarray:
    """Covariance [V + 1, V + 1] of the logarithms of the observed counts at two visits, of those seen at both."""
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = (s.products - s.sums * (s.sums.T / s.pairs)) / (s.pairs - 1) / PER_E**2
    return covariance - np.eye(len(covariance)) / (12 * PER_E**2)  # Sheppard's correction for the width of the bins


def event_shares(s: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Share of patients with each event [5] and the covariance [5, 5] of these shares."""
    n = s.patients
    share = np.diag(s.events) / n
    return share, (s.events / n - np.outer(share, share)) / n
