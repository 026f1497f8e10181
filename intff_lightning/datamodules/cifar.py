"""CIFAR-10, by torchvision."""

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from intff_lightning.datamodules.torchvision import TorchvisionDataModule

__all__ = ["CIFAR10DataModule"]


class CIFAR10DataModule(TorchvisionDataModule):
    """CIFAR-10 (Krizhevsky 2009): 32x32 colour images of ten kinds of animals and vehicles, in memory.

    The last ``val_size`` of the 50,000 training images are validation data; the 10,000 test images are only tested.
    Arguments are those of :class:`~intff_lightning.datamodules.torchvision.TorchvisionDataModule`; the files lie in
    ``cifar-10-batches-py``.
    """

    source: ClassVar[type[Any]] = CIFAR10
    folder: ClassVar[str] = CIFAR10.base_folder

    def pixels(self, data: Any) -> Tensor:
        """Images ``(N, 3, 32, 32)`` from an array ``(N, 32, 32, 3)``."""
        return torch.as_tensor(data).permute(0, 3, 1, 2).contiguous()

    def open(self, train: bool, download: bool) -> Any:
        """Torchvision's dataset."""
        with warnings.catch_warnings():
            # NumPy 2.4 of the files' pickles, which are of Python 2: their dtype has numbers for its truth values
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            return super().open(train, download)
