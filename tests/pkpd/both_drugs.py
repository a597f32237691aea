"""One patient who takes two drugs in turn, the kinetics of both followed side by side: plain ODEs, no engine.

Both drugs compete for one site of the receptor, so concentrations relative to EC50 add up.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from pkpd import model, pharmacokinetics, signalling, thrombopoiesis
from pkpd.parameters import Parameters

Pair = tuple[Parameters, Parameters]


@jax.jit
def rates(y: jax.Array, drugs: Pair, ka_per_h: tuple[float, float]) -> jax.Array:
    """y: disposition of the first drug [4], of the second [4], and the 12 other states of the model."""
    p = drugs[0]
    kinetics = [pharmacokinetics.Disposition(*y[0:4]), pharmacokinetics.Disposition(*y[4:8])]
    relative = [
        pharmacokinetics.free_concentration(
            d.central_nmol / q.central_volume_l, d.target_nM, q.quasi_steady_state_constant_nM
        )
        / q.receptor_ec50_nM
        for d, q in zip(kinetics, drugs, strict=True)
    ]
    x, socs, m = signalling.Pathways(*y[8:12]), y[12], thrombopoiesis.Megakaryopoiesis(*y[13:20])
    b = model.baseline(p)[0]
    tau = m.tpo_relative / (p.tpo_half_activation + m.tpo_relative)
    delta = p.dimer_efficacy * sum(relative) / (1 + sum(relative))
    j = signalling.jak2_activity(tau + delta - tau * delta, socs, p)
    dx, dsocs = signalling.rates(x, socs, j, b.pathways.stat5, p)
    dm = thrombopoiesis.rates(m, signalling.factors(x, b.pathways, b.gain, p), b.turnover, 0.0, p)
    moved = [pharmacokinetics.rates(d, ka, q) for d, ka, q in zip(kinetics, ka_per_h, drugs, strict=True)]
    return jnp.stack([*moved[0], *moved[1], *dx, dsocs, *dm])


def counts(drugs: Pair, doses_mg: list[tuple[float, float]]) -> np.ndarray:
    """Counts at the end of each day with its doses of the first and the second drug, one of them 0."""
    at_rest = model.steady_state(drugs[0])[0]
    empty = [0.0, 0.0, 0.0]
    y = np.array([*empty, *np.ravel(drugs[0].target_baseline_nM), *empty, *np.ravel(drugs[1].target_baseline_nM)])
    y, found = np.concatenate([y, np.array([float(leaf) for leaf in at_rest[4:]])]), []
    for given in doses_mg:
        which = int(given[1] > 0)
        p = drugs[which]
        arrival, change = float(p.lag_time_h), float(p.lag_time_h + p.absorption_switch_h)
        ka = [float(q.absorption_rate_second_per_h) for q in drugs]
        for start, end in ((0.0, arrival), (arrival, change), (change, 24.0)):
            if start == arrival and start < end:
                y[4 * which] += float(pharmacokinetics.arriving_nmol(given[which], p))
                ka[which] = float(p.absorption_rate_first_per_h)
            elif start == change:
                ka[which] = float(p.absorption_rate_second_per_h)
            now = tuple(ka)
            solved = solve_ivp(
                lambda _, z, now=now: np.asarray(rates(z, drugs, now)),
                (start, end),
                y,
                method="LSODA",
                rtol=1e-6,
                atol=1e-8,
            )
            y = solved.y[:, -1].copy()
        found.append(y[18])
    return np.array(found)
