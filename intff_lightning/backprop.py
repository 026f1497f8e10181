"""BackpropModule: the end-to-end baseline, on the same datamodules, with the same metrics."""

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from intff_lightning.errors import ConfigurationError
from intff_lightning.local import NoNormalization
from intff_lightning.network import Network
from intff_lightning.optim import OptimizerFactory, SchedulerFactory, make_scheduler
from intff_lightning.pairs import image_and_target
from intff_lightning.recipe import build, record
from intff_lightning.units import HiddenUnit

__all__ = ["BackpropModule"]


class BackpropModule(Network):
    """A network trained by backpropagation of the cross-entropy, with one optimizer.

    Of paired batches it takes the images and their classes; negatives that are the images
    under other labels are never made for it.

    Args:
        body: any module ``(B, *) -> (B, *)``, or a hidden unit: its layers are built for the data, its normalization
            is kept, its local loss plays no part.
        head: put a linear layer of ``num_classes`` outputs on the body; without it the body's outputs are the scores.
        optimizer: ``parameters -> Optimizer``; default Adam at 0.001.
        scheduler: ``optimizer -> LRScheduler``; one with an argument ``total_steps`` is stepped every batch and given
            the run's length, any other every epoch.
        scheduler_monitor: metric that a ``ReduceLROnPlateau`` watches.
        label_smoothing: of the cross-entropy.
        input_shape: of one image; ``None`` asks the datamodule.
        num_classes: ``None`` asks the datamodule.
    """

    def __init__(
        self,
        body: nn.Module,
        head: bool = True,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scheduler_monitor: str = "val/accuracy",
        label_smoothing: float = 0.0,
        input_shape: list[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        body = build(body)
        if not isinstance(body, nn.Module):
            raise ConfigurationError(f"body is {body!r}: a HiddenUnit, or any torch.nn.Module, is needed.")
        self.body = body if isinstance(body, HiddenUnit) else HiddenUnit(body, normalization=NoNormalization())
        self.has_head, self.head = head, cast(nn.Module, nn.Identity())
        self.optimizer_factory: OptimizerFactory = build(optimizer) or functools.partial(torch.optim.Adam, lr=1e-3)
        self.scheduler_factory: SchedulerFactory | None = build(scheduler)
        self.scheduler_monitor = scheduler_monitor
        self.label_smoothing = label_smoothing
        record(self, input_shape=None, num_classes=None)
        self.configure_model()

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Build body and head; see :meth:`Network.build`."""
        shape = self.body.materialize(input_shape)
        if self.has_head:
            size = int(torch.Size(shape).numel())
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes))
        elif shape != (num_classes,):
            raise ConfigurationError(f"the body's outputs have shape {shape}; head=false needs one per class.")

    def forward(self, image: Tensor) -> Tensor:
        """Scores (logits) ``(B, C)`` of images ``(B, *)``, float in [0, 1]."""
        scores: Tensor = self.head(self.body(image))
        return scores

    def configure_optimizers(self) -> Any:
        """One optimizer for the whole network, and its schedule where there is one."""
        optimizer = self.optimizer_factory(self.parameters())
        if self.scheduler_factory is None:
            return optimizer
        schedule, interval = make_scheduler(self.scheduler_factory, optimizer, self.trainer.estimated_stepping_batches)
        entry = {"scheduler": schedule, "interval": interval, "name": "lr", "monitor": self.scheduler_monitor}
        return {"optimizer": optimizer, "lr_scheduler": entry}

    def loss_names(self) -> list[str]:
        """The network is one."""
        return ["the network"]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy of a batch, scalar."""
        image, target = image_and_target(batch)
        loss = cross_entropy(self(image), target, label_smoothing=self.label_smoothing)
        assert self._losses is not None  # since training started
        self._losses.add(loss.detach().view(1), len(target), self.global_step)
        self._losses.log(self, batch_idx)
        return loss

    def _evaluation_step(self, batch: Any, stage: str) -> Tensor:
        image, target = image_and_target(batch)
        scores: Tensor = self(image)
        loss = cross_entropy(scores, target, label_smoothing=self.label_smoothing)
        self.log(f"{stage}/loss", loss, batch_size=len(target), sync_dist=True)
        return scores

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Scores ``(B, C)`` of a batch; callbacks turn them into metrics."""
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """As :meth:`validation_step`."""
        return self._evaluation_step(batch, "test")
