"""Checkpoint files: written whole or not at all, kept when a run is interrupted."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

__all__ = ["AtomicCheckpointIO", "BestCheckpoint", "LastCheckpoint"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, syncs it to the disk, and renames it.

    Lightning's own goes through a temporary folder that may lie on another file system, where a rename is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save ``checkpoint`` to ``path``; remote paths go Lightning's way."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``: the weights of the highest value of a metric, and of the latest epoch that reached it.

    Accuracy on few validation samples ties often, and of equals the longer trained weights are the better guess.
    """

    state_key = "BestCheckpoint"  # Lightning asks for it at every hook, and its own takes a while to make

    def __init__(self, monitor: str = "val/accuracy") -> None:
        super().__init__(monitor=monitor, mode="max", filename="best")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the metric, where this validation has logged it: a linear probe is not fitted in every one."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Likewise; Lightning chooses one of the two hooks."""
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Whether ``current`` is to be kept; a tie counts."""
        above = None if current is None else torch.nextafter(current, torch.full_like(current, torch.inf))
        return super().check_monitor_top_k(trainer, above)


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: the weights after every epoch, and those of the moment of a Ctrl-C.

    Args:
        every_n_train_steps: keeps those of every so many steps as well.
        train_time_interval: and those of whenever so much time has passed; not both.
    """

    state_key = "LastCheckpoint"

    def __init__(self, every_n_train_steps: int | None = None, train_time_interval: timedelta | None = None) -> None:
        super().__init__(
            filename="last",
            every_n_train_steps=every_n_train_steps,
            train_time_interval=train_time_interval,
            save_on_train_epoch_end=True,
            save_on_exception=True,
        )
        self._epoch_ends = False
        self._row: dict[str, float] = {}

    def _should_skip_saving_checkpoint(self, trainer: L.Trainer) -> bool:
        # from an epoch's last batch a run would go on without the validation and the metrics that end the epoch
        early = bool(trainer.is_last_batch) and not self._epoch_ends
        return early or super()._should_skip_saving_checkpoint(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what the epoch ends with; Lightning's own does not where it saves by steps or time."""
        self._epoch_ends = True
        if not self._should_skip_saving_checkpoint(trainer):
            metrics = trainer._logger_connector.metrics["log"]  # which loggers are given in a moment: see state_dict
            row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
            self._row = {**row, "epoch": trainer.current_epoch, "step": trainer.global_step - 1} if row else {}
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        self._epoch_ends = False

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and the epoch's row of metrics, which a run killed just now would not find in its table."""
        return {**super().state_dict(), "epoch_row": self._row}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save what a Ctrl-C interrupts; after any other exception the weights are not to be trusted."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            super().on_exception(trainer, pl_module, exception)
