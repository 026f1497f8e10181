"""Callbacks: metrics of goodness and accuracy, the linear probe, checkpoints, and what a person sees of a run."""

from intff_lightning.callbacks.accuracy import GoodnessAccuracy
from intff_lightning.callbacks.anomaly import AnomalyScore, AnomalyWriter
from intff_lightning.callbacks.evaluation import EvaluationCallback
from intff_lightning.callbacks.figures import TrainingFigures
from intff_lightning.callbacks.goodness import GoodnessLogger
from intff_lightning.callbacks.predictions import EstimateWriter, PictureWriter, PredictionWriter
from intff_lightning.callbacks.probe import LinearProbe
from intff_lightning.callbacks.progress import UnitProgress
from intff_lightning.callbacks.quality import metrics_of
from intff_lightning.callbacks.regression import RegressionMetrics
from intff_lightning.callbacks.terminal import TerminalReport
from intff_lightning.checkpoints import BestCheckpoint, LastCheckpoint

__all__ = [
    "AnomalyScore",
    "AnomalyWriter",
    "BestCheckpoint",
    "EstimateWriter",
    "EvaluationCallback",
    "GoodnessAccuracy",
    "GoodnessLogger",
    "LastCheckpoint",
    "LinearProbe",
    "PictureWriter",
    "PredictionWriter",
    "RegressionMetrics",
    "TerminalReport",
    "TrainingFigures",
    "UnitProgress",
    "metrics_of",
]
