"""Seconds until the help is shown, until the first training batch, and of a whole job, against `import lightning`.

Each round runs each process once, one after another, and measures until it has ended. The fit is that of
``configs/digits.yaml`` with its default callbacks and loggers. It ends itself just before the first batch, when data,
network, optimizers and sanity check are ready. It then skips the end of the interpreter, so it is compared with an
import that ends in the same way. The whole job is that fit with all of its epochs, its test and its figures.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L

HELP = "seconds until the help, until the first batch, and of the whole digits job, against import lightning"

ROOT = Path(__file__).parents[1]
IMPORTS = "import lightning"
CUT_OFF = f"{IMPORTS}, cut off"
PROCESSES = {  # arguments of Python, and what it is compared with
    IMPORTS: (["-c", IMPORTS], IMPORTS),
    "import intff_lightning": (["-c", "import intff_lightning"], IMPORTS),
    "--help": (["-m", "intff_lightning", "--help"], IMPORTS),
    CUT_OFF: (["-c", f"{IMPORTS}, os; os._exit(0)"], CUT_OFF),
    "fit, to the first batch": (
        [
            *("-m", "intff_lightning", "fit", "--config", "configs/digits.yaml"),
            "--trainer.callbacks+=benchmarks.startup.EndAtFirstBatch",
        ],
        CUT_OFF,
    ),
    "fit, all 60 epochs": (["-m", "intff_lightning", "fit", "--config", "configs/digits.yaml"], IMPORTS),
}
ROUNDS = 9
ENDED = 42  # exit code of a fit that came to its first batch, and ended there


class EndAtFirstBatch(L.Callback):
    """Ends the process just before the first batch."""

    def on_train_batch_start(self, *_: Any) -> None:
        os._exit(ENDED)


def seconds(arguments: list[str], folder: str) -> float:
    """Return the seconds of one Python process in the root of the repository; a fit logs into ``folder``."""
    fits = "fit" in arguments
    options = ["--trainer.default_root_dir", folder] if fits else []
    start = time.perf_counter()
    process = subprocess.run([sys.executable, *arguments, *options], cwd=ROOT, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if process.returncode != (ENDED if "--trainer.callbacks" in arguments[-1] else 0):
        raise SystemExit(f"python {' '.join(arguments)}: exit code {process.returncode}\n{process.stderr}")
    return taken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # the shared options are in a file that imports matplotlib, and a measured process imports this one
    parser.add_argument("--quick", action="store_true", help="the shape of it in seconds; its figures mean nothing")


def main(arguments: argparse.Namespace) -> None:
    # imported here: a process that fits needs only the callback of this file
    from benchmarks.opponents import take_turns
    from benchmarks.results import write

    with tempfile.TemporaryDirectory() as folder:
        turns = {name: functools.partial(seconds, command, folder) for name, (command, _) in PROCESSES.items()}
        if not arguments.quick:
            take_turns(turns, 1)  # compiles, and reads files into the cache
        times = take_turns(turns, 1 if arguments.quick else ROUNDS)
    rows = []
    for name, (_, bare) in PROCESSES.items():
        ratios = [mine / theirs for mine, theirs in zip(times[name], times[bare], strict=True)]
        rows.append({"process": name, "seconds (median)": statistics.median(times[name])})
        rows[-1] |= {"min s": min(times[name]), "max s": max(times[name]), "against": bare}
        rows[-1] |= {"ratio (median)": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    write(
        "startup", arguments.out, rows, note=f"{len(ratios)} rounds, one process at a time; ratios are within a round."
    )
