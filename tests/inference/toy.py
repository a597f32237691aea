"""A small trial with known probabilities: eight visits, independent given a patient's susceptibility b ~ N(0, 1).

At a visit the count's logit is x = effect(arm, theta) + spread * b + N(0, 1): a response where x > 0, a low response
where x > -0.5, a rescue with probability rescue * Phi(-x / 0.5). Probabilities are sums over Gauss-Hermite nodes of b.
Coordinates: log potency, log maximum, log spread, logit-like rescue level; more may be appended that act weakly.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, ndtr
from scipy.stats import binom

DOSES = np.array([0.5, 1.0, 0.0])
ARMS = ("low", "high", "placebo")
VISITS = 8
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def effects(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effect [..., A], spread [...] and rescue level [...] of coordinates theta [..., d >= 4]."""
    potency, top = np.exp(theta[..., 0]), np.exp(theta[..., 1])
    weak = 0.05 * theta[..., 4:].sum(axis=-1) + 0.03 * theta[..., 4:5].sum(axis=-1) * theta[..., 0]
    drug = 4.0 * top[..., None] * DOSES / (DOSES + 0.5 / potency[..., None])
    return drug - 2.2 + weak[..., None], 0.8 * np.exp(theta[..., 2]), expit(-2.5 + theta[..., 3])


def simulate(theta: np.ndarray, patients: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Moments [K, A, 5], [K, A, 5, 5] of batches of patients who go through all arms; rescue integrated out."""
    means, seconds = [], []
    for row in theta:
        effect, spread, level = effects(row)
        b = rng.standard_normal((1, 1, patients))
        x = effect[:, None, None] + spread * b + rng.standard_normal((1, VISITS, patients))
        events, rescue = _events(x, level)
        p = np.concatenate([events, rescue[:, None]], axis=1)  # [A, 5, patients]
        second = np.einsum("ajn,aln->ajl", p, p) / patients
        mean = p.mean(axis=2)
        second[:, 4, 4] = mean[:, 4]
        means.append(mean)
        seconds.append(second)
    return np.array(means), np.array(seconds)


def _events(x: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    responds = x > 0
    events = np.stack([responds[:, -1], responds.any(1), responds.sum(1) >= 6, (x > -0.5).any(1)], axis=1)
    return events.astype(float), 1 - np.prod(1 - level * ndtr(-x / 0.5), axis=1)


def trial(theta: np.ndarray, n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts [A, 5] of one trial with independent patients in each arm, rescue sampled."""
    effect, spread, level = effects(theta)
    counts = np.zeros((len(n), 5), np.int64)
    for arm, size in enumerate(n):
        x = effect[arm] + spread * rng.standard_normal((1, 1, size)) + rng.standard_normal((1, VISITS, size))
        events, rescue = _events(x, level)
        counts[arm, :4] = events[0].sum(axis=1)
        counts[arm, 4] = (rng.random(size) < rescue[0]).sum()
    return counts


def truth(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [..., A, 5] and P(week 8 and 75%) [..., A], exact to quadrature."""
    effect, spread, level = effects(theta)
    centre = effect[..., None] + spread[..., None, None] * NODES  # [..., A, Q]
    q = ndtr(centre)
    any_ = 1 - (1 - q) ** VISITS
    sustained = binom.sf(5, VISITS, q)
    low = 1 - (1 - ndtr(centre + 0.5)) ** VISITS
    # E Phi(-(c + Z)/s) = Phi(-c / sqrt(s^2 + 1))
    rescue = 1 - (1 - level[..., None, None] * ndtr(-centre / np.sqrt(1.25))) ** VISITS
    p = np.stack([q, any_, sustained, low, rescue], axis=-2) @ WEIGHTS
    return p, (q * binom.sf(4, VISITS - 1, q)) @ WEIGHTS
