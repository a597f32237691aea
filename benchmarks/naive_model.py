"""The fit without a surface: every patient of the trial is latent, and NUTS solves his course in every step.

For a trial of fixed doses without rescue, whose patients enter with the same count. Given his random effects, a patient
is at 50 or more at a visit with probability Phi(log(P/50)/sigma), P his true count there and sigma the residual sd; the
visits are independent. The counts of an arm (at the last visit, at least once, at all visits) add up what its patients
do, so their law given all patients is the coefficient of a product of polynomials. Integrated over the patients it is
the multinomial law that the surface route takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import ndtr

from inference.arms import ANY, SEVENTY_FIVE, WEEK_8
from inference.population import Plan
from pkpd import cohort, model
from pkpd.endpoints import RESPONSE_COUNT
from pkpd.engine import recorded, reference
from pkpd.parameters import CovariateRatios, Parameters, Variability, with_values
from pkpd.planned import PlannedArm, planned_arms

SOLVER, RTOL, ATOL = diffrax.Bosh3(), 1e-4, 1e-5  # the fastest of diffrax's for this model (benchmarks/peers.py)
FIRST_STEP_H, MAX_STEPS = 0.1, 256  # a stretch is shorter than a day
SMALLEST_SD = 1e-6  # of a random effect that varies; the library takes no 0 where it has a prior

Solve = Callable[[Parameters, Array, tuple[int, ...]], Array]  # true counts [visits, patients]


def with_diffrax(p: Parameters, dose_mg: Array, days: tuple[int, ...]) -> Array:
    """True counts (1e9/L) [visits, patients] of patients who take ``dose_mg`` [patients] daily, by diffrax."""
    last = days[-1]

    def course(p: Parameters, dose_mg: Array) -> Array:
        start, b = model.steady_state(p)
        one: Any = 1  # no array: the power is spared
        p = p._replace(dimer_hill=one)
        segments = reference.days(p, jnp.full(last, dose_mg), jnp.zeros(-(-last // 7)))

        def derivatives(t: Any, y: Array, now: tuple[Array, Array]) -> Array:
            return jnp.stack(model.rates(model.State(*y), p, b, *now))

        def stretch(y: Array, now: reference.Segments) -> tuple[Array, Array]:
            found = diffrax.diffeqsolve(
                diffrax.ODETerm(derivatives),
                SOLVER,
                t0=0.0,
                t1=now.hours,
                dt0=jnp.minimum(FIRST_STEP_H, now.hours),
                y0=y.at[0].add(now.arriving_nmol),
                args=(now.ka_per_h, now.immune_log_activity),
                stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
                saveat=diffrax.SaveAt(t1=True),
                max_steps=MAX_STEPS,
                throw=False,
            )
            y = jnp.where(found.result == diffrax.RESULTS.successful, found.ys[0], jnp.nan)
            return y, model.State(*y).platelets_1e9_per_l

        boundaries = jax.lax.scan(stretch, jnp.stack(start), segments)[1]
        return boundaries[3 * np.array(days) - 1]

    return jax.vmap(course, out_axes=1)(p, dose_mg)


def with_engine(p: Parameters, dose_mg: Array, days: tuple[int, ...]) -> Array:
    """The same by the differentiable course of this project's engine."""
    weeks = -(-days[-1] // 7)
    doses = jnp.broadcast_to(dose_mg, (days[-1], *dose_mg.shape))
    form = model.Form(hill_is_one=True)
    return recorded.course(p, doses, jnp.zeros((weeks, len(dose_mg))), days, form).platelets_1e9_per_l


def forward(solve: Solve, names: tuple[str, ...]) -> Solve:
    """``solve`` with a gradient that one forward pass makes, of the parameters ``names`` alone.

    A patient's counts depend on his own parameters only, so a tangent a name serves all patients at once.
    """

    def at(moving: Array, rest: Parameters, dose_mg: Array, days: tuple[int, ...]) -> Array:
        return solve(rest._replace(**dict(zip(names, moving, strict=True))), dose_mg, days)

    @partial(jax.custom_vjp, nondiff_argnums=(3,))
    def counts(moving: Array, rest: Parameters, dose_mg: Array, days: tuple[int, ...]) -> Array:
        return at(moving, rest, dose_mg, days)

    def ahead(moving: Array, rest: Parameters, dose_mg: Array, days: tuple[int, ...]) -> tuple[Array, tuple]:
        def along(tangent: Array) -> tuple[Array, Array]:
            return jax.jvp(lambda x: at(x, rest, dose_mg, days), (moving,), (tangent,))

        tangents = jnp.broadcast_to(jnp.eye(len(names))[:, :, None], (len(names), *moving.shape))
        found, slopes = jax.vmap(along, out_axes=(None, 0))(tangents)
        return found, (slopes, rest, dose_mg)

    def back(days: tuple[int, ...], kept: tuple, g: Array) -> tuple:
        slopes, rest, dose_mg = kept
        return (slopes * g).sum(axis=1), jax.tree.map(jnp.zeros_like, rest), jnp.zeros_like(dose_mg)

    counts.defvjp(ahead, back)

    def solved(p: Parameters, dose_mg: Array, days: tuple[int, ...]) -> Array:
        return counts(jnp.stack([getattr(p, name) for name in names]), p, dose_mg, days)

    return solved


def moving(p: Plan) -> tuple[str, ...]:
    """Parameters of a patient that a free parameter or a random effect moves."""
    own = [Variability._fields[i] for i in varying(p.arms[0])]
    return tuple(n for n in Parameters._fields if n in p.prior.names or n in own)


def varying(a: PlannedArm) -> np.ndarray:
    """Numbers [k] of the random effects in which the patients of an arm differ."""
    return np.flatnonzero(np.asarray(a.population.iiv_log_sd) > SMALLEST_SD)


def patients(p: Plan, a: PlannedArm, values: dict[str, Array], z: Array) -> cohort.Patients:
    """Patients of an arm with random effects z [k, patients] in a population with ``values`` of its free parameters."""
    population = with_values(a.population, p.values(a, values))
    n, d = z.shape[1], population.demography
    effects = jnp.zeros((len(Variability._fields), n)).at[varying(a)].set(z)
    entry = (d.baseline_min_1e9_per_l + a.arm.baseline_below) / 2
    has = CovariateRatios(*(jnp.zeros(n) for _ in CovariateRatios._fields))
    found = cohort.individuals(population, effects, jnp.full(n, d.weight_median_kg), jnp.full(n, entry), has)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n,)), found)


def shares(counts: Array, sigma: Array) -> Array:
    """Probabilities [patients, 4] of each patient: never at 50, once but not at last, at last but not always, always.

    counts [visits, patients]: true; three visits at most, of which "75% or more" are all.
    """
    x = jnp.log(counts / RESPONSE_COUNT) / sigma
    never, always, last = ndtr(-x).prod(axis=0), ndtr(x).prod(axis=0), ndtr(x[-1])
    return jnp.stack([never, ndtr(-x[-1]) - never, last - always, always], axis=1)


def log_law(shares: Array, counts: np.ndarray) -> Array:
    """Log probability that n patients with ``shares`` [n, 4] fall into the categories as often as ``counts`` [4]."""
    top = tuple(int(c) for c in counts[1:])

    def add(state: Array, share: Array) -> tuple[Array, None]:
        after = share[0] * state
        for axis in range(3):
            moved = jnp.roll(state, 1, axis)
            first = jax.lax.index_in_dim(moved, 0, axis)
            moved = jax.lax.dynamic_update_index_in_dim(moved, jnp.zeros_like(first), 0, axis)
            after = after + share[1 + axis] * moved
        return after, None

    nobody = jnp.zeros([c + 1 for c in top]).at[0, 0, 0].set(1.0)
    return jnp.log(jax.lax.scan(add, nobody, shares)[0][top])


def categories(n: int, reported: np.ndarray) -> np.ndarray:
    """Patients [4] of an arm of n in each category of ``shares``; reported [5] in the order of ``endpoints.NAMES``."""
    last, once, always = (int(reported[j]) for j in (WEEK_8, ANY, SEVENTY_FIVE))
    return np.array([n - once, once - last, last - always, always])


def naive_model(p: Plan, solve: Solve) -> Callable[[], None]:
    """The NumPyro model: the prior of the plan, standard normal random effects of all patients, counts of the arms."""
    arms = planned_arms(p.scenario, jnp.float64, p.library)
    doses = [float(a.arm.rule.levels_mg[int(a.arm.start_level)]) for a in arms]
    n = [a.n for a in arms]
    ends = np.cumsum(n)[:-1]
    dose_mg = jnp.repeat(jnp.asarray(doses), np.array(n), total_repeat_length=sum(n))
    seen = [categories(a.n, y) for a, y in zip(arms, p.fitted.counts, strict=True)]

    def density() -> None:
        values = p.prior.constrained(p.prior.sample())
        z = numpyro.sample("eta", dist.Normal(0.0, 1.0).expand([len(varying(arms[0])), sum(n)]).to_event(2))
        everyone = patients(p, arms[0], values, z)  # the arms differ in their dose alone
        counts = solve(everyone.parameters, dose_mg, p.days)
        each = shares(counts, everyone.noise.residual_log_sd)
        for a, y, own in zip(arms, seen, jnp.split(each, ends), strict=True):
            numpyro.factor(f"counts of {a.name}", log_law(own, y))

    return density
