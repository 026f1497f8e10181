"""The command: ``python -m intff_lightning.reproduce NAME --seeds N --out DIR``."""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from intff_lightning.errors import ConfigurationError
from intff_lightning.messages import explain, quiet
from intff_lightning.reproduce import configs, figures, tables
from intff_lightning.reproduce.equivalence import equivalence
from intff_lightning.reproduce.rows import RECIPES, Row, rows_of
from intff_lightning.reproduce.runs import Run

__all__ = ["main"]

_TITLES = {
    "table1": "Table 1: MNIST",
    "table2": "Table 2: MNIST, 75 % of the training set corrupted",
    "figure3": "Figure 3: mean local loss of every unit",
    "figure4": "Figure 4: the corrupted training set",
    "equivalence": "Section 6: gradients of IntFF's training step against independent ones",
    "robustness": "Robustness: test accuracy by what is wrong with the training set",
    "ablation": "Ablation: unit, label encoding, negatives, local loss, on one budget",
}
_NAMES = tuple(_TITLES)

_HELP = """Rebuild the tables and figures of "The Integrated Forward-Forward Algorithm" (Tang, 2023), and surpass them.

  table1       IntFF, FF and backpropagation on MNIST
  table2       the same, three quarters of the training set corrupted
  figure3      local loss of every unit over the epochs
  figure4      samples of the corrupted training set
  equivalence  section 6: largest difference between gradients of IntFF, FF, and a summed loss with stop-gradient
  robustness   beyond the paper: corrupted shares from 0 to 90 %, and every corruption alone
  ablation     beyond the paper: kinds of units, label encodings, negatives and local losses on one budget
  all          everything

Writes NAME.json, NAME.md and, of figures, NAME.png. A finished run is kept under OUT/runs and never trained twice;
after an interruption the same command goes on where it stopped. Rows of an earlier call that this one does not make
are kept."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m intff_lightning.reproduce",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", choices=[*_NAMES, "all"], metavar="NAME", help=f"{', '.join(_NAMES)} or all")
    parser.add_argument("--data_dir", default=os.environ.get("INTFF_DATA_DIR", "data"), help="folder of MNIST")
    parser.add_argument("--out", type=Path, help="folder of the results; default reproduced (quick: reproduced_quick)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of a row, with the seeds 0, 1, ... (default: 3)")
    parser.add_argument(
        "--recipe",
        choices=[*RECIPES, "both", "all"],
        default="tuned",
        help="tuned: ours (default); channels: ours with a goodness for every class (IntFF and FF); author: the "
        "author's procedure, up to two hours a run on two cores; both: tuned and author; all: all three",
    )
    parser.add_argument("--rows", type=int, nargs="+", metavar="N", help="only these lines of the table, from 1 on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument(
        "--configs", type=Path, metavar="DIR", help="train nothing: write each row as a config file for `fit`"
    )
    parser.add_argument("--quick", action="store_true", help="the shape of everything in minutes; figures mean nothing")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: arguments; ``None`` takes those of the process.

    Returns:
        Exit code: 0, 1 for an error, 130 after a Ctrl-C; wrong arguments exit with 2.
    """
    arguments = _parser().parse_args(args)
    quiet()
    command = "python -m intff_lightning.reproduce " + " ".join(sys.argv[1:] if args is None else args)
    try:
        _reproduce(arguments, command)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns a Ctrl-C into an exit
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130
    except Exception as error:
        if os.environ.get("INTFF_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {explain(error).replace('--data.data_dir', '--data_dir')}\n")
        return 1
    return 0


def _reproduce(arguments: argparse.Namespace, command: str) -> None:
    names = list(_NAMES) if arguments.name == "all" else [arguments.name]
    out: Path = arguments.out or Path("reproduced_quick" if arguments.quick else "reproduced")
    if arguments.seeds < 1 or arguments.jobs < 1:
        raise ConfigurationError(f"--seeds {arguments.seeds} and --jobs {arguments.jobs} must be 1 or more.")
    recipes = {"both": ("tuned", "author"), "all": RECIPES}.get(arguments.recipe, (arguments.recipe,))
    plan = {name: _chosen(name, arguments.rows) for name in names if name not in ("figure4", "equivalence")}
    if plan and not any(_with_recipes(rows, recipes) for rows in plan.values()):
        raise ConfigurationError(f"--recipe {arguments.recipe}: none of these rows has it (BP has tuned and author).")
    if arguments.configs is not None:
        for name, rows in plan.items():
            configs.write(name, _with_recipes(rows, recipes), arguments.configs)
        return
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written ({error.strerror}): name another folder.") from None
    for name in names:
        _check_kind(out / f"{name}.json", arguments.quick)
    runs = {
        (row, recipe, seed): Run(row, recipe, seed, arguments.quick)
        for name, rows in plan.items()
        for row, recipe in _with_recipes(rows, recipes)
        for seed in range(1 if name == "figure3" else arguments.seeds)
    }
    results = _train(runs.values(), arguments.data_dir, out / "runs", arguments.jobs)
    console = Console(width=None if sys.stdout.isatty() else 150)  # a file has no width of its own
    for name in names:
        png = out / f"{name}.png"
        title = _TITLES[name]
        if name in plan:
            made = []
            for row, recipe in _with_recipes(plan[name], recipes):
                found = [results[run.name] for key, run in runs.items() if key[:2] == (row, recipe)]
                made.append(tables.summarize(row, recipe, found, command))
            table = _with_earlier(name, made, out)
            text = tables.markdown(title, table, _note(name, arguments.quick))
            console.print(tables.screen(title, table))
        else:
            facts = equivalence() if name == "equivalence" else figures.draw_corruptions(arguments.data_dir, png)
            table = [{"table": name, **fact, "command": command, **tables.about()} for fact in facts]
            text = tables.plain_markdown(title, table)
            console.print(tables.plain(title, table))
        if name == "figure3":
            figures.draw_losses(table, png)
        elif name == "robustness":
            figures.draw_robustness(table, png)
        elif name == "ablation":
            figures.draw_ablation(table, png)
        paths = tables.write(name, out, table, text) + ([png] if png.is_file() else [])
        print("written: " + ", ".join(str(path) for path in paths))


def _check_kind(path: Path, quick: bool) -> None:
    """Keep a quick look from overwriting results, and the reverse."""
    if path.is_file():
        rows = json.loads(path.read_text())
        if any(row.get("quick", quick) is not quick for row in rows):
            kind = "the results of a full run" if quick else "those of a quick look"
            raise ConfigurationError(f"{path} holds {kind}: name another folder, --out DIR.")


def _chosen(name: str, numbers: list[int] | None) -> list[Row]:
    rows = rows_of(name)
    if numbers is None:
        return rows
    if not all(1 <= number <= len(rows) for number in numbers):
        lines = "\n".join(f"{i}: {_title(row)}" for i, row in enumerate(rows, 1))
        raise ConfigurationError(f"--rows {' '.join(map(str, numbers))}: {name} has the rows\n{lines}")
    return [rows[number - 1] for number in numbers]


def _with_recipes(rows: Iterable[Row], recipes: Sequence[str]) -> list[tuple[Row, str]]:
    """Rows, each with those recipes asked for that there are of it; the ablation has one, whatever is asked for."""
    return [(row, recipe) for row in rows for recipe in row.recipes if recipe in recipes or row.table == "ablation"]


def _title(row: Row) -> str:
    corruption = "" if row.corruption == "clean" else f" {row.corruption.replace('_', ' ')} {100 * row.rate:g} %"
    return f"{row.algorithm} {row.network}{corruption}"


def _train(runs: Iterable[Run], data_dir: str, folder: Path, jobs: int) -> dict[str, dict[str, Any]]:
    """Results of runs by name, each trained once, ``jobs`` at a time."""
    distinct = {run.name: run for run in runs}
    work = [
        (run, f"[{n}/{len(distinct)}] {_title(run.row)} {run.recipe} seed {run.seed}")
        for n, run in enumerate(distinct.values(), 1)
    ]
    if jobs == 1 or len(work) < 2:
        return {run.name: _one(run, data_dir, folder, prefix) for run, prefix in work}
    threads = max(1, torch.get_num_threads() // jobs)
    results = {}
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(threads,))
    try:
        futures = {pool.submit(_one, run, data_dir, folder, prefix): run for run, prefix in work}
        for future in as_completed(futures):
            results[futures[future].name] = future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # a `with` would first train all that waits, whatever went wrong
    return results


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    quiet()


def _one(run: Run, data_dir: str, folder: Path, prefix: str) -> dict[str, Any]:
    def say(line: str) -> None:
        print(f"{prefix}: {line}", flush=True)

    result = run.result(data_dir, folder, say)
    say(f"test accuracy {result['test_accuracy']:.2f} %, trained in {result['seconds']:.0f} s")
    return result


def _with_earlier(name: str, rows: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Rows of this call, and those of earlier ones that it did not make, in the order of the table."""
    path = out / f"{name}.json"
    earlier = json.loads(path.read_text()) if path.is_file() else []
    made = {_key(row): row for row in [*earlier, *rows]}
    order = [(row.algorithm, row.network, row.corruption, row.rate) for row in rows_of(name)]
    return [made[key] for place in order for recipe in RECIPES if (key := (*place, recipe)) in made]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["algorithm"], row["network"], row["corruption"], row["rate"], row["recipe"]


def _note(name: str, quick: bool) -> str:
    if quick:
        return "A quick look: two epochs on a thousand images. These figures mean nothing."
    if name == "ablation":
        return (
            "Two units, 10,000 training images, one-pixel shifts, 10 epochs of 64 images a batch, Adam at 0.002 along "
            "a cosine. Test accuracy of the epoch that was best on 2,000 held out training images. Channels: a "
            "goodness for every class, no label in the image and no negatives. Both: half cross-entropy, half softplus."
        )
    return (
        "Test accuracy of the epoch that was best on 5,000 clean, held out training images (tuned), or of the last "
        "(author). Channels: as tuned, but with a goodness for every class and no label in the image. Passes: of each "
        "unit over the training set. Seconds: of training and validation, mean of the seeds."
    )
