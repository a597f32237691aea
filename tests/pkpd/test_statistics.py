"""What a trial reports of an arm, against the same numbers worked out patient by patient."""

import types

import numpy as np
import pytest

from pkpd.datatables import quantities
from pkpd.statistics import STATISTICS

V, N = 4, 50


@pytest.fixture(scope="module")
def visits():
    rng = np.random.default_rng(1)
    return types.SimpleNamespace(
        platelets_observed=rng.lognormal(np.log(45), 0.8, (V, N)).astype(np.float32),
        baseline=rng.uniform(5, 29, N).astype(np.float32),
        rescued=(rng.random((V, N)) < 0.1).cumsum(0) > 0,
        auc_ng_h_per_ml=rng.lognormal(5, 1, (V, N)).astype(np.float32),
        cmax_ng_per_ml=rng.lognormal(3, 1, (V, N)).astype(np.float32),
    )


@pytest.mark.parametrize("last", range(V))
def test_numbers_of_each_patient(visits, last):
    found = {name: s.each(visits, last) for name, s in STATISTICS.items()}
    assert all(x.shape == (N,) for x in found.values())
    for i in range(N):
        count, base = visits.platelets_observed[: last + 1, i], visits.baseline[i]
        free = ~visits.rescued[: last + 1, i]
        responds = (count >= 50) & free
        expected = {
            "response_at_day": responds[-1],
            "response_any": responds.any(),
            "response_75": responds.sum() >= 0.75 * (last + 1),
            "response_30_doubled": ((count >= 30) & (count >= 2 * base) & free).any(),
            "rescue": not free[-1],
            "platelets_median": count[-1],
            "platelet_rise": 100 * (count[-1] - base) / base,
            "cmax_change": np.log(visits.cmax_ng_per_ml[: last + 1, i].max()),
            "auc_t_change": np.log(visits.auc_ng_h_per_ml[: last + 1, i].sum()),
            "auc_inf_change": np.log(visits.auc_ng_h_per_ml[: last + 1, i].sum()),
        }
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_numbers_of_an_arm():
    x = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert STATISTICS["response_any"].combine(x > 1).tolist() == [2, 1]
    assert STATISTICS["platelets_median"].combine(x).tolist() == [2, 0]
    assert STATISTICS["platelet_rise"].combine(x).tolist() == [3, 1]
    gone = np.array([[1.0, np.nan, 6.0]])  # who has left has no count
    assert STATISTICS["platelet_rise"].combine(gone).tolist() == [3.5]
    ratio = np.log([[0.5, 0.25, 2.0]])
    assert STATISTICS["cmax_change"].combine(ratio) == pytest.approx([100 * ((0.5 * 0.25 * 2) ** (1 / 3) - 1)])


def test_names_and_units_are_those_of_published_quantities():
    for name, statistic in STATISTICS.items():
        assert quantities()[name].unit == statistic.unit
        assert statistic.label.format(day=28).startswith(name.replace("auc_t", "auc"))
