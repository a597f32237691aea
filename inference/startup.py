"""What a command does before JAX starts: precision, and a cache of compiled programs."""

from __future__ import annotations

import os
from pathlib import Path


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
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
