"""What a command does before JAX starts: precision, and a cache of compiled programs."""

from __future__ import annotations

import glob
import os
import re
import warnings
from pathlib import Path
from typing import Any

KEPT_ABOVE_S = 0.5  # a program that compiles faster is not kept
BROKEN_ENTRY = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '([^']+)'")


def cache_folder() -> Path:
    """Where compiled programs are kept between runs."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or user_cache_path("hetrombopag-pkpd") / "jax")


def start_jax() -> None:
    """Makes double precision possible and keeps compiled programs: call before anything is computed.

    A cache that cannot be written costs time only, so it is left out without a word.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_ABOVE_S)
        _mend(folder)


def _mend(folder: Path) -> None:
    """Removes entries that JAX finds cut off (by a full disk, an interruption) instead of warning of them.

    JAX never replaces an entry that exists, so a broken one would cost a compilation at every start.
    """
    show = warnings.showwarning

    def mend_or_show(message: Warning | str, *where: Any, **more: Any) -> None:
        broken = BROKEN_ENTRY.match(str(message))
        if broken is None:
            return show(message, *where, **more)
        for entry in folder.glob(f"{glob.escape(broken[1])}-*-cache"):
            entry.unlink(missing_ok=True)

    warnings.showwarning = mend_or_show
