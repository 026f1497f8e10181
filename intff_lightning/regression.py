"""Regression by goodness over candidate targets, and its baseline by backpropagation."""

import math
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torchmetrics.utilities.distributed import gather_all_tensors

from intff_lightning.backprop import BackpropModule
from intff_lightning.errors import CheckpointError, ConfigurationError, DataError, check_choice
from intff_lightning.labels import LabelEncoder
from intff_lightning.lightning_compat import datamodule_of
from intff_lightning.local import LabelCrossEntropy, LocalLoss
from intff_lightning.module import IntFFModule
from intff_lightning.network import Network, Predicted, StepOutput
from intff_lightning.optim import OptimizerFactory, SchedulerFactory
from intff_lightning.pairs import PairedBatch, data_share
from intff_lightning.passes import Passage
from intff_lightning.targets import TargetFeatures, conformal_margin, expected_value, quantile
from intff_lightning.temperature import fit_temperature
from intff_lightning.units import HiddenUnit

Prediction = Literal["mean", "maximum"]


class Regressor(Network):
    """Base of networks that predict a number and an interval.

    Batches hold scaled targets, see :class:`~intff_lightning.datamodules.PairedDataModule`. Predictions are in the
    units of the data. At the end of every validation in a run, intervals are calibrated on its samples.
    """

    needed = ("input_shape", "target_range")
    margin: Tensor
    """What calibration adds to both ends of an interval, in scaled units, scalar; NaN before calibration."""

    @property
    def predicts(self) -> Predicted:
        """What it predicts."""
        return "numbers"

    def init_calibration(self, coverage: float) -> None:
        """Start with intervals that are not calibrated; a subclass calls this in its constructor."""
        if not 0 < coverage < 1:
            raise ConfigurationError(f"coverage={coverage}: a share of the targets between 0 and 1 is needed.")
        self.coverage = coverage
        self.register_buffer("margin", torch.tensor(math.nan))
        self._collected: list[tuple[Tensor, Tensor]] | None = None  # scores and scaled targets of a validation

    def setup(self, stage: str) -> None:
        """Refuse true half precision, in which Lightning would round targets before they are scaled."""
        super().setup(stage)
        if self.trainer.precision in ("16-true", "bf16-true"):
            raise ConfigurationError(
                "a regression in true half precision rounds its targets: use bf16-mixed or 32-true."
            )

    def configure_callbacks(self) -> Any:
        trainer: Any = self.trainer  # its connectors add attributes that its class does not declare
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):
            raise ConfigurationError("weight averaging would lose the calibration of the intervals: leave it out.")
        return super().configure_callbacks()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the range of the targets from the checkpoint; refuse data that scale them otherwise."""
        super().on_load_checkpoint(checkpoint)
        trained = (checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY) or {}).get("target_range")
        found = getattr(datamodule_of(self), "target_range", None)
        if trained is not None:
            if found is not None and list(found) != list(trained):
                raise CheckpointError(
                    f"the network was trained on targets from {trained[0]:g} to {trained[1]:g}, and the data has "
                    f"{found[0]:g} to {found[1]:g}: give target_range={list(trained)} to the data."
                )
            self.hparams["target_range"] = list(trained)

    def in_units(self, scaled: Tensor) -> Tensor:
        """Return scaled targets in the units of the data."""
        low, high = (float(end) for end in self.hparams["target_range"])
        return low + (high - low) * scaled

    def read(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled predictions ``(B,)`` and the ends of their intervals ``(B,)``, before calibration."""
        raise NotImplementedError

    def estimate(self, scores: Tensor) -> Tensor:
        """Return predictions and the lower and upper ends of their intervals, ``(B, 3)``, in the units of the data.

        Args:
            scores: What the network returns for samples, ``module(image)``.
        """
        value, lower, upper = self.read(scores)
        margin = self.margin.nan_to_num()
        lower, upper = torch.minimum(lower - margin, value), torch.maximum(upper + margin, value)
        return self.in_units(torch.stack([value, lower, upper], dim=1))

    def calibrate(self, scores: Tensor, target: Tensor) -> None:
        """Fit the margin of the intervals, see :func:`~intff_lightning.targets.conformal_margin`.

        Args:
            scores: Of N samples apart from the training and the test data, ``module(image)``.
            target: Their scaled targets, ``(N,)``.
        """
        _, lower, upper = self.read(scores)
        if math.ceil((len(target) + 1) * self.coverage) > len(target):
            rank_zero_warn(
                f"{len(target)} validation samples are too few to calibrate intervals for coverage={self.coverage:g}: "
                "they may hold fewer targets."
            )
        self.margin.copy_(conformal_margin(target.to(lower), lower, upper, self.coverage))

    def on_test_start(self) -> None:
        super().on_test_start()
        self._say_if_not_calibrated()

    def on_predict_start(self) -> None:
        super().on_predict_start()
        self._say_if_not_calibrated()

    def _say_if_not_calibrated(self) -> None:
        if self.margin.isnan():
            rank_zero_warn(
                "the intervals were never calibrated, which takes a validation during fit: nothing is known about the "
                "share of the targets that they hold."
            )

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return predictions and the ends of their intervals, ``(B, 3)``, in the units of the data."""
        return self.estimate(super().predict_step(batch, batch_idx, dataloader_idx))

    def collect(self, scores: Tensor, target: Tensor) -> None:
        """Note scores and scaled targets of a batch, from which the intervals of a run are calibrated."""
        if self._collected is not None:
            self._collected.append((scores, target))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        fits = self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        self._collected = [] if fits else None

    def on_validation_epoch_end(self) -> None:
        """Calibrate the intervals on this validation, in a run."""
        super().on_validation_epoch_end()
        if self._collected:
            scores, target = (torch.cat(parts) for parts in zip(*self._collected, strict=True))
            if data_share(self.trainer)[1] > 1:
                scores, target = (torch.cat(gather_all_tensors(part.contiguous())) for part in (scores, target))
            self.calibrate(scores, target)
        self._collected = None


class RegressionModule(Regressor, IntFFModule):
    r"""Hidden units that tell the true target of a sample from candidates: regression by local losses.

    A sample with its true target is positive, with a shifted one negative (see
    :class:`~intff_lightning.negatives.ShiftedTargets`). The shifted targets are uniform over the range of the training
    targets, so the goodness that minimizes the default loss is the logarithm of the density :math:`p(y \mid x)`, up to
    a term that does not depend on y (noise-contrastive estimation, Ma and Collins 2018; Gustafsson et al. 2020 use it
    for regression). A prediction tries every candidate:

    .. math:: p(v_c \mid x) = \operatorname{softmax}_c \Bigl(\frac1T \sum_\text{voting units} g_k(x, v_c)\Bigr)

    and takes the mean of this distribution, or its maximum. Its quantiles give an interval. At the end of every
    validation in a run, T is fitted on the samples of the validation, and then a margin that makes the intervals cover
    as many of them as they should (:func:`~intff_lightning.targets.conformal_margin`). Checkpoints keep both. Metrics
    of this validation are still by the values of the one before.

    Args:
        units: Hidden units in order; a plain ``torch.nn.Module`` becomes the body of a unit.
        encoder: How a candidate enters the input; default :class:`~intff_lightning.targets.TargetFeatures`.
        loss: Local loss of every unit that has none of its own; default
            :class:`~intff_lightning.local.LabelCrossEntropy` without a threshold.
        candidates: Number of candidates, evenly spaced over the range of the training targets.
        prediction: ``mean`` of the distribution, or its ``maximum``.
        coverage: Share of the targets that intervals are to hold.
        target_range: Lowest and highest training target; ``None`` asks the datamodule.
        **options: Further arguments of :class:`~intff_lightning.module.IntFFModule`.

    Raises:
        ConfigurationError: Arguments that cannot work together.
    """

    temperature: Tensor
    """T, scalar."""

    def __init__(
        self,
        units: list[HiddenUnit],
        encoder: LabelEncoder | None = None,
        loss: LocalLoss | None = None,
        candidates: int = 101,
        prediction: Prediction = "mean",
        coverage: float = 0.9,
        target_range: list[float] | None = None,
        scheduler_monitor: str = "val/r2",
        **options: Any,
    ) -> None:
        if candidates < 2:
            raise ConfigurationError(f"candidates={candidates}: 2 or more are needed, about 100.")
        check_choice("prediction", prediction, Prediction)
        if options.get("num_classes") is not None:
            raise ConfigurationError("num_classes has no effect in a regression: leave it out.")
        if options.get("pretext") is not None:
            raise ConfigurationError("pretext makes classes, and a regression has none: leave it out.")
        if options.get("vote_weights") == "validation":
            raise ConfigurationError("vote_weights=validation fits votes to classes: give a regression numbers.")
        self.candidates = candidates  # a plain number, which the layers are built for
        super().__init__(
            units,
            encoder=TargetFeatures() if encoder is None else encoder,
            loss=LabelCrossEntropy(threshold_weight=0.0) if loss is None else loss,
            scheduler_monitor=scheduler_monitor,
            **options,
        )
        if self.by_class or not self.encoder.shows_label:
            raise ConfigurationError("RegressionModule shows candidates to the units: leave NoLabel out.")
        self.prediction = prediction
        self.init_calibration(coverage)
        self.register_buffer("temperature", torch.ones(()))

    def build(self, input_shape: tuple[int, ...], num_classes: int | None) -> None:
        super().build(input_shape, self.candidates)

    def tried_labels(self, device: torch.device) -> Tensor:
        """Return the scaled candidates, ``(candidates,)``."""
        return torch.linspace(0, 1, self.candidates, device=device)

    def inputs_per_pass(self, device: torch.device) -> int:
        return self.sweep_size or 8192  # tables are narrow, and candidates many

    def read(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, tried = scores / self.temperature, self.tried_labels(scores.device)
        tail = (1 - self.coverage) / 2
        value = tried[scores.argmax(1)] if self.prediction == "maximum" else expected_value(scores, tried)
        return value, quantile(scores, tried, tail), quantile(scores, tried, 1 - tail)

    def calibrate(self, scores: Tensor, target: Tensor) -> None:
        """Fit the temperature, and then the margin of the intervals; for the arguments see :class:`Regressor`."""
        nearest = (target * (self.candidates - 1)).round().long().clamp(0, self.candidates - 1)
        self.temperature.fill_(fit_temperature(scores, nearest))
        super().calibrate(scores, target)

    def begin(self, batch: Any) -> Passage:
        if isinstance(batch, PairedBatch) and not batch.target.is_floating_point():
            raise DataError("a regression needs scaled targets: PairedDataModule(..., regression=True).")
        return super().begin(batch)

    def _with_estimates(self, outputs: StepOutput, batch: PairedBatch) -> StepOutput:
        goodness = self.label_goodness(batch.image)  # (U, B, C)
        scores = self.count_votes(goodness)
        outputs["estimate"] = self.estimate(scores)
        outputs["unit_estimate"] = self.in_units(
            expected_value(goodness / self.temperature, self.tried_labels(scores.device))
        )
        self.collect(scores, batch.target)
        return outputs

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> StepOutput:
        """Return losses and goodness, ``estimate (B, 3)`` and ``unit_estimate (U, B)``, see :meth:`estimate`."""
        return self._with_estimates(super().validation_step(batch, batch_idx, dataloader_idx), batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> StepOutput:
        """Return losses and goodness, ``estimate (B, 3)`` and ``unit_estimate (U, B)``, see :meth:`estimate`."""
        return self._with_estimates(super().test_step(batch, batch_idx, dataloader_idx), batch)


class BackpropRegression(Regressor, BackpropModule):
    """The same task by backpropagation of the mean squared error of scaled targets, with one optimizer.

    Its last layer starts with the middle of the range of the targets for every sample. An interval has the same width
    for every sample: the validation's quantile of the absolute errors (split conformal prediction, Lei et al. 2018).

    Args:
        body: Any module ``(B, *) -> (B, *)``, or a hidden unit; a linear layer with one output follows.
        optimizer: ``parameters -> Optimizer``; default Adam at 0.001.
        scheduler: ``optimizer -> LRScheduler``, see :class:`~intff_lightning.backprop.BackpropModule`.
        scheduler_monitor: Metric that a ``ReduceLROnPlateau`` watches.
        no_decay: Parameters without weight decay: parts of their names (``bias``) or classes of layers (``LayerNorm``).
        coverage: Share of the targets that intervals are to hold.
        input_shape: Shape of one sample; ``None`` asks the datamodule.
        vocabulary: Number of token ids, if the samples are token sequences; ``None`` asks the datamodule.
        target_range: Lowest and highest training target; ``None`` asks the datamodule.
    """

    def __init__(
        self,
        body: nn.Module,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scheduler_monitor: str = "val/r2",
        no_decay: list[str] | None = None,
        coverage: float = 0.9,
        input_shape: list[int] | None = None,
        vocabulary: int | None = None,
        target_range: list[float] | None = None,
    ) -> None:
        super().__init__(
            body,
            optimizer=optimizer,
            scheduler=scheduler,
            scheduler_monitor=scheduler_monitor,
            no_decay=no_decay,
            input_shape=input_shape,
            vocabulary=vocabulary,
        )
        self.init_calibration(coverage)

    def build(self, input_shape: tuple[int, ...], num_classes: int | None) -> None:
        super().build(input_shape, 1)
        if self.has_head:  # random predictions would be wider than the targets, which small tables cannot unlearn
            *_, last = self.head.modules()
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, 0.5)

    def read(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = scores.squeeze(1)
        return value, value, value

    def loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return mse_loss(scores.squeeze(1), target)

    def image_and_target(self, batch: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(batch, PairedBatch) or not batch.target.is_floating_point():
            raise DataError("a regression needs scaled targets: PairedDataModule(..., regression=True).")
        return batch.image, batch.target

    def _with_estimates(self, scores: Tensor, batch: PairedBatch) -> Tensor:
        self.collect(scores, batch.target)
        return self.estimate(scores)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return predictions and the ends of their intervals, ``(B, 3)``."""
        return self._with_estimates(super().validation_step(batch, batch_idx, dataloader_idx), batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return predictions and the ends of their intervals, ``(B, 3)``."""
        return self._with_estimates(super().test_step(batch, batch_idx, dataloader_idx), batch)
