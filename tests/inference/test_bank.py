"""The bank: its patients are the engine's, weights and errors against quadrature and repetition, what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from inference import bank, bank_model, population
from inference.arms import ArmData, arrays, association, log_likelihood
from inference.config import load
from inference.moments import BANK, moments, stream
from inference.priors import JointPrior, Lognormal
from inference.progress import silent
from inference.surface import nested_counts
from pkpd import cohort, random
from pkpd.errors import InputError
from pkpd.parameters import Variability, load_library, with_values

EC50, EC50_SD = "receptor_ec50_nM", "receptor_ec50_nM_iiv_log_sd"


def plan(*free: str, **options):
    known = load_library().free_names()
    fix = [n for n in known if n not in free]
    return population.plan(load(options={"fix": fix, "free": [n for n in free if n not in known], **options}))


# A trial whose chances are functions of one individual logarithm x ~ N(log median, sd^2).

PRIOR = JointPrior((Lognormal(EC50, 1.0, 0.6), Lognormal(EC50_SD, 0.5, 0.4)))
WHICH = bank.Reweighted((EC50,), (None,), (None,))
ARMS, N = ("high", "low"), np.array([120, 90])
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
TRUTH = np.log([1.3, 0.6])


def chances(x: np.ndarray) -> np.ndarray:
    """Second moments of the events of patients x [n] in both arms [2, 5, 5, n]."""
    any_ = np.stack([norm.cdf(1.0 - x), norm.cdf(0.2 - 1.5 * x)])
    s75, both = any_ * norm.cdf(0.3 - 0.7 * x), any_ * norm.cdf(0.3 - 0.7 * x) * norm.cdf(0.8 - 0.3 * x)
    week_8 = both + (any_ - s75) * norm.cdf(-0.5 * x)
    p = np.stack([week_8, any_, s75, 0.1 + 0.8 * any_, 0.4 * norm.cdf(x - 0.5) * np.ones_like(any_)], axis=1)
    second = p[:, :, None] * p[:, None]
    second[:, range(5), range(5)] = p
    for inner in (0, 2):
        second[:, inner, 1] = second[:, 1, inner] = p[:, inner]
    second[:, 0, 2] = second[:, 2, 0] = both
    return second


def drawn(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same for events that happened or not, [2, 5, 5, n]."""
    second = chances(x)
    week_8, any_, s75, doubled, rescue = np.moveaxis(np.diagonal(second, axis1=1, axis2=2), -1, 0)
    both, u = second[:, 0, 2], rng.random((5, *any_.shape))
    e_any = u[0] < any_
    e_75 = e_any & (u[1] < s75 / any_)
    e_8 = e_any & (u[2] < np.where(e_75, both / s75, (week_8 - both) / (any_ - s75)))
    events = np.stack([e_8, e_any, e_75, u[3] < doubled, u[4] < rescue], axis=1).astype(float)
    return events[:, :, None] * events[:, None]


def exact_logits(theta: np.ndarray) -> np.ndarray:
    """[12] by quadrature."""
    second = np.einsum("aijn,n->aij", chances(theta[0] + np.exp(theta[1]) * NODES), WEIGHTS)[None]
    y, t = nested_counts(np.diagonal(second, axis1=2, axis2=3), second, 1.0)
    return np.log(y[0] / (t[0] - y[0]))


def toy_bank(n: int, seed: int, pilots: np.ndarray) -> bank.Bank:
    """n patients of a mixture over pilots [K, 2]."""
    rng = np.random.default_rng(seed)
    mean, sd = pilots[:, 0], np.exp(pilots[:, 1])
    k = np.arange(n) // (n // len(pilots))
    x = mean[k] + sd[k] * rng.standard_normal(n)
    log_q = logsumexp(norm.logpdf(x[:, None], mean, sd), axis=1) - np.log(len(pilots))
    return bank.assemble(x[None], log_q, drawn(x, rng), pilots, WHICH, PRIOR)


def pilots(seed: int, K: int = 64, spread: float = 0.3) -> np.ndarray:
    return TRUTH + spread * np.random.default_rng(seed).standard_normal((K, 2))


def seen(b: bank.Bank, theta: np.ndarray) -> bank.Proportions:
    return bank.proportions(b, *WHICH.law(PRIOR.constrained(jnp.asarray(theta))))


def test_one_pilot_is_a_plain_cohort_of_the_engine():
    """The weights are 1, and the proportions those of the moments of the same patients."""
    p = plan(EC50, EC50_SD)
    at = np.log([[27.0, 0.6]])
    b = bank.fill(p, at, 256, replicate=1, draw=3)
    found = bank.proportions(b, *bank.reweighted(p).law(p.prior.constrained(at[0])))
    assert found.effective == pytest.approx(256, rel=1e-5)
    values = {n: np.asarray(v) for n, v in p.prior.constrained(at).items()}
    y, t = nested_counts(*moments(p, values, 256, stream(BANK, 1), 3, silent, ""), 256)
    np.testing.assert_allclose(found.logits, np.log((y[0] + 0.5) / (t[0] - y[0] + 0.5)), atol=2e-4)


def test_the_logarithms_are_those_of_the_patients_drawn():
    """Of all thirteen parameters, for three population vectors; allometry apart."""
    names = Variability._fields
    which = bank.Reweighted(names, (None,) * 13, (None,) * 13)
    rng = np.random.default_rng(0)
    median, sd = np.exp(rng.normal(size=(13, 3))), np.exp(rng.normal(-1, 0.2, (13, 3)))
    x = bank.logarithms(which, np.log(median), sd, 4, seed=5, part=6, draw=7)
    values = dict(zip(names, np.repeat(median, 4, 1), strict=True))
    values |= {f"{n}_iiv_log_sd": s for n, s in zip(names, np.repeat(sd, 4, 1), strict=True)}
    same = jnp.full(12, 7), jnp.full(12, 6), jnp.arange(12)
    drawn = cohort.draw(
        with_values(load_library().population(), values), random.patient_keys(random.root(5), *same), 30
    )
    size = drawn.weight_kg / 70
    for name, own in zip(names, x, strict=True):
        here = getattr(drawn.noise if hasattr(drawn.noise, name) else drawn.parameters, name)
        scale = {"clearance_l_per_h": size**0.75, "central_volume_l": size}.get(name, 1.0)
        np.testing.assert_allclose(np.exp(own), here / scale, rtol=2e-5, err_msg=name)


def test_reweighted_patients_agree_with_fresh_ones():
    """Pilots about one population vector, another one 0.4 away: logits within four Monte Carlo errors."""
    p = plan(EC50, "production_1e9_per_l_per_h")
    centre = np.log([27.0, 0.77])
    about = centre + 0.25 * np.random.default_rng(1).standard_normal((64, 2))
    b = bank.fill(p, about, 128)
    there = centre + np.array([0.3, -0.25])
    found = bank.proportions(b, *bank.reweighted(p).law(p.prior.constrained(there)))
    assert 1000 < found.effective < 8192
    values = {n: np.asarray(v)[None] for n, v in p.prior.constrained(there).items()}
    y, t = nested_counts(*moments(p, values, 16384, stream(BANK, 9), 0, silent, ""), 16384)
    fresh = np.log(y[0] / (t[0] - y[0]))
    error = np.sqrt(np.asarray(found.variances) + t[0] / (y[0] * (t[0] - y[0])))
    np.testing.assert_array_less(np.abs(np.asarray(found.logits) - fresh), 4 * error)
    # and the difference to the centre is seen: it is no accident that they agree
    here = bank.proportions(b, *bank.reweighted(p).law(p.prior.constrained(centre)))
    assert (np.abs(np.asarray(here.logits) - fresh) > 6 * error).any()


def test_proportions_and_their_covariance_over_many_banks():
    """Means over 300 banks are those of quadrature; their covariance is the one claimed, at the centre and away."""
    about = pilots(0)
    banks = [toy_bank(1536, seed, about) for seed in range(300)]
    both = jax.jit(jax.vmap(seen, in_axes=(0, None)))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *banks)
    for theta, tolerance in ((about.mean(0), 0.3), (about.mean(0) + np.array([0.3, -0.2]), 0.5)):
        logits, variances, effective = (np.asarray(v) for v in both(stacked, theta))
        error = logits.std(0, ddof=1) / np.sqrt(300)
        np.testing.assert_array_less(np.abs(logits.mean(0) - exact_logits(theta)), 5 * error + 0.02)
        ratio = variances.mean(0) / logits.var(0, ddof=1)
        assert (np.abs(np.log(ratio)) < tolerance).all(), ratio
        assert 300 < effective.mean() < 1536
    root = np.asarray(stacked.root).mean(0)
    np.testing.assert_allclose(root @ root.T, np.corrcoef(np.asarray(both(stacked, about.mean(0))[0]).T), atol=0.25)


def test_derivatives_are_those_of_finite_differences():
    b = toy_bank(2048, 1, pilots(1))
    with_64_bits = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), b)
    value = lambda theta: (seen(with_64_bits, theta).logits ** 2).sum() + jnp.log(seen(with_64_bits, theta).effective)  # noqa: E731
    theta, step = jnp.asarray(TRUTH) + 0.1, 1e-5
    numeric = [(value(theta + step * e) - value(theta - step * e)) / (2 * step) for e in np.eye(2)]
    np.testing.assert_allclose(jax.grad(value)(theta), numeric, rtol=1e-6)
    value_32 = (seen(b, theta).logits ** 2).sum() + jnp.log(seen(b, theta).effective)
    assert float(value_32) == pytest.approx(float(value(theta)), rel=1e-4)


def test_the_posterior_is_that_of_quadrature():
    rng = np.random.default_rng(3)
    rate = 1 / (1 + np.exp(-exact_logits(TRUTH).reshape(2, 6)))
    any_ = rng.binomial(N, rate[:, 0])
    s75 = rng.binomial(any_, rate[:, 1])
    week_8 = rng.binomial(s75, rate[:, 2]) + rng.binomial(any_ - s75, rate[:, 3])
    rescue = np.minimum(rng.binomial(N, rate[:, 5]), N - week_8)
    data = ArmData(ARMS, N, np.stack([week_8, any_, s75, rng.binomial(N, rate[:, 4]), rescue], axis=1))
    arms = [SimpleNamespace(name=name, population=load_library().population()) for name in ARMS]
    p = SimpleNamespace(prior=PRIOR, arms=arms, fitted=data, studies=())
    b = toy_bank(12_000, 4, pilots(2, 200, 0.4))
    found = bank_model.posterior(p, b, jax.random.key(0), warmup=200, draws=200)
    assert found.samples[EC50].shape == (4, 200) and found.courses == 24_000
    assert found.sample_stats["diverging"].mean() <= 0.01 and found.refused_share == found.edge_share == 0

    counts, link = arrays(data, 121), association(np.asarray(b.rho))
    grid = np.stack(np.meshgrid(np.linspace(-1.2, 1.2, 61), np.log(0.5) + np.linspace(-1.6, 1.6, 61)), -1).reshape(
        -1, 2
    )
    like = jax.vmap(lambda lo: log_likelihood(lo.reshape(2, 6), counts, link).sum())
    joint = np.asarray(like(np.array([exact_logits(t) for t in grid]))) + np.asarray(PRIOR.log_density(grid))
    weights = np.exp(joint - logsumexp(joint))
    mean = weights @ grid
    sd = np.sqrt(weights @ (grid - mean) ** 2)
    assert (sd < 0.7 * PRIOR.scale()).any()  # the counts tell something
    # a bank of some 7,000 effective patients moves a mean by sqrt(120 / 7,000) = 0.13 sd
    np.testing.assert_array_less(np.abs(found.coordinates.mean(0) - mean), 0.3 * sd)
    np.testing.assert_allclose(found.coordinates.std(0), sd, rtol=0.15)


def test_few_effective_patients_are_refused():
    b = toy_bank(2048, 5, pilots(3, spread=0.05))
    near, far = seen(b, TRUTH).effective, seen(b, TRUTH + np.array([2.5, 0])).effective
    assert near > 1500 and far < 50
    assert bank_model.refusal(near) == 0 and bank_model.refusal(far) < -12
    edge = jnp.asarray(bank_model.LEAST_EFFECTIVE)
    assert bank_model.refusal(edge) == 0 == jax.grad(bank_model.refusal)(edge)


def test_parameters_that_cannot_be_reweighted_are_named():
    with pytest.raises(InputError, match="target_baseline_nM: does not differ between individuals"):
        bank.reweighted(plan("target_baseline_nM", EC50))
    p = plan("max_stimulation")
    none = [a._replace(population=with_values(a.population, {"max_stimulation_iiv_log_sd": 0.0})) for a in p.arms]
    with pytest.raises(InputError, match="max_stimulation: its interindividual sd is 0"):
        bank.reweighted(p._replace(arms=none))
    root = np.eye(13)
    root[6, 4], root[6, 6] = 0.6, 0.8  # production with maximal stimulation
    linked = [a._replace(population=a.population._replace(correlation_cholesky=jnp.asarray(root))) for a in p.arms]
    with pytest.raises(InputError, match="max_stimulation: its random effect is correlated"):
        bank.reweighted(p._replace(arms=linked))
    assert bank.reweighted(plan(EC50)._replace(arms=linked)).names == (EC50,)
    with pytest.raises(InputError, match="patients = 1 of each pilot"):
        bank.fill(p, np.zeros((4, 1)), 1)


def test_what_is_reweighted():
    found = bank.reweighted(plan("residual_log_sd", EC50_SD))
    assert found.names == (EC50, "residual_log_sd")
    assert found.medians == (27.0, None) and found.log_sds == (None, pytest.approx(0.2))
    mean, sd = found.law({"residual_log_sd": np.array([0.1, 0.3]), EC50_SD: np.array([0.5, 0.7])})
    np.testing.assert_allclose(np.exp(mean), [[27, 27], [0.1, 0.3]])
    np.testing.assert_allclose(sd, [[0.5, 0.7], [0.2, 0.2]], rtol=1e-6)


@pytest.mark.slow
def test_steps_from_the_prior():
    """Small sizes, two free parameters: good effective numbers, and the prior narrowed."""
    p = plan(EC50, EC50_SD)
    settings = {"pilots": 64, "first": 64, "patients": 128, "warmup": 60, "draws": 60}
    found = bank_model.fit(p, jax.random.key(0), **settings)
    assert found.courses == 64 * (64 + 64 + 128) * 3 and found.refused_share == 0
    assert np.median(found.effective) > 2000
    assert found.coordinates[:, 0].std() < 0.5 * p.prior.scale()[0]
