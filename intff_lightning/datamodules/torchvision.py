"""Base of the families that torchvision reads: where their files lie, their split, what to do when they are missing."""

import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from intff_lightning.datamodules.loading import InMemoryDataset
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.datamodules.split import Part
from intff_lightning.errors import DataError

__all__ = ["TorchvisionDataModule"]


class TorchvisionDataModule(PairedDataModule):
    """A set of torchvision's that fits in memory; the last ``val_size`` training images are validation data.

    A family sets ``source`` and ``folder``, and ``pixels`` where its images are not grey.

    Args:
        data_dir: folder in torchvision's layout; default ``$INTFF_DATA_DIR``, else ``data``.
        download: fetch what is missing.
        val_size: 5,000 by default; 0 trains on all training images.
        train_size: train on that many of the first images only; ``None`` on all that are not for validation.
        pad: zeros added on every side, in pixels; 2 makes MNIST 32x32.
        rgb: give grey images three equal channels, as networks made for photographs expect.
        num_classes: of the set.
        **options: of :class:`PairedDataModule`.
    """

    source: ClassVar[type[Any]]
    """Torchvision's class."""
    folder: ClassVar[str]
    """Where its files lie under ``data_dir``."""

    def __init__(
        self,
        data_dir: str | None = None,
        download: bool = True,
        val_size: float = 5000,
        train_size: int | None = None,
        pad: int = 0,
        rgb: bool = False,
        num_classes: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(val_size=val_size, num_classes=num_classes, **options)
        self.data_dir = Path(data_dir or os.environ.get("INTFF_DATA_DIR") or "data")
        self.download, self.train_size, self.pad, self.rgb = download, train_size, pad, rgb

    def prepare_data(self) -> None:
        """Download and unpack where needed."""
        if self.download:
            for train in (True, False):
                self.open(train, download=True)

    def pixels(self, data: Any) -> Tensor:
        """Images ``(N, C, H, W)`` uint8 from torchvision's ``data``, here grey ``(N, H, W)``."""
        image: Tensor = data.unsqueeze(1)
        return image

    def load(self, part: Part) -> Dataset[Any]:
        """Training (with validation) or test samples, images ``(C, H, W)`` uint8."""
        data = self.open(train=part != "test", download=False)
        image, target = self.pixels(data.data), torch.as_tensor(data.targets)
        if part == "train" and self.train_size is not None:
            last = len(target) - self.held_out(len(target))
            index = torch.cat([torch.arange(min(self.train_size, last)), torch.arange(last, len(target))])
            image, target = image[index], target[index]
        if self.pad:
            image = nn.functional.pad(image, [self.pad] * 4)
        if self.rgb and image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1).contiguous()
        return InMemoryDataset(image, target)

    def split(self, train: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """The last images are validation data, as is customary for these sets."""
        size = len(train)  # type: ignore[arg-type]  # map-style
        first = size - self.held_out(size)
        return torch.arange(first), torch.arange(first, size)

    def open(self, train: bool, download: bool) -> Any:
        """Torchvision's dataset.

        Raises:
            DataError: the files are missing or damaged.
        """
        name, parent = self.source.__name__, self.data_dir
        try:
            return self.source(parent, train=train, download=download)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, AssertionError, pickle.UnpicklingError) as error:
            files = parent / self.folder
            if files.is_dir() and any(files.iterdir()):
                hint = f"{files} is incomplete or damaged, or cannot be written.\nDelete that folder and run again"
            else:
                hint = f"there is none under {parent.absolute()}, nor can it be downloaded.\nRun again with a network"
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"{name}: {hint}, or name a folder that has it, --data.data_dir DIR. ({reason})") from None
