"""Values that were not observed, by estimand: non-response, last observation carried forward, multiple imputation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from inference.whatif.estimated import Estimated, estimated
from inference.whatif.linear import broadcast
from pkpd import random

PURPOSE = 1 << 20  # stands where a patient's number does in keys: no trial has so many, so no patient shares them
RIDGE = 1e-5  # of each predictor's sum of squares, so that few patients still have a regression


def non_response(response: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Responses with those that were not observed as non-response; the patients stay in the denominator."""
    return np.asarray(response, bool) & np.asarray(observed, bool)


def last_observation(value: np.ndarray, baseline: np.ndarray | None = None) -> np.ndarray:
    """Values [..., patients, visits] with nan replaced by the last one before it, else ``baseline`` [..., patients]."""
    value = np.asarray(value, np.float64)
    V = value.shape[-1]
    last = np.maximum.accumulate(np.where(np.isfinite(value), np.arange(V), -1), axis=-1)
    carried = np.take_along_axis(value, np.maximum(last, 0), axis=-1)
    before = np.nan if baseline is None else np.asarray(baseline, np.float64)[..., None]
    return np.where(last >= 0, carried, before)


def rubin(estimates: np.ndarray, se: np.ndarray, df: np.ndarray | float = np.inf) -> Estimated:
    """One answer from those of imputations [imputations, trials] by Rubin's rules.

    ``df`` are degrees of freedom that the complete data would have; those of the answer are Barnard and Rubin's (1999).
    """
    m = len(estimates)
    if m < 2:
        raise ValueError("Rubin's rules need 2 imputations or more: the variance between them is part of the answer")
    within, between = (se**2).mean(0), estimates.var(0, ddof=1)
    total = within + (1 + 1 / m) * between
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = (1 + 1 / m) * between / total  # share of the variance that is due to what is missing
        old = (m - 1) / missing**2
        complete = np.broadcast_to(np.asarray(df, np.float64), old.shape)
        observed = np.where(np.isfinite(complete), (complete + 1) / (complete + 3) * complete * (1 - missing), np.inf)
        degrees = 1 / (1 / old + 1 / observed)
    return estimated(estimates.mean(0), np.sqrt(total), degrees)


class Regression(NamedTuple):
    """Of each trial and arm: coefficients [trials, 2, p], a root of their covariance at unit variance
    [trials, 2, p, p], residual sum of squares and degrees of freedom [trials, 2]."""

    coefficients: np.ndarray
    root: np.ndarray
    squares: np.ndarray
    df: np.ndarray


def multiple_imputation(
    analysis: Callable[[np.ndarray], Estimated],
    value: np.ndarray,
    treated: np.ndarray,
    *,
    seed: int,
    trials: np.ndarray,
    present: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
    imputations: int = 20,
    cycles: int = 5,
) -> Estimated:
    """An analysis of completed log counts [trials, patients, visits], pooled over imputations by Rubin's rules.

    ``trials`` are the numbers of the trials [trials]: the random numbers are of (seed, imputation, trial) and the
    patient's place, so the answer is the same however trials are split into calls. See ``impute`` for the model.
    """
    known: dict[int, Regression] = {}
    found = []
    for k in range(imputations):
        completed = impute(
            value,
            treated,
            seed=seed,
            trials=trials,
            imputation=k,
            present=present,
            covariates=covariates,
            cycles=cycles,
            known=known,
        )
        found.append(analysis(completed))
    return rubin(np.stack([f.estimate for f in found]), np.stack([f.se for f in found]), found[0].df)


def impute(
    value: np.ndarray,
    treated: np.ndarray,
    *,
    seed: int,
    trials: np.ndarray,
    imputation: int,
    present: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
    cycles: int = 5,
    known: dict[int, Regression] | None = None,
) -> np.ndarray:
    """Log counts [trials, patients, visits] with nan replaced by draws; patients not present keep theirs.

    Missing at random, in each arm by itself: a visit is normal given the covariates (log baseline) and the visits
    before it, its coefficients and variance drawn from their posterior under the usual flat prior. That is exact where
    patients who leave stay away. A trial with gaps before a later observation goes on for ``cycles`` rounds in which
    each visit is drawn given all others (chained equations). ``known`` keeps the regressions between imputations where
    nobody has gaps, as they then hang on what was observed alone.
    """
    value = np.asarray(value, np.float64)
    T, n, V = value.shape
    treated, present = broadcast((T, n), treated, present)
    seen = np.isfinite(value)
    given = np.ones((T, n, 1))
    if covariates is not None:
        given = np.concatenate([given, np.broadcast_to(covariates, (T, n, np.shape(covariates)[-1]))], axis=-1)
    gaps = (seen[..., 1:] & ~seen[..., :-1] & present[..., None]).any((1, 2))
    kept = known if known is not None and not gaps.any() else {}
    filled = np.where(seen, value, 0.0)
    for turn in range(1 + cycles):
        at = np.flatnonzero(gaps) if turn else np.arange(T)
        if not len(at):
            break
        z, u, noise = _numbers(seed, imputation, np.asarray(trials)[at], turn, n, V, V + given.shape[-1])
        for v in range(V):
            others = [w for w in range(V) if w != v] if turn else list(range(v))
            members = present[at] & ~seen[at, :, v]
            if not members.any():
                continue
            if turn or v not in kept:
                X = np.concatenate([given[at], filled[at][..., others]], axis=-1)
                fit = _regress(X, filled[at, :, v], present[at] & seen[at, :, v], treated[at])
                if not turn:
                    kept[v] = fit
            fit = fit if turn else kept[v]
            p = given.shape[-1] + len(others)
            sigma = np.sqrt(fit.squares / stats.chi2.ppf(u[:, v], fit.df))
            beta = fit.coefficients + sigma[..., None] * np.einsum("taij,taj->tai", fit.root, z[:, v, :, :p])
            row, patient = np.nonzero(members)
            trial, arm = at[row], treated[at][row, patient].astype(np.int64)
            X = np.concatenate([given[trial, patient], filled[trial, patient][:, others]], axis=-1)
            drawn = (X * beta[row, arm]).sum(1) + sigma[row, arm] * noise[row, patient, v]
            filled[trial, patient, v] = drawn
    return np.where(present[..., None], filled, value)


def _regress(X: np.ndarray, y: np.ndarray, known: np.ndarray, treated: np.ndarray) -> Regression:
    """Least squares of y [trials, patients] on X [trials, patients, p], over the known patients of each arm."""
    p, parts = X.shape[-1], []
    for arm in (False, True):
        chosen = known & (treated == arm)
        Xa = np.where(chosen[..., None], X, 0.0)
        Xt = Xa.swapaxes(1, 2)
        A = Xt @ Xa
        V = np.linalg.inv(A + np.eye(p) * (RIDGE * np.einsum("tii->ti", A) + 1e-12)[:, None, :])
        b = V @ (Xt @ (y * chosen)[..., None])
        squares = (((y[..., None] - Xa @ b)[..., 0] * chosen) ** 2).sum(1)
        parts.append((b[..., 0], np.linalg.cholesky(V), squares, np.maximum(chosen.sum(1) - p, 1)))
    return Regression(*(np.stack(both, axis=1) for both in zip(*parts, strict=True)))


def _numbers(
    seed: int, imputation: int, trials: np.ndarray, turn: int, n: int, V: int, p: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normals [trials, V, 2, p] and uniforms [trials, V, 2] of the parameters, and normals [trials, n, V] of patients.

    A generator for each trial; the patients come last and one after another, so that a trial's numbers do not hang on
    how many patients the arrays have room for, nor a patient's on who else is missing.
    """
    T = len(trials)
    keys = random.patient_keys(random.root(seed), np.full(T, imputation), trials, np.full(T, PURPOSE + turn))
    drawn = [np.random.default_rng(words) for words in np.asarray(jax.random.key_data(keys))]  # as random.generator
    z, u = np.stack([g.standard_normal((V, 2, p)) for g in drawn]), np.stack([g.random((V, 2)) for g in drawn])
    return z, u, np.stack([g.standard_normal((n, V)) for g in drawn])
