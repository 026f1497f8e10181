"""GoodnessLogger: what each unit makes of positive and negative data."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from intff_lightning.callbacks.reduced import log_reduced

__all__ = ["GoodnessLogger"]


class _Sums:
    """Sums over samples, per unit and on the device: reduced over processes once, at the end."""

    def __init__(self, auroc_bins: int = 0) -> None:
        self.auroc_bins = auroc_bins
        self.count = 0
        self.sums: Tensor | None = None  # (3, U): loss, positive and negative goodness, times samples
        self.histograms: Tensor | None = None  # (2, U, bins): samples by goodness, positive and negative

    def add(self, outputs: Mapping[str, Tensor]) -> None:
        positive, negative = outputs["positive_goodness"].detach(), outputs["negative_goodness"].detach()
        units, size = positive.shape
        loss = outputs["unit_loss"] if "unit_loss" in outputs else positive.new_full((units,), torch.nan)
        row = torch.stack([loss.detach(), positive.mean(1), negative.mean((1, 2))])  # no negatives: not a number
        # float32 sums over many samples lose digits; only Apple's GPUs have no float64
        row = (row if row.device.type == "mps" else row.double()).mul_(size)
        self.sums = row if self.sums is None else self.sums.add_(row)
        self.count += size
        if self.auroc_bins and negative.numel():
            counts = torch.stack([_histograms(g, self.auroc_bins) for g in (positive, negative.flatten(1))])
            self.histograms = counts if self.histograms is None else self.histograms.add_(counts)

    def means(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """Per-unit means ``(U,)`` over all samples of all processes, by name."""
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
    """Samples ``(U, bins)`` of goodness ``(U, N)``, in bins of equal width of g / (1 + g), which keeps the order.

    torchmetrics' binned AUROC holds a matrix of samples times bins wherever deterministic algorithms are asked for.
    """
    position = (goodness / (1 + goodness) * bins).nan_to_num(bins, bins, 0).long().clamp(0, bins - 1)
    counts = position.new_zeros(len(goodness), bins)
    return counts.scatter_add_(1, position, torch.ones_like(position))


def _auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """Area ``(U,)`` under the ROC curve: how often a positive's goodness is the higher, half a point for a shared bin.

    Args:
        positive: samples ``(U, bins)`` by goodness.
        negative: likewise.
    """
    above = positive.flip(-1).cumsum(-1).flip(-1) - positive / 2
    return (above * negative).sum(-1) / (positive.sum(-1) * negative.sum(-1))


class GoodnessLogger(Callback):
    """Logs, per unit and epoch, goodness of positive and negative data, their margin, the local loss and the AUROC.

    Training: ``train/loss/unit_0``, ``goodness/positive/unit_0``, ``goodness/negative/unit_0`` and
    ``goodness/margin/unit_0``. Validation and test: ``val/loss/unit_0``, ``val/goodness/positive/unit_0`` and so on,
    and ``val/goodness/auroc/unit_0``, the area under the ROC curve of positive against negative data.

    It reads what the module's step returns (``unit_loss``, ``positive_goodness``, ``negative_goodness``, as
    :class:`~intff_lightning.module.IntFFModule` does); outside training, a module that returns nothing of the kind is
    asked for ``module.goodness(batch.positive)``; one without ``goodness`` has nothing to log.

    Args:
        auroc_bins: of goodness, from which the AUROC is computed; more come closer to the exact area.
    """

    def __init__(self, auroc_bins: int = 1000) -> None:
        self.auroc_bins = auroc_bins
        self._train = _Sums()
        self._evaluation = _Sums()  # apart, as validation runs inside a training epoch

    def state_dict(self) -> dict[str, Any]:
        """The training epoch so far."""
        return {"count": self._train.count, "sums": self._train.sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the middle of an epoch."""
        self._train.count, self._train.sums = state_dict["count"], state_dict["sums"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start an epoch's sums; of an epoch that follows a checkpoint of the last one's end no start is told."""
        if batch_idx == 0:
            self._train = _Sums()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a batch."""
        if isinstance(outputs, Mapping) and "positive_goodness" in outputs:
            self._train.add(outputs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch."""
        means = self._train.means(trainer)
        _log(pl_module, {"train/loss" if name == "loss" else name: row for name, row in means.items()})

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the sums."""
        self._evaluation = _Sums(self.auroc_bins)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        if not (isinstance(outputs, Mapping) and "positive_goodness" in outputs):
            network: Any = pl_module
            if not hasattr(network, "goodness"):
                return
            positive = network.goodness(batch.positive)  # (U, B)
            negative = network.goodness(batch.negative).view(*positive.shape, -1)  # (U, B, k)
            outputs = {"positive_goodness": positive, "negative_goodness": negative}
        self._evaluation.add(outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation."""
        _log(pl_module, {f"val/{name}": row for name, row in self._evaluation.means(trainer).items()})

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the test."""
        _log(pl_module, {f"test/{name}": row for name, row in self._evaluation.means(trainer).items()})


def _log(module: L.LightningModule, means: dict[str, Tensor]) -> None:
    values = {f"{name}/unit_{k}": float(value) for name, row in means.items() for k, value in enumerate(row.tolist())}
    log_reduced(module, {name: value for name, value in values.items() if value == value})
