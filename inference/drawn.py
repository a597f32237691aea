"""Draws of a run's population parameters, as predictions of other trials take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from inference.store import NUMBER
from inference.studies import SHIFT, shift_name
from pkpd import random

if TYPE_CHECKING:
    from inference.store import FitResult

# Keys of these numbers, beyond those of any draw of patients.
RESAMPLING, NEW_STUDY = np.uint32(2**31), np.uint32(2**31 + 2)
NEW = "new"  # the study that a prediction is of


def draws_of(r: FitResult, n: int, seed: int = 1) -> dict[str, np.ndarray]:
    """n draws [n] of every population parameter: by the weights of the run's correction where it has them.

    Systematic resampling, by one uniform number; without weights evenly spaced through all chains. What is fixed and
    was imputed comes along. Where the sd between studies was estimated, a new study gets shifts of its own.
    """
    shape = next(iter(r.posterior.values())).shape
    imputed = {k: np.broadcast_to(v[:, None], shape) for k, v in r.imputed.items() if k != NUMBER}
    rows = np.linspace(0, np.prod(shape) - 1, n).astype(int)
    if r.correction:
        chain, draw, log_weight = (np.asarray(r.correction[key]) for key in ("chain_of", "draw_of", "log_weight"))
        weights = np.exp(log_weight - log_weight.max())
        share = np.cumsum(weights) / weights.sum()
        u = random.generator(jax.random.fold_in(random.root(seed), RESAMPLING)).uniform()
        chosen = np.searchsorted(share[:-1], (np.arange(n) + u) / n, side="right")
        rows = np.ravel_multi_index((chain[chosen], draw[chosen]), shape)
    found = {name: np.asarray(v).reshape(-1)[rows] for name, v in (dict(r.posterior) | imputed).items()}
    members = [name.partition("_shift[")[0] for name in found if "_shift[" in name]
    rng = random.generator(jax.random.fold_in(random.root(seed), NEW_STUDY))
    shifts = {shift_name(m, NEW): rng.standard_normal(n) for m in dict.fromkeys(members)} if SHIFT in found else {}
    return found | shifts
