"""Callbacks: metrics of goodness and accuracy, the linear probe, and what a person sees of them."""

from intff_lightning.callbacks.accuracy import GoodnessAccuracy
from intff_lightning.callbacks.figures import TrainingFigures
from intff_lightning.callbacks.goodness import GoodnessLogger
from intff_lightning.callbacks.predictions import PredictionWriter
from intff_lightning.callbacks.probe import LinearProbe
from intff_lightning.callbacks.progress import UnitProgress
from intff_lightning.callbacks.terminal import TerminalReport

__all__ = [
    "GoodnessAccuracy",
    "GoodnessLogger",
    "LinearProbe",
    "PredictionWriter",
    "TerminalReport",
    "TrainingFigures",
    "UnitProgress",
]
