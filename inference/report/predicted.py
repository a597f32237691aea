"""The page of ``pkpd predict``: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.report import environment, style

if TYPE_CHECKING:
    from inference.predictions import Predicted
    from inference.store import FitResult
    from pkpd.scenario import Scenario

NAME = "report.html"


def render(
    designs: Mapping[str, Scenario],
    predicted: Mapping[str, list[Predicted]],
    result: FitResult,
    folder: Path,
    draws: int,
    seed: int,
) -> str:
    """The page of predictions by scenario name, made from the run ``result`` in ``folder``."""
    from inference import plots_predictions, predictions
    from inference.report.figures import data_uri
    from pkpd.scenario_text import describe

    every = [p for found in predicted.values() for p in found]
    context: dict[str, Any] = {
        "designs": designs,
        "descriptions": {name: describe(design) for name, design in designs.items()},
        "rows": {name: [_row(p) for p in found] for name, found in predicted.items()},
        "score": predictions.score_text(every),
        "picture": data_uri(plots_predictions.intervals(every)),
        "r": result,
        "weighted": bool(result.correction),
        "folder": folder,
        "draws": draws,
        "seed": seed,
        "style": style(),
    }
    return environment().get_template("predicted.html").render(context)


def _row(p: Predicted) -> dict[str, Any]:
    low, _, median, _, high = p.quantiles().tolist()
    whole = p.target.unit == "patients"
    numbers = [f"{x:.0f}" if whole else f"{x:.3g}" for x in (p.target.observed, median, low, high)]
    unit = f"of {p.target.n}" if whole else p.target.unit
    return {"t": p.target, "numbers": numbers, "unit": unit, "inside": p.inside(), "verdict": p.verdict().lower()}
