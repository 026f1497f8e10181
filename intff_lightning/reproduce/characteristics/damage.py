"""Damage: test accuracy of a network some of whose neurons are silent.

A neuron is an output of a layer; in a convolution, a channel. A neuron that is removed is zero for every image. Nothing
is trained afterwards, and the units that vote stay the same.
"""

from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from intff_lightning.draws import Draws, derived_seed
from intff_lightning.reproduce.characteristics.networks import Trained
from intff_lightning.reproduce.characteristics.reading import (
    UNIT_LAYERS,
    accuracy,
    layers,
    read_layers,
    watching,
)

WHOLE = "nothing removed"
_DRAWS = 3


def measure(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return the accuracy without a unit, and without half of the neurons of each layer of a unit or of all units.

    A unit stands for ``UNIT_LAYERS`` layers whatever the algorithm is. Half of the neurons is the mean of three draws
    (two in a quick look), which are the same for all algorithms. Damage to layers that no prediction depends on
    changes nothing, and is not compared.
    """
    count, used = len(layers(trained.module)), read_layers(trained.module)
    units = {
        f"unit {1 + first // UNIT_LAYERS} of {count // UNIT_LAYERS}": range(first, first + UNIT_LAYERS)
        for first in range(0, count, UNIT_LAYERS)
    }
    draws = range(2 if quick else _DRAWS)
    values = {WHOLE: without(trained, range(0), 0)}
    unread = []
    for name, chosen in units.items():
        removed, half = f"{name} removed", f"half of {name}"
        values[removed] = without(trained, chosen, None)
        values[half] = fmean(without(trained, chosen, draw) for draw in draws)
        unread += [removed, half] if chosen.start >= used else []
    values["half of all units"] = fmean(without(trained, range(count), draw) for draw in draws)
    return [
        {"what": what, "measure": "accuracy", "value": value, "better": "" if what in unread else "higher"}
        for what, value in values.items()
    ]


def without(trained: Trained, chosen: range, draw: int | None) -> float:
    """Return the test accuracy without neurons of the layers that are chosen by number.

    Args:
        trained: The network.
        chosen: Numbers of the layers.
        draw: Number of the draw of half of the neurons; ``None`` removes all of them.
    """

    def silence(k: int, output: Tensor) -> Tensor | None:
        if k not in chosen:
            return None
        if draw is None:
            return torch.zeros_like(output)
        kept = kept_neurons(output.shape[1], trained.seed, draw, k).to(output.device)
        return output * kept.view(-1, *[1] * (output.ndim - 2))

    with watching(layers(trained.module), silence):
        return accuracy(trained.module, trained.test)


def kept_neurons(width: int, seed: int, draw: int, layer: int) -> Tensor:
    """Return which half of the neurons of a layer stays, ``(width,)``; of an odd number, the larger half."""
    order = Draws(derived_seed(seed, draw), 0, torch.arange(width), stream=layer).shuffle()
    return order >= width // 2
