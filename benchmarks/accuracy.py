"""Test accuracy of a config over seeds, by goodness-argmax, and the time that training took.

For a network that is trained without labels, it is the accuracy of the linear probe.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import summary, write

HELP = "test accuracy of a config over seeds"


def fit(
    config: str, seed: int, folder: Path, data_dir: str, *options: str
) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Run ``fit`` in its own process; see :func:`run`."""
    where = [] if "digits" in config else ["--data.data_dir", data_dir]
    return run(["fit", "--config", config, "--seed_everything", str(seed), *options, *where], folder)


def run(arguments: Sequence[str], folder: Path) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Run a command of ``intff`` in its own process, with an empty folder for its results.

    Returns:
        The last value of every metric, and the printed lines with the seconds since the start.
    """
    command = [sys.executable, "-m", "intff_lightning", *arguments, "--trainer.default_root_dir", str(folder)]
    start = time.perf_counter()
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - start, line.rstrip()))
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    (table,) = folder.rglob("metrics.csv")
    metrics: dict[str, float] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            metrics.update({name: float(value) for name, value in row.items() if value})
    return metrics, lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file, or the name of a packaged one")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")


def main(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        folder = arguments.out / "logs" / Path(arguments.config).stem / str(seed)
        shutil.rmtree(folder, ignore_errors=True)
        metrics, lines = fit(arguments.config, seed, folder, arguments.data_dir)
        epochs = [at for at, line in lines if line.startswith("epoch ")]
        training = [float(line.split()[-2]) for _, line in lines if line.startswith("epoch ")]
        tested = "test/accuracy" if "test/accuracy" in metrics else "test/probe_accuracy"
        rows.append(
            {
                "seed": seed,
                "test accuracy %": 100 * metrics[tested],
                "units alone %": " / ".join(
                    f"{100 * metrics[name]:.2f}" for name in sorted(metrics) if name.startswith("test/accuracy/unit_")
                ),
                "training s": sum(training),
                "from process start s": epochs[-1],
            }
        )
    accuracy = summary([row["test accuracy %"] for row in rows])
    seconds = summary([row["training s"] for row in rows])
    note = (
        f"`{arguments.config}`, {len(rows)} seeds: test accuracy {accuracy['mean']:.2f} ± {accuracy['std']:.2f} % "
        f"(lowest {accuracy['min']:.2f}), training {seconds['mean']:.1f} s (validation included)."
    )
    write(f"accuracy_{Path(arguments.config).stem}", arguments.out, rows, note)
