"""Values of patients laid out group by group: what a group needs lies together, for the sake of caches and pages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@partial(jax.tree_util.register_dataclass, data_fields=["own", "shared"], meta_fields=["differs", "structure"])
@dataclass(frozen=True)
class Packed:
    """A pytree of numbers: leaves that differ between patients [groups, leaves, lanes], and those that do not [leaves].

    differs: of each leaf. structure: of the tree. Both are static.
    """

    own: Array
    shared: Array
    differs: tuple[bool, ...]
    structure: Any

    def place(self, leaf: int) -> int:
        """Where a leaf lies among those of its kind."""
        return sum(d == self.differs[leaf] for d in self.differs[:leaf])


def is_by_patient(leaf: Any, n: int) -> bool:
    return np.ndim(leaf) > 0 and np.shape(leaf)[-1] == n and n > 1


def pack(tree: Any, n: int, lanes: int) -> Packed:
    """The leaves of ``tree``, scalars or [n], for groups of ``lanes`` patients, of which n is a multiple."""
    leaves, structure = jax.tree.flatten(tree)
    dtype = jnp.result_type(*leaves)
    differs = tuple(is_by_patient(leaf, n) for leaf in leaves)
    own = [jnp.reshape(leaf, (-1, lanes)) for leaf, d in zip(leaves, differs, strict=True) if d]
    shared = [jnp.reshape(leaf, ()).astype(dtype) for leaf, d in zip(leaves, differs, strict=True) if not d]
    return Packed(
        jnp.stack(own, 1).astype(dtype) if own else jnp.zeros((n // lanes, 0, lanes), dtype),
        jnp.stack(shared) if shared else jnp.zeros(0, dtype),
        differs,
        structure,
    )


def unpack(p: Packed) -> Any:
    """The tree again."""
    leaves = [p.own[:, p.place(i)].reshape(-1) if d else p.shared[p.place(i)] for i, d in enumerate(p.differs)]
    return jax.tree.unflatten(p.structure, leaves)
