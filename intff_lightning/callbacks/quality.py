"""Which callback measures how well a network predicts."""

from typing import Any

from lightning.pytorch.callbacks import Callback

from intff_lightning.callbacks.accuracy import GoodnessAccuracy
from intff_lightning.callbacks.anomaly import AnomalyScore
from intff_lightning.callbacks.regression import RegressionMetrics
from intff_lightning.datamodules import OneClassDataModule
from intff_lightning.regression import Regressor


def metrics_of(module: Any, data: Any = None) -> Callback:
    """Return the callback that measures how well a module predicts: accuracy, or that of its task.

    Args:
        module: The module.
        data: Its datamodule; of one class, anomalies are looked for.
    """
    if isinstance(data, OneClassDataModule):
        return AnomalyScore()
    return RegressionMetrics() if isinstance(module, Regressor) else GoodnessAccuracy()
