"""The fit itself, small: four free parameters, few patients. Reproducible, resumable, honest about its verdict."""

import numpy as np
import pytest

from inference import correction, population, rounds, store
from inference.config import load
from inference.moments import moments
from inference.progress import silent
from pkpd.errors import InputError

FREE = ("receptor_ec50_nM", "production_1e9_per_l_per_h", "residual_log_sd", "rescue_max_probability_per_week")
SMALL = [
    "rounds=[{vectors=96,patients=64},{vectors=64,patients=96}]",
    "sampler={chains=2,warmup=100,draws=100}",
    "predictive={draws=20,patients=64}",
    "replicates=1",
    "refine={patients=0,cubic=0}",
    "correction.draws=0",
]


@pytest.fixture(scope="module")
def config():
    everything = population.plan(load()).prior.names
    fixed = [name for name in everything if name not in FREE]
    return load(None, [*SMALL, "fix=[" + ", ".join(f'"{name}"' for name in fixed) + "]"])


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    figures = population.fit(config, folder, silent)
    return folder, figures, store.FitResult(*_saved(folder))


def _saved(folder):
    (folder / "manifest.json").write_text("{}")
    return store.load(folder)


def test_a_small_fit_says_that_it_is_not_final(whole):
    _, figures, result = whole
    assert figures["verdict"] != "final" and figures["reasons"]
    assert set(result.posterior) == set(FREE)
    assert result.posterior["receptor_ec50_nM"].shape == (2, 100)
    assert len(result.rounds) == 2 and result.rounds[1]["vectors"] == 64
    assert result.posterior_predictive.shape == (20, 3, 5) and result.prior_predictive.shape == (20, 3, 5)


def test_the_data_narrow_what_they_speak_of(whole):
    _, _, result = whole
    name = "rescue_max_probability_per_week"  # 71 rescues of 424 speak of nothing else
    assert np.log(result.posterior[name]).std() < 0.8 * np.log(result.prior[name]).std()


def test_an_interrupted_fit_goes_on_where_it_was_to_the_same_posterior(config, whole, tmp_path):
    stop_in = "round 2: simulation"

    def interrupt(stage, done, total):
        if stage == stop_in and done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        population.fit(config, tmp_path, interrupt)
    assert (tmp_path / "checkpoint/run-1/round-1.npz").exists()
    assert len(list((tmp_path / "checkpoint/run-1/round-2/simulation").glob("*.npz"))) >= 1
    stages = []
    population.fit(config, tmp_path, lambda stage, done, total: stages.append(stage))
    assert "round 1: simulation" not in stages
    resumed = store.FitResult(*_saved(tmp_path))
    for name in FREE:
        assert np.array_equal(resumed.posterior[name], whole[2].posterior[name])
    assert np.array_equal(resumed.posterior_predictive, whole[2].posterior_predictive)


def test_ten_interruptions_change_no_bit(config, whole, tmp_path):
    """Stopped ten times anywhere, the last time with a damaged piece: the same bytes of posterior.nc."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        calls = iter(range(int(rng.integers(0, 4))))

        def interrupt(stage, done, total, calls=calls):
            if "predictive" not in stage and next(calls, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            population.fit(config, tmp_path, interrupt)
    pieces = sorted((tmp_path / "checkpoint").rglob("*.npz"))
    pieces[-1].write_bytes(pieces[-1].read_bytes()[:-40])
    population.fit(config, tmp_path, silent)
    assert (tmp_path / "posterior.nc").read_bytes() == (whole[0] / "posterior.nc").read_bytes()


def test_a_correction_that_moves_the_means_leads_to_a_further_round_and_then_to_its_draws(
    config, monkeypatch, tmp_path
):
    """Every correction puts its weight on the draws above the median of one parameter: the answer must end there."""
    asked = config.model_copy(update={"correction": config.correction.model_copy(update={"draws": 400})})
    seen = []

    def above(p, fits, key, number, progress, keep):
        draws = fits[0].samples["residual_log_sd"].reshape(-1)
        seen.append((number, draws.mean(), [row["further"] for row in fits[0].rounds]))
        chosen = np.flatnonzero(draws > np.median(draws))
        log_weights = np.full(len(chosen), -np.log(len(chosen)))
        return correction.Correction(chosen, log_weights, 0.1, 450.0, {"residual_log_sd": 0.8})

    monkeypatch.setattr(correction, "correct", above)
    figures = population.fit(asked, tmp_path, silent)
    result = store.FitResult(*_saved(tmp_path))
    assert [(number, further) for number, _, further in seen] == [(0, [0, 0]), (1, [0, 0, 1])]
    assert result.posterior["residual_log_sd"].min() > seen[1][1] * 0.9 and not result.correction
    assert figures["answer"] == "weighted draws" and figures["ess_bulk_min"] <= 450
    assert not any("shift" in reason for reason in figures["reasons"])


def test_rounds_grow_with_the_error_and_stop_at_the_limit():
    config = load(None, ["rounds=[{vectors=1000,patients=100}]", "refine={surface_error=0.1,patients=1000000}"])
    row = {"vectors": 1000, "patients": 100, "further": 0}
    assert rounds.next_round(config, []).vectors == 1000
    grown = rounds.next_round(config, [row | {"surface_error_rms": 0.15}])
    assert grown.vectors == 4000 and grown.patients == 100  # (0.15/(0.75 0.1))^2
    assert rounds.next_round(config, [row | {"surface_error_rms": 0.101}]).vectors == 2000  # twice at least
    assert rounds.next_round(config, [row | {"surface_error_rms": 5.0}]).vectors == 8000  # eight times at most
    enough = row | {"surface_error_rms": 0.09}
    assert rounds.next_round(config, [enough]) is None
    largest = row | {"vectors": 10_000, "surface_error_rms": 0.5}
    assert rounds.next_round(config, [largest]) is None
    assert rounds.next_round(config, [enough], further=1).vectors == 2000
    assert rounds.next_round(config, [enough, enough | {"further": 1}], further=1) is None


def test_an_arm_left_out_is_predicted_but_not_fitted(config, tmp_path):
    without = config.model_copy(update={"data": config.data.model_copy(update={"leave_out": ("placebo",)})})
    p = population.plan(without)
    assert p.fitted.arms == ("start 2.5 mg", "start 5 mg") and len(p.arms) == 3


def test_an_unknown_arm_is_refused():
    with pytest.raises(InputError, match="unknown arm 'plcebo'; did you mean 'placebo'"):
        population.plan(load(None, ['data.leave_out=["plcebo"]']))


def test_prior_only_fits_nothing(config, tmp_path):
    figures = population.fit(config.model_copy(update={"prior_only": True}), tmp_path, silent)
    result = store.FitResult(*_saved(tmp_path))
    assert figures["verdict"] == "preliminary" and result.prior_only and not any(result.fitted)
    spread = np.quantile(result.prior_predictive[:, 0, 0], [0.025, 0.975])
    assert spread[1] - spread[0] > 30


def test_a_free_correlation_reaches_the_patients():
    """Potency and stimulation against each other: few respond to one and not at all to the other, or all alike."""
    p = population.plan(load(None, ['omega.blocks=[["receptor_ec50_nM","max_stimulation"]]']))
    values = {n: np.full(2, p.library.value(n)) for n in p.prior.names if not n.startswith("correlation")}
    values |= {"receptor_ec50_nM_iiv_log_sd": np.full(2, 1.0), "max_stimulation_iiv_log_sd": np.full(2, 0.8)}
    values["correlation[receptor_ec50_nM,max_stimulation]"] = np.array([-0.95, 0.95])
    mean, _ = moments(p, values, 8192, 900, 0, silent, "")
    same = {**values, "correlation[receptor_ec50_nM,max_stimulation]": np.zeros(2)}
    none, _ = moments(p, same, 8192, 900, 0, silent, "")
    assert np.abs(mean[0] - mean[1])[:2].max() > 0.03
    without = population.plan(load())
    plain, _ = moments(without, {n: v for n, v in values.items() if "[" not in n}, 8192, 900, 0, silent, "")
    np.testing.assert_allclose(none, plain, atol=1e-3)
