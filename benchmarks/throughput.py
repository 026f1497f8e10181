"""Epoch time of IntFF on MNIST, default callbacks and loggers on, against bare PyTorch loops of the same math.

A bare loop does the same with nothing around it: tensors in memory, label overlay, one strictly wrong label, the same
units and losses, and Adam with PyTorch's defaults, or fused as in the config. All take turns, epoch by epoch, in one
process, and ratios are medians over the epochs. The paper's network is that of ``configs/mnist_plain.yaml``. Two more
networks, a deep and a convolutional one, are trained on fewer batches. ``benchmarks steps`` compares with
backpropagation.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.opponents import PAPER, Network
from benchmarks.results import add_quick, draw_ratios, write
from intff_lightning import cli
from intff_lightning.datamodules import MNISTDataModule
from intff_lightning.reproduce.options import count

HELP = "epoch time against bare PyTorch loops"

BATCH = 256
OURS = "intff_lightning"
NETWORKS: dict[str, tuple[Network, int]] = {  # and the batches per epoch
    "the paper's, (784,(200,200,200),(50,50))": (PAPER, 214),
    "16 units of 512": (Network(((512,),) * 16), 40),
    "convolution, 4 units of 16C3": (Network(((16,),) * 4, conv=True), 20),
}


class BareLoop:
    """The same training, as short as PyTorch allows.

    Args:
        image: ``(N, 1, 28, 28)`` uint8.
        target: ``(N,)``.
        network: Sizes of the units.
        batches: Number of batches per epoch.
        fused: Use fused Adam.
        gain: L2 norm of the units' normalized inputs.
    """

    def __init__(
        self, image: Tensor, target: Tensor, network: Network, batches: int, fused: bool, gain: float = 10.0
    ) -> None:
        self.image, self.target, self.batches, self.gain = image.float() / 255, target, batches, gain
        if not network.conv:
            self.image = self.image.flatten(1)
        self.units = []
        size = 1 if network.conv else self.image.shape[1]
        for widths in network.widths:
            layers: list[nn.Module] = []
            for i, o in pairwise([size, *widths]):
                layers += [nn.Conv2d(i, o, 3, padding=1) if network.conv else nn.Linear(i, o), nn.ReLU()]
            self.units.append(nn.Sequential(*layers))
            size = widths[-1]
        self.optimizers = [torch.optim.Adam(unit.parameters(), lr=3e-3, fused=fused or None) for unit in self.units]

    def overlay(self, image: Tensor, label: Tensor) -> Tensor:
        x = image.clone()
        pixels = x.flatten(1)
        pixels[:, :10] = 0
        pixels[torch.arange(len(x)), label] = image.flatten(1).amax(1)
        return x

    def epoch(self) -> None:
        order = torch.randperm(len(self.target))[: self.batches * BATCH]
        for index in order.split(BATCH):
            image, target = self.image[index], self.target[index]
            self.step(image, target, (target + torch.randint(1, 10, target.shape)) % 10)

    def step(self, image: Tensor, target: Tensor, wrong: Tensor) -> None:
        x = torch.cat([self.overlay(image, target), self.overlay(image, wrong)])
        for unit, optimizer in zip(self.units, self.optimizers, strict=True):
            norm = x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
            h = unit(self.gain * x / (norm + 1e-4))
            positive, negative = h.flatten(1).square().mean(1).chunk(2)
            loss = 0.5 * softplus(1.5 - positive).mean() + 0.5 * softplus(negative - 1.5).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            x = h.detach()


class TakeTurns(L.Callback):
    """Times each epoch of the trainer. After it every bare loop runs one, in one order and then in the other.

    Args:
        network: Name in :data:`NETWORKS`.
        batches: Number of batches per epoch.
        data_dir: Folder of MNIST.
        val_size: Validation samples, which are not trained on.
        out: JSON file for the seconds of every loop's epochs.
    """

    def __init__(self, network: str, batches: int, data_dir: str, val_size: float, out: str) -> None:
        train: Any = MNISTDataModule(data_dir, val_size=val_size).dataset("train")
        sizes, _ = NETWORKS[network]
        kinds = {"bare loop": False, "bare loop, fused Adam": True}
        self.bare = {name: BareLoop(train.image, train.target, sizes, batches, fused) for name, fused in kinds.items()}
        self.out = Path(out)
        self.ours: list[float] = []
        self.theirs: dict[str, list[float]] = {name: [] for name in self.bare}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        if trainer.current_epoch:  # the loop's own work between epochs counts as ours
            self.ours.append(self._ended - self._started + now - self._resumed)
        self._started = now

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended = self._resumed = time.perf_counter()
        for name in list(self.bare)[:: 1 if trainer.current_epoch % 2 else -1]:
            self.bare[name].epoch()
            now = time.perf_counter()
            self.theirs[name].append(now - self._resumed)
            self._resumed = now

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # without the first epochs, which warm up, and the last, which has no end here
        seconds = {OURS: self.ours[1:], **{name: times[1:-1] for name, times in self.theirs.items()}}
        self.out.write_text(json.dumps(seconds))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_quick(parser)
    parser.add_argument("--epochs", type=count, default=8, help="epochs of each loop that count; two more are run")


def main(arguments: argparse.Namespace) -> None:
    networks = NETWORKS
    if arguments.quick:  # the dense and the convolutional units
        networks = {name: (network, 2) for name, (network, _) in NETWORKS.items() if network is PAPER or network.conv}
    rows = [row for name, (network, batches) in networks.items() for row in _turns(name, network, batches, arguments)]
    note = f"{arguments.epochs} epochs of each network and loop, batches of {BATCH} images and their negatives."
    write("throughput", arguments.out, rows, note)
    ratios: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        if row["loop"] != OURS:
            ratio = (row["ours / this loop (median)"], row["least"], row["most"])
            ratios.setdefault(f"against the {row['loop']}", {})[row["network"]] = ratio
    draw_ratios(arguments.out / "throughput.png", ratios, "time of an epoch, relative to the bare loop")


def _turns(name: str, network: Network, batches: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    data = MNISTDataModule(arguments.data_dir, val_size=0.2 if arguments.quick else 5000)
    data.prepare_data()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        turns = {"network": name, "batches": batches, "data_dir": str(data.data_dir), "val_size": data.val_size}
        callback = {"class_path": "benchmarks.throughput.TakeTurns", "init_args": {**turns, "out": str(out)}}
        options = {
            "--trainer.max_epochs": arguments.epochs + 2,
            "--trainer.limit_train_batches": batches,
            "--trainer.default_root_dir": folder,
            "--trainer.callbacks+": json.dumps(callback),
            "--data.data_dir": data.data_dir.as_posix(),
            "--data.val_size": data.val_size,
            "--test_after_fit": "false",
        }
        if network is not PAPER:
            options["--model.units"] = json.dumps([_unit(network, widths) for widths in network.widths])
        parts = [f"{option}={value}" for option, value in options.items()]
        assert cli.main(["fit", "--config", "configs/mnist_plain.yaml", *parts]) == 0
        seconds = json.loads(out.read_text())
    rows = []
    for loop, times in seconds.items():
        row = {"network": name, "loop": loop, "a step, ms (median)": 1e3 * statistics.median(times) / batches}
        ratios = [ours / theirs for ours, theirs in zip(seconds[OURS], times, strict=True)]
        row |= {"ours / this loop (median)": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        rows.append(row)
    return rows


def _unit(network: Network, widths: tuple[int, ...]) -> dict[str, Any]:
    """Return a unit of ``configs/mnist_plain.yaml`` with other sizes."""
    kind, sizes = ("ConvUnit", {"channels": widths, "pool": 1}) if network.conv else ("DenseUnit", {"widths": widths})
    return {"class_path": kind, "init_args": sizes}
