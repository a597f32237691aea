"""Monte Carlo errors of figures over trials, clustered by posterior draw."""

from __future__ import annotations

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

NORMAL_95 = stats.norm.ppf(0.975)


def wilson(estimate: float, se: float, n_trials: int) -> tuple[float, float]:
    """95% interval of a probability, wide even where every trial agreed; clustering lowers the number of trials."""
    n = min(n_trials, estimate * (1 - estimate) / se**2) if se > 0 else n_trials
    low, high = proportion_confint(estimate * n, n, method="wilson")
    return max(0.0, float(low)) if estimate > 0 else 0.0, min(1.0, float(high)) if estimate < 1 else 1.0


def clustered_se(x: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of the mean of x [trials]; trials of one posterior draw are not independent."""
    x = np.asarray(x, np.float64)
    if cluster.max() == 0:
        return float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")
    size = np.bincount(cluster)
    total = np.bincount(cluster, x - x.mean())
    C = len(size)
    return float(np.sqrt(C / (C - 1) * (total**2).sum()) / len(x))


def quantile_with_se(x: np.ndarray, q: float) -> tuple[float, float]:
    """Sample quantile and its error, from the order statistics that bracket it at one binomial sd."""
    value = float(np.quantile(x, q))
    spread = np.sqrt(q * (1 - q) / len(x))
    low, high = np.quantile(x, np.clip([q - spread, q + spread], 0, 1))
    return value, float(high - low) / 2


def cautious_se(x: np.ndarray, cluster: np.ndarray) -> float:
    """Error of the share of x [trials], never 0: at least that of the width of Wilson's interval."""
    se = clustered_se(x, cluster)
    low, high = wilson(float(x.mean()), se, len(x))
    return max(se, (high - low) / (2 * NORMAL_95)) if np.isfinite(se) else np.inf
