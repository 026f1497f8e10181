"""LinearProbe: what a softmax layer reads from the frozen units (sections 1 and 3.5 of the paper)."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DistributedSampler

from intff_lightning.augmentations import Augmentation
from intff_lightning.callbacks.reduced import log_reduced
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.pairs import image_and_target
from intff_lightning.recipe import NoRecipeError, Recorded, recipe

__all__ = ["LinearProbe"]


class ScaledLinear(nn.Linear):
    """A softmax layer on features that are divided by their root mean square, one number for all of them.

    The learning rate then suits features of any size. A scale for every feature (standardization) was worse on MNIST:
    it makes the outputs under wrong labels, which hardly fire, as loud as those that tell.

    Args:
        features: ``(B, F)``, a first batch, which sets the scale.
        classes: outputs; all weights start at zero.
    """

    scale: Tensor

    def __init__(self, features: Tensor, classes: int) -> None:
        super().__init__(features.shape[1], classes, device=features.device)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.register_buffer("scale", features.square().mean().clamp(min=1e-12).rsqrt())

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, F)`` to logits ``(B, C)``."""
        return super().forward(features * self.scale)


class LinearProbe(Recorded, Callback):
    """Trains a softmax layer on the network's features and logs ``val/probe_accuracy`` and ``test/probe_accuracy``.

    Features are ``module.embed(image)`` of the training images; the network is in eval mode, its
    weights, modes and the global random state stay as they were. The layer is fitted before a test or a validation of
    its own, and during ``fit`` every ``every_n_epochs``. It goes on from its last fit, and it, its optimizer and its
    draws are in the checkpoint.

    Its learning rate falls to zero along a cosine in every fit.

    Args:
        every_n_epochs: fit it before the validation of every n-th epoch; ``None``: not while the network trains.
        label: labels shown while features are taken, see :meth:`~intff_lightning.classifier.LabelClassifier.embed`.
        hidden: take every layer's activations, not only the units' outputs.
        normalize: divide each unit's activations by their root mean square; ``None``: where the network was trained
            without labels, as Hinton (2022) does.
        epochs: passes over the training data in one fit, as much of it as the Trainer's ``limit_train_batches`` lets.
        learning_rate: of Adam at the start of a fit; ``None`` is 0.003 for normalized features, 0.001 for others.
        weight_decay: decoupled, of the weights.
        augmentation: of the training images, which are new in every pass then, and their features computed anew.
        cache_bytes: features are computed once where they fit, else anew in every pass.
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        label: Literal["all", "neutral"] = "all",
        hidden: bool = False,
        normalize: bool | None = None,
        epochs: int = 10,
        learning_rate: float | None = None,
        weight_decay: float = 0.1,
        augmentation: Augmentation | None = None,
        cache_bytes: int = 2 * 1024**3,
    ) -> None:
        if epochs < 1 or (every_n_epochs is not None and every_n_epochs < 1):
            raise ConfigurationError(f"LinearProbe: epochs={epochs} and every_n_epochs={every_n_epochs} start at 1.")
        self.every_n_epochs, self.label, self.hidden, self.normalize = every_n_epochs, label, hidden, normalize
        self.epochs, self.learning_rate, self.weight_decay = epochs, learning_rate, weight_decay
        self.augmentation, self.cache_bytes = augmentation, cache_bytes if augmentation is None else 0
        self.layer: ScaledLinear | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._generator = torch.Generator().manual_seed(0)  # of its own: the run's draws must not depend on a probe
        self._restored: dict[str, Any] = {}
        self._right: Tensor | None = None  # (2,): right, all
        self._ready = False  # the training data is set up

    # ---------------------------------------------------------------- fitting

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note whether Lightning has set up the training data."""
        self._ready = self._ready or stage == "fit"

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit, where it is time to."""
        self._right = None
        every = self.every_n_epochs
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit" or (every is not None and (trainer.current_epoch + 1) % every == 0):
            self._fit(trainer, pl_module)
        else:  # Lightning keeps the last one, which would pass for that of the present weights
            trainer.callback_metrics.pop("val/probe_accuracy", None)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit."""
        self._fit(trainer, pl_module)

    def _fit(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        modes = {part: part.training for part in module.modules()}
        module.eval()
        try:
            # Lightning evaluates in inference mode; other people's loaders draw from the global generator
            with torch.inference_mode(False), torch.enable_grad(), isolate_rng():
                self._train(trainer, module)
        finally:
            for part, mode in modes.items():
                part.training = mode
        self._right = torch.zeros(2, dtype=torch.int64, device=module.device)

    def _train(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        cached: list[tuple[Tensor, Tensor]] = []
        size = 0
        rate = self.learning_rate
        if rate is None:
            rate = 3e-3 if self._normalized(module) else 1e-3
        for epoch in range(self.epochs):
            whole = epoch > 0 and bool(cached)
            order = torch.randperm(len(cached), generator=self._generator).tolist() if whole else []
            for features, target in [cached[i] for i in order] if whole else self._features(trainer, module):
                if self._optimizer is None:
                    self._build(features, module)
                self._step(trainer, features, target, rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs)))
                if epoch == 0:
                    size += features.numel() * features.element_size()
                    cached.append((features, target))
                    if size > self.cache_bytes:
                        cached.clear()
        if self.layer is None:
            raise ConfigurationError("LinearProbe: the training data gives no batch to fit the probe on.")

    def _features(self, trainer: L.Trainer, module: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Features ``(B, F)`` and targets of the training images, without the datamodule's augmentation."""
        source: Any = getattr(trainer, "datamodule", None) or module
        if not self._ready:  # once: a second split of somebody's data may be another one
            source.setup("fit")
            self._ready = True
        loader = source.train_dataloader()
        seed, seen = int(torch.randint(2**31, (), generator=self._generator)), 0  # of this pass
        if isinstance(getattr(loader, "sampler", None), DistributedSampler):
            loader.sampler.set_epoch(seed)  # or every pass would be in the order of the network's epoch
        limit = trainer.limit_train_batches  # 1 is one batch, 1.0 is all; with none to train on there is no limit
        if limit and (isinstance(limit, int) or limit < 1):
            loader = itertools.islice(loader, limit if isinstance(limit, int) else max(1, int(limit * len(loader))))
        for batch in loader:
            batch = trainer.precision_plugin.convert_input(batch)
            batch = source.on_before_batch_transfer(batch, 0)
            batch = source.transfer_batch_to_device(batch, module.device, 0)
            image, target = image_and_target(source.on_after_batch_transfer(batch, 0))
            if self.augmentation is not None:
                index = torch.arange(seen, seen + len(target), device=image.device)
                image = self.augmentation(image, generator=Draws(seed, trainer.global_rank, index))
                seen += len(target)
            with torch.no_grad():
                features = self._embed(module, image)
            yield features, target

    def _normalized(self, module: Any) -> bool:
        return bool(getattr(module, "unsupervised", False)) if self.normalize is None else self.normalize

    def _embed(self, module: Any, image: Tensor) -> Tensor:
        options = {"normalize": True} if self._normalized(module) else {}  # an `embed` of the user's own may lack it
        features: Tensor = module.embed(image, label=self.label, hidden=self.hidden, **options)
        return features.float()

    def _build(self, features: Tensor, module: Any) -> None:
        self.layer = ScaledLinear(features, int(module.hparams.num_classes))
        self._optimizer = torch.optim.AdamW(self.layer.parameters(), weight_decay=self.weight_decay)
        if self._restored and self._restored["layer"]["weight"].shape == self.layer.weight.shape:
            self.layer.load_state_dict(self._restored["layer"])
            self._optimizer.load_state_dict(self._restored["optimizer"])

    def _step(self, trainer: L.Trainer, features: Tensor, target: Tensor, rate: float) -> None:
        assert self.layer is not None
        assert self._optimizer is not None
        loss = cross_entropy(self.layer(features), target)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own is not annotated
        if isinstance(trainer.strategy, ParallelStrategy):
            for parameter in self.layer.parameters():
                assert parameter.grad is not None
                parameter.grad.copy_(trainer.strategy.reduce(parameter.grad, reduce_op="mean"))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()

    # ---------------------------------------------------------------- evaluation

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Classify a batch."""
        if self._right is None or self.layer is None:
            return
        image, target = image_and_target(batch)
        guess = self.layer(self._embed(pl_module, image)).argmax(1)
        self._right += torch.stack([(guess == target).sum(), torch.full_like(target[0], len(target))])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation."""
        self._log(trainer, pl_module, "val")

    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the test."""
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if self._right is not None:
            right, count = trainer.strategy.reduce(self._right, reduce_op="sum").tolist()
            log_reduced(module, {f"{stage}/probe_accuracy": right / count})

    # ---------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep its arguments, for a later test from the command line."""
        with contextlib.suppress(NoRecipeError):  # an augmentation of the user's own
            checkpoint.setdefault("recipes", {})["probe"] = recipe(self.init_arguments())

    def state_dict(self) -> dict[str, Any]:
        """The layer, its optimizer and its draws."""
        if self.layer is None or self._optimizer is None:
            return {}
        return {
            "layer": self.layer.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._restored = state_dict
        self.layer = self._optimizer = None
        if state_dict:
            self._generator.set_state(state_dict["generator"].cpu())
