"""What a trial reports: response, rescue and durations from the observed counts of its visits.

Arrays are [visits, patients], baseline excluded; counts in 1e9/L. ``rescued`` is True from the visit of the rescue on.
A response needs a count (NaN is none) and no earlier or present rescue; denominators stay. All works under ``jit``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

NAMES = ("response_week_8", "response_any", "response_75", "response_30_doubled", "rescue")
RESPONSE_COUNT = 50.0  # 1e9/L, the trial's definition
LOW_RESPONSE_COUNT = 30.0  # 1e9/L, with at least twice the baseline
LOW_RESPONSE_FOLD = 2.0
SUSTAINED_SHARE = 0.75  # of the visits
RESCUE_SLOPE = 4.0  # on the log count
RESCUE_INTERVAL_D = 7.0  # the interval to which the maximal probability refers


def response(observed: jax.Array, rescued: jax.Array) -> jax.Array:
    """Response at each visit [visits, patients]: a count of at least 50 without earlier or present rescue."""
    return (observed >= RESPONSE_COUNT) & ~jnp.asarray(rescued, bool)


def until(landmark: int, *by_visit: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays [visits, patients] cut after the landmark visit: what a trial reports "within 8 weeks"."""
    n_visits = by_visit[0].shape[0]
    return tuple(x[: landmark % n_visits + 1] for x in by_visit)


def visits_for_75(n_visits: int) -> int:
    """Responses needed for "at 75% of visits or more": 6 of 8."""
    return math.ceil(SUSTAINED_SHARE * n_visits)


@partial(jax.jit, static_argnames="landmark")
def events(observed: jax.Array, baseline: jax.Array, rescued: jax.Array, landmark: int = -1) -> jax.Array:
    """Events of NAMES [5, patients], bool; baseline [patients], ``landmark`` index of the week-8 visit."""
    rescued = jnp.asarray(rescued, bool)
    responds, low = _met(observed, baseline)
    responds, low = responds & ~rescued, low & ~rescued
    enough = jnp.sum(responds, axis=0) >= visits_for_75(responds.shape[0])
    return jnp.stack([responds[landmark], responds.any(axis=0), enough, low.any(axis=0), rescued[-1]])


def expected_events(
    observed: jax.Array, baseline: jax.Array, rescue_probability: jax.Array, landmark: int = -1
) -> tuple[jax.Array, jax.Array]:
    """Mean [5, patients] and second moments [5, 5, patients] of the events, rescue integrated out.

    Exact given the counts. rescue_probability [visits, patients] is that of a rescue at the visit, given none
    before. With S_w = prod_{v<=w}(1 - p_v), the chance of no rescue up to and including visit w, an event
    that the counts alone would first complete at visit w has probability S_w, and two of them S_max(w, w') =
    min(S_w, S_w'). Rescue by the last visit W has 1 - S_W, together with an event S_w - S_W. An event never
    completed has probability 0.
    """
    survival = jnp.cumprod(1 - rescue_probability, axis=0)
    responds, low = _met(observed, baseline)
    n_visits = responds.shape[0]
    at_landmark = jnp.zeros_like(responds).at[landmark].set(responds[landmark])
    reached = (
        at_landmark,
        responds,
        jnp.cumsum(responds, axis=0) >= visits_for_75(n_visits),
        low,
    )
    probability = jnp.stack([_survival_at_first(event, survival) for event in reached])
    rescue = 1 - survival[-1]
    mean = jnp.concatenate([probability, rescue[None]])
    # S falls with w, so the later of two events is the one with the smaller S; 0 where one is never reached.
    both = jnp.minimum(probability[:, None], probability[None, :])
    with_rescue = jnp.maximum(probability - survival[-1], 0)
    top = jnp.concatenate([both, with_rescue[:, None]], axis=1)
    last = jnp.concatenate([with_rescue, rescue[None]])
    return mean, jnp.concatenate([top, last[None]])


def rescue_probability(count: jax.Array, p_max: jax.Array, c: jax.Array, interval_d: float | jax.Array) -> jax.Array:
    """Probability of rescue after a visit's count (1e9/L) that ends an interval of ``interval_d`` days.

    p = min(1, p_max logistic(4 (ln c - ln count))) per 7 days; 1 - (1 - p)^(D/7) after D days.
    """
    weekly = jnp.minimum(1, p_max * jax.nn.sigmoid(RESCUE_SLOPE * (jnp.log(c) - jnp.log(count))))
    return -jnp.expm1(jnp.log1p(-weekly) * (interval_d / RESCUE_INTERVAL_D))


def run_durations(responds: jax.Array, days: Sequence[float] | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Longest continuous and total response, days [patients], of responds [visits, patients] on ``days``.

    A run is two or more consecutive responses, its length last day minus first day; the total is their sum.
    0 where there is no run.
    """
    responds = jnp.asarray(responds, bool)
    gaps = jnp.diff(jnp.asarray(days, jnp.float32))[:, None]
    inside = jnp.where(responds[1:] & responds[:-1], gaps, 0)

    run = longest = jnp.zeros(responds.shape[1:], jnp.float32)
    for gap in inside:
        run = jnp.where(gap > 0, run + gap, 0)
        longest = jnp.maximum(longest, run)
    return longest, jnp.sum(inside, axis=0)


def time_to_first_response(responds: jax.Array, days: Sequence[float] | jax.Array) -> jax.Array:
    """Day of the first response [patients]; infinity where there is none."""
    days = jnp.asarray(days, jnp.float32)[:, None]
    return jnp.min(jnp.where(jnp.asarray(responds, bool), days, jnp.inf), axis=0)


def _met(observed: jax.Array, baseline: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From the counts alone, rescue ignored: >= 50, and >= 30 and doubled; both [visits, patients]."""
    observed = jnp.asarray(observed)
    low = (observed >= LOW_RESPONSE_COUNT) & (observed >= LOW_RESPONSE_FOLD * jnp.asarray(baseline))
    return observed >= RESPONSE_COUNT, low


def _survival_at_first(reached: jax.Array, survival: jax.Array) -> jax.Array:
    """S at the first visit where ``reached`` is True, 0 where it never is; [patients]."""
    earlier = jnp.cumsum(reached, axis=0) - reached
    return jnp.sum(jnp.where(reached & (earlier == 0), survival, 0), axis=0)
