"""AnomalyScore and AnomalyWriter: how well a network tells anomalies, and its scores as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from intff_lightning.callbacks.evaluation import EvaluationCallback
from intff_lightning.callbacks.predictions import PredictionWriter, Row, write_table
from intff_lightning.classifier import LabelClassifier
from intff_lightning.detection import detection_metrics
from intff_lightning.errors import ConfigurationError, DivergenceError, check_choice
from intff_lightning.network import Predicted
from intff_lightning.pairs import PairedBatch, data_share, image_and_target

Against = Literal["negatives", "classes"]
"""What normal data is compared with."""


@runtime_checkable
class HasAnomalyScore(Protocol):
    """A module that tells how anomalous images are."""

    def anomaly_score(self, image: Tensor) -> Tensor:
        """Map images ``(B, *)`` to anomaly scores ``(B,)``, higher for anomalies."""
        ...


class AnomalyScore(EvaluationCallback):
    """How well ``module.anomaly_score(image) -> (B,)`` tells anomalies from normal data.

    It logs :func:`~intff_lightning.detection.detection_metrics`: ``val/auroc``, ``val/aupr`` and ``val/fpr95``, and the
    same under ``test/``; for a network trained without labels also ``val/auroc/unit_0`` and so on, of the goodness of
    each unit alone.

    A validation compares normal data with the negatives that are made of it, so that no anomaly is needed to choose
    among epochs or settings. A test compares class 0, normal data, with all other classes, as
    :class:`~intff_lightning.datamodules.OneClassDataModule` gives them.

    Args:
        validation: What a validation compares normal data with: its ``negatives``, or the other ``classes``, if the
            validation data has some. With the latter, anomalies take part in the choice among epochs.
    """

    def __init__(self, validation: Against = "negatives") -> None:
        check_choice("validation", validation, Against)
        self.validation = validation
        self._against: Against = validation
        self._scores: list[Tensor] = []  # (1 + U, n) each: the vote, then each unit
        self._anomalous: list[Tensor] = []  # (n,) each

    def on_evaluation_start(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._against = self.validation if stage == "val" else "classes"
        self._scores, self._anomalous = [], []

    def on_evaluation_batch(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any) -> None:
        image, target = image_and_target(batch, module)
        if self._against == "classes":
            anomalous = target != 0
        else:
            if not isinstance(batch, PairedBatch) or batch.negative_image is None:
                raise ConfigurationError(
                    "AnomalyScore compares normal validation data with negative images, and there are none:\n"
                    "give the datamodule negatives, for example HybridImages, or AnomalyScore(validation='classes')."
                )
            negative = batch.negative_image.flatten(0, 1)
            image = torch.cat([image, negative])
            anomalous = torch.arange(len(image), device=image.device) >= len(target)
        self._scores.append(_scores(module, image))
        self._anomalous.append(anomalous)

    def on_evaluation_end(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        rows = _rows(module)
        empty = torch.empty(rows, 0, device=module.device), torch.empty(0, dtype=torch.bool, device=module.device)
        scores, anomalous = torch.cat([empty[0], *self._scores], 1), torch.cat([empty[1], *self._anomalous])
        self._scores, self._anomalous = [], []
        if data_share(trainer)[1] > 1:
            scores = torch.cat(gather_all_tensors(scores.contiguous()), 1)
            anomalous = torch.cat(gather_all_tensors(anomalous.int())).bool()
        bad = int((~scores.isfinite()).any(0).sum())
        if bad:
            raise DivergenceError(
                f"the anomaly scores of {bad} of {scores.shape[1]} samples are not finite ({stage}).\n"
                "Evaluate in float32 (precision: 32-true), or train again with a lower learning rate."
            )
        trials: Any = trainer  # its connectors add attributes that its class does not declare
        if anomalous.all() or not anomalous.any():
            if not (trials.sanity_checking or trials.fast_dev_run):
                kind = "anomalies" if anomalous.any() else "normal data"
                rank_zero_warn(f"AnomalyScore logs nothing: the {stage} data has {kind} alone.")
            return
        values = [detection_metrics(score, anomalous) for score in scores]
        self.log_reduced(module, {f"{stage}/{name}": value for name, value in values[0].items()}, prog_bar=True)
        units = {f"{stage}/auroc/unit_{k}": value["auroc"] for k, value in enumerate(values[1:])}
        self.log_reduced(module, units)


def _rows(module: Any) -> int:
    """Return 1 + U for a network without labels, whose units have a goodness of their own, else 1."""
    return 1 + len(module.units) if isinstance(module, LabelClassifier) and module.unsupervised else 1


def _scores(module: Any, image: Tensor) -> Tensor:
    """Return the anomaly score of images and, without labels, minus the goodness of each unit: ``(1 + U, B)``."""
    if isinstance(module, LabelClassifier) and module.unsupervised:
        score, *goodness = module.predictions(image).T
        return torch.stack([score, *(-g for g in goodness)])
    if not isinstance(module, HasAnomalyScore):
        raise ConfigurationError(
            f"AnomalyScore asks {type(module).__name__} for anomaly_score(image) -> (B,), which it does not have."
        )
    return module.anomaly_score(image).unsqueeze(0)


class AnomalyWriter(PredictionWriter):
    """Writes ``predictions.csv`` for networks that detect anomalies: the sample, its anomaly score, and more columns.

    A network trained without labels adds the goodness of each unit. See
    :meth:`~intff_lightning.classifier.LabelClassifier.anomaly_score`.

    Args:
        path: Path of the table; ``None`` is ``predictions.csv`` in the run's log folder.
        names: Names of the samples in their order; ``None`` numbers them.
    """

    writes: ClassVar[Predicted] = "anomaly scores"

    def __init__(self, path: str | None = None, names: Sequence[str] | None = None) -> None:
        super().__init__(path)
        self.names = names

    def write(self, path: Path, rows: Sequence[Row], columns: slice) -> None:
        """Write the table with these of the columns loader, index (or file) and scores."""
        units = len(rows[0][3]) - 1 if rows else 0
        sample = "index" if self.names is None else "file"
        head = ["loader", sample, "anomaly_score", *(f"goodness_unit_{k}" for k in range(units))]
        lines: list[list[Any]] = [head]
        for loader, index, _, scores in rows:
            lines.append([loader, index if self.names is None else self.names[index], *scores])
        write_table(path, [line[columns] for line in lines])
