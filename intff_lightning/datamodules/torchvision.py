"""MNIST, Fashion-MNIST and CIFAR-10, read by torchvision: where their files are, and what to do if they are missing."""

import os
import pickle
import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from intff_lightning.datamodules.datasets import Part
from intff_lightning.datamodules.loading import InMemoryDataset
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.framing import Framing


class TorchvisionDataModule(PairedDataModule):
    """A torchvision data set that fits in memory; the last ``val_size`` training images are validation data.

    A subclass sets ``source`` and ``folder``, and overrides ``pixels`` if its images are not grey.

    Args:
        data_dir: Folder in torchvision's layout; default ``$INTFF_DATA_DIR``, else ``data``.
        download: Download missing files.
        val_size: Number, or below 1 the share, of validation images; 0 trains on all training images.
        train_size: Train on this many of the first images only; ``None`` trains on all that are not for validation.
        pad: Width of a border of zeros around each image, in pixels; 2 makes MNIST 32x32.
        rgb: Give grey images three equal channels, as networks made for photographs expect.
        num_classes: Number of classes.
        **options: Arguments of :class:`PairedDataModule`.
    """

    source: ClassVar[str]
    """Name of the class in ``torchvision.datasets``."""
    folder: ClassVar[str]
    """Folder of its files under ``data_dir``."""

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
        self.refuse(("val_seed",), "the last training images are the validation data")
        if pad < 0 or (train_size is not None and train_size < 1):
            raise ConfigurationError(f"pad={pad}, train_size={train_size}: 0 pixels, and 1 image, or more are needed.")
        self.data_dir = Path(data_dir or os.environ.get("INTFF_DATA_DIR") or "data")
        self.download, self.train_size, self.pad, self.rgb = download, train_size, pad, rgb

    def prepare_data(self) -> None:
        """Download and unpack missing files."""
        if self.download:
            for train in (True, False):
                self.open(train, download=True)

    def pixels(self, data: Any) -> Tensor:
        """Return images ``(N, C, H, W)`` uint8 from torchvision's ``data``, here grey ``(N, H, W)``."""
        image: Tensor = data.unsqueeze(1)
        return image

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return the training or test samples, with images ``(C, H, W)`` uint8."""
        if part in ("val", "predict"):
            return None
        data = self.open(train=part == "train", download=False)
        image, target = self.pixels(data.data), torch.as_tensor(data.targets)
        if self.pad:
            image = nn.functional.pad(image, [self.pad] * 4)
        if self.rgb and image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1).contiguous()
        return InMemoryDataset(image, target)

    def divide(self, train: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """Take the last images as validation data, as is customary for these sets, and the first ones to train on."""
        size = len(train)  # type: ignore[arg-type]  # map-style
        first = size - self.held_out(size)
        count = first if self.train_size is None else min(self.train_size, first)
        return torch.arange(count), torch.arange(first, size)

    def open(self, train: bool, download: bool) -> Any:
        """Return torchvision's training or test set, or refuse missing or damaged files by a DataError."""
        from torchvision import datasets  # takes a while, which other data need not pay

        parent = self.data_dir
        try:
            return getattr(datasets, self.source)(parent, train=train, download=download)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, AssertionError, pickle.UnpicklingError) as error:
            files = parent / self.folder
            if files.is_dir() and any(files.iterdir()):
                hint = f"{files} is incomplete or damaged, or cannot be written.\nDelete that folder and run again"
            else:
                hint = f"there is none under {parent.absolute()}, nor can it be downloaded.\nRun again with a network"
            reason = " ".join(str(error).split())[:120]
            raise DataError(
                f"{self.source}: {hint}, or name a folder that has it, --data.data_dir DIR. ({reason})"
            ) from None


class MNISTDataModule(TorchvisionDataModule):
    """MNIST (LeCun et al. 1998): 28x28 grey images of ten digits, in memory.

    The last ``val_size`` of the 60,000 training images are validation data; the 10,000 test images are used for tests
    only. The arguments are those of :class:`TorchvisionDataModule`, and the
    files are in ``MNIST/raw``.
    """

    source: ClassVar[str] = "MNIST"
    folder: ClassVar[str] = "MNIST/raw"
    framing: Framing | None = Framing(side=28, longest=20)


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): ten kinds of clothes, in the format of MNIST."""

    source: ClassVar[str] = "FashionMNIST"
    folder: ClassVar[str] = "FashionMNIST/raw"
    framing: Framing | None = Framing(side=28, longest=28, strokes=False)


class CIFAR10DataModule(TorchvisionDataModule):
    """CIFAR-10 (Krizhevsky 2009): 32x32 colour images of ten kinds of animals and vehicles, in memory.

    The last ``val_size`` of the 50,000 training images are validation data; the 10,000 test images are used for tests
    only. The arguments are those of :class:`TorchvisionDataModule`, and the
    files are in ``cifar-10-batches-py``.
    """

    source: ClassVar[str] = "CIFAR10"
    folder: ClassVar[str] = "cifar-10-batches-py"

    def pixels(self, data: Any) -> Tensor:
        """Return images ``(N, 3, 32, 32)`` from an array ``(N, 32, 32, 3)``."""
        return torch.as_tensor(data).permute(0, 3, 1, 2).contiguous()

    def open(self, train: bool, download: bool) -> Any:
        with warnings.catch_warnings():
            # the files are pickles of Python 2, in which a dtype has numbers for truth values; NumPy 2.4 warns
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            return super().open(train, download)
