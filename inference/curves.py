"""Courses of the typical patient at draws of the population parameters: drug, pathways, factors, platelets in time.

The typical patient weighs the reference weight, starts at the library's baseline count, has no residual error and no
drift, and keeps one dose throughout. Every draw and dose is one column of a single batch of the fast engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from pkpd import pharmacokinetics, signalling
from pkpd.devices import AUTOMATIC
from pkpd.engine import fast, grid
from pkpd.engine.solver import stepper
from pkpd.model import DYNAMIC, Form, baseline, steady_state
from pkpd.parameters import Library, Parameters, with_values

BANDS = (0.025, 0.5, 0.975)
WEEKS = 8
DRAWS = 128  # of the population parameters: enough for bands
FINE = grid.graded(8, 28)  # for smooth curves within a day
CONCENTRATION, PLATELETS = "concentration", "platelets"
PATHWAYS = signalling.Pathways._fields
FACTORS = signalling.Factors._fields
SINGLE_DOSES_MG = (5.0, 10.0, 20.0, 40.0)  # the range of the first study in healthy volunteers
SAMPLES_H = (0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 36, 48, 72, 96, 120, 144, 168)  # assumed, as such studies sample
ASSAY_LIMIT_NG_PER_ML = 1.0  # lower limit of the published assay
TERMINAL_D = (10, 14)  # days between which the slope is the terminal one


class Traces(NamedTuple):
    """Everything at the end of every step, [days, steps, patients]; index 0 of ``platelets_1e9_per_l`` is step 1."""

    hours: Array  # [steps] or [steps, patients], since the day's dose
    concentration_ng_per_ml: Array
    pathways: signalling.Pathways
    factors: signalling.Factors
    platelets_1e9_per_l: Array
    auc_ng_h_per_ml: Array  # [days, patients], of the day


class TypicalCourses(NamedTuple):
    """Bands over draws (2.5, 50, 97.5%) of the typical patient on a constant daily dose. K doses."""

    doses_mg: tuple[float, ...]
    hours: NDArray[np.float64]  # [T] since the dose
    dosing_day: dict[str, NDArray[np.float64]]  # [K, 2, T, 3] on the first and on the last day
    days: NDArray[np.int64]  # [days + 1], 0 is before treatment
    daily: dict[str, NDArray[np.float64]]  # [K, days + 1, 3]; means over the day before, platelets at its end
    exposure: dict[str, NDArray[np.float64]]  # cmax, auc, trough of the last day [K, 3]


class SingleDoses(NamedTuple):
    """Bands over draws (2.5, 50, 97.5%) of one dose in the typical healthy volunteer. K doses, each array [K, 3]."""

    doses_mg: tuple[float, ...]
    cmax_per_mg: NDArray[np.float64]  # ng/mL/mg
    auc_per_mg: NDArray[np.float64]  # ng h/mL/mg, to infinity, free drug
    tmax_h: NDArray[np.float64]
    half_life_h: NDArray[np.float64]  # of the terminal phase itself
    half_life_assay_h: NDArray[np.float64]  # log-linear over the last three samples above the limit of the assay
    auc_ratio: NDArray[np.float64]  # [3] AUC per mg of the highest over that of the lowest dose
    cmax_ratio: NDArray[np.float64]  # [3]


def typical_courses(
    library: Library, draws: Mapping[str, Any], doses_mg: Sequence[float] = (2.5, 3.75, 5.0, 7.5), form: Form = DYNAMIC
) -> TypicalCourses:
    """Courses over 8 weeks at ``draws`` (arrays [draws] by population name; {} for the library's values)."""
    n = _size(draws)
    doses = np.repeat(np.asarray(doses_mg, float), n)
    p = _parameters(library, draws, len(doses_mg))
    t = trace(p, np.broadcast_to(doses, (7 * WEEKS, doses.size)), form)
    start = _resting(p, doses.size)
    hours, last = np.linspace(0, 24, 97), len(t.concentration_ng_per_ml) - 1
    at = np.concatenate([np.zeros_like(_columns(t.hours)[:1]), _columns(t.hours)])  # the start of the day first

    named = {CONCENTRATION: t.concentration_ng_per_ml, PLATELETS: t.platelets_1e9_per_l}
    named |= t.pathways._asdict() | t.factors._asdict()
    dosing_day, daily = {}, {}
    for name, values in named.items():
        before = np.concatenate([start[name][None], values[:-1, -1]])
        whole = np.concatenate([before[:, None], values], axis=1)  # [days, steps + 1, patients]
        dosing_day[name] = _bands(np.stack([_at(hours, at, whole[day]) for day in (0, last)]), n)
        summed = values[:, -1] if name == PLATELETS else np.trapezoid(whole, at[None], axis=1) / 24
        daily[name] = _bands(np.concatenate([start[name][None], summed]), n)
    exposure = {
        "cmax": _bands(t.concentration_ng_per_ml[last].max(0), n),
        "auc": _bands(t.auc_ng_h_per_ml[last], n),
        "trough": _bands(t.concentration_ng_per_ml[last, -1], n),
    }
    return TypicalCourses(tuple(doses_mg), hours, dosing_day, np.arange(last + 2), daily, exposure)


def single_doses(
    library: Library, draws: Mapping[str, Any], doses_mg: Sequence[float] = SINGLE_DOSES_MG, form: Form = DYNAMIC
) -> SingleDoses:
    """One dose on day 0 of a healthy volunteer, followed for 8 weeks; ``library`` is that of healthy volunteers."""
    n = _size(draws)
    doses = np.repeat(np.asarray(doses_mg, float), n)
    given = np.zeros((7 * WEEKS, doses.size))
    given[0] = doses
    t = trace(_parameters(library, draws, len(doses_mg)), given, form)
    C, hours = t.concentration_ng_per_ml, _columns(t.hours)
    clock = (24.0 * np.arange(len(C))[:, None, None] + hours) * np.ones_like(C)
    flat, clock = C.reshape(-1, doses.size), clock.reshape(-1, doses.size)
    first, second = TERMINAL_D
    rate = np.log(C[first, -1] / C[second, -1]) / (24.0 * (second - first))
    auc = t.auc_ng_h_per_ml[: second + 1].sum(0) + C[second, -1] / rate
    sampled = _at(np.asarray(SAMPLES_H), clock, flat)
    cmax, auc = flat.max(0) / doses, auc / doses
    return SingleDoses(
        tuple(doses_mg),
        _bands(cmax, n),
        _bands(auc, n),
        _bands(np.take_along_axis(clock, flat.argmax(0)[None], 0)[0], n),
        _bands(np.log(2) / rate, n),
        _bands(assay_half_life(np.asarray(SAMPLES_H), sampled), n),
        *(_bands(x[-n:] / x[:n], n)[0] for x in (auc, cmax)),
    )


def assay_half_life(hours: NDArray[np.float64], concentration: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half-life (h) [patients] of the last three samples [times, patients] above the assay's limit, as a study reports.

    NaN where fewer than three samples after the peak are above it.
    """
    found = np.full(concentration.shape[1], np.nan)
    for i, c in enumerate(concentration.T):
        above = np.flatnonzero((c >= ASSAY_LIMIT_NG_PER_ML) & (np.arange(c.size) > c.argmax()))[-3:]
        if above.size == 3:
            found[i] = -np.log(2) / np.polyfit(hours[above], np.log(c[above]), 1)[0]
    return found


def trace(p: Parameters, dose_mg: NDArray[np.float64], form: Form = DYNAMIC, steps: grid.Grid = FINE) -> Traces:
    """Traces of patients whose parameters are scalars or [patients] on daily doses ``dose_mg`` [days, patients]."""
    dtype = p.clearance_l_per_h.dtype
    return jax.device_get(_trace(p, jnp.asarray(dose_mg, dtype), form, steps))


@partial(jax.jit, static_argnames=("form", "steps"))
def _trace(p: Parameters, dose_mg: Array, form: Form, steps: grid.Grid) -> Traces:
    p = p._replace(immune_log_activity=jnp.broadcast_to(p.immune_log_activity, dose_mg.shape[1:]))
    move = stepper(AUTOMATIC, p, form, steps)

    def day(y: fast.Carry, dose: Array) -> tuple[fast.Carry, tuple]:
        nmol = pharmacokinetics.arriving_nmol(dose, p)
        y = move.new_interval(y)

        def one(y: fast.Carry, i: Array) -> tuple[fast.Carry, tuple]:
            y = move.one(y, i, nmol, p.immune_log_activity)
            now = move.read(y)
            return y, (now.concentration_nM, now.shares, now.factors, now.cells.platelets_1e9_per_l)

        y, seen = lax.scan(one, y, jnp.arange(len(move.hours)))
        return y, (*seen, move.read(y).auc_nM_h)

    C, shares, factors, P, auc = lax.scan(day, move.start, dose_mg)[1]
    pathways = signalling.of_shares(shares, baseline(p)[0].pathways)
    C, auc = (pharmacokinetics.ng_per_ml(x, p.molar_mass_g_per_mol) for x in (C, auc))
    return Traces(jnp.cumsum(move.hours, 0), C, pathways, factors, P, auc)


def thinned(draws: Mapping[str, Any], n: int = DRAWS) -> dict[str, NDArray[np.float64]]:
    """At most n draws, evenly spaced through arrays [draws] or [chains, draws] by name."""
    flat = {name: np.ravel(values) for name, values in draws.items()}
    size = _size(flat)
    chosen = np.linspace(0, size - 1, min(n, size)).astype(int)
    return {name: values[chosen] for name, values in flat.items()}


def _parameters(library: Library, draws: Mapping[str, Any], copies: int) -> Parameters:
    """The typical patient at every draw, ``copies`` times over; what the draws do not name is the library's."""
    typical = {n: np.tile(np.asarray(v), copies) for n, v in draws.items() if n in Parameters._fields}
    return with_values(library.population(jnp.result_type(float)), typical).typical


def _resting(p: Parameters, n: int) -> dict[str, NDArray[np.float64]]:
    """Every quantity before treatment [patients]."""
    s, at_rest = steady_state(p)
    found = {CONCENTRATION: 0.0, PLATELETS: s.platelets_1e9_per_l, **at_rest.pathways._asdict()}
    found |= dict.fromkeys(FACTORS, 1.0)
    return {name: np.broadcast_to(np.asarray(value), (n,)) for name, value in found.items()}


def _size(draws: Mapping[str, Any]) -> int:
    return len(next(iter(draws.values()))) if draws else 1


def _columns(hours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hours [steps] or [steps, patients] as [steps, 1 or patients]."""
    return hours[:, None] if hours.ndim == 1 else hours


def _at(times: NDArray[np.float64], hours: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values [points, patients] at ``hours`` [points, 1 or patients], linearly at ``times``."""
    hours = np.broadcast_to(hours, values.shape)
    return np.stack([np.interp(times, h, v) for h, v in zip(hours.T, values.T, strict=True)], axis=1)


def _bands(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Bands over draws: [..., K n] to [K, ..., 3]."""
    by_dose = values.reshape(*values.shape[:-1], -1, n)
    return np.moveaxis(np.nanquantile(by_dose, BANDS, axis=-1), (0, -1), (-1, 0))
