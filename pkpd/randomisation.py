"""Randomisation of a trial's patients to its arms by permuted blocks within strata.

Patients are numbered as they come, 0 to N - 1, and keep their numbers, so their random numbers are those they have in
any other design. They are sorted by stratum, in each as they came, and one sequence of blocks runs through all of them:
its blocks have the arms in the ratio of their sizes, in an order of their own. So every arm has exactly its size in
every trial, as sizes at looks, analyses and costs are stated for it, and a stratum can be out of balance only by what
two cut blocks leave, one at either end. (Lists of blocks of each stratum, as a trial office keeps them, leave one cut
block in each stratum and totals that vary by trial.) Only what is known of patients before treatment is drawn for this,
and all of it from keys of (seed, draw, trial, patient).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic import Field

from pkpd import random
from pkpd.errors import InputError
from pkpd.parameters import CovariateRatios, Population
from pkpd.strata import Strata, stratum_of
from pkpd.tomlfile import shown
from pkpd.trial import Arm, drawn
from pkpd.validated import List, Table

TILE = 2**16  # patients whose traits are drawn at once
Numbers = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Randomisation(Table):
    """Permuted blocks. ratio: of the arms in a block, by default that of their sizes, which it has to come near.

    block: patients of a block, a multiple of the sum of the ratio. strata: within which blocks are formed; without, of
    all patients as they come.
    """

    block: int = Field(ge=1, le=10**6)
    strata: Strata | None = None
    ratio: List[int] | None = None

    def ratio_of(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The ratio of arms of the given sizes."""
        common = math.gcd(*sizes)
        return tuple(self.ratio) if self.ratio else tuple(n // common for n in sizes)


def check_randomisation(r: Randomisation, sizes: Sequence[int]) -> None:
    """InputError, without the table's name, where blocks do not go with arms of the given sizes."""
    if len(sizes) < 2:
        raise InputError("one arm has nothing to randomise; legal: at least two [[arms]]")
    total = sum(sizes)
    if r.ratio is not None:
        given = f"ratio = {shown(list(r.ratio))}"
        if len(r.ratio) != len(sizes) or min(r.ratio) < 1:
            raise InputError(f"{given}; legal: a whole number above 0 for each of {len(sizes)} arms")
        for n, share in zip(sizes, r.ratio, strict=True):
            if abs(n - total * share / sum(r.ratio)) > r.block / 2:
                raise InputError(
                    f"{given} makes {total * share / sum(r.ratio):.4g} of {total} patients where an arm has {n}; "
                    f"legal: a ratio that sizes of {', '.join(map(str, sizes))} are within half a block of"
                )
    ratio = r.ratio_of(sizes)
    if r.block % sum(ratio):
        told = ":".join(map(str, ratio))
        raise InputError(
            f"block = {r.block}: no whole number of patients at {told}; legal: a multiple of {sum(ratio)}"
            + ("" if r.ratio else ", or a ratio = [..] that the sizes of the arms come near")
        )
    if r.strata is not None and r.block >= total:
        raise InputError(
            f"block = {r.block}: the {total} patients are one block, whose strata balance nothing; legal: below {total}"
            + ("" if r.ratio else ", perhaps with a ratio = [..] that the sizes of the arms come near")
        )


class Allocation(NamedTuple):
    """Which of the patients ``first`` to ``first`` + sum of ``sizes`` are those of an arm, by its number."""

    block: int
    strata: Strata | None
    sizes: tuple[int, ...]
    arm: int
    first: int = 0


def allocations(r: Randomisation | None, sizes: Sequence[int], first: int = 0) -> list[Allocation | None]:
    """That of each arm, for the patients from ``first`` on; None where arms have their patients by number."""
    if r is None:
        return [None] * len(sizes)
    return [Allocation(r.block, r.strata, tuple(sizes), index, first) for index in range(len(sizes))]


def spread(sizes: Sequence[int]) -> np.ndarray:
    """Arms [N] in turn, each as evenly as whole patients allow: in the ratio of the sizes in any stretch of it."""
    at = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes])
    return np.repeat(np.arange(len(sizes)), sizes)[np.argsort(at, kind="stable")]


def allocate(stratum: np.ndarray, u: np.ndarray, turn: np.ndarray, sizes: Sequence[int], block: int) -> np.ndarray:
    """Arm [trials, N] of each patient, by stratum [trials, N] and uniforms u [trials, N] that order those of a block.

    turn [trials]: uniforms that say where the sequence of arms begins, so that every patient has each arm with its
    share of the whole even where a block cannot have the ratio of the sizes exactly.
    """
    trials, N = stratum.shape
    sequence = spread(sizes)
    begins = (turn * N).astype(np.int64) % N
    arms = sequence[(np.arange(N) + begins[:, None]) % N]
    by_stratum = np.argsort(stratum, axis=1, kind="stable")
    within = np.arange(N) // block + np.take_along_axis(u, by_stratum, 1).astype(np.float64)
    patient = np.take_along_axis(by_stratum, np.argsort(within, axis=1, kind="stable"), 1)
    found = np.empty((trials, N), np.int64)
    np.put_along_axis(found, patient, arms, 1)
    return found


@partial(jax.jit, static_argnames="strata")
def _known(
    population: Population, entrance: tuple[Any, ...], key: Any, draw: Any, trial: Any, patient: Any, strata: bool
) -> tuple[dict[str, Any], Any]:
    """What strata may be formed by, and two uniforms [2, patients] for the allocation."""
    keys = random.patient_keys(key, draw, trial, patient)
    found: dict[str, Any] = {}
    if strata:  # the compiler leaves out what is not read of the patients
        who = drawn(population, keys, *entrance)
        names = (name.removesuffix("_clearance_ratio") for name in CovariateRatios._fields)
        found = {"baseline_1e9_per_l": who.baseline_1e9_per_l, "weight_kg": who.weight_kg}
        found |= {} if who.age_y is None else {"age_y": who.age_y}
        found |= dict(zip(names, who.covariates, strict=True))
    return found, random.uniform(keys, 0, "allocation", (2,))


def numbering(
    a: Allocation, population: Callable[[np.ndarray], Population], arm: Arm, n_draws: int, seed: int
) -> Numbers:
    """A function of trials (numbered over all draws) and places in the arm, both [..], that gives patient numbers.

    population: of the draws [patients]; arm: what decides who enters. Both are of any arm: before they are randomised
    patients are of none. The trials are made block by block; the last block is kept, as callers ask for one after the
    other.
    """
    entrance = (np.float32(arm.baseline_below), arm.table, arm.screen, arm.limits)
    key, N = random.root(seed), sum(a.sizes)
    together = max(1, TILE // N)
    last: dict[int, np.ndarray] = {}

    def known(number: np.ndarray, patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Strata [patients] and uniforms [2, patients]."""
        strata, u = [], []
        for start in range(0, len(number), TILE):
            rows = np.minimum(np.arange(start, start + TILE), len(number) - 1)  # of one length, so it compiles once
            draw, trial = number[rows] % n_draws, number[rows] // n_draws
            own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), population(draw))
            who = (x.astype(np.int32) for x in (draw, trial, patient[rows]))
            traits, pair = jax.device_get(_known(own, entrance, key, *who, a.strata is not None))
            there = len(number) - start
            strata.append(stratum_of(a.strata, traits)[:there] if a.strata else np.zeros(min(there, TILE), np.int64))
            u.append(pair[:, :there])
        return np.concatenate(strata), np.concatenate(u, axis=1)

    def of_block(number: int) -> np.ndarray:
        """Patient numbers [trials, patients of the arm] of the trials of a block."""
        trials = np.arange(number * together, (number + 1) * together)
        who = np.tile(np.arange(a.first, a.first + N), together)
        stratum, u = (x.reshape(*x.shape[:-1], together, N) for x in known(np.repeat(trials, N), who))
        arm = allocate(stratum, u[0], u[1, :, 0], a.sizes, a.block)
        return np.nonzero(arm == a.arm)[1].reshape(together, a.sizes[a.arm]) + a.first

    def of(number: np.ndarray, place: np.ndarray) -> np.ndarray:
        found = np.empty(np.shape(number), np.int64)
        block = number // together
        for b in np.unique(block):
            if b not in last:
                made = of_block(int(b))
                last.clear()
                last[int(b)] = made
            own = block == b
            found[own] = last[int(b)][number[own] - b * together, place[own]]
        return found

    return of
