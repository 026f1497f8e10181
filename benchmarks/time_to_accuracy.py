"""Seconds from process start until the validation accuracy passes a mark; test accuracy of the run's best weights."""

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.accuracy import fit
from benchmarks.results import Panel, draw_lines, summary, write

HELP = "seconds from process start until the validation accuracy passes a mark"

AUTHOR_SECONDS = 7000  # of the author's code for the same network, two cores of the same kind, 100 outer epochs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="configs/mnist_fast.yaml")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--mark", type=float, default=98.0, help="validation accuracy in percent (default: 98)")


def main(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            metrics, lines = fit(arguments.config, seed, Path(folder), arguments.data_dir)
        curve = [(at, float(m.group(1))) for at, line in lines if (m := re.search(r"val/accuracy ([\d.]+) %", line))]
        passed = next((at for at, accuracy in curve if accuracy >= arguments.mark), None)
        curves[f"seed {seed}"] = [at for at, _ in curve], [accuracy for _, accuracy in curve]
        rows.append(
            {
                "seed": seed,
                f"seconds to {arguments.mark:g} % validation accuracy": "never" if passed is None else round(passed, 1),
                "best validation accuracy %": max(accuracy for _, accuracy in curve),
                "test accuracy %": 100 * metrics["test/accuracy"],
            }
        )
    times = [list(row.values())[1] for row in rows]
    note = f"`{arguments.config}`, from process start, validation of every epoch included."
    if "never" not in times:
        mean = summary(times)["mean"]
        note += (
            f" Mean {mean:.1f} s; the author's code: about {AUTHOR_SECONDS} s, {AUTHOR_SECONDS / mean:.0f} times that."
        )
    write("time_to_accuracy", arguments.out, rows, note)
    curves["mark"] = [0.0, max(max(at) for at, _ in curves.values())], [arguments.mark, arguments.mark]
    panel = Panel(arguments.config, "seconds from process start", "validation accuracy (%)", curves, logarithmic=False)
    draw_lines(arguments.out / "time_to_accuracy.png", [panel])
