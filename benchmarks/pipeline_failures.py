"""Stages of a pipeline that are killed at random moments: all processes must end, and the run resumes to the same bits.

Each round trains a network of four units by the command line, in a pipeline. One process, drawn at random, gets SIGKILL
some milliseconds after a batch that is drawn at random, in training or validation. Then the run is resumed by
``--ckpt_path last``, in another number of stages, and compared with a run of one process that was not killed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L

from intff_lightning.reproduce.options import count

HELP = "stages killed at random moments: seconds until all processes end, messages, and the resumed run's bits"

ROOT = Path(__file__).parents[1]
# checkpoints by step, so that SIGKILL leaves some in an epoch
CONFIG = """
seed_everything: 0
trainer: {max_epochs: 3, accelerator: cpu, enable_progress_bar: false, callbacks: [
  {class_path: intff_lightning.callbacks.LastCheckpoint, init_args: {every_n_train_steps: 7}},
  {class_path: benchmarks.pipeline_failures.KillAtRandom}]}
model:
  class_path: IntFFModule
  init_args:
    units: [{class_path: DenseUnit, init_args: {widths: [30]}}, {class_path: DenseUnit, init_args: {widths: [25]}},
            {class_path: DenseUnit, init_args: {widths: [20]}}, {class_path: DenseUnit, init_args: {widths: [15]}}]
    scheduler: CosineDecay
data: {class_path: DigitsDataModule, init_args: {batch_size: 32, augmentation: {class_path: RandomShift}}}
"""
MOMENT, PIDS = "INTFF_BENCHMARK_MOMENT", "INTFF_BENCHMARK_PIDS"
BATCHES = {"train": 40, "validate": 5}  # per epoch


class KillAtRandom(L.Callback):
    """Kills its own process at the moment that the environment asks for: "RANK PART EPOCH BATCH MILLISECONDS"."""

    def __init__(self) -> None:
        self.moment = os.environ.get(MOMENT, "").split()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.moment:
            (Path(os.environ[PIDS]) / str(trainer.global_rank)).write_text(str(os.getpid()))

    def _reached(self, trainer: L.Trainer, part: str, batch_idx: int) -> None:
        if not self.moment or trainer.sanity_checking:
            return
        rank, mine, epoch, batch, milliseconds = self.moment
        if (trainer.global_rank, part, trainer.current_epoch, batch_idx) == (int(rank), mine, int(epoch), int(batch)):
            self.moment = []
            (Path(os.environ[PIDS]) / "killed").touch()
            threading.Timer(float(milliseconds) / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._reached(trainer, "train", batch_idx)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._reached(trainer, "validate", batch_idx)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=count, default=20, help="number of runs (default: 20)")


def main(arguments: argparse.Namespace) -> None:
    from benchmarks.results import write  # a process that fits needs only the callback of this file
    from benchmarks.resume import final_state, same

    dice, rows = random.Random(0), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "config.yaml"
        config.write_text(CONFIG)
        _finish(config, folder / "whole", 1)
        expected = final_state(folder / "whole")
        for number in range(arguments.runs):
            stages = 2 + number % 3
            part = "validate" if number % 4 == 3 else "train"
            rank, epoch, batch = number // 3 % stages, dice.randrange(3), dice.randrange(BATCHES[part])
            moment = f"{rank} {part} {epoch} {batch} {dice.uniform(0, 6):.2f}"
            row = {"stages": stages, "killed": f"stage {stages - 1 - rank}", "in": part, "epoch": epoch, "batch": batch}
            row |= _kill(config, folder / f"run_{number}", stages, moment)
            row["resumed on"] = 1 + (stages + number // 4) % 4
            _finish(config, folder / f"run_{number}", row["resumed on"])
            found = final_state(folder / f"run_{number}")
            row["differs in"] = ", ".join(part for part in found if not same(found[part], expected[part])) or "nothing"
            rows.append(row)
            print(*row.values(), flush=True)
    good = sum(row["differs in"] == "nothing" and row["seconds to end"] < 30 and row["messages"] == 1 for row in rows)
    note = (
        f"{good} of {len(rows)} runs ended within 30 s with one message, left no process, and were resumed to the "
        "weights, optimizer states, metrics and best checkpoint of one process that was not killed."
    )
    write("pipeline_failures", arguments.out, rows, note)


def _command(config: Path, root: Path, stages: int) -> list[str]:
    fit = [sys.executable, "-m", "intff_lightning", "fit", "--config", str(config), "--ckpt_path", "last"]
    fit += ["--trainer.default_root_dir", str(root), "--trainer.devices", str(stages)]
    return [*fit, *(["--trainer.strategy", "unit_pipeline"] if stages > 1 else [])]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def _finish(config: Path, root: Path, stages: int) -> None:
    done = subprocess.run(_command(config, root, stages), env=_environment(), cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the run did not resume on {stages} stages\n{done.stdout}\n{done.stderr}")


def _kill(config: Path, root: Path, stages: int, moment: str) -> dict[str, Any]:
    """Train until a process is killed; returns how it ended."""
    pids = root / "pids"
    pids.mkdir(parents=True)
    environment = _environment(**{MOMENT: moment, PIDS: str(pids)})
    with (root / "stderr").open("w+") as errors:
        command = _command(config, root, stages)
        run = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        while not (pids / "killed").exists():
            if run.poll() is not None:
                raise SystemExit(f"{moment}: the run ended too early\n{(root / 'stderr').read_text()}")
            time.sleep(0.01)
        since = time.monotonic()
        while any(_lives(int(file.read_text())) for file in pids.glob("[0-9]*")) and time.monotonic() - since < 60:
            run.poll()  # so that a killed child is no zombie
            time.sleep(0.05)
        seconds = time.monotonic() - since
        run.wait(60)
    text = (root / "stderr").read_text()
    return {"seconds to end": seconds, "exit code": run.returncode, "messages": text.count("error:")}


def _lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
