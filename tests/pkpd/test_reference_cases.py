"""Both solvers against two cases solved by an independent program (tests/reference/README.md)."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from pkpd.errors import InputError
from pkpd.profile import COLUMNS, run_case

FOLDER = Path(__file__).parents[1] / "reference"
CASES = ("itp_5mg_8weeks", "healthy_single_40mg")
SMALLEST = 1e-6  # entries below this share of their column's maximum are not compared


def worst(found: pd.DataFrame, name: str) -> tuple[float, str]:
    """Largest relative error, and where."""
    expected = pd.read_csv(FOLDER / f"{name}.csv")
    assert list(found.columns) == list(expected.columns) == list(COLUMNS)
    np.testing.assert_array_equal(found["time_h"], expected["time_h"])
    a, b = found.iloc[:, 1:].to_numpy(), expected.iloc[:, 1:].to_numpy()
    compared = np.abs(b) > SMALLEST * np.abs(b).max(axis=0)
    assert compared.sum() > 0.9 * np.count_nonzero(b)
    error = np.where(compared, np.abs(a - b) / np.where(compared, np.abs(b), 1), 0)
    row, column = np.unravel_index(error.argmax(), error.shape)
    assert np.abs(a[~compared]).max(initial=0) <= 2 * SMALLEST * np.abs(b).max()
    return float(error.max()), f"{COLUMNS[1 + column]} at {expected.time_h[row]:g} h"


@pytest.mark.parametrize("name", CASES)
def test_reference_solver(name):
    error, where = worst(run_case(FOLDER / f"{name}.toml", "reference"), name)
    assert error < 1e-6, where


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("x64", [True, False], ids=["float64", "float32"])
def test_fast_solver(name, x64):
    with jax.enable_x64(x64):
        error, where = worst(run_case(FOLDER / f"{name}.toml", "fast"), name)
    assert error < 1e-3, where


def test_the_reference_solver_says_how_to_get_float64():
    with jax.enable_x64(False), pytest.raises(InputError, match="jax_enable_x64"):
        run_case(FOLDER / "healthy_single_40mg.toml", "reference")


def test_an_unknown_solver_is_told_the_nearest():
    with pytest.raises(InputError, match="'reference'"):
        run_case(FOLDER / "healthy_single_40mg.toml", "referense")
