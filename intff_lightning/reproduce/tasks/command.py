"""The command ``python -m intff_lightning.reproduce tasks --seeds N --only NAME --out DIR``."""

import argparse
import importlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from intff_lightning.errors import ConfigurationError
from intff_lightning.lightning_compat import quiet
from intff_lightning.reporting.results import write_results
from intff_lightning.reproduce.tasks.task import Measurement, Task, markdown, measurements, summarize

TASKS = ("tables", "regression")
"""The tasks; each is a module beside this one, with a :class:`~intff_lightning.reproduce.tasks.task.Task` ``TASK``."""


def find_task(name: str) -> Task:
    """Return a task by its name; only now the libraries that it needs are imported."""
    task: Task = importlib.import_module(f"intff_lightning.reproduce.tasks.{name}").TASK
    return task


def add_parser(names: Any) -> None:
    """Add the command to the subparsers of ``reproduce``."""
    parser: argparse.ArgumentParser = names.add_parser(
        "tasks", help="beyond the paper: other tasks (" + ", ".join(TASKS) + ")", allow_abbrev=False
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of each task (default: 5)")
    parser.add_argument("--only", nargs="+", choices=TASKS, metavar="NAME", help="these tasks")
    parser.add_argument("--jobs", type=int, default=1, help="measurements at a time, each on its share of the cores")
    parser.add_argument("--data_dir", default=os.environ.get("INTFF_DATA_DIR", "data"), help="folder of the data")
    parser.add_argument("--out", type=Path, help="folder of the results; default reproduced, or reproduced_quick")
    parser.add_argument("--quick", action="store_true", help="the shape of it in minutes; its figures mean nothing")


def run(arguments: argparse.Namespace, line: str) -> None:
    """Measure what is not measured yet, and write ``tasks/NAME.json`` and ``tasks/NAME.md`` for each task."""
    if arguments.seeds < 1 or arguments.jobs < 1:
        raise ConfigurationError(f"--seeds {arguments.seeds} and --jobs {arguments.jobs} must be 1 or more.")
    out = (arguments.out or Path("reproduced_quick" if arguments.quick else "reproduced")) / "tasks"
    chosen = [find_task(name) for name in TASKS if arguments.only is None or name in arguments.only]
    for task in chosen:
        _check_kind(out / f"{task.name}.json", arguments.quick)
    work = measurements(chosen, arguments.seeds, arguments.quick)
    found = _measure(work, arguments.data_dir, out / "runs", arguments.jobs)
    for task in chosen:
        by_seed = [
            [row for each in work if each.task is task and each.seed == seed for row in found[each.name]]
            for seed in range(arguments.seeds)
        ]
        lines = summarize(task, by_seed, arguments.quick, line)
        text = markdown(task, lines)
        print(text)
        print("written: " + ", ".join(str(path) for path in write_results(task.name, out, lines, text)))


def _check_kind(path: Path, quick: bool) -> None:
    """Keep a quick look from overwriting results, and the reverse."""
    if path.is_file() and any(row["quick"] is not quick for row in json.loads(path.read_text())):
        kind = "the results of a full run" if quick else "those of a quick look"
        raise ConfigurationError(f"{path} holds {kind}: name another folder, --out DIR.")


def _measure(work: Sequence[Measurement], data_dir: str, folder: Path, jobs: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of measurements by name, ``jobs`` at a time."""
    found: dict[str, list[dict[str, Any]]] = {}
    if jobs == 1 or len(work) < 2:
        for number, each in enumerate(work, 1):
            found[each.name] = each.rows(data_dir, folder)
            print(f"[{number}/{len(work)}] {each.name}", flush=True)
        return found
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(threads,))
    try:
        futures = {pool.submit(each.rows, data_dir, folder): each for each in work}
        for number, future in enumerate(as_completed(futures), 1):
            found[futures[future].name] = future.result()
            print(f"[{number}/{len(work)}] {futures[future].name}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    quiet()
