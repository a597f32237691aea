"""Multiple imputation of what is fixed: the draws, the variances against Rubin's rules, and a small fit."""

import jax
import numpy as np
import pytest
from test_population import FREE, SMALL

from inference import imputation, population, store
from inference.config import load
from inference.progress import silent
from inference.trials import posterior_draws
from pkpd.errors import InputError


def test_between_and_within_are_rubins():
    rng = np.random.default_rng(0)
    centres = np.array([0.0, 0.4, -0.1, 0.3])
    x = np.exp(centres.repeat(2)[:, None] + 0.2 * rng.standard_normal((8, 4000)))
    table = imputation.variances({"receptor_ec50_nM": x}, np.repeat(np.arange(1, 5), 2)).iloc[0]
    assert table["scale"] == "log" and table["unit"] == "nM"
    assert abs(table["within_sd"] - 0.2) < 0.005
    between = 1.25 * centres.var(ddof=1)
    assert abs(table["between_sd"] - between**0.5) < 0.01
    assert abs(table["between_share"] - between / (between + 0.04)) < 0.02


def test_what_is_fixed_is_drawn_from_its_prior():
    p = population.plan(load())
    drawn = imputation.draws(p.library, p.prior, 4000, jax.random.key(0))
    assert not set(drawn) & set(p.prior.names)
    assert {"quasi_steady_state_constant_nM", "stat5_weight", "share_survival", "kappa_erk"} <= set(drawn)
    assert "bioavailability" not in drawn  # no prior: fixed whatever happens
    log = np.log(drawn["quasi_steady_state_constant_nM"])
    assert abs(log.mean() - np.log(p.library.value("quasi_steady_state_constant_nM"))) < 0.02
    assert abs(log.std() - 0.3) < 0.02
    shares = sum(drawn[f"share_{of}"] for of in ("proliferation", "survival", "maturation"))
    np.testing.assert_allclose(shares, 1)
    fixed = population.plan(load(None, ['fix=["clearance_l_per_h"]']))
    assert "clearance_l_per_h" in imputation.fixed_with_prior(fixed.library, fixed.prior)


def test_refits_differ_in_seed_and_fixed_values_only():
    config = load(None, ["imputations=3"])
    p = population.plan(config)
    drawn = imputation.draws(p.library, p.prior, 3, jax.random.key(0))
    each = imputation.configs(config, drawn, jax.random.key(1))
    assert len({c.seed for c in each}) == 3 and all(c.imputations == 0 for c in each)
    assert [c.parameters["kappa_erk"] for c in each] == pytest.approx(drawn["kappa_erk"].tolist())
    assert population.plan(each[0]).prior == p.prior


def test_one_imputation_is_refused():
    with pytest.raises(InputError, match="imputations = 1: one tells nothing of the variance between"):
        load(None, ["imputations=1"])


def test_a_small_fit_pools_its_refits(tmp_path):
    everything = population.plan(load()).prior.names
    fixed = ", ".join(f'"{name}"' for name in everything if name not in FREE)
    config = load(None, [*SMALL, "rounds=[{vectors=64,patients=32}]", f"fix=[{fixed}]", "imputations=2"])
    figures = population.fit(config, tmp_path, silent)
    (tmp_path / "manifest.json").write_text("{}")
    result = store.load(tmp_path)
    assert result.posterior["residual_log_sd"].shape == (4, 100) and figures["imputations"] == 2
    assert result.imputed["imputation"].tolist() == [1, 1, 2, 2]
    clearance = result.imputed["clearance_l_per_h"]
    assert clearance[0] == clearance[1] != clearance[2]
    table = (tmp_path / "imputations.csv").read_text()
    assert table.startswith(
        "parameter,unit,scale,within_sd,between_sd,total_sd,between_share\nreceptor_ec50_nM,nM,log,"
    )
    drawn = posterior_draws(tmp_path, 40)
    assert set(np.unique(drawn["clearance_l_per_h"])) == set(clearance)
    assert np.isfinite(store.summary(result)["rhat"]).all()
