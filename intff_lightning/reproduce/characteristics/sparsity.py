"""Sparsity of activations: how few neurons carry the activations of a layer for one image."""

from collections import defaultdict
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from intff_lightning.reproduce.characteristics.networks import Trained
from intff_lightning.reproduce.characteristics.reading import UNIT_LAYERS, predicted_activations
from intff_lightning.reproduce.rounds import batches

SILENT = 0.01
"""A neuron counts as silent below this share of the largest activation of its layer for the same image."""


def measure(trained: Trained, data_dir: str, quick: bool = False) -> list[dict[str, Any]]:
    """Return Hoyer's sparsity and the share of silent neurons, means over the test images and the layers of a unit.

    A network that reads labels is shown each image under the label that it predicts. A map counts as one neuron per
    position.
    """
    found: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for image, _ in batches(trained.test, trained.module.device):
        for k, output in enumerate(predicted_activations(trained.module, image)):
            found[k].append((hoyer(output).cpu(), silent(output).cpu()))
    means = [
        [float(torch.cat(values).double().mean()) for values in zip(*parts, strict=True)] for parts in found.values()
    ]
    count = len(means)
    groups = {
        f"unit {1 + first // UNIT_LAYERS} of {count // UNIT_LAYERS}": means[first : first + UNIT_LAYERS]
        for first in range(0, count, UNIT_LAYERS)
    }
    return [
        {"what": what, "measure": name, "value": fmean(layer[number] for layer in group), "better": "higher"}
        for what, group in {**groups, "all units": means}.items()
        for number, name in enumerate(("Hoyer sparsity", "silent neurons"))
    ]


def hoyer(h: Tensor) -> Tensor:
    r"""Return the sparsity of activations (Hoyer 2004), 0 if all are equal and 1 if only one is not zero.

    .. math:: \frac{\sqrt{n} - \lVert h \rVert_1 / \lVert h \rVert_2}{\sqrt{n} - 1}

    Args:
        h: ``(B, *)`` with n activations per sample.

    Returns:
        ``(B,)``; 1 for a sample whose activations are all zero.
    """
    flat = h.flatten(1).float()
    root: float = flat.shape[1] ** 0.5
    norm: Tensor = torch.linalg.vector_norm(flat, dim=1)
    ratio: Tensor = torch.where(norm > 0, flat.abs().sum(1) / norm.clamp(min=1e-30), 1.0)
    return (root - ratio) / (root - 1)


def silent(h: Tensor) -> Tensor:
    """Return the share of the activations ``(B, *)`` of each sample that are at most :data:`SILENT` of its largest."""
    flat = h.flatten(1).abs()
    return (flat <= SILENT * flat.amax(1, keepdim=True)).float().mean(1)
