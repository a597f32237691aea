"""Derived values of the library against the scripts in tests/reference that derive them."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

from pkpd.parameters import Food, load_library

MEALS = ("high_fat_breakfast", "meal_1h_after", "meal_2h_after")


@pytest.fixture(scope="module")
def script(root):
    def load(name):
        spec = importlib.util.spec_from_file_location(name, root / "tests" / "reference" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def food_script(script):
    return script("derive_food_ratios")


@pytest.fixture(scope="module")
def derived(food_script):
    return {meal: food_script.derive(meal) for meal in MEALS}


@pytest.mark.parametrize("meal", MEALS)
def test_food_ratios_are_those_of_the_script(derived, meal):
    library = load_library()
    assert library.food(meal) == pytest.approx(derived[meal].food, rel=1e-3)
    for name in Food._fields:
        entry = library.food_entries[meal][name]
        assert entry.status == "derived" and "derive_food_ratios.py" in entry.source


def test_two_numbers_match_the_meals_after_a_dose_but_not_the_breakfast(derived):
    """A claim of the library's sources: the breakfast's AUC and Cmax cannot be had together."""
    assert derived["meal_1h_after"].misfit < 0.01 and derived["meal_2h_after"].misfit < 1e-4
    breakfast = derived["high_fat_breakfast"]
    assert breakfast.reached.auc > 1.5 * breakfast.published.auc
    assert breakfast.reached.cmax < breakfast.published.cmax / 1.5


@pytest.mark.parametrize("meal", ["meal_1h_after", "meal_2h_after"])
def test_no_neighbour_of_the_food_ratios_is_nearer_to_the_published_changes(food_script, derived, meal):
    found, dose_mg = derived[meal], food_script.study(meal).dose_mg
    F, ka = found.food
    fed = food_script.curves([Food(0.95 * F, ka), Food(1.05 * F, ka), Food(F, 0.8 * ka), Food(F, 1.2 * ka)], dose_mg)
    fasted = food_script.curves([Food(1.0, 1.0)], dose_mg)
    ratios = np.stack([fed.auc / fasted.auc, fed.concentration.max(0) / fasted.concentration.max()])
    misfits = np.sqrt(np.mean(np.log(ratios / np.array(found.published)[:, None]) ** 2, axis=0))
    assert (misfits > found.misfit).all()


@pytest.mark.slow
def test_eltrombopag_ec50_is_near_the_optimum_of_a_smaller_simulation(script):
    entry = load_library("eltrombopag").entry("receptor_ec50_nM")
    assert entry.status == "derived" and "derive_eltrombopag_ec50.py" in entry.source
    found = script("derive_eltrombopag_ec50").derive(patients=2048, coarse=(entry.value,))
    assert abs(math.log(found.ec50_nM / entry.value)) < found.log_se / 2
