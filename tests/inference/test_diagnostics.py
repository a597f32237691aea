"""Figures of the chains and the verdict: every criterion from both sides, what was not measured, what is hopeless."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from inference.diagnostics import CRITERIA, chain_figures, figures, runs_difference, verdict
from inference.surface import SurfaceError

PERFECT = {
    "rhat_max": 1.001,
    "ess_bulk_min": 3000.0,
    "ess_tail_min": 2000.0,
    "mcse_max_in_sd": 0.018,
    "divergent_share": 0.0,
    "bfmi_min": 0.9,
    "outside_share": 0.0,
    "solver_failures": 0,
    "surface_error_rms": 0.08,
    "runs_difference": 0.6,
    "khat": 0.4,
    "correction_ess": 900.0,
    "correction_shift_in_sd": 0.1,
}


def chains(seed, shift=0.0, draws=1000):
    rng = np.random.default_rng(seed)
    return {"a": rng.standard_normal((4, draws)), "b": 5 + 2 * rng.standard_normal((4, draws)) + shift}


def statistics(diverging=0, draws=1000):
    flags = np.zeros((4, draws), bool)
    flags.flat[:diverging] = True
    ones = np.ones((4, draws))
    return {
        "diverging": flags,
        "energy": np.random.default_rng(0).standard_normal((4, draws)),
        "acceptance_rate": 0.9 * ones,
        "tree_depth": (3 * ones).astype(int),
        "step_size": 0.5 * ones,
        "n_steps": (7 * ones).astype(int),
    }


def test_a_perfect_fit_is_final():
    assert set(PERFECT) == {c.name for c in CRITERIA}
    assert verdict(PERFECT) == ("final", [])


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("rhat_max", 1.0099, 1.01),
        ("ess_bulk_min", 2000, 1999),
        ("ess_tail_min", 400, 399),
        ("mcse_max_in_sd", 0.025, 0.0251),
        ("divergent_share", 0.0, 0.001),
        ("bfmi_min", 0.3, 0.29),
        ("outside_share", 0.01, 0.02),
        ("solver_failures", 0, 1),
        ("surface_error_rms", 0.1, 0.101),
        ("runs_difference", 1.0, 1.01),
        ("khat", 0.699, 0.7),
        ("correction_ess", 400, 399),
        ("correction_shift_in_sd", 0.15, 0.151),
    ],
)
def test_each_criterion_from_both_sides(name, good, bad):
    assert verdict({**PERFECT, name: good}) == ("final", [])
    word, reasons = verdict({**PERFECT, name: bad})
    assert word == "preliminary"
    assert len(reasons) == 1
    word, reasons = verdict({**PERFECT, name: None})
    assert word == "preliminary"
    assert reasons[0].endswith("was not measured")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rhat_max", 1.2),
        ("ess_bulk_min", 50),
        ("divergent_share", 0.02),
        ("rhat_max", float("nan")),
        ("bfmi_min", 0.05),
    ],
)
def test_what_is_hopeless_fails(name, value):
    word, reasons = verdict({**PERFECT, name: value})
    assert word == "failed"
    assert len(reasons) == 1


def test_a_correction_that_is_off_does_not_fail_the_fit():
    assert verdict({**PERFECT, "khat": 3.0, "correction_ess": 2.0})[0] == "preliminary"


def test_the_prior_alone_is_preliminary():
    word, reasons = verdict(figures([], prior_only=True))
    assert word == "preliminary"
    assert reasons == ["only the prior was drawn: nothing was fitted"]


def test_figures_of_good_chains():
    found = chain_figures(chains(0), statistics())
    assert found["rhat_max"] < 1.01
    assert found["ess_bulk_min"] > 3000
    assert found["mcse_max_in_sd"] < 0.02
    assert found["divergences"] == 0
    assert found["leapfrog_steps"] == 7 * 4000


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a chain that never moves has no R-hat
def test_figures_of_bad_chains():
    apart = chains(1)
    apart["a"][0] += 3
    found = chain_figures(apart, statistics(diverging=100))
    assert found["rhat_max"] > 1.1
    assert found["divergences"] == 100
    assert verdict({**PERFECT, **found})[0] == "failed"
    stuck = {**chains(2), "a": np.ones((4, 1000))}
    assert verdict({**PERFECT, **chain_figures(stuck, statistics())})[0] == "failed"


def test_figures_of_a_fit():
    surface = SimpleNamespace(centre=np.zeros(2), whiten=np.eye(2), radius=2.0, effective_terms=np.array([3.0, 5.0]))
    far = np.array([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0], [0.0, -2.5]])
    error, logits = SurfaceError(0.12, 0.01, np.zeros((3, 5)), 1.1), np.zeros((4, 1000, 3, 6))
    fit = SimpleNamespace(
        samples=chains(3), sample_stats=statistics(), coordinates=far, surface=surface, error=error, logits=logits
    )
    found = figures([fit], solver_failures=0)
    assert found["outside_share"] == 0.5
    assert found["surface_error_rms"] == 0.12
    assert found["solver_failures"] == 0
    assert found["khat"] is None
    word, reasons = verdict(found)
    assert word == "preliminary"
    assert "error of the surface, in sampling sds, is 0.12, not <= 0.1" in reasons
    assert "k-hat of the correction was not measured" in reasons


def test_difference_of_two_runs():
    ratio, in_sd = runs_difference(chains(4), chains(5))
    assert ratio < 1
    assert in_sd < 0.15
    ratio, in_sd = runs_difference(chains(4), chains(5, shift=1.0))
    assert ratio > 1
    assert in_sd == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("rhat_max", 1.0123, "R-hat is 1.012, not < 1.01"),
        ("rhat_max", 1.01, "R-hat is 1.01, not < 1.01"),
        ("ess_bulk_min", 1999.97, "bulk ESS is 1,999.97, not >= 2,000"),
        ("surface_error_rms", 0.1000004, "is 0.1000004, not <= 0.1"),
    ],
)
def test_a_figure_is_told_apart_from_the_limit_it_misses(name, value, told):
    assert told in verdict({**PERFECT, name: value})[1][0]
