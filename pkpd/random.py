"""Random draws from explicit keys: one stream for every (seed, draw, trial, patient, day, purpose).

A patient's numbers depend on nothing else, so the same seed gives the same patient whatever the batch, the device or
the other arms, and two designs can be compared on the same patients. Drawn in float32 for both precisions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

PURPOSES = ("random_effects", "weight", "baseline", "covariates", "drift", "residual", "rescue", "dropout")
LARGEST_SEED = 2**31 - 1


def root(seed: int) -> Array:
    """Key of a seed (0 to 2^31 - 1), always of the same generator whatever JAX's default is."""
    return jax.random.key(seed, impl="threefry2x32")


def patient_keys(key: Array, draw: Array, trial: Array, patient: Array) -> Array:
    """Keys [patients] from a root key and integer arrays [patients]: population draw, trial, patient number."""

    def one(d: Array, t: Array, p: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, d), t), p)

    return jax.vmap(one)(draw, trial, patient)


def _stream(keys: Array, day: Array | int, purpose: str) -> Array:
    fold = PURPOSES.index(purpose)
    return jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, day), fold))(keys)


def normal(keys: Array, day: Array | int, purpose: str, shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Array:
    """Standard normals [*shape, patients] for ``purpose`` on ``day``."""
    z = jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(_stream(keys, day, purpose))
    return jnp.moveaxis(z, 0, -1).astype(dtype)


def uniform(
    keys: Array, day: Array | int, purpose: str, shape: tuple[int, ...] = (), dtype: Any = jnp.float32
) -> Array:
    """Uniforms on [0, 1) [*shape, patients] for ``purpose`` on ``day``."""
    u = jax.vmap(lambda k: jax.random.uniform(k, shape, jnp.float32))(_stream(keys, day, purpose))
    return jnp.moveaxis(u, 0, -1).astype(dtype)
