"""Seconds from process start until the validation accuracy passes a mark; test accuracy of the run's best weights."""

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.accuracy import fit
from benchmarks.results import summary, write

AUTHOR_SECONDS = 7000  # of the author's code for the same network, two cores of the same kind, 100 outer epochs


def main(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            metrics, lines = fit(arguments.config, seed, Path(folder), arguments.data_dir)
        passed = None
        for at, line in lines:
            found = re.search(r"val/accuracy ([\d.]+) %", line)
            if found and float(found.group(1)) >= arguments.mark and passed is None:
                passed = at
        rows.append(
            {
                "seed": seed,
                f"seconds to {arguments.mark:g} % validation accuracy": "never" if passed is None else round(passed, 1),
                "best validation accuracy %": max(
                    float(found.group(1)) for _, line in lines if (found := re.search(r"val/accuracy ([\d.]+) %", line))
                ),
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
