"""The model's right-hand side for the peers that take one, written out in scalars or NumPy arrays (design 2.1 to 2.3).

``written_with`` makes it from the functions it is written with, so that plain Python, numba and NumPy over patients
run one text. It shares nothing with ``pkpd.model``; the tests hold it against that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

STATES = 16


class Constants(NamedTuple):
    """What the right-hand side reads of a patient; the first two change from stretch to stretch."""

    ka_per_h: Any
    immune: Any  # Vim exp(omega), 1e9/L/h
    CL: Any
    V: Any
    Q: Any
    Vp: Any
    kdeg: Any
    R0: Any
    Kss: Any
    kint: Any
    EC50: Any
    eps: Any
    K_T: Any
    phi: Any
    kappa_3: Any
    kappa_5: Any
    kappa_a: Any
    kappa_e: Any
    k_3: Any
    k_5: Any
    k_a: Any
    k_e: Any
    k_S: Any
    x0_3: Any
    x0_5: Any
    x0_a: Any
    x0_e: Any
    g_prol: Any
    g_surv: Any
    g_mat: Any
    w5: Any
    r0: Any
    ktr: Any
    ksen: Any
    Kim: Any
    k_T: Any
    c0: Any
    sink_P: Any  # cP/P_h
    sink_M: Any  # cM/M_h


def constants(p: dict[str, np.ndarray], ka_per_h: Any = 0.0, omega: Any = 0.0) -> Constants:
    """Constants of patients with parameters ``p`` by name, numbers or [patients]; the Hill exponent must be 1."""
    if np.any(p["dimer_hill"] != 1):
        raise ValueError("dimer_hill must be 1: no system of this benchmark takes a power")
    M, T, _ = _megakaryopoiesis_at_rest(p)
    P0, Kim, ksen = p["baseline_platelets_1e9_per_l"], p["immune_half_saturation_1e9_per_l"], p["senescence_per_h"]
    ktr = 5 / p["mean_transit_time_h"]
    r0 = M * ktr
    f = 1 + p["max_stimulation"]
    x0 = _pathways_at_rest(p, T)
    healthy_M = p["healthy_platelets_1e9_per_l"] * ksen * p["healthy_mean_transit_time_h"]
    return Constants(
        ka_per_h=ka_per_h,
        immune=(r0 - ksen * P0) * (Kim + P0) / P0 * np.exp(omega),
        CL=p["clearance_l_per_h"],
        V=p["central_volume_l"],
        Q=p["intercompartmental_clearance_l_per_h"],
        Vp=p["peripheral_volume_l"],
        kdeg=p["target_degradation_per_h"],
        R0=p["target_baseline_nM"],
        Kss=p["quasi_steady_state_constant_nM"],
        kint=p["complex_internalisation_per_h"],
        EC50=p["receptor_ec50_nM"],
        eps=p["dimer_efficacy"],
        K_T=p["tpo_half_activation"],
        phi=p["socs_strength"],
        kappa_3=p["kappa_stat3"],
        kappa_5=p["kappa_stat5"],
        kappa_a=p["kappa_akt"],
        kappa_e=p["kappa_erk"],
        k_3=p["rate_stat3_per_h"],
        k_5=p["rate_stat5_per_h"],
        k_a=p["rate_akt_per_h"],
        k_e=p["rate_erk_per_h"],
        k_S=p["socs_rate_per_h"],
        x0_3=x0[0],
        x0_5=x0[1],
        x0_a=x0[2],
        x0_e=x0[3],
        g_prol=f ** p["share_proliferation"] - 1,
        g_surv=f ** p["share_survival"] - 1,
        g_mat=f ** p["share_maturation"] - 1,
        w5=p["stat5_weight"],
        r0=r0,
        ktr=ktr,
        ksen=ksen,
        Kim=Kim,
        k_T=p["tpo_turnover_per_h"],
        c0=p["tpo_sink_constant"],
        sink_P=p["tpo_sink_platelets"] / p["healthy_platelets_1e9_per_l"],
        sink_M=p["tpo_sink_megakaryocytes"] / healthy_M,
    )


def _megakaryopoiesis_at_rest(p: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """M_i, T and P before treatment: M_i = r0/ktr, P = P0, T = 1/loss."""
    P0, ksen = p["baseline_platelets_1e9_per_l"], p["senescence_per_h"]
    M = np.maximum(p["production_1e9_per_l_per_h"], ksen * P0) * p["mean_transit_time_h"] / 5
    P_h = p["healthy_platelets_1e9_per_l"]
    M_h = P_h * ksen * p["healthy_mean_transit_time_h"]
    loss = p["tpo_sink_constant"] + p["tpo_sink_platelets"] * P0 / P_h + p["tpo_sink_megakaryocytes"] * 5 * M / M_h
    return M, 1 / loss, P0


def _pathways_at_rest(p: dict[str, np.ndarray], T: np.ndarray) -> list[np.ndarray]:
    """(1 + kappa) tau/(kappa + tau) of STAT3, STAT5, AKT and ERK, tau = T/(K_T + T)."""
    tau = T / (p["tpo_half_activation"] + T)
    kappas = (p[f"kappa_{name}"] for name in ("stat3", "stat5", "akt", "erk"))
    return [(1 + k) * tau / (k + tau) for k in kappas]


def at_rest(p: dict[str, np.ndarray], n: int) -> np.ndarray:
    """States of n patients before treatment, [16, n], in the order of ``pkpd.model.State``."""
    M, T, P = _megakaryopoiesis_at_rest(p)
    rows = [0, 0, 0, p["target_baseline_nM"], *_pathways_at_rest(p, T), 1, M, M, M, M, M, P, T]
    return np.stack([np.broadcast_to(np.asarray(row, np.float64), (n,)) for row in rows])


def stimulus(g: float, s: float) -> float:
    """F(g, s) = 1 + g s for s >= 0 and exp(g s) below, of scalars."""
    return 1.0 + g * s if s >= 0.0 else math.exp(g * s)


def free(b: float, root: float, q: float) -> float:
    """Positive root of C^2 - b C - q/2 = 0 with root = sqrt(b^2 + 2 q), without cancellation, of scalars."""
    return 0.5 * (b + root) if b >= 0.0 else q / (root - b)


def stimulus_of_arrays(g: np.ndarray, s: np.ndarray) -> np.ndarray:
    return np.where(s >= 0, 1 + g * s, np.exp(g * np.minimum(s, 0)))


def free_of_arrays(b: np.ndarray, root: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.where(b >= 0, 0.5 * (b + root), q / (root - np.minimum(b, 0)))


def written_with(sqrt: Callable, stimulus: Callable, free: Callable) -> tuple[Callable, Callable]:
    """The right-hand side and the free concentration (nM), written with these functions.

    rates(y, k) gives the 16 time derivatives (per hour) as a tuple; y and k are indexed in the order of
    ``pkpd.model.State`` and of Constants. concentration(A_c, R, V, Kss) is C.
    """

    def concentration(A_c: Any, R: Any, V: Any, Kss: Any) -> Any:
        C_tot = A_c / V
        b = C_tot - R - Kss
        q = 2.0 * Kss * C_tot
        return free(b, sqrt(b * b + 2.0 * q), q)

    def rates(y: Any, k: Any) -> tuple:
        A_d, A_c, A_p, R = y[0], y[1], y[2], y[3]
        x3, x5, xa, xe, S = y[4], y[5], y[6], y[7], y[8]
        M0, M1, M2, M3, M4, P, T = y[9], y[10], y[11], y[12], y[13], y[14], y[15]
        ka, immune, CL, V, Q, Vp = k[0], k[1], k[2], k[3], k[4], k[5]
        kdeg, R0, Kss, kint, EC50, eps, K_T, phi = k[6], k[7], k[8], k[9], k[10], k[11], k[12], k[13]
        kappa_3, kappa_5, kappa_a, kappa_e = k[14], k[15], k[16], k[17]
        k_3, k_5, k_a, k_e, k_S = k[18], k[19], k[20], k[21], k[22]
        x0_3, x0_5, x0_a, x0_e = k[23], k[24], k[25], k[26]
        g_prol, g_surv, g_mat, w5 = k[27], k[28], k[29], k[30]
        r0, ktr, ksen, Kim = k[31], k[32], k[33], k[34]
        k_T, c0, sink_P, sink_M = k[35], k[36], k[37], k[38]

        C_tot = A_c / V
        b = C_tot - R - Kss
        q = 2.0 * Kss * C_tot
        C = free(b, sqrt(b * b + 2.0 * q), q)
        RC = C_tot - C
        absorbed = ka * A_d
        exchange = Q * (C - A_p / Vp)

        tau = T / (K_T + T)
        delta = eps * C / (EC50 + C)
        j = (tau + delta - tau * delta) / (1.0 + phi * (S - 1.0))
        e3 = (x3 - x0_3) / (1.0 - x0_3)
        e5 = (x5 - x0_5) / (1.0 - x0_5)
        F_prol = stimulus(g_prol, w5 * e5 + (1.0 - w5) * e3)
        F_surv = stimulus(g_surv, (xa - x0_a) / (1.0 - x0_a))
        F_mat = stimulus(g_mat, (xe - x0_e) / (1.0 - x0_e))
        return (
            -absorbed,
            absorbed - CL * C - exchange - kint * RC * V,
            exchange,
            kdeg * (R0 - R + RC) - kint * RC,
            k_3 * ((1.0 + kappa_3) * j / (kappa_3 + j) - x3),
            k_5 * ((1.0 + kappa_5) * j / (kappa_5 + j) - x5),
            k_a * ((1.0 + kappa_a) * j / (kappa_a + j) - xa),
            k_e * ((1.0 + kappa_e) * j / (kappa_e + j) - xe),
            k_S * (x5 / x0_5 - S),
            r0 * F_prol - ktr * M0,
            ktr * (F_surv * M0 - M1),
            ktr * (M1 - M2),
            ktr * (M2 - M3),
            ktr * (M3 - M4),
            F_mat * ktr * M4 - ksen * P - immune * P / (Kim + P),
            k_T * (1.0 - T * (c0 + sink_P * P + sink_M * (M0 + M1 + M2 + M3 + M4))),
        )

    return rates, concentration


rates, concentration = written_with(math.sqrt, stimulus, free)
rates_of_arrays, concentration_of_arrays = written_with(np.sqrt, stimulus_of_arrays, free_of_arrays)


def compiled() -> tuple[Callable, Callable]:
    """The same compiled by numba; ImportError where it is missing."""
    import numba

    njit = numba.njit(error_model="numpy", inline="never")
    return tuple(njit(f) for f in written_with(math.sqrt, njit(stimulus), njit(free)))
