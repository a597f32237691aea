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
IN_VITRO = ("in_vitro", "proliferation_ec50", "32D-MPL, {drug}")  # table, quantity, arm of the published EC50
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

    hours: [times], 0 or more, increasing. p: one cell (scalar leaves), whose dtype is that of the result.
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
    if abs(span) <= 1e-9 * max(abs(bottom), 1.0):
        return Potency(bottom, y[-1], np.nan, np.nan, np.nan)
    log_c, share = np.log(c[1:]), (y[1:] - bottom) / span

    def misfit(x: np.ndarray) -> np.ndarray:
        return x[2] / (1 + np.exp(-x[1] * (log_c - x[0]))) - share

    half = log_c[np.argmin(abs(share - 0.5))]
    fit = least_squares(misfit, (half, 1.0, 1.0), x_scale=(1.0, 0.1, 0.1), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    log_ec50, slope, top = fit.x
    return Potency(bottom, bottom + span * top, np.exp(log_ec50), slope, np.sqrt(np.mean(fit.fun**2)))


def in_vitro_ec50(drug: str) -> pd.Series:
    """The published in-vitro EC50 of a drug: the row of the shipped table; InputError if there is none."""
    name, quantity, arm = IN_VITRO
    table = published(name)
    rows = table[(table["quantity"] == quantity) & (table["arm"] == arm.format(drug=drug))]
    if len(rows) != 1:
        raise InputError(f"{name}: {len(rows)} rows of {quantity} for {drug!r}; legal: one")
    return rows.iloc[0]


def comparison(library: Library, p: Parameters, proliferation_ec50_nM: float) -> pd.DataFrame:
    """In-vitro and plasma EC50s side by side: value, ratio to the in-vitro one, source, and why they differ.

    p: the cell of the assay. proliferation_ec50_nM: what the model's cells would show on the plasma scale.
    """
    dish, entry = in_vitro_ec50(library.drug), library.entry("receptor_ec50_nM")
    own = float(p.receptor_ec50_nM)
    changed = not np.isclose(own, entry.value, rtol=1e-5)
    status, source = ("derived", "the parameters given") if changed else (entry.status, entry.source)
    rows = [
        ("in-vitro EC50, proliferation of 32D-MPL cells", dish["value"], dish["status"], dish["source"]),
        ("plasma EC50, active receptors", own, status, source),
        ("plasma EC50, proliferation without TPO, at rest", proliferation_ec50_nM, "derived", "this assay"),
    ]
    frame = pd.DataFrame(rows, columns=["quantity", "EC50_nM", "status", "source"])
    frame.insert(1, "drug", library.drug)
    frame.insert(3, "EC50_ng_per_ml", frame["EC50_nM"] * float(p.molar_mass_g_per_mol) / 1000)
    frame.insert(4, "ratio_to_in_vitro", frame["EC50_nM"] / dish["value"])
    frame["reason"] = ["", WHY, WHY]
    return frame


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
