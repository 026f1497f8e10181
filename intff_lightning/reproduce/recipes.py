"""How a row is trained: the author's procedure to the letter, ours, and ours without a label in the image."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from intff_lightning.augmentations import RandomShift
from intff_lightning.backprop import BackpropModule
from intff_lightning.corruptions import Corruption, GaussianPixels, LabelNoise, NoiseImages, PaperMixture, UnloadedRows
from intff_lightning.datamodules import MNISTDataModule
from intff_lightning.local import ChannelGoodness, LabelCrossEntropy, LocalLoss, NoNormalization, UnitL2
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import ShuffledLabels, WrongLabels
from intff_lightning.network import Network
from intff_lightning.optim import CosineDecay, KerasAdam
from intff_lightning.recipe import Recorded
from intff_lightning.reproduce.ablation import EPOCHS, make_ablation
from intff_lightning.reproduce.rows import CONVOLUTION, Row
from intff_lightning.units import DenseUnit, HiddenUnit

__all__ = ["Convolution", "Recipe", "make_recipe"]

_CORRUPTIONS: dict[str, type[Corruption]] = {
    "mixture": PaperMixture,
    "gaussian_pixels": GaussianPixels,
    "unloaded_rows": UnloadedRows,
    "noise_images": NoiseImages,
    "label_noise": LabelNoise,
}


@dataclass(frozen=True)
class Recipe:
    """A row ready to be trained.

    Args:
        module: untrained.
        data: its datamodule.
        epochs: over which it is trained.
        passes: of each unit over the training set.
    """

    module: Network
    data: MNISTDataModule
    epochs: int
    passes: int


class Convolution(Recorded, nn.Sequential):
    """Body of the paper's convolutional network for 28x28 images: two convolutions with pooling, two dense layers.

    Args:
        dropout: before the softmax; the author's is 0.5.
        glorot: initialize as Keras does, else as Kaiming He's paper.
    """

    def __init__(self, dropout: float = 0.5, glorot: bool = False) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        layers += [nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 48), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                (nn.init.xavier_uniform_ if glorot else nn.init.kaiming_normal_)(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


def make_recipe(row: Row, recipe: str, seed: int, data_dir: str, quick: bool = False) -> Recipe:
    """Build a row's module and data.

    Args:
        row: of a table.
        recipe: ``author``, ``tuned``, or ``channels``: ours with a goodness for every class in place of labels.
        seed: of the data's order, negatives, augmentation and corruption.
        data_dir: folder of MNIST.
        quick: two epochs on a thousand images; the author's with two inner steps.
    """
    corruption = None if row.corruption == "clean" else _CORRUPTIONS[row.corruption](row.rate)
    options: dict[str, Any] = {"data_dir": data_dir, "seed": seed, "corruption": corruption}
    if quick:
        options |= {"train_size": 1000} | ({"val_size": 200} if row.table == "ablation" else {})
    if row.table == "ablation":
        module, data = make_ablation(row.network, options)
        epochs = 2 if quick else EPOCHS
        return Recipe(module, MNISTDataModule(**data), epochs, epochs)
    return _author(row, options, quick) if recipe == "author" else _tuned(row, recipe, options, quick)


def _author(row: Row, options: dict[str, Any], quick: bool) -> Recipe:
    """The author's: the whole set as one batch for IntFF and FF, Keras's defaults for BP, no validation data."""
    clean = row.corruption == "clean"
    if row.algorithm == "bp":
        data = MNISTDataModule(val_size=0, batch_size=128, **options)
        # Keras's Adadelta: its learning rate is 0.001, where torch's is 1
        optimizer = functools.partial(torch.optim.Adadelta, lr=0.001, rho=0.95, eps=1e-7)
        epochs = 2 if quick else 1500 if clean else 500
        return Recipe(BackpropModule(_bp_body(row, author=True), optimizer=optimizer), data, epochs, epochs)
    inner = 2 if quick else 50
    epochs = 2 if quick else 100 if clean else 15 if row.algorithm == "ff" else 25
    count = len(row.units)
    units: list[HiddenUnit] = [
        DenseUnit(
            widths,
            initialization="glorot_uniform",
            optimizer=functools.partial(KerasAdam, lr=0.03, shared_by=count, inner_steps=inner, position=position),
        )
        for position, widths in enumerate(row.units)
    ]
    data = MNISTDataModule(val_size=0, batch_size=1_000_000, negatives=ShuffledLabels(), **options)
    module = IntFFModule(units, inner_steps=inner, handover="after")
    return Recipe(module, data, epochs, epochs * inner)


def _bp_body(row: Row, author: bool) -> nn.Module:
    if row.network == CONVOLUTION:
        return Convolution(dropout=0.5, glorot=author)
    widths = [width for unit in row.units for width in unit]
    initialization: Any = "glorot_uniform" if author else "kaiming_normal"
    return DenseUnit(widths, normalization=NoNormalization(), initialization=initialization)


@dataclass(frozen=True)
class _Settings:
    """What was chosen on validation data.

    Args:
        epochs: over which the learning rate falls to zero along a cosine, after a rise over the first 5 %.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        loss: of every unit; ``None`` where there are none.
        vote: units that classify; ``None`` is all.
        by_class: units have a goodness for every class, and images show no label.
        activation: of the units.
    """

    epochs: int
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    loss: LocalLoss | None = None
    vote: list[int] | None = None
    by_class: bool = False
    activation: str = "LeakyReLU"  # what a unit does not fire at still reaches the next one


def _settings(row: Row, recipe: str) -> _Settings:
    """Ours for a row; they were chosen on the last 5,000 training images, clean and held out.

    Those of ``channels`` were chosen for IntFF on the paper's mixture, and taken over to its other rows.
    Corrupted sets are larger and come in many rows: 20 epochs for all three algorithms.
    """
    epochs = 40 if row.corruption == "clean" and row.table != "robustness" else 20
    if row.network == CONVOLUTION:
        return _Settings(epochs=10, learning_rate=1e-3, weight_decay=0.1)
    if row.algorithm == "bp":
        return _Settings(epochs, weight_decay=0.1)
    if recipe == "channels":
        loss = LabelCrossEntropy(threshold_weight=0.1, collaboration=0.5)
        return _Settings(epochs, weight_decay=0.1, loss=loss, by_class=True, activation="GELU")
    if row.algorithm == "ff":
        # deeper one-layer units hear too little of the image: with their votes accuracy was lower
        return _Settings(epochs, loss=LabelCrossEntropy(threshold_weight=0.1, collaboration=0.5), vote=[0])
    return _Settings(epochs, loss=LabelCrossEntropy(threshold_weight=0.5, collaboration=0.5))


def _tuned(row: Row, recipe: str, options: dict[str, Any], quick: bool) -> Recipe:
    """Ours: minibatches, one-pixel shifts, AdamW with a cosine; the same data, shifts and schedule for BP."""
    chosen = _settings(row, recipe)
    epochs = 2 if quick else chosen.epochs
    data = MNISTDataModule(
        batch_size=128,
        negatives=WrongLabels(1 if chosen.by_class else 9),  # by class they are not read
        augmentation=RandomShift(1),
        **options,
    )
    schedule: dict[str, Any] = {
        "optimizer": functools.partial(
            torch.optim.AdamW, lr=chosen.learning_rate, weight_decay=chosen.weight_decay, fused=True
        ),
        "scheduler": functools.partial(CosineDecay, warmup=0.05),
    }
    if row.algorithm == "bp":
        return Recipe(BackpropModule(_bp_body(row, author=False), **schedule), data, epochs, epochs)
    units: list[HiddenUnit] = [
        DenseUnit(
            widths,
            activation=chosen.activation,
            initialization="kaiming_normal",
            normalization=UnitL2(gain=20),
            loss=chosen.loss,
            **({"goodness": ChannelGoodness()} if chosen.by_class else {}),
        )
        for widths in row.units
    ]
    return Recipe(IntFFModule(units, vote=chosen.vote, **schedule), data, epochs, epochs)
