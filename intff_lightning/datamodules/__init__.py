"""Datamodules that emit paired positive and negative batches."""

from intff_lightning.datamodules.digits import DigitsDataModule
from intff_lightning.datamodules.loading import InMemoryDataset
from intff_lightning.datamodules.mnist import FashionMNISTDataModule, MNISTDataModule
from intff_lightning.datamodules.paired import PairedDataModule

__all__ = [
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "InMemoryDataset",
    "MNISTDataModule",
    "PairedDataModule",
]
