"""Restricted maximum likelihood of an unstructured covariance over visits, of many trials at once.

y_i = B x_i + e_i for the visits v of patient i that were observed, e_i ~ N(0, Sigma): every column of x has a
coefficient at every visit. Patients with the same pattern of visits share W = Sigma_oo^-1 (zeros at visits not
observed), so that sums of squares and products of each pattern are all that the likelihood needs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

QUICK, ITERATIONS = 15, 60  # at most, of the two kinds in ``fit``
NEAR = 0.5  # of the log likelihood still to gain, below which Newton's method takes over from Fisher's
BOUNDARY = 1e-6  # smallest eigenvalue of the correlations, below which the likelihood is taken to have no maximum
ROOM = 4  # places for patterns of visits are multiples of this
DECREMENT = 1e-12  # of the log likelihood still to gain, at which an iteration ends


class Sums(NamedTuple):
    """Of each trial and pattern: visits observed [T, P, V] (0 or 1), patients [T, P], and sums of products
    xx [T, P, q, q], xy [T, P, q, V], yy [T, P, V, V]; unused places of a trial are all 0."""

    seen: np.ndarray
    n: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray


class State(NamedTuple):
    """At a Sigma [T, V, V]: its log likelihood [T] to a constant, W [T, P, V, V], B [T, V, q] and its covariance
    [T, Vq, Vq], the gradient [T, V, V]; of a pattern's patients, with residuals r, Cx = sum of x' cov(B) x and
    R = sum of r r' [T, P, V, V], and Rx = sum of r x' [T, P, V, q]."""

    log_likelihood: np.ndarray
    W: np.ndarray
    B: np.ndarray
    covariance: np.ndarray
    gradient: np.ndarray
    Cx: np.ndarray
    R: np.ndarray
    Rx: np.ndarray


def room_for(seen: np.ndarray) -> int:
    """Places for the patterns of visits [patients, visits] of a trial: a multiple of ROOM."""
    patterns = len(np.unique(seen @ (1 << np.arange(seen.shape[-1]))))
    return -(-patterns // ROOM) * ROOM


def sums(X: np.ndarray, y: np.ndarray, seen: np.ndarray) -> Sums:
    """Sums over patients; X [T, n, q] has rows of zeros for those without visits, y [T, n, V] zeros where not seen."""
    (T, n, q), V = X.shape, y.shape[-1]
    codes = seen @ (1 << np.arange(V))
    used, cell = np.unique(np.arange(T)[:, None] * (1 << V) + codes, return_inverse=True)
    cell = cell.reshape(-1)
    trial, code = used >> V, used & ((1 << V) - 1)
    place = np.arange(len(used)) - np.searchsorted(trial, np.arange(T))[trial]
    P = -(-(int(place.max()) + 1) // ROOM) * ROOM
    some = code > 0

    def over(values: np.ndarray) -> np.ndarray:
        found = np.zeros((T, P))
        found[trial[some], place[some]] = np.bincount(cell, values.ravel(), len(used))[some]
        return found

    Z = [X[..., k] for k in range(q)] + [y[..., v] for v in range(V)]
    products = np.empty((T, P, q + V, q + V))
    for a in range(q + V):
        for b in range(a + 1):
            products[..., a, b] = products[..., b, a] = over(Z[a] * Z[b])
    visits = np.zeros((T, P, V))
    visits[trial, place] = (code[:, None] >> np.arange(V)) & 1
    return Sums(visits, over(np.ones((T, n))), products[..., :q, :q], products[..., :q, q:], products[..., q:, q:])


def evaluate(s: Sums, Sigma: np.ndarray) -> State:
    """The restricted likelihood and its derivatives; Sigma must be positive definite."""
    (T, P, V), q = s.seen.shape, s.xx.shape[-1]
    both = s.seen[..., :, None] * s.seen[..., None, :]
    padded = Sigma[:, None] * both + np.eye(V) * (1 - s.seen[..., None])
    W = np.linalg.inv(padded) * both
    A = _kronecker_sum(W, s.xx)
    none = np.einsum("tii->ti", A) == 0  # a column of zeros, such as an empty stratum: its coefficient is 0
    A = A + np.eye(V * q) * none[:, None, :]
    covariance = np.linalg.inv(A)
    B = (covariance @ np.einsum("tpvw,tpqw->tvq", W, s.xy, optimize=True).reshape(T, V * q, 1)).reshape(T, V, q)
    cross = B[:, None] @ s.xy
    R = s.yy - cross - cross.swapaxes(-1, -2) + B[:, None] @ s.xx @ B.swapaxes(-1, -2)[:, None]
    blocks = covariance.reshape(T, V, q, V, q).transpose(0, 2, 4, 1, 3).reshape(T, q * q, V * V)
    Cx = (s.xx.reshape(T, P, q * q) @ blocks).reshape(T, P, V, V)
    value = (s.n * np.linalg.slogdet(padded)[1]).sum(1) + np.linalg.slogdet(A)[1] + (W * R).sum((1, 2, 3))
    gradient = (W @ (R + Cx) @ W - s.n[..., None, None] * W).sum(1) / 2
    Rx = s.xy.swapaxes(-1, -2) - B[:, None] @ s.xx
    return State(-value / 2, W, B, covariance, gradient, Cx, R, Rx)


def fit(s: Sums) -> tuple[np.ndarray, State, np.ndarray]:
    """Sigma [T, V, V] of largest restricted likelihood, the state there, and whether it was found [T].

    The first steps leave terms of the order of columns over patients out of the information, which are none when
    nobody is missing; trials that they do not finish, as with few patients and many missing, go on with all terms.
    """
    Sigma, state, converged = _climb(s, _start(s), False, QUICK)
    rest = ~converged
    if rest.any():
        Sigma[rest], more, converged[rest] = _climb(Sums(*(x[rest] for x in s)), Sigma[rest], True, ITERATIONS)
        for whole, part in zip(state, more, strict=True):
            whole[rest] = part
    return Sigma, state, converged & _positive(Sigma, BOUNDARY)


def _climb(s: Sums, Sigma: np.ndarray, exact: bool, iterations: int) -> tuple[np.ndarray, State, np.ndarray]:
    """Fisher scoring far from the maximum and Newton's method near it, from Sigma.

    Steps are halved until Sigma is positive definite and the likelihood no smaller.
    """
    T, V = len(s.n), s.seen.shape[-1]
    duplication = _duplication(V)
    state, converged, size = evaluate(s, Sigma), np.zeros(T, bool), np.ones(T)
    direction, near = np.zeros(Sigma.shape), np.zeros(T, bool)
    fresh = np.ones(T, bool)  # the direction is to be computed anew
    for _ in range(iterations):
        information = expected_information(s, state) if exact else leading_information(s, state)
        newton = 2 * _average_information(state, duplication) - information
        g = state.gradient.reshape(T, -1) @ duplication
        x = _ascent(np.where(near[:, None, None], newton, information), g)
        uphill = (x * g).sum(1) > 0
        x = np.where(uphill[:, None], x, _ascent(information, g)) if not uphill.all() else x
        decrement = (x * g).sum(1)
        direction = np.where(fresh[:, None, None], (x @ duplication.T).reshape(Sigma.shape), direction)
        converged |= fresh & (decrement < DECREMENT)
        near = decrement < NEAR
        size = np.where(fresh, 1.0, size / 2)
        if (converged | (size < 1e-6)).all():
            break
        tried = np.where(converged[:, None, None], Sigma, Sigma + size[:, None, None] * direction)
        legal = _positive(tried)
        new = evaluate(s, np.where(legal[:, None, None], tried, Sigma))
        fresh = legal & (new.log_likelihood >= state.log_likelihood - 1e-9)
        Sigma = np.where(fresh[:, None, None], tried, Sigma)
        state = State(
            *(np.where(fresh.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(new, state, strict=True))
        )
    return Sigma, state, converged


def _ascent(information: np.ndarray, g: np.ndarray) -> np.ndarray:
    """information^-1 g, for matrices that may be singular."""
    return (np.linalg.pinv(information, hermitian=True) @ g[..., None])[..., 0]


def _average_information(state: State, duplication: np.ndarray) -> np.ndarray:
    """y' P E_k P E_l P y/2 [T, m, m], the mean of the observed and the expected information (Gilmour et al. 1995)."""
    W, Wx = state.W, state.W @ state.Rx
    T, P, V, q = Wx.shape
    first = _symmetric(_outer(W @ state.R @ W, W), duplication)
    # X' W E_k W r summed over patients: of (visit, column) by element of Sigma
    moved = W.reshape(T, P, V * V).swapaxes(1, 2) @ Wx.reshape(T, P, V * q)
    moved = moved.reshape(T, V, V, V, q).transpose(0, 1, 4, 2, 3).reshape(T, V * q, V * V) @ duplication
    return (first - moved.swapaxes(1, 2) @ state.covariance @ moved) / 2


def leading_information(s: Sums, state: State) -> np.ndarray:
    """The expected information [T, m, m] but for terms of the order of columns over patients where some are missing."""
    H = s.n[..., None, None] * state.W - state.W @ state.Cx @ state.W
    return _symmetric(_outer(H, state.W), _duplication(s.seen.shape[-1])) / 2


def expected_information(s: Sums, state: State) -> np.ndarray:
    """Expected information [T, m, m] of the m = V (V + 1)/2 elements of Sigma under restricted likelihood.

    I_kl = tr(P E_k P E_l)/2 with P = W - W X cov(B) X' W, in the three terms that the difference leaves.
    """
    (T, P, V), q = s.seen.shape, s.xx.shape[-1]
    duplication = _duplication(V)
    W, shrunk = state.W, state.W @ state.Cx @ state.W
    H = s.n[..., None, None] * W - 2 * shrunk
    first = _symmetric(_outer(H, W), duplication)
    # W E_k W of each pattern [T, P, V, V, V V], then of each element k of Sigma
    m = duplication.shape[1]
    moved = np.einsum("tpva,tpbw->tpvwab", W, W, optimize=True).reshape(T, P, V * V, V * V) @ duplication
    K = moved.transpose(0, 3, 2, 1).reshape(T, m * V * V, P) @ s.xx.reshape(T, P, q * q)
    K = K.reshape(T, m, V, V, q, q).transpose(0, 1, 2, 4, 3, 5).reshape(T, m, V * q, V * q)
    values, vectors = np.linalg.eigh(state.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))[:, None, :])[:, None]
    K = (root.swapaxes(-1, -2) @ K @ root).reshape(T, m, -1)
    return (first + K @ K.swapaxes(-1, -2)) / 2


def _start(s: Sums) -> np.ndarray:
    """Covariances of residuals from least squares at each visit, over pairs that were seen; made positive definite."""
    V, q = s.seen.shape[-1], s.xx.shape[-1]
    xx = np.einsum("tpv,tpij->tvij", s.seen, s.xx, optimize=True)
    xy = s.xy.sum(1).swapaxes(-1, -2)
    xx = xx + np.eye(q) * (np.einsum("tvii->tvi", xx) == 0)[..., None, :]
    B = np.linalg.solve(xx, xy[..., None])[..., 0]
    cross = B[:, None] @ s.xy
    R = s.yy - cross - cross.swapaxes(-1, -2) + B[:, None] @ s.xx @ B.swapaxes(-1, -2)[:, None]
    both = s.seen[..., :, None] * s.seen[..., None, :]
    pairs = np.einsum("tp,tpvw->tvw", s.n, both, optimize=True)
    Sigma = (R * both).sum(1) / np.maximum(pairs - q, 1)
    diagonal = np.einsum("tvv->tv", Sigma)
    diagonal = np.maximum(diagonal, 1e-8 * np.maximum(diagonal.max(1, keepdims=True), 1e-300))
    own = np.eye(V) * diagonal[:, None, :]
    Sigma = np.where(np.eye(V, dtype=bool), own, Sigma)
    for _ in range(20):
        bad = ~_positive(Sigma, 1e-3)
        if not bad.any():
            break
        Sigma[bad] = (Sigma[bad] + own[bad]) / 2
    return Sigma


def _positive(Sigma: np.ndarray, least: float = 1e-10) -> np.ndarray:
    """Whether the smallest eigenvalue of the correlations is above ``least``."""
    variance = np.einsum("tvv->tv", Sigma)
    scale = 1 / np.sqrt(np.maximum(variance, 1e-300))
    correlation = np.where(np.isfinite(Sigma), Sigma, 0.0) * scale[:, :, None] * scale[:, None, :]
    return (variance > 0).all(1) & np.isfinite(Sigma).all((1, 2)) & (np.linalg.eigvalsh(correlation)[:, 0] > least)


def _kronecker_sum(W: np.ndarray, xx: np.ndarray) -> np.ndarray:
    """Sum over patterns of W (x) xx, [T, Vq, Vq]."""
    T, P, V, _ = W.shape
    q = xx.shape[-1]
    found = W.reshape(T, P, V * V).swapaxes(1, 2) @ xx.reshape(T, P, q * q)
    return found.reshape(T, V, V, q, q).transpose(0, 1, 3, 2, 4).reshape(T, V * q, V * q)


def _outer(L: np.ndarray, M: np.ndarray) -> np.ndarray:
    """Sum over patterns of L (x) M as a map of matrices, D -> L D M, on their rows one after another [T, VV, VV]."""
    T, P, V, _ = L.shape
    found = L.reshape(T, P, V * V).swapaxes(1, 2) @ M.reshape(T, P, V * V)
    return found.reshape(T, V, V, V, V).transpose(0, 1, 3, 2, 4).reshape(T, V * V, V * V)


def _symmetric(M: np.ndarray, duplication: np.ndarray) -> np.ndarray:
    return duplication.T @ M @ duplication


def _duplication(V: int) -> np.ndarray:
    """[V V, V (V + 1)/2]: from the elements on and below the diagonal to all elements."""
    rows, columns = np.tril_indices(V)
    found = np.zeros((V, V, len(rows)))
    found[rows, columns, np.arange(len(rows))] = 1
    found[columns, rows, np.arange(len(rows))] = 1
    return found.reshape(V * V, -1)
