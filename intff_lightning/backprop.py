"""BackpropModule: the end-to-end baseline, on the same datamodules and with the same metrics."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import Self

from intff_lightning.errors import ConfigurationError
from intff_lightning.features import check_maps, check_pool, flat_features
from intff_lightning.local import NoNormalization
from intff_lightning.modes import Freezable
from intff_lightning.network import Network, Predicted
from intff_lightning.optim import OptimizerFactory, SchedulerFactory, check_factories, check_optimizer
from intff_lightning.pairs import PairedBatch, image_and_target
from intff_lightning.pretext import Pretext, right_log_probability
from intff_lightning.recipe import from_recipe
from intff_lightning.sequences import PaddedShape, PositionMean
from intff_lightning.units import HiddenUnit
from intff_lightning.views import Views, check_views, mean_over_views


class BackpropModule(Freezable, Network):
    """A network trained by backpropagation of the cross-entropy, with one optimizer.

    It takes the images and the classes of paired batches, and ignores the negatives. With ``negatives`` it ignores the
    classes, and learns to tell images (class 0) from their negative images (class 1): the baseline of networks that
    are trained without labels. Positives and negatives have the same weight in its loss, whatever their numbers.

    Args:
        body: Any module ``(B, *) -> (B, *)``, or a hidden unit: its layers are built for the data and its normalization
            is kept, but its local loss is not used.
        head: Add a linear layer with ``num_classes`` outputs; without it, the outputs of the body are the scores. It
            reads the mean over the positions of sequences with padding, and all outputs otherwise.
        optimizer: ``parameters -> Optimizer``; default Adam at 0.001.
        scheduler: ``optimizer -> LRScheduler``. A schedule with an argument ``total_steps`` is stepped once per batch
            and given the length of the run; any other is stepped once per epoch.
        scheduler_monitor: Metric that a ``ReduceLROnPlateau`` watches; it steps at the end of each epoch in which the
            metric was logged.
        no_decay: Parameters without weight decay: parts of their names (``bias``) or classes of layers (``LayerNorm``).
        label_smoothing: Label smoothing of the cross-entropy, from 0 to 1.
        negatives: Learn to tell images from their negative images, instead of classes.
        views: Views of an image, over which its scores are averaged in eval mode (test-time augmentation):
            :class:`~intff_lightning.views.ShiftsAndFlips`. Training stays the same. Scoring takes as many passes.
            Losses of a validation or a test are those of the averaged scores.
        pretext: Learn classes that are made of the images themselves, instead of those of the data:
            :class:`~intff_lightning.pretext.Rotations`. A linear probe reads the trained layers.
        input_shape: Shape of one image; ``None`` asks the datamodule.
        num_classes: Number of classes; ``None`` asks the datamodule.
        vocabulary: Number of token ids, if the samples are token sequences; ``None`` asks the datamodule.
    """

    def __init__(
        self,
        body: nn.Module,
        head: bool = True,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scheduler_monitor: str = "val/accuracy",
        no_decay: list[str] | None = None,
        label_smoothing: float = 0.0,
        negatives: bool = False,
        views: Views | None = None,
        pretext: Pretext | None = None,
        input_shape: list[int] | None = None,
        num_classes: int | None = None,
        vocabulary: int | None = None,
    ) -> None:
        check_factories(optimizer, scheduler)
        super().__init__(optimizer, scheduler, scheduler_monitor, no_decay, learning_rate=1e-3)
        if not 0 <= label_smoothing <= 1:
            raise ConfigurationError(f"label_smoothing={label_smoothing}: a number from 0 to 1 is needed.")
        body = from_recipe(body)
        if not isinstance(body, nn.Module):
            raise ConfigurationError(f"body is {body!r}: a HiddenUnit, or any torch.nn.Module, is needed.")
        self.body = body if isinstance(body, HiddenUnit) else HiddenUnit(body, normalization=NoNormalization())
        self.has_head, self.head = head, cast(nn.Module, nn.Identity())
        self.label_smoothing, self.negatives, self.views = label_smoothing, negatives, from_recipe(views)
        self.pretext: Pretext | None = from_recipe(pretext)
        if self.negatives and self.pretext is not None:
            raise ConfigurationError("negatives and pretext are two ways to train without labels: leave one out.")
        self.configure_model()

    @property
    def predicts(self) -> Predicted:
        """What it predicts."""
        return "anomaly scores" if self.negatives or self.unsupervised else "classes"

    @property
    def unsupervised(self) -> bool:
        """Whether it is trained without labels, and so knows none of the classes of the data."""
        return self.pretext is not None

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        if self.negatives and num_classes != 2:
            raise ConfigurationError(
                f"negatives=true tells two classes, images and their negatives, and there are {num_classes}: use the "
                "data of OneClassDataModule, or leave negatives out."
            )
        check_views(self.views, input_shape)
        if self.pretext is not None:
            num_classes = self.pretext.classes_for(input_shape)
        self.body.setup(input_shape, num_classes)
        shape = self.body.output_shape
        if self.has_head:
            padded = isinstance(shape, PaddedShape)
            features = shape[1] if padded else torch.Size(shape).numel()
            self.head = nn.Sequential(PositionMean() if padded else nn.Flatten(), nn.Linear(features, num_classes))
            self.head.requires_grad_(not self.frozen)
        elif shape != (num_classes,):
            raise ConfigurationError(f"the body's outputs have shape {shape}; head=false needs one per class.")

    def freeze(self) -> Self:
        """Freeze all parameters, also those that are made later, and put the network into eval mode."""
        super().freeze()
        return self.requires_grad_(False)

    def unfreeze(self) -> Self:
        """Undo :meth:`freeze`, and put the network into training mode."""
        super().unfreeze()
        return self.requires_grad_(True)

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores (logits) ``(B, C)`` of images ``(B, *)``, float in [0, 1].

        In eval mode they are averaged over the ``views`` of the image.
        """
        self.check_built()
        return mean_over_views(lambda view: self.head(self.body(view)), image, None if self.training else self.views)

    def anomaly_score(self, image: Tensor) -> Tensor:
        """Return how anomalous images ``(B, *)`` are, ``(B,)``.

        With ``negatives``, it is the log-odds that they are negatives. With a ``pretext``, it is minus the mean
        log-probability of the right classes of the changed images (Golan and El-Yaniv 2018). Otherwise it is minus the
        largest softmax probability (Hendrycks and Gimpel 2017).
        """
        if self.pretext is not None:
            shown, kind = self.pretext(image)
            return -right_log_probability(self(shown), kind, image.shape[0])
        scores: Tensor = self(image)
        return scores[:, 1] - scores[:, 0] if self.negatives else -scores.softmax(1).amax(1)

    def predictions(self, image: Tensor) -> Tensor:
        """Return the scores ``(B, C)``; with ``negatives`` or a ``pretext``, the anomaly score ``(B, 1)``."""
        if self.predicts == "anomaly scores":
            return self.anomaly_score(image).unsqueeze(1)
        return super().predictions(image)

    def embed(
        self, image: Tensor, label: str = "all", hidden: bool = False, normalize: bool = False, pool: int | None = None
    ) -> Tensor:
        """Return features of images ``(B, *)`` for a linear probe: the outputs of the body, flattened to ``(B, F)``.

        Args:
            image: ``(B, *)``.
            label: Has no effect, since no label is shown.
            hidden: Take the outputs of every layer of the body; of a :class:`~intff_lightning.units.UnitChain`, those
                of every unit.
            normalize: Divide the activations of each layer by their root mean square.
            pool: Average maps ``(C, H, W)`` over patches first: at most ``pool`` x ``pool`` positions are left.
        """
        check_pool(pool)
        self.check_built()
        layers = self.body.activations(image)
        layers = layers if hidden else layers[-1:]
        check_maps(pool, [h.ndim for h in layers])
        return torch.cat(flat_features(layers, normalize, pool), dim=1)

    def configure_optimizers(self) -> Any:
        """Make one optimizer for the whole network, and its schedule if there is one."""
        optimizer, schedule = self.make_optimizer(self.parameters())
        check_optimizer(optimizer)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {**schedule, "monitor": self.scheduler_monitor}}

    def loss_names(self) -> list[str]:
        return ["the network"]

    def image_and_target(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the images ``(B, *)`` of a batch and their classes ``(B,)``."""
        return image_and_target(batch, self, self.hparams["num_classes"])

    def loss(self, scores: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of scores ``(B, C)`` of samples with the classes ``(B,)``."""
        return cross_entropy(scores, target, label_smoothing=self.label_smoothing)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch, scalar."""
        loss, target, _ = self._outputs(batch)
        if not loss.requires_grad:
            raise ConfigurationError("all layers are frozen, so there is nothing to train: unfreeze one.")
        self.record_losses(loss.detach().view(1), len(target), batch_idx)
        return loss

    def _outputs(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a batch, scalar, its classes ``(B,)``, and the scores ``(B, C)`` of what was shown."""
        image, target = self.image_and_target(batch)
        if self.pretext is not None:
            shown, kind = self.pretext(image)
            guesses: Tensor = self(shown)
            return self.loss(guesses, kind), target, guesses
        if not self.negatives:
            scores: Tensor = self(image)
            return self.loss(scores, target), target, scores
        if not isinstance(batch, PairedBatch) or batch.negative_image is None:
            raise ConfigurationError(
                "negatives=true needs negative images: give a PairedDataModule with a source of them, for example "
                "HybridImages."
            )
        scores, count = self(torch.cat([image, batch.negative_image.flatten(0, 1)])), len(image)
        kind = (torch.arange(len(scores), device=image.device) >= count).long()
        loss = (self.loss(scores[:count], kind[:count]) + self.loss(scores[count:], kind[count:])) / 2
        return loss, target, scores[:count]

    def _evaluation_step(self, batch: Any, stage: str) -> Tensor:
        loss, target, scores = self._outputs(batch)
        self.log(f"{stage}/loss", loss, batch_size=len(target), sync_dist=True)
        return scores

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the scores ``(B, C)`` of a batch, from which callbacks make metrics."""
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the scores ``(B, C)`` of a batch, from which callbacks make metrics."""
        return self._evaluation_step(batch, "test")
