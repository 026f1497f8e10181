"""RegressionMetrics: how well numbers are predicted, and how often their intervals hold them."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric, MetricCollection, R2Score

from intff_lightning.callbacks.evaluation import EvaluationCallback
from intff_lightning.network import StepOutput
from intff_lightning.regression import Regressor


class RegressionMetrics(EvaluationCallback):
    """Metrics of a :class:`~intff_lightning.regression.Regressor`, in the units of the data.

    It logs ``val/r2`` (the coefficient of determination R²), ``val/mae`` (mean absolute error), ``val/coverage`` (share
    of the targets that are in their interval) and ``val/interval_width`` (mean), R² of each unit alone
    (``val/r2/unit_0`` and so on), and the same under ``test/``. Of fewer than two samples it logs nothing.
    """

    def __init__(self) -> None:
        self._metrics: MetricCollection | None = None
        self._units: list[R2Score] = []
        self._count = 0

    def on_evaluation_start(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        parts: dict[str, Metric | MetricCollection] = {
            "r2": R2Score(),
            "mae": MeanAbsoluteError(),
            "coverage": MeanMetric(),
            "interval_width": MeanMetric(),
        }
        self._metrics = MetricCollection(parts, compute_groups=False).to(module.device)
        self._units, self._count = [], 0

    def on_evaluation_batch(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any) -> None:
        if not isinstance(module, Regressor):
            return
        assert self._metrics is not None  # the evaluation has begun
        target = module.in_units(batch.target.float())
        value, lower, upper = (outputs["estimate"] if isinstance(outputs, StepOutput) else outputs).float().unbind(1)
        self._metrics["r2"].update(value, target)
        self._metrics["mae"].update(value, target)
        self._metrics["coverage"].update(((lower <= target) & (target <= upper)).float())
        self._metrics["interval_width"].update(upper - lower)
        units: Tensor = outputs["unit_estimate"].float() if isinstance(outputs, StepOutput) else torch.empty(0)
        if len(units) and not self._units:
            self._units = [R2Score().to(module.device) for _ in units]
        for metric, unit in zip(self._units, units, strict=True):
            metric.update(unit, target)
        self._count += len(target)

    def on_evaluation_end(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if self._metrics is None:
            return
        count = trainer.strategy.reduce(torch.tensor(float(self._count), device=module.device), reduce_op="sum")
        if float(count) < 2:
            return
        found = {f"{stage}/{name}": float(metric.compute()) for name, metric in self._metrics.items()}
        self.log_reduced(module, {f"{stage}/r2": found.pop(f"{stage}/r2")}, prog_bar=True)
        self.log_reduced(module, found)
        self.log_reduced(
            module, {f"{stage}/r2/unit_{k}": float(metric.compute()) for k, metric in enumerate(self._units)}
        )
