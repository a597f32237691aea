"""Two problems whose posterior and evidence have closed forms: a Gaussian in three dimensions and a beta-binomial."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats
from scipy.special import betaln, expit, gammaln

from inference.priors import Beta, JointPrior

# theta ~ N(0, diag(PRIOR_SD^2)), y ~ N(theta, NOISE)
PRIOR_SD = np.array([1.0, 2.0, 0.5])
NOISE = np.array([[0.30, 0.20, 0.00], [0.20, 0.40, 0.05], [0.00, 0.05, 0.20]])
Y = np.array([0.8, -1.5, 0.4])

# x ~ Beta(ALPHA, BETA), k ~ Bin(N, x); the coordinate is the logit
ALPHA, BETA, N, K = 2.0, 3.0, 20, 13
SHARE = JointPrior((Beta("share", ALPHA, BETA),))


class Truth(NamedTuple):
    mean: np.ndarray
    sd: np.ndarray
    log_evidence: float


def gaussian() -> Truth:
    """Of theta."""
    precision = np.linalg.inv(NOISE)
    covariance = np.linalg.inv(np.diag(PRIOR_SD**-2) + precision)
    evidence = stats.multivariate_normal(np.zeros(3), np.diag(PRIOR_SD**2) + NOISE).logpdf(Y)
    return Truth(covariance @ precision @ Y, np.sqrt(np.diag(covariance)), float(evidence))


def gaussian_log_prior(theta: np.ndarray) -> np.ndarray:
    return stats.norm.logpdf(theta, scale=PRIOR_SD).sum(axis=-1)


def gaussian_log_likelihood(theta: np.ndarray) -> np.ndarray:
    return stats.multivariate_normal(np.zeros(3), NOISE).logpdf(Y - theta).reshape(len(theta))


def gaussian_model() -> None:
    theta = numpyro.sample("theta", dist.Normal(0.0, jnp.asarray(PRIOR_SD)).to_event(1))
    numpyro.sample("y", dist.MultivariateNormal(theta, jnp.asarray(NOISE)), obs=jnp.asarray(Y))


def beta_binomial() -> Truth:
    """Of x."""
    after = stats.beta(ALPHA + K, BETA + N - K)
    evidence = _log_ways() + betaln(ALPHA + K, BETA + N - K) - betaln(ALPHA, BETA)
    return Truth(np.array([after.mean()]), np.array([after.std()]), float(evidence))


def beta_binomial_log_likelihood(theta: np.ndarray) -> np.ndarray:
    """At logits [S, 1]."""
    return stats.binom.logpmf(K, N, expit(theta[:, 0]))


def beta_binomial_model() -> None:
    x = jnp.exp(SHARE.sample()[0])  # the odds
    numpyro.factor("k", _log_ways() + K * jnp.log(x) - N * jnp.log1p(x))


def by_cohort(theta: np.ndarray, patients: int, rng: np.random.Generator) -> np.ndarray:
    """The likelihood at the rate of a cohort, half a patient added to either side: a noisy, biased estimate."""
    return stats.binom.logpmf(K, N, (rng.binomial(patients, expit(theta[:, 0])) + 0.5) / (patients + 1))


def expected_by_cohort(patients: int, estimate: np.ndarray | None = None) -> Truth:
    """Posterior and evidence of the expectation of that estimate: a sum over cohorts, an integral over x.

    estimate [patients + 1]: of the likelihood, in place of that one, by the number of successes in the cohort.
    """
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x, weights = (nodes + 1) / 2, weights / 2
    j = np.arange(patients + 1)
    plain = stats.binom.pmf(K, N, (j + 0.5) / (patients + 1)) if estimate is None else estimate
    mean = stats.binom.pmf(j, patients, x[:, None]) @ plain
    joint = weights * stats.beta(ALPHA, BETA).pdf(x) * mean
    first, second = (joint @ x**power / joint.sum() for power in (1, 2))
    return Truth(np.array([first]), np.array([math.sqrt(second - first**2)]), float(np.log(joint.sum())))


def _log_ways() -> float:
    return float(gammaln(N + 1) - gammaln(K + 1) - gammaln(N - K + 1))
