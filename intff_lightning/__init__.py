"""Integrated Forward-Forward learning as PyTorch Lightning modules.

Reading order: ``functional`` (the paper's equations), ``labels`` and ``negatives`` (what the network is shown),
``local`` and ``units`` (hidden units), ``module`` (the algorithm), ``classifier`` (the trained network), then
``datamodules``, ``callbacks`` and ``cli`` around them.
"""

from intff_lightning._version import __version__
from intff_lightning.labels import LabelOverlay
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import ShuffledLabels, WrongLabels
from intff_lightning.pairs import PairedBatch
from intff_lightning.units import DenseUnit, HiddenUnit

__all__ = [
    "DenseUnit",
    "HiddenUnit",
    "IntFFModule",
    "LabelOverlay",
    "PairedBatch",
    "ShuffledLabels",
    "WrongLabels",
    "__version__",
]
