"""``pkpd fit``: one config, or every config of a folder in turn."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference import checkpoint, output
from inference.config import Config, load, plan
from inference.console import say
from inference.manifest import write_manifest
from inference.progress import bars
from inference.startup import start_jax
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
    resume: bool,
    force: bool,
) -> int:
    """Fits what ``path`` asks for and returns the exit code: 1 for a failed verdict or a partly failed batch."""
    if path is not None and path.is_dir():
        return _run_folder(path, out or Path(BATCH_FOLDER), settings, options, resume=resume, force=force)
    config = load(path, settings, options)
    folder = out or Path(path.stem if path is not None else DEFAULT_RUN)
    return _run_one(config, str(path or "config"), folder, resume=resume, force=force)


def _run_folder(
    path: Path, out: Path, settings: Sequence[str], options: Mapping[str, Any], *, resume: bool, force: bool
) -> int:
    files = sorted(path.glob("*.toml"))
    if not files:
        raise InputError(f"{path}: holds no config; legal: a folder of *.toml files")
    configs = {file: load(file, settings, options) for file in files}
    codes = []
    for file, config in configs.items():
        say(f"{file.name}:")
        try:
            codes.append(_run_one(config, str(file), out / file.stem, resume=resume, force=force))
        except InputError as error:  # the others still run
            print(f"pkpd: error: {error}", file=sys.stderr)
            codes.append(1)
    return int(any(codes))


def _run_one(config: Config, where: str, out: Path, *, resume: bool, force: bool) -> int:
    output.refuse_existing_run(out, force=force, resume=resume)
    plan(config, where)  # bad names and numbers are told before anything is computed
    start_jax()
    from inference import population, report

    text = config.to_toml()
    try:
        with bars() as progress, output.run_directory(out, force=force, resume=resume) as folder:
            _check_same_config(folder / CONFIG_FILE, text, out)
            output.write_text(folder / CONFIG_FILE, text)
            diagnostics = population.fit(config, folder, progress)
            write_manifest(folder, "fit", config.seed, {"config": text})
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
