"""Rows of the summary as searches compare them: each with what every trial adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from inference.whatif import characteristics
from inference.whatif.characteristics import TRIAL
from inference.whatif.counts import Counts
from inference.whatif.errors import clustered_se
from inference.whatif.summed import Coverage, Quantiles, Row, Rows
from pkpd.errors import InputError, nearest

if TYPE_CHECKING:
    from inference.whatif.search_file import Target
    from pkpd.scenario import Scenario


class Figure(NamedTuple):
    """An estimate, and values [trials] whose mean it is: that of a ratio of means is linearised.

    share: whether it is a share of trials. Differences of the values of two designs, trial by trial, give the error of
    the difference of their estimates. se: of what is no mean over trials, as a quantile.
    """

    estimate: float
    values: np.ndarray
    share: bool = False
    se: float | None = None


Found = Mapping[tuple[str, str], Figure]  # by comparison (or arm, or the whole trial) and quantity


class Kept(Rows):
    """Rows of trials that come all at once, which keep what every trial adds to them."""

    def __init__(self, design: str, n_draws: int, null: bool = False) -> None:
        super().__init__(design, n_draws, null)
        self.figures: dict[tuple[str, str], Figure] = {}

    def add(self, comparison: str, quantity: str, per_trial: np.ndarray) -> None:
        """See ``Rows``."""
        values = per_trial.astype(np.float64)
        self.figures[comparison, quantity] = Figure(float(values.mean()), values, per_trial.dtype == bool)

    def add_mean(self, comparison: str, quantity: str, sums: np.ndarray, numbers: np.ndarray) -> None:
        """See ``Rows``; a ratio of means by the delta method."""
        total, n = sums.astype(np.float64), numbers.astype(np.float64)
        if not n.sum() > 0:
            self.figures[comparison, quantity] = Figure(np.nan, np.full(len(n), np.nan))
            return
        estimate = float(total.sum() / n.sum())
        self.figures[comparison, quantity] = Figure(estimate, estimate + (total - estimate * n) / n.mean())

    def add_quantiles(self, comparison: str, quantity: str, per_trial: np.ndarray) -> None:
        """See ``Rows``; a quantile has the error of its row."""
        kept = Quantiles()
        kept.add(per_trial)
        self._of_rows(comparison, kept.rows(quantity))

    def add_estimate(self, comparison: str, quantity: str, estimate: np.ndarray, finite: np.ndarray) -> None:
        """See ``Rows``."""
        if finite.all():
            self.add_quantiles(comparison, quantity, estimate)
        else:
            self.add(comparison, f"{quantity}_estimable", finite)
        self.add_mean(comparison, quantity, np.where(finite, estimate, 0.0), finite)

    def add_coverage(
        self, comparison: str, quantity: str, estimate: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        """See ``Rows``; it is about the mean of all trials, and has the error of its row."""
        kept = Coverage(self.n_draws)
        kept.add(np.zeros(len(estimate), np.int64), estimate, low, high)
        self._of_rows(comparison, kept.rows(quantity))

    def _of_rows(self, comparison: str, rows: Sequence[Row]) -> None:
        """Figures whose error is their own, not that of values."""
        for name, estimate, se, *_ in rows:
            values = np.full(self.n_trials, estimate, np.float64)
            self.figures[comparison, str(name)] = Figure(float(values[0]), values, se=float(se))  # type: ignore[arg-type]


def figures(design: Scenario, counts: Counts, n_draws: int, null: bool = False) -> Found:
    """Every row of the summary of trials, see ``characteristics.table``; and the patients of any design."""
    rows = Kept(design.trial.name, n_draws, null)
    characteristics.add(rows, design, counts)
    patients = float(sum(arm.n for arm in design.arms))
    rows.figures.setdefault((TRIAL, "patients"), Figure(patients, np.full(rows.n_trials, patients)))
    return rows.figures


def row_of(target: Target, design: Scenario) -> tuple[str, str]:
    """Where the row of a target lies in the summary of a design."""
    named = target.quantity
    if named in ("power", "type_1_error") and design.analysis is not None:
        named = f"{named}_{design.analysis.test}"
    return target.of, named


def pick(target: Target, design: Scenario, found: Found) -> Figure:
    """The figure of a target; InputError that names the nearest where the design has no such row."""
    of, quantity = row_of(target, design)
    if (of, quantity) in found:
        return found[of, quantity]
    owners = list(dict.fromkeys(owner for owner, _ in found))
    if of not in owners:
        raise InputError(f"--search: {target.label}: no arm or comparison {of!r}{nearest(of, owners)}")
    legal = [name for owner, name in found if owner == of]
    raise InputError(f"--search: {target.label}: the summary has no such row{nearest(quantity, legal)}")


def error(figure: Figure, cluster: np.ndarray) -> float:
    """Monte Carlo error of an estimate, clustered by posterior draw."""
    return clustered_se(figure.values, cluster) if figure.se is None else figure.se


def bounds(figure: Figure, cluster: np.ndarray, tail: float) -> tuple[float, float]:
    """Bounds beyond which the truth lies with the chance ``tail`` on either side: Wilson's of a share, else Student's.

    Where all trials say 0, or all say 1, they are taken for a share: an error of 0 would say more than they do.
    """
    estimate, se = figure.estimate, error(figure, cluster)
    n: float = len(figure.values)
    if figure.share or (se == 0 and estimate in (0.0, 1.0)):
        n = min(n, estimate * (1 - estimate) / se**2) if se > 0 else n
        low, high = proportion_confint(estimate * n, n, alpha=2 * tail, method="wilson")
        return float(low), float(high)
    width = student(cluster, tail) * se
    return estimate - width, estimate + width


def student(cluster: np.ndarray, tail: float) -> float:
    """Student's quantile for an error from these clusters (trials without a posterior)."""
    units = len(cluster) if cluster.max() == 0 else int(cluster.max()) + 1
    return float(stats.t.ppf(1 - tail, units - 1))


def difference(x: Figure, y: Figure, cluster: np.ndarray) -> tuple[float, float]:
    """Estimate of x less that of y over the same trials, and its Monte Carlo error: by the pairs, of quantiles as if
    their trials had nothing in common, which is larger."""
    if x.se is not None and y.se is not None:
        return x.estimate - y.estimate, float(np.hypot(x.se, y.se))
    return x.estimate - y.estimate, clustered_se(x.values - y.values, cluster)
