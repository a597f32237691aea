"""Cases whose answer is known without this program: linear kinetics, rest, mass balance, figures of the design."""

from __future__ import annotations

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from pkpd import model
from pkpd.case import Case, DailyDoses
from pkpd.engine import reference
from pkpd.parameters import Parameters, load_library
from pkpd.profile import run_case

NMOL_PER_MG = 1e6 / 458.47
HEALTHY = {"baseline_platelets_1e9_per_l": 230.0, "production_1e9_per_l_per_h": 0.1}
FREE = "free_concentration_nM"


def case(times_h, doses=(), **parameters) -> Case:
    return Case(
        drug="hetrombopag",
        times_h=tuple(float(t) for t in times_h),
        daily_doses=tuple(DailyDoses(*row) for row in doses),
        parameters={name: float(value) for name, value in parameters.items()},
    )


def two_compartments(times_h, doses, lag, switch, ka1, ka2, CL=7.66, V=30.0, Q=5.0, Vp=150.0) -> np.ndarray:
    """Amounts in depot, centre and periphery [times, 3] by matrix exponentials between events, one after another."""

    def rates(ka):
        k10, k12, k21 = CL / V, Q / V, Q / Vp
        return np.array([[-ka, 0, 0], [ka, -(k10 + k12), k21], [0, k12, -k21]])

    arrivals = sorted((24.0 * day + lag, mg) for first, last, mg in doses for day in range(first, last + 1))
    found = []
    for end in times_h:
        now, y, turn = 0.0, np.zeros(3), -np.inf  # from the start for every time, so that no error is carried along
        events = [(t, mg) for t, mg in arrivals if t < end] + [(end, 0.0)]
        for t, mg in events:
            if turn > now:
                to = min(turn, t)
                y, now = expm(rates(ka1) * (to - now)) @ y, to
            y, now = expm(rates(ka2) * (t - now)) @ y, t
            if mg:
                y = y + np.array([mg * NMOL_PER_MG, 0, 0])
                turn = t + switch
        found.append(y)
    return np.array(found)


ABSORPTION = {
    "default": {"lag": 0.5, "switch": 3.0, "ka1": 0.05, "ka2": 0.3},
    "no lag": {"lag": 0.0, "switch": 2.0, "ka1": 0.4, "ka2": 0.1},
    "no switch": {"lag": 1.5, "switch": 0.0, "ka1": 0.4, "ka2": 0.9},
    "late switch": {"lag": 4.0, "switch": 20.0, "ka1": 0.3, "ka2": 0.05},
}
DOSES = [(0, 3, 5.0), (2, 5, 2.5), (8, 8, 40.0)]
TIMES = [
    0,
    0.5,
    0.7,
    1.5,
    2,
    3.5,
    5,
    9,
    23,
    24,
    24.5,
    27.5,
    47.9,
    48,
    50,
    72,
    73.3,
    96,
    120,
    143,
    168,
    192,
    192.6,
    196,
    216,
    300,
]


@pytest.mark.parametrize("linear", [{"target_baseline_nM": 0.0}, {"quasi_steady_state_constant_nM": 1e12}], ids=str)
@pytest.mark.parametrize("name", ABSORPTION)
def test_linear_kinetics_are_the_two_compartment_model(name, linear):
    a = ABSORPTION[name]
    parameters = {
        "lag_time_h": a["lag"],
        "absorption_switch_h": a["switch"],
        "absorption_rate_first_per_h": a["ka1"],
        "absorption_rate_second_per_h": a["ka2"],
    }
    exact = two_compartments(TIMES, DOSES, **a)
    found = run_case(case(TIMES, DOSES, **parameters, **linear))
    columns = found[["depot_nmol", "central_nmol", "peripheral_nmol", FREE]].to_numpy()
    exact = np.column_stack([exact, exact[:, 1] / 30.0])
    error = np.abs(columns - exact).max(axis=0) / exact.max(axis=0)
    assert error.max() < 1e-5, dict(zip(("depot", "central", "peripheral", "free"), error, strict=True))


def test_reference_solver_solves_the_linear_case_too():
    exact = two_compartments(TIMES[:12], DOSES[:1], **ABSORPTION["default"])
    found = run_case(case(TIMES[:12], DOSES[:1], target_baseline_nM=0.0), "reference")
    columns = found[["depot_nmol", "central_nmol", "peripheral_nmol"]].to_numpy()
    assert (np.abs(columns - exact).max(axis=0) / exact.max(axis=0)).max() < 1e-8


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-5), (True, 1e-9)], ids=["float32", "float64"])
def test_without_drug_nothing_moves(x64, tolerance):
    dtype = jnp.float64 if x64 else jnp.float32
    patients = drawn.cast(drawn.box(512, seed=4), dtype)._replace(omega=jnp.zeros((drawn.WEEKS, 512), dtype))
    P0 = np.asarray(patients.parameters.baseline_platelets_1e9_per_l)
    P = drawn.counts("kernel", patients, np.zeros((drawn.WEEKS, 512)))
    assert P.dtype == dtype
    with jax.enable_x64(x64):
        profile = run_case(case([0, 24, 1344], immune_half_saturation_1e9_per_l=5.0))
    assert np.abs(P / P0 - 1).max() < tolerance
    for name in ("platelets_1e9_per_l", "pstat5", "mk4", "tpo_relative", "target_nM"):
        assert np.abs(profile[name] / profile[name][0] - 1).max() < tolerance, name


def test_the_steady_state_is_at_rest():
    """Residual of every equation below 1e-10 of its turnover, for patients of the +-4 sd box and healthy ones."""
    for P0 in (None, 230.0):
        p = drawn.box(2000, seed=5).parameters
        if P0 is not None:
            p = p._replace(
                baseline_platelets_1e9_per_l=jnp.full(2000, P0), production_1e9_per_l_per_h=jnp.full(2000, 0.1)
            )
        s, b = model.steady_state(p)
        residual = model.rates(s, p, b, p.absorption_rate_second_per_h, jnp.zeros(2000))
        turnover = s._replace(
            depot_nmol=1.0,
            central_nmol=1.0,
            peripheral_nmol=1.0,
            target_nM=p.target_degradation_per_h * p.target_baseline_nM,
            pstat3=p.rate_stat3_per_h * s.pstat3,
            pstat5=p.rate_stat5_per_h * s.pstat5,
            pakt=p.rate_akt_per_h * s.pakt,
            perk=p.rate_erk_per_h * s.perk,
            socs=p.socs_rate_per_h,
            **dict.fromkeys(("progenitors", "mk1", "mk2", "mk3", "mk4", "platelets_1e9_per_l"), b.turnover.production),
            tpo_relative=p.tpo_turnover_per_h,
        )
        for name, r, t in zip(s._fields, residual, turnover, strict=True):
            assert np.abs(np.asarray(r) / t).max() < 1e-10, (name, P0)
        assert np.asarray(b.turnover.immune_capacity).min() >= 0
        assert (np.asarray(b.turnover.immune_capacity) == 0).all() == (P0 is not None)


def test_mass_balance():
    """Absorbed dose = amounts left + integral of CL C + integral of kint RC V."""
    patients = drawn.ordinary(4, seed=6)
    p = patients.parameters
    mg = np.array([[5.0, 7.5, 2.5, 40.0]] * 4 + [[0.0, 7.5, 0.0, 2.5]] * 3)
    found = reference.solve(p, reference.days(p, mg, np.zeros((1, 4))), method="explicit")
    s = found.states
    left = s.depot_nmol + s.central_nmol + s.peripheral_nmol
    taken = np.concatenate([np.zeros((1, 4)), np.cumsum(mg, axis=0)]) * NMOL_PER_MG
    accounted = np.asarray(left + found.eliminated_nmol + found.internalised_nmol)[::3]
    np.testing.assert_allclose(accounted, taken, rtol=1e-8)
    assert (np.asarray(found.internalised_nmol)[-1] > 0.01 * taken[-1]).all(), "the target should take its share"


def test_healthy_volunteers_gain_147_permille_by_day_6():
    P = run_case(case([0, 144], [(0, 0, 7.5)], **HEALTHY))["platelets_1e9_per_l"]
    assert 100 * (P[1] / P[0] - 1) == pytest.approx(14.7, abs=0.1)  # published +15.8%


def test_tpo_in_itp_is_23_tenths_of_healthy():
    healthy = run_case(case([0], baseline_platelets_1e9_per_l=250.0, production_1e9_per_l_per_h=0.1))
    itp = run_case(case([0]))
    assert healthy.tpo_relative[0] == pytest.approx(1, abs=1e-12)
    assert itp.tpo_relative[0] / healthy.tpo_relative[0] == pytest.approx(2.3, abs=0.05)


@pytest.mark.parametrize(("mg", "count"), [(2.5, 54.2), (5.0, 146.7), (7.5, 273.4)])
def test_a_typical_patient_at_15_left_untitrated(mg, count):
    P = run_case(case([1344], [(0, 55, mg)]))["platelets_1e9_per_l"]
    assert P[0] == pytest.approx(count, rel=2e-3)


def single_doses(mg) -> tuple[Parameters, reference.Solution]:
    """Forty days after one dose of each of ``mg``, a column each."""
    n, days = len(mg), 40
    p = Parameters(*(jnp.broadcast_to(leaf, (n,)) for leaf in load_library().parameters(jnp.float64)))
    doses = np.zeros((days, n))
    doses[0] = mg
    return p, reference.solve(p, reference.days(p, doses, np.zeros((6, n))), method="explicit")


def test_exposure_rises_more_than_in_proportion_to_the_dose():
    mg = np.array([5.0, 10.0, 20.0, 40.0])
    p, found = single_doses(mg)
    auc_per_mg = np.asarray(found.eliminated_nmol[-1] / p.clearance_l_per_h) / mg
    assert np.asarray(found.states.central_nmol)[-1].max() < 1e-6, "the area is that to infinity"
    assert (np.diff(auc_per_mg) > 0).all()
    assert auc_per_mg[-1] / auc_per_mg[0] >= 1.3

    C = np.asarray(model.free_concentration_nM(found.states, p))[::3]
    half_life = 24 * np.log(2) / np.log(C[8] / C[9])  # days 8 to 9: the terminal phase
    print("\nterminal half-life (h) after", mg, "mg:", half_life.round(1), "; published 11.9 to 40.1, rising with dose")
    assert (np.abs(half_life - 25) < 5).all() and np.ptp(half_life) < 5, "this structure's hardly depends on dose"
