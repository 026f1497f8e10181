"""The commands of the paper's tables and figures, and of what goes beyond them: rows trained with several seeds."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from intff_lightning.errors import ConfigurationError
from intff_lightning.reporting.results import about, write_results
from intff_lightning.reproduce import configs, figures, rounds, tables
from intff_lightning.reproduce.equivalence import equivalence
from intff_lightning.reproduce.kinds import draw_kinds
from intff_lightning.reproduce.options import (
    QUICK_NOTE,
    Subcommand,
    add_common_arguments,
    add_seed_arguments,
    chosen_seeds,
    make_folder,
    results_folder,
    run_jobs,
)
from intff_lightning.reproduce.rounds import GROUP
from intff_lightning.reproduce.rows import AUTHOR, HELD_OUT, PROCEDURES, Row, rows_of
from intff_lightning.reproduce.runs import Run

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
        add_common_arguments(parser)
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
    add_seed_arguments(parser, seeds=3)
    parser.add_argument(
        "--procedure",
        choices=[*PROCEDURES, "both", "all"],
        default="tuned",
        help="tuned: ours (default); channels: ours with goodness by class (IntFF and FF); author: the author's, up to "
        "two hours per run on two cores; author_held_out: the author's without the last 5,000 training images, which "
        "are for validation; both: tuned and author; all: tuned, channels and author",
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
        "mnist_c",
        "MNIST-C: mean absolute change of a pixel, by kind and severity",
        "beyond the paper: the 15 kinds of test-time corruption at every severity, as a picture",
        facts=draw_kinds,
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


def reproduce(arguments: argparse.Namespace, line: str) -> None:
    """Train the rows of a command, or compute its facts, and write its tables and figures."""
    options: dict[str, Any] = {"seeds": 1, "jobs": 1, "procedure": "tuned", "rows": None, "configs": None}
    options |= {"only_seeds": None, **vars(arguments)}
    commands = [command for command in COMMANDS if arguments.name in (command.name, "all")]
    out = results_folder(arguments)
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
    folder = make_folder(out, "runs")
    for command in commands:
        _check_kind(out / f"{command.name}.json", arguments.quick)
    runs = {
        (row, procedure, seed): Run(row, procedure, seed, arguments.quick)
        for command in commands
        for row, procedure in plan[command.name]
        for seed in range(1 if command.one_seed else options["seeds"])
    }
    most = max((seed + 1 for _, _, seed in runs), default=1)
    seeds = chosen_seeds(most, options["only_seeds"])
    runs = {key: run for key, run in runs.items() if key[2] in seeds}
    results = _train(runs.values(), arguments.data_dir, folder, options["jobs"])
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
            text = tables.markdown(command.title, table, QUICK_NOTE if arguments.quick else command.note)
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
    return title, QUICK_NOTE if quick else f"{_ROUNDS_NOTE} {_VALIDATION_NOTES[procedure]}"


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
    results = run_jobs(_one, [(run, data_dir, folder, prefix) for run, prefix in work], jobs)
    return {run.name: result for (run, _), result in zip(work, results, strict=True)}


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


SUBCOMMANDS = [
    Subcommand(command.name, command.help, command.add_arguments, reproduce)
    for command in [*COMMANDS, Command("all", "", "all of them")]
]
"""The commands of this file."""
