"""The joint prior: densities against SciPy, draws against densities, coordinates there and back, overrides."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from inference.priors import Beta, Dirichlet, HalfNormal, JointPrior, Lkj, Lognormal, joint_prior
from inference.samplers.nuts import nuts_sampler
from pkpd.errors import InputError
from pkpd.parameters import load_library

MIXED = JointPrior(
    (
        Lognormal("potency", 27.0, 0.7),
        Beta("weight", 14.0, 6.0),
        Dirichlet(("first", "second", "third"), (20.0, 8.0, 12.0)),
        HalfNormal("spread", 0.2),
    )
)


@pytest.fixture(scope="module")
def library():
    return load_library()


def test_names_and_coordinates():
    assert MIXED.names == ("potency", "weight", "first", "second", "third", "spread")
    assert MIXED.coordinate_names == (
        "log potency",
        "logit weight",
        "log first/third",
        "log second/third",
        "log spread",
    )
    assert MIXED.dimension == 5


def test_draws_follow_their_distributions():
    drawn = MIXED.draws(jax.random.key(0), 20_000)
    laws = {
        "potency": stats.lognorm(0.7, scale=27.0),
        "weight": stats.beta(14, 6),
        "first": stats.beta(20, 20),
        "second": stats.beta(8, 32),
        "third": stats.beta(12, 28),
        "spread": stats.halfnorm(scale=0.2),
    }
    for name, law in laws.items():
        assert drawn[name].dtype == np.float64
        assert stats.kstest(drawn[name], law.cdf).pvalue > 1e-4, name
    np.testing.assert_allclose(drawn["first"] + drawn["second"] + drawn["third"], 1, rtol=1e-12)


def test_coordinates_there_and_back():
    drawn = MIXED.draws(jax.random.key(1), 50)
    u = MIXED.unconstrained(drawn)
    assert u.shape == (50, 5)
    for name, values in MIXED.constrained(u).items():
        np.testing.assert_allclose(values, drawn[name], rtol=1e-9)


def test_location_and_scale_are_the_prior_moments():
    u = np.asarray(MIXED.unconstrained(MIXED.draws(jax.random.key(2), 40_000)))
    error = MIXED.scale() / np.sqrt(len(u))
    assert (np.abs(u.mean(0) - MIXED.location()) < 5 * error).all()
    np.testing.assert_allclose(u.std(0), MIXED.scale(), rtol=0.04)


def test_density_against_scipy():
    # On the natural scale the density is SciPy's; the coordinates add the Jacobian.
    x = {"potency": 20.0, "weight": 0.6, "first": 0.4, "second": 0.25, "third": 0.35, "spread": 0.15}
    u = MIXED.unconstrained({name: jnp.asarray(value) for name, value in x.items()})
    expected = (
        stats.lognorm(0.7, scale=27.0).logpdf(20.0)
        + math.log(20.0)
        + stats.beta(14, 6).logpdf(0.6)
        + math.log(0.6 * 0.4)
        + stats.dirichlet([20, 8, 12]).logpdf([0.4, 0.25, 0.35])
        + math.log(0.4 * 0.25 * 0.35)
        + stats.halfnorm(scale=0.2).logpdf(0.15)
        + math.log(0.15)
    )
    assert float(MIXED.log_density(u)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("element", [Lognormal("x", 3.0, 0.4), Beta("x", 2.0, 5.0), HalfNormal("x", 0.2)])
def test_density_integrates_to_one(element):
    prior = JointPrior((element,))
    middle, sd = float(prior.location()[0]), float(prior.scale()[0])
    total, _ = integrate.quad(
        lambda u: float(jnp.exp(prior.log_density(jnp.array([u])))), middle - 12 * sd, middle + 12 * sd, limit=200
    )
    assert total == pytest.approx(1.0, abs=1e-6)


def test_nuts_on_the_prior_alone_gives_the_prior():
    # The latent vector is standard normal for lognormals; the others need the shape factor.
    run = nuts_sampler(lambda: MIXED.sample(), warmup=200, draws=1000).run
    result = run(jax.random.key(5), {"prior_z": jnp.zeros((4, 5))})
    assert result.sample_stats["diverging"].mean() < 0.005  # the log of a half-normal has a sharp right flank
    for name, law in {
        "potency": stats.lognorm(0.7, scale=27.0),
        "weight": stats.beta(14, 6),
        "second": stats.beta(8, 32),
        "spread": stats.halfnorm(scale=0.2),
    }.items():
        thinned = result.samples[name][:, ::4].ravel()
        assert stats.kstest(thinned, law.cdf).pvalue > 1e-4, name


def test_default_prior_is_the_free_parameters_of_the_library(library):
    prior = joint_prior(library)
    assert prior.names == library.free_names()
    assert prior.dimension == 26
    potency = next(e for e in prior.elements if e.name == "receptor_ec50_nM")
    assert potency == Lognormal("receptor_ec50_nM", library.value("receptor_ec50_nM"), 0.7)
    assert hash(prior) == hash(joint_prior(library))


def test_a_draw_does_not_depend_on_what_else_is_free(library):
    key = jax.random.key(9)
    all_free = joint_prior(library).draws(key, 5)
    fewer = joint_prior(library, {"clearance_l_per_h": {"free": False}}).draws(key, 5)
    assert "clearance_l_per_h" not in fewer
    np.testing.assert_array_equal(all_free["receptor_ec50_nM"], fewer["receptor_ec50_nM"])


def test_overrides(library):
    prior = joint_prior(
        library,
        {
            "receptor_ec50_nM": {"centre": 18.0, "log_sd": 0.5},
            "dimer_hill": {"log_sd": 0.2},
            "kappa_stat3": {"free": True},
            "stat5_weight": {"free": True},
            "stimulation_shares": {"free": True, "concentration": 60.0},
        },
    )
    by_name = {e.names if isinstance(e, Dirichlet) else e.name: e for e in prior.elements}
    assert by_name["receptor_ec50_nM"] == Lognormal("receptor_ec50_nM", 18.0, 0.5)
    assert by_name["dimer_hill"] == Lognormal("dimer_hill", 1.0, 0.2)
    assert by_name["kappa_stat3"].log_sd == library.entry("kappa_stat3").prior.log_sd
    assert by_name["stat5_weight"] == Beta("stat5_weight", 14.0, 6.0)
    shares = ("share_proliferation", "share_survival", "share_maturation")
    np.testing.assert_allclose(by_name[shares].alphas, [60 * library.value(n) for n in shares])
    assert prior.dimension == 26 + 1 + 1 + 1 + 2


def test_doubling_spares_what_is_published(library):
    before = {e.name: e.log_sd for e in joint_prior(library).elements}
    after = {e.name: e.log_sd for e in joint_prior(library, tuned_log_sd_factor=2.0).elements}
    for name in ("clearance_l_per_h", "central_volume_l", "mean_transit_time_h", "clearance_l_per_h_iiv_log_sd"):
        assert after[name] == before[name]
    for name in ("receptor_ec50_nM", "max_stimulation", "residual_log_sd", "receptor_ec50_nM_iiv_log_sd"):
        assert after[name] == 2 * before[name]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"receptor_ec51_nM": {"log_sd": 1.0}},
            "unknown parameter 'receptor_ec51_nM'; did you mean 'receptor_ec50_nM'",
        ),
        ({"receptor_ec50_nM": {"logsd": 1.0}}, "unknown key 'logsd' for a lognormal prior; did you mean 'log_sd'"),
        ({"receptor_ec50_nM": {"log_sd": -1.0}}, r"log_sd = -1.0; legal: a finite number above 0"),
        ({"receptor_ec50_nM": {"log_sd": float("inf")}}, r"log_sd = inf; legal"),
        ({"receptor_ec50_nM": {"log_sd": True}}, r"log_sd = True; legal"),
        ({"receptor_ec50_nM": {"free": "yes"}}, r"free = 'yes'; legal: true or false"),
        ({"receptor_ec50_nM": {"centre": -3.0}}, r"receptor_ec50_nM"),
        ({"receptor_ec50_nM": 3.0}, r"receptor_ec50_nM = 3.0; legal: a table"),
        ({"dimer_hill": {"free": True}}, r"dimer_hill: has no prior: give log_sd to free it"),
        ({"immune_log_activity": {"log_sd": 0.3}}, r"cannot be the centre of a lognormal prior"),
        ({"share_survival": {"free": True}}, r"belongs to the group 'stimulation_shares'"),
        ({"stimulation_shares": {"centre": 0.3}}, r"centre is for one parameter"),
        ({"stat5_weight": {"free": True, "log_sd": 0.3}}, r"unknown key 'log_sd' for a beta prior"),
        ({"between_study_shift": {"free": True}}, r"needs at least two studies; legal: false"),
    ],
)
def test_bad_overrides(library, overrides, message):
    with pytest.raises(InputError, match=message):
        joint_prior(library, overrides)


def test_bad_factor_and_missing_value(library):
    with pytest.raises(InputError, match="tuned_log_sd_factor = 0"):
        joint_prior(library, tuned_log_sd_factor=0)
    with pytest.raises(InputError, match="no value for the free parameter 'weight'"):
        MIXED.unconstrained({"potency": 1.0})


def test_between_study_spread_with_two_studies(library):
    prior = joint_prior(library, {"between_study_shift": {"free": True}}, studies=2)
    assert prior.elements[-1] == HalfNormal("between_study_shift", 0.2)


BLOCK = ("clearance_l_per_h", "central_volume_l", "receptor_ec50_nM", "max_stimulation")


def test_an_lkj_block_has_its_marginals():
    """Each correlation of a k x k LKJ(c) matrix is 2 B - 1, B ~ Beta(b, b) with b = c + (k - 2)/2, in any pair."""
    drawn = JointPrior((Lkj(BLOCK, 1.5),)).draws(jax.random.key(0), 20_000)
    assert len(drawn) == 6 and "correlation[clearance_l_per_h,max_stimulation]" in drawn
    for name, values in drawn.items():
        assert stats.kstest((values + 1) / 2, stats.beta(2.5, 2.5).cdf).pvalue > 1e-3, name


def test_lkj_coordinates_go_forth_and_back_and_their_density_is_one():
    prior = JointPrior((Lkj(BLOCK[:3], 2.0),))
    drawn = prior.draws(jax.random.key(1), 200)
    u = prior.unconstrained(drawn)
    for name, values in prior.constrained(u).items():
        np.testing.assert_allclose(values, drawn[name], atol=1e-9)
    matrix = np.stack([np.eye(3)] * 200)
    for (i, j), values in zip(Lkj(BLOCK[:3], 2.0).pairs, drawn.values(), strict=True):
        matrix[:, i, j] = matrix[:, j, i] = values
    assert np.linalg.eigvalsh(matrix).min() > 0
    # density of the matrix times the volume of the map from coordinates: det(R)^(c - 1) |dR/du|, up to a constant
    jacobian = jax.vmap(jax.jacobian(lambda x: jnp.stack(list(prior.constrained(x).values()))))(u)
    volume = np.linalg.slogdet(jacobian)[1]
    constant = np.asarray(prior.log_density(u)) - np.linalg.slogdet(matrix)[1] - volume
    np.testing.assert_allclose(constant, constant[0], atol=1e-8)
    np.testing.assert_allclose(np.asarray(u).std(0), prior.scale(), rtol=0.15)


def test_two_by_two_is_a_beta():
    prior = JointPrior((Lkj(BLOCK[:2], 3.0),))
    grid = jnp.linspace(-6, 6, 4001)
    density = np.exp(np.asarray(prior.log_density(grid[:, None])))
    assert abs(np.trapezoid(density, grid) - 1) < 1e-6
