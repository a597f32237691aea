"""The law of what further studies report: closed forms, SciPy, and simulated trials."""

from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logit

from inference import further
from inference.studies import Output, _outputs
from pkpd.errors import InputError
from pkpd.published import Target


def target(statistic, observed, *, n=40, arms=("a",), unit="patients", last=1, error=None, within=0.0):
    return Target(
        "study", arms[0], arms, statistic, statistic, observed, n, unit, statistic, last, None, within, error,
        "", "", "", "published", "made up", "",
    )  # fmt: skip


def study(*targets, design="parallel"):
    outputs = tuple(o for i, t in enumerate(targets) for o in _outputs(i, t))
    return SimpleNamespace(
        name="study", targets=targets, outputs=outputs, design=SimpleNamespace(trial=SimpleNamespace(design=design))
    )


def law(*targets, rho=None, sd=None, design="parallel"):
    s = study(*targets, design=design)
    E = len(s.outputs)
    return further.further([s], np.eye(E) if rho is None else rho, np.full(E, 0.1) if sd is None else sd)


def test_no_study_says_nothing():
    assert further.log_likelihood(jnp.zeros(0), further.nothing()) == 0


@pytest.mark.parametrize("y", [0, 7, 40])
def test_a_count_alone_is_binomial(y):
    found = further.log_likelihood(jnp.array([logit(0.3)]), law(target("response_at_day", y)))
    np.testing.assert_allclose(found, stats.binom.logpmf(y, 40, 0.3), rtol=1e-10)


def test_a_mean_alone_is_normal_with_the_printed_or_the_simulated_error():
    printed = law(target("platelet_rise", 12.0, unit="%", error=3.0))
    at = jnp.array([logit((8.0 + 100) / 1000)])
    # a density on the output's scale, a thousandth of a percent wide
    np.testing.assert_allclose(
        further.log_likelihood(at, printed), stats.norm.logpdf(12, 8, 3) + np.log(1000), rtol=1e-10
    )
    simulated = law(target("platelet_rise", 12.0, unit="%"), sd=np.array([0.02]))
    np.testing.assert_allclose(simulated.mean[0, 1], 0.02 / np.sqrt(40), rtol=1e-10)


def test_a_change_is_the_mean_of_a_log_ratio():
    found = law(target("cmax_change", -44.0, n=15, unit="%", within=0.35), sd=np.array([0.0]))
    low, high = study(target("cmax_change", -44.0, unit="%")).outputs[0][1:3]
    observed, error = np.asarray(found.mean[0]) * (high - low)
    np.testing.assert_allclose(observed + low, np.log(0.56), rtol=1e-10)
    np.testing.assert_allclose(error, 0.35 / np.sqrt(15), rtol=1e-10)


def test_a_median_is_what_simulated_trials_show():
    """Normal counts about 100; the median of 27 within 5 of 97."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.normal(100, 20, (200_000, 27)), axis=1)
    t = target("platelets_median", 97.0, n=27, unit="1e9/L")
    cuts = [stats.norm.cdf((97.0 * f - 100) / 20) for f in (0.95, 1.05)]
    found = np.exp(further.log_likelihood(jnp.array(logit(cuts)), law(t)))
    share = np.mean(np.abs(medians - 97) <= 0.05 * 97)
    assert abs(found - share) < 4 * np.sqrt(share / 200_000)


@pytest.mark.parametrize("m", [30.0, 49.0, 128.0])
def test_a_median_beside_its_count_is_a_joint_law(m):
    """Log-normal counts about 60; P(count and median) against simulated trials, the median on either side of 50."""
    rng = np.random.default_rng(1)
    centre = {30.0: 32.0, 49.0: 50.0, 128.0: 110.0}[m]
    x = np.exp(rng.normal(np.log(centre), 0.8, (400_000, 11)))
    y = int(np.median((x >= 50).sum(1)))
    both = ((x >= 50).sum(1) == y) & (np.abs(np.median(x, axis=1) / m - 1) <= 0.05)
    F = [stats.norm.cdf((np.log(cut) - np.log(centre)) / 0.8) for cut in (0.95 * m, 1.05 * m, 50.0)]
    found = law(target("response_at_day", y, n=11), target("platelets_median", m, n=11, unit="1e9/L"))
    at = jnp.array(logit([1 - F[2], F[0], F[1]]))
    share = both.mean()
    assert abs(np.exp(further.log_likelihood(at, found)) - share) < 4 * np.sqrt(share / len(x))


def test_an_unlikely_median_keeps_its_digits_and_its_slope():
    """P(Bin(27, 1e-3) >= 14) is 2e-35: lost if taken as one less a number near one."""
    found = law(target("platelets_median", 16.0, n=27, unit="1e9/L"))
    at = jnp.array(logit([1e-9, 1e-3]))
    np.testing.assert_allclose(further.log_likelihood(at, found), stats.binom.logsf(13, 27, 1e-3), rtol=1e-6)
    slope = jax.grad(lambda x: further.log_likelihood(x, found))(at)
    assert 13 < slope[1] < 15


def test_several_numbers_of_one_arm_are_normal_together():
    rho = np.array([[1.0, 0.6], [0.6, 1.0]])
    counts = law(target("response_75", 144, n=339), target("response_30_doubled", 254, n=339), rho=rho)
    p = np.array([0.4, 0.78])
    sd = np.sqrt(339 * p * (1 - p))
    covariance = rho * np.outer(sd, sd) + np.eye(2) / 12
    expected = stats.multivariate_normal(339 * p, covariance).logpdf([144, 254])
    np.testing.assert_allclose(further.log_likelihood(jnp.array(logit(p)), counts), expected, rtol=1e-4)


def test_arms_are_independent_and_a_crossovers_are_not():
    rho = np.array([[1.0, 0.6], [0.6, 1.0]])
    two = (target("platelet_rise", 7.0, unit="%", arms=("a",)), target("platelet_rise", 10.0, unit="%", arms=("b",)))
    assert law(*two, rho=rho).joint_at.size == 0 and law(*two, rho=rho).mean_at.size == 2
    crossed = law(*two, rho=rho, design="crossover")
    assert crossed.joint_at.size == 2 and abs(crossed.joint_rho[0, 1] - 0.6) < 1e-5


def test_a_median_beside_another_count_is_refused():
    with pytest.raises(InputError, match="platelets_median beside response_any of the same patients; legal: a median"):
        law(target("response_any", 12), target("platelets_median", 30.0, unit="1e9/L"))


def test_every_law_has_finite_slopes():
    found = law(
        target("response_at_day", 12),
        target("platelets_median", 30.0, unit="1e9/L"),
        target("response_any", 12, arms=("b",)),
        target("rescue", 3, arms=("b",)),
        target("platelet_rise", 12.0, unit="%", arms=("c",)),
    )
    E = found.patients.size
    value = jax.jit(jax.value_and_grad(lambda x: further.log_likelihood(x, found)))
    for size in (-12.0, -3.0, 0.0, 3.0, 12.0):
        density, slope = value(jnp.full(E, size))
        assert np.isfinite(density) and np.isfinite(slope).all(), size
    assert E == 6
    for a, b in product((-1.0, 1.0), repeat=2):
        x = jnp.array([0.5 * a - 1, 0.2 * b - 0.6, 0.2 * b + 0.1, b, a, -2.0])  # F rises from cut to cut
        step = 1e-6
        numeric = [(value(x.at[i].add(step))[0] - value(x.at[i].add(-step))[0]) / (2 * step) for i in range(E)]
        np.testing.assert_allclose(value(x)[1], numeric, rtol=1e-4, atol=1e-4)


def test_outputs_of_a_target():
    assert _outputs(0, target("rescue", 3)) == [Output(0)]
    low, high = _outputs(1, target("platelets_median", 20.0, unit="1e9/L"))
    assert (low.cut, high.cut) == (19.0, 21.0)
