"""NUTS: moments of known densities, reproducibility, what it reports."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from inference.arviz import convergence
from inference.samplers.nuts import nuts_sampler, pooled_covariance

ROOT = np.array([[1.0, 0.0, 0.0], [0.9, 0.2, 0.0], [-0.5, 0.5, 3.0]])


def correlated(root):
    x = numpyro.sample("x", dist.MultivariateNormal(jnp.array([1.0, 2.0, 3.0]), scale_tril=root))
    y = numpyro.sample("y", dist.Gamma(3.0, 2.0))
    numpyro.deterministic("total", x.sum() + y)


@pytest.fixture(scope="module")
def sampler():
    return nuts_sampler(correlated, warmup=400, draws=1500).run


@pytest.fixture(scope="module")
def start():
    return {"x": jax.random.normal(jax.random.key(0), (4, 3)), "y": jnp.zeros(4)}


@pytest.fixture(scope="module")
def result(sampler, start):
    return sampler(jax.random.key(1), start, (jnp.asarray(ROOT),))


def test_moments_of_a_correlated_normal_and_a_gamma(result):
    c = convergence({f"x{i}": result.samples["x"][..., i] for i in range(3)} | {"y": result.samples["y"]})
    assert c.rhat.max() < 1.02
    x = result.samples["x"].reshape(-1, 3)
    # five Monte Carlo standard errors
    assert (np.abs(x.mean(0) - [1, 2, 3]) < 5 * c.mcse_mean[:3]).all()
    assert abs(result.samples["y"].mean() - 1.5) < 5 * c.mcse_mean[3]
    np.testing.assert_allclose(np.cov(x.T), ROOT @ ROOT.T, rtol=0.25, atol=0.05)


def test_latent_and_deterministic_sites_come_back_constrained(result):
    assert result.samples["x"].shape == (4, 1500, 3)
    assert (result.samples["y"] > 0).all()
    np.testing.assert_allclose(result.samples["total"], result.samples["x"].sum(-1) + result.samples["y"], rtol=1e-12)


def test_statistics(result):
    stats = result.sample_stats
    for name in ("diverging", "energy", "lp", "n_steps", "acceptance_rate", "step_size", "tree_depth"):
        assert stats[name].shape == (4, 1500), name
    assert (2 ** stats["tree_depth"] > stats["n_steps"]).all()
    assert not stats["diverging"].any()
    # with the covariance learnt from the pooled chains, trees stay short in spite of a condition number of 400
    assert stats["n_steps"].mean() < 16


def test_the_same_key_gives_the_same_draws_and_another_one_others(sampler, start, result):
    again = sampler(jax.random.key(1), start, (jnp.asarray(ROOT),))
    np.testing.assert_array_equal(again.samples["x"], result.samples["x"])
    other = sampler(jax.random.key(2), start, (jnp.asarray(ROOT),))
    assert not np.array_equal(other.samples["x"], result.samples["x"])


def test_new_data_need_no_new_program(sampler, start):
    wide = sampler(jax.random.key(1), start, (jnp.asarray(3 * ROOT),))
    np.testing.assert_allclose(np.cov(wide.samples["x"].reshape(-1, 3).T), 9 * ROOT @ ROOT.T, rtol=0.25, atol=0.5)


def test_divergences_are_reported():
    def funnel():
        v = numpyro.sample("v", dist.Normal(0, 3))
        numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))

    run = nuts_sampler(funnel, warmup=100, draws=300, target_accept=0.6, max_tree_depth=6).run
    result = run(jax.random.key(0), {"v": jnp.zeros(4), "x": jnp.ones((4, 9))})
    assert result.sample_stats["diverging"].any()


def test_progress_reaches_the_end(sampler, start):
    seen = []
    sampler(jax.random.key(1), start, (jnp.asarray(ROOT),), None, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1900, 1900)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) >= 19


def test_pooled_covariance():
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4000, 4, 3)) @ ROOT.T
    found = pooled_covariance(draws, None)
    np.testing.assert_allclose(found, ROOT @ ROOT.T, rtol=0.1, atol=0.05)
    few = pooled_covariance(draws[:6], np.eye(3))
    np.testing.assert_array_equal(few, np.eye(3))


def test_refusals(start):
    with pytest.raises(ValueError, match="warmup = 1"):
        nuts_sampler(correlated, warmup=1)
    with pytest.raises(ValueError, match="draws = 0"):
        nuts_sampler(correlated, draws=0)
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="jax_enable_x64"):
        nuts_sampler(correlated).run(jax.random.key(0), start)
