"""The refits of the sensitivity benchmark: every one is a config that can be fitted, and moves what it says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import sensitivity
from inference import comparison
from inference.config import load, plan
from inference.priors import Lognormal
from pkpd.parameters import load_library
from tests.inference import made_up


def test_every_refit_is_another_good_config():
    library, default = load_library(), load()
    every = sensitivity.cases(library)
    assert next(iter(every)) == sensitivity.DEFAULT and len(every) > 40
    for name, settings in every.items():
        config = load(None, settings)
        plan(config)
        assert (config == default) == (name in (sensitivity.DEFAULT, sensitivity.ANOTHER_SEED))


def test_priors_move_by_their_own_sd():
    library = load_library()
    every = sensitivity.cases(library)
    moved = {
        e.name: e for e in plan(load(None, every["receptor_ec50_nM up"])).prior.elements if isinstance(e, Lognormal)
    }
    plain = {e.name: e for e in plan(load()).prior.elements if isinstance(e, Lognormal)}
    changed = [n for n in plain if moved[n] != plain[n]]
    assert changed == ["receptor_ec50_nM"]
    assert np.log(moved["receptor_ec50_nM"].centre / 27) == pytest.approx(0.7, abs=1e-5)
    kappa = plan(load(None, every["kappa_akt up"])).library.value("kappa_akt")
    assert np.log(kappa / 0.4) == pytest.approx(0.3, abs=1e-4)
    up = plan(load(None, every["share_survival up"])).library
    assert up.value("share_survival") == pytest.approx(0.2 + np.sqrt(0.2 * 0.8 / 41), abs=1e-5)
    ratio = up.value("share_proliferation") / up.value("share_maturation")
    assert ratio == pytest.approx(0.5 / 0.3, rel=1e-4)


def test_the_table_holds_the_changes():
    first = made_up.result(draws=60)
    more = first.posterior | {"max_stimulation": first.posterior["max_stimulation"] * 2}
    predicted = first.posterior_predictive.copy()
    predicted[:, 1, 0] = 90
    second = first._replace(posterior=more, posterior_predictive=predicted, diagnostics={"log_evidence": -3.0})
    runs = [comparison.Run(n, None, r, load()) for n, r in (("default", first), ("x", second))]
    found = sensitivity.table(runs, {"default": [], "x": ["a=1", "b=2"]}).set_index("case")
    assert found.loc["x", "settings"] == "a=1 b=2"
    before = np.quantile(first.posterior_predictive[:, 1, 0], 0.5, method="inverted_cdf")
    assert found.loc["x", "start 5 mg, change"] == pytest.approx(100 * (90 - before) / 171)
    assert found.loc["x", "start 2.5 mg, change"] == 0
    sd = np.log(first.posterior["max_stimulation"]).std()
    assert found.loc["x", "max_stimulation, moved"] == pytest.approx(np.log(2) / sd, rel=1e-4)
