"""Procedures: how a row is trained, by the author's steps, by ours, or by ours without a label in the image."""

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
from intff_lightning.reproduce.rows import AUTHOR, CONVOLUTION, HELD_OUT, Row
from intff_lightning.reproduce.spaces import STUDIES, make
from intff_lightning.reproduce.winners import WINNERS
from intff_lightning.units import DenseUnit, HiddenUnit
from intff_lightning.units.hidden import initialize

_CORRUPTIONS: dict[str, type[Corruption]] = {
    "mixture": PaperMixture,
    "gaussian_pixels": GaussianPixels,
    "unloaded_rows": UnloadedRows,
    "noise_images": NoiseImages,
    "label_noise": LabelNoise,
}


@dataclass(frozen=True)
class Procedure:
    """A row ready to be trained.

    Args:
        module: The untrained network.
        data: Its datamodule.
        epochs: Number of training epochs.
        passes: Passes of each unit over the training set.
    """

    module: Network
    data: MNISTDataModule
    epochs: int
    passes: int


class Convolution(Recorded, nn.Sequential):
    """Body of the paper's convolutional network for 28x28 images: two convolutions with pooling, two dense layers.

    Args:
        dropout: Dropout rate before the softmax; the author's is 0.5.
        glorot: Initialize as Keras does, else as in He et al. (2015).
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


class KerasBackprop(BackpropModule):
    """Backpropagation whose softmax layer starts as in Keras: Glorot uniform weights, zero bias."""

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().build(input_shape, num_classes)
        for layer in self.head.modules():
            if isinstance(layer, nn.Linear):
                initialize(layer, "glorot_uniform")


def make_procedure(row: Row, name: str, seed: int, data_dir: str, quick: bool = False) -> Procedure:
    """Make the module and the data of a row.

    Args:
        row: Row of a table.
        name: ``author``, ``author_held_out``, ``tuned``, or ``channels``: ours with goodness by class instead of labels
            in the image.
        seed: Seed of the data's order, negatives, augmentation and corruption.
        data_dir: Folder of MNIST.
        quick: Two epochs on a thousand images; the author's procedure with two inner steps.
    """
    corruption = None if row.corruption == "clean" else _CORRUPTIONS[row.corruption](row.rate)
    options: dict[str, Any] = {"data_dir": data_dir, "seed": seed, "corruption": corruption}
    if quick:
        options |= {"train_size": 1000} | ({"val_size": 200} if row.table == "ablation" else {})
    if row.table == "ablation":
        module, data = make_ablation(row.network, options)
        epochs = 2 if quick else EPOCHS
        return Procedure(module, MNISTDataModule(**data), epochs, epochs)
    if name == HELD_OUT:
        options = {"train_size": 55_000, **options}  # the last 5,000 are for validation
    return _author(row, options, quick) if name in AUTHOR else _tuned(row, name, options, quick)


def _author(row: Row, options: dict[str, Any], quick: bool) -> Procedure:
    """Follow the author: the whole set as one batch for IntFF and FF, Keras's defaults for BP, no validation data."""
    clean = row.corruption == "clean"
    if row.algorithm == "bp":
        data = MNISTDataModule(val_size=0, batch_size=128, **options)
        # Keras's Adadelta: its learning rate is 0.001, where torch's is 1
        optimizer = functools.partial(torch.optim.Adadelta, lr=0.001, rho=0.95, eps=1e-7)
        epochs = 2 if quick else 1500 if clean and row.network != CONVOLUTION else 500
        return Procedure(KerasBackprop(_bp_body(row, author=True), optimizer=optimizer), data, epochs, epochs)
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
    return Procedure(module, data, epochs, epochs * inner)


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
        epochs: Epochs over which the learning rate falls to zero along a cosine, after a rise over the first 5 %.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        loss: Local loss of every unit; ``None`` for backpropagation.
        vote: Numbers of the units that classify; ``None`` takes all.
        by_class: Use goodness by class, and show no label in the image.
        activation: Activation function of the units.
    """

    epochs: int
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    loss: LocalLoss | None = None
    vote: list[int] | None = None
    by_class: bool = False
    activation: str = "LeakyReLU"  # the next unit also learns from negative activations


def _settings(row: Row, name: str) -> _Settings:
    """Return our settings for a row, chosen on the last 5,000 training images, clean and held out.

    Those of ``channels`` were chosen for IntFF on the paper's mixture, and used for its other rows as well. Corrupted
    sets are larger and come in many rows, so all three algorithms get 20 epochs there.
    """
    epochs = 40 if row.corruption == "clean" and row.table != "robustness" else 20
    if row.network == CONVOLUTION:
        return _Settings(epochs=10, learning_rate=1e-3, weight_decay=0.1)
    if row.algorithm == "bp":
        return _Settings(epochs, weight_decay=0.1)
    if name == "channels":
        loss = LabelCrossEntropy(threshold_weight=0.1, collaboration=0.5)
        return _Settings(epochs, weight_decay=0.1, loss=loss, by_class=True, activation="GELU")
    if row.algorithm == "ff":
        # deeper one-layer units know too little about the image: with their votes, accuracy was lower
        return _Settings(epochs, loss=LabelCrossEntropy(threshold_weight=0.1, collaboration=0.5), vote=[0])
    return _Settings(epochs, loss=LabelCrossEntropy(threshold_weight=0.5, collaboration=0.5))


def study_of(row: Row) -> str:
    """Return the study whose network and data are those of a row, or an empty name.

    The rows of the robustness table have no study, so that all their corruptions are compared by the same settings.
    """
    if row.table != "table2" or (row.algorithm == "intff" and len(row.units) != 2):
        return ""
    return "dense_mixture"


def _tuned(row: Row, name: str, options: dict[str, Any], quick: bool) -> Procedure:
    """Use minibatches, one-pixel shifts, and AdamW with a cosine; BP gets the same data, shifts and schedule.

    A row whose settings were searched (:mod:`intff_lightning.reproduce.tuning`) takes the winner of the search.
    """
    chosen = _settings(row, name)
    epochs = 2 if quick else chosen.epochs
    algorithm = name if name == "channels" and row.algorithm == "intff" else row.algorithm
    won = WINNERS.get((study_of(row), algorithm)) if name == "tuned" or algorithm == "channels" else None
    if won is not None:
        own = {key: value for key, value in options.items() if key != "corruption"}  # the study has its own
        module, data = make(STUDIES[study_of(row)], algorithm, won["settings"], vote=won["vote"], **own)
        assert isinstance(data, MNISTDataModule)  # of the dense study
        return Procedure(module, data, epochs, epochs)
    data = MNISTDataModule(
        batch_size=128,
        negatives=None if chosen.by_class else WrongLabels(9),  # goodness by class does not read them
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
        return Procedure(BackpropModule(_bp_body(row, author=False), **schedule), data, epochs, epochs)
    units: list[HiddenUnit] = [
        DenseUnit(widths, activation=chosen.activation, initialization="kaiming_normal") for widths in row.units
    ]
    goodness = ChannelGoodness() if chosen.by_class else None
    parts: dict[str, Any] = {"normalization": UnitL2(gain=20), "goodness": goodness, "loss": chosen.loss}
    return Procedure(IntFFModule(units, vote=chosen.vote, **parts, **schedule), data, epochs, epochs)
