"""What is fixed in a fit, carried by multiple imputation: refits at joint prior draws of the fixed parameters.

The pooled draws of m refits are draws of the posterior in which the fixed parameters keep their prior: a mixture over
what the data, by assumption, do not speak of. Between and within variances combine as in Rubin (Multiple Imputation for
Nonresponse in Surveys, 1987): total = within + (1 + 1/m) between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array
from numpy.typing import NDArray

from inference.diagnostics import CRITERIA
from inference.predictive import Answer, Outcome
from inference.priors import joint_prior
from inference.progress import Progress
from inference.store import NUMBER
from pkpd import random
from pkpd.errors import InputError
from pkpd.random import LARGEST_SEED

if TYPE_CHECKING:
    import pandas as pd

    from inference.config import Config
    from inference.priors import JointPrior
    from pkpd.parameters import Library

COLUMNS = ("parameter", "unit", "scale", "within_sd", "between_sd", "total_sd", "between_share")


def fixed_with_prior(library: Library, prior: JointPrior) -> tuple[str, ...]:
    """Names of priors (parameters, or groups of shares) that a fit keeps fixed although they have one.

    Not those of the demography: whether there are non-responders is another model, to be compared, not imputed.
    """
    free = set(prior.names)
    return tuple(
        name
        for name, law in library.priors.items()
        if law.distribution != "halfnormal"
        and name not in library.demography_entries
        and not free & set(law.members or (name,))
    )


def draws(library: Library, prior: JointPrior, n: int, key: Array) -> dict[str, NDArray[np.float64]]:
    """Joint prior draws [n] of everything fixed that has a prior, by parameter; InputError if nothing has."""
    names = fixed_with_prior(library, prior)
    if not names:
        raise InputError("imputations: every parameter with a prior is free; legal: 0")
    wanted = {name for name in library.names()} | set(names)
    overrides = {name: {"free": name in names} for name in library.priors if name in wanted}
    return joint_prior(library, overrides).draws(key, n)


def configs(config: Config, drawn: Mapping[str, NDArray[np.float64]], key: Array) -> list[Config]:
    """The config of every refit: seeds of their own, and the drawn values in place of the library's."""
    seeds = random.generator(key).integers(0, LARGEST_SEED, config.imputations)
    return [
        config.model_copy(
            update={
                "seed": int(seed),
                "imputations": 0,
                "parameters": config.parameters | {name: float(values[i]) for name, values in drawn.items()},
            }
        )
        for i, seed in enumerate(seeds)
    ]


def named(progress: Progress, number: int, of: int) -> Progress:
    """The progress of one refit among all."""
    return lambda stage, done, total: progress(f"imputation {number} of {of}, {stage}", done, total)


def pool(outcomes: Sequence[Outcome], drawn: Mapping[str, NDArray[np.float64]]) -> Outcome:
    """All refits as one: chains after chains, the worst of every figure, weights that count each refit alike."""
    answers = [o.answer for o in outcomes]
    chains = len(answers[0].logits)
    samples, stats = (
        {name: np.concatenate([getattr(a, part)[name] for a in answers]) for name in getattr(answers[0], part)}
        for part in ("samples", "sample_stats")
    )
    weights: dict[str, Any] = {}
    if all(o.weights for o in outcomes):
        weights = {name: np.concatenate([o.weights[name] for o in outcomes]) for name in outcomes[0].weights}
        starts = np.repeat(chains * np.arange(len(outcomes)), [len(o.weights["chain_of"]) for o in outcomes])
        weights |= {"chain_of": weights["chain_of"] + starts}
        weights |= {"log_weight": weights["log_weight"] - np.log(len(outcomes))}
    number = np.repeat(np.arange(1, len(outcomes) + 1), chains)
    imputed = {name: np.repeat(values, chains) for name, values in drawn.items()}
    by_arm = [a.log_likelihood for a in answers if a.log_likelihood is not None]
    joined = np.concatenate(by_arm) if len(by_arm) == len(answers) else None
    return Outcome(
        Answer(samples, stats, np.concatenate([a.logits for a in answers]), joined),
        [{NUMBER: i, **row} for i, o in enumerate(outcomes, start=1) for row in o.rounds],
        weights,
        worst([o.figures for o in outcomes]) | {"imputations": len(outcomes)},
        {NUMBER: number, **imputed},
    )


def worst(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of every criterion its worst figure, None where one refit lacks it; of other figures those of the first, but no
    log evidence or elpd: that of one refit is not that of all.
    """
    found = {name: value for name, value in figures[0].items() if not name.startswith(("log_evidence", "elpd"))}
    for c in CRITERIA:
        values = [f.get(c.name) for f in figures]
        known = [v for v in values if v is not None]
        found[c.name] = (min if c.side == ">=" else max)(known) if len(known) == len(values) else None
    return found


def variances(posterior: Mapping[str, NDArray[np.float64]], number: NDArray[np.int64]) -> pd.DataFrame:
    """Within, between and total sd of every parameter [chains, draws], on the log scale where it is positive.

    ``number`` [chains]: the imputation of a chain. between_share: of the total variance, (1 + 1/m) between / total.
    """
    import pandas as pd

    from inference.store import unit

    rows = []
    for name, values in posterior.items():
        positive = bool(np.min(values) > 0)
        x = np.log(values) if positive else np.asarray(values)
        by_fit = [x[number == i].reshape(-1) for i in np.unique(number)]
        within = float(np.mean([v.var(ddof=1) for v in by_fit]))
        between = float(np.var([v.mean() for v in by_fit], ddof=1)) * (1 + 1 / len(by_fit))
        total = within + between
        sds = (within**0.5, between**0.5, total**0.5)
        rows.append((name, unit(name), "log" if positive else "own", *sds, between / total))
    return pd.DataFrame(rows, columns=list(COLUMNS))
