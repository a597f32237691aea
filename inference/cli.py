"""The command ``pkpd``: options and help. What a command does is in ``inference.commands``, imported when it runs.

Exit codes: 0 success, 1 a failed verdict or a partly failed batch, 2 bad input (one message on stderr, never a
traceback), 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pkpd.errors import InputError

FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# Typer raises click's exceptions, or those of its own copy of click: either way they are the base of BadParameter.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="pkpd",
    help="Mechanistic PK/PD of hetrombopag in immune thrombocytopenia: fit, simulate, report.\n\n"
    "Research software: not for treatment decisions.",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Engine(StrEnum):
    """Back ends that move a cohort."""

    auto = "auto"
    kernel = "kernel"
    xla = "xla"
    reference = "reference"


class Solver(StrEnum):
    """Solvers of a single profile."""

    fast = "fast"
    reference = "reference"


ENGINE_HELP = "Back end that moves the cohort; auto: the fastest that runs here (see pkpd info)."

Scenario = Annotated[str, typer.Argument(help="Scenario file, or the name of a shipped one (see pkpd info).")]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.", min=0, max=2**31 - 1)]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
EngineOption = Annotated[Engine, typer.Option(help=ENGINE_HELP)]
Posterior = Annotated[
    Path | None, typer.Option(help="Run folder of a fit to draw parameters from; without it, the library's values.")
]


@app.command()
def fit(
    config: Annotated[
        Path | None, typer.Argument(help="CONFIG.toml, or a folder of them. Without: the phase III fit.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to make (default: named after the config; for several fits, runs)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.", min=0, max=2**31 - 1)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small fit, to try things out.")] = False,
    prior_only: Annotated[bool, typer.Option("--prior-only", help="Draw from the prior; fit nothing.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key of the config; repeatable. Several values: a fit each."
        ),
    ] = None,
    imputations: Annotated[
        int | None, typer.Option(help="Refits at prior draws of what is fixed, pooled (8 or more).", min=0, max=1000)
    ] = None,
    engine: Annotated[Engine | None, typer.Option(help=ENGINE_HELP)] = None,
    jobs: Annotated[int | None, typer.Option(help="Fits at a time, of several (default: by cores).", min=1)] = None,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Memory for all fits together (default: what there is).", min=0)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False,
    force: Force = False,
) -> int:
    """Fit the model to published trial arms and write a run folder with a report.

    A folder of configs, or a key with several values (--set seed=1,2,3), is a batch: several fits at a time,

    each in its own run folder; only what has changed since it was run is run again.
    """
    from inference.commands.fit import run

    options = {
        "seed": seed,
        "quick": quick or None,
        "prior_only": prior_only or None,
        "imputations": imputations,
        "engine": engine and engine.value,
    }
    chosen = {key: value for key, value in options.items() if value is not None}
    return run(
        config, out=out, settings=set_ or [], options=chosen, jobs=jobs, memory_gb=memory, resume=resume, force=force
    )


@app.command()
def trial(
    scenario: Scenario,
    posterior: Posterior = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make; without it, the table is only printed.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key of the scenario; repeatable. Several values: a design each, compared.",
        ),
    ] = None,
    null: Annotated[
        bool,
        typer.Option("--null", help="Type I error: no drug has an effect, or arms differ by exactly the margin."),
    ] = False,
    seed: Seed = 1,
    engine: EngineOption = Engine.auto,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Dask scheduler whose workers simulate, as tcp://host:8786. Without: here."
        ),
    ] = None,
    dataset: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Write trial N (from 0) to --out as a data set with NONMEM's columns."),
    ] = None,
    patients: Annotated[
        bool,
        typer.Option("--patients", help="Write a row a patient to --out, and for several designs who gains and loses."),
    ] = False,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Simulate again with every assumed value low and high, and report what changes."
        ),
    ] = False,
    find_n: Annotated[
        float | None,
        typer.Option("--find-n", metavar="POWER", help="Search the smallest size with this power, arms in proportion."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="SEARCH", help="Search the best design under constraints: a file, or a shipped one."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the unfinished run of --out.")] = False,
    force: Force = False,
) -> None:
    """Operating characteristics of a trial design: endpoints of every arm, power or type I error, interim looks."""
    others = {
        "--null": null, "--dataset": dataset is not None, "--patients": patients, "--sensitivity": sensitivity,
    }  # fmt: skip
    if search is not None:
        from inference.commands import best_design

        others["--find-n"] = find_n is not None
        return best_design.run(
            scenario, search, settings=set_ or [], posterior=posterior, out=out, seed=seed, engine=engine.value,
            scheduler=scheduler, resume=resume, force=force, not_with=[name for name, given in others.items() if given],
        )  # fmt: skip
    if find_n is not None:
        from inference.commands import search as size

        others["--resume"] = resume
        return size.run(
            scenario, find_n, settings=set_ or [], posterior=posterior, out=out, seed=seed, engine=engine.value,
            scheduler=scheduler, force=force, not_with=[name for name, given in others.items() if given],
        )  # fmt: skip
    from inference.commands.trial import run

    run(
        scenario, settings=set_ or [], posterior=posterior, out=out, null=null, seed=seed, engine=engine.value,
        scheduler=scheduler, dataset=dataset, patients=patients, sensitivity=sensitivity, resume=resume, force=force,
    )  # fmt: skip


@app.command()
def predict(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a fit.")],
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="Scenario file that names published numbers and what predicts them, or a shipped one; repeatable. "
            "Without: all shipped scenarios whose numbers the default fit does not read."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make; without it, the table is only printed.")] = None,
    draws: Annotated[int, typer.Option(help="Posterior draws, a simulated trial each.", min=2, max=10**6)] = 4000,
    seed: Seed = 1,
    engine: EngineOption = Engine.auto,
    force: Force = False,
) -> None:
    """Posterior prediction of published trials that were not fitted, and whether each number lies inside."""
    from inference.commands.predict import run

    run(run_folder, scenario or [], out=out, draws=draws, seed=seed, engine=engine.value, force=force)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run folders of fits; one that left out an arm serves its model."),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to make; without it, the tables are only printed.")] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="Scenario whose published numbers every model predicts; repeatable, or: none."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Posterior draws, a simulated trial each.", min=20, max=10**6)] = 1000,
    seed: Seed = 1,
    engine: EngineOption = Engine.auto,
    force: Force = False,
) -> None:
    """Models side by side: accuracy for arms left out, evidence, rates, healthy volunteers, and a verdict.

    Models are fits of the same counts whose configs differ. Keys of a config (or --set) that make the usual ones:
    linear immune clearance: parameters.immune_half_saturation_1e9_per_l=1e5 and that name with its _iiv_log_sd in fix;
    steeper dimers: parameters.dimer_hill=2; pathways at equilibrium: signalling="quasi-steady"; the second titration
    rule: scenario="phase3_alternative_titration"; non-responders: free=["non_responder_share"]; wider tuned priors:
    tuned_log_sd_factor=2; the second centre: centre="alternative_centre"; without an arm: data.leave_out=["placebo"].
    """
    from inference.commands.compare import run

    run(runs, scenario, out=out, draws=draws, seed=seed, engine=engine.value, force=force)


@app.command()
def simulate(
    scenario: Scenario,
    posterior: Posterior = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file to write (default: SCENARIO.parquet).")] = None,
    summary: Annotated[
        Path | None, typer.Option(help="CSV file to write instead: shares, moments and quantiles by arm and visit.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option(help="Patients in every arm, instead of the scenario's.", min=1, max=10**8)
    ] = None,
    seed: Seed = 1,
    engine: EngineOption = Engine.auto,
    force: Force = False,
) -> None:
    """The virtual cohort of a scenario itself: a Parquet table with a row a patient and visit, or its summary."""
    from inference.commands.simulate import run

    run(
        scenario, posterior=posterior, out=out, summary=summary, patients=patients, seed=seed, engine=engine.value,
        force=force,
    )  # fmt: skip


@app.command()
def profile(
    case: Annotated[Path, typer.Argument(metavar="CASE.toml", help="Times, doses and parameters of one patient.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    solver: Annotated[Solver, typer.Option(help="fast: the engine of the cohorts; reference: tight.")] = Solver.fast,
    force: Force = False,
) -> None:
    """One patient with explicit parameters: every state over time."""
    from inference.commands.profile import run

    run(case, out=out, solver=solver.value, force=force)


@app.command()
def assay(
    out: Annotated[Path, typer.Option(help="Folder to make: table and picture.")],
    posterior: Posterior = None,
    tpo: Annotated[float, typer.Option(help="TPO beside the drug, in healthy plasmas.", min=0.0, max=1e6)] = 1.0,
    minutes: Annotated[float, typer.Option(help="Minutes of exposure.", min=0.0, max=1e5)] = 60.0,
    force: Force = False,
) -> None:
    """Cells in a dish: every pathway against concentration and time, alone and on top of TPO."""
    from inference.commands.assay import run

    run(out=out, posterior=posterior, tpo=tpo, minutes=minutes, force=force)


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="Data table (CSV), or config, scenario or case (TOML); or the name of a shipped one.")
    ],
) -> None:
    """Validate a data table, config, scenario or case, and print what it holds."""
    from inference.commands.check import run

    run(file)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a fit.")],
) -> None:
    """Rebuild the report of a run."""
    from inference.commands.report import run

    run(run_folder)


@app.command()
def info() -> None:
    """Versions, devices, precision, engines, library and cache."""
    from inference.commands.info import run

    run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; every failure is one message on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if "--version" in arguments[:1]:
            from inference.manifest import version

            print(f"pkpd {version()}")
            code = 0
        else:
            code = int(app(args=arguments, prog_name="pkpd", standalone_mode=False) or 0)
        sys.stdout.flush()  # a full disk behind a redirection shows here
        return _say("interrupted", code) if code == INTERRUPTED else code
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)
    except InputError as error:
        return _say(f"error: {error}", BAD_INPUT)
    except USAGE_ERROR as error:
        return _say(f"error: {_usage_message(error)}", BAD_INPUT)
    except BrokenPipeError:
        return _drop_stdout(FAILED)  # the reader of a pipe has gone: nothing to say, nobody to say it to
    except SystemExit as ended:  # SIGTERM, or Typer's own end for a broken pipe
        return _drop_stdout(int(ended.code or 0))
    except OSError as error:
        from inference.output import explain

        code = _say(f"error: {explain(error)}", BAD_INPUT)
        return _drop_stdout(code)
    except MemoryError:
        return _say("error: out of memory; ask for fewer patients or draws", BAD_INPUT)
    except Exception as error:  # a defect of ours: the place helps whoever mends it
        if os.environ.get("PKPD_TRACEBACK"):
            raise
        return _say(f"internal error: {_place(error)}; PKPD_TRACEBACK=1 shows more", FAILED)


def entry() -> NoReturn:
    """What the installed script and ``python -m inference`` call: ``main`` with the signals of a program."""
    signal.signal(signal.SIGTERM, _terminate)
    # XLA logs an error for every kept program it loads, over features of the processor that are none (JAX 0.10.0).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # What the diagnostics say of chains that did not move is in their verdict, not in a warning of NumPy's.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"arviz_stats\.")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name that is not text must not stop a message
    sys.exit(main())


def _terminate(number: int, frame: Any) -> NoReturn:
    """Ends by SIGTERM as by Ctrl-C: what is half-written is taken away on the way out."""
    raise SystemExit(TERMINATED)


def _usage_message(error: Exception) -> str:
    format_message: Callable[[], str] = getattr(error, "format_message", error.__str__)
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "pkpd")
    message = " ".join(format_message().split()).replace("Value error, ", "")
    return f"{message} (see {command} --help)"


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{at}"


def _say(message: str, code: int) -> int:
    """Prints ``pkpd: message`` on stderr, as far as anyone listens."""
    try:
        print(f"pkpd: {message}", file=sys.stderr, flush=True)
    except OSError:
        return code
    return code


def _drop_stdout(code: int) -> int:
    """Points stdout at nothing, so that the interpreter does not fail again when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return code
    return code
