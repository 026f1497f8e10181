"""A small datamodule around data sets: loaded at first use, checked, divided, and read in an order of its own."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from intff_lightning.datamodules.loading import (
    IndexedDataset,
    InMemoryDataset,
    InOrder,
    NoLoader,
    ResumableLoader,
    SampleLoader,
    SeededSampler,
    count_classes,
    told_classes,
    whole_parts,
)
from intff_lightning.errors import ConfigurationError, DataError, check_choice
from intff_lightning.framing import Framing
from intff_lightning.pairs import data_share
from intff_lightning.samples import Reader, check_labels, check_pixels

Part = Literal["train", "val", "test", "predict"]
PARTS: tuple[Part, ...] = ("train", "val", "test", "predict")
OF_DATASETS = (*PARTS, "batch_size", "val_size", "val_seed", "num_workers", "cache")
"""Options of data sets and their loaders."""

Stage = Literal["fit", "validate", "test", "predict"]

_STAGES: dict[str, tuple[Part, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


def _classes(*datasets: Dataset[Any] | None) -> int | None:
    """Return the number of classes that the first data set tells, or that occur in those in memory."""
    found = [dataset for dataset in datasets if dataset is not None]
    if found and not isinstance(found[0], InMemoryDataset):
        return told_classes(found[0])
    labels = [dataset.target for dataset in found if isinstance(dataset, InMemoryDataset)]
    return count_classes(torch.cat(labels)) if labels else None


class PartDataModule(L.LightningDataModule):
    """Base of datamodules with one method for the loaders of all parts."""

    framing: Framing | None = None
    """How the images are placed, for pictures from elsewhere; ``None`` resizes and crops these."""
    reads_training_data = False
    """Whether batches are training data although a test runs."""

    def read_picture(self, file: Path) -> Tensor | None:
        """Return a picture as the files of the data set are read, ``(C, H, W)`` uint8; ``None`` if it has no files."""
        return None

    @contextlib.contextmanager
    def reading_training_data(self) -> Iterator[None]:
        """Take batches for training data in a test: for a probe that is fitted then."""
        self.reads_training_data = True
        try:
            yield
        finally:
            self.reads_training_data = False

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in their order, if the data have some."""
        return None

    def source_rows(self, part: Part) -> Tensor | None:
        """Return the row of each sample of a part in its source, ``(N,)``; ``None`` if they are 0, 1, 2, ..."""
        return None

    def loader(self, part: Part) -> Any:
        """Return the loader of a part."""
        raise NotImplementedError

    def train_dataloader(self) -> Any:
        return self.loader("train")

    def val_dataloader(self) -> Any:
        return self.loader("val")

    def test_dataloader(self) -> Any:
        return self.loader("test")

    def predict_dataloader(self) -> Any:
        return self.loader("predict")


class DatasetDataModule(PartDataModule):
    """Feeds data sets of ``(image, target)`` as :class:`~intff_lightning.datamodules.loading.IndexedBatch`.

    The order of training samples is a function of (seed, epoch); validation and test samples come in order. If ``load``
    has no ``val``, ``divide`` gives the indices of training and validation samples in ``train``; if it has no
    ``predict``, ``test`` takes its place. ``corrupt`` is called once on training data in memory. ``num_classes`` is
    the number of classes that the user gave, and ``classes`` tells the one in force. ``reader`` reads the samples,
    and ``source`` is the name of the datamodule in messages.
    """

    def __init__(
        self,
        load: Callable[[Part], Dataset[Any] | None],
        divide: Callable[[Dataset[Any]], tuple[Tensor, Tensor]],
        corrupt: Callable[[InMemoryDataset], InMemoryDataset],
        seed: Callable[[], int],
        num_classes: int | None,
        classes: Callable[[], int],
        batch_size: int,
        num_workers: int,
        reader: Reader,
        cache: bool,
        source: str,
    ) -> None:
        super().__init__()
        self.load, self.divide, self.corrupt, self.seed = load, divide, corrupt, seed
        self.num_classes, self.classes = num_classes, classes
        self.batch_size, self.num_workers, self.cache, self.source = batch_size, num_workers, cache, source
        self._reader = reader
        self._told: list[int] = []
        self._datasets: dict[Part, Dataset[Any] | None] = {}
        self._classes: int | None = None
        self._train_loader: ResumableLoader | None = None
        self._position: dict[str, int] | None = None

    def reader(self, where: str) -> Reader:
        """Return the reader of samples of the data ``where``."""
        return replace(self._reader, where=where)

    def dataset(self, part: Part) -> Dataset[Any] | None:
        """Return the data set of a part, loaded and checked at the first call, or ``None`` if there is none."""
        if part not in self._datasets:
            if part in ("train", "val"):
                train, val = self._loaded("train"), self._loaded("val")
                if train is not None and val is None:
                    train, val = self._divided(train)
                told = self.num_classes or max(self._told, default=None)
                self._classes = told or _classes(train, val)  # before corruption asks for them
                if isinstance(train, InMemoryDataset):
                    train = self.corrupt(train)
                self._datasets |= {"train": train, "val": val}
            else:
                found = self._loaded(part)
                self._datasets[part] = self.dataset("test") if found is None and part == "predict" else found
        return self._datasets[part]

    def told_classes(self) -> int | None:
        """Return the number of classes that training data tells or counts, else that of other data, or ``None``."""
        if self._classes is None and self.dataset("train") is None:
            return _classes(self.dataset("val"), self.dataset("test"))
        return self._classes

    def _loaded(self, part: Part) -> Dataset[Any] | None:
        dataset, reader = self.load(part), self.reader(f"{part} data")
        if dataset is None:
            return None
        if len(dataset) == 0:  # type: ignore[arg-type]  # map-style
            raise DataError(f"{part} data: the data set is empty.")
        if self.cache:
            if isinstance(dataset, InMemoryDataset | TensorDataset):
                raise ConfigurationError(f"cache=true has no effect: {part} data is in memory. Leave cache out.")
            dataset = self._cached(dataset, part)
        elif type(dataset) is TensorDataset:  # fetched as a whole instead of sample by sample
            image, target = reader.batch(dataset.tensors, labelled=part != "predict")
            dataset = self._in_memory(image, torch.full((len(image),), -1) if target is None else target)
        elif isinstance(dataset, InMemoryDataset):
            if dataset.regression is not reader.regression:
                raise ConfigurationError(f"{part} data has regression={dataset.regression}: give it to {self.source}.")
            if reader.keys is not None:
                keys = list(reader.keys)
                raise ConfigurationError(f"keys={keys} has no effect: {part} data is in memory as tensors.")
            image = reader.pixels(dataset.image)
            dataset = dataset if image is dataset.image else self._in_memory(image, dataset.target)
        if isinstance(dataset, InMemoryDataset):
            check_pixels(dataset.image, reader.where, reader.vocabulary)
            if part != "predict":
                check_labels(dataset.target, self.num_classes, reader.where)
        return dataset

    def _in_memory(self, image: Tensor, target: Tensor) -> InMemoryDataset:
        return InMemoryDataset(image, target, self._reader.regression)

    def _cached(self, dataset: Dataset[Any], part: Part) -> InMemoryDataset:
        """Read all samples into memory, once."""
        reader, told = self.reader(f"{part} data"), told_classes(dataset)
        if self._changes(dataset):
            raise ConfigurationError(
                f"cache=true would keep one random version of each sample: the transforms of {part} data are random.\n"
                "Leave cache out, or leave these transforms out and give augmentation=, which works on cached images."
            )
        images: list[Tensor] = []
        targets: list[Tensor] = []
        size = 0
        for image, target in whole_parts(dataset, reader, part != "predict", self.num_workers):
            if images:
                reader.check_alike(image[0], images[0][0], str(size))
            images.append(image)
            targets.append(torch.full((len(image),), -1) if target is None else target)
            size += len(image)
        self._told += [] if told is None or reader.regression or part not in ("train", "val") else [told]
        return self._in_memory(torch.cat(images), torch.cat(targets))

    def _divided(self, whole: Dataset[Any]) -> tuple[Dataset[Any], Dataset[Any] | None]:
        train, val = self.divide(whole)
        if not len(val) and len(train) == len(whole):  # type: ignore[arg-type]  # map-style
            return whole, None
        if isinstance(whole, InMemoryDataset):
            made = [self._in_memory(whole.image[index], whole.target[index]) for index in (train, val) if len(index)]
            return made[0], made[1] if len(val) else None
        trained, held_out = (Subset(whole, index.tolist()) for index in (train, val))
        if not len(val):
            return trained, None
        self._warn_of_random_images(held_out)
        return trained, held_out

    def _warn_of_random_images(self, held_out: Subset[Any]) -> None:
        """Warn if samples are not the same when they are read again: validation data should be."""
        if self._changes(held_out):
            warnings.warn(
                f"{len(held_out)} validation samples are divided off the training data, whose transforms are "
                "random. They are changed at random too: give val= a data set without these transforms.",
                stacklevel=2,
            )

    def _changes(self, dataset: Dataset[Any]) -> bool:
        """Tell whether the first samples are not the same when they are read again."""
        reader = self.reader("validation data")
        with isolate_rng():
            for number in range(min(4, len(dataset))):  # type: ignore[arg-type]  # map-style
                image, *others = (reader.samples([dataset[number]], labelled=False)[0] for _ in range(4))
                if any(not torch.equal(image, other) for other in others):
                    return True
        return False

    def setup(self, stage: str) -> None:
        check_choice("stage", stage, Stage)
        for part in _STAGES[stage]:
            self.dataset(part)

    def loader(self, part: Part) -> Any:
        trainer: Any = self.trainer  # its connectors add attributes that its class does not declare
        dataset = self.dataset(part)
        if dataset is None:
            if part == "val" and (trainer is None or trainer.state.fn != "validate"):
                return NoLoader()
            raise ConfigurationError(f"there is no {part} data: {self.source}(..., {part}=a dataset).")
        if not isinstance(dataset, InMemoryDataset):
            classes = None if part == "predict" else self.classes()
            dataset = IndexedDataset(dataset, self.reader(f"a batch of {self.source}"), classes)
        elif part != "predict":
            check_labels(dataset.target, self.classes(), f"{part} data")
        collate: Any = dataset.collate
        shuffles = part == "train" and not (trainer is not None and trainer.overfit_batches)
        rank, world_size = data_share(trainer)
        sampler = (SeededSampler if shuffles else InOrder)(
            len(dataset),
            self.batch_size,
            train=shuffles,
            seed=self.seed(),
            rank=rank,
            world_size=world_size,
        )
        loader = (ResumableLoader if part == "train" else SampleLoader)(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=0 if self.cache else self.num_workers,
            generator=torch.Generator(),  # the default would advance the global random state with every pass
            collate_fn=collate,
            pin_memory=self.num_workers > 0 and torch.cuda.is_available(),
        )
        if isinstance(loader, ResumableLoader) and trainer is not None and trainer.training:
            self._train_loader = loader  # the loader of the run, and not that of a probe
            if self._position is not None:
                loader.load_state_dict(self._position)
                self._position = None
        return loader

    def forget(self) -> None:
        """Load and corrupt the data sets anew at their next use."""
        self._datasets.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch. Lightning saves it too, but loses it if a schedule needs the run's length."""
        return {"position": None if self._train_loader is None else self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position = state_dict["position"]
