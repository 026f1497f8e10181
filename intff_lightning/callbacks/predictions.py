"""PredictionWriter: predictions as a table that any program reads."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

__all__ = ["PredictionWriter"]


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv``: index of the sample, its label, and the score of every class.

    The table is written whole at the end, by the first process, and replaces an older one only then.

    Args:
        path: of the table; ``None`` is ``predictions.csv`` in the run's log folder.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.path = None if path is None else Path(path)

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Gather every process's rows and write them in the samples' order."""
        if self.path is None:
            self.path = Path(trainer.log_dir or trainer.default_root_dir) / "predictions.csv"
        # Lightning nests indices by loader always, and predictions only where there are several loaders
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
            self._write(self.path, sorted(rows))

    @staticmethod
    def _write(path: Path, rows: list[tuple[int, int, list[float]]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["index", "label", *(f"score_{c}" for c in range(len(rows[0][2]) if rows else 0))])
            table.writerows([index, label, *scores] for index, label, scores in rows)
        os.replace(partial, path)
