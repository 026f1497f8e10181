"""What characteristics read from a network: its scores, its accuracy, and the activations of its layers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.backprop import BackpropModule
from intff_lightning.classifier import LabelClassifier
from intff_lightning.datamodules import InMemoryDataset
from intff_lightning.network import Network
from intff_lightning.reproduce.rounds import batches

UNIT_LAYERS = 2
"""Layers of a unit in both networks. FF trains each of them by itself, and backpropagation all of them together."""


@torch.no_grad()
def scores(module: Network, data: InMemoryDataset) -> Tensor:
    """Return the scores ``(N, C)`` of all images, on the CPU."""
    return torch.cat([module(image).cpu() for image, _ in batches(data, module.device)])


def trained_temperature(module: Network) -> float:
    """Return by what a loss divides goodness before its softmax; 1 if it does not, or units differ, or there are none.

    Scores divided by it are logits as the network was trained to give them.
    """
    if not isinstance(module, LabelClassifier):
        return 1.0
    found = {float(getattr(module.units[k].loss, "temperature", 1.0)) for k in module.vote}
    return found.pop() if len(found) == 1 else 1.0


def accuracy(module: Network, data: InMemoryDataset) -> float:
    """Return the share of the images whose class has the highest score."""
    return share_right(scores(module, data), data.target)


def share_right(found: Tensor, target: Tensor) -> float:
    """Return the share of scores ``(N, C)`` whose highest one is that of the target ``(N,)``."""
    return float((found.argmax(1) == target).double().mean())


def layers(module: Network) -> list[nn.Module]:
    """Return the activation functions of a network in order; their outputs are the activations of its layers."""
    return [part for part in module.modules() if type(part).__module__ == nn.ReLU.__module__]


@contextlib.contextmanager
def watching(watched: list[nn.Module], see: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``see(k, output)`` whenever layer k of these computes; a tensor that it returns takes the output's place."""

    def hook_of(k: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        return lambda layer, inputs, output: see(k, output)

    hooks = [layer.register_forward_hook(hook_of(k)) for k, layer in enumerate(watched)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def predicted_activations(module: Network, image: Tensor) -> list[Tensor]:
    """Return the activations ``(B, *)`` of every layer for images ``(B, *)``.

    A network that reads labels is shown each image under the label that it predicts.
    """
    found: list[Tensor] = []
    shown = image
    if isinstance(module, LabelClassifier) and not module.by_class:
        shown = module.encoder(image, module(image).argmax(1))
    with watching(layers(module), lambda k, output: found.append(output)):
        if isinstance(module, LabelClassifier):
            module.goodness(shown)  # of all units: to predict, those after the last one that votes are not computed
        else:
            module(image)
    return found


def read_layers(module: Network) -> int:
    """Return the number of layers that a prediction depends on: those up to the last unit that votes."""
    count = len(layers(module))
    if not isinstance(module, LabelClassifier):
        return count
    return (max(module.vote) + 1) * count // len(module.units)


def unit_outputs(module: BackpropModule, image: Tensor) -> list[Tensor]:
    """Return what the layers of each unit hand over in a network of backpropagation, ``(B, *)`` each."""
    outputs = module.body.activations(image)
    each = max(1, len(outputs) * UNIT_LAYERS // len(layers(module)))
    return outputs[each - 1 :: each]
