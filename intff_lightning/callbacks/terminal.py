"""TerminalReport: what a person sees on the terminal."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from intff_lightning.network import Network
from intff_lightning.reporting.tables import epoch_text, result_table, unit_table


class TerminalReport(Callback):
    """Prints the units before training, one line per epoch, and the results of a test or a separate validation.

    Args:
        epoch_lines: Print loss, accuracy and seconds of every epoch, for logs and batch systems.
        console: Console of rich; ``None`` is standard output.
    """

    def __init__(self, epoch_lines: bool = True, console: Console | None = None) -> None:
        self.epoch_lines, self.console = epoch_lines, console

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print what is about to be trained."""
        if trainer.is_global_zero and isinstance(pl_module, Network):
            (self.console or Console()).print(unit_table(pl_module, trainer.optimizers))

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._begun, self._validated = time.perf_counter(), False

    def on_train_start(self, *_: Any) -> None:
        self.on_train_epoch_start()  # an epoch resumed in its middle does not start again

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.epoch_lines and trainer.is_global_zero:
            print(epoch_text(trainer, time.perf_counter() - self._begun, self._validated), flush=True)

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
