"""The command: ``python -m intff_lightning.reproduce NAME --seeds N --out DIR``."""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from intff_lightning.errors import ConfigurationError, explain
from intff_lightning.lightning_compat import quiet
from intff_lightning.reporting.results import about, write_results
from intff_lightning.reproduce import configs, figures, rounds, tables
from intff_lightning.reproduce.equivalence import equivalence
from intff_lightning.reproduce.rounds import GROUP
from intff_lightning.reproduce.rows import AUTHOR, HELD_OUT, PROCEDURES, Row, rows_of
from intff_lightning.reproduce.runs import Run
from intff_lightning.reproduce.spaces import ALGORITHMS, STUDIES

_NOTE = (
    "Test accuracy of the epoch that was best on 5,000 clean, held out training images (tuned), or of the last "
    "(author). Channels: as tuned, but with goodness by class and no label in the image. Passes: of each unit over the "
    "training set. Seconds: training and validation, mean of the seeds."
)
_ABLATION_NOTE = (
    "Two units, 10,000 training images, one-pixel shifts, 10 epochs with 64 images per batch, Adam at 0.002 along a "
    "cosine. Test accuracy of the epoch that was best on 2,000 held out training images. Channels: goodness by class, "
    "no label in the image and no negatives. Both: half cross-entropy, half softplus. Conv norm: convolutions with "
    "batch norm. Mean, patches and head are by class too: the mean activation without the square, behind a group norm; "
    "the goodness of 4x4 patches behind a fixed random map; and a linear head on each unit."
)
_ROUNDS_NOTE = (
    "Test accuracy after the last round, after the round with the best validation accuracy, and after the round with "
    "the best test accuracy. The last of these is no result: it selects on the test data, and shows what that gives. "
    "Unit 0 alone, validation and live are measured after the last round. Live k: neurons of layer k whose output is "
    "above zero for at least one training image under its own label."
)
_VALIDATION_NOTES = {
    "author": "Validation: the last 5,000 training images without corruption. The author holds no images out, so the "
    "network has also been trained on these, corrupted where the training set is.",
    HELD_OUT: "Validation: the last 5,000 training images without corruption, on which the network is not trained.",
}
_QUICK_NOTE = "A quick look: two epochs on a thousand images. These figures mean nothing."


@dataclass(frozen=True)
class Command:
    """A table or figure that can be rebuilt: rows that are trained, or facts that are computed."""

    name: str
    title: str
    help: str
    rows: list[Row] = field(default_factory=list)
    note: str = _NOTE
    draw: Callable[[Sequence[dict[str, Any]], Path], None] | None = None
    """Draws the rows into a PNG."""
    facts: Callable[[str, Path], list[dict[str, Any]]] | None = None
    """Computes rows from the folder of the data, and may draw a PNG."""
    one_seed: bool = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that have an effect here."""
        parser.add_argument("--data_dir", default=os.environ.get("INTFF_DATA_DIR", "data"), help="folder of MNIST")
        parser.add_argument("--out", type=Path, help="folder of the results; default reproduced, or reproduced_quick")
        parser.add_argument("--quick", action="store_true", help="the shape of it in minutes; its figures mean nothing")
        if self.facts is None:
            add_training_arguments(parser)
            parser.add_argument("--rows", type=int, nargs="+", metavar="N", help="only these rows, from 1 on")
            parser.add_argument(
                "--configs",
                type=Path,
                metavar="DIR",
                help="only write each row as a config for `fit`, with what is measured in --out",
            )

    def chosen(self, numbers: list[int] | None) -> list[Row]:
        """Return the rows with these numbers, from 1 on; ``None`` chooses all."""
        if numbers is None:
            return self.rows
        if not all(1 <= number <= len(self.rows) for number in numbers):
            lines = "\n".join(f"{i}: {_title(row)}" for i, row in enumerate(self.rows, 1))
            raise ConfigurationError(f"--rows {' '.join(map(str, numbers))}: {self.name} has the rows\n{lines}")
        return [self.rows[number - 1] for number in numbers]


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that train."""
    parser.add_argument("--seeds", type=int, default=3, help="runs per row, with the seeds 0, 1, ... (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument(
        "--procedure",
        choices=[*PROCEDURES, "both", "all"],
        default="tuned",
        help="tuned: ours (default); channels: ours with goodness by class (IntFF and FF); author: the author's, up to "
        "two hours per run on two cores; author_held_out: the author's without the last 5,000 training images, which "
        "are for validation; both: tuned and author; all: tuned, channels and author",
    )
    parser.add_argument(
        "--only_seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="train only these of the seeds, and write no table: for runs started side by side. The same command "
        "without this option then puts the runs together",
    )


COMMANDS = [
    Command("table1", "Table 1: MNIST", "IntFF, FF and backpropagation on MNIST", rows_of("table1")),
    Command(
        "table2",
        "Table 2: MNIST, 75 % of the training set corrupted",
        "the same, three quarters of the training set corrupted",
        rows_of("table2"),
    ),
    Command(
        "figure3",
        "Figure 3: mean local loss of every unit",
        "local loss of every unit over the epochs",
        rows_of("figure3"),
        draw=figures.draw_losses,
        one_seed=True,
    ),
    Command(
        "figure4",
        "Figure 4: the corrupted training set",
        "samples of the corrupted training set",
        facts=figures.draw_corruptions,
    ),
    Command(
        "equivalence",
        "Section 6: gradients of IntFF's training step against independent ones",
        "section 6: largest difference between gradients of IntFF, FF, and a summed loss with stop-gradient",
        facts=lambda data_dir, png: equivalence(),
    ),
    Command(
        "robustness",
        "Robustness: test accuracy by what is wrong with the training set",
        "beyond the paper: corrupted shares from 0 to 90 %, and every corruption alone",
        rows_of("robustness"),
        draw=figures.draw_robustness,
    ),
    Command(
        "ablation",
        "Ablation: unit, label encoding, negatives, local loss, on one budget",
        "beyond the paper: kinds of units, label encodings, negatives and local losses on one budget",
        rows_of("ablation"),
        note=_ABLATION_NOTE,
        draw=figures.draw_ablation,
    ),
]

_HELP = """Rebuild the tables and figures of "The Integrated Forward-Forward Algorithm" (Tang, 2023), and surpass them.

Each command writes NAME.json, NAME.md and, for figures, NAME.png. A finished run is kept under OUT/runs and is never
trained twice; after an interruption the same command continues where it stopped. Rows of an earlier call that this one
does not train are kept."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m intff_lightning.reproduce",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for command in [*COMMANDS, Command("all", "", "all of them")]:
        command.add_arguments(names.add_parser(command.name, help=command.help, allow_abbrev=False))
    tune = names.add_parser(
        "tune",
        help="search settings by Optuna, on validation data only",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Search settings by Optuna, on validation data only; every algorithm gets as many trials.\n\n"
        + "\n".join(f"{name}: {study.title}" for name, study in STUDIES.items()),
        allow_abbrev=False,
    )
    tune.add_argument("study", choices=STUDIES, metavar="STUDY", help="one of the studies above")
    tune.add_argument(
        "--trials", type=int, metavar="N", help="trials of each algorithm; default 30, or 12 for convolution"
    )
    tune.add_argument("--algorithms", choices=ALGORITHMS, nargs="+", default=list(ALGORITHMS), help="default: all four")
    tune.add_argument("--jobs", type=int, default=1, help="trials at a time, each on its share of the cores")
    Command("tune", "", "", facts=lambda data_dir, png: []).add_arguments(tune)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for an error, or 130 after a Ctrl-C."""
    arguments = _parser().parse_args(args)
    quiet()
    line = "python -m intff_lightning.reproduce " + " ".join(sys.argv[1:] if args is None else args)
    try:
        (_tune if arguments.name == "tune" else _reproduce)(arguments, line)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns a Ctrl-C into an exit
        sys.stderr.write("interrupted; the same command continues from here\n")
        return 130
    except Exception as error:
        if os.environ.get("INTFF_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {explain(error).replace('--data.data_dir', '--data_dir')}\n")
        return 1
    return 0


def _tune(arguments: argparse.Namespace, line: str) -> None:
    try:
        from intff_lightning.reproduce.tuning import tune
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ConfigurationError('tune needs Optuna: pip install "intff-lightning[tune]".') from None
    out: Path = arguments.out or Path("reproduced_quick" if arguments.quick else "reproduced")
    given = (arguments.study, arguments.algorithms, arguments.trials, arguments.jobs, arguments.data_dir)
    paths = tune(*given, out / "tuning", arguments.quick, line)
    print("written: " + ", ".join(str(path) for path in paths))


def _reproduce(arguments: argparse.Namespace, line: str) -> None:
    options: dict[str, Any] = {"seeds": 1, "jobs": 1, "procedure": "tuned", "rows": None, "configs": None}
    options |= {"only_seeds": None, **vars(arguments)}
    commands = [command for command in COMMANDS if arguments.name in (command.name, "all")]
    out: Path = arguments.out or Path("reproduced_quick" if arguments.quick else "reproduced")
    if options["seeds"] < 1 or options["jobs"] < 1:
        raise ConfigurationError(f"--seeds {options['seeds']} and --jobs {options['jobs']} must be 1 or more.")
    named = {"both": ("tuned", "author"), "all": ("tuned", "channels", "author")}
    names = named.get(options["procedure"], (options["procedure"],))
    plan = {command.name: _with_procedures(command.chosen(options["rows"]), names) for command in commands}
    if not any(plan.values()) and any(command.rows for command in commands):
        raise ConfigurationError(f"--procedure {options['procedure']}: these rows lack it (BP has tuned and author).")
    if options["configs"] is not None:
        for command in commands:
            measured = {_key(row): row for row in _rows_of(out / f"{command.name}.json") if not row.get("quick")}
            pairs = plan[command.name]
            configs.write([(row, name, measured.get(_place(row, name))) for row, name in pairs], options["configs"])
        return
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written ({error.strerror}): name another folder.") from None
    for command in commands:
        _check_kind(out / f"{command.name}.json", arguments.quick)
    runs = {
        (row, procedure, seed): Run(row, procedure, seed, arguments.quick)
        for command in commands
        for row, procedure in plan[command.name]
        for seed in range(1 if command.one_seed else options["seeds"])
    }
    if options["only_seeds"] is not None:
        seeds = {key[2] for key in runs}
        if not seeds.issuperset(options["only_seeds"]):
            asked = " ".join(map(str, options["only_seeds"]))
            raise ConfigurationError(f"--only_seeds {asked}: the seeds are 0 to {max(seeds)}; --seeds N makes more.")
        runs = {key: run for key, run in runs.items() if key[2] in options["only_seeds"]}
    results = _train(runs.values(), arguments.data_dir, out / "runs", options["jobs"])
    if options["only_seeds"] is not None:
        print("no table is written; the same command without --only_seeds puts the runs together")
        return
    console = Console(width=None if sys.stdout.isatty() else 150)  # a file has no width of its own
    for command in commands:
        png = out / f"{command.name}.png"
        if command.facts is None:
            made = []
            for row, procedure in plan[command.name]:
                found = [results[run.name] for key, run in runs.items() if key[:2] == (row, procedure)]
                made.append(tables.summarize(row, procedure, found, line))
            table = _with_earlier(command, made, out)
            text = tables.markdown(command.title, table, _QUICK_NOTE if arguments.quick else command.note)
            console.print(tables.screen(command.title, table))
        else:
            facts = command.facts(arguments.data_dir, png)
            table = [{"table": command.name, **fact, "command": line, **about()} for fact in facts]
            text = tables.plain_markdown(command.title, table)
            console.print(tables.plain(command.title, table))
        if command.draw is not None:
            command.draw(table, png)
        paths = write_results(command.name, out, table, text) + ([png] if png.is_file() else [])
        for procedure in AUTHOR:
            records = [
                {**{name: vars(row)[name] for name in GROUP}, "seed": seed, **measured}
                for (row, name, seed), run in runs.items()
                if row.table == command.name and name == procedure
                for measured in results[run.name]["rounds"]
            ]
            if records:
                paths += _write_rounds(command, procedure, records, out, arguments.quick)
        print("written: " + ", ".join(str(path) for path in paths))


def _write_rounds(
    command: Command, procedure: str, records: list[dict[str, Any]], out: Path, quick: bool
) -> list[Path]:
    """Write every round of the author's procedure as CSV, what each rule of stopping gives, and the curves."""
    name = f"{command.name}_{procedure}"
    path, png = out / f"{name}.csv", out / f"{name}.png"
    trained = {tuple(row[column] for column in GROUP) for row in records}
    kept = rounds.read_table(path) if path.is_file() else []
    records += [row for row in kept if tuple(row[column] for column in GROUP) not in trained]
    order = [tuple(vars(row)[column] for column in GROUP) for row in command.rows]
    records.sort(key=lambda row: order.index(tuple(row[column] for column in GROUP)))  # keeps the order of the rounds
    rounds.write_table(path, records)
    records = rounds.read_table(path)  # so that the file alone gives the table
    figures.draw_rounds(records, png)
    lines = rounds.summarize_rounds(records)
    text = tables.rounds_markdown(*rounds_text(command, procedure, quick), lines)
    return [path, *write_results(name, out, lines, text), png]


def rounds_text(command: Command, procedure: str, quick: bool = False) -> tuple[str, str]:
    """Return the title and the note of the table of rounds."""
    title = f"{command.title}: the author's procedure, round by round"
    return title, _QUICK_NOTE if quick else f"{_ROUNDS_NOTE} {_VALIDATION_NOTES[procedure]}"


def _check_kind(path: Path, quick: bool) -> None:
    """Keep a quick look from overwriting results, and the reverse."""
    if any(row.get("quick", quick) is not quick for row in _rows_of(path)):
        kind = "the results of a full run" if quick else "those of a quick look"
        raise ConfigurationError(f"{path} holds {kind}: name another folder, --out DIR.")


def _with_procedures(rows: Iterable[Row], names: Sequence[str]) -> list[tuple[Row, str]]:
    """Pair each row with those of its procedures that are asked for; the ablation has only one."""
    return [(row, name) for row in rows for name in row.procedures if name in names or row.table == "ablation"]


def _title(row: Row) -> str:
    corruption = "" if row.corruption == "clean" else f" {row.corruption.replace('_', ' ')} {100 * row.rate:g} %"
    return f"{row.algorithm} {row.network}{corruption}"


def _train(runs: Iterable[Run], data_dir: str, folder: Path, jobs: int) -> dict[str, dict[str, Any]]:
    """Return the results of runs by name; each is trained once, ``jobs`` at a time."""
    distinct = {run.name: run for run in runs}
    work = [
        (run, f"[{n}/{len(distinct)}] {_title(run.row)} {run.procedure} seed {run.seed}")
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


def _with_earlier(command: Command, rows: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Return the rows of this call, and those of earlier calls that it did not train, in the order of the table."""
    made = {_key(row): row for row in [*_rows_of(out / f"{command.name}.json"), *rows]}
    return [made[key] for row in command.rows for name in PROCEDURES if (key := _place(row, name)) in made]


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows that earlier calls have written, if any."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return rows


def _place(row: Row, procedure: str) -> tuple[Any, ...]:
    return row.algorithm, row.network, row.corruption, row.rate, procedure


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["algorithm"], row["network"], row["corruption"], row["rate"], row["procedure"]
