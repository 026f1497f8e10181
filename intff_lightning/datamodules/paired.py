"""PairedDataModule: positive and negative data from any datamodule or dataset of ``(image, target)``."""

import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from intff_lightning.augmentations import Augmentation
from intff_lightning.corruptions import Corruption
from intff_lightning.datamodules.loading import (
    IndexedDataset,
    InMemoryDataset,
    ResumableLoader,
    SeededSampler,
    check_samples,
    count_classes,
)
from intff_lightning.datamodules.split import PARTS, Part, SplitDataModule
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.functional import float_pixels
from intff_lightning.labels import LabelEncoder, LabelOverlay
from intff_lightning.negatives import NegativeSource, RelabellingSource, WrongLabels, model_for
from intff_lightning.pairs import PairedBatch, RelabelledBatch
from intff_lightning.recipe import recipe, record

__all__ = ["PairedDataModule"]

_STAGES: dict[str, tuple[Part, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class PairedDataModule(SplitDataModule):
    """Emits a :class:`~intff_lightning.pairs.PairedBatch` for training, validation and test; images for prediction.

    Pairs are made on the device, a batch at a time, after the transfer. The order of samples is a function of (seed,
    epoch), negatives and augmentation of (seed, epoch, sample index), without the epoch outside training. A wrapped
    datamodule keeps its own loaders and order; its draws are a function of (seed, epoch, batch, rank).

    Args:
        datamodule: any LightningDataModule whose batches begin ``(image, target)``; all of its hooks are kept.
        train: in place of a datamodule, a dataset of ``(image, target)``; likewise ``val``, ``test``, ``predict``.
        val: ``None`` splits ``val_size`` samples off ``train``.
        test: for ``trainer.test``.
        predict: ``None`` takes ``test``.
        negatives: where negative data comes from; default :class:`~intff_lightning.negatives.WrongLabels`.
        corruption: of training data, see :mod:`intff_lightning.corruptions`; validation and test data stay clean.
        augmentation: of training images, after their corruption.
        batch_size: positive samples per process and batch.
        val_size: samples, or below 1 the share, of ``train`` that become validation data; 0 for none.
        split_seed: of the validation split, apart from ``seed`` so that runs share their split.
        seed: of order, negatives and augmentation; ``None`` takes that of ``seed_everything``, else 0.
        num_workers: processes that fetch samples; data in memory needs none.
        num_classes: ``None`` counts the labels.
        encoder: for modules that have none; :class:`~intff_lightning.module.IntFFModule` brings its own.
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
        split_seed: int = 0,
        seed: int | None = None,
        num_workers: int = 0,
        num_classes: int | None = None,
        encoder: LabelEncoder | None = None,
    ) -> None:
        given: dict[Part, Dataset[Any] | None] = {"train": train, "val": val, "test": test, "predict": predict}
        super().__init__(given, corruption, val_size, split_seed, seed, num_classes)
        if batch_size < 1:
            raise ConfigurationError(f"batch_size={batch_size}: one sample or more is needed.")
        self.inner = datamodule
        self.negatives: NegativeSource = WrongLabels() if negatives is None else negatives
        self.augmentation, self.encoder = augmentation, encoder
        self.batch_size, self.num_workers = batch_size, num_workers
        self._input_shape: tuple[int, ...] | None = None
        self._train_loader: ResumableLoader | None = None
        self._position: dict[str, int] | None = None
        self._check_batches = datamodule is not None  # data in memory is checked once, as a whole
        record(self, logger=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, from a look at one sample."""
        if self._input_shape is None:
            self._look()
        assert self._input_shape is not None
        return self._input_shape

    @property
    def num_classes(self) -> int:
        """Number of classes: given, or counted in the training data."""
        if self._num_classes is None:
            self._look()
        assert self._num_classes is not None
        return self._num_classes

    def _look(self) -> None:
        if self.inner is None:
            part = next((p for p in PARTS if self.dataset(p) is not None), None)
            if part is None:
                raise ConfigurationError("PairedDataModule has no data: give it a datamodule, or train=a dataset.")
            source: Any = self.dataset(part)
            sample = source[0]
        else:
            source = self.inner
            with isolate_rng():  # a look must not shift the order of a shuffling loader
                sample = next(iter(self._any_loader()))
            sample = [part[0] for part in sample[:2]]
        self._input_shape = tuple(torch.as_tensor(sample[0]).shape)
        if self._num_classes is None:
            self._num_classes = count_classes(source)

    def _any_loader(self) -> Any:
        for name in ("train", "val", "test", "predict"):
            if _defines(self.inner, f"{name}_dataloader"):
                return getattr(self.inner, f"{name}_dataloader")()
        raise ConfigurationError(f"{type(self.inner).__name__} defines no dataloader.")

    # ---------------------------------------------------------------- loaders

    def setup(self, stage: str) -> None:
        """Load the stage's data; settle the seed."""
        self.settle_seed()
        if self.inner is not None:
            self.inner.trainer = self.trainer
            self.inner.setup(stage)
        else:
            for part in _STAGES[stage]:
                self.dataset(part)

    def _loader(self, part: Part) -> Any:
        if self.inner is not None:
            if not _defines(self.inner, f"{part}_dataloader"):
                return _nothing()
            return getattr(self.inner, f"{part}_dataloader")()
        dataset = self.dataset(part)
        if dataset is None:
            if part in ("test", "predict", "train"):
                raise ConfigurationError(f"there is no {part} data: PairedDataModule(..., {part}=a dataset).")
            return _nothing()
        in_memory = isinstance(dataset, InMemoryDataset)
        self._check_batches = not in_memory
        sampler = SeededSampler(
            len(dataset),  # type: ignore[arg-type]  # map-style
            self.batch_size,
            train=part == "train",
            seed=self.settle_seed(),
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        loader = (ResumableLoader if part == "train" else DataLoader)(
            dataset if in_memory else IndexedDataset(dataset),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # or every pass over a loader would shift the global random state
            collate_fn=InMemoryDataset.collate if in_memory else None,
            pin_memory=self.num_workers > 0 and torch.cuda.is_available(),
        )
        if isinstance(loader, ResumableLoader) and self.trainer is not None and self.trainer.training:
            self._train_loader = loader  # the one that trains, and not a probe's
            if self._position is not None:
                loader.load_state_dict(self._position)
                self._position = None
        return loader

    def train_dataloader(self) -> Any:
        """Batches in the order of (seed, epoch)."""
        return self._loader("train")

    def val_dataloader(self) -> Any:
        """Validation samples in order; an empty list where there are none."""
        return self._loader("val")

    def test_dataloader(self) -> Any:
        """Test samples in order."""
        return self._loader("test")

    def predict_dataloader(self) -> Any:
        """Samples to predict, in order; the test data where nothing else was given."""
        return self._loader("predict")

    # ---------------------------------------------------------------- pairs

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Run the wrapped datamodule's hook, and check what loaders give while it is still on the CPU."""
        if self.inner is not None:
            batch = self.inner.on_before_batch_transfer(batch, dataloader_idx)
        if self._check_batches and (self.trainer is None or not self.trainer.predicting):
            name = type(self if self.inner is None else self.inner).__name__
            pair = batch[:2] if isinstance(batch, list | tuple) else ()
            if len(pair) < 2 or not all(isinstance(part, Tensor) for part in pair):
                raise DataError(
                    f"{name} gives {type(batch).__name__}, and batches that begin (image, target) "
                    "are needed: have its collate_fn return them."
                )
            check_samples(batch[0], batch[1], self.num_classes, f"a batch of {name}")
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch, as the wrapped datamodule does it where there is one."""
        if self.inner is None:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn ``(image, target, index)`` into a :class:`PairedBatch`, on the device."""
        assert self.trainer is not None
        if self.inner is not None:
            batch = self.inner.on_after_batch_transfer(batch, dataloader_idx)
        if self.trainer.predicting:
            image = batch[0] if isinstance(batch, list | tuple) else batch
            return float_pixels(image, getattr(self.trainer.lightning_module, "dtype", torch.float32))
        image, target = batch[:2]
        index = batch[2] if self.inner is None else self._numbers(len(target), dataloader_idx).to(target.device)
        return self.pair(image, target, index, training=bool(self.trainer.training))

    def pair(self, image: Tensor, target: Tensor, index: Tensor, training: bool) -> PairedBatch:
        """Augment, and make positive and negative data.

        Args:
            image: ``(B, *)``, uint8, or float in [0, 1].
            target: ``(B,)``.
            index: ``(B,)`` numbers of the samples, on which the draws depend.
            training: augment, and draw anew every epoch.
        """
        epoch = self.trainer.current_epoch if training and self.trainer else 0
        # training and evaluation data count their samples from 0 each, and must not share draws
        generator = Draws(self.settle_seed(), epoch, index if training else ~index)
        module = self.trainer.lightning_module if self.trainer else None
        image = float_pixels(image, getattr(module, "dtype", torch.float32))  # Lightning has converted floats already
        if training and self.corruption is not None and not isinstance(self._datasets.get("train"), InMemoryDataset):
            image, target = self.corruption.of_batch(
                image, target, num_classes=self.num_classes, seed=self.settle_seed()
            )
        if training and self.augmentation is not None:
            image = self.augmentation(image, generator=generator)
        encoder = self._encoder(module)
        source = self.negatives
        with torch.no_grad(), model_for(source, module) as model:
            if isinstance(source, RelabellingSource):
                label = source.labels(image, target, encoder=encoder, model=model, generator=generator)
                return RelabelledBatch.of(image, target, label, encoder)
            negative, shown = source(image, target, encoder=encoder, model=model, generator=generator)
            return PairedBatch(encoder(image, target), negative, image, target, shown)

    def _encoder(self, module: Any) -> LabelEncoder:
        theirs = getattr(module, "encoder", None)
        if isinstance(theirs, LabelEncoder):
            if self.encoder is not None and recipe(self.encoder) != recipe(theirs):
                raise ConfigurationError(
                    f"the network reads labels from {theirs}, and the datamodule's encoder is {self.encoder}: "
                    "leave the datamodule's out."
                )
            return theirs
        if self.encoder is None:
            self.encoder = LabelOverlay()
        if not self.encoder.num_classes:
            self.encoder.num_classes = self.num_classes
            self.encoder.check(self.input_shape, self.num_classes)
        return self.encoder

    def _numbers(self, size: int, dataloader_idx: int) -> Tensor:
        """Numbers for samples of a loader that gives none, distinct over rank, batch and loader."""
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

    # ---------------------------------------------------------------- everything else of a wrapped datamodule

    def prepare_data(self) -> None:
        """Download and the like, by the wrapped datamodule."""
        if self.inner is not None:
            self.inner.prepare_data()

    def teardown(self, stage: str) -> None:
        """Clean up, by the wrapped datamodule."""
        if self.inner is not None:
            self.inner.teardown(stage)

    def on_exception(self, exception: BaseException) -> None:
        """Hand an exception to the wrapped datamodule."""
        if self.inner is not None:
            self.inner.on_exception(exception)

    def state_dict(self) -> dict[str, Any]:
        """The seed in force, the place in the epoch, and the wrapped datamodule's state."""
        return {
            "seed": self.seed,
            # kept here as well as by Lightning, which forgets it where a schedule asks for the length of the run
            "position": None if self._train_loader is None else self._train_loader.state_dict(),
            "inner": {} if self.inner is None else self.inner.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the checkpoint's draws."""
        if state["seed"] != self.seed:
            self._datasets.clear()  # corrupted with another seed
        self.seed, self._position = state["seed"], state["position"]
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])


def _nothing() -> list[Any]:
    """No loader, and no warning of it: the user asked for none."""
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    return []


def _defines(datamodule: Any, name: str) -> bool:
    """Whether a datamodule, perhaps one of ``pytorch_lightning``, has a method of its own."""
    bases = (cls for cls in type(datamodule).__mro__ if cls.__name__ == "LightningDataModule")
    return is_overridden(name, datamodule, next(bases, L.LightningDataModule))
