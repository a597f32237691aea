"""The joint prior of the free population parameters: an immutable description, in one set of coordinates.

A coordinate is the unconstrained form of a parameter: log for lognormal and half-normal ones, logit for beta ones,
itself for standard normal ones, atanh of the partial correlations of a block, additive log-ratios to the last member
for a Dirichlet group (one coordinate fewer than members). The surface, NUTS and the report all use these coordinates,
in the order of ``JointPrior.coordinate_names``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.nn import log_sigmoid, log_softmax
from jax.typing import ArrayLike
from scipy.special import betaincinv, betaln, digamma, gammaincinv, gammaln, ndtr, polygamma

from pkpd import random
from pkpd.errors import InputError, nearest
from pkpd.parameters import Library, correlation_name, with_overrides

LOG_2_PI = math.log(2 * math.pi)
HALF_NORMAL_LOG_MEAN = -(np.euler_gamma + math.log(2.0)) / 2  # E log|Z| of a standard normal
OVERRIDE_KEYS = ("free", "centre", "log_sd", "alpha", "beta", "concentration", "scale")


@dataclass(frozen=True)
class Lognormal:
    """log x ~ N(log centre, log_sd^2)."""

    name: str
    centre: float
    log_sd: float


@dataclass(frozen=True)
class Beta:
    """x ~ Beta(alpha, beta)."""

    name: str
    alpha: float
    beta: float


@dataclass(frozen=True)
class Dirichlet:
    """(x_1, ..., x_k) ~ Dirichlet(alphas), one name for each member."""

    names: tuple[str, ...]
    alphas: tuple[float, ...]


@dataclass(frozen=True)
class HalfNormal:
    """x = |Z| scale: the sd of the shifts between studies."""

    name: str
    scale: float


@dataclass(frozen=True)
class Standard:
    """x ~ N(0, 1): the shift of one study, in sds of those between studies."""

    name: str


@dataclass(frozen=True)
class Lkj:
    """A block of k random effects whose correlation matrix is LKJ(concentration): density det(R)^(concentration - 1).

    Coordinates are the inverse hyperbolic tangents of the canonical partial correlations, which are independent:
    that of row i and column j is 2 B - 1, B ~ Beta(b, b), b = concentration + (k - 2 - j)/2 (Lewandowski, Kurowicka
    and Joe, J Multivar Anal 2009;100:1989). Values are the correlations of the pairs.
    """

    members: tuple[str, ...]
    concentration: float

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Rows i and columns j < i, in the order of the coordinates."""
        return [(i, j) for i in range(len(self.members)) for j in range(i)]

    def shapes(self) -> np.ndarray:
        """b of every coordinate."""
        return np.array([self.concentration + (len(self.members) - 2 - j) / 2 for _, j in self.pairs])


Element = Lognormal | Beta | Dirichlet | HalfNormal | Standard | Lkj


def renamed(e: Element, name: str) -> Element:
    """The same law of a parameter of another name; not for a law of several."""
    if isinstance(e, Dirichlet | Lkj):
        raise ValueError("a law of several names")
    return replace(e, name=name)


def law_of(e: Element) -> tuple[str, str]:
    """Name and law of a parameter, or of the members of a group, in words."""
    kind = type(e).__name__.lower()
    if isinstance(e, Lognormal):
        return e.name, f"{kind}: median {e.centre:.5g}, log-sd {e.log_sd:g}"
    if isinstance(e, Beta):
        return e.name, f"{kind}: {e.alpha:g}, {e.beta:g}"
    if isinstance(e, Dirichlet):
        return ", ".join(e.names), f"{kind}: " + ", ".join(f"{a:g}" for a in e.alphas)
    if isinstance(e, Lkj):
        return "correlations of " + ", ".join(e.members), f"LKJ: {e.concentration:g}"
    return e.name, f"{kind}: scale {e.scale:g}" if isinstance(e, HalfNormal) else "standard normal"


def _names(e: Element) -> tuple[str, ...]:
    if isinstance(e, Lkj):
        return tuple(correlation_name(e.members[j], e.members[i]) for i, j in e.pairs)
    return e.names if isinstance(e, Dirichlet) else (e.name,)


def _location_scale(e: Element) -> tuple[list[float], list[float]]:
    """Mean and sd of the element's coordinates under the prior (exact for all laws)."""
    if isinstance(e, Standard):
        return [0.0], [1.0]
    if isinstance(e, Lkj):  # atanh(2 B - 1) is half a logit
        return [0.0] * len(e.pairs), np.sqrt(polygamma(1, e.shapes()) / 2).tolist()
    if isinstance(e, Lognormal):
        return [math.log(e.centre)], [e.log_sd]
    if isinstance(e, Beta):
        return ([float(digamma(e.alpha) - digamma(e.beta))], [math.sqrt(polygamma(1, e.alpha) + polygamma(1, e.beta))])
    if isinstance(e, HalfNormal):
        return [math.log(e.scale) + HALF_NORMAL_LOG_MEAN], [math.pi / math.sqrt(8.0)]
    last = e.alphas[-1]
    return (
        [float(digamma(a) - digamma(last)) for a in e.alphas[:-1]],
        [math.sqrt(polygamma(1, a) + polygamma(1, last)) for a in e.alphas[:-1]],
    )


def _constrain(e: Element, u: Array) -> list[Array]:
    """Natural values from coordinates u [..., k]."""
    if isinstance(e, Standard):
        return [u[..., 0]]
    if isinstance(e, Lkj):
        return _correlations(len(e.members), dict(zip(e.pairs, jnp.moveaxis(jnp.tanh(u), -1, 0), strict=True)))
    if isinstance(e, Beta):
        return [jax.nn.sigmoid(u[..., 0])]
    if isinstance(e, Dirichlet):
        shares = jnp.exp(log_softmax(_with_reference(u), axis=-1))
        return [shares[..., i] for i in range(len(e.names))]
    return [jnp.exp(u[..., 0])]


def _unconstrain(e: Element, values: Sequence[Array]) -> list[Array]:
    if isinstance(e, Standard):
        return [jnp.asarray(values[0])]
    if isinstance(e, Lkj):
        return _partials(len(e.members), dict(zip(e.pairs, values, strict=True)))
    if isinstance(e, Beta):
        return [jnp.log(values[0]) - jnp.log1p(-values[0])]
    if isinstance(e, Dirichlet):
        return [jnp.log(v) - jnp.log(values[-1]) for v in values[:-1]]
    return [jnp.log(values[0])]


def _from_normals(e: Element, z: np.ndarray) -> list[np.ndarray]:
    """Draws by quantiles from standard normals [n, names]: no generator of its own for each law."""
    if isinstance(e, Standard):
        return [z[:, 0]]
    if isinstance(e, Lkj):
        partial = 2 * betaincinv(e.shapes(), e.shapes(), ndtr(z)) - 1
        found = _correlations(len(e.members), dict(zip(e.pairs, jnp.asarray(partial.T), strict=True)))
        return [np.asarray(x) for x in found]
    if isinstance(e, Lognormal):
        return [e.centre * np.exp(e.log_sd * z[:, 0])]
    if isinstance(e, HalfNormal):
        return [e.scale * np.abs(z[:, 0])]
    if isinstance(e, Beta):
        return [betaincinv(e.alpha, e.beta, ndtr(z[:, 0]))]
    gammas = gammaincinv(np.asarray(e.alphas), ndtr(z))
    return list((gammas / gammas.sum(axis=1, keepdims=True)).T)


def _log_density(e: Element, u: Array) -> Array:
    """Log density of the coordinates u [..., k], Jacobian included."""
    if isinstance(e, Standard):
        return -0.5 * (u[..., 0] ** 2 + LOG_2_PI)
    if isinstance(e, Lkj):
        b = e.shapes()
        constant = len(b) * math.log(2.0) - float(betaln(b, b).sum())
        return (jnp.asarray(b) * (log_sigmoid(2 * u) + log_sigmoid(-2 * u))).sum(-1) + constant
    if isinstance(e, Lognormal):
        return -0.5 * (((u[..., 0] - math.log(e.centre)) / e.log_sd) ** 2 + LOG_2_PI) - math.log(e.log_sd)
    if isinstance(e, Beta):
        return e.alpha * log_sigmoid(u[..., 0]) + e.beta * log_sigmoid(-u[..., 0]) - float(betaln(e.alpha, e.beta))
    if isinstance(e, HalfNormal):
        x = jnp.exp(u[..., 0]) / e.scale
        return u[..., 0] - 0.5 * x**2 + (0.5 * (math.log(4.0) - LOG_2_PI) - math.log(e.scale))
    alphas = np.asarray(e.alphas)
    constant = float(gammaln(alphas.sum()) - gammaln(alphas).sum())
    return (jnp.asarray(alphas) * log_softmax(_with_reference(u), axis=-1)).sum(-1) + constant


def _correlations(k: int, partial: Mapping[tuple[int, int], Array]) -> list[Array]:
    """Correlations of all pairs from the canonical partial ones: rows of a Cholesky factor, stick by stick."""
    rows: list[list[Array]] = []
    for i in range(k):
        row, left = [], jnp.ones_like(partial[1, 0])
        for j in range(i):
            row.append(partial[i, j] * jnp.sqrt(left))
            left = left * (1 - partial[i, j] ** 2)
        rows.append([*row, jnp.sqrt(left)])
    return [sum(a * b for a, b in zip(rows[i], rows[j], strict=False)) for i in range(k) for j in range(i)]  # type: ignore[misc]


def _partials(k: int, correlations: Mapping[tuple[int, int], Array]) -> list[Array]:
    """Coordinates of the pairs from their correlations: ``_correlations`` undone, row by row."""
    rows: list[list[Array]] = []
    found = []
    for i in range(k):
        row: list[Array] = []
        left = jnp.ones_like(jnp.asarray(correlations[1, 0]))
        for j in range(i):
            known = sum((a * b for a, b in zip(row, rows[j], strict=False)), start=jnp.zeros_like(left))
            row.append((jnp.asarray(correlations[i, j]) - known) / rows[j][j])
            found.append(jnp.arctanh(row[-1] / jnp.sqrt(left)))
            left = left - row[-1] ** 2
        rows.append([*row, jnp.sqrt(left)])
    return found


def _with_reference(u: Array) -> Array:
    return jnp.concatenate([u, jnp.zeros((*u.shape[:-1], 1), u.dtype)], axis=-1)


@dataclass(frozen=True)
class JointPrior:
    """Independent elements, in order; hashable, so it may be a static argument of a compiled function."""

    elements: tuple[Element, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the free parameters."""
        return tuple(name for e in self.elements for name in _names(e))

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the coordinates: ``log x``, ``logit x``, ``log x/y``, or the parameter's own."""
        labels: list[str] = []
        for e in self.elements:
            if isinstance(e, Standard):
                labels.append(e.name)
            elif isinstance(e, Lkj):
                labels += [f"atanh partial {name}" for name in _names(e)]
            elif isinstance(e, Dirichlet):
                labels += [f"log {name}/{e.names[-1]}" for name in e.names[:-1]]
            else:
                labels.append(f"{'logit' if isinstance(e, Beta) else 'log'} {e.name}")
        return tuple(labels)

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return len(self.location())

    def location(self) -> np.ndarray:
        """Prior mean of the coordinates [d]."""
        return np.array([m for e in self.elements for m in _location_scale(e)[0]])

    def scale(self) -> np.ndarray:
        """Prior sd of the coordinates [d]."""
        return np.array([s for e in self.elements for s in _location_scale(e)[1]])

    def draws(self, key: Array, n: int) -> dict[str, np.ndarray]:
        """n draws by name, float64 [n]. A parameter's draws do not depend on which others are free."""
        drawn: dict[str, np.ndarray] = {}
        for e in self.elements:
            own = jax.random.fold_in(key, zlib.crc32(_names(e)[0].encode()))
            z = random.generator(own).standard_normal((n, len(_names(e))))
            drawn |= dict(zip(_names(e), _from_normals(e, z), strict=True))
        return drawn

    def unconstrained(self, values: Mapping[str, Any]) -> Array:
        """Coordinates [..., d] of natural values, each [...]. Raises InputError if a free parameter is missing."""
        for name in self.names:
            if name not in values:
                raise InputError(f"no value for the free parameter '{name}'")
        columns = [c for e in self.elements for c in _unconstrain(e, [jnp.asarray(values[n]) for n in _names(e)])]
        return jnp.stack(columns, axis=-1)

    def constrained(self, coordinates: ArrayLike) -> dict[str, Array]:
        """Natural values by name, each [...], of coordinates [..., d]."""
        values: dict[str, Array] = {}
        for e, part in self._parts(jnp.asarray(coordinates)):
            values |= dict(zip(_names(e), _constrain(e, part), strict=True))
        return values

    def log_density(self, coordinates: ArrayLike) -> Array:
        """Log prior density [...] of coordinates [..., d], with respect to the coordinates."""
        coordinates = jnp.asarray(coordinates)
        total = jnp.zeros(coordinates.shape[:-1], coordinates.dtype)
        for e, part in self._parts(coordinates):
            total = total + _log_density(e, part)
        return total

    def sample(self) -> Array:
        """NumPyro sites: the latent vector ``prior_z`` [d] and every parameter as a deterministic; returns coordinates.

        Coordinates are moved to prior mean 0 and sd 1, the scale NUTS likes; what is not normal gets its own density.
        """
        z = numpyro.sample("prior_z", dist.Normal(0.0, 1.0).expand([self.dimension]).to_event(1))
        coordinates = jnp.asarray(self.location()) + jnp.asarray(self.scale()) * z
        if not all(isinstance(e, Lognormal) for e in self.elements):
            normal = -0.5 * (z**2 + LOG_2_PI).sum() - jnp.log(jnp.asarray(self.scale())).sum()
            numpyro.factor("prior_shape", self.log_density(coordinates) - normal)
        for name, value in self.constrained(coordinates).items():
            numpyro.deterministic(name, value)
        return coordinates

    def _parts(self, coordinates: Array) -> list[tuple[Element, Array]]:
        parts, start = [], 0
        for e in self.elements:
            stop = start + len(_location_scale(e)[0])
            parts.append((e, coordinates[..., start:stop]))
            start = stop
        return parts


def joint_prior(
    library: Library,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    tuned_log_sd_factor: float = 1.0,
    studies: int = 1,
    where: str = "priors",
) -> JointPrior:
    """The prior of the free parameters of a library, with a config's ``overrides``.

    ``overrides`` maps a parameter, or a group such as ``stimulation_shares``, to any of: ``free`` (true or false),
    ``centre`` (of a lognormal) and the numbers of its distribution; giving a parameter without a prior a ``log_sd``
    makes it lognormal and free. ``tuned_log_sd_factor`` multiplies the log-sds of free parameters whose centre and
    log-sd are both assumptions (tuned to the trial) rather than published or derived. ``studies`` is the number of
    studies fitted. Raises InputError for an unknown name or key, a number out of range, or a prior that makes no sense.
    """
    overrides = dict(overrides or {})
    library = _with_centres(library, overrides, where)
    _positive(tuned_log_sd_factor, f"{where}: tuned_log_sd_factor")
    legal = (*library.names(), *(n for n, p in library.priors.items() if p.members))
    for name, table in overrides.items():
        if name not in legal:
            raise InputError(f"{where}: unknown parameter '{name}'{nearest(str(name), legal)}")
        if not isinstance(table, Mapping):
            raise InputError(f"{where}: {name} = {table!r}; legal: a table with any of {', '.join(OVERRIDE_KEYS)}")
    elements: list[Element] = []
    done: set[str] = set()
    for name in library.names():
        prior = library.entry(name).prior
        group = prior.name if prior is not None and prior.members else name
        if group != name and name in overrides:
            raise InputError(f"{where}: {name} belongs to the group '{group}': override the group")
        if group in done:
            continue
        done.add(group)
        element = _element(library, group, overrides.get(group, {}), tuned_log_sd_factor, f"{where}: {group}")
        elements += [] if element is None else [element]
    for name, prior in library.priors.items():
        if prior.distribution == "halfnormal":
            element = _element(library, name, overrides.get(name, {}), 1.0, f"{where}: {name}")
            if element is not None and studies < 2:
                raise InputError(f"{where}: {name}: free = true needs at least two studies; legal: false")
            elements += [] if element is None else [element]
    return JointPrior(tuple(elements))


def _with_centres(library: Library, overrides: Mapping[str, Mapping[str, Any]], where: str) -> Library:
    centres = {n: t["centre"] for n, t in overrides.items() if isinstance(t, Mapping) and "centre" in t}
    groups = [n for n in centres if n in library.priors and library.priors[n].members]
    if groups:
        raise InputError(f"{where}: {groups[0]}: centre is for one parameter; change the members' values instead")
    return with_overrides(library, centres, where)


def _element(library: Library, name: str, table: Mapping[str, Any], factor: float, where: str) -> Element | None:
    """The element of one parameter or group after its override; None where it is fixed."""
    prior = library.priors.get(name)
    kind = "lognormal" if prior is None else prior.distribution
    needed = {
        "lognormal": ("log_sd",),
        "beta": ("alpha", "beta"),
        "dirichlet": ("concentration",),
        "halfnormal": ("scale",),
    }[kind]
    legal = ("free", *needed, *(("centre",) if kind == "lognormal" else ()))
    for key in table:
        if key not in legal:
            raise InputError(f"{where}: unknown key '{key}' for a {kind} prior{nearest(str(key), legal)}")
    free = table.get("free", prior.free if prior is not None else "log_sd" in table)
    if not isinstance(free, bool):
        raise InputError(f"{where}: free = {free!r}; legal: true or false")
    if not free:
        return None
    numbers = {k: table.get(k, None if prior is None else getattr(prior, k)) for k in needed}
    for key, number in numbers.items():
        if number is None:
            raise InputError(f"{where}: has no prior: give {' and '.join(needed)} to free it")
        numbers[key] = _positive(number, f"{where}: {key}")
    if kind == "beta":
        return Beta(name, **numbers)
    if kind == "halfnormal":
        return HalfNormal(name, **numbers)
    if kind == "dirichlet":
        members = () if prior is None else prior.members
        return Dirichlet(members, tuple(numbers["concentration"] * library.value(m) for m in members))
    centre = library.value(name)
    if centre <= 0:
        raise InputError(f"{where}: value {centre:g} cannot be the centre of a lognormal prior; legal: above 0")
    assumed = prior is not None and prior.status == library.entry(name).status == "assumed" and "log_sd" not in table
    return Lognormal(name, centre, numbers["log_sd"] * (factor if assumed else 1.0))


def _positive(value: Any, where: str) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    if not good:
        raise InputError(f"{where} = {value!r}; legal: a finite number above 0")
    return float(value)
