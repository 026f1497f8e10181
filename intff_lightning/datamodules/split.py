"""Data sets of a datamodule's parts: loaded at first use, checked, split, corrupted."""

import os
from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from intff_lightning.corruptions import Corruption
from intff_lightning.datamodules.loading import InMemoryDataset, check_samples, count_classes
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.recipe import Recorded

__all__ = ["PARTS", "Part", "SplitDataModule"]

Part = Literal["train", "val", "test", "predict"]
PARTS: tuple[Part, ...] = ("train", "val", "test", "predict")


class SplitDataModule(Recorded, L.LightningDataModule):
    """Base of datamodules that hold data sets: those given, or those that a family loads.

    Args:
        given: data sets of ``(image, target)`` by part.
        corruption: of training data.
        val_size: samples, or below 1 the share, of training data that become validation data.
        split_seed: of that split.
        seed: of the corruption; ``None`` takes that of ``seed_everything``, else 0.
        num_classes: ``None`` where the labels are to be counted.
    """

    def __init__(
        self,
        given: Mapping[Part, Dataset[Any] | None],
        corruption: Corruption | None,
        val_size: float,
        split_seed: int,
        seed: int | None,
        num_classes: int | None,
    ) -> None:
        super().__init__()
        if val_size < 0:
            raise ConfigurationError(f"val_size={val_size}: samples or a share of them are needed, 0 or more.")
        self.corruption = corruption
        self.val_size, self.split_seed, self.seed = val_size, split_seed, seed
        self._given, self._num_classes = given, num_classes
        self._datasets: dict[Part, Dataset[Any] | None] = {}

    def load(self, part: Part) -> Dataset[Any] | None:
        """Give the dataset of a part that was not given; families override it.

        ``train`` includes what becomes validation data.
        """
        return None

    def split(self, train: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """Indices of training and validation samples; families may override it."""
        size = len(train)  # type: ignore[arg-type]  # map-style
        held_out = self.held_out(size)
        order = Draws(self.split_seed, 0, torch.arange(size)).shuffle()
        return order[held_out:].sort().values, order[:held_out].sort().values

    def held_out(self, size: int) -> int:
        """Number of validation samples among ``size``."""
        count = round(self.val_size * size) if self.val_size < 1 else int(self.val_size)
        if count >= size:
            raise ConfigurationError(f"val_size={self.val_size} leaves nothing of {size} training samples.")
        return count

    def dataset(self, part: Part) -> Dataset[Any] | None:
        """Dataset of a part, loaded and checked at the first call; ``None`` where there is none."""
        if part not in self._datasets:
            if part == "predict" and self._given["predict"] is None:
                return self.dataset("test")
            if part in ("train", "val") and self._given["val"] is None:
                self._split_training_data()
            else:
                self._datasets[part] = self._whole(part)
                if part == "train":
                    self._corrupt_training_data()
        return self._datasets[part]

    def _corrupt_training_data(self) -> None:
        """Corrupt training data in memory once; of other data it is done a batch at a time, see :meth:`pair`."""
        train = self._datasets["train"]
        if self.corruption is not None and isinstance(train, InMemoryDataset):
            classes = count_classes(train) if self._num_classes is None else self._num_classes
            seed = self.settle_seed()
            worse = self.corruption.of_set(train.image, train.target, num_classes=classes, seed=seed)
            self._datasets["train"] = InMemoryDataset(*worse)

    def _whole(self, part: Part) -> Dataset[Any] | None:
        given = self._given[part]
        return self._checked(self.load(part) if given is None else given, part)

    def _split_training_data(self) -> None:
        whole = self._whole("train")
        self._datasets["train"], self._datasets["val"] = whole, None
        if whole is not None and self.val_size != 0:
            for part, index in zip(PARTS[:2], self.split(whole), strict=True):
                if isinstance(whole, InMemoryDataset):
                    self._datasets[part] = InMemoryDataset(whole.image[index], whole.target[index])
                else:
                    self._datasets[part] = Subset(whole, index.tolist())
        self._corrupt_training_data()

    def _checked(self, dataset: Dataset[Any] | None, part: Part) -> Dataset[Any] | None:
        if dataset is not None and len(dataset) == 0:  # type: ignore[arg-type]  # map-style
            raise DataError(f"{part} data: the data set is empty.")
        if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
            dataset = InMemoryDataset(*dataset.tensors)  # fetched whole rather than sample by sample
        if isinstance(dataset, InMemoryDataset):
            check_samples(dataset.image, dataset.target, self._num_classes, f"{part} data")
        return dataset

    def settle_seed(self) -> int:
        """The seed in force: the user's, else that of ``seed_everything``, else 0."""
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        return self.seed
