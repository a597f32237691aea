"""``pkpd compare``: runs side by side, with a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inference import output
from inference.console import say, show_table
from inference.manifest import write_manifest
from inference.progress import bars
from inference.startup import start_jax
from inference.store import RUN_MARK, check_run
from pkpd.errors import InputError

if TYPE_CHECKING:
    from inference.comparison import Difference, Model
    from inference.progress import Progress
    from pkpd.scenario import Scenario

HEALTHY = "meal_timing"  # the published rise of healthy counts
NONE = "none"
DIGITS = "%.6g"


def run(
    folders: Sequence[Path],
    scenarios: Sequence[str] | None,
    *,
    out: Path | None,
    draws: int,
    seed: int,
    engine: str,
    force: bool,
) -> None:
    """Compares the runs, prints tables and verdict, and writes them if ``out`` is given."""
    from pkpd.scenario import load_scenario

    names = [name for name in ([HEALTHY] if not scenarios else scenarios) if name != NONE]
    designs = {name: load_scenario(name) for name in names}
    for folder in folders:
        check_run(folder)
    if out is not None:
        output.refuse_existing_run(out, force=force)
    start_jax()
    from inference import comparison, comparison_text

    found = comparison.models(comparison.read(folders))
    if len(found) < 2:
        raise InputError(f"all runs are of one model ({found[0].name}); legal: runs of two models or more")
    with bars() as progress:
        found = [_predicted(m, designs, bool(scenarios), draws, seed, engine, progress) for m in found]
    sentences = comparison_text.verdict(found)
    asked = comparison_text.question(found)
    _show(found)
    for text in (*sentences, *asked):
        say(f"{text}.")
    if out is None:
        return
    from inference.report import compared as page

    with output.run_directory(out, force=force) as made:
        table = comparison.table(found).to_csv(index=False, float_format=DIGITS, lineterminator="\n")
        output.write_text(made / "comparison.csv", table)
        inputs = {f"run {m.name}": (m.run.folder / RUN_MARK).read_text(encoding="utf-8") for m in found}
        write_manifest(made, "compare", seed, inputs | {f"scenario {n}": repr(d) for n, d in designs.items()})
        output.write_text(made / page.NAME, page.render(found, sentences, asked, draws, seed))
    say(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _predicted(
    m: Model, designs: dict[str, Scenario], asked: bool, draws: int, seed: int, engine: str, progress: Progress
) -> Model:
    """The model with what it predicts of the scenarios; one that cannot is an error only if they were asked for."""
    from inference import predictions
    from inference.drawn import draws_of

    rows = []
    for name, design in designs.items():
        try:
            predictions.check(m.run.config, design, f"{m.name}: {name}")
        except InputError:
            if asked:
                raise
            continue
        fitted = tuple(a for a, was in zip(m.run.result.arms, m.run.result.fitted, strict=True) if was)

        def tell(stage: str, done: int, total: int) -> None:
            progress(f"{m.name}: {stage}", done, total)

        chosen = draws_of(m.run.result, draws, seed)
        rows += predictions.predict(
            design, chosen, m.run.config, fitted=fitted, seed=seed, engine=engine, progress=tell
        )
    return m._replace(healthy=tuple(rows))


def _show(models: Sequence[Model]) -> None:
    from inference import comparison as c

    keys = list(models[0].differs)
    show_table("models", ("model", "verdict", *keys), [
        (m.name, m.run.result.verdict, *(m.differs[k] for k in keys)) for m in models
    ])  # fmt: skip
    top, most = c.best(models, "elpd"), c.best(models, "evidence")
    rows = []
    for m in models:
        d = c.elpd_difference(m, top) if top and math.isfinite(m.elpd) else None
        b = c.log_bayes_factor(m, most) if most and math.isfinite(m.evidence[0]) else None
        worst = max((e.khat for e in m.arms if e.khat is not None), default=None)
        accuracy = (_number(m.elpd), _difference(d), "" if worst is None else f"{worst:.2f}")
        rows.append((m.name, *accuracy, _number(m.evidence[0]), _difference(b), _number(m.evidence[2])))
    show_table("predictive accuracy and evidence (error)", ("model", "elpd", "less than best", "largest k-hat",
               "log evidence", "less than best", "k-hat"), rows)  # fmt: skip
    show_table("elpd by arm", ("model", "arm", "elpd", "Monte Carlo error", "k-hat", "how"), [
        (m.name, e.arm, f"{e.value:.2f}", f"{e.mc_se:.2f}", "exact" if e.khat is None else f"{e.khat:.2f}",
         e.how if e.trusted else f"{e.how}: needs a refit")
        for m in models for e in m.arms
    ])  # fmt: skip
    show_table("response at the landmark, % (95%)", ("model", "arm", "observed", "predicted", "2.5%", "97.5%"), [
        (m.name, r["arm"], *(f"{r[k]:.1f}" for k in ("seen", "median", "low", "high"))) for m in models
        for r in c.rates(m)
    ])  # fmt: skip


def _difference(d: Difference | None) -> str:
    return "" if d is None else f"{d.value:.2f} ({d.se:.2f})"


def _number(x: float) -> str:
    return f"{x:.2f}" if math.isfinite(x) else "–"
