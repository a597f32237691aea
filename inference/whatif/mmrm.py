"""Mixed model for repeated measures: log counts over visits with an unstructured covariance, missing at random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inference.whatif import reml
from inference.whatif.ancova import ancova
from inference.whatif.estimated import Estimated, estimated
from inference.whatif.linear import design_matrix, solve

BLOCK = 64  # trials at a time, which bounds memory
LARGE = 200  # patients, from which degrees of freedom leave out terms that are below 0.3% of them
DEGREES = ("satterthwaite", "between")


def mmrm(
    value: np.ndarray,
    treated: np.ndarray,
    *,
    present: np.ndarray | None = None,
    stratum: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
    contrast: np.ndarray | None = None,
    df: str = "satterthwaite",
) -> Estimated:
    """Difference of least-squares means, treated less control, at the last visit or of a ``contrast`` [visits] of them.

    value [trials, patients, visits], nan where missing; ``present`` [trials, patients] or [trials, patients, visits].
    Fixed effects: treatment, covariates (log baseline) and strata, each with a coefficient at every visit; covariance
    unstructured and common to the arms, by restricted maximum likelihood. se is the plug-in one of generalised least
    squares (no Kenward-Roger inflation: a little small in small trials), z is Student's t.

    df: satterthwaite, from the expected information of the covariance; between, patients less columns, as for an
    unstructured covariance in SAS's between-within method. With nobody missing the two are equal and the answer is
    that of ancova at the visit, which is exact. A trial is not estimable where a visit lacks an arm or a stratum that
    others have, or the likelihood of the covariance has no maximum, as with too few patients.
    """
    if df not in DEGREES:
        raise ValueError(f"df {df!r}; legal: {', '.join(DEGREES)}")
    value = np.asarray(value, np.float64)
    T, n, V = value.shape
    c = np.eye(V)[-1] if contrast is None else np.asarray(contrast, np.float64)
    seen = np.isfinite(value)
    if present is not None:
        mask = np.asarray(present, bool)
        seen = seen & (mask if mask.ndim == 3 else np.broadcast_to(mask, (T, n))[..., None])
    some, every = seen.any(-1), seen.all(-1)
    whole = (some == every).all(1)
    treated = np.broadcast_to(np.asarray(treated, bool), (T, n))
    stratum = None if stratum is None else np.broadcast_to(stratum, (T, n))
    if covariates is not None:
        covariates = np.broadcast_to(covariates, (T, n, np.shape(covariates)[-1]))
    y = np.where(seen, value, 0.0)
    found = ancova(y @ c, treated, present=some, stratum=stratum, covariates=covariates)
    estimate, se, degrees = (np.array(x) for x in (found.estimate, found.se, found.df))
    for at in _blocks(np.flatnonzero(~whole), seen):
        X = design_matrix(
            treated[at],
            some[at],
            None if stratum is None else stratum[at],
            None if covariates is None else covariates[at],
        )
        estimate[at], se[at], degrees[at] = _incomplete(X, y[at], seen[at], c, df)
    return estimated(estimate, se, degrees)


def _blocks(trials: np.ndarray, seen: np.ndarray) -> Iterator[np.ndarray]:
    """Trials in blocks of one number of patterns of visits, rounded up, which is the one that ``reml.sums`` makes room
    for: a trial's bits do not hang on the trials beside it."""
    room = np.array([reml.room_for(seen[trial]) for trial in trials])
    for number in np.unique(room):
        own = trials[room == number]
        yield from np.split(own, range(BLOCK, len(own), BLOCK))


def _incomplete(
    X: np.ndarray, y: np.ndarray, seen: np.ndarray, c: np.ndarray, df: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, se and degrees of freedom of a block of trials."""
    T, _, q = X.shape
    estimate, se, degrees = np.full(T, np.nan), np.full(T, np.inf), np.zeros(T)
    aliased = solve(X.swapaxes(1, 2) @ X, np.zeros((T, q))).aliased
    X = X * ~aliased[:, None, :]  # a stratum that nobody is in
    y = (y - (y.sum(1) / np.maximum(seen.sum(1), 1))[:, None]) * seen
    rank = (~aliased).sum(1)
    possible = ~aliased[:, -1] & (seen.any(-1).sum(1) - rank >= y.shape[-1])
    for v in range(y.shape[-1]):
        at_visit = X * seen[:, :, v, None]
        full = solve(at_visit.swapaxes(1, 2) @ at_visit, np.zeros((T, q))).aliased == aliased
        possible &= full.all(1) & (seen[:, :, v].sum(1) > rank)
    at = np.flatnonzero(possible)
    if not len(at):
        return estimate, se, degrees
    s = reml.sums(X[at], y[at], seen[at])
    _, state, converged = reml.fit(s)
    if not converged.any():
        return estimate, se, degrees
    at = at[converged]
    s, state = reml.Sums(*(x[converged] for x in s)), reml.State(*(x[converged] for x in state))
    cov = state.covariance.reshape(len(at), len(c), q, len(c), q)
    u = np.einsum("tviw,w->tvi", cov[..., -1], c)
    variance = u[..., -1] @ c
    if df == "between":
        degrees[at] = seen[at].any(-1).sum(1) - rank[at]
    else:
        degrees[at] = _satterthwaite(s, state, u, variance)
    estimate[at], se[at] = state.B[..., -1] @ c, np.sqrt(variance)
    return estimate, se, degrees


def _satterthwaite(s: reml.Sums, state: reml.State, u: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """2 f^2/var(f) of the variance f of the effect, by the delta method on the elements of Sigma.

    u [trials, visits, q] is cov(B) times the contrast, so that df/dSigma = sum of W (u' xx u) W over patterns.
    """
    slope = (state.W @ (u[:, None] @ s.xx @ u.swapaxes(1, 2)[:, None]) @ state.W).sum(1)
    rows, columns = np.tril_indices(slope.shape[-1])
    g = slope[:, rows, columns] * np.where(rows == columns, 1, 2)
    information = reml.leading_information(s, state)
    small = s.n.sum(1) < LARGE
    if small.any():
        taken = reml.Sums(*(x[small] for x in s)), reml.State(*(x[small] for x in state))
        information[small] = reml.expected_information(*taken)
    spread = np.linalg.pinv(information, hermitian=True)
    return 2 * variance**2 / np.einsum("ti,tij,tj->t", g, spread, g)
