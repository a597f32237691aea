"""The page of ``pkpd compare``: one self-contained HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inference.report import environment, style

if TYPE_CHECKING:
    from inference.comparison import Model

NAME = "report.html"


def render(models: Sequence[Model], verdict: Sequence[str], question: Sequence[str], draws: int, seed: int) -> str:
    """The page of some compared models with the sentences of the verdict and of the healthy volunteers."""
    from inference import comparison, comparison_text, labels, plots_comparison
    from inference.report import numbers
    from inference.report.figures import data_uri

    context: dict[str, Any] = {
        "models": models,
        "keys": list(models[0].differs),
        "verdict": verdict,
        "question": question,
        "answer": [text for text in question if text.startswith(comparison_text.ANSWER)],
        "picture": data_uri(plots_comparison.side_by_side(models)),
        "scores": [_scores(m, models) for m in models],
        "rates": _rates(models),
        "inside": {m.name: numbers.fit_of(numbers.predictions(m.run.result)) for m in models},
        "parameters": _parameters(models),
        "names": {n: (labels.symbol(n), labels.meaning(n)) for n in comparison.PARAMETERS},
        "limit": comparison.KHAT,
        "draws": draws,
        "seed": seed,
        "style": style(),
    }
    return environment().get_template("compared.html").render(context)


def _scores(m: Model, models: Sequence[Model]) -> dict[str, Any]:
    from inference import comparison as c

    top, most = c.best(models, "elpd"), c.best(models, "evidence")
    log, se, khat = m.evidence
    return {
        "m": m,
        "elpd": m.elpd,
        "difference": c.elpd_difference(m, top) if top and math.isfinite(m.elpd) else None,
        "evidence": log,
        "evidence_se": se,
        "evidence_khat": khat,
        "factor": c.log_bayes_factor(m, most) if most and math.isfinite(log) else None,
        "healthy": c.healthy_score(m),
    }


def _rates(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Landmark response by model and arm, with its change against the first model in points."""
    from inference import comparison

    first = {r["arm"]: r["median"] for r in comparison.rates(models[0])}
    return [
        r | {"model": m.name, "change": r["median"] - first[r["arm"]] if r["arm"] in first else math.nan}
        for m in models
        for r in comparison.rates(m)
    ]


def _parameters(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Posterior of the main parameters by model, with how far the median moved in sds of the first model."""
    import numpy as np

    from inference import comparison

    first = models[0].run.result.posterior
    rows = []
    for name in comparison.PARAMETERS:
        own = [comparison.quantiles(m).get(name) for m in models]
        if not any(own):
            continue
        moved = []
        for q in own:
            if q is None or name not in first:
                moved.append(math.nan)
                continue
            logs = np.log(np.ravel(first[name]))
            moved.append(float((math.log(q[1]) - np.median(logs)) / logs.std()))
        rows.append({"name": name, "cells": list(zip(own, moved, strict=True))})
    return rows
