"""Prediction of published numbers that a run did not fit: for each posterior draw a whole trial of the published size.

An interval holds the uncertainty of the parameters (a draw each), the differences between patients and the chance of a
sample (a simulated trial each). It does not hold differences between studies, which one trial cannot tell.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from inference.progress import Progress, silent
from inference.trials import form_of, number_of, roster
from pkpd import random, trial
from pkpd.devices import AUTOMATIC, tile_width
from pkpd.errors import InputError
from pkpd.parameters import SD_SUFFIX, Library, load_centre, load_library
from pkpd.planned import OF_ITP, planned_arms
from pkpd.published import Target, targets
from pkpd.statistics import STATISTICS
from pkpd.tables import schema

if TYPE_CHECKING:
    from inference.config import Config
    from pkpd.scenario import Scenario

COLUMNS = ("study", "arm", "quantity", "observed", "median", "q2.5", "q97.5", "inside")
TAIL = 0.025  # of a 95% interval, on each side
QUANTILES = (TAIL, 0.25, 0.5, 0.75, 1 - TAIL)
PATIENTS = "patients"  # unit of a count: its quantiles are counts
# Key of the host's random numbers, beyond those of any draw.
WITHIN_SUBJECT = np.uint32(2**31 + 1)


class Predicted(NamedTuple):
    """A published number and the same number of each simulated trial, [draws]."""

    target: Target
    samples: np.ndarray

    def quantiles(self) -> np.ndarray:
        """2.5, 25, 50, 75 and 97.5% quantiles over the trials."""
        method = "inverted_cdf" if self.target.unit == PATIENTS else "linear"
        return np.quantile(self.samples, QUANTILES, method=method)

    def inside(self) -> bool:
        """Whether the published number lies in the 95% interval, its ends included."""
        low, *_, high = self.quantiles()
        return bool(low <= self.target.observed <= high)

    def on_edge(self) -> bool:
        """Whether the published number lies so near an end that as many other trials might put it on the other side:
        the share of trials beyond it is within two standard errors of that beyond the end.
        """
        beyond = min(np.mean(self.samples <= self.target.observed), np.mean(self.samples >= self.target.observed))
        return bool(abs(beyond - TAIL) < 2 * np.sqrt(TAIL * (1 - TAIL) / len(self.samples)))

    def verdict(self) -> str:
        """Whether it is inside, in words for a table."""
        return ("yes" if self.inside() else "NO") + (", on the edge" if self.on_edge() else "")


class Score(NamedTuple):
    """Predictions whose published number lies inside the 95% interval, of ``predictions`` of ``published`` numbers:
    a number whose wording can be read in two ways has two predictions.
    """

    inside: int
    predictions: int
    published: int


def check(config: Config, design: Scenario, where: str) -> None:
    """InputError unless a run of ``config`` can predict what was published of the scenario."""
    if not design.predictions:
        raise InputError(f"{where}: predicts nothing; legal: a scenario with [published] and [[predictions]]")
    if (config.drug, config.disease) != ("hetrombopag", "itp"):
        raise InputError(
            f"a run of {config.drug} in {config.disease}: cannot predict; legal: a run of hetrombopag in itp"
        )


def library_of(config: Config, disease: str) -> Library:
    """The library that a run of ``config`` used, for patients or, without what is theirs alone, for the healthy."""
    values = (load_centre(config.centre) if config.centre else {}) | config.parameters
    if disease != config.disease:
        theirs = {*OF_ITP, *schema()["demography"]}
        values = {name: v for name, v in values.items() if name.removesuffix(SD_SUFFIX) not in theirs}
    return load_library(config.drug, disease, values)


def predict(
    design: Scenario,
    draws: Mapping[str, np.ndarray],
    config: Config,
    *,
    fitted: tuple[str, ...] = (),
    seed: int = 1,
    engine: str = AUTOMATIC,
    progress: Progress = silent,
) -> list[Predicted]:
    """Every published number of the scenario with those of one simulated trial for each of the draws [D].

    ``config``: of the run that the draws are from; ``fitted``: the arms it fitted, which are said to be seen if the
    scenario predicts from the same table. InputError where a course leaves the range of the solver.
    """
    wanted = _marked(targets(design), design, config, fitted)
    dtype = jnp.float64 if engine == "reference" else jnp.float32
    arms = {a.name: a for a in planned_arms(design, dtype, library_of(config, design.entry.disease))}
    needed = {(arm, t.statistic, t.last) for t in wanted for arm in (*t.arms, *filter(None, [t.reference]))}
    used = [name for name in arms if any(name == arm for arm, *_ in needed)]
    D, width = number_of(draws), tile_width(engine)
    total = sum(-(-arms[name].n * D // width) for name in used)
    done, stage, days = 0, design.trial.name, tuple(design.trial.visits_d)
    numbers: dict[tuple[str, str, int], np.ndarray] = {}
    for name in used:
        a = arms[name]
        own = sorted(key for key in needed if key[0] == name)
        parts: dict[tuple[str, str, int], list[np.ndarray]] = {key: [] for key in own}
        form = form_of(a, draws)._replace(signalling=config.signalling)
        for v in trial.visits_of(roster(a, draws, D, seed=seed), a.arm, days, seed, form, engine=engine):
            if v.failed.any():
                raise InputError(f"{int(v.failed.sum())} patients of arm '{name}' left the range of the solver")
            for key in own:
                parts[key].append(STATISTICS[key[1]].each(v, key[2]))
            done += 1
            progress(stage, done, total)
        numbers |= {key: np.concatenate(parts[key]).reshape(D, a.n) for key in own}
    return [Predicted(t, samples(t, numbers, seed)) for t in wanted]


def _marked(found: list[Target], design: Scenario, config: Config, fitted: tuple[str, ...]) -> list[Target]:
    """The targets, those of arms that the run fitted marked as seen."""
    table = design.published.table if design.published else ""
    if Path(table).resolve() != Path(config.data.table).resolve():
        return found
    return [t._replace(seen="this run fitted counts of this arm") if t.arm in fitted else t for t in found]


def samples(t: Target, numbers: Mapping[tuple[str, str, int], np.ndarray], seed: int) -> np.ndarray:
    """The statistic [D] of a target from the numbers [D, n] of the patients of each arm."""
    x = np.concatenate([numbers[arm, t.statistic, t.last] for arm in t.arms], -1)
    if t.reference is not None:
        key = jax.random.fold_in(random.root(seed), WITHIN_SUBJECT)
        key = jax.random.fold_in(key, np.uint32(zlib.crc32(f"{t.study}, {t.arm}, {t.quantity}".encode())))
        noise = t.within_subject_log_sd * random.generator(key).standard_normal(x.shape)
        x = x - numbers[t.reference, t.statistic, t.last] + noise
    return STATISTICS[t.statistic].combine(x)


def table(predicted: list[Predicted]) -> pd.DataFrame:
    """A row a published number: the columns of design section 5."""
    rows: list[tuple[Any, ...]] = []
    for p in predicted:
        low, _, median, _, high = p.quantiles().tolist()
        t = p.target
        rows.append((t.study, t.arm, t.quantity, t.observed, median, low, high, p.inside()))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def score(predicted: list[Predicted], *, seen: bool) -> Score:
    """Of the numbers that were seen when parameters were set, or of those that were not."""
    own = [p for p in predicted if bool(p.target.seen) == seen]
    distinct = {(p.target.study, p.target.arm, p.target.published, p.target.observed) for p in own}
    return Score(sum(p.inside() for p in own), len(own), len(distinct))


def score_text(predicted: list[Predicted]) -> list[str]:
    """The score in words, numbers that were seen apart."""
    words = {False: "that no parameter was set by", True: "that were seen when parameters were set"}
    lines = []
    for seen, said in words.items():
        s = score(predicted, seen=seen)
        readings = " (some are read in two ways, which cannot both be right)" if s.predictions > s.published else ""
        if s.predictions:
            lines.append(
                f"{s.inside} of {s.predictions} predictions of {s.published} published numbers {said}{readings} "
                "have the number inside their 95% interval; expected: 95%"
            )
    return lines
