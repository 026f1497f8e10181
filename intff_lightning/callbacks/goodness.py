"""GoodnessLogger: the goodness of positive and negative data in each unit."""

from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor

from intff_lightning.callbacks.evaluation import EvaluationCallback
from intff_lightning.network import StepOutput


@runtime_checkable
class HasGoodness(Protocol):
    """A module that tells the goodness of network inputs; it also needs a label ``encoder``."""

    def goodness(self, x: Tensor) -> Tensor:
        """Map inputs ``(B, *)`` to ``(U, B)``."""
        ...


class _Sums:
    """Sums over samples, per unit and on the device; reduced over processes once, at the end."""

    def __init__(self, auroc_bins: int = 0) -> None:
        self.auroc_bins = auroc_bins
        self.count = 0
        self.sums: Tensor | None = None  # (3, U): loss, positive and negative goodness, times samples
        self.histograms: Tensor | None = None  # (2, U, bins): samples by goodness, positive and negative

    def add(self, positive: Tensor, negative: Tensor, loss: Tensor | None) -> None:
        """Add goodness ``(U, B)`` and ``(U, B, k)``, and local losses ``(U,)`` if they are known."""
        units, size = positive.shape
        loss = positive.new_full((units,), torch.nan) if loss is None else loss
        row = torch.stack([loss, positive.mean(1), negative.mean((1, 2))])  # without negatives, not a number
        # float32 sums over many samples lose digits; only Apple's GPUs have no float64
        row = (row if row.device.type == "mps" else row.double()).mul_(size)
        self.sums = row if self.sums is None else self.sums.add_(row)
        self.count += size
        if self.auroc_bins and negative.numel():
            counts = torch.stack([_histograms(g, self.auroc_bins) for g in (positive, negative.flatten(1))])
            self.histograms = counts if self.histograms is None else self.histograms.add_(counts)

    def means(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """Return means ``(U,)`` over all samples of all processes, by name."""
        if self.sums is None:
            return {}
        packed = torch.cat([self.sums.flatten(), self.sums.new_tensor([self.count])])
        if self.histograms is not None:
            packed = torch.cat([packed, self.histograms.flatten().to(packed.dtype)])
        packed = trainer.strategy.reduce(packed, reduce_op="sum")
        end = self.sums.numel()
        loss, positive, negative = packed[:end].view_as(self.sums)
        count = packed[end]
        means = {
            "loss": loss / count,
            "goodness/positive": positive / count,
            "goodness/negative": negative / count,
            "goodness/margin": (positive - negative) / count,
        }
        if self.histograms is not None:
            means["goodness/auroc"] = _auroc(*packed[end + 1 :].view_as(self.histograms))
        return means


def _histograms(goodness: Tensor, bins: int) -> Tensor:
    """Count samples ``(U, bins)`` of goodness ``(U, N)``, in bins of equal width of g / (1 + g), which keeps the order.

    torchmetrics' binned AUROC keeps a matrix of samples times bins if deterministic algorithms are asked for.
    """
    position = (goodness / (1 + goodness) * bins).nan_to_num(bins, bins, 0).long().clamp(0, bins - 1)
    counts = position.new_zeros(len(goodness), bins)
    return counts.scatter_add_(1, position, torch.ones_like(position))


def _auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the area under the ROC curve ``(U,)`` from counts ``(U, bins)``; a shared bin counts one half."""
    above = positive.flip(-1).cumsum(-1).flip(-1) - positive / 2
    return (above * negative).sum(-1) / (positive.sum(-1) * negative.sum(-1))


class GoodnessLogger(EvaluationCallback):
    """Logs goodness of positive and negative data, their margin, local loss and AUROC, per unit and epoch.

    Training: ``train/loss/unit_0``, ``goodness/positive/unit_0``, ``goodness/negative/unit_0`` and
    ``goodness/margin/unit_0``. Validation and test: ``val/loss/unit_0``, ``val/goodness/positive/unit_0`` and so on,
    and ``val/goodness/auroc/unit_0``, the area under the ROC curve of positive against negative data.

    It reads the :class:`~intff_lightning.network.StepOutput` of a module's step. A module of your own that returns none
    is asked for ``module.goodness(x) -> (U, B)`` in evaluations, on the inputs that its ``encoder`` makes.

    Args:
        auroc_bins: Number of bins of goodness for the AUROC; more bins come closer to the exact area.
    """

    def __init__(self, auroc_bins: int = 1000) -> None:
        self.auroc_bins = auroc_bins
        self._train = _Sums()
        self._evaluation = _Sums()  # apart, as validation runs inside a training epoch

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._train.count, "sums": self._train.sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train.count, self._train.sums = state_dict["count"], state_dict["sums"]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the sums of an epoch. A run resumed at the end of an epoch gets no ``on_train_epoch_start``."""
        if batch_idx == 0:
            self._train = _Sums()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if isinstance(outputs, StepOutput):
            self._train.add(outputs.positive_goodness, outputs.negative_goodness, outputs.unit_loss)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        means = self._train.means(trainer)
        self._log(pl_module, {"train/loss" if name == "loss" else name: row for name, row in means.items()})

    def on_evaluation_start(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._evaluation = _Sums(self.auroc_bins)

    def on_evaluation_batch(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any) -> None:
        if isinstance(outputs, StepOutput):
            self._evaluation.add(outputs.positive_goodness, outputs.negative_goodness, outputs.unit_loss)
        elif isinstance(module, HasGoodness):
            encoder: Any = module.encoder  # type: ignore[attr-defined]  # submodules cannot be part of a protocol
            positive = module.goodness(encoder.positive(batch))  # (U, B)
            negative = module.goodness(encoder.negative(batch)).view(*positive.shape, -1)  # (U, B, k)
            self._evaluation.add(positive, negative, None)

    def on_evaluation_end(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        self._log(module, {f"{stage}/{name}": row for name, row in self._evaluation.means(trainer).items()})

    def _log(self, module: L.LightningModule, means: dict[str, Tensor]) -> None:
        values = {f"{name}/unit_{k}": value for name, row in means.items() for k, value in enumerate(row.tolist())}
        self.log_reduced(module, {name: value for name, value in values.items() if value == value})
