"""Runs that are stopped at random moments and restarted with the same command line, against a run that is not stopped.

A run is stopped once, by SIGKILL, SIGTERM or SIGINT (Ctrl-C), while it trains, accumulates gradients, validates or
tests. The signal arrives some milliseconds after a batch that is drawn at random.
"""

import argparse
import concurrent.futures
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch

from intff_lightning.reproduce.options import count

HELP = "runs stopped at random moments and restarted, against a run that was not stopped"

ROOT = Path(__file__).parents[1]
# random activations, so that the random generators matter; checkpoints by step, so that SIGKILL leaves some in an epoch
CONFIG = """
seed_everything: 0
trainer: {max_epochs: 4, accelerator: cpu, enable_progress_bar: false, accumulate_grad_batches: 2, callbacks: [
  {class_path: intff_lightning.callbacks.LastCheckpoint, init_args: {every_n_train_steps: 7}},
  {class_path: benchmarks.resume.SignalAtRandom}]}
model:
  class_path: IntFFModule
  init_args:
    units:
      - {class_path: DenseUnit, init_args: {widths: [40, 30], activation: RReLU}}
      - {class_path: DenseUnit, init_args: {widths: [20], activation: RReLU}}
    scheduler: CosineDecay
data: {class_path: DigitsDataModule, init_args: {batch_size: 32, augmentation: {class_path: RandomShift}}}
"""
MOMENT = "INTFF_BENCHMARK_MOMENT"
STAGES = {"train": 40, "accumulate": 39, "validate": 5, "test": 11}  # batches per epoch, or in all
ENDS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "SIGINT": 130}


class SignalAtRandom(L.Callback):
    """Sends its own process the signal that the environment asks for: "NAME STAGE EPOCH BATCH MILLISECONDS"."""

    def __init__(self) -> None:
        self.moment = os.environ.get(MOMENT, "").split()

    def _reached(self, trainer: L.Trainer, stages: tuple[str, ...], batch_idx: int) -> None:
        if not self.moment or trainer.sanity_checking:
            return
        name, stage, epoch, batch, milliseconds = self.moment
        if stage in stages and batch_idx == int(batch) and trainer.current_epoch == int(epoch):
            self.moment = []
            number = signal.Signals[name]
            threading.Timer(float(milliseconds) / 1000, os.kill, (os.getpid(), number)).start()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._reached(trainer, ("train", "accumulate"), batch_idx)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._reached(trainer, ("validate",), batch_idx)

    def on_test_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        self._reached(trainer, ("test",), batch_idx)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=count, default=20, help="number of runs per signal (default: 20)")


def main(arguments: argparse.Namespace) -> None:
    from benchmarks.results import write  # a process that fits needs only the callback of this file

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs that ignore it
    dice = random.Random(0)
    moments = []
    for name in ENDS:
        for number in range(arguments.runs):
            stage = list(STAGES)[number % len(STAGES)]
            batch = dice.randrange(STAGES[stage])
            if stage == "accumulate":
                batch -= batch % 2  # the first of two
            epoch = 4 if stage == "test" else dice.randrange(4)
            moments.append(f"{name} {stage} {epoch} {batch} {dice.uniform(0, 6):.2f}")
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG)
        expected = _finish(config, Path(folder) / "whole", None)
        futures = [pool.submit(_finish, config, Path(folder) / f"run_{n}", m) for n, m in enumerate(moments)]
        rows: list[dict[str, Any]] = []
        for moment, future in zip(moments, futures, strict=True):
            run = future.result()
            name, stage, epoch, batch, milliseconds = moment.split()
            rows.append({"signal": name, "stage": stage, "epoch": epoch, "batch": batch, "ms": milliseconds})
            rows[-1] |= {"exit code": run["code"], "from step": run["step"]}
            parts = [part for part, state in run["state"].items() if not same(state, expected["state"][part])]
            rows[-1]["differs in"] = ", ".join(parts) or "nothing"
            print(moment, *parts, flush=True)
    same = sum(row["differs in"] == "nothing" for row in rows)
    note = (
        f"{same} of {len(rows)} runs are identical to the run that was not stopped: weights, optimizers, every row "
        "of metrics.csv, the best checkpoint, the table that is printed at the end. Each process was stopped once, the "
        "given time after the batch had begun, and started again with the same command line (`--ckpt_path last`). An "
        "exit code 0 means that the run ended before the signal arrived; a resumed step 0, that it began anew."
    )
    write("resume", arguments.out, rows, note)


def _finish(config: Path, root: Path, moment: str | None) -> dict[str, Any]:
    """Train and test to the end, stopped once at a moment."""
    fit = [sys.executable, "-m", "intff_lightning", "fit", "--config", str(config), "--ckpt_path", "last"]
    fit += ["--trainer.default_root_dir", str(root)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = 0
    if moment is not None:
        stopped = subprocess.run(fit, env={**one_thread, MOMENT: moment}, cwd=ROOT, capture_output=True, text=True)
        code, expected = stopped.returncode, ENDS[moment.split()[0]]
        if code not in (0, expected):
            raise SystemExit(f"{moment}: exit code {code} instead of {expected}\n{stopped.stdout}\n{stopped.stderr}")
    ended = subprocess.run(fit, env=one_thread, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"{moment}: the run did not resume\n{ended.stdout}\n{ended.stderr}")
    found = re.search(r"^resuming from .*, step (\d+)", ended.stdout, re.MULTILINE)
    table = re.sub(r"\S*lightning_logs\S*", "", ended.stdout[ended.stdout.index("Test") :])
    return {"code": code, "step": int(found[1]) if found else 0, "state": {**final_state(root), "table": table}}


def final_state(root: Path) -> dict[str, Any]:
    """Return what a run has left in its folder: weights, optimizer states, metrics and the best checkpoint."""
    (last,) = root.glob("lightning_logs/version_*/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    best = torch.load(last.with_name("best.ckpt"), weights_only=True)
    return {
        "weights": checkpoint["state_dict"],
        "optimizers": checkpoint["optimizer_states"],
        "metrics.csv": last.parents[1].joinpath("metrics.csv").read_text(),
        "best.ckpt": (best["global_step"], best["state_dict"]),
    }


def same(a: Any, b: Any) -> bool:
    """Tell whether two states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
