"""Models that a config makes: a Hill coefficient that is estimated, non-responders."""

from __future__ import annotations

import numpy as np
import pytest

from inference import population, store
from inference.cli import main
from inference.config import load, plan
from inference.priors import Beta
from pkpd.parameters import load_library
from tests.inference.test_population import FREE, SMALL

FREED = ['free=["non_responder_share", "dimer_hill"]', "priors.dimer_hill.log_sd=0.3"]


def test_a_hill_coefficient_that_may_vary_has_the_form_that_reads_it():
    assert population.plan(load()).form.hill_is_one
    assert not population.plan(load(None, FREED)).form.hill_is_one
    assert not population.plan(load(None, ["parameters.dimer_hill=2"])).form.hill_is_one
    assert not population.plan(load(None, ["priors.dimer_hill={free=true,log_sd=0.2}"])).form.hill_is_one


def test_the_share_of_non_responders_has_its_prior_where_a_config_frees_it():
    assert "non_responder_share" not in plan(load()).prior.names
    assert plan(load(None, FREED)).prior.elements[-1] == Beta("non_responder_share", 1.5, 8.5)
    changed = load(None, ["priors.non_responder_share={free=true,alpha=2,beta=6}"])
    assert plan(changed).prior.elements[-1] == Beta("non_responder_share", 2.0, 6.0)
    assert plan(load(None, ["parameters.non_responder_share=0.19"])).library.value("non_responder_share") == 0.19


@pytest.mark.slow
def test_both_are_estimated(tmp_path):
    """And the report, whose curves are of a typical patient, can be made of such a run."""
    fixed = [n for n in plan(load()).prior.names if n not in FREE[:2]]
    settings = [*SMALL, *FREED, "fix=[" + ", ".join(f'"{n}"' for n in fixed) + "]"]
    out = tmp_path / "run"
    assert main(["fit", "--out", str(out), *(x for s in settings for x in ("--set", s))]) in (0, 1)
    result = store.load(out)
    assert set(result.posterior) == {*FREE[:2], "dimer_hill", "non_responder_share"}
    share = result.posterior["non_responder_share"]
    assert 0 < share.min() and share.max() < 1 and np.ptp(result.posterior["dimer_hill"]) > 0.1
    assert share.mean() < load_library().priors["non_responder_share"].alpha / 10, "most patients respond"
    assert "non_responder_share" in (out / "report.html").read_text()
