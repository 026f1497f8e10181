"""PairedDataModule: positive and negative data from any datamodule or data set of ``(image, target)``."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import Dataset

from intff_lightning.augmentations import Augmentation
from intff_lightning.corruptions import Corruption
from intff_lightning.datamodules.datasets import PARTS, DatasetDataModule, Part, PartDataModule
from intff_lightning.datamodules.loading import IndexedBatch, InMemoryDataset, NoLoader, check_samples, count_classes
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.functional import float_pixels
from intff_lightning.modes import evaluating
from intff_lightning.negatives import NegativeSource, WrongLabels
from intff_lightning.pairs import PairedBatch
from intff_lightning.recipe import Recorded, record


class PairedDataModule(Recorded, PartDataModule):
    """Emits a :class:`~intff_lightning.pairs.PairedBatch` for training, validation and test; images for prediction.

    It wraps any datamodule and forwards all of its hooks; data sets are put into a small datamodule of its own. Pairs
    are made on the device, one batch at a time, after the transfer. The order of the samples of data sets is a function
    of (seed, epoch), and negatives and augmentation are functions of (seed, epoch, sample), without the epoch outside
    training. A datamodule of yours keeps its own loaders and order; its draws are functions of (seed, epoch, batch,
    rank).

    Args:
        datamodule: Any LightningDataModule whose batches begin ``(image, target)``.
        train: Instead of a datamodule, a data set of ``(image, target)``; likewise ``val``, ``test`` and ``predict``.
        val: Validation data; ``None`` divides ``val_size`` samples off ``train``.
        test: Data for ``trainer.test``.
        predict: Data for ``trainer.predict``; ``None`` takes ``test``.
        negatives: Source of negative data; default :class:`~intff_lightning.negatives.WrongLabels`.
        corruption: Corruption of training data, see :mod:`intff_lightning.corruptions`; validation and test data stay
            clean.
        augmentation: Augmentation of training images, after their corruption.
        batch_size: Positive samples per process and batch.
        val_size: Number of samples, or below 1 the share, of ``train`` that become validation data; 0 for none.
        val_seed: Seed by which validation samples are drawn, apart from ``seed`` so that runs share them.
        seed: Seed of order, negatives and augmentation; ``None`` takes that of ``seed_everything``, else 0.
        num_workers: Number of processes that read samples; data in memory needs none.
        num_classes: Number of classes; ``None`` counts the labels.
    """

    def __init__(
        self,
        datamodule: L.LightningDataModule | None = None,
        train: Dataset[Any] | None = None,
        val: Dataset[Any] | None = None,
        test: Dataset[Any] | None = None,
        predict: Dataset[Any] | None = None,
        negatives: NegativeSource | None = None,
        corruption: Corruption | None = None,
        augmentation: Augmentation | None = None,
        batch_size: int = 128,
        val_size: float = 0.1,
        val_seed: int = 0,
        seed: int | None = None,
        num_workers: int = 0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigurationError(f"batch_size={batch_size}: one sample or more is needed.")
        if val_size < 0:
            raise ConfigurationError(f"val_size={val_size}: samples or a share of them are needed, 0 or more.")
        self._given: Mapping[Part, Dataset[Any] | None] = dict(zip(PARTS, (train, val, test, predict), strict=True))
        self.negatives: NegativeSource = WrongLabels() if negatives is None else negatives
        self.corruption, self.augmentation = corruption, augmentation
        self.batch_size, self.val_size, self.val_seed, self.seed = batch_size, val_size, val_seed, seed
        name = type(self).__name__
        self.inner = datamodule or DatasetDataModule(
            self.load, self.divide, self._corrupt_set, self.settle_seed, batch_size, num_workers, num_classes, name
        )
        self._corrupts_batches = corruption is not None
        self._input_shape: tuple[int, ...] | None = None
        self._num_classes = num_classes
        record(self, logger=False)

    # ---------------------------------------------------------------- data sets, for families to override

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return the data set of a part, or ``None``; ``train`` includes what becomes validation data."""
        return self._given[part]

    def divide(self, train: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """Return the indices of the training and of the validation samples in a whole training set."""
        size = len(train)  # type: ignore[arg-type]  # map-style
        held_out = self.held_out(size)
        order = Draws(self.val_seed, 0, torch.arange(size)).shuffle()
        return order[held_out:].sort().values, order[:held_out].sort().values

    def held_out(self, size: int) -> int:
        """Return the number of validation samples in a training set of this size."""
        count = round(self.val_size * size) if self.val_size < 1 else int(self.val_size)
        if count >= size:
            raise ConfigurationError(f"val_size={self.val_size} leaves nothing of {size} training samples.")
        return count

    def dataset(self, part: Part) -> Dataset[Any] | None:
        """Return the data set of a part, or ``None`` if there is none.

        Raises:
            ConfigurationError: The data are those of another datamodule.
        """
        if not isinstance(self.inner, DatasetDataModule):
            raise ConfigurationError(f"the data sets are those of {type(self.inner).__name__}: ask it for them.")
        return self.inner.dataset(part)

    # ---------------------------------------------------------------- what the network must know of the data

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, from a look at one sample."""
        if self._input_shape is None:
            self._input_shape = tuple(torch.as_tensor(self._look()[1]).shape)
        return self._input_shape

    @property
    def num_classes(self) -> int:
        """Number of classes: given, or counted in the training data."""
        if self._num_classes is None:
            self._num_classes = count_classes(self._look()[0])
        return self._num_classes

    def _look(self) -> tuple[Any, Any]:
        """Return a source of data, which may tell its number of classes, and the image of one sample."""
        if isinstance(self.inner, DatasetDataModule):
            source = next((data for data in map(self.dataset, PARTS) if data is not None), None)
            if source is None:
                raise ConfigurationError("PairedDataModule has no data: give it a datamodule, or train=a dataset.")
            return source, source[0][0]
        part = next((part for part in PARTS if _defines(self.inner, f"{part}_dataloader")), None)
        if part is None:
            raise ConfigurationError(f"{type(self.inner).__name__} defines no dataloader.")
        with isolate_rng():  # a look must not change the order of a shuffling loader
            return self.inner, next(iter(self.loader(part)))[0][0]

    def settle_seed(self) -> int:
        """Return the seed in force: the given one, else that of ``seed_everything``, else 0."""
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        return self.seed

    # ---------------------------------------------------------------- loaders

    def prepare_data(self) -> None:
        self.inner.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up the data of a stage, and settle the seed."""
        self.settle_seed()
        self.inner.trainer = self.trainer
        self.inner.setup(stage)

    def teardown(self, stage: str) -> None:
        self.inner.teardown(stage)

    def on_exception(self, exception: BaseException) -> None:
        self.inner.on_exception(exception)

    def loader(self, part: Part) -> Any:
        """Return the loader of the wrapped datamodule; an empty list if it has none."""
        loaders = {
            "train": self.inner.train_dataloader,
            "val": self.inner.val_dataloader,
            "test": self.inner.test_dataloader,
            "predict": self.inner.predict_dataloader,
        }
        return loaders[part]() if _defines(self.inner, f"{part}_dataloader") else NoLoader()

    # ---------------------------------------------------------------- pairs

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Check what the loaders of another datamodule give, while it is still on the CPU."""
        batch = self.inner.on_before_batch_transfer(batch, dataloader_idx)
        if not isinstance(batch, IndexedBatch) and (self.trainer is None or not self.trainer.predicting):
            name = type(self.inner).__name__
            pair = batch[:2] if isinstance(batch, list | tuple) else ()
            if len(pair) < 2 or not all(isinstance(part, Tensor) for part in pair):
                raise DataError(
                    f"{name} gives {type(batch).__name__}, and batches that begin (image, target) "
                    "are needed: let its collate_fn return them."
                )
            check_samples(batch[0], batch[1], self.num_classes, f"a batch of {name}")
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make a :class:`PairedBatch`, on the device; images alone for prediction."""
        trainer: Any = self.trainer
        batch = self.inner.on_after_batch_transfer(batch, dataloader_idx)
        if trainer.predicting:
            image = batch[0] if isinstance(batch, list | tuple) else batch
            return float_pixels(image, trainer.lightning_module.dtype)
        image, target = batch[:2]
        numbered = isinstance(batch, IndexedBatch)
        index = batch.sample if numbered else self._numbers(len(target), dataloader_idx).to(target.device)
        return self.pair(image, target, index, training=bool(trainer.training))

    def pair(self, image: Tensor, target: Tensor, index: Tensor, training: bool) -> PairedBatch:
        """Corrupt and augment images, and draw their negatives.

        Args:
            image: ``(B, *)``, uint8, or float in [0, 1].
            target: True classes ``(B,)``.
            index: Numbers of the samples ``(B,)``, on which the draws depend.
            training: Corrupt and augment, and draw anew in every epoch.
        """
        trainer, seed = self.trainer, self.settle_seed()
        epoch = trainer.current_epoch if training and trainer else 0
        # training and evaluation data both count their samples from 0, and must not share draws
        generator = Draws(seed, epoch, index if training else ~index)
        module = trainer.lightning_module if trainer else None
        # Lightning converts floating point batches itself
        image = float_pixels(image, module.dtype if module is not None else torch.float32)  # type: ignore[arg-type]
        if training and self.corruption is not None and self._corrupts_batches:
            image, target = self.corruption.of_batch(image, target, num_classes=self.num_classes, seed=seed)
        if training and self.augmentation is not None:
            image = self.augmentation(image, generator=generator)
        asked = isinstance(self.negatives, NegativeSource) and self.negatives.uses_model
        model: nn.Module | None = module if asked else None
        with torch.no_grad(), contextlib.nullcontext() if model is None else evaluating(model):
            negatives = self.negatives(image, target, num_classes=self.num_classes, model=model, generator=generator)
        return PairedBatch(image, target, *negatives)

    def _corrupt_set(self, train: InMemoryDataset) -> InMemoryDataset:
        """Corrupt training data in memory once; other data is corrupted batch by batch, see :meth:`pair`."""
        if self.corruption is None:
            return train
        self._corrupts_batches = False
        classes = count_classes(train) if self._num_classes is None else self._num_classes
        worse = self.corruption.of_set(train.image, train.target, num_classes=classes, seed=self.settle_seed())
        return InMemoryDataset(*worse)

    def _numbers(self, size: int, dataloader_idx: int) -> Tensor:
        """Return numbers for the samples of a loader that gives none, distinct over rank, batch and loader."""
        trainer = self.trainer
        assert trainer is not None
        epoch_loop = trainer.fit_loop.epoch_loop
        loop: Any = {
            "train": epoch_loop,
            "validate": epoch_loop.val_loop if trainer.state.fn == "fit" else trainer.validate_loop,
            "sanity_check": epoch_loop.val_loop,
            "test": trainer.test_loop,
        }[str(trainer.state.stage.value if trainer.state.stage else "train")]
        batch = loop.batch_progress.current.ready  # batches begun before this one
        start = ((trainer.global_rank << 8 | dataloader_idx) << 32 | batch) << 20
        return torch.arange(start, start + size)

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the seed in force and the state of the wrapped datamodule."""
        return {"seed": self.seed, "inner": self.inner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the draws of the checkpoint."""
        if state_dict["seed"] != self.seed and isinstance(self.inner, DatasetDataModule):
            self.inner.forget()  # the data may be corrupted by another seed
        self.seed = state_dict["seed"]
        self.inner.load_state_dict(state_dict["inner"])


def _defines(datamodule: Any, name: str) -> bool:
    """Tell whether a datamodule, perhaps one of ``pytorch_lightning``, has its own method of this name."""
    bases = (cls for cls in type(datamodule).__mro__ if cls.__name__ == "LightningDataModule")
    return is_overridden(name, datamodule, next(bases, L.LightningDataModule))
