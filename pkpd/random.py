"""Random draws from explicit keys: one stream for every (seed, draw, trial, patient, day, purpose).

A patient's numbers depend on nothing else, so the same seed gives the same patient whatever the batch, the device or
the other arms, and two designs can be compared on the same patients. Drawn in float32 for both precisions.

A patient's key is folded from seed, draw, trial and patient; each pair of numbers is then one block of the generator
(threefry, Salmon et al. 2011) at the counter of its day, purpose and place.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

PURPOSES = ("random_effects", "weight", "baseline", "covariates", "drift", "residual", "rescue", "dropout")
# Numbers of protocols with visit windows, missed doses and the like, of patients that a user's table holds, of those
# who are screened, and of their randomisation; apart, so that the others stay what they were.
OF_PROTOCOLS = (
    "visit_day", "missed_visit", "adherence", "adherence_level", "meal", "informative_dropout", "table_row",
    "screening", "other_failure", "allocation", "age",
)  # fmt: skip
_APART = 2**28  # counters below are those of PURPOSES
_ROOM = 16  # purposes of protocols that there is room for
PAIRS = 32  # of numbers that a patient can draw for one purpose on one day
LARGEST_SEED = 2**31 - 1


def root(seed: int) -> Array:
    """Key of a seed (0 to 2^31 - 1), always of the same generator whatever JAX's default is."""
    return jax.random.key(seed, impl="threefry2x32")


def patient_keys(key: Array, draw: Array, trial: Array, patient: Array) -> Array:
    """Keys [patients] from a root key and integer arrays [patients]: population draw, trial, patient number."""

    def one(d: Array, t: Array, p: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, d), t), p)

    return jax.vmap(one)(draw, trial, patient)


def generator(key: Array) -> np.random.Generator:
    """NumPy's generator of a key: for numbers on the host that no batch of patients depends on; nothing compiles."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _bits(keys: Array, days: Array, purpose: str, count: int) -> Array:
    """Random 32-bit words [days, count, patients]; a folded key is the generator's block at that counter."""
    pairs = -(-count // 2)
    if pairs > PAIRS:
        raise ValueError(f"{count} numbers a day for {purpose!r}; at most {2 * PAIRS}")
    days = jnp.asarray(days, jnp.uint32)
    if purpose in OF_PROTOCOLS:
        first = jnp.uint32(_APART) + (days * _ROOM + OF_PROTOCOLS.index(purpose)) * PAIRS
    else:
        first = (days * len(PURPOSES) + PURPOSES.index(purpose)) * PAIRS
    counters = (first[:, None] + jnp.arange(pairs, dtype=jnp.uint32)).ravel()
    blocks = jax.vmap(lambda at: jax.vmap(lambda k: jax.random.key_data(jax.random.fold_in(k, at)))(keys))(counters)
    words = jnp.moveaxis(blocks.reshape(first.size, pairs, -1, 2), -1, 2)
    return words.reshape(first.size, 2 * pairs, -1)[:, :count]


def uniform(
    keys: Array, day: Array | int, purpose: str, shape: tuple[int, ...] = (), dtype: Any = jnp.float32
) -> Array:
    """Uniforms on [0, 1) for ``purpose`` on ``day``, [*shape, patients]; for days [days] [days, *shape, patients]."""
    days = jnp.atleast_1d(jnp.asarray(day))
    bits = _bits(keys, days, purpose, math.prod(shape))
    one_to_two = lax.bitcast_convert_type((bits >> 9) | np.float32(1).view(np.uint32), jnp.float32)
    u = (one_to_two - 1).reshape(*jnp.shape(day), *shape, keys.shape[0])
    return u.astype(dtype)


def normal(keys: Array, day: Array | int, purpose: str, shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Array:
    """Standard normals for ``purpose`` on ``day``; shapes as of ``uniform``. z = sqrt(2) erfinv(2 u - 1)."""
    u = uniform(keys, day, purpose, shape)
    inside = u + np.float32(2**-24)  # the middle of each of 2^23 equal intervals, so never 0 or 1
    return (np.float32(math.sqrt(2)) * lax.erf_inv(2 * inside - 1)).astype(dtype)
