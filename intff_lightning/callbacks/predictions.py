"""PredictionWriter: predictions as a table that any program reads."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from intff_lightning.files import atomic_write


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv``: index of the sample, its label, and the score of every class.

    The first process writes the whole table at the end, and only then replaces an older one.

    Args:
        path: Path of the table; ``None`` is ``predictions.csv`` in the run's log folder.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.path = None if path is None else Path(path)

    def write_on_epoch_end(
        self, trainer: L.Trainer, pl_module: Any, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Gather the rows of all processes and write them in the order of the samples."""
        if self.path is None:
            self.path = Path(trainer.log_dir or trainer.default_root_dir) / "predictions.csv"
        # Lightning nests indices by loader always, and predictions only if there are several loaders
        nested = predictions if isinstance(predictions[0], list) else [predictions]
        rows: list[tuple[int, int, list[float]]] = []
        for loader, numbers in zip(nested, batch_indices, strict=True):
            for scores, indices in zip(loader, numbers, strict=True):
                values = scores.double().cpu()
                rows += zip(indices, values.argmax(1).tolist(), values.tolist(), strict=True)
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if trainer.is_global_zero:
            with atomic_write(self.path) as partial, partial.open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["index", "label", *(f"score_{c}" for c in range(len(rows[0][2]) if rows else 0))])
                table.writerows([index, label, *scores] for index, label, scores in sorted(rows))
