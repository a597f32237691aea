"""Operating characteristics against the enumeration of every outcome: size, power, coverage, looks, patients."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from inference.trials import SUMMARY_COLUMNS, run_trial
from inference.whatif.boundaries import critical_values
from inference.whatif.decisions import power_to_come
from inference.whatif.null import under_null
from pkpd.errors import InputError
from pkpd.scenario import load_scenario
from tests.inference.whatif.designs import design
from tests.inference.whatif.test_bayes import closed_form
from tests.inference.whatif.test_two_by_two import plain_score

TRIALS = 20_000


def figures(scenario, **options):
    table = run_trial(scenario, seed=1, **options)
    assert tuple(table.columns) == SUMMARY_COLUMNS
    assert (table["lower"] <= table["estimate"]).all() and (table["estimate"] <= table["upper"]).all()
    return table.set_index(["comparison", "quantity"])["estimate"]


def close(found, probability, trials=TRIALS):
    """Within 3 standard errors of an exact probability."""
    return abs(found - probability) <= 3 * np.sqrt(probability * (1 - probability) / trials) + 1e-12


def all_tables(n, p, n0, p0):
    """Every outcome of two arms with its probability."""
    for y, y0 in itertools.product(range(n + 1), range(n0 + 1)):
        yield y, y0, stats.binom.pmf(y, n, p) * stats.binom.pmf(y0, n0, p0)


def pooled_z(y, n, y0, n0):
    """The usual z of two proportions with pooled variance."""
    rate = (y + y0) / (n + n0)
    se = np.sqrt(rate * (1 - rate) * (1 / n + 1 / n0))
    return (y / n - y0 / n0) / se if se > 0 else 0.0


def p_of(test, y, n, y0, n0):
    """Two-sided p by another way than the code's."""
    if test == "fisher":
        return stats.fisher_exact([[y, n - y], [y0, n0 - y0]]).pvalue
    z = pooled_z(y, n, y0, n0)
    if test == "cochran-mantel-haenszel":
        z *= np.sqrt((n + n0 - 1) / (n + n0))
    return 2 * stats.norm.sf(abs(z))


RATES = {6: (0.8, 0.2), 12: (0.7, 0.25), 40: (0.5, 0.25)}


@pytest.mark.parametrize("test", ["fisher", "cochran-mantel-haenszel", "risk-difference"])
@pytest.mark.parametrize("n", RATES)
def test_size_and_power_are_those_of_enumeration(test, n):
    p, p0 = RATES[n]
    scenario = design(n=(n, n), p=(p, p0), test=test, trial={"n_trials": TRIALS})
    outcomes = list(all_tables(n, p, n, p0))
    rejected = np.array([p_of(test, y, n, y0, n) <= 0.05 for y, y0, _ in outcomes])
    power = rejected @ np.array([chance for *_, chance in outcomes])
    size = rejected @ np.array([chance for *_, chance in all_tables(n, p0, n, p0)])
    assert close(figures(scenario)[("a vs control", f"power_{test}")], power)
    found = figures(scenario, null=True)[("a vs control", f"type_1_error_{test}")]
    assert close(found, size)
    if test == "fisher":  # conditional on the total, discreteness costs level
        assert size < 0.035 and found < 0.04


@pytest.mark.parametrize("interval", ["newcombe", "miettinen-nurminen"])
def test_coverage_width_and_estimate_are_those_of_enumeration(interval):
    n, n0, p, p0, z = 12, 9, 0.55, 0.2, stats.norm.isf(0.05)
    found = figures(design(n=(n, n0), p=(p, p0), interval=interval, confidence=0.9, trial={"n_trials": TRIALS}))
    covered = width = estimate = 0.0
    for y, y0, chance in all_tables(n, p, n0, p0):
        estimate += chance * (y / n - y0 / n0)
        if interval == "newcombe":
            low, high = confint_proportions_2indep(y, n, y0, n0, method="newcomb", compare="diff", alpha=0.1)
            covered += chance * (low <= p - p0 <= high)
            width += chance * (high - low)
        elif 0 < y < n and 0 < y0 < n0:
            covered += chance * (abs(plain_score(y, n, y0, n0, p - p0, True)) <= z)
        else:  # an empty cell: the likelihood by a fine grid
            covered += chance * (abs(grid_score(y, n, y0, n0, p - p0)) <= z)
    row = "a vs control"
    assert close(found[(row, f"coverage_{interval}")], covered)
    if interval == "newcombe":
        assert found[(row, f"width_{interval}")] == pytest.approx(width, abs=3 * 0.1 / np.sqrt(TRIALS))
    sd = np.sqrt(p * (1 - p) / n + p0 * (1 - p0) / n0)
    assert estimate == pytest.approx(p - p0)
    assert found[(row, "risk_difference_cured")] == pytest.approx(estimate, abs=3 * sd / np.sqrt(TRIALS))
    assert abs(found[(row, "risk_difference_cured_bias")]) < 3 * sd / np.sqrt(TRIALS)


def grid_score(y, n, y0, n0, margin):
    x = np.linspace(max(0.0, -margin), min(1.0, 1 - margin), 40_001)
    x = x[np.argmax(stats.binom.logpmf(y, n, x + margin) + stats.binom.logpmf(y0, n0, x))]
    variance = ((x + margin) * (1 - x - margin) / n + x * (1 - x) / n0) * (n + n0) / (n + n0 - 1)
    return (y / n - y0 / n0 - margin) / np.sqrt(variance)


def test_non_inferiority_at_its_margin():
    """Size at exactly the margin and power at no difference, from the plain score test of every table."""
    n, margin, p0 = 12, -0.25, 0.6
    scenario = design(n=(n, n), p=(p0, p0), margin=margin, sided=1, alpha=0.1, trial={"n_trials": TRIALS})
    level = stats.norm.isf(0.1)

    def rejects(y, y0):
        inside = 0 < y < n and 0 < y0 < n
        z = plain_score(y, n, y0, n, margin, False) if inside else grid_score(y, n, y0, n, margin) * np.sqrt(24 / 23)
        return z >= level

    power = sum(chance for y, y0, chance in all_tables(n, p0, n, p0) if rejects(y, y0))
    size = sum(chance for y, y0, chance in all_tables(n, p0 + margin, n, p0) if rejects(y, y0))
    assert close(figures(scenario)[("a vs control", "power_risk-difference")], power)
    assert close(figures(scenario, null=True)[("a vs control", "type_1_error_risk-difference")], size)


def test_bayesian_decision():
    """With uniform priors, the closed form of every table's posterior probability."""
    n, p, p0 = 12, 0.6, 0.25
    scenario = design(n=(n, n), p=(p, p0), test="bayesian", threshold=0.975, trial={"n_trials": TRIALS})
    power = sum(
        chance for y, y0, chance in all_tables(n, p, n, p0) if closed_form(1 + y, 1 + n - y, 1 + y0, 1 + n - y0) > 0.975
    )
    assert close(figures(scenario)[("a vs control", "power_bayesian")], power)


def test_two_looks_with_futility_are_those_of_enumeration():
    """Every path of 6 and then 6 more patients an arm, in plain Python: decisions by look, patients, estimate."""
    p, p0, looks, low = (0.6, 0.25, (0.5, 1.0), 0.25)
    interims = {"looks": [0.5, 1.0], "boundary": "pocock", "futility": "predictive-power", "futility_below": low}
    scenario = design(p=(p, p0), sided=1, alpha=0.1, interims=interims, trial={"n_trials": TRIALS})
    critical = critical_values("pocock", looks, 0.1, 1)

    def expected(p, p0, binding=True):
        chance = {"first": 0.0, "futile": 0.0, "second": 0.0, "estimate": 0.0}
        for y, y0, first in all_tables(6, p, 6, p0):
            z = pooled_z(y, 6, y0, 6)
            power = stats.norm.sf((critical[1] - z / np.sqrt(0.5)) / 1.0)  # variance (1 - t)/t = 1
            if z >= critical[0]:
                chance["first"] += first
                chance["estimate"] += first * (y - y0) / 6
            elif power < low and binding:
                chance["futile"] += first
                chance["estimate"] += first * (y - y0) / 6
            else:
                for x, x0, second in all_tables(6, p, 6, p0):
                    chance["second"] += first * second * (pooled_z(y + x, 12, y0 + x0, 12) >= critical[1])
                    chance["estimate"] += first * second * (y + x - y0 - x0) / 12
        return chance

    exact, found, row = expected(p, p0), figures(scenario), "a vs control"
    assert close(found[(row, "rejected_at_look_1")], exact["first"]) and exact["first"] > 0.05
    assert close(found[(row, "futile_at_look_1")], exact["futile"]) and exact["futile"] > 0.05
    assert close(found[(row, "rejected_at_look_2")], exact["second"]) and exact["second"] > 0.05
    assert close(found[(row, "power_risk-difference")], exact["first"] + exact["second"])
    stopped = exact["first"] + exact["futile"]
    assert found[("whole trial", "patients")] == pytest.approx(24 - 12 * stopped, abs=3 * 6 / np.sqrt(TRIALS))
    assert found[(row, "risk_difference_cured")] == pytest.approx(exact["estimate"], abs=3 * 0.25 / np.sqrt(TRIALS))
    assert found[(row, "risk_difference_cured_bias")] == pytest.approx(
        exact["estimate"] - (p - p0), abs=3 * 0.25 / np.sqrt(TRIALS)
    )
    null, loose = expected(p0, p0), expected(p0, p0, binding=False)
    found = figures(scenario, null=True)
    assert close(found[(row, "type_1_error_risk-difference")], null["first"] + null["second"])
    ignored = found[(row, "type_1_error_risk-difference_futility_ignored")]
    assert close(ignored, loose["first"] + loose["second"]) and ignored >= null["first"] + null["second"]


@pytest.mark.parametrize("kind", ["conditional-power", "predictive-power"])
def test_power_to_come_is_that_of_simulated_walks(kind):
    t, z, critical, n = 0.4, 1.2, 2.0, 400_000
    rng = np.random.default_rng(5)
    effect = z / np.sqrt(t) + (0 if kind == "conditional-power" else rng.normal(0, np.sqrt(1 / t), n))
    last = z * np.sqrt(t) + effect * (1 - t) + rng.normal(0, np.sqrt(1 - t), n)
    assert close((last > critical).mean(), float(power_to_come(np.array(z), t, critical, kind)), n)


def test_several_arms_by_look_are_each_their_own_trial():
    """Bonferroni: each comparison is the trial of two arms at half the level; the control stays until the last ends."""
    interims = {"looks": [0.5, 1.0], "boundary": "obrien-fleming"}
    three = design(n=(40, 40, 40), p=(0.6, 0.25, 0.4), multiplicity="bonferroni", interims=interims)
    found = figures(three)
    for arms, p in ((("a", "control"), (0.6, 0.25)), (("more 0", "control"), (0.4, 0.25))):
        alone = figures(design(n=(40, 40), p=p, names=arms, alpha=0.025, interims=interims))
        row = f"{arms[0]} vs control"
        for k in (1, 2):
            chance = alone[(row, f"rejected_at_look_{k}")]
            assert found[(row, f"rejected_at_look_{k}")] == pytest.approx(chance, abs=4 * np.sqrt(chance / TRIALS))
    first, second = (found[(f"{arm} vs control", "rejected_at_look_1")] for arm in ("a", "more 0"))
    patients = found[("whole trial", "patients")]
    assert 120 - 20 * (first + second + min(first, second)) < patients < 120 - 20 * (first + second)
    assert found[("whole trial", "power_any")] >= found[("a vs control", "power_risk-difference")]


def test_multiplicity_controls_the_error_of_any():
    """Three arms against one control under the null: unadjusted above 5%, adjusted not; a graph and its Holm agree."""
    shape = {"n": (40, 40, 40, 40), "p": (0.3, 0.3, 0.3, 0.3), "test": "cochran-mantel-haenszel"}
    active = ("a", "more 0", "more 1")
    graph = {
        "weights": dict.fromkeys(active, 1 / 3),
        "transitions": {i: dict.fromkeys([j for j in active if j != i], 0.5) for i in active},
    }
    any_of = {
        m: figures(design(**shape, multiplicity=m, **({"graph": graph} if m == "graphical" else {})), null=True)[
            ("whole trial", "type_1_error_any")
        ]
        for m in ("none", "bonferroni", "holm", "hochberg", "fixed-sequence", "graphical")
    }
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIALS)
    assert any_of["none"] > 0.09 and any_of["holm"] == any_of["bonferroni"] == any_of["graphical"]
    assert all(error < limit for m, error in any_of.items() if m != "none")
    assert any_of["bonferroni"] <= any_of["hochberg"] and any_of["fixed-sequence"] > 0.035


def test_trials_until_the_error_is_small_enough():
    wanted = 0.006
    scenario = design(trial={"mc_se_below": wanted})
    table = run_trial(scenario, seed=1)
    n, power = int(table["n_trials"][0]), table.set_index("quantity").loc["power_risk-difference"]
    assert power["mc_se"] < wanted and n % 1000 == 0
    needed = power["estimate"] * (1 - power["estimate"]) / wanted**2
    assert needed < n < needed + 1500
    fixed = run_trial(design(trial={"n_trials": n}), seed=1)
    assert fixed.equals(table) and run_trial(scenario, seed=1).equals(table)
    never = run_trial(design(trial={"mc_se_below": 1e-6, "n_trials": 2500}), seed=1)
    assert set(never["n_trials"]) == {2500}
    sure = run_trial(design(n=(40, 40), p=(1.0, 0.0), trial={"mc_se_below": 1e-4}), seed=1)
    assert int(sure["n_trials"][0]) > 1000  # every trial agrees, and that is no proof of a small error


def test_nulls():
    null = under_null(design(n=(9, 9, 9), p=(0.5, 0.3, 0.4), sided=1, margin=-0.2))
    assert null.outcome.response_probability == pytest.approx({"a": 0.1, "control": 0.3, "more 0": 0.1})
    assert under_null(load_scenario("phase3")).parameters == {"dimer_efficacy": 0.0}
    for refused, message in (
        (design(p=(0.5, 0.1), sided=1, margin=-0.2), "a response probability of 0.1 under control plus the margin"),
        (load_scenario("phase3", ["analysis.control=start 5 mg"]), "arm 'placebo' takes placebo, and no EC50 moves it"),
        (
            load_scenario(
                "phase3",
                [
                    "analysis.control=start 5 mg",
                    "arms=[{name='start 5 mg', drug='hetrombopag', n=9, start_dose_mg=5},"
                    "{name='b', drug='hetrombopag', n=9, start_dose_mg=5}]",
                    "analysis.endpoint='time_to_first_response'",
                    "analysis.test=log-rank",
                ],
            ),
            "a null of time_to_first_response is that of whole curves",
        ),
        (load_scenario("food_effect"), "[analysis] is missing"),
    ):
        with pytest.raises(InputError) as error:
            under_null(refused)
        assert message in str(error.value) and "--null" in str(error.value)
