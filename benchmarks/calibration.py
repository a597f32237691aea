"""Simulation-based calibration of the arm-level fit: is the truth where its posteriors say it is?

    python -m benchmarks.calibration --work DIR [--data-sets 200] [--figure FILE.png]        # hours, resumable

Each data set is one trial of the published arms, its parameters drawn from the prior and its patients simulated one by
one, never from a surface. Each is fitted by two rounds and NUTS with keys of its own, and the ranks of the truth among
99 draws of the posterior are tested: every parameter, log prior density, log likelihood, response rates at week 8.
It passes if the smallest Holm-adjusted p exceeds 0.01, every ECDF stays in its 99% simultaneous envelope, and at most
2% of the fits fail or are refused.

The same data sets are then fitted by models that are wrong on purpose (``WRONG``); each must fail at p < 0.001 in the
quantity that is stated there beforehand, on a number of data sets stated there too.

What is done is kept in the work folder, a file a fit: the same command goes on after an interruption, also with more
data sets. ``--only-report`` reads what is there. Exit code 0 if all is as it should be, 1 if not, 2 for bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from inference.output import write_bytes
from pkpd.errors import InputError

SAMPLER = {"chains": 4, "warmup": 200, "draws": 150}  # a warm-up of 100 left chains whose steps diverge
ROUNDS = [{"vectors": 640, "patients": 64}, {"vectors": 1024, "patients": 128}]
RESULT = Path(__file__).parent / "results" / "calibration.json"


class Fitted(NamedTuple):
    """A way to fit the first ``data_sets`` data sets (0: all); ``quantity`` is the one that must tell it wrong."""

    data_sets: int
    quantity: str
    why: str


RIGHT = {
    "right": Fitted(0, "", "the fit"),
    "large surface covariance": Fitted(
        60, "", "the right fit's last surface with noise added that is as large as the sampling noise, and counted"
    ),
}
# Every quantity stated before the data sets of a calibration are drawn: chosen on ten others (--seed 999).
WRONG = {
    "independent rows": Fitted(
        0,
        "distance of response, active arms",
        "five counts of the same patients are taken for those of five times as many: the response rates of an arm, to"
        " which all of them speak, come out too sure",
    ),
    "surface covariance left out": Fitted(
        60, "log likelihood", "the same noise not counted: draws follow it, and under it the truth looks unlikely"
    ),
    "prior counted twice": Fitted(60, "log prior density", "draws crowd where the prior density is high"),
    "rescue ignored": Fitted(
        60,
        "week-8 rate, start 2.5 mg",
        "patients who would be rescued go on to respond in every simulation, most where the dose starts low: predicted"
        " rates are too high",
    ),
}
ALL = RIGHT | WRONG


def settings(seed: int) -> dict[str, Any]:
    """What a work folder was begun with, and must be gone on with."""
    from inference.manifest import code_hash, hash_of

    cases = Path(__file__).with_name("calibration_cases.py")
    code = {"code": code_hash(), "cases": hash_of([cases], cases.parent)}
    return {"seed": seed, "rounds": ROUNDS, "sampler": SAMPLER, **code}


def open_work(folder: Path, wanted: dict[str, Any]) -> None:
    """Makes the work folder, or refuses one that other settings or other code began."""
    file = folder / "settings.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(file, json.dumps(wanted, indent=1).encode())
        return
    begun = json.loads(file.read_text(encoding="utf-8"))
    for key, value in wanted.items():
        if begun.get(key) != value:
            raise InputError(f"{folder}: begun with {key} = {begun.get(key)}, not {value}; choose another --work")


def asked(name: str, data_sets: int) -> int:
    """How many of so many data sets are fitted that way."""
    return min(ALL[name].data_sets or data_sets, data_sets)


def file_of(folder: Path, number: int, name: str) -> Path:
    """Where the outcome of a fit is kept."""
    return folder / f"{number:04d}-{name.replace(' ', '-')}.json"


def attempt(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The outcome of a fit with its time, or why there is none: refused (InputError) or failed (any other error)."""
    start, processor = time.perf_counter(), time.process_time()
    try:
        outcome = make()
    except InputError as error:
        outcome = {"status": "refused", "message": str(error)}
    except Exception as error:  # whatever stops a fit is a finding here
        outcome = {"status": "failed", "message": f"{type(error).__name__}: {error}"}
    seconds = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}
    return outcome | {k: round(v, 2) for k, v in seconds.items()}


def run(folder: Path, seed: int, data_sets: int, names: list[str]) -> None:
    """Every fit that is asked for and not kept yet, data set by data set."""
    from benchmarks import calibration_cases as cases
    from inference import population
    from inference.config import load

    plan = population.plan(load(options={"quick": True, "rounds": ROUNDS, "sampler": SAMPLER}))
    todo = [
        (
            number,
            [n for n in names if number < asked(n, data_sets) and not file_of(folder, number, n).exists()],
        )
        for number in range(data_sets)
    ]
    left = sum(len(missing) for _, missing in todo)
    start, done = time.perf_counter(), 0
    for number, missing in todo:
        if not missing:
            continue
        drawn: dict[str, Any] = attempt(lambda: {"case": cases.draw(plan, seed, number)})  # noqa: B023
        case, fitted = drawn.pop("case", None), dict[str, Any]()
        counts = None if case is None else case.plan.data.counts.tolist()
        for name in missing:
            outcome = drawn if case is None else attempt(lambda: cases.outcome(name, case, fitted))  # noqa: B023
            about = {"data_set": number, "fit": name, "counts": counts}
            write_bytes(file_of(folder, number, name), json.dumps(about | outcome).encode())
            done += 1
            to_go = (time.perf_counter() - start) / done * (left - done)
            print(
                f"data set {number + 1} of {data_sets}, {name}: {outcome['status']} {outcome.get('message', '')}"
                f" {outcome['seconds']:.1f} s; {to_go / 60:.0f} min to go",
                file=sys.stderr,
                flush=True,
            )


def outcomes_in(folder: Path, name: str, data_sets: int) -> list[dict[str, Any]]:
    """The kept outcomes of one way to fit, of the first ``data_sets`` data sets or as many as it is made for."""
    files = (file_of(folder, number, name) for number in range(asked(name, data_sets)))
    return [json.loads(f.read_text(encoding="utf-8")) for f in files if f.exists()]


def report(folder: Path, data_sets: int, names: list[str], record: Path, figure: Path | None) -> bool:
    """Print, store and draw what the outcomes in ``folder`` say; True if all is as it should be and complete."""
    from benchmarks import calibration_report as reports
    from inference.manifest import devices, versions

    found, all_well = {}, True
    for name in names:
        outcomes, quantity = outcomes_in(folder, name, data_sets), ALL[name].quantity
        found[name] = reports.summary(outcomes) if outcomes else {"fits": 0, "without_ranks": [], "p": {}, "ranks": {}}
        own = reports.wrong_reasons(found[name], quantity) if quantity else reports.right_reasons(found[name])
        if len(outcomes) < asked(name, data_sets):
            own.append(f"{len(outcomes)} of {asked(name, data_sets)} fits are done")
        found[name] |= {"stated_quantity": quantity, "why": ALL[name].why, "reasons": own}
        all_well &= not own
        print("\n".join(reports.lines(name, found[name], quantity, own)))
    begun = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    about = {
        "command": f"python -m benchmarks.calibration --work DIR --data-sets {data_sets} --seed {begun['seed']}",
        "passed": all_well,
        "settings": begun,
        "limits": {"holm": reports.LIMIT, "wrong": reports.WRONG_LIMIT, "envelope": reports.LEVEL},
        "versions": versions(),
        "devices": devices(),
    }
    record.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(record, (json.dumps(about | {"fits": found}, separators=(",", ":")) + "\n").encode())
    if figure is not None and found.get("right", {}).get("ranks"):
        reports.picture(figure, found, {name: ALL[name].quantity for name in names})
    print("passed" if all_well else "not passed")
    return all_well


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of what is done; an existing one goes on")
    parser.add_argument("--data-sets", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fits", nargs="+", choices=list(ALL), default=list(ALL), help="default: all")
    parser.add_argument("--only-report", action="store_true", help="fit nothing")
    parser.add_argument("--json", type=Path, default=RESULT, help=f"record to write, default {RESULT.name}")
    parser.add_argument("--figure", type=Path, help="picture to write")
    args = parser.parse_args(arguments)
    try:
        if args.data_sets < 1:
            raise InputError(f"--data-sets {args.data_sets}; legal: at least 1")
        if args.only_report:
            if not (args.work / "settings.json").exists():
                raise InputError(f"{args.work}: no calibration was begun here")
        else:
            from inference.startup import start_jax

            start_jax()
            open_work(args.work, settings(args.seed))
            run(args.work, args.seed, args.data_sets, args.fits)
        return 0 if report(args.work, args.data_sets, args.fits, args.json, args.figure) else 1
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on with what is in {args.work}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
