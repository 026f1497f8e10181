"""Epoch time of ``configs/mnist_plain.yaml``, default callbacks and loggers on, against a bare PyTorch loop.

The bare loop does the same math with nothing around it: tensors in memory, label overlay, one strictly wrong label,
the same units, losses and fused Adam. The two take turns, epoch by epoch, in one process; the ratio is the median over
the pairs.
"""

import argparse
import statistics
import time
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.results import summary, write
from intff_lightning import cli
from intff_lightning.datamodules import MNISTDataModule


class BareLoop:
    """The same training, as short as PyTorch allows."""

    def __init__(self, image: Tensor, target: Tensor, batch_size: int = 256, gain: float = 10.0) -> None:
        self.image, self.target = image.flatten(1).float() / 255, target
        self.batch_size, self.gain = batch_size, gain
        widths = [[784, 200, 200, 200], [200, 50, 50]]
        self.units = []
        for sizes in widths:
            layers: list[nn.Module] = []
            for i, o in pairwise(sizes):
                layers += [nn.Linear(i, o), nn.ReLU()]
            self.units.append(nn.Sequential(*layers))
        self.optimizers = [torch.optim.Adam(unit.parameters(), lr=3e-3, fused=True) for unit in self.units]

    def overlay(self, image: Tensor, label: Tensor) -> Tensor:
        x = image.clone()
        x[:, :10] = 0
        x[torch.arange(len(x)), label] = image.amax(1)
        return x

    def epoch(self) -> int:
        order = torch.randperm(len(self.target))
        batches = len(order) // self.batch_size
        for index in order[: batches * self.batch_size].view(batches, -1):
            image, target = self.image[index], self.target[index]
            wrong = (target + torch.randint(1, 10, target.shape)) % 10
            x = torch.cat([self.overlay(image, target), self.overlay(image, wrong)])
            for unit, optimizer in zip(self.units, self.optimizers, strict=True):
                h = unit(self.gain * x / (x.norm(dim=1, keepdim=True) + 1e-4))
                positive, negative = h.square().mean(1).chunk(2)
                loss = 0.5 * softplus(1.5 - positive).mean() + 0.5 * softplus(negative - 1.5).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                x = h.detach()
        return batches


class TakeTurns(L.Callback):
    """Times each epoch of the trainer, and runs one of the bare loop after it."""

    def __init__(self, bare: BareLoop) -> None:
        self.bare = bare
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        if trainer.current_epoch:  # from the end of the bare epoch: the loop's own work between epochs counts as ours
            self.ours.append(self._ended - self._started + now - self._resumed)
        self._started = now

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended = time.perf_counter()
        self.bare.epoch()
        self._resumed = time.perf_counter()
        self.theirs.append(self._resumed - self._ended)


def main(arguments: argparse.Namespace) -> None:
    data = MNISTDataModule(arguments.data_dir)
    data.prepare_data()
    train: Any = data.dataset("train")
    turns = TakeTurns(BareLoop(train.image, train.target))
    original = cli.IntFFCLI.instantiate_trainer

    def with_turns(self: Any, **options: Any) -> L.Trainer:
        trainer = original(self, **options)
        trainer.callbacks.append(turns)
        return trainer

    cli.IntFFCLI.instantiate_trainer = with_turns
    options = [
        "--trainer.max_epochs",
        str(arguments.epochs + 2),
        "--trainer.default_root_dir",
        str(arguments.out / "logs"),
    ]
    code = cli.main(
        [
            "fit",
            "--config",
            "configs/mnist_plain.yaml",
            "--data.data_dir",
            data.data_dir.as_posix(),
            *options,
            "--test_after_fit",
            "false",
        ]
    )
    assert code == 0
    ours, theirs = turns.ours[1:], turns.theirs[1 : len(turns.ours)]  # the first epoch warms up
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    rows = [
        {
            "loop": name,
            "seconds an epoch (median)": statistics.median(v),
            "min": summary(v)["min"],
            "max": summary(v)["max"],
            "ratio (median)": r,
        }
        for name, v, r in (("intff_lightning", ours, statistics.median(ratios)), ("bare PyTorch", theirs, 1.0))
    ]
    write("throughput", arguments.out, rows, note=f"{len(ours)} pairs of epochs, 214 batches of 256 each.")
