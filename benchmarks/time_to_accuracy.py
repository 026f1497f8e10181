"""Seconds from process start until the validation accuracy passes a mark; test accuracy of the run's best weights.

The networks are trained in turns, each run in a process of its own, and ratios are of the same seed.
"""

import argparse
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.accuracy import fit
from benchmarks.results import Panel, draw_lines, write
from intff_lightning.reproduce.options import count

HELP = "seconds from process start until the validation accuracy passes a mark, against backpropagation"

CONFIGS = ["configs/mnist_fast.yaml", "configs/mnist_fast_bp.yaml"]
AUTHOR_SECONDS = 7000  # of the author's code for the same network, two cores of the same kind, 100 outer epochs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--configs", nargs="+", default=CONFIGS, metavar="CONFIG", help="config files or names; ratios are to the last"
    )
    parser.add_argument("--seeds", type=count, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--mark", type=float, default=98.0, help="validation accuracy in percent (default: 98)")


def main(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for seed in range(arguments.seeds):
        for config in arguments.configs[:: 1 if seed % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                metrics, lines = fit(config, seed, Path(folder), arguments.data_dir)
            curve = _curve(lines)
            lines_of = curves.setdefault(Path(config).stem, {})
            lines_of[f"seed {seed}"] = [at for at, _, _ in curve], [found for _, _, found in curve]
            since_start, training = _passed(curve, arguments.mark)
            rows.append(
                {
                    "config": Path(config).stem,
                    "seed": seed,
                    "from process start s": since_start,
                    "training s": training,
                    "best validation accuracy %": max(found for _, _, found in curve),
                    "test accuracy %": 100 * metrics["test/accuracy"],
                }
            )
    rows.sort(key=lambda row: [Path(config).stem for config in arguments.configs].index(row["config"]))
    write("time_to_accuracy", arguments.out, rows, _note(rows, arguments.mark))
    last = max(at[-1] for each in curves.values() for at, _ in each.values())
    mark = [0.0, last], [arguments.mark, arguments.mark]
    panels = [
        Panel(
            config,
            "seconds from process start",
            "validation accuracy (%)",
            {**each, f"{arguments.mark:g} %": mark},
            logarithmic=False,
        )
        for config, each in curves.items()
    ]
    draw_lines(arguments.out / "time_to_accuracy.png", panels)


def _curve(lines: list[tuple[float, str]]) -> list[tuple[float, float, float]]:
    """Return seconds from process start, seconds of the epoch, and validation accuracy in percent, by epoch."""
    found = [(at, re.search(r"val/accuracy ([\d.]+) %\s+([\d.]+) s", line)) for at, line in lines]
    return [(at, float(match[2]), float(match[1])) for at, match in found if match]


def _passed(curve: list[tuple[float, float, float]], mark: float) -> tuple[float, float] | tuple[str, str]:
    """Return seconds from process start, and those of all epochs, until the mark is passed."""
    training = 0.0
    for at, seconds, found in curve:
        training += seconds
        if found >= mark:
            return at, training
    return "never", "never"


def _note(rows: list[dict[str, Any]], mark: float) -> str:
    """Say what the means are, and the median of the ratios of the same seed."""
    configs = list(dict.fromkeys(row["config"] for row in rows))
    times = {config: [row for row in rows if row["config"] == config] for config in configs}
    note = f"Until {mark:g} % validation accuracy, validation of every epoch included."
    for config, mine in times.items():
        if all(row["training s"] != "never" for row in mine):
            mean = statistics.fmean(row["from process start s"] for row in mine)
            note += f" {config}: {mean:.1f} s from process start, on average."
    *others, last = configs
    for config in others:
        pairs = list(zip(times[config], times[last], strict=True))
        for name, where in (("from process start s", "From process start"), ("training s", "In training")):
            if all(row[name] != "never" for pair in pairs for row in pair):
                ratio = statistics.median(mine[name] / theirs[name] for mine, theirs in pairs)
                note += f" {where}, {config} takes {ratio:.2f} times as long as {last} (median)."
    return f"{note} The author's code takes about {AUTHOR_SECONDS:,} s for 98.00 %."
