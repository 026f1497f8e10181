"""GoodnessAccuracy: how well goodness classifies."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from intff_lightning.callbacks.reduced import log_reduced
from intff_lightning.pairs import image_and_target

__all__ = ["GoodnessAccuracy"]


class GoodnessAccuracy(Callback):
    """Accuracy of the label of highest goodness: of the vote, ``val/accuracy``, and of each unit alone.

    Every label is tried on every image (``module.label_goodness(image) -> (U, B, C)``); the units in ``module.vote``
    are summed for the vote, all of them where there is no such attribute. Logs ``val/accuracy`` and
    ``val/accuracy/unit_0`` and so on, and the same under ``test/``. A module without ``label_goodness`` is taken for a
    classifier like any other: its scores are ``module(image) -> (B, C)``. Of a network trained without labels it logs
    nothing.

    Attributes:
        confusion: the last evaluation's counts ``(C, C)`` by stage (``val``, ``test``), rows are true classes.
    """

    def __init__(self) -> None:
        self.confusion: dict[str, Tensor] = {}
        self._counts: Tensor | None = None  # (1 + U, C, C): the vote, then each unit
        self._last: tuple[Any, Tensor | None] = (None, None)

    def scores(self, module: L.LightningModule, batch: Any) -> Tensor | None:
        """Goodness of every label, ``(1 + U, B, C)``: the vote, then each unit; of the last batch it is kept.

        ``None`` for a network that was trained without labels: it knows of no classes.
        """
        if self._last[0] is batch:
            return self._last[1]
        network: Any = module
        scores = None
        if hasattr(network, "label_goodness"):
            if not getattr(network, "unsupervised", False):
                units: Tensor = network.label_goodness(image_and_target(batch)[0])  # (U, B, C)
                vote = units[list(getattr(network, "vote", range(len(units))))].sum(0, keepdim=True)
                scores = torch.cat([vote, units])
        else:
            scores = network(image_and_target(batch)[0]).unsqueeze(0)
        self._last = (batch, scores)
        return scores

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._counts = None

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Forget the last batch's scores: a loader may give the same object again with other contents."""
        self._last = (None, None)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Classify a batch."""
        scores = self.scores(pl_module, batch)
        if scores is None:
            return
        target = image_and_target(batch)[1]
        counts = torch.stack(
            [
                multiclass_confusion_matrix(guess, target, scores.shape[2], validate_args=False)
                for guess in scores.argmax(2)
            ]
        )
        self._counts = counts if self._counts is None else self._counts + counts

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation."""
        self._log(trainer, pl_module, "val")

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the test."""
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self._last = (None, None)
        if self._counts is None:
            return
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum")
        self.confusion[stage] = counts[0].cpu()
        right = counts.diagonal(dim1=1, dim2=2).sum(1) / counts.sum((1, 2))
        vote, *units = right.tolist()
        log_reduced(module, {f"{stage}/accuracy": vote}, prog_bar=True)
        log_reduced(module, {f"{stage}/accuracy/unit_{k}": unit for k, unit in enumerate(units)})
