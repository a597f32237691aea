"""Times to an event with censoring: Kaplan-Meier, log-rank and Cox, of many trials at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inference.whatif.estimated import Estimated, estimated
from inference.whatif.linear import broadcast, solve, strata

ITERATIONS = 60
STEP = 3.0  # largest Newton step of a coefficient
SMALL_WEIGHTS = 1e-14  # of a column's information: what is left where a hazard goes to 0, which is not aliased
STILL_MOVING = 1e-3  # a step this long once the likelihood stands still: the coefficient goes to infinity


class RiskSets(NamedTuple):
    """Where each present patient's time falls, for sums over those at risk.

    time [trials, K] are the distinct times of each trial in order (inf beyond its last); cell [patients present] is the
    flat place in [trials, strata, K]; shape is that shape; present [trials, patients].
    """

    time: np.ndarray
    cell: np.ndarray
    shape: tuple[int, int, int]
    present: np.ndarray

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums of values [trials, patients] over the patients of each cell [trials, strata, K]."""
        size = self.shape[0] * self.shape[1] * self.shape[2]
        return np.bincount(self.cell, values[self.present], size).reshape(self.shape)

    def at_risk(self, values: np.ndarray) -> np.ndarray:
        """Sums over the patients of the stratum whose time is not before that of the cell [trials, strata, K]."""
        return np.cumsum(self.sum(values)[..., ::-1], axis=-1)[..., ::-1]


def risk_sets(time: np.ndarray, present: np.ndarray, stratum: np.ndarray | None) -> RiskSets:
    """Ranks times [trials, patients] within each trial; ties share a rank."""
    T, n = time.shape
    index, number = strata(time.shape, stratum)
    known = np.where(present, time, np.inf)
    order = np.argsort(known, axis=1, kind="stable")
    ordered = np.take_along_axis(known, order, axis=1)
    new = np.concatenate([np.zeros((T, 1), bool), ordered[:, 1:] > ordered[:, :-1]], axis=1)
    rank = np.empty((T, n), np.int64)
    np.put_along_axis(rank, order, np.cumsum(new, axis=1), axis=1)
    K = int(rank.max()) + 1
    distinct = np.full((T, K), np.inf)
    distinct[np.repeat(np.arange(T), n), rank.ravel()] = known.ravel()
    cell = (np.arange(T)[:, None] * number + index) * K + rank
    return RiskSets(distinct, cell[present], (T, number, K), present)


def kaplan_meier(
    time: np.ndarray, event: np.ndarray, at: np.ndarray, *, present: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of no event up to and including each time of ``at``, and Greenwood's se: [trials, len(at)] both."""
    time = np.asarray(time, np.float64)
    event, present = broadcast(time.shape, event, present)
    sets = risk_sets(time, present, None)
    d, n = sets.sum(event.astype(np.float64))[:, 0], sets.at_risk(np.ones(time.shape))[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        hazard = np.where(n > 0, d / n, 0.0)
        greenwood = np.where(d < n, d / (n * (n - d)), 0.0)  # at d = n the curve is 0 from there on, and so is its se
    curve = np.concatenate([np.ones((len(time), 1)), np.cumprod(1 - hazard, axis=1)], axis=1)
    sums = np.concatenate([np.zeros((len(time), 1)), np.cumsum(greenwood, axis=1)], axis=1)
    last = (sets.time[:, None, :] <= np.asarray(at, np.float64)[None, :, None]).sum(-1)
    survival = np.take_along_axis(curve, last, axis=1)
    return survival, survival * np.sqrt(np.take_along_axis(sums, last, axis=1))


def logrank(
    time: np.ndarray,
    event: np.ndarray,
    treated: np.ndarray,
    *,
    present: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
    event_is_good: bool = False,
) -> Estimated:
    """Log-rank test, stratified if strata are given; estimate is Peto's one-step log hazard ratio, treated to control.

    estimate = (O - E)/V and se = 1/sqrt(V) of the events under treatment, V hypergeometric. z = -(O - E)/sqrt(V), so
    that fewer or later events under treatment are positive; with ``event_is_good`` (time to response) its opposite.
    """
    time = np.asarray(time, np.float64)
    treated, present = broadcast(time.shape, treated, present)
    happened = np.broadcast_to(np.asarray(event, bool), time.shape).astype(np.float64)
    sets = risk_sets(time, present, stratum)
    d, d1 = sets.sum(happened), sets.sum(happened * treated)
    n, n1 = sets.at_risk(np.ones(time.shape)), sets.at_risk(treated.astype(np.float64))
    share = n1 / np.maximum(n, 1)
    difference = _in_order(d1 - d * share)
    V = _in_order(d * share * (1 - share) * (n - d) / np.maximum(n - 1, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _signed(estimated(difference / V, 1 / np.sqrt(V)), event_is_good)


def cox(
    time: np.ndarray,
    event: np.ndarray,
    treated: np.ndarray,
    *,
    present: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
    ties: str = "efron",
    test: str = "wald",
    event_is_good: bool = False,
) -> Estimated:
    """Log hazard ratio, treated to control, by Cox's partial likelihood; a baseline hazard for each stratum.

    ties: efron or breslow. test: wald, or likelihood-ratio (z its signed root). z is positive where the hazard is lower
    under treatment; with ``event_is_good`` (time to response) where it is higher.

    Where the hazard ratio has no finite maximum (an arm without events) estimate is plus or minus infinity, se is inf,
    and z is the signed root of the likelihood ratio for wald too, as Wald's own would be 0 however clear the data.
    """
    if ties not in ("efron", "breslow") or test not in ("wald", "likelihood-ratio"):
        raise ValueError(f"ties {ties!r}, test {test!r}; legal: efron or breslow, wald or likelihood-ratio")
    time = np.asarray(time, np.float64)
    treated, present = broadcast(time.shape, treated, present)
    happened = np.broadcast_to(np.asarray(event, bool), time.shape) & present
    columns = [treated[..., None].astype(np.float64)]
    if covariates is not None:
        given = np.broadcast_to(np.asarray(covariates, np.float64), (*time.shape, np.shape(covariates)[-1]))
        columns.insert(0, np.where(present[..., None], given, 0.0))
    X = np.concatenate(columns, axis=-1)
    X = X - X.sum(1, keepdims=True, where=present[..., None]) / np.maximum(present.sum(1), 1)[:, None, None]
    sets = risk_sets(time, present, stratum)
    full = _maximise(X, happened, sets, X.shape[-1], ties)
    b, inverse, value, step, aliased = full
    infinite, possible = np.abs(step[:, -1]) > STILL_MOVING, ~aliased[:, -1]
    estimate, se = b[:, -1], np.sqrt(np.maximum(inverse[:, -1, -1], 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = estimate / se
    if test != "wald" or infinite.any():
        null = _maximise(X, happened, sets, X.shape[-1] - 1, ties)
        root = np.sign(estimate) * np.sqrt(2 * np.maximum(value - null[2], 0))
        z = np.where(infinite | (test != "wald"), root, z)
    estimate = np.where(infinite, np.copysign(np.inf, step[:, -1]), estimate)
    found = Estimated(
        np.where(possible, estimate, np.nan),
        np.where(possible & ~infinite, se, np.inf),
        np.where(possible, z, 0.0),
        np.full(z.shape, np.inf),
    )
    return _signed(found, event_is_good)


def _in_order(values: np.ndarray) -> np.ndarray:
    """Sums [trials] of values [trials, strata, K], in order: zeros behind a trial's last time change no bit."""
    return np.cumsum(values.reshape(len(values), -1), axis=1)[:, -1]


def _signed(found: Estimated, event_is_good: bool) -> Estimated:
    """z of a log hazard ratio turned so that positive is better."""
    return found if event_is_good else found._replace(z=-found.z)


def _maximise(X: np.ndarray, happened: np.ndarray, sets: RiskSets, free: int, ties: str) -> tuple[np.ndarray, ...]:
    """Newton's method on the first ``free`` coefficients, the others 0.

    Gives coefficients, inverse information, log partial likelihood, next step and aliased columns, as in logistic.py.
    """
    T, _, p = X.shape
    events = happened.astype(np.float64)
    deaths = sets.sum(events).ravel().astype(np.int64)
    # One row an event: its cell, and the share of the cell's events that Efron's method has already taken out.
    row = np.repeat(np.arange(len(deaths)), deaths)
    before = np.arange(len(row)) - np.repeat(np.cumsum(deaths) - deaths, deaths)
    share = before / deaths[row] if ties == "efron" else np.zeros(len(row))
    trial = row // (sets.shape[1] * sets.shape[2])
    observed = np.stack([(events * X[..., i]).sum(1) for i in range(p)], axis=-1)

    b, step, inverse = np.zeros((T, p)), np.zeros((T, p)), np.zeros((T, p, p))
    value, aliased, attempt = np.full(T, -np.inf), np.zeros((T, p), bool), np.zeros((T, p))
    done = np.zeros(T, bool)
    for turn in range(ITERATIONS):
        # term by term, as a product of matrices may round by how many trials there are
        eta = np.clip(sum((X[..., i] * attempt[:, i, None] for i in range(p)), np.zeros(X.shape[:2])), -50, 50)
        risk = np.exp(eta)

        def mean_of(x: np.ndarray, weights: np.ndarray = risk) -> np.ndarray:
            """Sum of x over the risk set of each event [rows]."""
            whole = sets.at_risk(weights * x).ravel()[row]
            return whole - share * sets.sum(weights * x * events).ravel()[row] if ties == "efron" else whole

        S0 = mean_of(np.ones(risk.shape))
        mean = np.stack([mean_of(X[..., i]) / S0 for i in range(free)], axis=-1) if free else np.zeros((len(row), 0))
        new = (events * eta).sum(1) - np.bincount(trial, np.log(S0), T)
        A = np.empty((T, free, free))
        for i in range(free):
            for j in range(i + 1):
                moment = mean_of(X[..., i] * X[..., j]) / S0 - mean[:, i] * mean[:, j]
                A[:, i, j] = A[:, j, i] = np.bincount(trial, moment, T)
        expected = np.stack([np.bincount(trial, mean[:, i], T) for i in range(free)], 1) if free else np.zeros((T, 0))
        if turn == 0:
            aliased[:, :free] = solve(A, observed[:, :free] - expected).aliased
            X = X * ~aliased[:, None, :]
            A = A * ~(aliased[:, :free, None] | aliased[:, None, :free])
        solved = solve(A, observed[:, :free] - expected, SMALL_WEIGHTS)

        gain = new - value
        better = ~done & (gain > -1e-12 * (1 + np.abs(new)))
        b[better], value[better] = attempt[better], new[better]
        inverse[better, :free, :free] = solved.inverse[better]
        step[better, :free] = np.clip(solved.x[better], -STEP, STEP)
        step[~better & ~done] /= 2
        attempt = np.where(done[:, None], b, b + step)
        done |= (better & (gain < 1e-10 * (1 + np.abs(new)))) | (np.abs(step).max(1) < 1e-9)
        if done.all():
            break
    return b, inverse, value, step, aliased
