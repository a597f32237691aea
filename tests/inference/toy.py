"""A small trial with known probabilities: eight visits, independent given a patient's susceptibility b ~ N(0, 1).

At a visit the count's logit is x = c + N(0, 1), c = effect(arm, theta) + spread * b: a response where x > 0, a low
response where x > -0.5. A patient is rescued with probability 1 - (1 - level * Phi(-c))^8 and then responds never.
Probabilities are sums over Gauss-Hermite nodes of b. Coordinates: log potency, log maximum, log spread, logit-like
rescue level; more may be appended that act weakly.
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
    return drug - 2.2 + weak[..., None], 0.8 * np.exp(theta[..., 2]), expit(-3.0 + theta[..., 3])


def simulate(theta: np.ndarray, patients: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Moments [K, A, 5], [K, A, 5, 5] of batches of patients who go through all arms; rescue integrated out."""
    means, seconds = [], []
    for row in theta:
        raw, rescue = _patients(row, rng.standard_normal((1, patients)), rng.standard_normal((1, VISITS, patients)))
        kept = raw * (1 - rescue)[:, None]
        second = np.zeros((len(DOSES), 5, 5))
        second[:, :4, :4] = np.einsum("ajn,aln->ajl", kept, raw) / patients
        second[:, 4, 4] = rescue.mean(axis=1)
        means.append(np.diagonal(second, axis1=1, axis2=2))
        seconds.append(second)
    return np.array(means), np.array(seconds)


def trial(theta: np.ndarray, n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts [A, 5] of one trial with independent patients in each arm, rescue sampled."""
    counts = np.zeros((len(n), 5), np.int64)
    for arm, size in enumerate(n):
        raw, rescue = _patients(theta, rng.standard_normal((1, size)), rng.standard_normal((1, VISITS, size)))
        rescued = rng.random(size) < rescue[arm]
        counts[arm] = [*(raw[arm] * ~rescued).sum(axis=1), rescued.sum()]
    return counts


def _patients(theta: np.ndarray, b: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Events were there no rescue [A, 4, patients], and the probability of rescue [A, patients]."""
    effect, spread, level = effects(theta)
    c = effect[:, None] + spread * b
    x = c[:, None] + noise
    responds = x > 0
    raw = np.stack([responds[:, -1], responds.any(1), responds.sum(1) >= 6, (x > -0.5).any(1)], axis=1)
    return raw.astype(float), 1 - (1 - level * ndtr(-c)) ** VISITS


def truth(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [..., A, 5] and P(week 8 and 75%) [..., A], exact to quadrature."""
    effect, spread, level = effects(theta)
    c = effect[..., None] + spread[..., None, None] * NODES  # [..., A, Q]
    q = ndtr(c)
    spared = (1 - level[..., None, None] * ndtr(-c)) ** VISITS
    any_ = 1 - (1 - q) ** VISITS
    low = 1 - (1 - ndtr(c + 0.5)) ** VISITS
    events = np.stack([q, any_, binom.sf(5, VISITS, q), low], axis=-2) * spared[..., None, :]
    p = np.concatenate([events, 1 - spared[..., None, :]], axis=-2) @ WEIGHTS
    return p, (q * binom.sf(4, VISITS - 1, q) * spared) @ WEIGHTS
