"""Callbacks: metrics of goodness and accuracy, the linear probe, and what a person sees of them."""

from intff_lightning.callbacks.accuracy import GoodnessAccuracy
from intff_lightning.callbacks.figures import TrainingFigures
from intff_lightning.callbacks.goodness import GoodnessLogger
from intff_lightning.callbacks.predictions import PredictionWriter
from intff_lightning.callbacks.probe import LinearProbe
from intff_lightning.callbacks.terminal import EpochLine, ResultTable

__all__ = [
    "EpochLine",
    "GoodnessAccuracy",
    "GoodnessLogger",
    "LinearProbe",
    "PredictionWriter",
    "ResultTable",
    "TrainingFigures",
]
