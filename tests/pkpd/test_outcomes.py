"""Endpoints by name and estimands, each against its words in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkpd import outcomes, protocol
from pkpd.errors import InputError
from pkpd.estimands import Estimand, carried_forward, describe, read
from pkpd.outcomes import Outcome, outcome
from pkpd.trial import Visits
from pkpd.validated import validate

DAYS = [7, 14, 21, 28, 42, 56, 63, 70, 77, 84]
V = len(DAYS)


def visits(count, baseline=(20.0,), **fields) -> Visits:
    """Visits of patients whose observed counts [visits, patients] are given, nan where there is none."""
    count = np.asarray(count, np.float64).reshape(V, -1)
    no = np.zeros(count.shape, bool)
    known = dict(rescued=no, dropped=no, stopped=no, relapsed=no, stage=np.zeros(count.shape, int)) | fields
    return Visits(
        platelets_true=count, platelets_observed=count, dose_mg=count, interrupted=no, rescue_probability=count,
        cmax_ng_per_ml=count, auc_ng_h_per_ml=count, trough_ng_per_ml=count, immune_log_activity=count,
        baseline=np.broadcast_to(np.asarray(baseline), count.shape[1:]), weight_kg=np.full(count.shape[1:], 60.0),
        failed=no[0], **known,
    )  # fmt: skip


def found(name: str, v: Visits, until: int = V, stages=None, **estimand) -> Outcome:
    return outcome(name, v, read(v, Estimand(**estimand)), DAYS, until, stages)


counts = st.lists(st.sampled_from([5.0, 29.0, 31.0, 49.9, 50.0, 120.0, 251.0, 401.0, math.nan]), min_size=V, max_size=V)
since = st.integers(0, V)  # index of the visit of an event; V: never


def from_visit(index: int) -> np.ndarray:
    return (np.arange(V) >= index)[:, None]


@settings(deadline=None, derandomize=True, max_examples=200)
@given(counts, since, st.integers(1, V))
def test_endpoints_are_what_their_words_say(count, rescue, until):
    v = visits(count, rescued=from_visit(rescue))
    kept, days = count[:until], DAYS[:until]
    responds = [c >= 50 and w < rescue for w, c in enumerate(kept)]
    expected = {
        "response_any": any(responds),
        "response_75": sum(responds) >= 0.75 * until,
        "durable_response": sum(responds[-8:]) >= 6,
        "response_30_doubled": any(c >= 40 and w < rescue for w, c in enumerate(kept)),
        "rescue": rescue < until,
        "overshoot_250": any(c > 250 for c in kept),
        "overshoot_400": any(c > 400 for c in kept),
        "days_above_250": sum(d - b for c, d, b in zip(kept, days, [0, *days], strict=False) if c > 250),
        "days_above_400": sum(d - b for c, d, b in zip(kept, days, [0, *days], strict=False) if c > 400),
        "share_in_range": sum(d - b for c, d, b in zip(kept, days, [0, *days], strict=False) if 50 <= c <= 250)
        / days[-1],
        "total_response_d": sum(
            days[w] - days[w - 1] for w in range(1, until) if responds[w] and responds[w - 1]
        ),
    }  # fmt: skip
    run = longest = 0
    for w in range(1, until):
        run = run + days[w] - days[w - 1] if responds[w] and responds[w - 1] else 0
        longest = max(longest, run)
    expected["longest_response_d"] = longest
    for name, value in expected.items():
        assert found(name, v, until).value[0] == pytest.approx(value), name
    time = found("time_to_first_response", v, until)
    last_seen = max((d for c, d in zip(kept, days, strict=True) if not math.isnan(c)), default=0)
    if any(responds):
        assert (time.value[0], time.event[0]) == (days[responds.index(True)], True)
    else:
        assert (time.value[0], time.event[0]) == (days[-1] if rescue < until else last_seen, False)
    time = found("time_to_rescue", v, until)
    assert (time.value[0], time.event[0]) == ((DAYS[rescue], True) if rescue < until else (last_seen, False))
    for week in (1, 8):
        at = DAYS.index(7 * week)
        assert found(f"response_week_{week}", v).value[0] == (count[at] >= 50 and at < rescue)
        np.testing.assert_equal(found(f"log_count_week_{week}", v).value[0], np.log(count[at]))
        np.testing.assert_equal(found(f"log_fold_week_{week}", v).value[0], np.log(count[at]) - np.log(20))
    np.testing.assert_equal(found("log_counts", v, until).value[:, 0], np.log(kept))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(counts, since, st.integers(0, V - 1), st.integers(1, V))
def test_a_window_has_its_own_visits_alone(count, rescue, start, length):
    until = min(V, start + length)
    v = visits(count, rescued=from_visit(rescue))
    kept, days = count[start:until], DAYS[start:until]
    responds = [c >= 50 and w < rescue for w, c in enumerate(kept, start)]
    before = [0, *DAYS][start : start + len(kept)]
    inside = [d - b for c, d, b in zip(kept, days, before, strict=True) if 50 <= c <= 250]
    pairs = [k for k in range(1, len(days)) if responds[k] and responds[k - 1]]
    expected = {
        "response_any": any(responds),
        "response_75": sum(responds) >= 0.75 * len(days),
        "durable_response": sum(responds[-8:]) >= 6,
        "response_30_doubled": any(c >= 40 and w < rescue for w, c in enumerate(kept, start)),
        "overshoot_250": any(c > 250 for c in kept),
        "days_above_400": sum(d - b for c, d, b in zip(kept, days, before, strict=True) if c > 400),
        "share_in_range": sum(inside) / (days[-1] - before[0]),
        "total_response_d": sum(days[k] - days[k - 1] for k in pairs),
    }
    for name, value in expected.items():
        assert outcomes.starts_later(name)
        own = outcome(name, v, read(v, Estimand()), DAYS, until, start=start)
        assert own.value[0] == pytest.approx(value), name
    logs = outcome("log_counts", v, read(v, Estimand()), DAYS, until, start=start).value[:, 0]
    np.testing.assert_equal(logs, np.log(kept))


def test_exposure_at_a_week_is_that_of_the_interval_and_of_those_who_stay():
    rng = np.random.default_rng(1)
    exposure = {
        name: rng.uniform(1, 9, (V, 3)) for name in ("dose_mg", "cmax_ng_per_ml", "auc_ng_h_per_ml", "trough_ng_per_ml")
    }
    dropped = np.stack([from_visit(k)[:, 0] for k in (V, 5, V)], axis=1)
    v = visits(np.full((V, 3), 60.0), dropped=dropped)._replace(**exposure)
    for name, at, days in (
        ("cmax_ng_per_ml", 3, 1),
        ("trough_ng_per_ml", 5, 1),
        ("dose_mg", 9, 1),
        ("auc_ng_h_per_ml", 5, 14),
    ):
        value = found(f"{name}_week_{DAYS[at] // 7}", v).value
        expected = np.where(dropped[at], np.nan, exposure[name][at] / days)
        np.testing.assert_allclose(value, expected)
    late = np.tile(np.array(DAYS)[:, None] + 1, (1, 3))
    late[4] += 1  # visits on days of their own: week 6 ends a day later, and its interval is a day longer
    week_6 = found("auc_ng_h_per_ml_week_6", v._replace(visit_d=late)).value
    np.testing.assert_allclose(week_6, exposure["auc_ng_h_per_ml"][4] / 15)


def test_every_name_has_a_kind_and_nothing_else_has():
    assert all(outcomes.kind(name) for name in outcomes.names())
    assert [outcomes.kind(n) for n in ("response_week_0", "response", "log_counts_week_8", "durable")] == [None] * 4
    assert (outcomes.week_of("log_fold_week_12"), outcomes.week_of("response_any")) == (12, None)


STAGES = protocol.Stage(
    rule=None, start_level=0, dose_scale=1, treated=np.array([True, False]), relapse_below=np.array([0.0, 30.0])
)


def test_relapse_is_of_those_who_entered_the_stage_off_treatment():
    stage = np.repeat([[0], [1]], [4, 6], axis=0) * np.array([[1, 1, 0, 1]])
    relapsed = np.stack([from_visit(k)[:, 0] for k in (6, V, V, V)], axis=1)
    dropped = np.stack([from_visit(k)[:, 0] for k in (V, V, 4, 7)], axis=1)
    count = np.where(dropped, np.nan, 60.0)
    v = visits(count, baseline=20.0, stage=stage, relapsed=relapsed, dropped=dropped)
    whether, time = found("relapse", v, stages=STAGES), found("time_to_relapse", v, stages=STAGES)
    np.testing.assert_array_equal(whether.present, [True, True, False, True])
    np.testing.assert_array_equal(whether.value, [True, False, False, False])
    # The stage began with the visit on day 28; who relapsed did so on day 63; the last left after day 63.
    np.testing.assert_array_equal(time.value[[0, 1, 3]], [63 - 28, 84 - 28, 63 - 28])
    np.testing.assert_array_equal(time.event, [True, False, False, False])


@pytest.mark.parametrize("event", ["rescue", "discontinuation", "treatment_stop", "overshoot"])
def test_strategies_of_intercurrent_events(event):
    at = 4
    count = np.full((V, 1), 60.0)
    fields = {}
    if event == "overshoot":
        count[at:] = 300.0
    else:
        fields = {
            {"rescue": "rescued", "discontinuation": "dropped", "treatment_stop": "stopped"}[event]: from_visit(at)
        }
    others = {"rescue": "treatment-policy", "overshoot_above_1e9_per_l": 250.0}
    v = visits(count, **fields)
    composite = read(v, Estimand(**others | {event: "composite"}))
    np.testing.assert_array_equal(composite.failed, from_visit(at))
    np.testing.assert_array_equal(composite.counts, count)
    assert not outcomes.responses(composite)[at:].any() and outcomes.responses(composite)[:at].all()
    if event != "discontinuation":
        policy = read(v, Estimand(**others | {event: "treatment-policy"}))
        assert not policy.failed.any() and outcomes.responses(policy).all()
    hypothetical = read(v, Estimand(**others | {event: "hypothetical", "missing": "multiple-imputation"}))
    np.testing.assert_array_equal(np.isnan(hypothetical.counts), from_visit(at))
    assert not hypothetical.failed.any()


def test_a_stop_counts_from_then_on_although_a_later_stage_begins_again():
    stopped = from_visit(3) & ~from_visit(6)
    v = visits(np.full((V, 1), 60.0), stopped=stopped)
    np.testing.assert_array_equal(read(v, Estimand(treatment_stop="composite")).failed, from_visit(3))
    hypothetical = read(v, Estimand(treatment_stop="hypothetical", missing="multiple-imputation"))
    np.testing.assert_array_equal(np.isnan(hypothetical.counts), from_visit(3))


def test_the_last_observation_is_carried_forward_from_the_baseline_on():
    count = np.array([math.nan, 40, math.nan, math.nan, 60, math.nan, 7, 8, 9, math.nan])[:, None]
    expected = [20, 40, 40, 40, 60, 60, 7, 8, 9, 9]
    np.testing.assert_array_equal(carried_forward(count, np.array([20.0]))[:, 0], expected)
    np.testing.assert_array_equal(read(visits(count), Estimand(missing="last-observation")).counts[:, 0], expected)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"imputations": 10}, "imputations belongs to missing = 'multiple-imputation'"),
        ({"rescue": "ignore"}, "rescue = 'ignore'"),
        ({"resque": "composite"}, "unknown key 'resque'"),
        ({"missing": "multiple-imputation", "imputations": 1}, "imputations = 1"),
        ({"overshoot_above_1e9_per_l": 0.0}, "overshoot_above_1e9_per_l"),
    ],
)
def test_bad_estimands_are_one_clear_error(table, told):
    with pytest.raises(InputError) as error:
        validate(Estimand, table, "s.toml")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_an_estimand_in_words():
    said = describe(Estimand(rescue="hypothetical", missing="multiple-imputation", imputations=5))
    assert "Rescue: as if it had not happened (hypothetical)" in said
    assert "Missing counts: multiple imputation, 5 imputations" in said
    counts = describe(Estimand(rescue="hypothetical"), outcomes.reads("log_counts"))
    assert "Missing counts: left out, missing at random" in counts
    assert not any("non-response" in line or "non response" in line for line in counts)
    assert len(describe(Estimand(), outcomes.reads("days_above_250"))) == 2
