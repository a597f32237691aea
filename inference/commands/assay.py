"""``pkpd assay``: what cells in a dish would show, as a table and a picture."""

from __future__ import annotations

import math
from pathlib import Path

from inference import output
from inference.console import say
from inference.manifest import write_manifest
from inference.startup import start_jax
from pkpd.errors import InputError


def run(*, out: Path, tpo: float, minutes: float, force: bool) -> None:
    """Runs the assay, prints its potencies, and writes its tables and ``assay.png`` into a new folder."""
    for name, value in (("--tpo", tpo), ("--minutes", minutes)):
        if not math.isfinite(value):
            raise InputError(f"{name} = {value}: not legal; legal: a finite number, 0 or more")
    output.refuse_existing_run(out, force=force)
    start_jax()
    from inference import assay

    with output.run_directory(out, force=force) as folder:
        result = assay.write(folder, tpo=tpo, minutes=minutes)
        write_manifest(folder, "assay", 0, {"settings": f"tpo={tpo} minutes={minutes}"})
    assay.show(result)
    say(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
