"""The reference solver: diffrax, float64, stiff and tight. It checks the fast engine and solves single profiles.

Two methods share nothing but the rates: ``stiff`` (Kvaerno, BIT 2004;44:489, order 5, implicit) is safe whatever the
parameters; ``explicit`` (Dormand-Prince of order 8) is many times faster for batches of ordinary patients and
agrees with it, since the fastest rates of this model are tens per hour. Both adapt their steps to the tolerance.

Within a segment (between two of: arrival, switch of absorption, output, change of immune activity) the rates do
not depend on time, so every segment runs on its own clock and no event is ever stepped over.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pkpd import model, pharmacokinetics, signalling
from pkpd.engine.grid import DAYS_A_WEEK, HOURS_A_DAY
from pkpd.errors import InputError, nearest
from pkpd.model import Baseline, Form, State
from pkpd.parameters import Parameters

RTOL = 1e-9
ATOL = 1e-14  # in units of each state's own scale, so that small doses keep their relative precision
MAX_STEPS = 100_000  # per segment
SHORTEST_STEP_H = 1e-11  # a patient who needs less is in trouble, and must not hold up the others
NEWTON_RTOL, NEWTON_ATOL = 1e-7, 1e-10  # Newton's last step squares these
METHODS = ("stiff", "explicit")
FORM = Form()
OK, NOT_FINITE, SOLVER_FAILED = 0, 1, 2
ALGEBRAIC = ("pstat3", "pstat5", "pakt", "perk")  # no differential equation in the quasi-steady form
NO_DRUG_NMOL = 1e-100  # floor of the central amount: below it C^n has no finite derivative for n < 1


class Segments(NamedTuple):
    """Stretches of constant rates, each leaf [segments] or [segments, patients]."""

    hours: Array
    ka_per_h: Array
    arriving_nmol: Array  # enters the depot at the start of the segment
    immune_log_activity: Array


class Solution(NamedTuple):
    """States at the boundaries of the segments, each before what arrives there: [segments + 1, ...].

    status [...]: 0 for success, NOT_FINITE, or SOLVER_FAILED.
    """

    states: State
    eliminated_nmol: Array  # integral of CL C since the start
    internalised_nmol: Array  # integral of kint RC V since the start
    status: Array


def solve(
    p: Parameters,
    segments: Segments,
    form: Form = FORM,
    method: str = "stiff",
    rtol: float = RTOL,
    atol: float = ATOL,
    start: State | None = None,
) -> Solution:
    """Integrates ``pkpd.model.rates`` (design 2.1 to 2.3) from ``start``, or the steady state before treatment.

    p: float64 leaves, scalars (one patient) or [patients]; ``start`` has their shape. method: "stiff" or
    "explicit". ``atol`` is in units of each state's own scale (its resting value; the dose for drug). Trouble with a
    patient is told by ``status``.
    Raises InputError where float64 or diffrax is missing, or for an unknown method.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}{nearest(str(method), METHODS)}")
    dtype = jnp.result_type(*(jnp.asarray(leaf) for leaf in p))
    if dtype != jnp.float64:
        raise InputError(
            f"the reference solver needs float64 parameters, got {dtype}: type"
            " jax.config.update('jax_enable_x64', True) first (or set JAX_ENABLE_X64=1) and make parameters with"
            " dtype=jnp.float64"
        )
    solver, controller = _method(method, rtol, atol)
    one = partial(_one_patient, form=form, solver=solver, controller=controller)
    segments = Segments(*(jnp.asarray(leaf, dtype) for leaf in segments))
    sizes = {leaf.shape[-1] for leaf in p if jnp.ndim(leaf)} | {s.shape[1] for s in segments if s.ndim == 2}
    if not sizes:
        return one(p, segments, start)
    p = Parameters(*(jnp.broadcast_to(leaf, (max(sizes),)) for leaf in p))
    by_patient = Segments(*(1 if leaf.ndim == 2 else None for leaf in segments))
    return jax.vmap(one, in_axes=(0, by_patient, 0), out_axes=Solution(1, 1, 1, 0))(p, segments, start)


def days(p: Parameters, dose_mg: Array, immune_log_activity: Array) -> Segments:
    """Segments of a daily regimen, three a day: to the arrival, to the switch, to the next dose.

    dose_mg [days] or [days, patients]; immune_log_activity per week, [weeks] or [weeks, patients]. Day d of the
    solution is boundary 3 d.
    """
    dose_mg, omega = jnp.asarray(dose_mg), jnp.asarray(immune_log_activity)
    lag, switch = p.lag_time_h, p.absorption_switch_h
    first, second = p.absorption_rate_first_per_h, p.absorption_rate_second_per_h
    amount = pharmacokinetics.arriving_nmol(dose_mg, p)
    dosed = dose_mg > 0
    shape = jnp.broadcast_shapes(amount.shape, (1,) * (dose_mg.ndim - 1), jnp.shape(lag), jnp.shape(switch))

    def by_segment(*three: Array) -> Array:
        stacked = jnp.stack([jnp.broadcast_to(x, shape) for x in three], 1)
        return stacked.reshape(-1, *shape[1:])

    omega = jnp.repeat(omega, DAYS_A_WEEK, axis=0)[: dose_mg.shape[0]]
    return Segments(
        by_segment(lag, switch, HOURS_A_DAY - lag - switch),
        by_segment(second, jnp.where(dosed, first, second), second),
        by_segment(0.0, amount, 0.0),
        jnp.repeat(omega, 3, axis=0),
    )


def _method(name: str, rtol: float, atol: float) -> tuple[Any, Any]:
    """diffrax's solver and step size controller."""
    try:
        import diffrax
        import optimistix
    except ImportError:
        raise InputError("the reference solver needs diffrax: type pip install diffrax") from None
    controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=_largest, dtmin=SHORTEST_STEP_H, force_dtmin=False)
    if name == "explicit":
        return diffrax.Dopri8(), controller
    # diffrax's default, a chord method, fails to converge on every other step of this model
    newton: Any = optimistix.Newton(rtol=NEWTON_RTOL, atol=NEWTON_ATOL, norm=_largest)
    return diffrax.Kvaerno5(root_finder=newton, scan_kind="lax"), controller


def _largest(error: Array) -> Array:
    return jnp.max(jnp.abs(error))


def _rates(y: Array, p: Parameters, b: Baseline, ka: Array, omega: Array, form: Form) -> Array:
    """Right-hand side for the 16 states and the two integrals, [18]."""
    s = State(*y[:16])
    s = s._replace(central_nmol=jnp.maximum(s.central_nmol, NO_DRUG_NMOL))
    if form.signalling == "quasi-steady":
        s = _at_equilibrium(s, p, b)
    d = model.rates(s, p, b, ka, omega)
    if form.signalling == "quasi-steady":
        d = d._replace(**{name: jnp.zeros_like(s.socs) for name in (*ALGEBRAIC, "socs")})
    C = model.free_concentration_nM(s, p)
    bound = s.central_nmol / p.central_volume_l - C
    out = (p.clearance_l_per_h * C, p.complex_internalisation_per_h * bound * p.central_volume_l)
    return jnp.stack([*d, *out])


def _at_equilibrium(s: State, p: Parameters, b: Baseline) -> State:
    """The state with pathways and SOCS at equilibrium with TPO and drug."""
    active = signalling.active_fraction(s.tpo_relative, model.free_concentration_nM(s, p), p)
    x, socs = signalling.quasi_steady(active, b.pathways.stat5, p)
    return s._replace(**dict(zip(ALGEBRAIC, x, strict=True)), socs=socs)


def _one_patient(
    p: Parameters, segments: Segments, start: State | None, form: Form, solver: Any, controller: Any
) -> Solution:
    import diffrax

    at_rest, b = model.steady_state(p)
    s = at_rest if start is None else start
    y0 = jnp.stack([*s, jnp.zeros_like(s.socs), jnp.zeros_like(s.socs)])
    dose = jnp.maximum(jnp.max(segments.arriving_nmol), s.central_nmol)
    dose = jnp.where(dose > 0, dose, 1)
    resting = jnp.stack([*at_rest, jnp.zeros_like(s.socs), jnp.zeros_like(s.socs)])
    scale = jnp.where(resting > 0, resting, 1).at[jnp.array([0, 1, 2, 16, 17])].set(dose)

    def scaled_rates(_: Array, z: Array, args: tuple[Array, Array]) -> Array:
        return _rates(z * scale, p, b, *args, form) / scale

    def body(z: Array, segment: Segments) -> tuple[Array, tuple[Array, Array]]:
        z = z.at[0].add(segment.arriving_nmol / dose)
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(scaled_rates),
            solver,
            t0=0.0,
            t1=segment.hours,
            dt0=None,
            y0=z,
            args=(segment.ka_per_h, segment.immune_log_activity),
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(t1=True),
            max_steps=MAX_STEPS,
            throw=False,
        )
        return found.ys[0], (found.ys[0], found.result == diffrax.RESULTS.successful)

    _, (z, success) = lax.scan(body, y0 / scale, segments)
    y = jnp.moveaxis(jnp.concatenate([(y0 / scale)[None], z]) * scale, -1, 0)
    s = State(*y[:16])
    if form.signalling == "quasi-steady":
        s = jax.vmap(lambda s: _at_equilibrium(s, p, b))(s)
    failed = jnp.where(jnp.all(success), OK, SOLVER_FAILED)
    return Solution(s, y[16], y[17], jnp.where(jnp.all(jnp.isfinite(y)), failed, NOT_FINITE).astype(jnp.int32))
