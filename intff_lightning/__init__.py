"""Integrated Forward-Forward learning as PyTorch Lightning modules.

Reading order: ``functional`` (the paper's equations), ``labels`` and ``negatives`` (what the network is shown),
``local`` and ``units`` (hidden units; ``splitting`` makes them of a network that exists), ``module`` (the algorithm),
``classifier`` (the trained network), ``backprop`` (the baseline), ``corruptions`` (what can be wrong with a training
set), then ``datamodules``, ``callbacks``, ``cli`` and ``reproduce`` (the paper's tables and figures) around them.
"""

import sys
import warnings

if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
    warnings.warn(
        "intff_lightning is made of `lightning`, whose modules a Trainer of `pytorch_lightning` does not take: "
        "write `import lightning.pytorch as pl` in place of `import pytorch_lightning as pl`.",
        stacklevel=2,
    )

from intff_lightning._version import __version__
from intff_lightning.backprop import BackpropModule
from intff_lightning.labels import FourierPattern, LabelEmbedding, LabelOverlay, LabelPlanes, LabelToken, NoLabel
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import (
    GaussianNoise,
    HardLabels,
    HybridImages,
    Perturbed,
    Rotated,
    ShuffledLabels,
    WrongLabels,
)
from intff_lightning.pairs import PairedBatch
from intff_lightning.splitting import split
from intff_lightning.units import AttentionUnit, ConvUnit, DenseUnit, HiddenUnit, RecurrentUnit, TorchvisionUnit

__all__ = [
    "AttentionUnit",
    "BackpropModule",
    "ConvUnit",
    "DenseUnit",
    "FourierPattern",
    "GaussianNoise",
    "HardLabels",
    "HiddenUnit",
    "HybridImages",
    "IntFFModule",
    "LabelEmbedding",
    "LabelOverlay",
    "LabelPlanes",
    "LabelToken",
    "NoLabel",
    "PairedBatch",
    "Perturbed",
    "RecurrentUnit",
    "Rotated",
    "ShuffledLabels",
    "TorchvisionUnit",
    "WrongLabels",
    "__version__",
    "split",
]
