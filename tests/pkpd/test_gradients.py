"""Derivatives of courses on recorded doses: against central differences, the reference solver, and each other.

All are compared as elasticities, d log(reading)/d log(parameter): a change of 1% of the parameter moves the reading by
that many per cent. A reading is the count, free concentration, AUC or Cmax of the last visit.
"""

from __future__ import annotations

from functools import cache, partial

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pkpd import random, trial
from pkpd.engine import grid, recorded, reference
from pkpd.engine.solver import Reading, solver
from pkpd.errors import InputError
from pkpd.model import Form, free_concentration_nM
from pkpd.parameters import Parameters, load_library
from pkpd.planned import planned_arms
from pkpd.scenario import load_scenario

DAYS, READ = 14, (7, 14)
NAMES = Parameters._fields
ACTING = [i for i, name in enumerate(NAMES) if name != "immune_log_activity"]  # omega is given week by week
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))  # of the first derivative, error of fourth order
STEP = 1e-3  # relative to the parameter
SMALL = 1e-3  # elasticity below which errors are absolute
COMPARED = 6  # columns that are compared with differences: typical, ordinary, box; the others are extreme
UNTAKEN = 3  # the column whose days without a dose are compared too: its two absorption rates are one


@cache
def typical() -> Parameters:
    return load_library().parameters(jnp.float64)


EXTREME = (
    {},  # with no dose at all
    {"target_baseline_nM": 0},
    {"quasi_steady_state_constant_nM": 1e12},
    {"quasi_steady_state_constant_nM": 1e-6},
    {"baseline_platelets_1e9_per_l": 1, "production_1e9_per_l_per_h": 6},
    {"baseline_platelets_1e9_per_l": 230, "production_1e9_per_l_per_h": 0.1},
    {"lag_time_h": 0},
    {"absorption_switch_h": 0, "lag_time_h": 0},
    {"absorption_switch_h": 20, "lag_time_h": 4},
    {"absorption_rate_first_per_h": 1000, "absorption_rate_second_per_h": 1000},
    {"max_stimulation": 0},
    {"dimer_efficacy": 0},
    {"dimer_efficacy": 1, "receptor_ec50_nM": 1e-6},
    {"dimer_hill": 0.3},
    {"dimer_hill": 4},
    {"complex_internalisation_per_h": 0, "target_degradation_per_h": 1e-6},
    {"complex_internalisation_per_h": 0.693, "target_degradation_per_h": 0.693},
    {"clearance_l_per_h": 1e4},
    {"clearance_l_per_h": 1e-3},
    {"central_volume_l": 0.5},
    {"socs_strength": 0},
    {"socs_strength": 1, "socs_rate_per_h": 1000},
    {"rate_stat5_per_h": 1000, "kappa_stat5": 1e-3},
    {"tpo_sink_constant": 1, "tpo_sink_platelets": 0, "tpo_sink_megakaryocytes": 0, "tpo_turnover_per_h": 10},
    {"share_proliferation": 0, "share_survival": 0.5, "share_maturation": 0.5, "stat5_weight": 1},
    {"mean_transit_time_h": 1, "production_1e9_per_l_per_h": 20},
)


@cache
def patients() -> tuple[Parameters, jax.Array, jax.Array]:
    """Parameters [patients], doses [days, patients], omega [weeks, patients], the first COMPARED to be compared."""
    box, ordinary = drawn.box(64, seed=5), drawn.ordinary(3, seed=1)
    special = [typical()._replace(**{name: jnp.asarray(float(x)) for name, x in d.items()}) for d in EXTREME]
    inside = [-1, -2]  # of the box, not in its corners
    p = Parameters(
        *(
            jnp.concatenate([t[None], o, b[jnp.asarray(inside)], b, jnp.stack(s)])
            for t, o, b, *s in zip(typical(), ordinary.parameters, box.parameters, *special, strict=True)
        )
    )
    hill = p.dimer_hill.at[1:COMPARED].set(jnp.asarray([0.7, 1.3, 1.0, 2.0, 1.0]))
    first = p.absorption_rate_first_per_h
    p = p._replace(
        dimer_hill=hill,
        absorption_rate_first_per_h=first.at[UNTAKEN].set(p.absorption_rate_second_per_h[UNTAKEN]),
    )
    n = p.dimer_hill.shape[0]
    dose = np.random.default_rng(0).choice([0, 2.5, 5, 7.5], (DAYS, n), p=[0.3, 0.2, 0.3, 0.2])
    dose[:, COMPARED : COMPARED + 8] = 0
    dose[:, COMPARED + 8 : COMPARED + 16] = 75
    dose[:, COMPARED + 64] = 0
    calm = jnp.zeros((2, len(EXTREME)))
    omega = jnp.concatenate(
        [calm[:, :1], ordinary.omega[:2], box.omega[:2, jnp.asarray(inside)], box.omega[:2], calm], 1
    )
    return p, jnp.asarray(dose), omega


class Program:
    """``function`` compiled on first use for each shape; ``traces`` counts. It runs for less time than it compiles."""

    def __init__(self, function):
        self.traces = 0

        def counted(*args):
            self.traces += 1
            return function(*args)

        self.call = jax.jit(counted, compiler_options={"xla_backend_optimization_level": 0})

    def __call__(self, *args):
        return jax.tree.map(np.asarray, self.call(*args))


@cache
def readings(accuracy: str, form: Form = recorded.FORM) -> Program:
    return Program(partial(recorded.course, read_days=READ, form=form, accuracy=accuracy))


@cache
def pulled_back(accuracy: str, form: Form = recorded.FORM) -> Program:
    """(arguments, cotangent of the readings) -> readings, and cotangents of the arguments: reverse mode."""

    def function(args, cotangent):
        found, back = jax.vjp(partial(recorded.course, read_days=READ, form=form, accuracy=accuracy), *args)
        return found, back(cotangent)

    return Program(function)


@cache
def pushed_forward(accuracy: str) -> Program:
    """(arguments, their tangents) -> tangents of the readings: forward mode."""
    course = partial(recorded.course, read_days=READ, accuracy=accuracy)
    return Program(lambda args, tangents: jax.jvp(course, args, tangents)[1])


def one_reading(i: int, found: Reading) -> Reading:
    """Cotangent of reading i at the last visit, for all patients."""
    zero = [np.zeros_like(leaf) for leaf in found]
    zero[i][-1] = 1
    return Reading(*zero)


@cache
def reverse(accuracy: str) -> tuple[Reading, list]:
    """Readings, and for each of the four the derivatives of its last value."""
    program, args = pulled_back(accuracy), patients()
    shape = Reading(*(np.zeros((len(READ), args[0].dimer_hill.shape[0])) for _ in Reading._fields))
    results = [program(args, one_reading(i, shape)) for i in range(4)]
    return results[0][0], [back for _, back in results]


def columns(x, keep: int = COMPARED):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[..., :keep], x)


def varied(args: tuple, pick, times: list[float]) -> tuple:
    """Copies of the patients side by side, in which ``pick(args, factor)`` has changed one number of each."""
    copies = [pick(args, t) for t in times]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, -1), *copies)


def parameter(i: int):
    def pick(args, t):
        p = list(args[0])
        p[i] = p[i] * (1 + STEP * t)
        return (Parameters(*p), *args[1:])

    return pick


def dose(day: int):
    def pick(args, t):
        changed = args[1].copy()
        changed[day] = changed[day] * (1 + STEP * t)
        return (args[0], changed, args[2])

    return pick


def activity(week: int):
    def pick(args, t):
        changed = args[2].copy()
        changed[week] = changed[week] + STEP * t
        return (args[0], args[1], changed)

    return pick


def evaluated(accuracy: str, args: tuple) -> Reading:
    """Last readings of any number of patients, by a program of one width."""
    n, width = args[1].shape[1], len(ACTING) * len(STENCIL) * COMPARED
    wide = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[..., -1:], width - n, -1)], -1), args)
    return Reading(*(leaf[-1, :n] for leaf in readings(accuracy)(*wide)))


def differences(accuracy: str, picks: list) -> np.ndarray:
    """d log(reading) by each of ``picks`` in units of its step, [picks, 4 readings, patients].

    The peak is one point of the grid, and passes to the next within a few differences, which then are no derivative
    and become NaN: where those of second and of fourth order are more apart than smooth functions have them.
    """
    args = columns(patients())
    times = [(pick, t) for pick in picks for t, _ in STENCIL]
    found = evaluated(accuracy, varied(args, lambda a, pick_t: pick_t[0](a, pick_t[1]), times))
    log = np.log(np.stack(found)).reshape(4, len(picks), len(STENCIL), COMPARED)
    by_step = np.einsum("rpsn,s->prn", log, [w for _, w in STENCIL]) / STEP
    peak, narrow = by_step[:, 3], (log[3, :, 2] - log[3, :, 1]) / (2 * STEP)
    peak[np.abs(narrow - peak) > 1e-5 * (np.abs(peak) + 1)] = np.nan
    assert np.isnan(peak).mean() < 0.05
    return by_step


def elasticities(accuracy: str) -> np.ndarray:
    """d log(reading)/d log(parameter) by reverse mode, [45, 4 readings, patients]."""
    found, back = reverse(accuracy)
    p = columns(patients()[0])
    by = [columns(cotangents[0]) for cotangents in back]
    return np.stack([[b[i] * p[i] / columns(found)[r][-1] for r, b in enumerate(by)] for i in range(len(NAMES))])


def agree(found: np.ndarray, expected: np.ndarray, tolerance: float, names: list) -> None:
    error = np.abs(found - expected) / (np.abs(expected) + SMALL)
    if error.shape[1] == 4:
        error[:, 3, UNTAKEN] = 0  # where absorption does not switch the peak is flat, and moves from step to step
    worst = np.unravel_index(np.nanargmax(error), error.shape)
    print(f"worst error {error[worst]:.1e}: {names[worst[0]]}, {Reading._fields[worst[1]]}, patient {worst[2]}")
    assert np.isfinite(found).all() and error[worst] < tolerance


def check_against_differences(accuracy: str) -> None:
    found = elasticities(accuracy)
    assert (found[NAMES.index("immune_log_activity")] == 0).all()
    acts = np.abs(found).max((1, 2)) > 0
    assert [NAMES[i] for i in ACTING if not acts[i]] == []
    agree(found[ACTING], differences(accuracy, [parameter(i) for i in ACTING]), 1e-6, [NAMES[i] for i in ACTING])


def check_modes(accuracy: str) -> None:
    """Every parameter, every day's dose and every week's activity move at once, each at its own rate."""
    args, (_, back) = patients(), reverse(accuracy)
    rng = np.random.default_rng(1)
    tangents = jax.tree.map(lambda leaf: leaf * rng.normal(size=leaf.shape), args)
    forward = pushed_forward(accuracy)(args, tangents)
    for r, cotangents in enumerate(back):
        terms = jax.tree.map(
            lambda c, t: (c * t).reshape(-1, t.shape[-1]), cotangents, jax.tree.map(np.asarray, tangents)
        )
        terms = np.concatenate(jax.tree.leaves(terms))
        error = np.abs(terms.sum(0) - forward[r][-1])[:COMPARED]
        assert (error < 1e-10 * np.abs(terms).max(0)[:COMPARED]).all(), Reading._fields[r]


def test_every_parameter_against_central_differences():
    check_against_differences("high")


@pytest.mark.slow
def test_every_parameter_against_central_differences_on_the_default_grid():
    check_against_differences("default")
    check_modes("default")


def test_both_modes_agree():
    check_modes("high")


def test_days_of_a_dose_and_weeks_of_activity_against_central_differences():
    found, back = reverse("high")
    taken = columns(patients()[1])
    by_dose = np.stack([columns(b[1]) * taken / columns(found)[r][-1] for r, b in enumerate(back)], 1)
    by_week = np.stack([columns(b[2]) / columns(found)[r][-1] for r, b in enumerate(back)], 1)
    days = [dose(d) for d in range(DAYS)]
    agree(by_dose, differences("high", days), 1e-6, [f"dose of day {d}" for d in range(DAYS)])
    agree(by_week, differences("high", [activity(0), activity(1)]), 1e-6, ["week 0", "week 1"])
    assert (by_week[0, 1:] == 0).all() and (np.abs(by_week[:, 0]).min(0) > 0).all()  # counts only, and both weeks


def test_a_dose_that_was_not_taken_has_the_derivative_of_a_drop():
    """Where both absorption rates are one, by a one-sided difference of fourth order, before any drug and after."""
    _, back = reverse("high")
    args = columns(patients())
    days = [int(d) for d in np.flatnonzero(args[1][:, UNTAKEN] == 0)]
    assert len(days) >= 2
    only = jax.tree.map(lambda leaf: leaf[..., UNTAKEN : UNTAKEN + 1], args)
    weights = (-25 / 12, 4, -3, 4 / 3, -1 / 4)
    h = 1e-3  # mg

    def drop(a, d_i):
        changed = a[1].copy()
        changed[d_i[0]] += d_i[1] * h
        return (a[0], changed, a[2])

    found = evaluated("high", varied(only, drop, [(d, i) for d in days for i in range(len(weights))]))
    for r in range(3):  # the peak may be another day's
        by_h = found[r].reshape(len(days), -1) @ weights / h
        np.testing.assert_allclose(back[r][1][days, UNTAKEN], by_h, rtol=1e-5, atol=1e-9 * found[r][0])


def test_high_accuracy_against_the_reference_solver():
    n = 3
    picks = [(parameter(i), t) for i in ACTING for t, _ in STENCIL]
    p, doses, omega = varied(columns(patients(), n), lambda a, pick_t: pick_t[0](a, 2 * pick_t[1]), picks)

    @jax.jit
    def solve(p, doses, omega):
        found = reference.solve(p, reference.days(p, doses, omega), method="explicit", rtol=1e-9, atol=1e-13)
        last = jax.tree.map(lambda leaf: leaf[-1], found.states)
        week = (found.eliminated_nmol[-1] - found.eliminated_nmol[3 * READ[0]]) / p.clearance_l_per_h
        return jnp.stack([last.platelets_1e9_per_l, free_concentration_nM(last, p), week]), found.status

    values, status = solve(p, doses, omega)
    assert (np.asarray(status) == reference.OK).all()
    log = np.log(np.asarray(values)).reshape(3, len(ACTING), len(STENCIL), n)
    exact = np.einsum("rpsn,s->prn", log, [w for _, w in STENCIL]) / (2 * STEP)
    error = np.abs(elasticities("high")[ACTING][:, :3, :n] - exact)
    largest = np.abs(exact).max(0)
    matters = np.abs(exact) > 0.02 * largest
    relative = error[matters] / np.abs(exact)[matters]
    print(f"worst {error.max():.1e}; relative, where above 2% of the largest, {relative.max():.1e}")
    assert (error < 1e-4 * largest).all() and (relative < 1e-4).all()


def finite(back, found) -> None:
    for name, leaf in zip((*NAMES, "dose", "activity"), (*back[0], back[1], back[2]), strict=True):
        bad = np.flatnonzero(~np.isfinite(leaf).reshape(-1, leaf.shape[-1]).all(0))
        assert not bad.size, (name, bad)
    assert all(np.isfinite(leaf).all() for leaf in found)


def test_extreme_patients_have_finite_derivatives():
    found, back = reverse("high")
    for cotangents in back:
        finite(cotangents, found)


@pytest.mark.slow
def test_extreme_patients_have_finite_derivatives_in_float32_near_those_of_float64():
    """On the default grid, so that its error is in it too."""
    args = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), patients())
    program, (found, back) = pulled_back("default"), reverse("high")
    ones = jax.tree.map(lambda leaf: np.ones_like(leaf, np.float32), found)
    found_32, back_32 = program(args, ones)
    assert back_32[0].clearance_l_per_h.dtype == np.float32
    finite(back_32, found_32)
    for r in range(3):  # peaks lie on the grid
        p, near = np.stack(columns(patients()[0])), program(args, jax.tree.map(np.float32, one_reading(r, found)))[1]
        exact, near = (np.stack(columns(b[0])) * p for b in (back[r], near))
        assert (np.abs(near - exact) < 1e-2 * np.abs(exact).max(0)).all()


def test_other_values_trace_nothing_anew():
    args, program = patients(), pulled_back("high")
    found, _ = reverse("high")
    before = program.traces
    p = args[0]._replace(lag_time_h=args[0].lag_time_h * 0.9, absorption_switch_h=args[0].absorption_switch_h * 1.1)
    program((p, args[1] * 2, args[2] - 0.1), one_reading(1, found))
    assert before == program.traces == 1


@pytest.mark.slow
def test_memory_grows_with_days_and_not_with_their_steps():
    """Bytes of the compiled gradient: what a day adds is a few states, however many steps it has."""
    n = 128
    p = Parameters(*(jnp.full(n, leaf) for leaf in typical()))

    def bytes_of(days: int, accuracy: str) -> int:
        def total(p, dose):
            omega = jnp.zeros((-(-days // 7), n))
            return recorded.course(p, dose, omega, (days,), accuracy=accuracy).platelets_1e9_per_l.sum()

        compiled = jax.jit(jax.grad(total)).lower(p, jnp.ones((days, n))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    values = {a: [bytes_of(days, a) for days in (14, 28)] for a in ("default", "high")}
    print(values)
    by_day = {a: (later - early) / 14 / (8 * n) for a, (early, later) in values.items()}
    assert by_day["high"] == pytest.approx(by_day["default"], rel=0.1)
    assert 20 < by_day["default"] < 100  # numbers a patient and day; a state has 29


@pytest.mark.slow
def test_the_quasi_steady_form_and_the_plain_hill_form():
    for form in (Form("quasi-steady", hill_is_one=False), Form()):
        args = patients()
        if form.hill_is_one:
            args = (args[0]._replace(dimer_hill=jnp.ones_like(args[0].dimer_hill)), *args[1:])
        found = readings("default", form)(*args)
        _, back = pulled_back("default", form)(args, one_reading(0, found))
        finite(back, found)
        moved = readings("default", form)
        h = 1e-4
        up, down = (
            moved(args[0]._replace(receptor_ec50_nM=args[0].receptor_ec50_nM * (1 + s * h)), *args[1:]) for s in (1, -1)
        )
        by_h = (up[0][-1] - down[0][-1])[:COMPARED] / (2 * h)
        g = (back[0].receptor_ec50_nM * np.asarray(args[0].receptor_ec50_nM))[:COMPARED]
        np.testing.assert_allclose(g, by_h, rtol=1e-5)
        assert form.hill_is_one == bool((back[0].dimer_hill == 0).all())


def test_readings_are_those_of_the_visit_loop():
    """Of its XLA solver, on weekly doses and the same grid."""

    def visits(p, weekly_mg, omega):
        move = solver("xla", p, recorded.FORM, grid.accuracy("high"))

        def visit(y, w):
            y = move.advance(y, 7 * w, 7 * w + 7, drawn.to_nmol(weekly_mg[w], p), omega)
            return y, move.read(y)

        return jax.lax.scan(visit, move.start, jnp.arange(2))[1]

    p, doses, omega = columns(patients(), 64)
    weekly = doses[:: READ[0]]
    expected = Program(visits)(p, weekly, omega)
    last = evaluated("high", (p, np.repeat(weekly, 7, axis=0), omega))
    for mine, theirs in zip(last, expected, strict=True):
        np.testing.assert_allclose(mine, theirs[-1], rtol=1e-9)


@pytest.mark.parametrize("engine", ("xla", "auto"))
def test_a_titrated_course_has_no_derivative(engine):
    a = planned_arms(load_scenario("phase3"), jnp.float64)[1]
    keys = random.patient_keys(random.root(1), *np.broadcast_arrays(0, 0, np.arange(4)))

    def count(population, arm):
        visits = trial.simulate_tile(population, arm, keys, jnp.array(READ), 2, engine=engine)
        return visits.platelets_true.mean()

    def by_dose_scale(scale):
        return count(a.population, a.arm._replace(dose_scale=scale))

    for derivative in (
        lambda: jax.grad(count)(a.population, a.arm),
        lambda: jax.jvp(lambda population: count(population, a.arm), (a.population,), (a.population,)),
        lambda: jax.jit(jax.jacfwd(by_dose_scale))(1.0),
        lambda: jax.jit(jax.grad(by_dose_scale))(1.0),
    ):
        with pytest.raises(InputError, match="recorded_course"):
            derivative()


def test_bad_calls_are_told():
    p = Parameters(*(leaf[None] for leaf in typical()))
    doses, omega = jnp.ones((14, 1)), jnp.zeros((2, 1))
    for days in ((), (0, 7), (7, 7), (7, 15)):
        with pytest.raises(InputError, match="read_days"):
            recorded.course(p, doses, omega, days)
    with pytest.raises(InputError, match="14 days need 2"):
        recorded.course(p, doses, omega[:1], (14,))
    with pytest.raises(InputError, match="did you mean 'default'"):
        recorded.course(p, doses, omega, (14,), accuracy="defualt")
