"""What tuning searches: networks, data, and ranges of settings, the same for every algorithm that has the setting."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intff_lightning.augmentations import Augmentation, HorizontalFlip, InOrder, RandomAffine, RandomShift
from intff_lightning.backprop import BackpropModule
from intff_lightning.corruptions import PaperMixture
from intff_lightning.datamodules import (
    FashionMNISTDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    PairedDataModule,
)
from intff_lightning.heads import LinearHead, PatchGoodness
from intff_lightning.labels import FourierPattern, LabelOverlay
from intff_lightning.local import (
    RMS,
    ChannelGoodness,
    Goodness,
    GroupNormalization,
    LabelCrossEntropy,
    MeanActivation,
    NoNormalization,
    UnitL2,
)
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import WrongLabels
from intff_lightning.network import Network
from intff_lightning.optim import CosineDecay
from intff_lightning.units import ConvUnit, DenseUnit, HiddenUnit, UnitChain

ALGORITHMS = {
    "intff": "IntFF with labels in the image",
    "channels": "IntFF with goodness by class",
    "ff": "FF: units of one layer",
    "bp": "backpropagation",
}
"""The algorithms that are compared. FF has labels in the image of a dense network, and goodness by class otherwise."""

Settings = Mapping[str, Any]
"""Values by the names of :func:`space`, and ``vote``, which a trial chooses by itself."""


@dataclass(frozen=True)
class Range:
    """Real numbers from ``low`` to ``high``; every search starts at ``start``."""

    low: float
    high: float
    start: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of several values; every search starts at the first."""

    values: tuple[Any, ...]

    @property
    def start(self) -> Any:
        """The first value."""
        return self.values[0]

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Space = dict[str, Range | Choice]


@dataclass(frozen=True)
class Study:
    """A network and its data, and what one trial may cost.

    Args:
        title: One line for people.
        units: Widths, or channels, of the layers of each unit.
        pools: Size of the max-pooling of each layer of convolutional units; empty for dense units.
        data: Makes the datamodule from the folder of the data and options.
        augmentations: Augmentations to choose from, by name; see :func:`augmentation`. Most studies have one,
            because a trial is too short to choose it.
        epochs: Training epochs of a trial.
        images: Training images per epoch of a trial; each epoch draws others.
        trials: Default number of trials per algorithm.
        precision: Precision of the Trainer.
    """

    title: str
    units: tuple[tuple[int, ...], ...]
    pools: tuple[tuple[int, ...], ...]
    data: Callable[..., PairedDataModule]
    augmentations: tuple[str, ...]
    epochs: int
    images: int
    trials: int
    precision: Any = "32-true"

    @property
    def conv(self) -> bool:
        """Whether the units are convolutional."""
        return bool(self.pools)


def _cifar10_folders(data_dir: str, val_size: float = 5000, **options: Any) -> PairedDataModule:
    return ImageFolderDataModule(
        str(Path(data_dir) / "cifar10"), image_size=32, val_size=val_size, cache=True, **options
    )


_DENSE: dict[str, Any] = {
    "units": ((100, 100), (100, 100)),
    "pools": (),
    "augmentations": ("shift 1", "none", "shift 2"),
    "epochs": 10,
    "images": 20_000,
    "trials": 30,
}
_CONV: dict[str, Any] = {"pools": ((1, 2),) * 3, "trials": 12, "precision": "bf16-mixed"}
_LARGE = ((32, 64), (128, 128), (256, 256))
STUDIES = {
    "dense_clean": Study("the dense network of table 2 on clean MNIST", data=MNISTDataModule, **_DENSE),
    "dense_mixture": Study(
        "the dense network of table 2, 75 % of the training set corrupted",
        data=functools.partial(MNISTDataModule, corruption=PaperMixture(0.75)),
        **{**_DENSE, "augmentations": ("shift 1",)},
    ),
    "mnist_conv": Study(
        "three convolutional units on MNIST",
        units=((32, 32), (64, 64), (128, 128)),
        data=MNISTDataModule,
        augmentations=("affine",),
        epochs=4,
        images=20_000,
        **_CONV,
    ),
    "fashion_mnist_conv": Study(
        "the convolutional network of cifar10_conv.yaml on Fashion-MNIST",
        units=_LARGE,
        data=FashionMNISTDataModule,
        augmentations=("flip, shift 2",),
        epochs=4,
        images=20_000,
        **_CONV,
    ),
    "cifar10_conv": Study(
        "the convolutional network of cifar10_conv.yaml, CIFAR-10 in class folders DATA_DIR/cifar10",
        units=_LARGE,
        data=_cifar10_folders,
        augmentations=("flip, shift 4",),
        epochs=6,
        images=20_000,
        **_CONV,
    ),
}
"""The studies by the name that ``tune`` takes."""

_NORMALIZATIONS: dict[str, Callable[[], nn.Module]] = {
    "norm 20": functools.partial(UnitL2, 20),
    "norm 10": functools.partial(UnitL2, 10),
    "rms": RMS,
    "layer": GroupNormalization,
    "none": NoNormalization,
}
_GOODNESS: dict[str, Callable[[], Goodness]] = {
    "channels": ChannelGoodness,
    "mean": MeanActivation,
    "head": LinearHead,
    "pooled head": functools.partial(LinearHead, pool=4),
    "patches": functools.partial(PatchGoodness, patches=2),
}
_STEPS: dict[str, Callable[[], Augmentation]] = {
    "flip": HorizontalFlip,
    "affine": functools.partial(RandomAffine, degrees=10, scale=0.1, shift=0.07),
    **{f"shift {n}": functools.partial(RandomShift, n) for n in (1, 2, 4)},
}


def augmentation(name: str) -> Augmentation | None:
    """Return the augmentation of a name such as ``flip, shift 4``; ``none`` is none."""
    steps = [] if name == "none" else [_STEPS[step]() for step in name.split(", ")]
    return InOrder(steps) if len(steps) > 1 else steps[0] if steps else None


def space(study: Study, algorithm: str) -> Space:
    """Return the settings that are searched, by name, with their ranges."""
    found: Space = {
        "learning_rate": Range(3e-4, 1e-2, 3e-3, log=True),
        "weight_decay": Range(1e-4, 0.5, 0.05, log=True),
        "batch_size": Choice((128, 64, 256)),
        "warmup": Range(0.0, 0.2, 0.05),
        "activation": Choice(("GELU", "ReLU", "LeakyReLU")),
        "normalization": Choice(
            ("rms", "layer", "none") if study.conv else ("norm 20", "norm 10", "rms", "layer", "none")
        ),
        "augmentation": Choice(study.augmentations),
    }
    if algorithm == "bp":
        return found | {"label_smoothing": Range(0.0, 0.2, 0.0)}
    if algorithm == "channels" or (algorithm == "ff" and study.conv):
        dense = ("channels", "mean", "head")
        found["goodness"] = Choice(("pooled head", *dense, "patches") if study.conv else dense)
    else:
        found["wrong_labels"] = Choice((1, 3) if study.conv else (9, 1, 3))  # convolutions read every one
    return found | {
        "threshold_weight": Range(0.0, 1.0, 0.1),
        "collaboration": Range(0.0, 1.0, 0.0),
        "temperature": Range(0.1, 2.0, 1.0, log=True),
    }


def start_of(study: Study, algorithm: str) -> dict[str, Any]:
    """Return the settings with which a search starts."""
    return {setting: values.start for setting, values in space(study, algorithm).items()}


def candidate_votes(count: int) -> list[list[int]]:
    """Return the votes that a trial compares: the last units down to the first, and each unit alone."""
    everyone = list(range(count))
    return [everyone[k:] for k in everyone] + [[k] for k in everyone[:-1]]


def _units(study: Study, algorithm: str, activation: str) -> list[HiddenUnit]:
    if not study.conv:
        widths = (
            [[w] for unit in study.units for w in unit] if algorithm == "ff" else [list(unit) for unit in study.units]
        )
        return [DenseUnit(own, activation=activation, initialization="kaiming_normal") for own in widths]
    options: dict[str, Any] = {"norm": "batch", "activation": activation, "channels_last": True}
    units = [(list(own), list(pools)) for own, pools in zip(study.units, study.pools, strict=True)]
    if algorithm == "ff":
        units = [([width], [pool]) for own, pools in units for width, pool in zip(own, pools, strict=True)]
    return [ConvUnit(own, pool=pools, **options) for own, pools in units]


def make(
    study: Study, algorithm: str, settings: Settings, data_dir: str, vote: Sequence[int] | None = None, **options: Any
) -> tuple[Network, PairedDataModule]:
    """Make the module and the datamodule of some settings.

    Args:
        study: Network and data.
        algorithm: One of :data:`ALGORITHMS`.
        settings: A value for each name of :func:`space`.
        data_dir: Folder of the data.
        vote: Numbers of the units that classify; ``None`` takes all.
        **options: Further arguments of the datamodule.
    """
    wrong = settings.get("wrong_labels")
    data = study.data(
        data_dir=data_dir,
        batch_size=settings["batch_size"],
        augmentation=augmentation(settings["augmentation"]),
        negatives=None if wrong is None else WrongLabels(wrong),
        **options,
    )
    rates = {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]}
    schedule: dict[str, Any] = {
        "optimizer": functools.partial(torch.optim.AdamW, **rates, fused=True),
        "scheduler": functools.partial(CosineDecay, warmup=settings["warmup"]),
    }
    units, normalization = (
        _units(study, algorithm, settings["activation"]),
        _NORMALIZATIONS[settings["normalization"]](),
    )
    if algorithm == "bp":
        body = UnitChain(units, normalization=normalization)
        return BackpropModule(body, label_smoothing=settings["label_smoothing"], **schedule), data
    by_class = wrong is None
    module = IntFFModule(
        units,
        encoder=None if by_class else FourierPattern() if study.conv else LabelOverlay(),
        normalization=normalization,
        goodness=_GOODNESS[settings.get("goodness", "channels")]() if by_class else None,
        loss=LabelCrossEntropy(
            threshold_weight=settings["threshold_weight"],
            collaboration=settings["collaboration"],
            temperature=settings["temperature"],
        ),
        vote=None if vote is None else list(vote),
        **schedule,
    )
    return module, data
