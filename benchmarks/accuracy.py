"""Test accuracy of a config over seeds, by goodness-argmax, and the time that training took.

For a network that is trained without labels, it is the accuracy of the linear probe. A network that averages views of
an image is also tested on one view. Every seed has a folder in ``OUT/logs``; the same command continues seeds that were
stopped, and reads those that are done.
"""

import argparse
import concurrent.futures
import csv
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.results import summary, write
from intff_lightning.checkpoints import read_checkpoint
from intff_lightning.cli.configs import find_config
from intff_lightning.reproduce.options import count

HELP = "test accuracy of a config over seeds"

Lines = list[tuple[float, str]]
"""Printed lines with the seconds since the start of the process."""


def fit(config: str, seed: int, folder: Path, data_dir: str, *options: str) -> tuple[dict[str, float], Lines]:
    """Run ``fit`` in its own process; see :func:`run`."""
    where = data_options(config, data_dir)
    return run(["fit", "--config", config, "--seed_everything", str(seed), *options, *where], folder)


def data_options(config: str, data_dir: str) -> list[str]:
    """Return the option that names the folder of the data, or none if the data of the config have no folder."""
    data = yaml.safe_load(find_config(config).read_text())["data"]["class_path"]
    module, _, name = data.rpartition(".")
    kind = getattr(importlib.import_module(module or "intff_lightning.datamodules"), name)
    return ["--data.data_dir", data_dir] if "data_dir" in inspect.signature(kind).parameters else []


def run(arguments: Sequence[str], folder: Path) -> tuple[dict[str, float], Lines]:
    """Run a command of ``intff`` in its own process, with a folder for its results.

    Returns:
        The last value of every metric, and the lines that were printed, which are also added to ``printed.jsonl``.
    """
    command = [sys.executable, "-m", "intff_lightning", *arguments, "--trainer.default_root_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    start = time.perf_counter()
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "printed.jsonl").open("a") as record,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - start, line.rstrip()))
            record.write(json.dumps(lines[-1]) + "\n")
            record.flush()
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    (table,) = folder.rglob("metrics.csv")
    metrics: dict[str, float] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            metrics.update({name: float(value) for name, value in row.items() if value})
    return metrics, lines


def training_seconds(printed: Path) -> float:
    """Return the seconds of all epochs, validation included, whatever number of processes it took to train them.

    Of an epoch that was stopped in the middle and resumed there, the seconds before the stop are lost.
    """
    found = {}
    for line in printed.read_text().splitlines():
        match = re.match(r"epoch +(\d+)/.* ([\d.]+) s$", json.loads(line)[1])
        if match:
            found[int(match[1])] = float(match[2])
    return sum(found.values())


def measure(config: str, seed: int, folder: Path, data_dir: str, options: Sequence[str]) -> dict[str, Any]:
    """Train, or continue to train, and test a config with a seed; returns a row of the table."""
    done = folder / "row.json"
    where = [str(Path(name).resolve()) for name in data_options(config, data_dir)[1:]]
    settings = "\n".join([find_config(config).read_text(), *options])
    if done.is_file():
        found = json.loads(done.read_text())
        if found["config"] != settings:
            raise SystemExit(
                f"{folder} is of another version of {config}, or of other options: remove it, or name another folder, "
                "--out."
            )
        if found.get("data_dir", where) != where:  # older files lack it
            raise SystemExit(
                f"{folder} is of the data in {' '.join(found['data_dir'])}, and not of {' '.join(where)}: remove it, "
                "or name another folder, --out."
            )
        row: dict[str, Any] = found["row"]
        return row
    metrics, _ = fit(config, seed, folder, data_dir, *options, "--ckpt_path", "last")
    tested = "test/accuracy" if "test/accuracy" in metrics else "test/probe_accuracy"
    (weights,) = folder.rglob("last.ckpt")
    checkpoint = read_checkpoint(weights)
    row = {
        "seed": seed,
        "test accuracy %": 100 * metrics[tested],
        "units alone %": " / ".join(
            f"{100 * metrics[name]:.2f}" for name in sorted(metrics) if name.startswith("test/accuracy/unit_")
        ),
        "training s": training_seconds(folder / "printed.jsonl"),
        "parameters": sum(
            value.numel()
            for name, value in checkpoint["state_dict"].items()
            if value.is_floating_point() and "running_" not in name  # the statistics of batch norm
        ),
    }
    if checkpoint["hyper_parameters"].get("views"):
        row["one view %"] = 100 * one_view(folder)[tested]
    done.write_text(json.dumps({"config": settings, "data_dir": where, "row": row}, indent=1) + "\n")
    return row


def one_view(folder: Path) -> dict[str, float]:
    """Test the best checkpoint of a run without its views; returns the metrics."""
    (best,) = folder.rglob("best.ckpt")
    with tempfile.TemporaryDirectory() as scratch:
        return run(["test", "--ckpt_path", str(best), "--model.views", "null"], Path(scratch))[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file, or the name of a packaged one")
    parser.add_argument("--seeds", type=count, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--jobs", type=count, default=1, help="seeds at a time, each on its share of the cores")
    parser.add_argument("options", nargs="*", help="further options of `intff fit`, after --")


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // arguments.jobs))
    logs = arguments.out / "logs" / Path(arguments.config).stem
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        seeds = [
            pool.submit(measure, arguments.config, seed, logs / str(seed), arguments.data_dir, arguments.options)
            for seed in range(arguments.seeds)
        ]
        rows = [seed.result() for seed in seeds]
    accuracy = summary([row["test accuracy %"] for row in rows])
    seconds = summary([row["training s"] for row in rows])
    note = (
        f"`{arguments.config}`, {len(rows)} seeds: test accuracy {accuracy['mean']:.2f} ± {accuracy['std']:.2f} % "
        f"(lowest {accuracy['min']:.2f}), training {seconds['mean']:.1f} s (validation included)."
    )
    if "one view %" in rows[0]:
        alone = summary([row["one view %"] for row in rows])
        note += f" On one view of an image: {alone['mean']:.2f} ± {alone['std']:.2f} %."
    write(f"accuracy_{Path(arguments.config).stem}", arguments.out, rows, note)
