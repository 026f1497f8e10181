"""MNIST and Fashion-MNIST, by torchvision."""

from typing import Any, ClassVar

from torchvision.datasets import MNIST, FashionMNIST

from intff_lightning.datamodules.torchvision import TorchvisionDataModule

__all__ = ["FashionMNISTDataModule", "MNISTDataModule"]


class MNISTDataModule(TorchvisionDataModule):
    """MNIST (LeCun et al. 1998): 28x28 grey images of ten digits, in memory.

    The last ``val_size`` of the 60,000 training images are validation data; the 10,000 test images are only tested.
    Arguments are those of :class:`~intff_lightning.datamodules.torchvision.TorchvisionDataModule`; the files lie in
    ``MNIST/raw``.
    """

    source: ClassVar[type[Any]] = MNIST
    folder: ClassVar[str] = "MNIST/raw"


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): ten kinds of clothes, otherwise as :class:`MNISTDataModule`."""

    source: ClassVar[type[Any]] = FashionMNIST
    folder: ClassVar[str] = "FashionMNIST/raw"
