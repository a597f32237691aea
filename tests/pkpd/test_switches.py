"""A second active drug in an arm, by a stage or by the dose rule, against a plain controller; what is carried over."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pkpd import cohort, model, pharmacokinetics, protocol, random, trial
from pkpd.engine import fast, grid, two_drugs
from pkpd.errors import InputError
from pkpd.model import DYNAMIC
from pkpd.parameters import Parameters, load_library
from pkpd.planned import planned_arms
from pkpd.regimens import regimens_of
from pkpd.scenario import build, load_scenario
from pkpd.scenario_text import describe
from pkpd.tables import schema
from tests.pkpd import both_drugs, plain_controller
from tests.pkpd.test_staged import ACTIVE, PLACEBO, RULE, TAPER, WEEKS, run, scenario

ELTROMBOPAG = RULE | {"levels_mg": [25, 50, 75]}
SWITCHING = {
    "levels_mg": RULE["levels_mg"],
    "bands": [
        {"action": "switch", "below": 50, "min_days_at_top_below": 28},
        {"action": "interrupt", "above": 250},
        {"action": "resume_lower", "below": 150},
        {"action": "down", "above": 200},
        {"action": "up", "below": 50, "every_d": 14, "min_days_since_change": 14},
    ],
}
RULES = {
    "usual": RULE, "switching": SWITCHING, "eltrombopag": ELTROMBOPAG, "taper": TAPER,
    "taper of eltrombopag": TAPER | {"levels_mg": [25, 50, 75]},
}  # fmt: skip
TO = {"drug": "eltrombopag", "start_dose_mg": 50, "titration": "eltrombopag"}
ARMS = [
    ACTIVE | {"titration": "switching", "switch_to": TO},
    PLACEBO | {"titration": "switching", "switch_to": TO},
    ACTIVE | {"name": "one drug", "titration": "switching", "switch_to": {**TO, "drug": "hetrombopag",
                                                                        "start_dose_mg": 2.5, "titration": "usual"}},
]  # fmt: skip
STAGES = [
    {"name": "first line", "until_d": 84},
    {
        "name": "second line", "until_d": 140, "who": "non-responders", "others": "stay",
        "arms": {"active": {"drug": "eltrombopag", "start_dose_mg": 25, "titration": "eltrombopag"}},
    },
    {
        "name": "taper", "until_d": 168, "titration": "taper", "switched": {"titration": "taper of eltrombopag"},
        "arms": {"active": {"titration": "taper of eltrombopag", "switched": {"titration": "taper"}}},
    },
    {
        "name": "withdrawal", "until_d": 224, "treatment": "off", "titration": "usual",
        "switched": {"titration": "eltrombopag"}, "relapse_below_1e9_per_l": 30, "at_relapse": "restart",
        "arms": {"active": {"titration": "eltrombopag", "switched": {"titration": "usual"}}},
    },
]  # fmt: skip
VISITS = [*range(7, 57, 7), *range(70, 141, 14), *range(147, 225, 7)]


@pytest.mark.parametrize("arm", [0, 1, 2])
def test_every_dose_drug_and_status_is_that_of_a_plain_controller(arm):
    design = scenario(
        trial={"visits_d": VISITS, "visit_window_d": [1, 2], "missed_visit_share": 0.08},
        arms=ARMS, stages=STAGES, titration=RULES,
        dropout={"hazard_per_week": 0.01, "low_count_1e9_per_l": 20, "low_count_hazard_ratio": 3.0},
    )  # fmt: skip
    v = run(design, arm=arm)
    leaves = np.diff((v.reason == protocol.DROPPED_OUT).astype(int), axis=0, prepend=0) == 1
    newly_rescued = np.diff(v.rescued.astype(int), axis=0, prepend=0) == 1
    # the plain controller has the switching rule in words of its own: the usual one, whose failures switch
    rows = {
        "titration": RULES | {"switching": RULE | {"at_failure": "switch"}}, "stages": STAGES, "visits_d": VISITS,
    }  # fmt: skip
    drugs = []
    for i in range(200):
        seen = {
            "missed": np.isnan(v.platelets_observed[:, i]).tolist(),
            "count": v.platelets_observed[:, i].tolist(),
            "drops_out": leaves[:, i].tolist(),
            "rescue": newly_rescued[:, i].tolist(),
        }
        told = plain_controller.course(rows, ARMS[arm], float(v.baseline[i]), seen)
        for name in ("dose_mg", "interrupted", "stopped", "stage", "rescued", "relapsed", "dropped"):
            assert [row[name] for row in told] == getattr(v, name)[:, i].tolist(), (name, i)
        assert [row["reason"] or "in the trial" for row in told] == [protocol.REASONS[r] for r in v.reason[:, i]]
        drugs.append([row["drug"] for row in told])
        if arm == 0:
            assert [drug == "eltrombopag" for drug in drugs[-1]] == v.second[:, i].tolist()
    drugs = np.array(drugs).T
    assert v.relapsed.any() and v.stopped.any() and v.interrupted.any()
    if arm == 0:
        by_rule, by_stage = drugs[VISITS.index(84)] == "eltrombopag", drugs[VISITS.index(98)] == "eltrombopag"
        assert by_rule.sum() > 5 and (by_stage & ~by_rule).sum() > 5 and not by_stage.all()
        assert ((v.dose_mg > 0) & ~v.second)[VISITS.index(154)].any()  # those who stayed taper what they had
    else:
        assert v.second is None and v.segment_second is None
    if arm == 1:
        assert set(np.unique(drugs)) == {"placebo", "eltrombopag"}


@pytest.mark.parametrize("engine", ["xla", "kernel"])
def test_what_is_left_of_a_drug_counts_as_as_much_of_the_other(engine):
    """At the change platelets stay and the receptor is as occupied as before; by the same patients, both ways."""
    n = 64
    p, q = (_patients(drug, n) for drug in ("hetrombopag", "eltrombopag"))
    move = two_drugs.mover(engine, p, q, DYNAMIC, grid.DEFAULT)
    omega, first = jnp.zeros((8, n), jnp.float32), jnp.zeros(n, bool)
    some = jnp.arange(n) % 2 == 0

    @jax.jit
    def course() -> tuple:
        y = move.advance(move.start, first, 0, 28, jnp.full(n, 1e4, jnp.float32), omega)
        before = move.read(y, first)
        y = move.change(y, first, some)
        changed = move.read(y, some)
        back = move.read(move.change(y, some, first), first)
        return before, changed, back

    before, changed, back = course()
    np.testing.assert_array_equal(changed.platelets_1e9_per_l, before.platelets_1e9_per_l)
    potency = np.where(some, q.receptor_ec50_nM / p.receptor_ec50_nM, 1)
    np.testing.assert_allclose(changed.concentration_nM, before.concentration_nM * potency, rtol=2e-4)
    np.testing.assert_allclose(back.concentration_nM, before.concentration_nM, rtol=2e-3)


def test_of_linear_drugs_the_area_that_is_left_stays_relative_to_ec50():
    n = 32
    p = _patients("eltrombopag", n)
    q = p._replace(
        clearance_l_per_h=3 * p.clearance_l_per_h, peripheral_volume_l=2 * p.peripheral_volume_l,
        receptor_ec50_nM=5 * p.receptor_ec50_nM,
    )  # fmt: skip
    move = two_drugs.mover("xla", p, q, DYNAMIC, grid.DEFAULT)
    omega, no, yes = jnp.zeros((64, n), jnp.float32), jnp.zeros(n, bool), jnp.ones(n, bool)

    @jax.jit
    def left() -> tuple:
        y = move.advance(move.start, no, 0, 28, jnp.full(n, 1e5, jnp.float32), omega)
        stays = move.advance(y, no, 28, 400, jnp.zeros(n, jnp.float32), omega)
        goes = move.advance(move.change(y, no, yes), yes, 28, 400, jnp.zeros(n, jnp.float32), omega)
        return move.read(stays, no).auc_nM_h, move.read(goes, yes).auc_nM_h

    stays, goes = left()
    np.testing.assert_allclose(goes / q.receptor_ec50_nM, stays / p.receptor_ec50_nM, rtol=2e-3)


def test_counts_after_a_switch_are_nearly_those_of_both_drugs_followed_side_by_side():
    p, q = (load_library(drug).parameters(jnp.float64) for drug in ("hetrombopag", "eltrombopag"))
    exact = both_drugs.counts((p, q), [(7.5, 0.0)] * 14 + [(0.0, 50.0)] * 10)
    n = 2
    move = two_drugs.mover("kernel", *(_broadcast(x, n) for x in (p, q)), DYNAMIC, grid.DEFAULT)
    omega, no, yes = jnp.zeros((4, n)), jnp.zeros(n, bool), jnp.ones(n, bool)
    doses = [pharmacokinetics.arriving_nmol(jnp.full(n, mg), x) for mg, x in ((7.5, p), (50.0, q))]

    @jax.jit
    def course() -> tuple[jax.Array, list[jax.Array]]:
        y = move.advance(move.start, no, 0, 14, doses[0], omega)
        at_change, y = move.read(y, no), move.change(y, no, yes)
        found = []
        for day in range(14, 24):
            y = move.advance(y, yes, day, day + 1, doses[1], omega)
            found.append(move.read(y, yes).platelets_1e9_per_l)
        return at_change.platelets_1e9_per_l, found

    at_change, found = course()
    assert at_change[0] == pytest.approx(exact[13], rel=2e-3)
    error = np.abs(np.array(found)[:, 0] / exact[14:] - 1)
    assert error.max() < 0.02


def test_the_reference_solver_is_handed_what_the_fast_engine_is():
    p, q = (_broadcast(load_library(drug).parameters(jnp.float64), 3) for drug in ("hetrombopag", "eltrombopag"))
    at_rest = model.steady_state(p)[0]
    s = model.State(*(jnp.broadcast_to(leaf, (3,)) for leaf in at_rest))
    s = s._replace(
        depot_nmol=s.depot_nmol + 5, central_nmol=s.central_nmol + 2000, peripheral_nmol=s.central_nmol + 9000
    )
    zero = jnp.zeros(3)
    by_state = two_drugs._converted((s, zero, zero), p, q)[0]
    carried = two_drugs._converted(fast.carry(s, fast.course(p), DYNAMIC), p, q)
    by_carry = fast.state(carried, fast.course(q))
    for name, a, b in zip(model.State._fields, by_state, by_carry, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(by_state[4:], s[4:])


def _broadcast(p: Parameters, n: int) -> Parameters:
    return Parameters(*(jnp.broadcast_to(leaf, (n,)) for leaf in p))


def _patients(drug: str, n: int):
    keys = random.patient_keys(random.root(4), *(jnp.zeros(n, jnp.int32),) * 2, jnp.arange(n))
    return cohort.draw(load_library(drug).population(), keys, jnp.asarray(30.0)).parameters


def test_a_switch_to_the_same_drug_and_dose_changes_nothing_beyond_rounding():
    stages = [{"name": "a", "until_d": 28}, {"name": "b", "until_d": 56}]
    design = scenario({"titration": "none"}, stages=stages, rescue={"enabled": False})
    (a,) = planned_arms(design)
    assert a.arm.protocol.stages.second is None
    stages = a.arm.protocol.stages._replace(second=np.array([False, True]))
    arm = a.arm._replace(protocol=a.arm.protocol._replace(stages=stages))
    days = tuple(design.trial.visits_d)
    (plain,) = trial.simulate(a.population, a.arm, days, 1, range(200))
    (same,) = trial.simulate(a.population._replace(second=a.population), arm, days, 1, range(200))
    np.testing.assert_array_equal(same.second[:, 0], np.array(WEEKS) > 28)
    for name in ("platelets_true", "platelets_observed", "cmax_ng_per_ml", "auc_ng_h_per_ml", "trough_ng_per_ml"):
        np.testing.assert_allclose(getattr(same, name), getattr(plain, name), rtol=2e-4, err_msg=name)
    np.testing.assert_array_equal(same.dose_mg, plain.dose_mg)


def test_long_after_a_switch_patients_are_as_if_they_had_taken_the_second_drug_from_the_start():
    """The same patients with the same random effects; exposures in ng/mL of the drug taken."""
    visits_d = [28, 56, 84, 112]
    stages = [
        {"name": "a", "until_d": 28},
        {"name": "b", "until_d": 112, "drug": "eltrombopag", "start_dose_mg": 50, "titration": "none"},
    ]
    fixed = {"titration": "none"}
    both = run(scenario(fixed, trial={"visits_d": visits_d}, stages=stages), 100)
    only = run(scenario(fixed | {"drug": "eltrombopag", "start_dose_mg": 50.0}, trial={"visits_d": visits_d}), 100)
    first = run(scenario(fixed, trial={"visits_d": visits_d}), 100)
    for name in ("cmax_ng_per_ml", "auc_ng_h_per_ml", "trough_ng_per_ml"):
        there = getattr(both, name)
        np.testing.assert_array_equal(there[0], getattr(first, name)[0], err_msg=name)
        ordinary = np.median(np.abs(there[-1] / getattr(only, name)[-1] - 1))
        assert ordinary < 1e-3, name
    np.testing.assert_allclose(both.platelets_true[-1], only.platelets_true[-1], rtol=0.02)
    np.testing.assert_array_equal(both.dose_mg[:, 0], [5, 50, 50, 50])


@pytest.mark.parametrize("screening", ["", "screening={visits_d=[-14, -7]}"])
def test_the_two_drugs_are_taken_by_the_same_patients(screening):
    a = planned_arms(load_scenario("switch_at_failure", [screening] * bool(screening)))[0]
    keys = random.patient_keys(random.root(4), *(jnp.zeros(200, jnp.int32),) * 2, jnp.arange(200))
    draw = (keys, a.arm.baseline_below, a.arm.table, a.arm.screen)
    first, second = (trial.drawn(population, *draw) for population in (a.population, a.population.second))
    for name in (*schema()["physiology"], "dimer_efficacy"):
        np.testing.assert_array_equal(*(getattr(x.parameters, name) for x in (first, second)), err_msg=name)
    np.testing.assert_array_equal(first.weight_kg, second.weight_kg)
    for name in ("receptor_ec50_nM", "central_volume_l", "peripheral_volume_l"):
        ratio = getattr(second.parameters, name) / getattr(first.parameters, name)
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5, err_msg=name)


def test_regimens_of_an_arm_and_how_patients_come_to_them():
    design = scenario(arms=ARMS, stages=STAGES, titration=RULES, trial={"visits_d": VISITS})
    found = regimens_of(design, design.arms[0])
    drugs = [(r.drug, r.titration) for r in found.regimens]
    assert drugs[:2] == [("hetrombopag", "switching"), ("eltrombopag", "eltrombopag")]
    assert found.switches_to[0] == 1 and found.enters[1][0] == found.enters[1][1] == 2
    assert found.others[1][:2].tolist() == [0, 1]  # who stays keeps the regimen
    tapers = {drugs[found.enters[2][r]] for r in (0, 1, 2)}
    assert tapers == {("hetrombopag", "taper"), ("eltrombopag", "taper of eltrombopag")}
    (a, placebo, same) = planned_arms(design)
    assert (a.drug, a.second_drug) == ("hetrombopag", "eltrombopag") and a.population.second is not None
    assert (placebo.drug, placebo.second_drug) == ("eltrombopag", "") and placebo.population.second is None
    assert (same.drug, same.second_drug) == ("hetrombopag", "")
    np.testing.assert_array_equal(protocol.doses_mg(a.arm.protocol.stages), RULE["levels_mg"])
    np.testing.assert_array_equal(protocol.doses_mg(a.arm.protocol.stages, second=True), [25, 50, 75])


def test_who_is_off_treatment_keeps_the_ladder_of_the_last_dose():
    """Of a stage with a new ladder, patients who do not enter it know nothing: a restart is of the dose they had."""
    other = RULE | {"levels_mg": [1, 2]}
    stages = [
        {"name": "a", "until_d": 28},
        {"name": "b", "until_d": 42, "who": "responders", "others": "off", "start_dose_mg": 2.0, "titration": "other"},
        {"name": "c", "until_d": 56, "treatment": "off", "relapse_below_1e9_per_l": 1000, "at_relapse": "restart"},
    ]
    v = run(scenario(stages=stages, titration={"usual": RULE, "other": other}, rescue={"enabled": False}), 300)
    enters = v.platelets_observed[3] >= 50
    assert set(np.unique(v.dose_mg[4:6, enters])) <= {0, 1, 2} and np.all(v.dose_mg[4:6, ~enters] == 0)
    restarted = v.dose_mg[7] > 0  # at the visit on day 42 or 49
    assert set(np.unique(v.dose_mg[7, restarted & ~enters])) <= set(RULE["levels_mg"])
    assert set(np.unique(v.dose_mg[7, restarted & enters])) <= {1, 2}
    assert (restarted & ~enters).any() and (restarted & enters).any()


def test_the_shipped_scenario_switches_failing_patients_only_and_says_so():
    design = load_scenario("switch_at_failure")
    text = describe(design)
    for part in (
        "who switches: eltrombopag, start 50 mg, titration eltrombopag",
        "1. after 28 days at 7.5 mg with every count below 50: switch to the second drug",
    ):
        assert part in text
    switching, alone = (run(design, 2000, arm=arm) for arm in (0, 1))
    fails = alone.stopped
    assert 0.1 < fails[-1].mean() < 0.4
    before = ~fails & ~switching.second  # until either happens the two arms are the same patients on the same doses
    np.testing.assert_array_equal(switching.dose_mg[before], alone.dose_mg[before])
    at_56 = design.trial.visits_d.index(56)
    np.testing.assert_array_equal(switching.second[: at_56 + 1], fails[: at_56 + 1])
    responds = [(v.platelets_observed[-1] >= 50)[fails[-1]].mean() for v in (switching, alone)]
    assert responds[0] > responds[1]


def data(**changes) -> dict:
    """A scenario of two drugs with changes by arm key, and of stages and rules."""
    arm = {**ARMS[0], **changes.pop("arm", {})}
    arm = {key: value for key, value in arm.items() if value is not None}
    whole = {
        "trial": {"visits_d": VISITS}, "arms": [arm], "stages": [{"name": "all", "until_d": 224}],
        "entry": {"platelets_below_1e9_per_l": 30}, "titration": RULES,
    }  # fmt: skip
    return whole | changes


THIRD = [
    {"name": "a", "until_d": 84},
    {"name": "b", "until_d": 224, "who": "non-responders", "others": "stay", "titration": "taper of eltrombopag"},
]
BAD = [
    ({"arm": {"switch_to": None}}, "titration switching: its action 'switch' needs switch_to of the arm"),
    ({"arm": {"titration": "usual"}}, "switch_to: no dose rule of the arm says when; legal: with a row of action"),
    ({"arm": {"switch_to": {**TO, "drug": "placebo"}}}, "switch_to.drug"),
    ({"arm": {"switch_to": {**TO, "start_dose_mg": 30}}}, "switch_to: start_dose_mg = 30.0 is not on the ladder"),
    ({"arm": {"switch_to": {**TO, "titration": "nothing"}}}, "switch_to: titration = 'nothing' is not defined"),
    ({"arm": {"switch_to": {**TO, "drug": "hetrombopag", "start_dose_mg": 5, "titration": "switching"}}},
     "has the action 'switch' again"),
    ({"arm": {"switch_to": {"drug": "eltrombopag"}}}, "start_dose_mg is missing"),
    ({"arm": {"switch_to": {**TO, "dose_mg": 5}}}, "unknown key 'dose_mg'"),
    ({"arm": {"meal": "meal_2h_after"}}, "meal: the arm takes hetrombopag and eltrombopag; legal: one drug, or"),
    ({"stages": THIRD}, "its levels are not those of the stage before ([2.5, 3.75, 5.0, 7.5])"),
    ({"stages": [{"name": "all", "until_d": 224, "switched": {"titration": "taper"}}]}, "legal: name, until_d"),
    ({"arm": {"titration": "usual", "switch_to": None},
      "stages": [THIRD[0], {"name": "b", "until_d": 224, "switched": {"titration": "taper"}}]},
     "stages[2].switched: nobody takes another drug than the arm"),
    ({"stages": [THIRD[0], {"name": "b", "until_d": 224, "who": "responders", "others": "carry on"}]}, "others"),
    ({"stages": [THIRD[0], {"name": "b", "until_d": 224, "others": "stay"}]}, "there are none"),
    ({"titration": RULES | {"switching": SWITCHING | {"bands": [{"action": "swich", "below": 50}]}}}, "action"),
    ({"arm": {"switch_to": {**TO, "start_dose_mg": 5, "titration": "usual"}, "titration": "switching"},
      "stages": [THIRD[0], {"name": "b", "until_d": 224, "titration": "usual"}]}, "a rule for each drug"),
    ({"parameters": {"receptor_ec50_nM": 20.0}}, "which drug is meant, eltrombopag or hetrombopag"),
    ({"trial": {"visits_d": VISITS, "design": "crossover"}, "stages": []}, "meals and switches"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), BAD)
def test_bad_switches_are_one_clear_error(changes, told):
    with pytest.raises(InputError) as error:
        build(data(**dict(changes)), "s.toml")
    message = str(error.value)
    assert message.startswith("s.toml: ") and told in message and "\n" not in message
