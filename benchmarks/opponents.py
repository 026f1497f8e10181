"""The networks that are compared, with the same sizes under every training rule, and their turns at training."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from intff_lightning import BackpropModule, ConvUnit, DenseUnit, IntFFModule, WrongLabels
from intff_lightning.datamodules import InMemoryDataset, PairedDataModule
from intff_lightning.local import ChannelGoodness, Goodness, MeanSquares

WARM_UP = 3  # steps per turn that do not count
# fused for every rule: it needs no memory beside its state
ADAM = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)


class Layers(nn.Module):
    """Layers one after another; in training, the backward pass computes segments of them again.

    Args:
        layers: Layers of a plain network.
        segments: Number of segments, of which only the inputs are kept; 1 keeps everything.
    """

    def __init__(self, layers: Sequence[nn.Module], segments: int = 1) -> None:
        super().__init__()
        self.layers, self.segments = nn.Sequential(*layers), segments

    def forward(self, x: Tensor) -> Tensor:
        if self.segments == 1 or not torch.is_grad_enabled():
            return self.layers(x)
        return checkpoint_sequential(self.layers, self.segments, x, use_reentrant=False)


@dataclass(frozen=True)
class Network:
    """Sizes of a network: cut into units for IntFF, and the same layers in a row for backpropagation."""

    widths: tuple[tuple[int, ...], ...]
    """Number of neurons, or channels, of each layer of each unit."""
    conv: bool = False
    shape: tuple[int, ...] = (1, 28, 28)
    classes: int = 10

    def intff(self, goodness: Callable[[], Goodness] = MeanSquares, **options: Any) -> IntFFModule:
        """Make an IntFFModule with the paper's loss; its layers exist at once, so that it can be called untrained.

        Args:
            goodness: Makes the goodness of the units.
            **options: Arguments of the module.
        """
        make: Any = functools.partial(ConvUnit, pool=1) if self.conv else DenseUnit
        units = [make(list(layers)) for layers in self.widths]
        options = {
            "goodness": goodness(),
            "optimizer": ADAM,
            "input_shape": list(self.shape),
            "num_classes": self.classes,
            **options,
        }
        return IntFFModule(units, **options)

    def backprop(self, checkpointing: bool = False) -> BackpropModule:
        """Make the same layers with a linear one for the scores.

        Args:
            checkpointing: Use as many segments as the square root of the number of layers, the usual choice.
        """
        widths = [width for layers in self.widths for width in layers]
        layers: list[nn.Module] = []
        for i, o in pairwise([self.shape[0] if self.conv else torch.Size(self.shape).numel(), *widths]):
            layer = nn.Conv2d(i, o, 3, padding=1) if self.conv else nn.Linear(i, o)
            layers.append(nn.Sequential(layer, nn.ReLU(inplace=True)))  # in place, as in the package's units
        if not self.conv:
            layers[0].insert(0, nn.Flatten())
        body = Layers(layers, round(len(layers) ** 0.5) if checkpointing else 1)
        return BackpropModule(body, optimizer=ADAM, input_shape=list(self.shape), num_classes=self.classes)


PAPER = Network(((200, 200, 200), (50, 50)))


@dataclass(frozen=True)
class Rule:
    """A way to train a network."""

    name: str
    make: Callable[[Network], L.LightningModule]
    micro_batches: int = 1
    """Number of parts of a batch whose gradients are accumulated before the step."""
    wrong_labels: int = 1
    """Wrong labels per positive, for rules with negatives."""


IMMEDIATE = Rule("IntFF immediate", lambda network: network.intff())
JOINT = Rule("IntFF joint", lambda network: network.intff(update="joint"))
NINE = Rule("IntFF, nine wrong labels", IMMEDIATE.make, wrong_labels=9)
NINE_IN_CHUNKS = Rule(
    "IntFF, nine wrong labels, in chunks",
    lambda network: network.intff(chunk_size=32 if network.conv else 256),
    wrong_labels=9,
)
BY_CLASS = Rule("IntFF by class", lambda network: network.intff(ChannelGoodness))
BP = Rule("BP", lambda network: network.backprop())
CHECKPOINTING = Rule("BP, checkpointing", lambda network: network.backprop(checkpointing=True))
MICRO_BATCHES = Rule("BP, 4 micro-batches", BP.make, micro_batches=4)


def train(
    module: L.LightningModule,
    network: Network,
    batch_size: int,
    batches: int,
    callback: L.Callback,
    device: str,
    micro_batches: int = 1,
    epochs: int = 1,
    wrong_labels: int = 1,
) -> None:
    """Train on random images of the network's shape.

    Args:
        module: Made by a :class:`Rule`.
        network: Sizes of the network.
        batch_size: Positive samples per step.
        batches: Steps per epoch.
        callback: Measures the training.
        device: ``cpu`` or ``cuda``.
        micro_batches: See :class:`Rule`.
        epochs: Number of epochs.
        wrong_labels: See :class:`Rule`.
    """
    size = batch_size * batches
    image, target = torch.rand(size, *network.shape), torch.randint(network.classes, (size,))
    data = PairedDataModule(
        train=InMemoryDataset(image, target),
        negatives=WrongLabels(wrong_labels),
        num_classes=network.classes,
        batch_size=batch_size // micro_batches,
        val_size=0,
    )
    quiet_trainer(device, max_epochs=epochs, accumulate_grad_batches=micro_batches, callbacks=[callback]).fit(
        module, data
    )


def quiet_trainer(device: str, **options: Any) -> L.Trainer:
    """Make a Trainer without logger, checkpoints and progress bar."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(accelerator=device, devices=1, **dict.fromkeys(off, False), **options)


def now(device: str) -> float:
    """Return the time in seconds, once the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch(L.Callback):
    """Notes when each batch and each epoch ended."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.batches: list[float] = []
        self.epochs: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches.append(now(self.device))

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs.append(now(self.device))


def median_step(rule: Rule, network: Network, batch_size: int, steps: int, device: str) -> Callable[[], float]:
    """Make a turn at training: it returns the median seconds of ``steps`` steps, from the end of one to the next."""
    module, size = rule.make(network), rule.micro_batches

    def turn() -> float:
        watch = Stopwatch(device)
        train(module, network, batch_size, WARM_UP + steps, watch, device, size, wrong_labels=rule.wrong_labels)
        ends = watch.batches[size - 1 :: size]
        return statistics.median([after - before for before, after in pairwise(ends)][WARM_UP - 1 :])

    return turn


def take_turns(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let all measure once per round, in one order and then in the other; returns a list of values for each."""
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 == 0 else -1]:
            values[name].append(contestants[name]())
    return values
