"""Design matrices and least squares of many trials at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ALIASED = 1e-9  # a column with less than this share of its sum of squares left is a combination of those before it


def broadcast(shape: tuple[int, ...], treated: np.ndarray, present: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """``treated`` and ``present`` as booleans [trials, patients]; all are present where nothing is said."""
    everyone = np.ones(shape, bool) if present is None else np.broadcast_to(np.asarray(present, bool), shape)
    return np.broadcast_to(np.asarray(treated, bool), shape), everyone


def strata(shape: tuple[int, ...], stratum: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Strata as integers [trials, patients], and how many there are; one where nothing is said."""
    if stratum is None:
        return np.zeros(shape, np.int64), 1
    found = np.broadcast_to(np.asarray(stratum, np.int64), shape)
    if found.min() < 0:
        raise ValueError("strata are integers from 0; patients who are not analysed are told by ``present``")
    return found, int(found.max()) + 1


def design_matrix(
    treated: np.ndarray, present: np.ndarray, stratum: np.ndarray | None, covariates: np.ndarray | None
) -> np.ndarray:
    """Columns [trials, patients, p]: an intercept of each stratum, covariates, and the treatment last.

    Covariates are centred within their trial. Patients who are not present have rows of zeros.
    """
    index, number = strata(present.shape, stratum)
    columns = [(index[..., None] == np.arange(number)).astype(np.float64)]
    if covariates is not None:
        given = np.broadcast_to(np.asarray(covariates, np.float64), (*present.shape, np.shape(covariates)[-1]))
        given = np.where(present[..., None], given, 0.0)  # not analysed, so it may be nan
        mean = given.sum(1, keepdims=True) / np.maximum(present.sum(1), 1)[:, None, None]
        columns.append(given - mean)
    columns.append(treated[..., None].astype(np.float64))
    return np.concatenate(columns, axis=-1) * present[..., None]


class Solved(NamedTuple):
    """x [trials, p] with A x = b, the inverse [trials, p, p], b' A^-1 b [trials], and columns that are aliased."""

    x: np.ndarray
    inverse: np.ndarray
    explained: np.ndarray
    aliased: np.ndarray


def solve(A: np.ndarray, b: np.ndarray, tolerance: float = ALIASED) -> Solved:
    """Symmetric systems [trials, p, p] by the sweep operator (Goodnight 1979).

    A column that depends on those before it, to ``tolerance`` of its diagonal, is aliased: its coefficient and its part
    of the inverse are 0.
    """
    T, p = b.shape
    M = np.zeros((T, p + 1, p + 1))
    M[:, :p, :p], M[:, :p, p], M[:, p, :p] = A, b, b
    diagonal = np.einsum("tii->ti", A).copy()
    aliased = np.zeros((T, p), bool)
    for k in range(p):
        pivot = M[:, k, k].copy()
        aliased[:, k] = pivot <= tolerance * diagonal[:, k]
        kept = ~aliased[:, k]
        scale = np.where(kept, 1 / np.where(kept, pivot, 1.0), 0.0)
        column = M[:, :, k].copy()
        row = M[:, k, :] * scale[:, None]
        M -= column[:, :, None] * row[:, None, :]
        M[:, k, :], M[:, :, k] = row, -column * scale[:, None]
        M[:, k, k] = scale
    return Solved(M[:, :p, p], M[:, :p, :p], -M[:, p, p], aliased)
