"""The correction: its weights against likelihoods that are known, and what it finds when a surface is wrong."""

from __future__ import annotations

import jax
import numpy as np
import toy

from inference import arviz, correction, predictive
from inference.arms import ArmData, arrays, association, log_likelihood
from inference.surface import evaluate, fit_surface

N = np.array([168, 171, 85])
SD = np.array([0.2, 0.1, 0.12, 0.3])
ROWS = np.arange(3)


def data(seed: int = 0) -> ArmData:
    return ArmData(toy.ARMS, N, toy.trial(np.zeros(4), N, np.random.default_rng(seed)))


def test_a_likelihood_without_uncertainty_is_the_likelihood():
    counts = arrays(data(), int(N.max()) + 1)
    logits = np.random.default_rng(1).normal(0, 1, (5, 18))
    rho = np.broadcast_to(np.eye(5), (5, 3, 5, 5))
    z = correction.normals(jax.random.key(0), 18)
    found = correction.marginal(logits, np.zeros((5, 18)), np.eye(18), rho, ROWS, counts, z)
    exact = [log_likelihood(row.reshape(3, 6), counts, association(rho[0])).sum() for row in logits]
    np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_uncertainty_is_integrated_over():
    """Against ten thousand plain draws of the logits."""
    counts = arrays(data(), int(N.max()) + 1)
    rng = np.random.default_rng(2)
    logits = np.asarray(evaluate(surface_of(rng), np.zeros((1, 4)))[0])
    sd, correlation = np.full((1, 18), 0.08), 0.7 * np.eye(18) + 0.3
    rho = np.broadcast_to(np.eye(5), (1, 3, 5, 5))
    z = correction.normals(jax.random.key(0), 18)
    found = correction.marginal(logits, sd**2, correlation, rho, ROWS, counts, z)
    draws = logits + sd * (rng.standard_normal((10_000, 18)) @ np.linalg.cholesky(correlation).T)
    plain = correction.marginal(
        draws, np.zeros_like(draws), np.eye(18), np.broadcast_to(np.eye(5), (10_000, 3, 5, 5)), ROWS, counts, z[:1] * 0
    )
    expected = np.log(np.exp(plain - plain.max()).mean()) + plain.max()
    assert abs(found[0] - expected) < 0.15


def test_normals_come_in_pairs_that_cancel():
    z = correction.normals(jax.random.key(3), 18)
    assert z.shape == (correction.INTEGRATION, 18) and abs(z.sum()) < 1e-9
    np.testing.assert_array_equal(z, correction.normals(jax.random.key(3), 18))


def test_smoothed_weights_of_a_known_ratio():
    """Proposal N(0, 1), target N(0.3, 1): the weighted mean is that of the target, and k-hat is small."""
    x = np.random.default_rng(4).standard_normal(4000)
    smoothed, khat = arviz.pareto_smoothed(0.3 * x)
    w = np.exp(smoothed) / np.exp(smoothed).sum()
    assert abs(w @ x - 0.3) < 0.06 and khat < 0.5
    assert arviz.pareto_smoothed(2.5 * x**2)[1] > 0.7  # a target with heavier tails than the proposal


def weighted(weights, shift=0.0, khat=0.1):
    chosen = np.arange(len(weights)) * 2
    return correction.Correction(
        chosen, np.log(weights), khat, float(1 / np.sum(np.square(weights))), {"a": -shift, "b": shift / 2}
    )


def test_a_correction_confirms_what_it_does_not_move():
    even = np.full(1000, 1e-3)
    assert weighted(even, 0.14).confirms and weighted(even, 0.14).largest_shift == ("a", 0.14)
    assert weighted(even, 0.16).usable and not weighted(even, 0.16).confirms
    assert not weighted(even, 0.0, khat=0.7).usable and not weighted(np.full(399, 1 / 399)).usable
    assert not weighted(even, 0.0, khat=np.nan).usable


def test_draws_are_repeated_as_often_as_their_weights_say():
    w = np.array([0.5, 0.25, 0.2, 0.05])
    rows = correction.resampled(weighted(w), 1000, jax.random.key(0))
    found = np.bincount(rows // 2, minlength=4)
    assert (rows % 2 == 0).all() and np.abs(found - 1000 * w).max() <= 1  # systematic: within one of what is due
    answer = predictive.Answer(
        {"a": np.arange(8.0).reshape(2, 4)}, {"diverging": np.zeros((2, 4), bool)}, np.zeros((2, 4, 3, 6))
    )
    one = correction.reweighted(answer, weighted(np.array([1.0, 0, 0, 0]) + 1e-300), jax.random.key(0))
    assert (one.samples["a"] == 0).all() and one.samples["a"].shape == (2, 4)


def surface_of(rng: np.random.Generator):
    theta = rng.standard_normal((400, 4)) * SD
    return fit_surface(theta, *toy.simulate(theta, 256, rng), 256)
