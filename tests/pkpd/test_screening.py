"""Screening against brute force: many candidates in plain NumPy, of whom those who pass are kept."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pkpd import cohort, random, screening, trial
from pkpd.errors import InputError
from pkpd.parameters import load_library, with_values
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario
from pkpd.scenario_tables import Entry
from pkpd.scenario_text import describe
from pkpd.screening import Screening, screen_of

NO_ERROR = "parameters={residual_log_sd=1e-6,immune_drift_log_sd=1e-6}"

N, PLAIN = 20_000, 200_000  # patients who enter, one size so that it compiles once; candidates of the brute force
DRAW, SCREENED = jax.jit(cohort.draw), jax.jit(trial.drawn)


def keys_of(n: int, first: int = 0, draw: int = 0) -> jax.Array:
    zero = np.zeros(n, int)
    return random.patient_keys(random.root(5), zero + draw, zero, np.arange(first, first + n))


def entered(table: Screening, n: int, below: float = 30.0, dtype=jnp.float32, first: int = 0, **values: float):
    entry = Entry(platelets_below_1e9_per_l=below)
    population = with_values(load_library().population(dtype), values)
    screen = screen_of(table, entry)
    return SCREENED(population, keys_of(n, first), np.float32(below), None, screen)


def brute_force(table: Screening, n: int, below: float, seed: int, **values: float) -> dict[str, np.ndarray]:
    """Candidates in plain NumPy, with those who passed marked; counts follow the rate equation day by day."""
    library, rng = load_library(), np.random.default_rng(seed)

    def of(name: str) -> float:
        return values.get(name, library.value(name))

    def individual(name: str) -> np.ndarray:
        return of(name) * np.exp(of(f"{name}_iiv_log_sd") * rng.standard_normal(n))

    r0, K = individual("production_1e9_per_l_per_h"), individual("immune_half_saturation_1e9_per_l")
    sigma, s, tau = map(individual, ("residual_log_sd", "immune_drift_log_sd", "immune_drift_time_d"))
    P0 = np.zeros(n)
    while (out := (P0 < of("baseline_min_1e9_per_l")) | (P0 >= 100)).any():
        law = of("baseline_log_mean"), of("baseline_log_sd")
        P0[out] = np.exp(rng.normal(*law, out.sum()))
    ksen = of("senescence_per_h")
    r0 = np.maximum(r0, ksen * P0)
    V = (r0 - ksen * P0) * (K + P0) / P0
    last_week = -table.visits_d[0] // 7 + 1
    omega, rho = [np.zeros(n)], np.exp(-7 / tau)
    for _ in range(last_week):
        omega.append(rho * omega[-1] + s * np.sqrt(1 - rho**2) * rng.standard_normal(n))

    def settled(w: int) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.full(n, 1e-9), np.full(n, 1e5)
        immune = V * np.exp(omega[w])
        for _ in range(80):
            middle = np.sqrt(low * high)
            gains = r0 - ksen * middle - immune * middle / (K + middle) > 0
            low, high = np.where(gains, middle, low), np.where(gains, high, middle)
        return low, ksen + immune * K / (K + low) ** 2

    P, by_day = settled(last_week)[0], {}
    for w in range(last_week, 0, -1):
        if w < last_week:
            Q, rate = settled(w)
            start = P
            for day in range(1, 8):
                P = Q + (start - Q) * np.exp(-rate * 24 * day)
                by_day[-7 * (w + 1) + day] = P
        elif last_week == 1:
            break
    counts = []
    for day in table.visits_d:
        true = P0 if day > -7 else by_day[day]
        counts.append(np.maximum(1, true * np.exp(sigma * rng.standard_normal(n))))
    counts = np.array(counts)
    mean = np.exp(np.log(counts).mean(axis=0))
    judged = {"mean": mean, "last": counts[-1], "every": counts.max(axis=0)}[table.criterion]
    passed = (judged < below) & (rng.random(n) >= table.other_failure_share)
    read = mean if table.criterion == "mean" else counts[-1]
    return {"passed": passed, "P0": P0, "baseline": read, "first": counts[0], "sigma": sigma, "r0": r0}


CASES = [
    (Screening(visits_d=(-14, -7), criterion="mean"), 30.0, {}),
    (Screening(visits_d=(-10, -7, 0), criterion="last", other_failure_share=0.3), 30.0, {}),
    (Screening(visits_d=(-14, -7, 0), criterion="every"), 30.0, {}),
    (
        Screening(visits_d=(-17, -9), criterion="every"),
        12.0,
        {"residual_log_sd": 0.5, "residual_log_sd_iiv_log_sd": 0.8},
    ),
    (Screening(visits_d=(-3,), criterion="mean"), 50.0, {"residual_log_sd": 0.6}),
]


@pytest.mark.parametrize(("table", "below", "values"), CASES)
def test_those_who_enter_have_the_law_of_brute_force(table, below, values):
    found, plain = entered(table, N, below, **values), brute_force(table, PLAIN, below, 1, **values)
    who = plain["passed"]
    s = found.screened
    ours = {
        "P0": s.at_rest, "baseline": s.baseline, "first": s.counts[0], "sigma": found.noise.residual_log_sd,
        "r0": np.maximum(found.parameters.production_1e9_per_l_per_h, s.at_rest / 216),
    }  # fmt: skip
    for name, values_of in ours.items():
        mine, theirs = np.log(np.asarray(values_of, float)), np.log(plain[name][who])
        assert stats.ks_2samp(mine, theirs).pvalue > 1e-3, name
        se = np.hypot(mine.std() / np.sqrt(N), theirs.std() / np.sqrt(who.sum()))
        assert abs(mine.mean() - theirs.mean()) < 4 * se, name
    apart = np.log(np.asarray(s.at_rest, float) / np.asarray(s.baseline, float))
    assert stats.ks_2samp(apart, np.log(plain["P0"][who] / plain["baseline"][who])).pvalue > 1e-3
    # Candidates of a place are geometric: their mean is 1 over the share who pass.
    tried, p = np.asarray(s.candidates), who.mean()
    se = np.hypot(np.sqrt(1 - p) / p / np.sqrt(N), np.sqrt(p * (1 - p) / PLAIN) / p**2)
    assert abs(tried.mean() - 1 / p) < 4 * se
    assert (tried == 1).mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) * (1 / N + 1 / PLAIN)))


def test_every_criterion_is_kept_by_everybody():
    for criterion in screening.CRITERIA:
        s = entered(Screening(visits_d=(-14, -7, 0), criterion=criterion), N).screened
        counts, mean = np.asarray(s.counts), np.exp(np.log(np.asarray(s.counts)).mean(axis=0))
        judged = {"mean": mean, "last": counts[-1], "every": counts.max(axis=0)}[criterion]
        assert judged.max() < 30.001 and judged.max() > 29.5 and counts.min() >= 1
        np.testing.assert_allclose(s.baseline, mean if criterion == "mean" else counts[-1], rtol=1e-5)
        assert (np.asarray(s.true)[-1] == np.asarray(s.at_rest)).all()  # day 0 is at rest
        assert (counts.max(axis=0) < 30).all() == (criterion == "every")


def test_patients_do_not_depend_on_their_batch():
    table = Screening(visits_d=(-14, -7))
    some, others = entered(table, N), entered(table, N, first=200)
    for mine, theirs in zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True):
        if np.ndim(mine):
            np.testing.assert_array_equal(mine[..., 200:], theirs[..., :-200])
    assert np.asarray(some.screened.candidates).max() > 2


def test_both_precisions_have_the_same_patients():
    table = Screening(visits_d=(-14, -7), criterion="mean")
    single, double = entered(table, N), entered(table, N, dtype=jnp.float64)
    same = np.asarray(single.screened.candidates) == np.asarray(double.screened.candidates)
    assert same.mean() > 0.9995 and double.screened.baseline.dtype == jnp.float64
    for name in ("at_rest", "baseline"):
        a, b = (np.asarray(getattr(x.screened, name), float)[..., same] for x in (single, double))
        np.testing.assert_allclose(a, b, rtol=1e-4)
    np.testing.assert_allclose(single.weight_kg, double.weight_kg, rtol=1e-6)


def test_without_screening_the_first_candidate_is_the_patient():
    """Random effects, weight and covariates are those of the design without it where the first candidate passes."""
    found = entered(Screening(visits_d=(-14, -7)), N)
    plain = DRAW(load_library().population(), keys_of(N), np.float32(30))
    first = np.asarray(found.screened.candidates) == 1
    assert 0.4 < first.mean() < 0.9
    for name in ("receptor_ec50_nM", "production_1e9_per_l_per_h"):
        np.testing.assert_allclose(
            getattr(found.parameters, name)[first], getattr(plain.parameters, name)[first], rtol=1e-6
        )
    np.testing.assert_allclose(found.weight_kg, plain.weight_kg, rtol=1e-6)


def test_the_count_under_the_drift_is_nearly_the_engines():
    """A week of drift from rest, as in the week that ends with the first visit of a placebo arm."""
    scenario = load_scenario("phase3", ["rescue.enabled=false", "entry.platelets_below_1e9_per_l=100"])
    arm = planned_arms(scenario)[2]
    assert arm.drug == "placebo"
    (v,) = trial.visits_of(trial.roster(arm.population, range(1024)), arm.arm, (7, 14), 5)
    people = DRAW(arm.population, keys_of(1024), np.float32(100)).parameters
    np.testing.assert_allclose(people.baseline_platelets_1e9_per_l, v.baseline, rtol=1e-5)
    ours = screening.after(people, jnp.asarray(v.immune_log_activity[0]), v.baseline, 168.0)
    drifted, apart = np.log(v.platelets_true[0] / v.baseline), np.log(v.platelets_true[0] / np.asarray(ours))
    assert drifted.std() > 0.35 and apart.std() < 0.1 * drifted.std() and abs(apart.mean()) < 0.02


def test_at_no_drift_the_equilibrium_is_the_baseline():
    p = DRAW(load_library().population(jnp.float64), keys_of(2000), np.float32(300)).parameters
    Q, rate = screening.equilibrium(p, jnp.zeros(2000))
    np.testing.assert_allclose(Q, p.baseline_platelets_1e9_per_l, rtol=1e-9)
    assert (np.asarray(rate) > 0).all()


@cache
def placebo(*settings: str):
    scenario = load_scenario("phase3", ["rescue.enabled=false", *settings])
    arm = planned_arms(scenario)[2]
    tiles = trial.visits_of(trial.roster(arm.population, range(4096)), arm.arm, (7, 14), 1)
    return jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *tiles)


def test_counts_of_placebo_regress_to_the_mean():
    v = placebo("screening={visits_d=[-14,-7],criterion='last'}")
    rise = np.log(v.platelets_observed[0] / v.baseline)
    assert rise.mean() > 0.1 and rise.mean() > 8 * rise.std() / 64
    assert (np.log(v.baseline_true / v.baseline)).mean() == pytest.approx(rise.mean(), abs=4 * float(rise.std()) / 64)
    # Measured on the day of the first dose there is the measurement's error alone; the mean of more visits has less.
    tables = (Screening(visits_d=(-3, -2, -1), criterion=criterion) for criterion in ("last", "mean"))
    last, mean = (entered(table, N, residual_log_sd=0.5).screened for table in tables)
    one, three = (float(np.log(s.at_rest / s.baseline).mean()) for s in (last, mean))
    assert 0.02 < three < 0.6 * one


def test_without_error_and_drift_nothing_regresses():
    v = placebo("screening={visits_d=[-14,-7],criterion='every'}", NO_ERROR)
    np.testing.assert_allclose(v.baseline, v.baseline_true, rtol=1e-4)
    np.testing.assert_allclose(v.platelets_observed[0], v.baseline, rtol=2e-3)


def test_without_error_and_drift_it_is_the_law_of_entry():
    """The truncated log-normal law of a design without screening."""
    s = entered(Screening(visits_d=(-14, -7)), N, residual_log_sd=0, immune_drift_log_sd=0).screened
    plain = DRAW(load_library().population(), keys_of(N, draw=1), np.float32(30)).parameters
    other = np.asarray(plain.baseline_platelets_1e9_per_l)
    assert stats.ks_2samp(np.asarray(s.baseline), other).pvalue > 1e-3


def test_a_staged_arm_has_the_same_patients_and_the_measured_count_first():
    settings = ["screening={visits_d=[-14,-7],criterion='mean'}", "rescue.enabled=false"]
    plain, staged = (load_scenario("phase3", [*settings, *more]) for more in ([], ["trial.missed_visit_share=0.001"]))
    a, b = (
        next(trial.visits_of(trial.roster(p.population, range(64)), p.arm, (7, 14), 1))
        for p in (planned_arms(plain)[2], planned_arms(staged)[2])
    )
    np.testing.assert_array_equal(a.baseline, b.baseline)
    np.testing.assert_array_equal(a.screened.counts, b.screened.counts)


def test_two_arms_have_the_same_law():
    scenario = load_scenario("phase3", ["screening={visits_d=[-14,-7],criterion='mean'}"])
    a, b = planned_arms(scenario)[:2]
    first, second = (
        np.concatenate([v.baseline for v in trial.visits_of(trial.roster(x.population, people), x.arm, (7, 14), 1)])
        for x, people in ((a, range(4096)), (b, range(4096, 8192)))
    )
    assert stats.ks_2samp(first, second).pvalue > 1e-3 and abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_a_place_that_stays_empty_is_an_error():
    with pytest.raises(InputError, match="for 2 patients none of 2000 candidates passed"):
        screening.check_places(np.array([3, 0, 1, 0]))


def test_a_run_stops_where_a_place_stays_empty(monkeypatch):
    monkeypatch.setattr(screening, "MOST_CANDIDATES", 2)
    scenario = load_scenario("phase3", ["screening={visits_d=[-6,-5,-4,-3,-2]}"])  # compiled nowhere else
    arm = planned_arms(scenario)[0]
    with pytest.raises(InputError, match="none of 2 candidates passed"):
        list(trial.visits_of(trial.roster(arm.population, range(64)), arm.arm, (7,), 1))


def test_a_scenario_says_its_screening_in_words():
    said = "screening={visits_d=[-14,-7],criterion='mean',other_failure_share=0.1}"
    text = describe(load_scenario("phase3", [said]))
    counts = "counts on days -14 and -7, their geometric mean below 30"
    assert f"Screening: {counts}; 10% fail for other reasons; of candidates with true counts below 100\n" in text


def test_a_table_of_patients_who_entered_is_not_screened(tmp_path):
    (tmp_path / "patients.csv").write_text("baseline_1e9_per_l,weight_kg\n12,60\n")
    settings = [f"entry.patients='{tmp_path / 'patients.csv'}'", "screening={visits_d=[-7]}"]
    with pytest.raises(InputError, match=r"screening: the patients of .* have entered already"):
        load_scenario("phase3", settings)


def test_healthy_volunteers_are_screened_by_their_own_law():
    settings = ["entry.disease='healthy'", "entry.platelets_below_1e9_per_l=300", "rescue.enabled=false"]
    scenario = load_scenario("phase3", [*settings, "screening={visits_d=[-14,-7],criterion='every'}"])
    (arm, *_) = planned_arms(scenario)
    s = SCREENED(arm.population, keys_of(N), np.float32(300), None, arm.arm.screen).screened
    assert np.asarray(s.counts).max() < 300 and 150 < np.median(s.at_rest) < 280
    np.testing.assert_allclose(s.true, np.broadcast_to(s.at_rest, (2, N)), rtol=1e-4)  # no immune clearance, no drift


@pytest.mark.parametrize(
    ("scenario", "settings", "told"),
    [
        ("phase3", ["screening={}"], "screening.visits_d is missing"),
        ("phase3", ["screening={visits_d=[]}"], "from 1 to 12 visits"),
        ("phase3", ["screening={visits_d=[-7,3]}"], "days from -182 to 0, the first dose, but 3 is among them"),
        ("phase3", ["screening={visits_d=[-7,-14]}"], "days that increase, but -14 follows -7"),
        ("phase3", ["screening={visits_d=[-400]}"], "-400 is among them"),
        ("phase3", ["screening={visits_d=[-7.5]}"], "screening.visits_d"),
        ("phase3", ["screening={visits_d=[-7],criterion='median'}"], "screening.criterion = 'median'"),
        (
            "phase3",
            ["screening={visits_d=[-7],criterium='mean'}"],
            "unknown key 'criterium'; did you mean 'criterion'?",
        ),
        ("phase3", ["screening={visits_d=[-7],other_failure_share=1.0}"], "other_failure_share = 1"),
        (
            "phase3",
            ["screening={visits_d=[-7]}", "accrual={patients_per_week=4,screen_failure_share=0.2}"],
            "accrual.screen_failure_share: [screening] says who fails; legal: one of the two",
        ),
        (
            "phase3",
            ["screening={visits_d=[-7],candidates_below_1e9_per_l=20}"],
            "screening.candidates_below_1e9_per_l = 20: below the limit of entry; legal: at least 30",
        ),
        (
            "phase3",
            ["screening={visits_d=[-7]}", "entry.platelets_below_1e9_per_l=120"],
            "screening.candidates_below_1e9_per_l is 100 of patients with ITP",
        ),
        (
            "phase3",
            ["screening={visits_d=[-7],other_failure_share=0.9}", "entry.platelets_below_1e9_per_l=5"],
            "screening: some 0.86% of candidates pass; legal: criteria that 2% pass",
        ),
        ("food_effect", ["screening={visits_d=[-7]}"], "screening: of parallel groups only"),
        ("group_sequential", ["screening={visits_d=[-7]}"], "screening: [outcome] states responses"),
    ],
)
def test_a_bad_screening_is_one_clear_error(scenario, settings, told):
    with pytest.raises(InputError) as error:
        load_scenario(scenario, settings)
    assert told in str(error.value) and "\n" not in str(error.value)
