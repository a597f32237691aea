"""``pkpd predict``: published numbers that a run did not fit, against their posterior predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inference import output
from inference.console import say, show_table
from inference.manifest import write_manifest
from inference.progress import bars
from inference.startup import start_jax
from inference.store import CONFIG, RUN_MARK, check_run

if TYPE_CHECKING:
    from inference.predictions import Predicted

DIGITS = "%.10g"


def run(
    folder: Path, scenarios: Sequence[str], *, out: Path | None, draws: int, seed: int, engine: str, force: bool
) -> None:
    """Predicts every scenario, prints table, score and misses, and writes them if ``out`` is given."""
    from pkpd.scenario import load_scenario, with_predictions

    names = list(scenarios) or list(with_predictions())
    designs = {name: load_scenario(name) for name in names}
    check_run(folder)
    if out is not None:
        output.refuse_existing_run(out, force=force)
    from inference.config import load

    config = load(folder / CONFIG)
    start_jax()
    from inference import predictions
    from inference.drawn import draws_of
    from inference.store import load_fitted

    for name, design in designs.items():
        predictions.check(config, design, name)
    result = load_fitted(folder)
    fitted = tuple(arm for arm, was in zip(result.arms, result.fitted, strict=True) if was)
    chosen = draws_of(result, draws, seed)
    found: dict[str, list[Predicted]] = {}
    with bars() as progress:
        for name, design in designs.items():
            found[name] = predictions.predict(
                design, chosen, config, fitted=fitted, seed=seed, engine=engine, progress=progress
            )
    every = [p for predicted in found.values() for p in predicted]
    _show(every, result.verdict, folder, draws)
    if out is None:
        return
    from inference.report import predicted as page

    with output.run_directory(out, force=force) as made:
        table = predictions.table(every).to_csv(index=False, float_format=DIGITS)
        output.write_text(made / "predictions.csv", table)
        inputs = {f"scenario {name}": repr(design) for name, design in designs.items()}
        write_manifest(made, "predict", seed, inputs | {"posterior": (folder / RUN_MARK).read_text(encoding="utf-8")})
        output.write_text(made / page.NAME, page.render(designs, found, result, folder, draws, seed))
    say(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _show(every: list[Predicted], verdict: str, folder: Path, draws: int) -> None:
    """The table, the score, and what may explain each miss, on stdout."""
    from inference import predictions

    rows = []
    for p in every:
        low, _, median, _, high = p.quantiles().tolist()
        t = p.target
        seen = "seen" if t.seen else ""
        number = [f"{x:.0f}" if t.unit == predictions.PATIENTS else f"{x:.3g}" for x in (t.observed, median, low, high)]
        unit = f"of {t.n}" if t.unit == predictions.PATIENTS else t.unit
        rows.append((t.study, t.arm, t.quantity, unit, *number, p.verdict(), seen))
    columns = ("study", "arm", "quantity", "unit", "observed", "median", "2.5%", "97.5%", "inside", "")
    show_table(f"predictions of {folder} ({verdict}), {draws} trials each", columns, rows)
    for text in predictions.score_text(every):
        say(text)
    for p in every:
        if not p.inside():
            t = p.target
            say(f"outside: {t.study}, {t.arm}, {t.quantity}: {t.note or 'no reason is known'}")
