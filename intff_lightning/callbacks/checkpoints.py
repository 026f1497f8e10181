"""BestCheckpoint and LastCheckpoint: the two checkpoints that a run keeps."""

from datetime import timedelta
from typing import Any

import lightning as L
import torch
from torch import Tensor

from intff_lightning.lightning_compat import GuardedCheckpoint, logged_metrics


class BestCheckpoint(GuardedCheckpoint):
    """Keeps ``best.ckpt``: the weights with the highest value of a metric, from the latest epoch that reached it.

    Accuracy on few validation samples often ties, and the weights that were trained longer are the better guess.

    Args:
        monitor: Name of the metric.
    """

    state_key = "BestCheckpoint"  # Lightning asks for it at every hook, and its own takes a while to make

    def __init__(self, monitor: str = "val/accuracy") -> None:
        super().__init__(monitor=monitor, mode="max", filename="best")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if this validation logged the metric; not every one fits a linear probe."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Tell whether ``current`` is to be kept; a tie counts."""
        above = None if current is None else torch.nextafter(current, torch.full_like(current, torch.inf))
        return super().check_monitor_top_k(trainer, above)


class LastCheckpoint(GuardedCheckpoint):
    """Keeps ``last.ckpt``: the weights after every epoch, and those at a Ctrl-C.

    Args:
        every_n_train_steps: Also save after every so many steps.
        train_time_interval: Also save whenever so much time has passed; not both.
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

    def may_save(self, trainer: L.Trainer) -> bool:
        # resumed from an epoch's last batch, a run would miss the validation and the metrics that end the epoch
        return self._epoch_ends or not trainer.is_last_batch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after every epoch; Lightning does not if it saves by steps or time."""
        self._epoch_ends = True
        if self.is_due(trainer):
            row = logged_metrics(trainer)  # loggers get them a moment later: see state_dict
            self._row = {**row, "epoch": trainer.current_epoch, "step": trainer.global_step - 1} if row else {}
            self.save_now(trainer)
        self._epoch_ends = False

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state, and the epoch's row of metrics: a run killed now would not find it in its table."""
        return {**super().state_dict(), "epoch_row": self._row}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save at a Ctrl-C. After any other exception the weights cannot be trusted."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            super().on_exception(trainer, pl_module, exception)
