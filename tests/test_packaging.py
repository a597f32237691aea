"""The distribution: what imports what, how long it takes, and that README, CI and bounds say the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

FIT = r"python3 -m venv .*/pkpd fit .*"
TEST = r"python3 -m venv .* -m pytest"
# A loaded machine may be a few times slower than a free one; the limits are for a free one.
SLACK = 2.0


def plain_environment() -> dict[str, str]:
    """The environment without what the tests set for themselves."""
    return {k: v for k, v in os.environ.items() if k not in ("JAX_ENABLE_X64", "PYTHONPATH")}


def run(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=plain_environment(), capture_output=True, text=True, check=False
    )


def best_of_three(arguments: list[str], root: Path) -> float:
    """Seconds of the fastest of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(arguments, cwd=root, env=plain_environment(), capture_output=True, check=False)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    return min(times)


def test_importing_pkpd_is_quick(root):
    assert best_of_three([sys.executable, "-c", "import pkpd"], root) < 2.0 * SLACK


def test_help_is_quick_and_does_not_import_jax(root):
    assert best_of_three([sys.executable, "-m", "inference", "--help"], root) < 1.0 * SLACK
    done = run("import sys, inference.cli; inference.cli.main(['fit', '--help']); sys.exit('jax' in sys.modules)", root)
    assert done.returncode == 0, done.stdout + done.stderr


# Blocks every installed distribution that is not named here.
BLOCKER = """
import sys
from importlib.metadata import packages_distributions
# JAX, NumPy and pandas, and what these need themselves
ALLOWED = {"jax", "jaxlib", "ml-dtypes", "opt-einsum", "scipy", "numpy", "pandas", "python-dateutil", "six", "pytz",
           "tzdata"}
names = {name for name, owners in packages_distributions().items()
         if not {owner.lower().replace("_", "-") for owner in owners} & ALLOWED and name not in ("pkpd", "tests")}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in names:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
assert {"numpyro", "pydantic", "typer", "rich", "diffrax"} <= names
"""


def test_the_engine_needs_jax_numpy_and_pandas_alone(root):
    done = run(
        BLOCKER
        + """
import numpy as np
import jax
import pkpd
from pkpd import endpoints, titration, trial
from pkpd.parameters import load_library
assert not jax.config.jax_enable_x64
arm = trial.Arm(titration.compact([2.5, 5.0], down_above=200.0), start_level=0, baseline_below=30.0)
visits = next(trial.simulate(load_library("hetrombopag").population(), arm, (7, 14), 1, np.arange(64)))
assert visits.platelets_true.shape == (2, 64) and not visits.failed.any()
assert endpoints.events(visits.platelets_observed, visits.baseline, visits.rescued).shape == (5, 64)
assert not {"scipy.stats", "diffrax", "inference"} & set(sys.modules)
""",
        root,
    )
    assert done.returncode == 0, done.stderr


def test_benchmarks_of_the_engine_import_jax_and_numpy_alone(root):
    done = run(BLOCKER + "import benchmarks.engine, benchmarks.kernel, benchmarks.scale\n", root)
    assert done.returncode == 0, done.stderr


def test_pkpd_never_imports_inference(root):
    for file in (root / "pkpd").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) inference\b", file.read_text(), re.MULTILINE), file


def commands(text: str) -> list[str]:
    """Lines of the README's code blocks that install something."""
    return [line for line in text.splitlines() if line.startswith("python3 -m venv")]


def test_the_readme_has_exactly_two_commands_of_one_line_each_and_ci_runs_the_second(root):
    readme = (root / "README.md").read_text()
    found = commands(readme)
    assert len(found) == 2 and re.fullmatch(FIT, found[0]) and re.fullmatch(TEST, found[1])
    first_screen = "\n".join(readme.splitlines()[:45])
    assert all(command in first_screen for command in found)
    # .ci/run takes its command out of the README by this pattern, so it can have no other one
    ci = (root / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '(.*)' README\.md", ci)
    assert pattern is not None
    assert [line for line in readme.splitlines() if re.search(pattern[1], line)] == [found[1]]
    assert 'bash -c "$test_command"' in ci and os.access(root / ".ci" / "run", os.X_OK)


def dependencies(root: Path) -> list[str]:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]


def test_the_lower_constraints_are_the_lower_bounds(root):
    lower = [line for line in (root / ".ci/constraints-lower.txt").read_text().splitlines() if line[0] != "#"]
    bounds = [re.sub(r"\[\w+\]|,<[\d.]+", "", d).replace(">=", "==", 1).replace("'", '"') for d in dependencies(root)]
    assert sorted(lower) == sorted(bounds)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_constraints_pin_every_dependency_within_its_bounds(root, python):
    from packaging.requirements import Requirement

    here = {"python_version": python}
    pins: dict[str, Requirement] = {}
    for line in (root / ".ci/constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(here):
            assert pin.name.lower() not in pins, f"{pin.name} is pinned twice on {python}"
            pins[pin.name.lower()] = pin
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in map(Requirement, dependencies(root) + extras["test"]):
        if requirement.marker is None or requirement.marker.evaluate(here):
            version = str(pins[requirement.name.lower()].specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{requirement} against {version} on {python}"


def test_the_files_of_the_package_are_the_ones_the_wheel_is_told_of(root):
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["pkpd", "inference"] and wheel["force-include"] == {"data": "pkpd/data"}
    for kept in (
        "pkpd/library/hetrombopag.toml",
        "pkpd/scenarios/phase3.toml",
        "data/phase3_arms.csv",
        "data/README.md",
    ):
        assert (root / kept).is_file(), kept
