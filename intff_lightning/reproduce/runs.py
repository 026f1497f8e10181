"""Trainings that resume: one row with one seed, trained, tested, and never trained twice."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from intff_lightning.callbacks import BestCheckpoint, GoodnessAccuracy, GoodnessLogger, LastCheckpoint
from intff_lightning.checkpoints import AtomicCheckpointIO
from intff_lightning.datamodules import PairedDataModule
from intff_lightning.files import atomic_write
from intff_lightning.network import Network
from intff_lightning.recipe import to_recipe
from intff_lightning.reproduce.configs import lean
from intff_lightning.reproduce.procedures import make_procedure
from intff_lightning.reproduce.rounds import RoundRecord
from intff_lightning.reproduce.rows import AUTHOR, Row


class _History(Callback):
    """Keeps the metrics and seconds of every epoch, also in the checkpoint, and reports progress.

    Args:
        say: Prints one line; it is called at most once per ``interval``.
        interval: Time between two lines, in seconds.
    """

    def __init__(self, say: Callable[[str], None], interval: float = 10.0) -> None:
        self.say, self.interval = say, interval
        self.epochs: list[dict[str, float]] = []
        self._begun = self._said = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begun = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.epochs.append({**metrics, "seconds": now - self._begun})
        left = (trainer.max_epochs or 0) - len(self.epochs)
        if now - self._said > self.interval:
            self._said = now
            accuracy = f", validation {100 * metrics['val/accuracy']:.2f} %" if "val/accuracy" in metrics else ""
            wait = left * self.epochs[-1]["seconds"]
            self.say(f"epoch {len(self.epochs)} of {trainer.max_epochs}{accuracy}, about {wait:.0f} s left")

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = list(state_dict["epochs"])


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A training that has come to its end.

    Args:
        trainer: Its Trainer.
        checkpoint: The weights that were best on validation data; the last ones if there was no validation.
        epochs: The metrics and seconds of each epoch.
    """

    trainer: L.Trainer
    checkpoint: Path
    epochs: list[dict[str, float]]

    def record(self) -> dict[str, Any]:
        """Return what results tell of a training: ``seconds``, ``threads``, ``device`` and ``history``."""
        return {
            "seconds": sum(epoch["seconds"] for epoch in self.epochs),
            "threads": torch.get_num_threads(),
            "device": str(self.trainer.strategy.root_device.type),
            "history": self.epochs,
        }


def open_run(folder: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a run, if it is finished, and prepare its folder.

    Args:
        folder: The run's own folder. It is emptied if it holds a run of another recipe.
        recipe: How the network is trained, in plain values.
    """
    if _read(folder / "recipe.json") != recipe:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(folder / "recipe.json", recipe)
    result: dict[str, Any] | None = _read(folder / "result.json")
    return result


def close_run(folder: Path, result: dict[str, Any], keep: Sequence[str] = ()) -> None:
    """Write the result of a run, which finishes it, and remove its checkpoints except those of these names."""
    _write(folder / "result.json", result)
    for checkpoint in folder.glob("*.ckpt"):
        if checkpoint.name not in keep:
            checkpoint.unlink()


def fit(
    module: Network,
    data: PairedDataModule,
    epochs: int,
    folder: Path,
    say: Callable[[str], None],
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Fitted:
    """Train a network, from the last epoch of a training that was interrupted in this folder.

    Args:
        module: The network.
        data: Its datamodule.
        epochs: Number of training epochs.
        folder: Folder of the checkpoints.
        say: Prints one line of progress.
        callbacks: Further callbacks.
        **options: Further arguments of the Trainer.
    """
    history, best, last = _History(say), BestCheckpoint(), LastCheckpoint()
    last.dirpath = best.dirpath = str(folder)
    trainer = L.Trainer(
        max_epochs=epochs,
        # the further ones come after the history, whose seconds are those of the training
        callbacks=[GoodnessLogger(auroc_values=0), GoodnessAccuracy(), history, *callbacks, best, last],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    resumable = folder / "last.ckpt"
    trainer.fit(module, data, ckpt_path=str(resumable) if resumable.is_file() else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    # a list of its own: a test loads the callbacks' state at the best epoch
    return Fitted(trainer, Path(best.best_model_path or resumable), list(history.epochs))


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed.

    Args:
        row: Row of a table.
        procedure: One of :data:`~intff_lightning.reproduce.rows.PROCEDURES`.
        seed: Seed of weights, order, negatives, augmentation and corruption.
        quick: Train a few steps on a few images, to see the shape of the result.
    """

    row: Row
    procedure: str
    seed: int
    quick: bool = False

    @property
    def name(self) -> str:
        """Name of the run's folder; a run that two tables share has only one."""
        row = self.row
        corruption = "clean" if row.corruption == "clean" else f"{row.corruption}_{row.rate:g}"
        network = row.network.replace("(", "[").replace(")", "]")  # a shell would want those quoted
        network = network.replace(" | ", "-").replace(" ", "-")
        return "_".join([row.algorithm, network, corruption, self.procedure, f"seed{self.seed}"])

    def result(self, data_dir: str, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
        """Train and test the network, or read what an earlier call has written.

        A run that was interrupted resumes from its last epoch. A run whose recipe has changed since starts anew.

        Args:
            data_dir: Folder of MNIST.
            folder: Folder of all runs; this one's is ``folder / name``.
            say: Prints one line of progress.

        Returns:
            ``test_accuracy`` (percent), ``unit_accuracy`` (of each unit alone, percent), ``parameters``, ``epochs``,
            ``passes`` (over the training set, of each unit), ``seconds`` (of training, validation included),
            ``history`` (the metrics of each epoch) and, by the author's procedures, ``rounds`` (the record of
            :class:`~intff_lightning.reproduce.rounds.RoundRecord`, which is in ``rounds.csv`` while the run trains).
        """
        L.seed_everything(self.seed, verbose=False)
        made = make_procedure(self.row, self.procedure, self.seed, data_dir, self.quick)
        # without arguments that are None: a new option of the package must not start finished runs anew
        plain = {"module": lean(to_recipe(made.module)), "data": lean(to_recipe(made.data)), "epochs": made.epochs}
        plain["data"]["init_args"].pop("data_dir")  # a moved folder must not start runs anew
        recorded = self.procedure in AUTHOR
        if recorded:
            plain["record"] = "rounds"  # a run without it starts anew
        folder = folder / self.name
        earlier = open_run(folder, plain)
        if earlier is not None:
            return earlier
        rounds = RoundRecord(folder / "rounds.csv", made.data)
        tested = {"limit_test_batches": 2 if self.quick else None}
        fitted = fit(made.module, made.data, made.epochs, folder, say, [rounds] if recorded else [], **tested)
        record = list(rounds.rounds)  # as in `fit`
        (metrics,) = fitted.trainer.test(
            made.module, datamodule=made.data, ckpt_path=str(fitted.checkpoint), verbose=False
        )
        units = [name for name in metrics if name.startswith("test/accuracy/unit_")]
        written = {
            "test_accuracy": 100 * metrics["test/accuracy"],
            "unit_accuracy": [100 * metrics[f"test/accuracy/unit_{k}"] for k in range(len(units))],
            "parameters": sum(parameter.numel() for parameter in made.module.parameters()),
            "epochs": made.epochs,
            "passes": made.passes,
            **fitted.record(),
            "quick": self.quick,
            **({"rounds": record} if recorded else {}),
        }
        close_run(folder, written)
        return written


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _write(path: Path, value: Any) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")
