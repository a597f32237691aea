"""The joint law of the counts an arm reports, and the data it is compared with.

An arm of n patients reports, in the order of ``pkpd.endpoints.NAMES``: response at week 8, response at least once,
response at 75% of visits or more, at least 30 and doubled, rescue. All are events of the same patients. Where they
nest the law is exact,

    any ~ Bin(n, p_any);  y75 | any ~ Bin(any, p_75|any);
    y8 | any, y75 = Bin(y75, p_8|75) + Bin(any - y75, p_8|any, not 75),

and (30 and doubled, rescue) given these three is normal, from the multivariate normal with mean n p and covariance
n rho_jl sqrt(p_j q_j p_l q_l), integrated over the unit cell of a count (variance + 1/12), which keeps it bounded
where a proportion tends to 0 or 1. Six logits describe an arm: any; 75 | any; 8 | 75; 8 | any, not 75; 30 and doubled;
rescue. Everything is computed from logits, so nothing cancels near 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import log_sigmoid, softplus
from jax.scipy.special import logsumexp
from numpy.typing import NDArray
from scipy.special import expit, gammaln

from pkpd import random
from pkpd.endpoints import NAMES
from pkpd.errors import InputError, nearest

LOGITS = ("any", "75 | any", "8 | 75", "8 | any, not 75", "30 and doubled", "rescue")
WEEK_8, ANY, SEVENTY_FIVE, DOUBLED, RESCUE = range(5)
NESTED = (WEEK_8, ANY, SEVENTY_FIVE)
UNIT_CELL = 1.0 / 12.0  # variance of the rounding of a count
MAX_PATIENTS = 10**7


@dataclass(frozen=True)
class ArmData:
    """Counts reported by the arms of a trial: ``counts`` [A, 5] in the order of NAMES, out of ``n`` [A]."""

    arms: tuple[str, ...]
    n: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        validate(self)

    def select(self, arms: Sequence[str]) -> ArmData:
        """The same data for some of the arms, in the order of this table."""
        return _rows(self, [a in _known(self, arms) for a in self.arms])

    def without(self, arms: Sequence[str]) -> ArmData:
        """The same data with some arms left out; InputError if none is left."""
        return _rows(self, [a not in _known(self, arms) for a in self.arms])

    @property
    def largest(self) -> int:
        """Patients of the largest arm; 0 without arms."""
        return int(self.n.max(initial=0))


def _known(data: ArmData, arms: Sequence[str]) -> tuple[str, ...]:
    for arm in arms:
        if arm not in data.arms:
            raise InputError(f"unknown arm '{arm}'{nearest(arm, data.arms)}")
    return tuple(arms)


def _rows(data: ArmData, keep: Sequence[bool]) -> ArmData:
    if not any(keep):
        raise InputError(f"no arm is left: keep at least one of {', '.join(data.arms)}")
    index = np.flatnonzero(keep)
    return ArmData(tuple(data.arms[i] for i in index), data.n[index], data.counts[index])


def validate(data: ArmData) -> None:
    """Raise InputError, naming arm and quantity, for counts no trial can report."""
    if data.counts.shape != (len(data.arms), len(NAMES)) or data.n.shape != (len(data.arms),):
        raise InputError(
            f"counts must be [arms, {len(NAMES)}] and n [arms], got {data.counts.shape} and {data.n.shape}"
        )
    if len(set(data.arms)) != len(data.arms):
        raise InputError(f"an arm is named twice: {', '.join(data.arms)}")
    for arm, n, y in zip(data.arms, data.n.tolist(), data.counts.tolist(), strict=True):
        if not 1 <= n <= MAX_PATIENTS:
            raise InputError(f"arm '{arm}': n = {n}; legal: 1 to {MAX_PATIENTS}")
        for name, count in zip(NAMES, y, strict=True):
            if not 0 <= count <= n:
                raise InputError(f"arm '{arm}', {name} = {count}; legal: 0 to n = {n}")
        for inner in (WEEK_8, SEVENTY_FIVE):
            if y[inner] > y[ANY]:
                raise InputError(
                    f"arm '{arm}', {NAMES[inner]} = {y[inner]} exceeds {NAMES[ANY]} = {y[ANY]}, which contains it"
                )
        if y[WEEK_8] + y[RESCUE] > n:
            raise InputError(
                f"arm '{arm}', {NAMES[WEEK_8]} + {NAMES[RESCUE]} = {y[WEEK_8] + y[RESCUE]} exceeds n = {n}: "
                "a rescued patient is no responder"
            )


def from_table(table: Any, arms: Sequence[str] | None = None, source: str = "table") -> ArmData:
    """Arm counts from a tidy table with columns arm, n, quantity, value (a row per arm and quantity).

    ``arms`` selects and orders the arms (default: order of appearance of those that report any of the quantities).
    Raises InputError for a missing column, a missing, repeated or fractional count, or unequal n within an arm.
    """
    for column in ("arm", "n", "quantity", "value"):
        if column not in table.columns:
            raise InputError(f"{source}: no column '{column}'{nearest(column, map(str, table.columns))}")
    rows = table[table["quantity"].isin(NAMES)]
    found = tuple(dict.fromkeys(rows["arm"]))
    wanted = found if arms is None else tuple(arms)
    if not wanted:
        raise InputError(f"{source}: no row with quantity {', '.join(NAMES)}")
    n: list[int] = []
    counts: list[list[int]] = []
    for arm in wanted:
        if arm not in found:
            raise InputError(f"{source}: unknown arm '{arm}'{nearest(arm, found)}")
        own = rows[rows["arm"] == arm]
        sizes = sorted(set(own["n"]))
        if len(sizes) != 1:
            raise InputError(f"{source}, arm '{arm}': its counts must share one n, got {sizes}")
        n.append(_whole(sizes[0], f"{source}, arm '{arm}', n"))
        counts.append([])
        for name in NAMES:
            values = own.loc[own["quantity"] == name, "value"].tolist()
            if len(values) != 1:
                raise InputError(f"{source}, arm '{arm}': {len(values)} rows with quantity '{name}'; legal: one")
            counts[-1].append(_whole(values[0], f"{source}, arm '{arm}', {name}"))
    return ArmData(wanted, np.asarray(n, np.int64), np.asarray(counts, np.int64))


def _whole(value: Any, where: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where} = {value!r}; legal: a whole number") from None
    if not math.isfinite(number) or number != round(number):
        raise InputError(f"{where} = {value!r}; legal: a whole number")
    return int(number)


class Counts(NamedTuple):
    """``ArmData`` as arrays, with the terms of the convolution at week 8 laid out (padded to T terms)."""

    n: Array  # [A]
    counts: Array  # [A, 5]
    both: Array  # [A, T] responders at week 8 among those at 75%
    log_ways: Array  # [A, T] log C(y75, both) C(any - y75, y8 - both), -inf on padding
    log_constant: Array  # [A] log C(n, any) C(any, y75)


def arrays(data: ArmData, terms: int | None = None) -> Counts:
    """Arrays of the likelihood. ``terms`` pads the convolution, so data sets of one shape share a compilation."""
    y8, y_any, y75 = (data.counts[:, j] for j in NESTED)
    first = np.maximum(0, y8 - (y_any - y75))
    last = np.minimum(y75, y8)
    width = int((last - first).max(initial=0)) + 1
    if terms is not None and terms < width:
        raise ValueError(f"terms = {terms} is below the {width} terms of these counts")
    both = first[:, None] + np.arange(terms or width)
    inside = both <= last[:, None]
    both = np.where(inside, both, first[:, None])
    ways = _log_choose(y75[:, None], both) + _log_choose((y_any - y75)[:, None], y8[:, None] - both)
    constant = _log_choose(data.n, y_any) + _log_choose(y_any, y75)
    return Counts(
        *(jnp.asarray(x, jnp.float64) for x in (data.n, data.counts, both, np.where(inside, ways, -np.inf), constant))
    )


def _log_choose(n: Any, k: Any) -> Any:
    n, k = np.asarray(n, np.float64), np.asarray(k, np.float64)
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


class Association(NamedTuple):
    """What links the two counts outside the nesting with the three inside, in units of their sds."""

    slopes: Array  # [A, 2, 3] regression of (30 and doubled, rescue) on (week 8, any, 75)
    covariance: Array  # [A, 2, 2] what that leaves


def association(rho: NDArray[np.float64]) -> Association:
    """From the correlations ``rho`` [A, 5, 5] of the five events within a patient."""
    inner, outer = list(NESTED), [DOUBLED, RESCUE]
    within = rho[:, inner][:, :, inner]
    across = rho[:, outer][:, :, inner]
    slopes = np.swapaxes(np.linalg.solve(within, np.swapaxes(across, 1, 2)), 1, 2)
    left = rho[:, outer][:, :, outer] - slopes @ np.swapaxes(across, 1, 2)
    return Association(jnp.asarray(slopes), jnp.asarray(left))


def log_probabilities(logits: Array) -> tuple[Array, Array]:
    """log p and log(1 - p) [..., 5] of the events, in the order of NAMES, from the logits [..., 6] of LOGITS."""
    yes, no = log_sigmoid(logits), log_sigmoid(-logits)
    y_any, y75, y8_75, y8_not, doubled, rescue = (yes[..., j] for j in range(6))
    n_any, n75, n8_75, n8_not, n_doubled, n_rescue = (no[..., j] for j in range(6))
    log_p = [y_any + jnp.logaddexp(y75 + y8_75, n75 + y8_not), y_any, y_any + y75, doubled, rescue]
    log_q = [
        jnp.logaddexp(n_any, y_any + jnp.logaddexp(y75 + n8_75, n75 + n8_not)),
        n_any,
        jnp.logaddexp(n_any, y_any + n75),
        n_doubled,
        n_rescue,
    ]
    return jnp.stack(log_p, axis=-1), jnp.stack(log_q, axis=-1)


def probabilities(logits: Array) -> Array:
    """Probabilities of the events [..., 5], in the order of NAMES, from the logits [..., 6] of LOGITS."""
    return jnp.exp(log_probabilities(logits)[0])


def log_likelihood(logits: Array, data: Counts, link: Association) -> Array:
    """Log probability [A] of the counts of each arm given its logits [A, 6]; differentiable."""
    n, y = data.n, data.counts
    # any ~ Bin(n, p):  any l - n log(1 + e^l) + log C(n, any), and so for 75 | any
    nested = y[:, ANY] * logits[:, 0] - n * softplus(logits[:, 0])
    nested += y[:, SEVENTY_FIVE] * logits[:, 1] - y[:, ANY] * softplus(logits[:, 1])
    # y8 = Bin(y75, p_8|75) + Bin(any - y75, p_8|not): sum over the responders among those at 75%
    others = (y[:, ANY] - y[:, SEVENTY_FIVE])[:, None]
    l75, lnot = logits[:, 2:3], logits[:, 3:4]
    terms = data.log_ways + data.both * l75 + (y[:, WEEK_8, None] - data.both) * lnot
    week_8 = logsumexp(terms - y[:, SEVENTY_FIVE, None] * softplus(l75) - others * softplus(lnot), axis=1)
    return data.log_constant + nested + week_8 + _log_outer(logits, data, link)


def by_arm(logits: Any, rho: Any, data: ArmData) -> NDArray[np.float64]:
    """Log probability [.., A] of the counts of each arm at logits [.., A, 6]; rho [A, 5, 5] as of ``association``."""
    counts, link = arrays(data), association(np.asarray(rho))
    flat = jnp.asarray(logits).reshape(-1, *np.shape(logits)[-2:])
    each = jax.lax.map(lambda x: log_likelihood(x, counts, link), flat, batch_size=256)
    return np.asarray(each, np.float64).reshape(np.shape(logits)[:-1])


def _log_outer(logits: Array, data: Counts, link: Association) -> Array:
    """log density [A] of (30 and doubled, rescue) given the three nested counts."""
    mean, covariance = _outer_moments(logits, data.n, data.counts, link)
    residual = data.counts[:, DOUBLED:] - mean
    a, b, c = covariance[:, 0, 0] + UNIT_CELL, covariance[:, 1, 1] + UNIT_CELL, covariance[:, 0, 1]
    determinant = a * b - c * c
    r, s = residual[:, 0], residual[:, 1]
    return -0.5 * ((b * r * r - 2 * c * r * s + a * s * s) / determinant + jnp.log(determinant)) - math.log(2 * math.pi)


def _outer_moments(logits: Array, n: Array, counts: Array, link: Association) -> tuple[Array, Array]:
    """Mean [A, 2] and covariance [A, 2, 2] of (30 and doubled, rescue) given the nested counts in counts [A, 5]."""
    log_p, log_q = log_probabilities(logits)
    variance = n[:, None] * jnp.exp(log_p + log_q)
    mean = n[:, None] * jnp.exp(log_p)
    # the unit cell here too: a count of 2 where none is expected must not be infinitely many sds away
    standard = ((counts - mean) / jnp.sqrt(variance + UNIT_CELL))[:, :DOUBLED]
    sd = jnp.sqrt(variance[:, DOUBLED:])
    return (
        mean[:, DOUBLED:] + sd * jnp.einsum("aij,aj->ai", link.slopes, standard),
        link.covariance * sd[:, :, None] * sd[:, None, :],
    )


def log_likelihood_normal(logits: Array, data: Counts, rho: Array) -> Array:
    """The same counts under the five-variate normal law (a comparison: both agree when n is large), [A]."""
    log_p, log_q = log_probabilities(logits)
    sd = jnp.sqrt(data.n[:, None] * jnp.exp(log_p + log_q))
    standard = (data.counts - data.n[:, None] * jnp.exp(log_p)) / sd
    factor = jnp.linalg.cholesky(rho)
    white = jnp.linalg.solve(factor, standard[..., None])[..., 0]
    log_det = jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(1) + jnp.log(sd).sum(1)
    return -0.5 * (white**2).sum(1) - log_det - 2.5 * math.log(2 * math.pi)


def sample_counts(
    key: Array, logits: NDArray[np.float64], n: NDArray[np.int64], link: Association
) -> NDArray[np.int64]:
    """Counts [draws, A, 5] from the law above, one set for each draw of the logits [draws, A, 6]."""
    rng = random.generator(key)
    p = expit(np.asarray(logits, np.float64))
    counts = np.zeros((*p.shape[:2], len(NAMES)), np.int64)
    y_any = rng.binomial(n, p[..., 0])
    y75 = rng.binomial(y_any, p[..., 1])
    counts[..., ANY], counts[..., SEVENTY_FIVE] = y_any, y75
    counts[..., WEEK_8] = rng.binomial(y75, p[..., 2]) + rng.binomial(y_any - y75, p[..., 3])
    normals = rng.standard_normal((*p.shape[:2], 2, 1))
    moments = jax.vmap(lambda lo, y: _outer_moments(lo, jnp.asarray(n), y, link))
    mean, covariance = map(np.asarray, moments(jnp.asarray(logits), jnp.asarray(counts)))
    factor = np.linalg.cholesky(covariance + 1e-12 * np.eye(2))
    outer = np.rint(mean + (factor @ normals)[..., 0])
    counts[..., DOUBLED:] = np.clip(outer, 0, np.asarray(n)[:, None])
    return counts
