"""``python -m intff_lightning.reproduce tasks``: measures other tasks than pictures of digits."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from intff_lightning.errors import ConfigurationError
from intff_lightning.reporting.results import write_results
from intff_lightning.reproduce.options import (
    Subcommand,
    add_common_arguments,
    add_seed_arguments,
    chosen_seeds,
    make_folder,
    results_folder,
    run_jobs,
)
from intff_lightning.reproduce.tasks.task import Measurement, Task, markdown, measurements, summarize

TASKS = {
    "anomaly": "one class of images is normal, and the others must be found",
    "tables": "classes in the rows of tables, by goodness of labels",
    "regression": "numbers in the rows of tables, by goodness of candidates",
    "words": "token sequences: the language of a word from its letters",
}
"""The tasks; each is a module beside this one, with a :class:`~intff_lightning.reproduce.tasks.task.Task` ``TASK``."""

_DESCRIPTION = (
    "Measure other tasks, beside backpropagation of the same networks and methods of scikit-learn.\n"
    "Each task writes tasks/NAME.json and tasks/NAME.md.\n\n"
)


def find_task(name: str) -> Task:
    """Return a task by its name; only now the libraries that it needs are imported."""
    task: Task = importlib.import_module(f"intff_lightning.reproduce.tasks.{name}").TASK
    return task


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_seed_arguments(parser, seeds=5)
    parser.add_argument("--only", choices=TASKS, nargs="+", metavar="NAME", help="only these tasks")
    add_common_arguments(parser)


def tasks(arguments: argparse.Namespace, line: str) -> None:
    """Measure what is not measured yet, and write one table per task."""
    seeds = chosen_seeds(arguments.seeds, arguments.only_seeds)
    out = make_folder(results_folder(arguments), "tasks")
    chosen = [find_task(name) for name in TASKS if arguments.only is None or name in arguments.only]
    for task in chosen:
        if task.check is not None:
            task.check()
        _check_kind(out / f"{task.name}.json", arguments.quick)
    work = measurements(chosen, seeds, arguments.quick)
    given = [(each, arguments.data_dir, out / "runs", f"[{n}/{len(work)}]") for n, each in enumerate(work, 1)]
    found = {each.name: rows for each, rows in zip(work, run_jobs(_measured, given, arguments.jobs), strict=True)}
    if arguments.only_seeds is not None:
        print("no table is written; the same command without --only_seeds puts the measurements together")
        return
    for task in chosen:
        by_seed = [
            [row for each in work if each.task is task and each.seed == seed for row in found[each.name]]
            for seed in seeds
        ]
        lines = summarize(task, by_seed, arguments.quick, line)
        text = markdown(task, lines)
        print(text)
        print("written: " + ", ".join(str(path) for path in write_results(task.name, out, lines, text)))


SUBCOMMAND = Subcommand(
    "tasks",
    "other tasks, compared with backpropagation and scikit-learn",
    _add_arguments,
    tasks,
    _DESCRIPTION + "\n".join(f"{name}: {title}" for name, title in TASKS.items()),
)


def _measured(measurement: Measurement, data_dir: str, folder: Path, prefix: str) -> list[dict[str, Any]]:
    rows = measurement.rows(data_dir, folder)
    print(f"{prefix} {measurement.name}", flush=True)
    return rows


def _check_kind(path: Path, quick: bool) -> None:
    """Keep a quick look from overwriting results, and the reverse."""
    if path.is_file() and any(row["quick"] is not quick for row in json.loads(path.read_text())):
        kind = "the results of a full run" if quick else "those of a quick look"
        raise ConfigurationError(f"{path} holds {kind}: name another folder, --out DIR.")
