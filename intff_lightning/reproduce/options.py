"""What the commands share: options, folders, and several jobs at a time."""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from intff_lightning.errors import ConfigurationError
from intff_lightning.lightning_compat import quiet

T = TypeVar("T")

QUICK_NOTE = "A quick look: few steps on a thousand images. These figures mean nothing."


@dataclass(frozen=True)
class Subcommand:
    """A name that ``python -m intff_lightning.reproduce`` takes.

    Args:
        name: The name.
        help: One line for people.
        add_arguments: Adds its options to a parser.
        run: Runs it, given the parsed options and the command line as one text.
        description: What its ``--help`` says at the head.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, str], None]
    description: str = ""


def count(text: str) -> int:
    """Read the number of an option such as ``--seeds``, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    parser.add_argument("--data_dir", default=os.environ.get("INTFF_DATA_DIR", "data"), help="folder of MNIST")
    parser.add_argument("--out", type=Path, help="folder of the results; default reproduced, or reproduced_quick")
    parser.add_argument("--quick", action="store_true", help="the shape of it in minutes; its figures mean nothing")


def add_seed_arguments(parser: argparse.ArgumentParser, seeds: int) -> None:
    """Add the options of commands that train with several seeds; ``seeds`` is their default number."""
    parser.add_argument(
        "--seeds", type=count, default=seeds, help=f"runs per row, with the seeds 0, 1, ... (default: {seeds})"
    )
    parser.add_argument("--jobs", type=count, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument(
        "--only_seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="train only these of the seeds, and write no table: for runs started side by side. The same command "
        "without this option then puts the runs together",
    )


def chosen_seeds(number: int, only: Sequence[int] | None) -> list[int]:
    """Return the seeds 0 to ``number - 1``, or only some of them."""
    if only is None:
        return list(range(number))
    if not set(only) <= set(range(number)):
        asked = " ".join(map(str, only))
        raise ConfigurationError(f"--only_seeds {asked}: the seeds are 0 to {number - 1}; --seeds N makes more.")
    return sorted(set(only))


def results_folder(arguments: argparse.Namespace) -> Path:
    """Return the folder of the results."""
    out: Path | None = arguments.out
    return out or Path("reproduced_quick" if arguments.quick else "reproduced")


def make_folder(out: Path, name: str) -> Path:
    """Make the folder ``name`` in that of the results, and return it."""
    try:
        (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written ({error.strerror}): name another folder.") from None
    return out / name


def run_jobs(function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int) -> list[T]:
    """Call a function with each of these tuples of arguments, and return what it returns, in their order.

    Args:
        function: A function that another process can import.
        arguments: Its arguments, one tuple per call.
        jobs: Number of processes at a time, each on its share of the cores; with 1, no other process is started.
    """
    if jobs == 1 or len(arguments) < 2:
        return [function(*each) for each in arguments]
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(threads,))
    try:
        futures = [pool.submit(function, *each) for each in arguments]
        for future in as_completed(futures):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # a `with` would first do all that waits, whatever went wrong
    return [future.result() for future in futures]


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    quiet()
