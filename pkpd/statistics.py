"""What a trial reports of an arm: a number from each patient's visits, and one number from those of all patients.

Names and units are those of published quantities (``data/quantities.csv``) where there is one. Works on host arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pkpd import endpoints

if TYPE_CHECKING:
    from pkpd.trial import Visits


class Statistic(NamedTuple):
    """One reported number.

    label: its name in a table; ``{day}`` stands for the day of the visit at which, or up to which, it is taken.
    each(visits, last): numbers [patients], ``last`` the index of that visit. combine(x): of x [.., patients] the
    reported number [..]. relative: a change against another arm, of which ``each`` is the logarithm; ``combine`` then
    takes the differences of the logarithms.
    """

    unit: str
    label: str
    each: Callable[[Any, int], np.ndarray]
    combine: Callable[[np.ndarray], np.ndarray]
    relative: bool = False


def _event(name: str, v: Visits, last: int) -> np.ndarray:
    """An event of ``endpoints.events`` over the visits up to ``last``."""
    counts, rescued = endpoints.until(last, v.platelets_observed, v.rescued)
    return np.asarray(endpoints.events(counts, v.baseline, rescued))[endpoints.NAMES.index(name)]


def _count(v: Visits, last: int) -> np.ndarray:
    return np.asarray(v.platelets_observed)[last]


def _rise(v: Visits, last: int) -> np.ndarray:
    return 100 * (_count(v, last) / np.asarray(v.baseline) - 1)


def _log_auc(v: Visits, last: int) -> np.ndarray:
    return np.log(np.asarray(v.auc_ng_h_per_ml)[: last + 1].sum(0, dtype=np.float64))


def _log_cmax(v: Visits, last: int) -> np.ndarray:
    return np.log(np.asarray(v.cmax_ng_per_ml)[: last + 1].max(0).astype(np.float64))


def _total(x: np.ndarray) -> np.ndarray:
    return x.sum(-1)


def _mean(x: np.ndarray) -> np.ndarray:
    return np.nanmean(x, -1)  # patients who have left have no count


def _median(x: np.ndarray) -> np.ndarray:
    return np.nanmedian(x, -1)


def _change(log_ratio: np.ndarray) -> np.ndarray:
    """Ratio of the geometric means less one, in percent."""
    return 100 * np.expm1(log_ratio.mean(-1))


STATISTICS = {
    "response_at_day": Statistic("patients", "response_at_day_{day}", partial(_event, "response_week_8"), _total),
    "response_any": Statistic("patients", "response_any_to_day_{day}", partial(_event, "response_any"), _total),
    "response_75": Statistic("patients", "response_75_to_day_{day}", partial(_event, "response_75"), _total),
    "response_30_doubled": Statistic(
        "patients", "response_30_doubled_to_day_{day}", partial(_event, "response_30_doubled"), _total
    ),
    "rescue": Statistic("patients", "rescue_to_day_{day}", partial(_event, "rescue"), _total),
    "platelets_median": Statistic("1e9/L", "platelets_median_day_{day}", _count, _median),
    "platelet_rise": Statistic("%", "platelet_rise_day_{day}", _rise, _mean),
    "cmax_change": Statistic("%", "cmax_change", _log_cmax, _change, relative=True),
    "auc_t_change": Statistic("%", "auc_change_to_day_{day}", _log_auc, _change, relative=True),
    "auc_inf_change": Statistic("%", "auc_inf_change", _log_auc, _change, relative=True),
}
