"""A training step of three convolutional units in bfloat16 against a bare loop of the same math.

The units have two 3x3 convolutions with batch norm, max-pooling and goodness by class. The loop is plain PyTorch:
autocast, cross-entropy of the classes' goodness, and one fused AdamW per unit. All take turns.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.opponents import Stopwatch, quiet_trainer, take_turns
from benchmarks.results import add_quick, write
from intff_lightning import ConvUnit, IntFFModule
from intff_lightning.datamodules import InMemoryDataset, PairedDataModule
from intff_lightning.lightning_compat import quiet
from intff_lightning.local import RMS, ChannelGoodness, LabelCrossEntropy

HELP = "a step of convolutional units in bfloat16 against a bare loop"

CHANNELS, BATCH, CLASSES, WARM_UP = (48, 96, 192), 128, 10, 3
ADAMW = functools.partial(torch.optim.AdamW, lr=3e-3, fused=True)


def module(channels_last: bool, optimizer: Callable[..., torch.optim.Optimizer] = ADAMW) -> IntFFModule:
    """Make the network."""
    return IntFFModule(
        [ConvUnit([width, width], norm="batch", channels_last=channels_last) for width in CHANNELS],
        normalization=RMS(),
        goodness=ChannelGoodness(),
        loss=LabelCrossEntropy(threshold_weight=0.0, temperature=0.2),
        optimizer=optimizer,
        input_shape=[3, 32, 32],
        num_classes=CLASSES,
    )


def bare_step(
    units: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    x: Tensor,
    target: Tensor,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Take a step of every unit on images ``(B, 3, 32, 32)``; goodness is computed in ``dtype``."""
    for unit, optimizer in zip(units, optimizers, strict=True):
        wide = x.to(dtype)
        h = unit(wide * torch.rsqrt(wide.square().mean((1, 2, 3), keepdim=True) + 1e-8))
        owner = torch.arange(h.shape[1]) * CLASSES // h.shape[1]
        share = nn.functional.one_hot(owner, CLASSES).to(dtype)
        with torch.autocast("cpu", enabled=False):
            goodness = h.to(dtype).square().mean((2, 3)) @ (share / share.sum(0))
            loss = nn.functional.cross_entropy(goodness / 0.2, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        x = h.detach()


def _data(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    size = batch * (WARM_UP + steps)
    return torch.rand(size, 3, 32, 32), torch.randint(CLASSES, (size,))


def _median_step(ends: Sequence[float]) -> float:
    return statistics.median([after - begun for begun, after in pairwise(ends)][WARM_UP - 1 :])


def bare_loop(steps: int, batch: int, channels_last: bool) -> Callable[[], float]:
    """Make a turn of the loop; it returns the median seconds of a step."""
    units = [unit.body for unit in module(channels_last).units]
    optimizers = [ADAMW(unit.parameters()) for unit in units]
    images, targets = _data(steps, batch)

    def turn() -> float:
        ends = []
        for image, target in zip(images.split(batch), targets.split(batch), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                bare_step(units, optimizers, image, target)
            ends.append(time.perf_counter())
        return _median_step(ends)

    return turn


def package(steps: int, batch: int, channels_last: bool) -> Callable[[], float]:
    """Make a turn of the package's Trainer and module."""
    network = module(channels_last)
    data = PairedDataModule(
        train=InMemoryDataset(*_data(steps, batch)), num_classes=CLASSES, batch_size=batch, val_size=0
    )

    def turn() -> float:
        watch = Stopwatch("cpu")
        quiet_trainer("cpu", max_epochs=1, precision="bf16-mixed", callbacks=[watch]).fit(network, data)
        return _median_step(watch.batches)

    return turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_quick(parser)


def main(arguments: argparse.Namespace) -> None:
    quiet()
    torch.manual_seed(0)
    steps, rounds, batch = (1, 1, 8) if arguments.quick else (4, 7, BATCH)
    bare = "bare loop"
    turns = {
        bare: bare_loop(steps, batch, channels_last=False),
        "bare loop, channels last": bare_loop(steps, batch, channels_last=True),
        "IntFF by class": package(steps, batch, channels_last=False),
        "IntFF by class, channels last": package(steps, batch, channels_last=True),
    }
    take_turns(turns, 1)  # memory that is allocated once
    times = take_turns(turns, rounds)
    rows = []
    for name, values in times.items():
        reference = times["bare loop, channels last" if "last" in name else bare]
        ratios = [mine / theirs for mine, theirs in zip(values, reference, strict=True)]
        rows.append(
            {
                "rule": name,
                "a step, ms (median)": 1e3 * statistics.median(values),
                "images per second": batch / statistics.median(values),
                "of the loop (median)": statistics.median(ratios),
                "min": min(ratios),
                "max": max(ratios),
            }
        )
    note = f"Three units of two layers {CHANNELS}, bf16-mixed, batches of {batch}; the loop has the same memory format."
    write("convolution", arguments.out, rows, note)
