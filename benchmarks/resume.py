"""Runs that are killed (SIGKILL) at random moments and resumed until they end, against a run that is not killed."""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import write

# random activations, so that the random generators matter; a checkpoint every 7 steps, so that most resume in an epoch
CONFIG = """
seed_everything: 0
trainer: {max_epochs: 30, accelerator: cpu, enable_progress_bar: false, callbacks: [
  {class_path: intff_lightning.callbacks.LastCheckpoint, init_args: {every_n_train_steps: 7}}]}
model:
  class_path: IntFFModule
  init_args:
    units:
      - {class_path: DenseUnit, init_args: {widths: [40, 30], activation: RReLU}}
      - {class_path: DenseUnit, init_args: {widths: [20], activation: RReLU}}
    scheduler: CosineDecay
data: {class_path: DigitsDataModule, init_args: {batch_size: 64, augmentation: {class_path: RandomShift}}}
"""


HELP = "runs killed at random moments and resumed, against a run that was not killed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=30, help="number of runs (default: 30)")


def main(arguments: argparse.Namespace) -> None:
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG)
        expected = _finish(config, Path(folder) / "whole", kills=[])
        seconds = sum(float(found) for found in re.findall(r"^epoch.* ([\d.]+) s$", expected["log"], re.MULTILINE))
        rows: list[dict[str, Any]] = []
        for number in range(arguments.runs):
            kills = [dice.uniform(0, 0.7) * seconds for _ in range(dice.randint(1, 3))]
            run = _finish(config, Path(folder) / f"run_{number}", kills)
            rows.append({"run": number, **{name: run[name] for name in run if name not in ("state", "log")}})
            for name in ("weights", "optimizers", "metrics.csv", "best.ckpt"):
                rows[-1][name] = "identical" if _equal(run["state"][name], expected["state"][name]) else "DIFFERENT"
            print(rows[-1], flush=True)
    same = sum("DIFFERENT" not in row.values() for row in rows)
    note = (
        f"{same} of {len(rows)} runs are identical to the run that was not killed ({seconds:.1f} s of training, 570 "
        "steps): weights, optimizer states, every row of metrics.csv, the best checkpoint. Each was killed one to "
        "three times, the given number of seconds after it had shown an epoch, and resumed by `fit --ckpt_path last`."
    )
    write("resume", arguments.out, rows, note)


def _finish(config: Path, root: Path, kills: list[float]) -> dict[str, Any]:
    """Train to the end; each of ``kills`` is the time between the first epoch shown and a kill, in seconds."""
    fit = [sys.executable, "-m", "intff_lightning", "fit", "--config", str(config), "--ckpt_path", "last"]
    fit += ["--trainer.default_root_dir", str(root)]
    log = root.with_suffix(".log")
    steps, unreadable = [], 0
    with log.open("w") as out:
        for after in kills:
            process = subprocess.Popen(fit, stdout=out, stderr=out)
            shown = _epochs(log)
            while process.poll() is None and _epochs(log) == shown:  # wait for the first epoch
                time.sleep(0.01)
            time.sleep(after)
            process.kill()
            process.wait()
            for path in root.glob("lightning_logs/version_*/checkpoints/*.ckpt"):
                try:
                    step = torch.load(path, weights_only=True)["global_step"]
                except Exception:  # torch raises anything for a damaged file
                    unreadable += 1
                else:
                    steps += [step] if path.name == "last.ckpt" else []
        subprocess.run(fit, stdout=out, stderr=out, check=True)
    (last,) = root.glob("lightning_logs/version_*/checkpoints/last.ckpt")
    ended = torch.load(last, weights_only=True)
    best = torch.load(last.with_name("best.ckpt"), weights_only=True)
    state = {
        "weights": ended["state_dict"],
        "optimizers": ended["optimizer_states"],
        "metrics.csv": last.parents[1].joinpath("metrics.csv").read_text(),
        "best.ckpt": (best["global_step"], best["state_dict"]),
    }
    shown = log.read_text()
    return {"killed after s": " ".join(f"{k:.1f}" for k in kills), "resumed from step": " ".join(map(str, steps)),
            "unreadable files": unreadable, "state": state, "log": shown}  # fmt: skip


def _epochs(log: Path) -> int:
    return log.read_text().count("\nepoch ")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
