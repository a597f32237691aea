"""The visit loop of an arm with a protocol: stages, visit windows, missed visits and doses (``pkpd.protocol``).

The same conventions and random numbers as ``trial.course``: a protocol of one stage with a daily dose and exact visits
gives the same courses. What happens at one visit, in this order: the patient may drop out; the count is observed;
rescue; relapse of patients off treatment; a stage begins, for whom it is meant; the patient's dose rule decides.

An arm may have a second drug, to which its patients come by a stage or by their dose rule. They take its start dose on
the day of that visit; what is left of the first drug is then followed as an equipotent amount of the second
(``pkpd.engine.two_drugs``). Exposures are of the drug taken, what is left of the other included in that way.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pkpd import cohort, endpoints, pharmacokinetics, random, titration, trial
from pkpd import protocol as codes
from pkpd.engine import grid
from pkpd.engine.two_drugs import mover
from pkpd.model import Form
from pkpd.protocol import Adherence, Protocol, Stage


class Status(NamedTuple):
    """Where each patient stands between two visits, all [patients].

    on: whether the drug is given. stage: index of the stage in force. regimen: what the patient takes in it, index of
    ``Protocol.stages``, since the day ``begun_d``. dose_mg: prescribed for an administration. last_count: the last that
    was observed, at first the baseline. seen_d: day of that visit. visit_d: day of the last visit, missed or not.
    missing: whether today's dose is missed. cmax_nM, auc_nM_h, taken_mg: since the last visit.
    """

    dosing: titration.Dosing
    on: Array
    stage: Array
    regimen: Array
    begun_d: Array
    dose_mg: Array
    last_count: Array
    rescued: Array
    relapsed: Array
    reason: Array
    seen_d: Array
    visit_d: Array
    missing: Array
    cmax_nM: Array
    auc_nM_h: Array
    taken_mg: Array


class Numbers(NamedTuple):
    """Random numbers of one visit, [patients]."""

    residual: Array
    rescue: Array
    dropout: Array


def course(
    patients: cohort.Patients, arm: trial.Arm, keys: Array, days: Array, n_weeks: int, form: Form, steps: grid.Grid,
    engine: str,
) -> trial.Visits:  # fmt: skip
    """Courses of given patients through the arm's protocol; see ``trial.simulate_tile``."""
    protocol = arm.protocol
    assert protocol is not None
    p, noise = trial.fed(patients.parameters, arm), patients.noise
    dtype, n = p.clearance_l_per_h.dtype, keys.shape[0]
    other = None if patients.second is None else trial.fed(patients.second, arm)
    move = mover(engine, p, other, form, steps)
    omega = trial.immune_activity(noise, p, keys, n_weeks, dtype)
    visit_d, missed = _attendance(protocol, keys, days)
    numbers = Numbers(
        random.normal(keys, days, "residual", dtype=dtype),
        *(random.uniform(keys, days, purpose, dtype=dtype) for purpose in ("rescue", "dropout")),
    )

    def segment(loop: tuple, xs: tuple) -> tuple[tuple, tuple]:
        y, s, record = loop
        before, end, v = xs
        second = _second(protocol, s)
        s, taken_mg, dose_nmol = _doses(protocol, s, p, other, keys, before)
        y = move.advance(y, second, before, end, dose_nmol, omega)
        now = move.read(y, second)
        s = s._replace(
            cmax_nM=jnp.maximum(s.cmax_nM, now.cmax_nM),
            auc_nM_h=s.auc_nM_h + now.auc_nM_h,
            taken_mg=s.taken_mg + taken_mg * (end - before),
        )

        def visited(s: Status, record: dict[str, Array]) -> tuple[Status, dict[str, Array]]:
            here = visit_d[v] == end
            own = jax.tree.map(lambda x: x[v], numbers)
            after, seen = _visit(protocol, s, now, own, noise, patients.body, arm, v, end, days[v], missed[v])
            s = jax.tree.map(partial(jnp.where, here), after, s)
            return s, {name: x.at[v].set(jnp.where(here, seen[name], x[v])) for name, x in record.items()}

        s, record = lax.cond(v >= 0, visited, lambda s, record: (s, record), s, record)
        if second is not None:
            y = move.change(y, second, after := _second(protocol, s))
            s = s._replace(cmax_nM=jnp.where(after != second, move.read(y, after).concentration_nM, s.cmax_nM))
        return (y, s, record), (taken_mg, second)

    s = _start(protocol, patients.baseline_1e9_per_l, n, dtype)
    ends = jnp.asarray(protocol.ends, jnp.int32)
    segments = (jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]]), ends, jnp.asarray(protocol.visit, jnp.int32))
    record = {name: jnp.zeros((days.shape[0], n), kind) for name, kind in _recorded(protocol, dtype).items()}
    (_, _, record), (segment_mg, segment_second) = lax.scan(segment, (move.start, s, record), segments)
    ng_per_ml = pharmacokinetics.ng_per_ml(jnp.ones((), dtype), p.molar_mass_g_per_mol)
    if other is not None:
        of_other = pharmacokinetics.ng_per_ml(jnp.ones((), dtype), other.molar_mass_g_per_mol)
        ng_per_ml = jnp.where(record["second"], of_other, ng_per_ml)
    for name in ("cmax_ng_per_ml", "auc_ng_h_per_ml", "trough_ng_per_ml"):
        record[name] = record[name] * ng_per_ml
    P = record["platelets_true"]
    return trial.Visits(
        **record,
        visit_d=visit_d,
        segment_mg=segment_mg,
        segment_second=segment_second,
        immune_log_activity=omega,
        baseline=patients.baseline_1e9_per_l,
        weight_kg=patients.weight_kg,
        screened=patients.screened,
        failed=~jnp.all(jnp.isfinite(P) & (P > 0), axis=0),
    )


def _second(protocol: Protocol, s: Status) -> Array | None:
    """Who takes the second drug [patients]; None in an arm of one."""
    return None if protocol.stages.second is None else jnp.asarray(protocol.stages.second, bool)[s.regimen]


def _recorded(protocol: Protocol, dtype: Any) -> dict[str, Any]:
    """What is kept of every visit, and its type."""
    numbers = (
        "platelets_true", "platelets_observed", "dose_mg", "rescue_probability", "cmax_ng_per_ml", "auc_ng_h_per_ml",
        "trough_ng_per_ml", "taken_mg",
    )  # fmt: skip
    flags = ["interrupted", "stopped", "rescued", "dropped", "missed", "relapsed"]
    flags += ["second"] if protocol.stages.second is not None else []
    codes_of = ["stage", "reason"] + (["regimen"] if protocol.enters is not None else [])
    return dict.fromkeys(numbers, dtype) | dict.fromkeys(flags, bool) | dict.fromkeys(codes_of, jnp.int32)


def _attendance(protocol: Protocol, keys: Array, days: Array) -> tuple[Array, Array]:
    """Day on which each visit takes place, and whether it is missed; [visits, patients]."""
    early, late = (jnp.asarray(x, jnp.int32) for x in (protocol.early_d, protocol.late_d))
    u = random.uniform(keys, days, "visit_day")
    shift = jnp.floor(u * (early + late + 1)).astype(jnp.int32) - early
    return days[:, None] + shift, random.uniform(keys, days, "missed_visit") < protocol.missed_visit_share


def _start(protocol: Protocol, baseline: Array, n: int, dtype: Any) -> Status:
    first = _regimen(protocol, jnp.int32(0))
    dosing = titration.start(first.rule, first.start_level, n)
    no, day_0, zero = jnp.zeros(n, bool), jnp.zeros(n, jnp.int32), jnp.zeros(n, dtype)
    on = jnp.broadcast_to(jnp.asarray(first.treated, bool), (n,))
    return Status(
        dosing=dosing, on=on, stage=day_0, regimen=day_0, begun_d=day_0, dose_mg=_prescribed(first, dosing, on, dtype),
        last_count=jnp.broadcast_to(baseline, (n,)), rescued=no, relapsed=no, reason=day_0,
        seen_d=day_0, visit_d=day_0, missing=no, cmax_nM=zero, auc_nM_h=zero, taken_mg=zero,
    )  # fmt: skip


def _regimen(protocol: Protocol, index: Array) -> Stage:
    """The regimen of that index, or of one for each patient with patients last."""
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], protocol.stages)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), own) if jnp.ndim(index) else own


def _started(regimen: Stage, n: int, nominal: Array) -> titration.Dosing:
    """Dosing of n patients who start a regimen at the visit of a day of the calendar."""
    fresh = titration.start(regimen.rule, jnp.maximum(regimen.start_level, 0), n)
    return fresh._replace(
        last_change_d=jnp.full_like(fresh.last_change_d, nominal),
        top_since_d=jnp.where(fresh.top_since_d == 0, nominal, fresh.top_since_d),
    )


def _prescribed(stage: Stage, dosing: titration.Dosing, on: Array, dtype: Any) -> Array:
    return jnp.where(on, titration.dose_mg(stage.rule, dosing, dtype) * jnp.asarray(stage.dose_scale, dtype), 0)


def _doses(protocol: Protocol, s: Status, p: Any, other: Any, keys: Array, day: Array) -> tuple[Status, Array, Array]:
    """Status with today's adherence, the dose taken on each day from ``day`` to the next end (mg), and what arrives of
    it in the gut (nmol)."""
    stages, dtype = protocol.stages, s.dose_mg.dtype
    every, loading_d, loading_mg, scale = (
        jnp.asarray(x)[s.regimen] for x in (stages.dose_every_d, stages.loading_d, stages.loading_mg, stages.dose_scale)
    )
    since = day - s.begun_d
    loading = (since < loading_d) & (s.dose_mg > 0)
    dose = jnp.where(loading, (loading_mg * scale).astype(dtype), s.dose_mg) * (since % every == 0)
    if protocol.adherence is not None:
        s = s._replace(missing=_missed(protocol.adherence, s.missing, keys, day))
        dose = dose * ~s.missing
    dose = dose * (s.reason == codes.IN_TRIAL)
    arriving = pharmacokinetics.arriving_nmol(dose, p)
    if (second := _second(protocol, s)) is not None:
        arriving = jnp.where(second, pharmacokinetics.arriving_nmol(dose, other), arriving)
    if protocol.meals is not None:
        u = random.uniform(keys, day, "meal")
        meal = jnp.searchsorted(jnp.asarray(protocol.meals.cumulative, u.dtype), u, side="right")
        arriving = arriving * jnp.asarray(protocol.meals.bioavailability_ratio, dtype)[meal]
    return s, dose, arriving


def _missed(a: Adherence, missing: Array, keys: Array, day: Array) -> Array:
    """Whether the dose of ``day`` is missed: a chain that is stationary from the first day on."""
    share = jnp.asarray(a.missed_share, jnp.float32)
    logit = jnp.log(share) - jnp.log1p(-share) + a.logit_sd * random.normal(keys, 0, "adherence_level")
    own = jax.nn.sigmoid(logit)
    run = jnp.where(jnp.asarray(a.mean_run_d) > 0, jnp.maximum(a.mean_run_d, 1), 1 / (1 - own))  # 0: days independent
    run = jnp.maximum(run, own / (1 - own))  # a share this high needs runs this long
    chance = jnp.where(missing, 1 - 1 / run, own / ((1 - own) * run))
    return random.uniform(keys, day, "adherence") < jnp.where(day == 0, own, chance)


def _visit(
    protocol: Protocol, s: Status, now: Any, numbers: Numbers, noise: Any, body: tuple, arm: trial.Arm, v: Array,
    day: Array, nominal: Array, missed: Array,
) -> tuple[Status, dict[str, Array]]:  # fmt: skip
    """Status after a visit on ``day`` and what is recorded of it, as if it took place for all patients.

    Rules of doses and of rescue count in days of the calendar (``nominal``): a visit that is a day late or early does
    not put off a step it was meant for.
    """
    dtype = s.dose_mg.dtype
    before = s
    hazard = jnp.asarray(arm.dropout_hazard_per_week, dtype) * jnp.where(
        s.last_count < protocol.low_count_1e9_per_l, jnp.asarray(protocol.low_count_hazard_ratio, dtype), 1
    )
    inside = s.reason == codes.IN_TRIAL
    leaves = inside & (numbers.dropout < -jnp.expm1(-hazard * (day - s.visit_d) / 7))
    s = s._replace(reason=jnp.where(leaves, codes.DROPPED_OUT, s.reason))
    inside &= ~leaves
    attends = inside & ~missed
    P = now.platelets_1e9_per_l
    count = jnp.where(attends, jnp.maximum(1, P * jnp.exp(noise.residual_log_sd * numbers.residual)), jnp.nan)
    interval = (day - s.seen_d).astype(dtype)
    chance = trial.rescue_probability(arm, noise, count, nominal, interval)
    chance = jnp.where(attends, chance, 0)
    s = s._replace(
        rescued=s.rescued | (numbers.rescue < chance),
        last_count=jnp.where(attends, count, s.last_count),
        seen_d=jnp.where(attends, day, s.seen_d),
        visit_d=jnp.broadcast_to(day, s.visit_d.shape),
    )
    s = _relapse(protocol, s, count, day, nominal)
    s, carries_on = _begin(protocol, s, v, day, nominal)
    shared = protocol.enters is None
    regimen = _regimen(protocol, jnp.asarray(protocol.stage_of_visit)[v] if shared else s.regimen)
    decided, action = titration.decision(regimen.rule, s.dosing, count, nominal, *body)
    acts = attends & s.on & carries_on & (s.reason == codes.IN_TRIAL)
    dosing = jax.tree.map(partial(jnp.where, acts), decided, s.dosing)
    zero = jnp.zeros_like(s.auc_nM_h)
    seen = dict(
        platelets_true=P, platelets_observed=count, dose_mg=before.dose_mg * (before.reason == codes.IN_TRIAL),
        interrupted=before.dosing.interrupted, stopped=before.dosing.stopped, rescue_probability=chance,
        rescued=s.rescued, dropped=~inside, cmax_ng_per_ml=s.cmax_nM, auc_ng_h_per_ml=s.auc_nM_h,
        trough_ng_per_ml=now.concentration_nM, missed=inside & missed, stage=before.stage, taken_mg=s.taken_mg,
        relapsed=s.relapsed, reason=s.reason,
    )  # fmt: skip
    seen |= {"regimen": before.regimen, "second": _second(protocol, before)}
    if protocol.switches_to is not None:
        switches = acts & (action == titration.SWITCH)
        s = s._replace(
            regimen=jnp.where(switches, jnp.asarray(protocol.switches_to)[s.regimen], s.regimen),
            begun_d=jnp.where(switches, day, s.begun_d),
        )
        regimen = _regimen(protocol, s.regimen)
        dosing = jax.tree.map(partial(jnp.where, switches), _started(regimen, s.on.shape[0], nominal), dosing)
    s = s._replace(dosing=dosing, dose_mg=_prescribed(regimen, dosing, s.on, dtype))
    return s._replace(cmax_nM=now.concentration_nM, auc_nM_h=zero, taken_mg=zero), seen


def _relapse(protocol: Protocol, s: Status, count: Array, day: Array, nominal: Array) -> Status:
    """A count below the stage's limit in a patient off treatment, and what follows."""
    limit, at_relapse = (jnp.asarray(x)[s.regimen] for x in (protocol.stages.relapse_below, protocol.stages.at_relapse))
    relapses = ~s.on & ~s.relapsed & (count < limit)
    restarts = relapses & (at_relapse == codes.RESTART)
    leaves = relapses & (at_relapse == codes.LEAVE_AT_RELAPSE)
    at_top = s.dosing.level == jnp.asarray(protocol.stages.rule.top)[s.regimen]
    dosing = s.dosing._replace(
        interrupted=s.dosing.interrupted & ~restarts,
        stopped=s.dosing.stopped & ~restarts,
        last_change_d=jnp.where(restarts, nominal, s.dosing.last_change_d),
        top_since_d=jnp.where(restarts, jnp.where(at_top, nominal, titration.NEVER), s.dosing.top_since_d),
    )
    return s._replace(
        dosing=dosing,
        relapsed=s.relapsed | relapses,
        on=s.on | restarts,
        begun_d=jnp.where(restarts, day, s.begun_d),
        reason=jnp.where(leaves, codes.RELAPSED, s.reason),
    )


def _begin(protocol: Protocol, s: Status, v: Array, day: Array, nominal: Array) -> tuple[Status, Array]:
    """The stage that begins with visit ``v``, if one does; and who carries on with a dose, whom its rule may change."""
    index = jnp.asarray(protocol.stage_of_visit)[v]
    steps = () if protocol.enters is None else (protocol.enters, protocol.others)
    entered, other = (jnp.asarray(x)[index][s.regimen] for x in steps) if steps else (index, index)
    stage, begins = _regimen(protocol, entered), jnp.asarray(protocol.begins)[v]
    inside = s.reason == codes.IN_TRIAL
    responds = (s.last_count >= endpoints.RESPONSE_COUNT) & ~s.rescued
    eligible = jnp.where(stage.who == codes.ALL, True, responds == (stage.who == codes.RESPONDERS))
    leaves = begins & inside & ~eligible & (stage.others == codes.LEAVE)
    enters = begins & inside & eligible
    treated, new_start = jnp.asarray(stage.treated, bool), jnp.asarray(stage.start_level) >= 0
    starts = enters & treated & new_start
    off = begins & inside & jnp.where(eligible, ~treated, stage.others == codes.OFF)
    begun = begins & inside & ~leaves
    stays = ~eligible & (stage.others == codes.STAY_ON)
    return (
        s._replace(
            dosing=jax.tree.map(partial(jnp.where, starts), _started(stage, s.on.shape[0], nominal), s.dosing),
            on=(s.on | starts) & ~off,
            stage=jnp.where(begun, index, s.stage),
            regimen=jnp.where(begun, jnp.where(eligible, entered, other), s.regimen),
            begun_d=jnp.where(begun & ~stays, day, s.begun_d),
            reason=jnp.where(leaves, codes.NOT_ELIGIBLE, s.reason),
        ),
        ~starts,
    )
