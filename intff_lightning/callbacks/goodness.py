"""GoodnessLogger: the goodness of positive and negative data in each unit."""

from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor

from intff_lightning.callbacks.evaluation import EvaluationCallback
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.network import StepOutput
from intff_lightning.pairs import data_share


@runtime_checkable
class HasGoodness(Protocol):
    """A module that tells the goodness of network inputs; it also needs a label ``encoder``."""

    def goodness(self, x: Tensor) -> Tensor:
        """Map inputs ``(B, *)`` to ``(U, B)``."""
        ...


class _Ranks:
    """Values of U units and their weights, from which ranks are exact for up to ``limit`` values of a unit.

    When ``limit`` values of one weight are full, every second one in their order stays, with twice the weight (Karnin,
    Lang and Liberty 2016). N values of a unit need memory for ``limit * log2(N / limit)`` of them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.levels: list[list[Tensor]] = []  # (U, n) each; values of level h have the weight 2**h
        self._first = 1

    def add(self, values: Tensor, level: int = 0) -> None:
        """Add values ``(U, n)`` of the weight ``2**level``."""
        if level == len(self.levels):
            self.levels.append([])
        held = self.levels[level]
        held.append(values)
        if sum(part.shape[1] for part in held) > self.limit:
            ranked = torch.cat(held, 1).sort(1).values
            pairs = ranked.shape[1] // 2 * 2
            self.levels[level] = [ranked[:, pairs:]]
            self._first = 1 - self._first  # the lower of each pair and the upper in turn
            self.add(ranked[:, self._first : pairs : 2], level + 1)

    def gather(self, trainer: L.Trainer) -> tuple[Tensor, Tensor]:
        """Return the values of all processes ``(U, n)`` and their weights ``(n,)``, int64."""
        values = torch.cat([part for held in self.levels for part in held], 1)
        weights = [values.new_full((part.shape[1],), 2**h) for h, held in enumerate(self.levels) for part in held]
        weight = torch.cat(weights)
        if data_share(trainer)[1] > 1:
            size = values.new_tensor([values.shape[1]])
            most = int(trainer.strategy.reduce(size, reduce_op="max"))
            rows = torch.cat([values, weight.unsqueeze(0)])  # padded with values of no weight
            rows = trainer.strategy.all_gather(torch.nn.functional.pad(rows, (0, most - rows.shape[1])))
            rows = rows.transpose(0, 1).flatten(1)
            values, weight = rows[:-1], rows[-1]
        return values, weight.long()


class _Sums:
    """Sums over samples, per unit and on the device; reduced over processes once, at the end."""

    def __init__(self, auroc_values: int = 0) -> None:
        self.count = 0
        self.sums: Tensor | None = None  # (3, U): loss, positive and negative goodness, times samples
        self.known = {"loss": False, "negative": False}
        self.ranks = (_Ranks(auroc_values), _Ranks(auroc_values)) if auroc_values else None  # positive, negative

    def add(self, positive: Tensor, negative: Tensor, loss: Tensor | None) -> None:
        """Add goodness ``(U, B)`` and ``(U, B, k)``, and local losses ``(U,)`` if they are known."""
        positive, negative = at_least_float32(positive), at_least_float32(negative)
        units, size = positive.shape
        self.known["loss"] |= loss is not None
        self.known["negative"] |= negative.numel() > 0
        loss = positive.new_full((units,), torch.nan) if loss is None else loss
        row = torch.stack([loss, positive.mean(1), negative.mean((1, 2))])  # without negatives, not a number
        # float32 sums over many samples lose digits; only Apple's GPUs have no float64
        row = (row if row.device.type == "mps" else row.double()).mul_(size)
        self.sums = row if self.sums is None else self.sums.add_(row)
        self.count += size
        if self.ranks is not None and negative.numel():
            self.ranks[0].add(positive)
            self.ranks[1].add(negative.flatten(1))

    def means(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """Return means ``(U,)`` over all samples of all processes, by name; those that are not known are left out."""
        if self.sums is None:
            return {}
        packed = torch.cat([self.sums.flatten(), self.sums.new_tensor([self.count])])
        packed = trainer.strategy.reduce(packed, reduce_op="sum")
        loss, positive, negative = packed[:-1].view_as(self.sums)
        count = packed[-1]
        means = {"goodness/positive": positive / count}
        if self.known["loss"]:
            means["loss"] = loss / count
        if self.known["negative"]:
            means["goodness/negative"] = negative / count
            means["goodness/margin"] = (positive - negative) / count
            if self.ranks is not None:
                means["goodness/auroc"] = _auroc(*(ranks.gather(trainer) for ranks in self.ranks))
        return means


def _auroc(positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor]) -> Tensor:
    """Return the area under the ROC curve ``(U,)``, from values ``(U, n)`` and their weights ``(n,)``.

    It is the share of pairs in which the positive value is the larger one; equal values count one half (Hanley and
    McNeil 1982). It is not a number where a value is not.
    """
    values, order = positive[0].sort(1)
    total = torch.nn.functional.pad(positive[1][order].cumsum(1), (1, 0))  # weight of the values before each place
    below = total.gather(1, torch.searchsorted(values, negative[0]))
    not_above = total.gather(1, torch.searchsorted(values, negative[0], right=True))
    twice = ((2 * total[:, -1:] - below - not_above) * negative[1]).sum(1)  # int64, exact
    area = twice / (2 * total[:, -1] * negative[1].sum())
    unknown = positive[0].isnan().any(1) | negative[0].isnan().any(1)
    return area.masked_fill(unknown, torch.nan)


class GoodnessLogger(EvaluationCallback):
    """Logs goodness of positive and negative data, their margin, local loss and AUROC, per unit and epoch.

    Training: ``train/loss/unit_0``, ``goodness/positive/unit_0``, ``goodness/negative/unit_0`` and
    ``goodness/margin/unit_0``. Validation and test: ``val/loss/unit_0``, ``val/goodness/positive/unit_0`` and so on,
    and ``val/goodness/auroc/unit_0``, the area under the ROC curve of positive against negative data.

    It reads the :class:`~intff_lightning.network.StepOutput` of a module's step. A module of your own that returns none
    is asked for ``module.goodness(x) -> (U, B)`` in evaluations, on the inputs that its ``encoder`` makes.

    Args:
        auroc_values: The AUROC is exact for up to this many values of a unit, positive or negative. Of more, it keeps a
            part whose size grows with their logarithm, and the error is far below 0.001. 0 leaves the AUROC out.
    """

    def __init__(self, auroc_values: int = 2**18) -> None:
        if auroc_values < 0 or auroc_values == 1:
            raise ConfigurationError(f"GoodnessLogger(auroc_values={auroc_values}): give 2 or more, or 0 for no AUROC.")
        self.auroc_values = auroc_values
        self._train = _Sums()
        self._evaluation = _Sums()  # apart, as validation runs inside a training epoch

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._train.count, "sums": self._train.sums, "known": self._train.known}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train.count, self._train.sums = state_dict["count"], state_dict["sums"]
        self._train.known = dict(state_dict["known"])

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
        self._evaluation = _Sums(self.auroc_values)

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
        self.log_reduced(module, values)
