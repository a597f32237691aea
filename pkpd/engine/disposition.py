"""Drug and target over one step: linear part exact in its two modes, binding implicit in closed form.

With total concentration u = A_c/V, c = A_p/Vp and bound drug X = RC = u - C, the equations of design 2.1 are
linear in (u, c, R) with X as their only nonlinear drive:

    u' = input/V - (k10 + k12) u + k12 c + (k10 + k12 - kint) X
    c' = k21 (u - c) - k21 X
    R' = kdeg (R0 - R) + (kdeg - kint) X

(u, c) is split into its two modes, so three scalar relaxations share one drive. X is found at one node of the step
after the other, each time as the polynomial through the start and all nodes so far; X at the new node enters linearly,
so quasi-steady binding X (Kss + u - X) = R (u - X) is one quadratic in X: no iteration, and no limit on the step.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pkpd.engine import relaxation
from pkpd.engine.fusion import once
from pkpd.parameters import Parameters

# Shares of a step at which bound drug and concentration are found, chosen together with the default grid of steps.
NODES = (0.0, 0.2, 0.62, 1.0)


class Modes(NamedTuple):
    """Eigen-decomposition of the linear two-compartment part; patients last."""

    rate: tuple[Array, Array]  # 1/h, fast and slow
    peripheral: tuple[Array, Array]  # c in units of u carried by each mode
    from_input: tuple[Array, Array]  # share of an input into u that enters each mode
    from_bound: tuple[Array, Array]  # drive of each mode per unit of X, 1/h


class Drug(NamedTuple):
    """Disposition of a patient as the fast engine carries it."""

    depot_nmol: Array
    mode_1: Array
    mode_2: Array
    target_nM: Array
    bound_nM: Array


class Absorption(NamedTuple):
    """Response to the depot (nmol at the start of the step)."""

    inside: tuple[Array, ...]  # nM of total concentration per nmol, at every node inside the step
    end: tuple[Array, Array]  # nM in modes 1 and 2 per nmol, at the end
    left: Array  # share of the depot left at the end


class Linear(NamedTuple):
    """One scalar relaxation y' = -k y + g X from the start of a step to a node."""

    left: Array  # share of y
    from_bound: tuple[Array, ...]  # weights of X at the start and at all nodes up to this


class Inside(NamedTuple):
    """Total concentration at a node inside the step, where its modes are not needed apart."""

    left: tuple[Array, Array]  # share of modes 1 and 2
    from_bound: tuple[Array, ...]  # weights of X at the start and at all nodes up to this


class Coefficients(NamedTuple):
    inside: tuple[Inside, ...]  # of every node inside the step
    end: tuple[Linear, Linear]  # of modes 1 and 2
    target: tuple[Linear, ...]  # of every node after the start


def modes(p: Parameters) -> Modes:
    """The two modes of the linear part, in forms that do not cancel."""
    k10 = p.clearance_l_per_h / p.central_volume_l
    k12 = p.intercompartmental_clearance_l_per_h / p.central_volume_l
    k21 = p.intercompartmental_clearance_l_per_h / p.peripheral_volume_l
    d = k10 + k12 - k21
    root = jnp.sqrt(d * d + 4 * k12 * k21)
    excess = jnp.where(d > 0, (jnp.abs(d) + root) / 2, 2 * k12 * k21 / (jnp.abs(d) + root))  # fast rate - k21
    fast = excess + k21
    slow = k10 * k21 / fast
    r1, r2 = -k21 / excess, excess / k12
    share_1, share_2 = r2 / (r2 - r1), -r1 / (r2 - r1)
    g_u, g_c = k10 + k12 - p.complex_internalisation_per_h, -k21
    per_c = 1 / (r2 - r1)
    return Modes(
        (fast, slow),
        (r1, r2),
        (share_1, share_2),
        (share_1 * g_u - per_c * g_c, share_2 * g_u + per_c * g_c),
    )


def _linear(rate: Array, drive: Array, h: Array) -> tuple[Linear, ...]:
    def up_to(i: int) -> Linear:
        t = NODES[i] * h
        nodes = tuple(node / NODES[i] for node in NODES[: i + 1])
        z = rate * t
        weights = relaxation.integrals(relaxation.phi(z, i + 1), nodes)
        return Linear(jnp.exp(-z), tuple(drive * t * w for w in weights))

    return tuple(up_to(i) for i in range(1, len(NODES)))


def coefficients(p: Parameters, m: Modes, h: Array) -> Coefficients:
    """Weights of the linear parts for a step of ``h`` hours."""
    kdeg = p.target_degradation_per_h
    one, two = (_linear(rate, drive, h) for rate, drive in zip(m.rate, m.from_bound, strict=True))

    def inside(a: Linear, b: Linear) -> Inside:
        return Inside((a.left, b.left), tuple(v + w for v, w in zip(a.from_bound, b.from_bound, strict=True)))

    return Coefficients(
        tuple(map(inside, one[:-1], two[:-1])),
        (one[-1], two[-1]),
        _linear(kdeg, kdeg - p.complex_internalisation_per_h, h),
    )


def absorption(p: Parameters, m: Modes, ka_per_h: Array, h: Array) -> Absorption:
    """Exact response of both modes to first-order absorption up to every node of a step."""

    def response(i: int, t: Array) -> Array:
        apart = jnp.abs(m.rate[i] - ka_per_h) * t
        both = jnp.exp(-jnp.minimum(m.rate[i], ka_per_h) * t) * t * relaxation.phi(apart)[0]
        return m.from_input[i] * ka_per_h / p.central_volume_l * both

    at_nodes = [(response(0, node * h), response(1, node * h)) for node in NODES[1:]]
    return Absorption(tuple(a + b for a, b in at_nodes[:-1]), at_nodes[-1], jnp.exp(-ka_per_h * h))


def to_modes(total_nM: Array, peripheral_nM: Array, m: Modes) -> tuple[Array, Array]:
    r1, r2 = m.peripheral
    mode_2 = (peripheral_nM - r1 * total_nM) / (r2 - r1)
    return total_nM - mode_2, mode_2


def bound(alpha: Array, beta: Array, a_R: Array, b_R: Array, kss: Array) -> Array:
    """X that solves X (Kss + C) = R C with C = alpha - beta X and R = a_R + b_R X (smaller root)."""
    alpha, a_R = (jnp.where(x < 0, 0, x) for x in (alpha, a_R))  # maximum would halve the derivative at 0
    p, q = alpha * (1 - b_R), a_R * beta
    root = jnp.sqrt((p - q) ** 2 + kss * (kss + 2 * (p + q)))
    return 2 * a_R * alpha / (kss + p + q + root)


def step(k: Coefficients, a: Absorption, d: Drug, p: Parameters, true: Array | None) -> tuple[Drug, list[Array]]:
    """One step. Returns the new state and free concentration (nM) at every node after the start."""
    X, C = [d.bound_nM], []
    R0, kss = p.target_baseline_nM, p.quasi_steady_state_constant_nM

    def free(alpha: Array, beta: Array, target: Linear) -> tuple[Array, Array]:
        """Finds bound drug at the next node and returns free concentration and target there."""
        aR = target.left * (d.target_nM - R0) + R0 + _from_bound(target.from_bound, X)
        alpha, aR = once((alpha, aR), true)
        X.append(once(bound(alpha, beta, aR, target.from_bound[-1], kss), true))
        return alpha - beta * X[-1], aR + target.from_bound[-1] * X[-1]

    for node, given, target in zip(k.inside, a.inside, k.target, strict=False):
        left = node.left[0] * d.mode_1 + node.left[1] * d.mode_2
        alpha = left + given * d.depot_nmol + _from_bound(node.from_bound, X)
        C.append(free(alpha, 1 - node.from_bound[-1], target)[0])
    one, two = (
        mode.left * y + given * d.depot_nmol + _from_bound(mode.from_bound, X)
        for mode, y, given in zip(k.end, (d.mode_1, d.mode_2), a.end, strict=True)
    )
    one, two = once((one, two), true)
    b1, b2 = (mode.from_bound[-1] for mode in k.end)
    C_end, target_nM = free(one + two, 1 - (b1 + b2), k.target[-1])
    return Drug(a.left * d.depot_nmol, one + b1 * X[-1], two + b2 * X[-1], target_nM, X[-1]), [*C, C_end]


def _from_bound(weights: tuple[Array, ...], X: list[Array]) -> Array:
    """What the bound drug at the nodes before the last of ``weights`` adds."""
    return reduce(add, (w * x for w, x in zip(weights[:-1], X, strict=True)))
