"""NumPyro's NUTS as a function: a model, a key and data in, arrays out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import constrain_fn, potential_energy

from inference.checkpoint import NOTHING_KEPT, Checkpoint
from pkpd.errors import InputError

Model = Callable[..., Any]
Progress = Callable[[int, int], None]
LONGEST_CHUNK = 100  # iterations between two reports of progress
SHRINKAGE = 0.02  # of the pooled correlations towards none


class Nuts(NamedTuple):
    """A sampler: ``run`` draws, ``compile`` makes the programs for data of one shape ahead of time."""

    run: Callable[..., NutsResult]
    compile: Callable[..., tuple[Any, Any]]


class NutsResult(NamedTuple):
    """Draws after warm-up."""

    samples: dict[str, np.ndarray]  # name -> [chains, draws, ...], latent and deterministic sites
    sample_stats: dict[str, np.ndarray]  # ArviZ's names -> [chains, draws]


def nuts_sampler(
    model: Model,
    *,
    warmup: int = 500,
    draws: int = 1000,
    target_accept: float = 0.9,
    max_tree_depth: int = 10,
) -> Nuts:
    """``run(key, initial, args=(), inverse_mass=None, progress=None, keep=NOTHING_KEPT)``, compiled once for a shape.

    ``compile(initial, args)`` does that before there are data: it takes arrays or ShapeDtypeStructs, from any thread.

    ``initial`` holds unconstrained starting values of every latent site, {site: [chains, ...]}; the chains run as one
    vectorised program in float64. ``inverse_mass`` [n, n] is a guess of the posterior covariance of the latent vector
    (sites in alphabetical order, raveled; default identity). Warm-up has two halves (rounded up): the first adapts
    the step size with that guess, then the mass matrix becomes the covariance of its later draws pooled over chains,
    and the second adapts the step size to it. (Windows that adapt each chain by itself start from 25 draws, too
    few for a dense matrix of some 40 dimensions: they spent nine tenths of all gradients.)

    ``progress(done, total)`` is called every 100 iterations or oftener, and as often ``keep`` gets a piece from which
    the run goes on. Raises InputError where the density is no number at a chain's start; RuntimeError unless
    jax_enable_x64 is on: in float32 the energy error of a step is mostly rounding.
    """
    if warmup < 2 or draws < 1:
        raise ValueError(f"warmup = {warmup} must be at least 2, draws = {draws} at least 1")
    half = -(-warmup // 2)
    chunk = _chunk(half, draws)
    # One latent vector instead of a dictionary of sites: half the leaves in NUTS's loops, and in what is compiled.
    init_kernel, sample_kernel = hmc(potential_fn_gen=partial(_potential, model), algo="NUTS")

    @jax.jit
    def start(z: Array, keys: Array, inverse_mass: Array, args: tuple[Any, ...]) -> HMCState:
        def one(z: Array, key: Array) -> HMCState:
            return init_kernel(
                z,
                half,
                inverse_mass_matrix=inverse_mass,
                adapt_mass_matrix=False,
                dense_mass=True,
                target_accept_prob=target_accept,
                max_tree_depth=max_tree_depth,
                model_args=args,
                rng_key=key,
            )

        return jax.vmap(one)(z, keys)

    @jax.jit
    def advance(state: HMCState, args: tuple[Any, ...]) -> tuple[HMCState, dict[str, Any]]:
        def step(state: HMCState, _: None) -> tuple[HMCState, dict[str, Any]]:
            state = jax.vmap(sample_kernel, in_axes=(0, None))(state, args)
            return state, {
                "z": state.z,
                "diverging": state.diverging,
                "energy": state.energy,
                "lp": -state.potential_energy,
                "n_steps": state.num_steps,
                "acceptance_rate": state.accept_prob,
                "step_size": state.adapt_state.step_size,
            }

        return jax.lax.scan(step, state, None, length=chunk)

    @jax.jit
    def constrain(z: Array, args: tuple[Any, ...]) -> dict[str, Array]:
        like, *rest = args

        def one(z: Array) -> dict[str, Array]:
            return constrain_fn(model, rest, {}, _sites(z, like), return_deterministic=True)

        # one draw of every chain at a time: the memory of one gradient, not of all draws
        return jax.lax.map(jax.vmap(one), z)

    programs: dict[Any, tuple[Any, Any]] = {}
    compiling = threading.Lock()

    def compile(initial: Mapping[str, Any], args: tuple[Any, ...]) -> tuple[Any, Any]:
        given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (_like(initial), *args))
        chains, *_ = next(iter(initial.values())).shape
        n = sum(math.prod(leaf.shape) for leaf in given[0].values())
        shapes = chains, jax.tree.structure(given), tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(given))
        with compiling:
            if shapes not in programs:
                keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), chains))
                number = partial(jax.ShapeDtypeStruct, dtype=jnp.float64)
                begin = number((chains, n)), keys, number((n, n)), given
                state = jax.eval_shape(start, *begin)
                programs[shapes] = start.lower(*begin).compile(), advance.lower(state, given).compile()
            return programs[shapes]

    def run(
        key: Array,
        initial: Mapping[str, Array],
        args: tuple[Any, ...] = (),
        inverse_mass: Array | None = None,
        progress: Progress | None = None,
        keep: Checkpoint = NOTHING_KEPT,
    ) -> NutsResult:
        if not jax.config.read("jax_enable_x64"):
            raise RuntimeError("NUTS needs float64: jax.config.update('jax_enable_x64', True) first")
        compiled_start, compiled_advance = compile(initial, args)
        args = (_like(initial), *args)
        z = jnp.concatenate([np.reshape(initial[s], (len(initial[s]), -1)) for s in args[0]], axis=1, dtype=jnp.float64)
        chains, n = z.shape
        first, second = jax.random.split(key)
        done = 0

        def advanced(state: HMCState) -> dict[str, np.ndarray]:
            return _flat(*compiled_advance(state, args))

        def iterate(state: HMCState, n: int) -> tuple[HMCState, dict[str, Any]]:
            nonlocal done
            parts = []
            for _ in range(n // chunk):
                kept = keep.piece(f"iteration-{done + chunk}", partial(advanced, state))
                state, drawn = _unflat(kept, state)
                parts.append(drawn)
                done += chunk
                if progress is not None:
                    progress(done, 2 * half + draws)
            return state, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        if inverse_mass is None:
            inverse_mass = jnp.eye(n)
        state = compiled_start(z, jax.random.split(first, chains), jnp.asarray(inverse_mass, jnp.float64), args)
        if not np.isfinite(state.potential_energy).all():
            chain = int(np.argmin(np.isfinite(state.potential_energy)))
            raise InputError(
                f"the log posterior density is {-float(state.potential_energy[chain])} where chain {chain + 1} starts: "
                "a likelihood that is no number, or data that the model cannot produce"
            )
        state, drawn = iterate(state, half)
        inverse_mass = pooled_covariance(drawn["z"], inverse_mass)
        state = compiled_start(state.z, jax.random.split(second, chains), inverse_mass, args)
        state, _ = iterate(state, half)
        _, stats = iterate(state, draws)

        samples = constrain(stats.pop("z"), args)
        stats["tree_depth"] = np.ceil(np.log2(stats["n_steps"] + 1)).astype(np.int64)
        by_chain = jax.tree.map(lambda a: np.swapaxes(np.asarray(a), 0, 1), (dict(samples), stats))
        return NutsResult(*by_chain)

    return Nuts(run, compile)


def nuts(
    model: Model, key: Array, initial: Mapping[str, Array], args: tuple[Any, ...] = (), **settings: Any
) -> NutsResult:
    """One run of ``nuts_sampler(model, **settings)``; what ``run`` takes besides may be among the settings."""
    now = {name: settings.pop(name) for name in ("inverse_mass", "progress", "keep") if name in settings}
    return nuts_sampler(model, **settings).run(key, initial, args, **now)


def pooled_covariance(z: np.ndarray, fallback: Any) -> Array:
    """Covariance [n, n] of draws [draws, chains, n] about the common mean, later half, correlations shrunk.

    ``fallback`` is returned when there are fewer than ten draws for each dimension.
    """
    rows = z[len(z) // 2 :].reshape(-1, z.shape[-1])
    if len(rows) < 10 * rows.shape[1]:
        return jnp.asarray(fallback)
    covariance = np.atleast_2d(np.cov(rows.T))
    return jnp.asarray((1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance)))


def _like(initial: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The latent sites of one chain, in the order of their names in the latent vector; only their shapes matter."""
    return {site: np.zeros(initial[site].shape[1:]) for site in sorted(initial)}


def _sites(z: Array, like: Mapping[str, Any]) -> dict[str, Array]:
    """The latent vector z [n] as its sites."""
    ends = np.cumsum([math.prod(leaf.shape) for leaf in like.values()])[:-1]
    return {site: part.reshape(like[site].shape) for site, part in zip(like, jnp.split(z, ends), strict=True)}


def _flat(state: HMCState, drawn: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """State and draws of a chunk as arrays by name, keys as their data."""
    leaves = (jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(state))
    return {f"state_{i}": np.asarray(x) for i, x in enumerate(leaves)} | {n: np.asarray(x) for n, x in drawn.items()}


def _unflat(kept: Mapping[str, np.ndarray], like: HMCState) -> tuple[HMCState, dict[str, np.ndarray]]:
    """What ``_flat`` made, back again; ``like`` is a state of the same shapes."""
    leaves, structure = jax.tree.flatten(like)
    stored = [kept[f"state_{i}"] for i in range(len(leaves))]
    state = [
        jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(old)) if _is_key(old) else jnp.asarray(x)
        for x, old in zip(stored, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, state), {n: x for n, x in kept.items() if not n.startswith("state_")}


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _potential(model: Model, like: Mapping[str, Any], *args: Any) -> Callable[[Array], Array]:
    return lambda z: potential_energy(model, args, {}, _sites(z, like))


def _chunk(half: int, draws: int) -> int:
    """Largest number of iterations up to LONGEST_CHUNK that divides every phase."""
    common = math.gcd(half, draws)
    return max(c for c in range(1, min(common, LONGEST_CHUNK) + 1) if common % c == 0)
