"""The law of the numbers that further studies report, given the logits of their outputs.

A count alone in its arm is binomial, a mean alone normal, with the printed error or, without one, that of the simulated
patients; changes are means of log ratios. Several counts and means of the same patients are normal with the
correlations of what one patient has, each count integrated over its unit cell (variance + 1/12).

A median m, read within a tolerance t, says that at most half of the patients lie at or below m - t and at least half
at or below m + t: P(N(m - t) <= n/2) - P(N(m + t) < n/2), N(x) ~ Bin(n, F(x)). Where the arm reports on the same day
that y patients are at 50 or more, N is that given y: Bin(n - y, F(x)/F(50)) below 50, and above it
n - y + Bin(y, (F(x) - F(50))/(1 - F(50))).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import sigmoid, softplus
from jax.scipy.linalg import solve_triangular
from numpy.typing import NDArray
from scipy.special import gammaln

from inference.arms import UNIT_CELL
from pkpd.endpoints import RESPONSE_COUNT
from pkpd.errors import InputError
from pkpd.statistics import STATISTICS

if TYPE_CHECKING:
    from inference.studies import Output, Study
    from pkpd.published import Target

Floats = NDArray[np.float64]


class Further(NamedTuple):
    """What was reported, as arrays; ``at`` are places among the E outputs. A pytree: one compilation a shape."""

    count_at: Array  # [B]
    counted: Array  # [B, 3] n, y, log C(n, y)
    mean_at: Array  # [S]
    mean: Array  # [S, 2] observed, on the output's scale, and its standard error
    joint_at: Array  # [Q]
    joint: Array  # [Q, 4] observed share or mean, n, sd of a patient (0 for a count: that of a share), 1 for a count
    joint_rho: Array  # [Q, Q] correlations within a patient
    median_at: Array  # [M, 3] below, above, and the count at 50 or more that is known (the first output if none is)
    median: Array  # [M, 2, 4] of each cut: patients its law is of, those sure to be below, the count below it that is
    # allowed or not enough, and which part of F it takes: all (0), below 50 (-1) or above it (1)
    median_ways: Array  # [M, 2, N + 1] log binomial coefficients of those patients
    patients: Array  # [E] that each output is worth: its sampling variance is p (1 - p)/patients


class FurtherMoments(NamedTuple):
    """Of the E outputs at K vectors: successes and trials a patient, products of the successes of one patient."""

    successes: Floats  # [K, E]
    trials: Floats  # [K, E]
    second: Floats  # [K, E, E] 0 between studies and arms


def no_outputs(K: int) -> FurtherMoments:
    """No outputs at K vectors."""
    return FurtherMoments(np.zeros((K, 0)), np.zeros((K, 0)), np.zeros((K, 0, 0)))


def nothing() -> Further:
    """No further study."""
    return further((), np.zeros((0, 0)), np.zeros(0))


class _Row(NamedTuple):
    """One output with what was reported of it; ``block`` names the patients it is of."""

    output: Output
    target: Target
    block: tuple[Any, ...]

    @property
    def kind(self) -> str:
        """count, mean, or median."""
        return "count" if self.target.unit == "patients" else "mean" if self.output.cut is None else "median"


def further(studies: Sequence[Study], rho: Floats, sd: Floats) -> Further:
    """The reported numbers of all studies. rho [E, E], sd [E]: of the outputs, within the patients of one vector.

    InputError for a median beside counts of the same patients that it cannot be conditioned on.
    """
    rows = [_Row(o, s.targets[o.target], block_of(s, s.targets[o.target])) for s in studies for o in s.outputs]
    blocks = Counter(r.block for r in rows if r.kind != "median")
    own: dict[str, list[int]] = {"count": [], "mean": [], "joint": []}
    for i, r in enumerate(rows):
        if r.kind != "median":
            own[r.kind if blocks[r.block] == 1 else "joint"].append(i)
    patients = np.array([float(r.target.n) for r in rows])
    means = {i: _mean_of(r, sd[i]) for i, r in enumerate(rows) if r.kind == "mean"}
    for i, (observed, error) in means.items():
        p = np.clip(observed, 1e-3, 1 - 1e-3)
        patients[i] = p * (1 - p) / error**2

    def joint(i: int) -> tuple[float, ...]:
        t = rows[i].target
        if rows[i].kind == "count":
            return t.observed / t.n, t.n, 0.0, 1.0
        return means[i][0], t.n, means[i][1] * math.sqrt(t.n), 0.0

    at = own["joint"]
    same = np.array([[rows[i].block == rows[j].block for j in at] for i in at], bool).reshape(len(at), len(at))
    medians = [i for i, r in enumerate(rows) if r.kind == "median"][::2]
    counted = [(rows[i].target.n, rows[i].target.observed) for i in own["count"]]
    known = [_known(rows, i, own["count"]) for i in medians]
    laws = [[_law(rows, i, k, above) for above in (0, 1)] for i, k in zip(medians, known, strict=True)]
    longest = int(max((law[0] for pair in laws for law in pair), default=0))
    return _as_jax(
        (own["count"], int, ()),
        ([(n, y, _log_choose(n, y)) for n, y in counted], float, (3,)),
        (own["mean"], int, ()),
        ([means[i] for i in own["mean"]], float, (2,)),
        (at, int, ()),
        ([joint(i) for i in at], float, (4,)),
        (np.where(same, rho[np.ix_(at, at)], 0.0) * (1 - 1e-6) + 1e-6 * np.eye(len(at)), float, (len(at),)),
        ([(i, i + 1, k or 0) for i, k in zip(medians, known, strict=True)], int, (3,)),
        (laws, float, (2, 4)),
        ([[_ways(law[0], longest) for law in pair] for pair in laws], float, (2, longest + 1)),
        (patients, float, ()),
    )


def block_of(s: Study, t: Target) -> tuple[Any, ...]:
    """Names the patients a number is of: in a crossover they are the same in every arm."""
    return (s.name,) if s.design.trial.design == "crossover" else (s.name, t.arms)


def _known(rows: Sequence[_Row], median: int, alone: Sequence[int]) -> int | None:
    """The count at 50 or more on the median's day in the same patients; None without other counts of them."""
    m = rows[median]
    others = [i for i, r in enumerate(rows) if r.block == m.block and r.kind != "median"]
    if not others:
        return None
    t = rows[others[0]].target
    if others[0] in alone and t.statistic == "response_at_day" and t.last == m.target.last:
        return others[0]
    raise InputError(
        f"{m.target.study}, arm '{m.target.arm}': {m.target.published} beside {t.published} of the same patients; "
        "legal: a median alone, or with response_at_day of its day"
    )


def _law(rows: Sequence[_Row], i: int, known: int | None, above: int) -> tuple[float, float, float, float]:
    """A row of ``Further.median``: of the cut below (0) or above (1) the median."""
    n, cut = rows[i].target.n, rows[i + above].output.cut
    allowed = math.ceil(n / 2) - 1 if above else math.floor(n / 2)
    if known is None:
        return n, 0, allowed, 0
    y = rows[known].target.observed
    return (n - y, 0, allowed, -1) if cut is not None and cut < RESPONSE_COUNT else (y, n - y, allowed, 1)


def _ways(n: float, longest: int) -> list[float]:
    return [_log_choose(n, k) if k <= n else -math.inf for k in range(longest + 1)]


def _mean_of(r: _Row, sd: float) -> tuple[float, float]:
    """Observed mean and its standard error on the scale of an output; ``sd`` of the simulated patients, scaled."""
    t, width = r.target, r.output.high - r.output.low
    relative = STATISTICS[t.statistic].relative
    observed = math.log1p(t.observed / 100) if relative else t.observed
    if t.standard_error is not None:
        error = t.standard_error / (100 + t.observed) if relative else t.standard_error
    else:
        error = math.hypot(sd * width, t.within_subject_log_sd if relative else 0.0) / math.sqrt(t.n)
    return (observed - r.output.low) / width, error / width


def log_likelihood(logits: Array, r: Further) -> Array:
    """Log probability of all reported numbers given the logits [E] of the outputs; differentiable."""
    n, y, ways = r.counted.T
    lo = logits[r.count_at]
    total = (ways + y * lo - n * softplus(lo)).sum()
    observed, error = r.mean.T
    total -= (0.5 * ((observed - sigmoid(logits[r.mean_at])) / error) ** 2 + jnp.log(error)).sum()
    total -= 0.5 * observed.size * math.log(2 * math.pi)
    if r.joint_at.size:
        total += _log_joint(sigmoid(logits[r.joint_at]), r)
    if r.median_at.size:
        F = sigmoid(logits[r.median_at])
        total += _log_medians(F[:, :2], F[:, 2:], r)
    return total


def _log_joint(p: Array, r: Further) -> Array:
    """Log density of the shares and means that are normal together; of counts, per count and not per share."""
    observed, n, sd, count = r.joint.T
    sd = jnp.where(count > 0, jnp.sqrt(p * (1 - p)), sd)
    # two numbers of one arm are of the same n patients
    covariance = r.joint_rho * sd[:, None] * sd / jnp.sqrt(n[:, None] * n) + jnp.diag(count * UNIT_CELL / n**2)
    factor = jnp.linalg.cholesky(covariance)
    white = solve_triangular(factor, observed - p, lower=True)
    density = -0.5 * (white**2 + math.log(2 * math.pi)).sum() - jnp.log(jnp.diagonal(factor)).sum()
    return density - (count * jnp.log(n)).sum()


def _log_medians(cuts: Array, at_least: Array, r: Further) -> Array:
    """Log probability of the medians, from F at the two cuts [M, 2] and the share at 50 or more [M, 1]."""
    size, sure, allowed, part = jnp.moveaxis(r.median, -1, 0)
    share = jnp.where(part < 0, cuts / (1 - at_least), jnp.where(part > 0, 1 - (1 - cuts) / at_least, cuts))
    share = jnp.clip(share, 1e-9, 1 - 1e-9)[..., None]
    k = jnp.arange(r.median_ways.shape[-1])
    p = jnp.exp(r.median_ways + k * jnp.log(share) + (size[..., None] - k) * jnp.log1p(-share))
    under = k <= (allowed - sure)[..., None]
    lower, upper = (jnp.where(where, p, 0.0).sum(-1) for where in (under, ~under))
    # the same difference from either tail; the smaller numbers lose nothing
    inside = jnp.where(lower[:, 1] < 0.5, lower[:, 0] - lower[:, 1], upper[:, 1] - upper[:, 0])
    return jnp.log(jnp.maximum(inside, 1e-300)).sum()


def _log_choose(n: float, y: float) -> float:
    return float(gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1))


def _as_jax(*columns: tuple[Any, type, tuple[int, ...]]) -> Further:
    """Arrays of rows that may be none: values, their type and the shape of one."""
    return Further(*(jnp.asarray(np.asarray(rows, kind).reshape(len(rows), *shape)) for rows, kind, shape in columns))
