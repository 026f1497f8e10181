"""Datamodules that emit paired positive and negative batches."""

from intff_lightning.datamodules.digits import DigitsDataModule
from intff_lightning.datamodules.folder import ImageFolderDataModule
from intff_lightning.datamodules.loading import InMemoryDataset
from intff_lightning.datamodules.mnist_c import MNISTCDataModule
from intff_lightning.datamodules.one_class import OneClassDataModule
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.datamodules.tables import TableDataModule
from intff_lightning.datamodules.torchvision import CIFAR10DataModule, FashionMNISTDataModule, MNISTDataModule
from intff_lightning.datamodules.words import WordLanguageDataModule

__all__ = [
    "CIFAR10DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageFolderDataModule",
    "InMemoryDataset",
    "MNISTCDataModule",
    "MNISTDataModule",
    "OneClassDataModule",
    "PairedDataModule",
    "TableDataModule",
    "WordLanguageDataModule",
]
