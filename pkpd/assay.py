"""Cells in a dish: layer 2 at a fixed free concentration of the drug and fixed TPO, as preclinical work measures it.

The cells rest in their medium before the drug is added. Their SOCS is relative to that of a cell in healthy plasma
(TPO 1): the patient's own baseline of the full model, which without TPO would be 0, cannot serve in a dish. Cells in
a medium without TPO thus start without SOCS, and their first activity may pass the scale's 1, that of a fully active
receptor in a cell with healthy SOCS. Factors are relative to the cell in the same medium without drug (x_0, which is
0 without TPO). Without receptor nothing is active.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from pkpd import signalling
from pkpd.datatables import published
from pkpd.errors import InputError
from pkpd.parameters import Library, Parameters
from pkpd.signalling import Factors, Pathways

HEALTHY_TPO = 1.0  # TPO is relative to healthy plasma: 1 by definition
STEP = 0.05  # of the fastest time constant: RK4 is then exact to about 1e-8
REST = 60.0  # of the slowest time constants: what is left of any transient is below float64 resolution
SILENT = 1e-9  # of the response without drug, or of 1: a smaller change is none
STEPS = 40  # at most, of the least squares of many curves: smooth ones need about 8
CONVERGED = 1e-10  # a step that changes no EC50 by more than this share is the last
EXPONENT = 500.0  # keeps exp of a step that is tried within the range of floats
SAME = 1e-5  # EC50s that differ by a smaller share differ by rounding
INTERVAL = (0.025, 0.975)
IN_VITRO = ("in_vitro", "proliferation_ec50", "32D-MPL, {drug}")  # table, quantity, arm of the published EC50
COMPARED = (
    "in-vitro EC50, proliferation of 32D-MPL cells",
    "plasma EC50, active receptors",
    "plasma EC50, proliferation without TPO, at rest",
)
RATIOS = {"ratio_to_in_vitro": "EC50_nM", "ratio_lower": "lower_nM", "ratio_upper": "upper_nM"}
WHY = (
    "the medium of a dish holds little protein, so nearly all drug in it is free; a plasma concentration counts what "
    "is bound to plasma protein too: an in-vitro EC50 is not a plasma EC50"
)


class Readouts(NamedTuple):
    """What is read from the cells: active receptors, phosphorylation, each relative to its maximum; fold changes."""

    active_receptors: Array
    stat3: Array
    stat5: Array
    akt: Array
    erk: Array
    proliferation: Array
    survival: Array
    maturation: Array


UNITS = {name: "fold of no drug" if name in Factors._fields else "share of maximum" for name in Readouts._fields}


class Cell(NamedTuple):
    """State of a cell: phosphorylated pathways and SOCS (1 in healthy plasma)."""

    pathways: Pathways
    socs: Array


class Potency(NamedTuple):
    """A concentration-response curve bottom + (top - bottom) C^h/(EC50^h + C^h); NaN where there is no response.

    misfit: root mean square distance from the model's curve, as a share of top - bottom.
    """

    bottom: float
    top: float
    ec50_nM: float
    hill_slope: float
    misfit: float


def active_receptors(tpo: Array, concentration_nM: Array, p: Parameters, receptor: Array | bool = True) -> Array:
    """Share of active receptors (design 2.2: a = tau + delta - tau delta); 0 in cells without receptor."""
    return jnp.where(jnp.asarray(receptor), signalling.active_fraction(tpo, concentration_nM, p), 0)


def resting_cell(active: Array, p: Parameters) -> Cell:
    """The cell long after ``active`` was fixed, in closed form."""
    return Cell(*signalling.quasi_steady(active, healthy_stat5(p), p))


def healthy_stat5(p: Parameters) -> Array:
    """pSTAT5 of a cell in healthy plasma without drug, where SOCS is 1."""
    zero = jnp.zeros_like(p.receptor_ec50_nM)
    return signalling.equilibrium(signalling.active_fraction(zero + HEALTHY_TPO, zero, p), p).stat5


def at_rest(tpo: Array, concentration_nM: Array, p: Parameters, receptor: Array | bool = True) -> Readouts:
    """Readouts long after the drug was added; arguments broadcast."""
    tpo, c, receptor = _shaped(tpo, concentration_nM, receptor, p)
    active = active_receptors(tpo, c, p, receptor)
    return _read(resting_cell(active, p).pathways, active, _before(tpo, p, receptor).pathways, p)


def time_course(
    hours: Any, tpo: Any, concentration_nM: Any, p: Parameters, receptor: Any = True, step: float = STEP
) -> Readouts:
    """Readouts [times, ...] at ``hours`` after the drug was added; the other arguments broadcast to ``...``.

    hours: [times], 0 or more, increasing. p: one cell (scalar leaves), or leaves of one shape that broadcasts with the
    other arguments; its dtype is that of the result.
    step: longest step of the fourth-order Runge-Kutta rule, in time constants of the fastest pathway.
    InputError if hours, tpo or concentrations are negative or not finite, or hours not increasing.
    """
    hours = check("hours", hours)
    if np.any(np.diff(hours) < 0):
        raise InputError("hours: not increasing; legal: times in increasing order")
    check("TPO", tpo)
    check("concentration", concentration_nM)
    rates = np.array([*signalling.rates_per_h(p), p.socs_rate_per_h], float)
    # Long after the start nothing moves: steps beyond that would change no digit.
    spans = np.diff(np.minimum(hours, REST / rates.min()), prepend=0.0)
    steps = np.maximum(np.ceil(spans * rates.max() / step), 1).astype(np.int32)
    tpo, c, receptor = _shaped(tpo, concentration_nM, receptor, p)
    return _time_course(jnp.asarray(spans / steps, tpo.dtype), jnp.asarray(steps), tpo, c, receptor, p)


@jax.jit
def _time_course(h: Array, steps: Array, tpo: Array, c: Array, receptor: Array, p: Parameters) -> Readouts:
    active = active_receptors(tpo, c, p, receptor)
    reference = healthy_stat5(p)

    def slope(cell: Cell) -> Cell:
        j = signalling.jak2_activity(active, cell.socs, p)
        return Cell(*signalling.rates(cell.pathways, cell.socs, j, reference, p))

    def ahead(cell: Cell, by: Array, along: Cell) -> Cell:
        return jax.tree.map(lambda y, d: y + by * d, cell, along)

    def runge_kutta(h: Array, cell: Cell) -> Cell:
        k1 = slope(cell)
        k2 = slope(ahead(cell, h / 2, k1))
        k3 = slope(ahead(cell, h / 2, k2))
        k4 = slope(ahead(cell, h, k3))
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        return ahead(cell, h, mean)

    def interval(cell: Cell, step: tuple[Array, Array]) -> tuple[Cell, Pathways]:
        h, n = step
        cell = jax.lax.fori_loop(0, n, lambda _, y: runge_kutta(h, y), cell)
        return cell, cell.pathways

    before = _before(tpo, p, receptor)
    _, x = jax.lax.scan(interval, before, (h, steps))
    return _read(x, active, before.pathways, p)


def potency(concentration_nM: Any, response: Any) -> Potency:
    """EC50, Hill slope and top of a response curve, by least squares (SciPy); the bottom is its value without drug.

    concentration_nM: [n], increasing from 0. response: [n], of either direction.
    """
    from scipy.optimize import least_squares

    c, y = np.asarray(concentration_nM, float), np.asarray(response, float)
    bottom, span = y[0], y[-1] - y[0]
    if abs(span) <= SILENT * max(abs(bottom), 1.0):
        return Potency(bottom, y[-1], np.nan, np.nan, np.nan)
    log_c, share = np.log(c[1:]), (y[1:] - bottom) / span

    def misfit(x: np.ndarray) -> np.ndarray:
        return x[2] / (1 + np.exp(-x[1] * (log_c - x[0]))) - share

    half = log_c[np.argmin(abs(share - 0.5))]
    fit = least_squares(misfit, (half, 1.0, 1.0), x_scale=(1.0, 0.1, 0.1), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    log_ec50, slope, top = fit.x
    return Potency(bottom, bottom + span * top, np.exp(log_ec50), slope, np.sqrt(np.mean(fit.fun**2)))


def ec50s(concentration_nM: Any, response: Any) -> np.ndarray:
    """EC50s [...] (nM) of many curves [..., n] at once: the least squares of ``potency``, by Levenberg and Marquardt.

    concentration_nM: [..., n], increasing from 0. NaN where there is no response.
    """
    c, y = np.broadcast_arrays(np.asarray(concentration_nM, float), np.asarray(response, float))
    span = y[..., -1:] - y[..., :1]
    silent = abs(span) <= SILENT * np.maximum(abs(y[..., :1]), 1.0)
    log_c, share = np.log(c[..., 1:]), (y[..., 1:] - y[..., :1]) / np.where(silent, 1.0, span)

    def fitted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steep, top = x[..., 1:2], x[..., 2:]
        hill = 1 / (1 + np.exp(np.clip(-steep * (log_c - x[..., :1]), -EXPONENT, EXPONENT)))
        return hill, share - top * hill

    half = np.take_along_axis(log_c, np.argmin(abs(share - 0.5), -1)[..., None], -1)
    x = np.concatenate([half, np.ones_like(half), np.ones_like(half)], -1)
    damping = np.full(half.shape, 1e-3)
    hill, left = fitted(x)
    for _ in range(STEPS):
        along = x[..., 2:] * hill * (1 - hill)
        slope = np.stack([-x[..., 1:2] * along, (log_c - x[..., :1]) * along, hill], -1)
        square = np.einsum("...ni,...nj->...ij", slope, slope)
        scale = np.eye(3) * (square + 1e-12)
        downhill = np.einsum("...ni,...n->...i", slope, left)[..., None]
        step = np.linalg.solve(square + damping[..., None] * scale, downhill)[..., 0]
        if np.all(abs(step) < CONVERGED):
            break
        trial = x + step
        trial_hill, trial_left = fitted(trial)
        better = (trial_left**2).sum(-1, keepdims=True) <= (left**2).sum(-1, keepdims=True)
        x, hill, left = (np.where(better, a, b) for a, b in ((trial, x), (trial_hill, hill), (trial_left, left)))
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-12, 1e6)
    return np.where(silent[..., 0], np.nan, np.exp(x[..., 0]))


def in_vitro_ec50(drug: str) -> pd.Series:
    """The published in-vitro EC50 of a drug: the row of the shipped table; InputError if there is none."""
    name, quantity, arm = IN_VITRO
    table = published(name)
    rows = table[(table["quantity"] == quantity) & (table["arm"] == arm.format(drug=drug))]
    if len(rows) != 1:
        raise InputError(f"{name}: {len(rows)} rows of {quantity} for {drug!r}; legal: one")
    return rows.iloc[0]


def comparison(library: Library, p: Parameters, proliferation_ec50_nM: Any, source: str = "") -> pd.DataFrame:
    """In-vitro and plasma EC50s side by side: value, ratio to the in-vitro one, source, and why they differ.

    p: the cell of the assay. proliferation_ec50_nM: what the model's cells would show on the plasma scale. Where these
    are draws [draws] from ``source``, the table holds medians and 95% intervals; an interval is NaN where nothing
    varies. The ratios take the in-vitro EC50 as exact: it is published without an error.
    """
    dish, entry = in_vitro_ec50(library.drug), library.entry("receptor_ec50_nM")
    own, grown = _with_interval(p.receptor_ec50_nM), _with_interval(proliferation_ec50_nM)
    changed = not np.isclose(own[0], entry.value, rtol=SAME)
    status, origin = ("derived", "the parameters given") if changed else (entry.status, entry.source)
    rows = [
        (dish["value"], np.nan, np.nan, dish["status"], dish["source"]),
        (*own, *(("derived", source) if np.isfinite(own[1]) else (status, origin))),
        (*grown, "derived", source if np.isfinite(grown[1]) else "this assay"),
    ]
    frame = pd.DataFrame(rows, columns=["EC50_nM", "lower_nM", "upper_nM", "status", "source"])
    frame.insert(0, "quantity", COMPARED)
    frame.insert(1, "drug", library.drug)
    frame.insert(5, "EC50_ng_per_ml", frame["EC50_nM"] * float(np.ravel(p.molar_mass_g_per_mol)[0]) / 1000)
    for at, (ratio, value) in enumerate(RATIOS.items(), 6):
        frame.insert(at, ratio, frame[value] / dish["value"])
    frame["reason"] = ["", WHY, WHY]
    return frame


def _with_interval(values: Any) -> tuple[float, float, float]:
    """Median and 95% interval of draws; the interval of what does not vary is NaN."""
    middle = float(np.median(values))
    if np.ptp(values) <= SAME * abs(middle):
        return middle, np.nan, np.nan
    low, high = np.quantile(values, INTERVAL)
    return middle, float(low), float(high)


def check(name: str, value: Any) -> np.ndarray:
    """``value`` as an array of floats; InputError unless all are finite and 0 or more."""
    numbers = np.asarray(value, float)
    wrong = numbers[~(np.isfinite(numbers) & (numbers >= 0))]
    if wrong.size:
        raise InputError(f"{name} = {wrong.flat[0]:g}: not legal; legal: a finite number, 0 or more")
    return numbers


def _shaped(tpo: Any, concentration_nM: Any, receptor: Any, p: Parameters) -> tuple[Array, Array, Array]:
    as_array = partial(jnp.asarray, dtype=jnp.result_type(p.receptor_ec50_nM))
    arrays = jnp.broadcast_arrays(as_array(tpo), as_array(concentration_nM), jnp.asarray(receptor, bool))
    return arrays[0], arrays[1], arrays[2]


def _before(tpo: Array, p: Parameters, receptor: Array) -> Cell:
    """The cell in its medium before the drug."""
    return resting_cell(active_receptors(tpo, jnp.zeros_like(tpo), p, receptor), p)


def _read(x: Pathways, active: Array, x0: Pathways, p: Parameters) -> Readouts:
    f = signalling.factors(x, x0, signalling.gains(p), p)
    return Readouts(*(jnp.broadcast_to(leaf, x.stat5.shape) for leaf in (active, *x, *f)))
