"""TerminalReport: what a person sees on the terminal."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from intff_lightning.callbacks.pace import Pace
from intff_lightning.network import Network
from intff_lightning.reporting.tables import epoch_name, epoch_text, metric_texts, result_table, unit_table

_MINUTE = 60.0


class TerminalReport(Callback):
    """Prints the units before training, one line per epoch, and the results of a test or a separate validation.

    Args:
        epoch_lines: Print loss, accuracy and seconds of every epoch, for logs and batch systems; within an epoch, print
            a line every minute.
        console: Console of rich; ``None`` is standard output.
    """

    def __init__(self, epoch_lines: bool = True, console: Console | None = None) -> None:
        self.epoch_lines, self.console = epoch_lines, console

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print what is about to be trained."""
        if trainer.is_global_zero and isinstance(pl_module, Network):
            (self.console or Console()).print(unit_table(pl_module, trainer.optimizers))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: an epoch resumed in its middle does not start again."""
        self._pace, self._validated, self._due = Pace(trainer), False, _MINUTE

    def on_train_epoch_start(self, *_: Any) -> None:
        self._pace.begin_epoch()
        self._validated, self._due = False, _MINUTE

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print a line if the last one is a minute ago."""
        if not (self.epoch_lines and trainer.is_global_zero):
            return
        self._pace.count(batch)
        if self._pace.seconds >= self._due:
            self._due = self._pace.seconds + _MINUTE
            batches = trainer.num_training_batches
            place = f"batch {batch_idx + 1}" + (f"/{batches}" if math.isfinite(batches) else "")
            texts = [epoch_name(trainer), place, *metric_texts(trainer, validated=False), *self._pace.texts()]
            print("  ".join(texts), flush=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.epoch_lines and trainer.is_global_zero:
            print(epoch_text(trainer, self._pace.seconds, self._validated), flush=True)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print(trainer, "test")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table of a separate validation."""
        self._validated = True
        if trainer.state.fn != "fit":
            self._print(trainer, "val")

    def _print(self, trainer: L.Trainer, stage: str) -> None:
        if trainer.is_global_zero:
            (self.console or Console()).print(result_table(trainer, stage))
