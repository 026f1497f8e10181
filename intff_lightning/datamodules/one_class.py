"""Data for anomaly detection: a network sees one kind of data, and is tested on all kinds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from intff_lightning.augmentations import Augmentation
from intff_lightning.corruptions import Corruption
from intff_lightning.datamodules.datasets import DatasetDataModule, Part
from intff_lightning.datamodules.loading import InMemoryDataset, whole_parts
from intff_lightning.datamodules.options import check_effects
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.datamodules.tables import TableDataModule
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.negatives import ImageNegatives, NegativeSource
from intff_lightning.samples import Reader

NORMAL, ANOMALOUS = 0, 1
"""Classes of the samples of an :class:`OneClassDataModule`."""


class OneClassDataModule(PairedDataModule):
    """Trains and validates on the normal classes of any data sets, and tests on all of their classes.

    The target is 0 for normal data and 1 for anomalies. Training and validation data are normal: anomalies among them
    are left out, so nothing can be selected on them. Validation compares normal data with the negatives that are made
    of it. Test data holds all classes.

    Args:
        data: The data sets: any datamodule of this package, such as ``MNISTDataModule`` or ``ImageFolderDataModule``,
            or ``PairedDataModule(train=..., test=...)``. It divides validation data off the training data. A
            ``TableDataModule`` is refused, because its preprocessing is fitted on anomalies too.
        negatives: Source of negative images, which an anomaly detector must tell from normal ones.
        normal: Number of the normal class, or of several; classes of folders are numbered in alphabetical order, those
            of ``train`` first.
        augmentation: Augmentation of training images, see :mod:`intff_lightning.augmentations`.
        batch_size: Positive samples per process and batch.
        seed: Seed of order, negatives and augmentation; ``None`` takes that of ``seed_everything``, else 0.
        num_workers: Number of processes that read samples; data in memory needs none.
        test_corruption: Corruption of the images of tests and predictions, see :class:`PairedDataModule`.

    Raises:
        ConfigurationError: ``data`` has no data sets, is a table or was given options that have no effect here, or the
            negatives are no images.
    """

    def __init__(
        self,
        data: PairedDataModule,
        negatives: NegativeSource,
        normal: int | list[int] = 0,
        augmentation: Augmentation | None = None,
        batch_size: int = 128,
        seed: int | None = None,
        num_workers: int = 0,
        test_corruption: Corruption | None = None,
    ) -> None:
        super().__init__(
            negatives=negatives,
            test_corruption=test_corruption,
            augmentation=augmentation,
            batch_size=batch_size,
            val_size=0,
            seed=seed,
            num_workers=num_workers,
            num_classes=2,
        )
        source = data.inner if isinstance(data, PairedDataModule) else data
        if not isinstance(source, DatasetDataModule):
            raise ConfigurationError(
                f"OneClassDataModule chooses samples by their class, and {type(source).__name__} gives batches: "
                "give data sets, PairedDataModule(train=..., test=...)."
            )
        if data.regression or data.vocabulary is not None:
            raise ConfigurationError("OneClassDataModule needs images with classes, not numbers or token sequences.")
        if isinstance(data, TableDataModule):
            raise ConfigurationError(
                f"{type(data).__name__} fits its preprocessing on all training rows, and OneClassDataModule must not "
                "know the anomalies among them: preprocess the columns by the normal rows alone, and give tensors, "
                "PairedDataModule(train=..., test=...)."
            )
        given = ["negatives", "corruption", "augmentation", "batch_size", "seed", "test_corruption"]
        given += [] if data.inner.cache else ["num_workers"]
        check_effects(given, data.init_arguments(), PairedDataModule, "OneClassDataModule has its own")
        if not isinstance(negatives, ImageNegatives):
            raise ConfigurationError(
                f"{type(negatives).__name__} gives other labels, and a network trained on one class knows none: use "
                "negative images, for example HybridImages or Warped."
            )
        self.data, self.framing = data, data.framing
        self.normal = sorted(map(int, [normal] if isinstance(normal, int | np.integer) else {*normal}))
        if not self.normal or self.normal[0] < 0:
            raise ConfigurationError(f"normal={normal}: give the number of a class, or of several.")

    def read_picture(self, file: Path) -> Tensor | None:
        return self.data.read_picture(file)

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return normal samples for training and validation, and all samples, as normal or anomalous, for tests.

        Raises:
            DataError: There are no training samples of a normal class, or no normal samples at all.
        """
        dataset = self.data.dataset(part)
        inner: DatasetDataModule = self.data.inner
        if dataset is None or (part == "predict" and isinstance(dataset, InMemoryDataset)):
            return dataset
        if part == "predict":  # these may have no labels
            every = torch.arange(len(dataset))  # type: ignore[arg-type]  # map-style
            return _chosen(dataset, every, torch.full_like(every, -1), inner)
        label = _labels(dataset, inner.reader(f"{part} data"), self.inner.num_workers)
        is_normal = torch.isin(label, torch.tensor(self.normal))
        missing = sorted({*self.normal} - {*label[is_normal].tolist()})
        if missing and (part == "train" or not is_normal.any()):
            raise DataError(f"{part} data: no sample has the class {missing[0]}, which is in normal={self.normal}.")
        if part == "test":
            return _chosen(dataset, torch.arange(len(label)), (~is_normal).long(), inner)
        index = is_normal.nonzero()[:, 0]
        return _chosen(dataset, index, torch.full_like(index, NORMAL), inner)


class _Relabelled(Dataset[tuple[Tensor, Tensor]]):
    """Some samples of a data set under other labels.

    Args:
        dataset: Any map-style data set, read by ``reader``.
        index: Indices of the samples ``(N,)``.
        target: Their labels ``(N,)``.
        reader: Reads the images.
    """

    def __init__(self, dataset: Dataset[Any], index: Tensor, target: Tensor, reader: Reader) -> None:
        self.dataset, self.index, self.target, self.reader = dataset, index, target, reader

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image, _ = self.reader.samples([self.dataset[int(self.index[number])]], labelled=False)
        return image[0], self.target[number]


def _chosen(dataset: Dataset[Any], index: Tensor, target: Tensor, inner: DatasetDataModule) -> Dataset[Any]:
    if isinstance(dataset, InMemoryDataset):
        return InMemoryDataset(dataset.image[index], target)
    return _Relabelled(dataset, index, target, inner.reader("a sample"))


def _labels(dataset: Dataset[Any], reader: Reader, num_workers: int) -> Tensor:
    """Return the classes ``(N,)`` of a data set; its samples are read only if it does not tell these."""
    told = _told(dataset, reader)
    if told is not None:
        return told
    found = [target for _, target in whole_parts(dataset, reader, labelled=True, num_workers=num_workers)]
    return torch.cat([target for target in found if target is not None])


def _told(dataset: Dataset[Any], reader: Reader) -> Tensor | None:
    """Return the classes ``(N,)`` that a data set tells, or ``None``."""
    if isinstance(dataset, InMemoryDataset):
        return dataset.target
    if isinstance(dataset, Subset):
        told = _told(dataset.dataset, reader)
        return None if told is None else told[torch.as_tensor(dataset.indices)]
    targets, transforms = getattr(dataset, "targets", None), getattr(dataset, "transforms", None)
    # as torchvision's data sets have them; transforms of another kind may change targets too
    changes = [getattr(dataset, "target_transform", None), getattr(transforms, "target_transform", transforms)]
    size = len(dataset)  # type: ignore[arg-type]  # map-style
    if changes != [None, None] or not isinstance(targets, Sequence | np.ndarray | Tensor) or len(targets) != size:
        return None
    return reader.labels(targets, size)
