"""EvaluationCallback: validation and test through one set of hooks."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from intff_lightning.errors import ConfigurationError


class EvaluationCallback(Callback):
    """Base of callbacks that treat validation and test alike: override the ``on_evaluation`` hooks that you need.

    ``stage`` is ``val`` or ``test``, the first part of the names of metrics.
    """

    def on_evaluation_start(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Prepare for the batches of an evaluation."""

    def on_evaluation_batch(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any) -> None:
        """Take one batch, and what the module's step returned for it."""

    def on_evaluation_end(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Finish an evaluation; metrics may be logged here."""

    def log_reduced(self, module: L.LightningModule, values: Mapping[str, float], prog_bar: bool = False) -> None:
        """Log values that are equal on all processes: their maximum is exact, and Lightning does not warn."""
        module.log_dict(values, prog_bar=prog_bar, batch_size=1, sync_dist=True, reduce_fx="max")

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _one_loader(trainer.num_val_batches)
        self.on_evaluation_start(trainer, pl_module, "val")

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.on_evaluation_batch(trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_evaluation_end(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _one_loader(trainer.num_test_batches)
        self.on_evaluation_start(trainer, pl_module, "test")

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.on_evaluation_batch(trainer, pl_module, outputs, batch)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_evaluation_end(trainer, pl_module, "test")


def _one_loader(batches: Sequence[int | float]) -> None:
    if len(batches) > 1:
        raise ConfigurationError(
            f"there are {len(batches)} dataloaders for an evaluation, and its metrics need one:\n"
            "join their data sets by torch.utils.data.ConcatDataset, or evaluate one at a time."
        )
