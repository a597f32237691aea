"""``pkpd info``: what is installed, what it computes on, and where its files are."""

from __future__ import annotations

from pathlib import Path

from inference.console import show_table
from inference.manifest import devices, precision, versions
from inference.startup import cache_folder, start_jax


def run() -> None:
    """Prints versions, devices, precision, engines, library, scenarios, data and cache."""
    start_jax()
    import jax

    from inference.whatif.search_file import FOLDER as SEARCHES
    from pkpd.datatables import data_folder
    from pkpd.devices import ENGINES, kernel_trouble, resolve_engine
    from pkpd.scenario import FOLDER as SCENARIOS
    from pkpd.tables import FOLDER as LIBRARY

    numbers = precision()
    why = kernel_trouble()
    chosen = resolve_engine() + (f" (no kernel: {why})" if why else "")
    show_table("versions", ("package", "version"), versions().items())
    rows = [
        ("devices", ", ".join(devices())),
        ("default back end", jax.default_backend()),
        ("precision", f"cohorts {numbers['cohorts']}, reference solver {numbers['reference']}"),
        ("engines", ", ".join(ENGINES)),
        ("engine chosen", chosen),
        ("library", f"{LIBRARY}: {_names(LIBRARY, '*.toml')}"),
        ("scenarios", f"{SCENARIOS}: {_names(SCENARIOS, '*.toml')}"),
        ("searches", f"{SEARCHES}: {_names(SEARCHES, '*.toml')}"),
        ("published data", f"{data_folder()}: {_names(data_folder(), '*.csv')}"),
        ("compiled programs", str(cache_folder())),
    ]
    show_table("computing", ("item", "value"), rows)


def _names(folder: Path, pattern: str) -> str:
    return ", ".join(sorted(path.stem for path in folder.glob(pattern)))
