"""``pkpd assay``: what cells in a dish would show, as a table and a picture."""

from __future__ import annotations

import math
from pathlib import Path

from inference import output
from inference.console import say
from inference.manifest import write_manifest
from inference.startup import start_jax
from inference.store import CONFIG, RUN_MARK, check_run, load_fitted
from pkpd.errors import InputError


def run(*, out: Path, posterior: Path | None, tpo: float, minutes: float, force: bool) -> None:
    """Runs the assay, prints its potencies, and writes its tables and ``assay.png`` into a new folder."""
    for name, value in (("--tpo", tpo), ("--minutes", minutes)):
        if not math.isfinite(value):
            raise InputError(f"{name} = {value}: not legal; legal: a finite number, 0 or more")
    if posterior is not None:
        check_run(posterior)
    output.refuse_existing_run(out, force=force)
    start_jax()
    from inference import assay
    from inference.config import load

    cells, inputs = assay.of_library(), {"settings": f"tpo={tpo} minutes={minutes}"}
    if posterior is not None:
        fitted = load_fitted(posterior)
        cells = assay.of_run(fitted, load(posterior / CONFIG), f"posterior of {posterior}")
        inputs["posterior"] = (posterior / RUN_MARK).read_text(encoding="utf-8")
    with output.run_directory(out, force=force) as folder:
        result = assay.write(folder, tpo=tpo, minutes=minutes, cells=cells)
        write_manifest(folder, "assay", 0, inputs)
    assay.show(result)
    if cells.draws is not None:
        say(f"{cells.source}: medians and 95% intervals of {len(cells.draws.receptor_ec50_nM)} draws")
    say(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
