"""Running summaries: against the patients themselves, cut anywhere, on any devices and threads, in flat memory."""

import itertools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pkpd
from pkpd import devices, endpoints, streaming, trial
from pkpd.errors import InputError
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario

DAYS = (7, 14, 28)
N = 3000


@pytest.fixture(scope="module")
def arm():
    planned = planned_arms(load_scenario("phase3"))[1]
    return planned._replace(arm=planned.arm._replace(dropout_hazard_per_week=np.float32(0.02)))


@pytest.fixture(scope="module")
def patients(arm):
    parts = list(trial.simulate(arm.population, arm.arm, DAYS, 1, range(N)))
    return jax.tree.map(lambda *x: np.concatenate(x, -1), *parts)


def summary(arm, numbers):
    return streaming.summarise(trial.roster(arm.population, numbers), arm.arm, DAYS, 1)


@pytest.fixture(scope="module")
def summed(arm):
    return summary(arm, range(N))


def observed(v):
    return np.concatenate([v.baseline[None], v.platelets_observed]).astype(float)


def test_counts_are_those_of_the_patients(patients, summed, arm):
    v = patients
    events = np.asarray(endpoints.events(v.platelets_observed, v.baseline, v.rescued)).astype(int)
    assert np.array_equal(summed.events, events @ events.T)
    assert summed.patients == N and summed.failed == 0 and summed.events.dtype == np.int64
    response = np.asarray(endpoints.response(v.platelets_observed, v.rescued))
    states = (response, v.interrupted, v.stopped, v.rescued, v.dropped)
    assert np.array_equal(summed.states, [x.sum(1) for x in states])
    levels = [0.0, *arm.arm.rule.levels_mg]
    assert np.array_equal(summed.doses, [[(row == mg).sum() for mg in levels] for row in v.dose_mg])
    assert v.dropped.any() and np.array_equal(summed.platelets_observed.sum(1), np.isfinite(observed(v)).sum(1))


def test_quantiles_and_moments_are_within_the_stated_error(patients, summed):
    q = np.array([0.0, 0.025, 0.25, 0.5, 0.75, 0.975, 1.0])
    for name in ("platelets_observed", "cmax_ng_per_ml", "trough_ng_per_ml"):
        x = getattr(patients, name).astype(float)
        histogram = getattr(summed, name)[-len(x) :]
        for found, mean, sd, row in zip(
            streaming.quantiles(histogram, q), *streaming.moments(histogram), x, strict=True
        ):
            row = row[np.isfinite(row)]
            expected = np.quantile(row, q, method="inverted_cdf")
            expected[expected < streaming.LOWEST] = 0
            assert np.allclose(found, expected, rtol=0.004, atol=0)
            assert mean == pytest.approx(row.mean(), rel=3e-4) and sd == pytest.approx(row.std(ddof=1), rel=1e-3)


def test_covariance_of_log_counts_is_that_of_the_patients_seen_twice(patients, summed):
    x = np.ma.masked_invalid(np.log(observed(patients)))
    assert np.allclose(streaming.log_covariance(summed), np.ma.cov(x, allow_masked=True), atol=1e-3)


def test_products_of_a_group_fit_their_type():
    assert streaming.REACH**2 * streaming.GROUP < 2**31
    assert devices.TILE % streaming.GROUP == 0 and devices.GPU_TILE % streaming.GROUP == 0


def test_bins_of_extremes():
    histogram = np.asarray(streaming._histogram(jnp.array([[0.0, 1e-3, 0.011, 50, 2e6, np.nan, 7]]), np.arange(7) < 6))
    assert histogram.sum() == 5 and histogram[0, 0] == 2 and histogram[0, -1] == 1
    assert streaming.quantiles(histogram, np.array([0.1, 1.0])).tolist() == [[0.0, np.inf]]
    nobody = np.zeros_like(histogram)
    assert np.isnan(streaming.quantiles(nobody, np.array([0.5]))).all() and np.isnan(streaming.moments(nobody)).all()


def test_parts_cut_anywhere_add_up_to_the_whole(arm, summed):
    for cuts in ([2048], [1, 700, 2999]):
        edges = [0, *cuts, N]
        parts = [summary(arm, range(a, b)) for a, b in itertools.pairwise(edges)]
        total = parts[0]
        for part in reversed(parts[1:]):  # in any order
            total = streaming.merge(total, part)
        assert all(np.array_equal(a, b) for a, b in zip(total, summed, strict=True))


def test_failed_patients_are_in_no_other_number(patients):
    ill = patients._replace(failed=np.arange(N) % 3 == 0)
    levels = jnp.asarray([2.5, 3.75, 5, 7.5], jnp.float32)
    whole = streaming.of_tile(ill, N, levels, -1)
    well = streaming.of_tile(only(patients, ~ill.failed), 2 * N // 3, levels, -1)
    assert whole.failed == N // 3 and whole.patients == 2 * N // 3
    for name in ("events", "states", "doses", *streaming.HISTOGRAMS):
        assert np.array_equal(getattr(whole, name), getattr(well, name))
    assert np.array_equal(whole.products.sum(0), well.products.sum(0))


def only(v, there):
    return jax.tree.map(lambda leaf: leaf[..., there], v)


def test_a_summary_of_a_scenario_is_of_the_patients_of_its_simulation():
    scenario = load_scenario("phase3")
    dataset = pkpd.summarise_scenario(scenario, seed=3, patients=500)
    shares = pkpd.endpoint_table(pkpd.simulate_scenario(scenario, seed=3, patients=500))
    assert np.array_equal(dataset["endpoint_share"].values.ravel(), shares["share"].values)
    assert np.allclose(dataset["endpoint_mc_se"].values.ravel(), shares["mc_se"].values)
    assert dataset["cmax_ng_per_ml_mean"].attrs["units"] == "ng/mL"
    assert np.allclose(dataset["dose_share"].sum("dose_mg")[:, 1:], 1)
    table = pkpd.summary_table(dataset)
    assert set(table["unit"]) == {"", "1e9/L", "ng/mL", "ng h/mL"} and table["value"].notna().all()
    row = table.set_index(["arm", "quantity", "of"]).loc[("start 5 mg", "endpoint_share", "response_week_8")]
    assert row["value"].item() == shares.loc[("start 5 mg", "response_week_8"), "share"]


INVARIANCE = """
    import hashlib, os, sys, jax, numpy as np
    from pkpd import devices, streaming, trial
    from pkpd.planned import planned_arms
    from pkpd.scenario import load_scenario
    arm = planned_arms(load_scenario("phase3"))[1]
    engine, runs = sys.argv[1], sys.argv[2:]
    def digest(leaves):
        return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in leaves)).hexdigest()
    for run in runs:
        many, _, tile = run.partition("/")
        devices.TILE = int(tile or 2048)
        if len(jax.devices()) == 1:
            os.environ["PKPD_THREADS"] = many
        else:
            devices.workers = lambda: jax.devices()[: int(many)]
        people = trial.roster(arm.population, range(9000))
        parts = list(trial.visits_of(people, arm.arm, (7, 14), 3, engine=engine))
        whole = jax.tree.leaves(jax.tree.map(lambda *leaves: np.concatenate(leaves, -1), *parts))
        total = streaming.summarise(people, arm.arm, (7, 14), 3, engine=engine)
        print(len(devices.workers()), len(parts), digest(whole), digest(total))
"""


def invariance(engine, host_devices, *runs):
    """Workers and tiles of each run ("workers" or "workers/tile"), and the digests that were seen."""
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={host_devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(INVARIANCE), engine, *runs]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    workers, tiles, *digests = zip(*(line.split() for line in out.splitlines()), strict=True)
    return workers, tiles, set(zip(*digests, strict=True))


def test_the_same_bits_on_threads_and_devices():
    """The kernel on 1 to 3 threads, and on 1, 2, 4 and 8 simulated devices."""
    workers, _, seen = invariance("kernel", 1, "1", "2", "3")
    assert workers == ("1", "2", "3")
    workers, _, on_devices = invariance("kernel", 8, "1", "2", "4", "8")
    assert workers == ("1", "2", "4", "8")
    assert len(seen) == 1 and seen == on_devices


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["kernel", "xla"])
def test_the_same_bits_by_either_engine_whatever_the_width_of_tiles(engine):
    _, tiles, seen = invariance(engine, 1, "1", "2", "2/1024", "2/4096")
    assert tiles == ("5", "5", "9", "3")
    _, _, on_devices = invariance(engine, 8, "1", "2", "4", "8")
    assert len(seen) == 1 and seen == on_devices


@pytest.mark.parametrize("asked", ["0", "two", "-1", "1.5", "100000"])
def test_a_bad_number_of_threads_is_refused(monkeypatch, asked):
    monkeypatch.setenv("PKPD_THREADS", asked)
    with pytest.raises(InputError, match="PKPD_THREADS"):
        devices.workers()
