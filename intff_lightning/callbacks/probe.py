"""LinearProbe: what a softmax layer can read from the frozen units (Tang 2023, sections 1 and 3.5)."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

from intff_lightning.augmentations import Augmentation
from intff_lightning.callbacks.evaluation import EvaluationCallback
from intff_lightning.classifier import ShownLabels
from intff_lightning.datamodules.datasets import PartDataModule
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DivergenceError, check_choice
from intff_lightning.functional import is_decided
from intff_lightning.lightning_compat import datamodule_of
from intff_lightning.modes import evaluating
from intff_lightning.network import Network
from intff_lightning.pairs import data_share, image_and_target
from intff_lightning.recipe import NoRecipeError, Recorded, to_recipe


class ScaledLinear(nn.Linear):
    """A softmax layer on features that are divided by their root mean square, one number for all of them.

    One learning rate then suits features of any size. One scale per feature (standardization) was worse on MNIST: it
    amplifies the outputs under wrong labels, which are hardly active, to the size of those that matter.

    Args:
        features: A first batch ``(B, F)``, which sets the scale.
        classes: Number of outputs; all weights start at zero.
    """

    scale: Tensor

    def __init__(self, features: Tensor, classes: int) -> None:
        super().__init__(features.shape[1], classes, device=features.device)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.register_buffer("scale", features.square().mean().clamp(min=1e-12).rsqrt())

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features * self.scale)


@runtime_checkable
class HasFeatures(Protocol):
    """A module that gives features to a linear probe."""

    def embed(self, image: Tensor, label: str, hidden: bool) -> Tensor:
        """Map images ``(B, *)`` to features ``(B, F)``."""
        ...


class LinearProbe(Recorded, EvaluationCallback):
    """Trains a softmax layer on the features of the network, and logs ``val/probe_accuracy``, ``test/probe_accuracy``.

    Features are ``module.embed(image)`` of the training images. The network is in eval mode; its weights and modes and
    the global random state do not change. The layer is fitted before a test or a separate validation, and during
    ``fit`` every ``every_n_epochs``. It continues from its last fit, and a checkpoint keeps the layer, its optimizer
    and its draws. In every fit the learning rate falls to zero along a cosine.

    Args:
        every_n_epochs: Fit before the validation of every n-th epoch; ``None`` does not fit while the network trains.
        label: Labels shown for the features, see :meth:`~intff_lightning.classifier.LabelClassifier.embed`.
        hidden: Take the activations of every layer, not only those of the output neurons.
        pool: Average maps of convolutions to at most ``pool`` x ``pool`` positions, see ``embed``; ``None`` does not.
        normalize: Divide the activations of each unit by their root mean square; ``None`` does so if the network was
            trained without labels, as Hinton (2022) does.
        epochs: Passes over the training data per fit; the Trainer's ``limit_train_batches`` holds here too.
        learning_rate: Adam's at the start of a fit; ``None`` is 0.003 for normalized features and 0.001 for others.
        weight_decay: Decoupled weight decay.
        augmentation: Augmentation of the training images; features are then computed anew in every pass.
        cache_bytes: Features are kept between passes if they need no more bytes than this.
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        label: ShownLabels = "all",
        hidden: bool = False,
        pool: int | None = None,
        normalize: bool | None = None,
        epochs: int = 10,
        learning_rate: float | None = None,
        weight_decay: float = 0.1,
        augmentation: Augmentation | None = None,
        cache_bytes: int = 2 * 1024**3,
    ) -> None:
        if epochs < 1 or (every_n_epochs is not None and every_n_epochs < 1):
            raise ConfigurationError(f"LinearProbe(epochs={epochs}, every_n_epochs={every_n_epochs}): give 1 or more.")
        if pool is not None and pool < 1:
            raise ConfigurationError(f"LinearProbe(pool={pool}): a number of positions of 1 or more is needed.")
        check_choice("label", label, ShownLabels)
        self.every_n_epochs, self.label, self.hidden, self.normalize = every_n_epochs, label, hidden, normalize
        self.pool = pool
        self.epochs, self.learning_rate, self.weight_decay = epochs, learning_rate, weight_decay
        self.augmentation, self.cache_bytes = augmentation, cache_bytes if augmentation is None else 0
        self.layer: ScaledLinear | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._generator = torch.Generator().manual_seed(0)  # its own: the draws of the run must not depend on a probe
        self._restored: dict[str, Any] = {}
        self._right: Tensor | None = None  # (3,): right predictions, predictions without a class, all predictions
        self._ready = False  # whether the training data is set up

    # ---------------------------------------------------------------- fitting

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check the network, and note that Lightning has set up the training data."""
        if not isinstance(pl_module, HasFeatures):
            raise ConfigurationError(
                f"LinearProbe reads the features module.embed(image), and {type(pl_module).__name__} has no method "
                "embed: leave the probe out, or write one."
            )
        if "num_classes" not in pl_module.hparams:
            raise ConfigurationError(
                f"LinearProbe predicts classes, and {type(pl_module).__name__} has no hyperparameter num_classes: "
                "leave the probe out."
            )
        self._ready = self._ready or stage == "fit"

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit, if it is due."""
        self._right = None
        every = self.every_n_epochs
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit" or (every is not None and (trainer.current_epoch + 1) % every == 0):
            self._fit(trainer, pl_module)
        else:  # Lightning keeps the last value, which belongs to earlier weights
            trainer.callback_metrics.pop("val/probe_accuracy", None)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._fit(trainer, pl_module)

    def _fit(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Lightning evaluates in inference mode; other people's loaders draw from the global generator
        with evaluating(module), torch.inference_mode(False), torch.enable_grad(), isolate_rng():
            self._train(trainer, module)
        self._right = torch.zeros(3, dtype=torch.int64, device=module.device)

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
                    self._build(trainer, features, module)
                self._step(trainer, features, target, rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs)))
                if epoch == 0:
                    size += features.numel() * features.element_size()
                    cached.append((features, target))
                    if size > self.cache_bytes:
                        cached.clear()
        if self.layer is None:
            raise ConfigurationError("LinearProbe: the training data gives no batch to fit the probe on.")
        finite = all(bool(parameter.isfinite().all()) for parameter in self.layer.parameters())
        if not finite or not self.layer.scale > 0:  # the scale is zero if the mean square overflowed
            raise _not_finite("the training data")

    def _features(self, trainer: L.Trainer, module: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features ``(B, F)`` and targets of the training images, without the datamodule's augmentation."""
        source: Any = datamodule_of(module) or module
        if not self._ready:  # once: set up twice, other people's data may be divided in another way
            source.setup("fit")
            self._ready = True
        loader = source.train_dataloader()
        seed, seen = int(torch.randint(2**31, (), generator=self._generator)), 0  # of this pass
        if isinstance(loader, DataLoader) and isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(seed)  # otherwise every pass would have the order of the network's epoch
        limit = trainer.limit_train_batches  # 1 means one batch, 1.0 all; 0 would leave nothing to fit on
        if limit and (isinstance(limit, int) or limit < 1):
            loader = itertools.islice(loader, limit if isinstance(limit, int) else max(1, int(limit * len(loader))))
        for batch in loader:
            batch = trainer.precision_plugin.convert_input(batch)
            batch = source.on_before_batch_transfer(batch, 0)
            batch = source.transfer_batch_to_device(batch, module.device, 0)
            paired = isinstance(source, PartDataModule)
            with source.reading_training_data() if paired else contextlib.nullcontext():
                batch = source.on_after_batch_transfer(batch, 0)
            image, target = image_and_target(batch, module, module.hparams["num_classes"])
            if self.augmentation is not None:
                index = torch.arange(seen, seen + len(target), device=image.device)
                image = self.augmentation(image, generator=Draws(seed, data_share(trainer)[0], index))
                seen += len(target)
            with torch.no_grad():
                features = self._embed(module, image)
            yield features, target

    def _normalized(self, module: Any) -> bool:
        unsupervised = isinstance(module, Network) and module.unsupervised
        return unsupervised if self.normalize is None else self.normalize

    def _embed(self, module: Any, image: Tensor) -> Tensor:
        options: dict[str, Any] = {}  # your own module's `embed` may lack these
        if self._normalized(module):
            options["normalize"] = True
        if self.pool is not None:
            options["pool"] = self.pool
        features: Tensor = module.embed(image, label=self.label, hidden=self.hidden, **options)
        return features.float()

    def _build(self, trainer: L.Trainer, features: Tensor, module: Any) -> None:
        self.layer = ScaledLinear(features, int(module.hparams.num_classes))
        if isinstance(trainer.strategy, ParallelStrategy):  # all processes fit one layer
            self.layer.scale.copy_(trainer.strategy.reduce(self.layer.scale, reduce_op="mean"))
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

    def on_evaluation_batch(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any) -> None:
        if self._right is None or self.layer is None:
            return
        image, target = image_and_target(batch, module)
        scores = self.layer(self._embed(module, image))
        right, undecided = (scores.argmax(1) == target).sum(), (~is_decided(scores)).sum()
        self._right += torch.stack([right, undecided, torch.full_like(target[0], len(target))])

    def on_evaluation_end(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if self._right is not None:
            right, undecided, count = trainer.strategy.reduce(self._right, reduce_op="sum").tolist()
            if undecided:
                raise _not_finite(f"{undecided} of {count} samples ({stage})")
            self.log_reduced(module, {f"{stage}/probe_accuracy": right / count})

    # ---------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the arguments, for a later test from the command line."""
        with contextlib.suppress(NoRecipeError):  # your own augmentation may have no recipe
            checkpoint.setdefault("recipes", {})["probe"] = to_recipe(self.init_arguments())

    def state_dict(self) -> dict[str, Any]:
        if self.layer is None or self._optimizer is None:
            return self._restored  # not fitted since the run resumed
        return {
            "layer": self.layer.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict
        self.layer = self._optimizer = None
        if state_dict:
            self._generator.set_state(state_dict["generator"].cpu())


def _not_finite(samples: str) -> DivergenceError:
    return DivergenceError(
        f"LinearProbe: the features of the network are not finite for {samples}, so they have no class.\n"
        "Use float32 (precision: 32-true), or train the network again with a lower learning rate."
    )
