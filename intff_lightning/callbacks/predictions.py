"""PredictionWriter and PictureWriter: predictions as a table that any program reads, and as a picture."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from intff_lightning.classifier import LabelClassifier
from intff_lightning.datamodules.datasets import PartDataModule
from intff_lightning.errors import ConfigurationError, DivergenceError
from intff_lightning.files import atomic_write
from intff_lightning.network import Network, Predicted
from intff_lightning.pairs import data_share
from intff_lightning.randomness import process_count

Row: TypeAlias = tuple[int, int, int, list[float]]
"""Number of the loader, index of the sample, its label, and the scores of all classes."""

_SHEET = 100  # pictures
_WRITERS: dict[Predicted, str] = {
    "classes": "PredictionWriter",
    "numbers": "EstimateWriter",
    "anomaly scores": "AnomalyWriter",
}


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv``: index of the sample, its label, and the score of every class.

    The index of a sample that was divided off a table is its row there, counted from 0.

    If there are several loaders, the first column is the number of the loader. Samples of a loader that gives no
    indices (one over an ``IterableDataset``) are numbered in their order, which needs a single process. The first
    process writes the whole table at the end, and only then replaces an older one. If the datamodule has names for its
    classes (:class:`~intff_lightning.datamodules.TableDataModule`), they take the place of the numbers.

    Args:
        path: Path of the table; ``None`` is ``predictions.csv`` in the run's log folder.
    """

    writes: ClassVar[Predicted] = "classes"
    """What the networks predict whose tables it writes."""

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.path = None if path is None else Path(path)
        self.class_names: list[str] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a network whose predictions another writer understands."""
        super().setup(trainer, pl_module, stage)
        if isinstance(pl_module, Network) and pl_module.predicts != self.writes:
            raise ConfigurationError(
                f"{type(self).__name__} writes {self.writes}, and the network predicts {pl_module.predicts}: use "
                f"{_WRITERS[pl_module.predicts]}."
            )

    def write_on_epoch_end(
        self, trainer: L.Trainer, pl_module: Any, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Gather the rows of all processes and write them in the order of the samples."""
        if self.path is None:
            self.path = Path(trainer.log_dir or trainer.default_root_dir) / "predictions.csv"
        given: Any = trainer
        data = given.datamodule if isinstance(given.datamodule, PartDataModule) else None
        self.class_names = None if data is None else data.class_names
        source = None if data is None else data.source_rows("predict")
        # Lightning nests indices by loader always, and predictions only if there are several loaders
        nested = predictions if isinstance(predictions[0], list) else [predictions]
        rows: list[Row] = []
        for loader, (batches, numbers) in enumerate(zip(nested, batch_indices, strict=True)):
            indices = [index for batch in numbers for index in batch]
            scores = torch.cat([batch.double().cpu() for batch in batches]) if batches else torch.empty(0, 0)
            if len(indices) != len(scores):
                if data_share(trainer)[1] > 1:
                    raise ConfigurationError("a loader gives no indices of its samples: predict in a single process.")
                indices = list(range(len(scores)))
            indices = indices if source is None else source[indices].tolist()
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
            several = slice(0 if len(nested) > 1 else 1, None)
            self.write(self.path, sorted(rows), several)

    def write(self, path: Path, rows: Sequence[Row], columns: slice) -> None:
        """Write the table with these of the columns loader, index, label and scores."""
        names = self.class_names or [str(c) for c in range(len(rows[0][3]) if rows else 0)]
        head = ["loader", "index", "label", *(f"score_{name}" for name in names)]
        lines: list[list[Any]] = [head, *([*row[:2], names[row[2]], *row[3]] for row in rows)]
        write_table(path, [line[columns] for line in lines])


class EstimateWriter(PredictionWriter):
    """Writes ``predictions.csv`` of a regression: index of the sample, the number, and the ends of its interval.

    Args:
        path: Path of the table; ``None`` is ``predictions.csv`` in the run's log folder.
    """

    writes: ClassVar[Predicted] = "numbers"

    def write(self, path: Path, rows: Sequence[Row], columns: slice) -> None:
        head = ["loader", "index", "prediction", "lower", "upper"]
        lines: list[list[Any]] = [head, *([*row[:2], *row[3]] for row in rows)]
        write_table(path, [line[columns] for line in lines])


class PictureWriter(PredictionWriter):
    """Writes ``predictions.csv`` for pictures (file, class, and the score of every label), and contact sheets.

    ``contact_sheet.png`` shows each picture as the network sees it, beside a bar for the score of each label: its
    goodness, or its logit after backpropagation. A sheet holds 100 pictures; further ones are on
    ``contact_sheet_2.png`` and so on.

    Args:
        names: Names of the pictures, in the order in which they are predicted.
        image: The pictures, ``(N, C, H, W)`` uint8.
        path: Path of the table; ``None`` is ``predictions.csv`` in the run's log folder. The sheets are beside it.
    """

    def __init__(self, names: Sequence[str], image: Tensor, path: str | None = None) -> None:
        super().__init__(path)
        self.names, self.image = names, image
        self.sheets: list[Path] = []
        self.what = "goodness"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find out what the scores are."""
        super().setup(trainer, pl_module, stage)
        if not isinstance(pl_module, LabelClassifier):
            self.what = "score"

    def write(self, path: Path, rows: Sequence[Row], columns: slice) -> None:
        """Write the table and the sheets."""
        from intff_lightning.reporting.plots import contact_sheet, save  # matplotlib, only where it is needed

        head = ["file", "class", *(f"score_{c}" for c in range(len(rows[0][3])))]
        write_table(path, [head, *([self.names[index], label, *scores] for _, index, label, scores in rows)])
        scores = torch.tensor([row[3] for row in rows])
        for first in range(0, len(rows), _SHEET):
            at = [row[1] for row in rows[first : first + _SHEET]]
            names = [Path(self.names[index]).name for index in at]
            figure = contact_sheet(names, self.image[at] / 255, scores[first : first + _SHEET], self.what)
            self.sheets.append(path.with_name(f"contact_sheet{f'_{1 + first // _SHEET}' if first else ''}.png"))
            save(figure, self.sheets[-1])


def write_table(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    """Write lines of cells as a CSV file."""
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
