"""PredictionWriter: predictions as a table that any program reads."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from intff_lightning.classifier import LabelClassifier
from intff_lightning.errors import ConfigurationError, DivergenceError
from intff_lightning.files import atomic_write
from intff_lightning.pairs import data_share
from intff_lightning.randomness import process_count


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv``: index of the sample, its label, and the score of every class.

    If there are several loaders, the first column is the number of the loader. Samples of a loader that gives no
    indices (one over an ``IterableDataset``) are numbered in their order, which needs a single process. The first
    process writes the whole table at the end, and only then replaces an older one.

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
        rows: list[tuple[int, int, int, list[float]]] = []
        for loader, (batches, numbers) in enumerate(zip(nested, batch_indices, strict=True)):
            indices = [index for batch in numbers for index in batch]
            scores = torch.cat([batch.double().cpu() for batch in batches]) if batches else torch.empty(0, 0)
            if len(indices) != len(scores):
                if data_share(trainer)[1] > 1:
                    raise ConfigurationError("a loader gives no indices of its samples: predict in a single process.")
                indices = list(range(len(scores)))
            rows += zip([loader] * len(indices), indices, scores.argmax(1).tolist(), scores.tolist(), strict=True)
        if process_count() > 1:
            stage = pl_module.stage if isinstance(pl_module, LabelClassifier) else None
            gathered: list[Any] = [None] * process_count()
            torch.distributed.all_gather_object(gathered, rows if stage is None or stage.last else [])
            rows = [row for part in gathered for row in part]
        bad = sum(not all(map(math.isfinite, row[3])) for row in rows)
        if bad:
            raise DivergenceError(
                f"{bad} of {len(rows)} samples have scores that are not finite, and no label can be predicted.\n"
                "The weights diverged, or the precision is too low: try --trainer.precision 32-true."
            )
        if trainer.is_global_zero:
            with atomic_write(self.path) as partial, partial.open("w", newline="") as file:
                table = csv.writer(file)
                classes = range(len(rows[0][3]) if rows else 0)
                several = slice(0 if len(nested) > 1 else 1, None)
                table.writerow(["loader", "index", "label", *(f"score_{c}" for c in classes)][several])
                table.writerows([*row[:3], *row[3]][several] for row in sorted(rows))
