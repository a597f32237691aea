"""``pkpd fit``: one config; or, as a batch of such runs, every config of a folder and every value of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference import checkpoint, output
from inference.config import Config, inputs, load, plan
from inference.console import say
from inference.manifest import hashes, write_manifest
from inference.progress import bars
from inference.startup import start_jax
from inference.sweeps import expand, sweep
from pkpd.errors import InputError

DEFAULT_RUN = "hetrombopag-phase3"
BATCH_FOLDER = "runs"
CONFIG_FILE = "config.toml"


def run(
    path: Path | None,
    *,
    out: Path | None,
    settings: Sequence[str],
    options: Mapping[str, Any],
    jobs: int | None,
    memory_gb: float | None,
    resume: bool,
    force: bool,
) -> int:
    """Fits what ``path`` asks for and returns the exit code: 1 for a failed verdict or a partly failed batch."""
    values = sweep(settings)
    swept = [key for key, texts in values.items() if len(texts) > 1]
    if path is None or not path.is_dir():
        name = path.stem if path is not None else DEFAULT_RUN
        if not swept:
            config = load(path, settings, options)
            return _run_one(config, str(path or "config"), out or Path(name), resume=resume, force=force)
        files = {name: path}
    else:
        files = _configs(path)
    for key in swept:
        if key in options:
            raise InputError(f"--set {key}: several values, and --{key.replace('_', '-')} too; legal: one of the two")
    from inference import batch

    chosen = batch.Options(options, jobs, memory_gb, resume, force)
    return batch.run(expand(files, values), out or Path(BATCH_FOLDER), chosen)


def _configs(folder: Path) -> dict[str, Path | None]:
    """The configs of a folder by name, in order; scenarios and cases that lie beside them, for their use, are none."""
    from inference.commands.check import is_other

    files = sorted(path for path in folder.glob("*.toml") if not path.name.startswith(".") and not is_other(path))
    if not files:
        raise InputError(f"{folder}: holds no config; legal: a folder of *.toml files")
    return {file.stem: file for file in files}


def _run_one(config: Config, where: str, out: Path, *, resume: bool, force: bool) -> int:
    output.refuse_existing_run(out, force=force, resume=resume)
    plan(config, where)  # bad names and numbers are told before anything is computed
    made_with = hashes(inputs(config))  # as the files are now, whatever is done to them meanwhile
    start_jax()
    from inference import population, report

    text = config.to_toml()
    try:
        with bars() as progress, output.run_directory(out, force=force, resume=resume) as folder:
            _check_same_config(folder / CONFIG_FILE, text, out)
            output.write_text(folder / CONFIG_FILE, text)
            diagnostics = population.fit(config, folder, progress)
            write_manifest(folder, "fit", config.seed, {}, made_with)
            report.build(folder)
    except (KeyboardInterrupt, InputError):
        if output.has_checkpoint(output.staging_of(out)):
            print(f"pkpd: what was computed for {out} is kept; --resume continues from there", file=sys.stderr)
        raise
    checkpoint.finish(out / output.CHECKPOINT)
    say(f"{diagnostics['verdict']}: {'; '.join(diagnostics['reasons']) or 'every criterion is met'}")
    say(f"report: {out / 'report.html'}")
    return int(diagnostics["verdict"] == "failed")


def _check_same_config(kept: Path, text: str, out: Path) -> None:
    """InputError if the unfinished run was made with another config."""
    if kept.exists() and kept.read_text(encoding="utf-8") != text:
        raise InputError(
            f"{out}: the unfinished run in {kept.parent} has another config; "
            "resume it with its own config, or drop it with --force"
        )
