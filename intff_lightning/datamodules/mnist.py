"""MNIST and Fashion-MNIST, by torchvision."""

import os
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import MNIST, FashionMNIST

from intff_lightning.datamodules.loading import InMemoryDataset
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.datamodules.split import Part
from intff_lightning.errors import DataError

__all__ = ["FashionMNISTDataModule", "MNISTDataModule"]


class MNISTDataModule(PairedDataModule):
    """MNIST (LeCun et al. 1998): 28x28 grey images of ten digits, in memory.

    The last ``val_size`` of the 60,000 training images are validation data; the 10,000 test images are only tested.

    Args:
        data_dir: folder in torchvision's layout (``MNIST/raw/...``); default ``$INTFF_DATA_DIR``, else ``data``.
        download: fetch what is missing.
        val_size: 5,000 by default; 0 trains on all 60,000.
        train_size: train on that many of the first images only; ``None`` on all that are not for validation.
        num_classes: of the set.
        **options: of :class:`PairedDataModule`.
    """

    source: ClassVar[type[MNIST]] = MNIST

    def __init__(
        self,
        data_dir: str | None = None,
        download: bool = True,
        val_size: float = 5000,
        train_size: int | None = None,
        num_classes: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, num_classes=num_classes, **options)
        self.data_dir = Path(data_dir or os.environ.get("INTFF_DATA_DIR") or "data")
        self.download, self.train_size = download, train_size

    def prepare_data(self) -> None:
        """Download and unpack where needed."""
        if self.download:
            for train in (True, False):
                self._open(train, download=True)

    def load(self, part: Part) -> Dataset[Any]:
        """Training (with validation) or test samples, images ``(1, 28, 28)`` uint8."""
        data = self._open(train=part != "test", download=False)
        image, target = data.data.unsqueeze(1), data.targets
        if part == "train" and self.train_size is not None:
            last = len(target) - self.held_out(len(target))
            index = torch.cat([torch.arange(min(self.train_size, last)), torch.arange(last, len(target))])
            image, target = image[index], target[index]
        return InMemoryDataset(image, target)

    def split(self, train: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """The last images are validation data, as is customary for this set."""
        size = len(train)  # type: ignore[arg-type]  # map-style
        first = size - self.held_out(size)
        return torch.arange(first), torch.arange(first, size)

    def _open(self, train: bool, download: bool) -> MNIST:
        name, folder = self.source.__name__, self.data_dir
        try:
            return self.source(folder, train=train, download=download)
        except (RuntimeError, OSError, EOFError, ValueError, AssertionError) as error:
            raw = folder / name / "raw"
            if raw.is_dir() and any(raw.iterdir()):
                hint = f"{raw} is incomplete or damaged, or cannot be written.\nDelete that folder and run again"
            else:
                hint = f"there is none under {folder.absolute()}, nor can it be downloaded.\nRun again with a network"
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"{name}: {hint}, or name a folder that has it, --data.data_dir DIR. ({reason})") from None


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): ten kinds of clothes, otherwise as :class:`MNISTDataModule`."""

    source: ClassVar[type[MNIST]] = FashionMNIST
