"""Runs that are started at the same moment in one folder, each with a seed of its own, against the same runs alone.

Each round starts two or three processes in a new folder, and then starts them again with the same command lines and one
epoch more, which resumes each run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from intff_lightning.reproduce.options import count

HELP = "runs started at the same moment in one folder, against the same runs alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=count, default=20, help="number of rounds (default: 20)")


def main(arguments: argparse.Namespace) -> None:
    from benchmarks.results import write

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        alone = {seed: _weights(_start([seed], Path(folder) / f"alone_{seed}"), seed) for seed in range(3)}
        for number in range(arguments.rounds):
            seeds = list(range(2 + number % 2))
            root = _start(seeds, Path(folder) / f"round_{number}")
            runs = sorted(path.name for path in (root / "lightning_logs").iterdir())
            apart = len(runs) == len(seeds) and all(
                all(torch.equal(weight, alone[seed][name]) for name, weight in _weights(root, seed).items())
                for seed in seeds
            )
            rows.append({"round": number, "runs": len(seeds), "folders": " ".join(runs), "equal": apart})
            print(rows[-1], flush=True)
    apart = sum(row["equal"] for row in rows)
    note = (
        f"{apart} of {len(rows)} rounds stay apart: each run has a folder of its own, in which its configuration, the "
        "rows of its table and the weights of its last checkpoint are those of the run alone. Each run was started "
        "twice by the same command line (`--ckpt_path last`), the second time with one epoch more."
    )
    write("together", arguments.out, rows, note)


def _start(seeds: list[int], root: Path) -> Path:
    """Run all of these seeds side by side in one folder: one epoch, then another."""
    for epochs in ("1", "2"):
        fit = [sys.executable, "-m", "intff_lightning", "fit", "--config", "digits", "--trainer.max_epochs", epochs]
        fit += ["--ckpt_path", "last", "--test_after_fit", "false", "--trainer.default_root_dir", str(root)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen([*fit, "--seed_everything", str(seed)], env=environment, stdout=subprocess.DEVNULL)
            for seed in seeds
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit(f"a run in {root} failed")
    return root


def _weights(root: Path, seed: int) -> dict[str, torch.Tensor]:
    """Return the weights of the run with this seed, if its files are its own and whole."""
    for run in (root / "lightning_logs").iterdir():
        if yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == seed:
            checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
            lines = (run / "metrics.csv").read_text().splitlines()[1:]
            epochs = [line.split(",")[0] for line in lines]  # one line of training and one of validation per epoch
            if checkpoint["training"]["seed"] == seed and epochs == ["0", "0", "1", "1"]:
                weights: dict[str, torch.Tensor] = checkpoint["state_dict"]
                return weights
    raise SystemExit(f"{root} holds no whole run of seed {seed}")
