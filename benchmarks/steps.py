"""A training step by IntFF against one by backpropagation, and what each of the package's optimizations gives.

Lightning's Trainer trains the same layers on random images. IntFF's units see twice the batch, positive and negative:
two forward passes, and two backward passes that end at the border of the unit. An optimization is measured by leaving
it out. All take turns in one process.
"""

import argparse
import functools
import statistics

import torch
from torch import Tensor

from benchmarks.opponents import (
    BP,
    BY_CLASS,
    CHECKPOINTING,
    IMMEDIATE,
    JOINT,
    MICRO_BATCHES,
    NINE,
    NINE_IN_CHUNKS,
    PAPER,
    Network,
    Rule,
    median_step,
    take_turns,
)
from benchmarks.results import add_device, add_quick, draw_ratios, write
from intff_lightning.labels import LabelOverlay
from intff_lightning.lightning_compat import quiet
from intff_lightning.local import Goodness

HELP = "a training step against backpropagation, and what each optimization gives"

BATCH = 256
NETWORKS = {  # and the steps per turn
    "the paper's, (784,(200,200,200),(50,50))": (PAPER, 20),
    "16 units of 512": (Network(((512,),) * 16), 5),
    "convolution, 4 units of 16C3": (Network(((16,),) * 4, conv=True), 3),
}
ROUNDS = 9


class Opaque(LabelOverlay):
    """The label overlay, but a first unit cannot read image and label apart."""

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        overlaid = image.flatten(1).clone()
        overlaid[:, : self.num_classes] = 0
        if label is not None:
            overlaid.scatter_(1, label.unsqueeze(1), image.flatten(1).amax(1, keepdim=True))
        return overlaid.view_as(image)

    def one_hot_value(self, image: Tensor) -> None:
        return None


class PlainSquares(Goodness):
    """Mean of squares with autograd's own backward pass."""

    def forward(self, h: Tensor) -> Tensor:
        flat = h.flatten(1)
        mean_square: Tensor = torch.linalg.vecdot(flat, flat) / flat.shape[1]
        return mean_square


RULES = [
    BP,
    CHECKPOINTING,
    MICRO_BATCHES,
    IMMEDIATE,
    JOINT,
    BY_CLASS,
    NINE,
    NINE_IN_CHUNKS,
    Rule("immediate, image read for each label", lambda network: network.intff(encoder=Opaque())),
    Rule("immediate, goodness by autograd", lambda network: network.intff(PlainSquares)),
    Rule("immediate, Adam not fused", lambda n: n.intff(optimizer=functools.partial(torch.optim.Adam, lr=1e-3))),
    Rule("immediate, units compiled", lambda network: network.intff(compile=True)),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_quick(parser)
    add_device(parser)


def main(arguments: argparse.Namespace) -> None:
    quiet()
    torch.manual_seed(0)
    rules = RULES[:-1] if arguments.quick else RULES
    rows, groups = [], {}
    for name, (network, steps) in list(NETWORKS.items())[: 1 if arguments.quick else None]:
        steps = 1 if arguments.quick else steps
        turns = {rule.name: median_step(rule, network, BATCH, steps, arguments.device) for rule in rules}
        if not arguments.quick:
            take_turns(turns, 1)  # compilation, and memory that is allocated once
        times = take_turns(turns, 1 if arguments.quick else ROUNDS)
        groups[name] = {}
        for rule, values in times.items():
            ratios = [mine / theirs for mine, theirs in zip(values, times[BP.name], strict=True)]
            groups[name][rule] = statistics.median(ratios), min(ratios), max(ratios)
            row = {"network": name, "rule": rule, "a step, ms (median)": 1e3 * statistics.median(values)}
            rows.append(row | dict(zip(("of BP (median)", "min", "max"), groups[name][rule], strict=True)))
    note = f"{arguments.device}, batches of {BATCH} images; medians over {len(values)} turns, ratios turn by turn."
    write("steps", arguments.out, rows, note)
    draw_ratios(arguments.out / "steps.png", groups, "time of a training step, relative to BP")
