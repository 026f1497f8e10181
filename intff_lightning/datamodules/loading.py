"""Data sets in memory, and loaders whose order is a function of (seed, epoch) on any number of processes."""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Iterator, Sequence, Sized
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler, Subset

from intff_lightning.draws import Draws
from intff_lightning.errors import CheckpointError, ConfigurationError, DataError, IntFFError
from intff_lightning.samples import Reader, check_labels, check_pixels

_ORDER = 1  # stream of draws, apart from those of the negatives and the augmentation of a batch


class IndexedBatch(NamedTuple):
    """Checked samples, with their indices in the data set."""

    image: Tensor
    """``(B, *)``, uint8, or float in [0, 1]."""
    target: Tensor
    """``(B,)`` int64; -1 if an image to predict has no label. For a regression, float32."""
    sample: Tensor
    """``(B,)`` int64."""


class InMemoryDataset(Dataset[IndexedBatch]):
    """A whole data set as two tensors, fetched by lists of indices instead of sample by sample.

    Args:
        image: ``(N, *)``, uint8, or float in [0, 1]; other pixels need the ``pixel_range`` of a datamodule, and token
            ids ``(N, T)`` its ``vocabulary``.
        target: ``(N,)`` or ``(N, 1)``, integers.
        regression: Targets are numbers, and no classes.

    Raises:
        DataError: There is not one integer label per image, or one number.
    """

    def __init__(self, image: Tensor, target: Tensor, regression: bool = False) -> None:
        reader = Reader("InMemoryDataset", regression=regression)
        self.regression = regression
        self.image = reader.tensor(image)
        self.target = reader.labels(target, len(self.image))

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> IndexedBatch:
        return IndexedBatch(self.image[index], self.target[index], torch.tensor(index))

    def __getitems__(self, indices: Sequence[int]) -> IndexedBatch:
        """Fetch a batch at once."""
        index = torch.as_tensor(indices)
        return IndexedBatch(self.image.index_select(0, index), self.target.index_select(0, index), index)

    @staticmethod
    def collate(batch: IndexedBatch) -> IndexedBatch:
        """Return the batch: :meth:`__getitems__` has collated it already."""
        return batch


class IndexedDataset(Dataset[Any]):
    """Any map-style data set, with the index of each sample added; its samples are read and checked batch by batch.

    A worker process would return an error as the text of a traceback, so errors travel as values, see
    :class:`SampleLoader`.

    Args:
        dataset: Its samples are read by ``reader``.
        reader: Reads them.
        num_classes: Number of classes; ``None`` reads images alone, without labels.
    """

    def __init__(self, dataset: Dataset[Any], reader: Reader, num_classes: int | None) -> None:
        self.dataset, self.reader, self.num_classes = dataset, reader, num_classes

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style data sets have a length

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index], index
        except IntFFError as error:
            return error, index

    def collate(self, samples: list[tuple[Any, int]]) -> IndexedBatch | IntFFError:
        """Make a batch and check it, in the process that reads the samples."""
        contents, indices = zip(*samples, strict=True)
        for content in contents:
            if isinstance(content, IntFFError):
                return content
        try:
            image, target = self.reader.samples(contents, labelled=self.num_classes is not None)
            check_pixels(image, self.reader.where, self.reader.vocabulary)
            if target is None:
                target = torch.full((len(image),), -1)
            else:
                check_labels(target, self.num_classes, self.reader.where)
        except IntFFError as error:
            return error
        return IndexedBatch(image, target, torch.tensor(indices))


class SampleLoader(DataLoader[Any]):
    """A DataLoader that raises the errors which its worker processes return."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator serves as well
        for batch in super().__iter__():
            if isinstance(batch, IntFFError):
                raise batch
            yield batch


def whole_parts(
    dataset: Dataset[Any], reader: Reader, labelled: bool, num_workers: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Read a whole data set once, in order; yields images ``(B, *)`` and targets as ``reader.samples`` does."""
    loader = SampleLoader(
        IndexedDataset(dataset, reader, None),
        batch_size=256,
        num_workers=num_workers,
        generator=torch.Generator(),  # the default would advance the global random state
        collate_fn=functools.partial(_read, reader, labelled),
    )
    for image, target in loader:
        # a tensor of a worker keeps a file open, of which a process may have few
        yield image.clone(), None if target is None else target.clone()


def _read(reader: Reader, labelled: bool, samples: list[tuple[Any, int]]) -> tuple[Tensor, Tensor | None] | IntFFError:
    contents = [content for content, _ in samples]
    error = next((content for content in contents if isinstance(content, IntFFError)), None)
    try:
        return error or reader.samples(contents, labelled)
    except IntFFError as refusal:
        return refusal


class SeededSampler(DistributedSampler[int]):
    """Indices in an order that depends on (seed, epoch) alone, dealt to the processes in turn.

    So W processes with batches of B see, batch by batch, the samples that one process sees with batches of W * B. A
    training epoch is shuffled and holds whole global batches only, or one smaller batch if the data set has no more;
    evaluation takes each sample once, in order. The sampler is a ``DistributedSampler`` at any world size, which keeps
    Lightning from replacing it by its own.
    """

    def __init__(self, size: int, batch_size: int, train: bool, seed: int = 0, rank: int = 0, world_size: int = 1):
        # a range stands for the data set: the base asks for its length only
        super().__init__(range(size), num_replicas=world_size, rank=rank, shuffle=train, seed=seed)  # type: ignore[arg-type]
        global_batch = batch_size * world_size
        self.used = size if not train else size // global_batch * global_batch or size // world_size * world_size
        if train and not self.used:
            raise DataError(f"{size} training samples cannot be shared by {world_size} processes.")
        self.size, self.start = size, 0

    def __len__(self) -> int:
        return len(range(self.rank, self.used, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        order = torch.arange(self.size)
        if self.shuffle:
            order = Draws(self.seed, self.epoch, order, stream=_ORDER).shuffle()
        start, self.start = self.start, 0
        return iter(order[self.rank : self.used : self.num_replicas][start:].tolist())


class InOrder(SeededSampler, SequentialSampler):
    """A SeededSampler that does not shuffle; as a SequentialSampler it is not replaced by ``overfit_batches``."""


class ResumableLoader(SampleLoader):
    """A loader over a :class:`SeededSampler` whose state is its place in the epoch."""

    _done = 0
    _resumed: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        state, self._resumed = self._resumed, None
        # Lightning has told the sampler its epoch by now: a checkpoint from the end of an epoch is of the one before
        first = state["batches"] if state is not None and state["epoch"] == self.sampler.epoch else 0  # type: ignore[attr-defined]
        if first and {**self.state_dict(), "batches": first} != state:
            raise CheckpointError(
                "the checkpoint is in the middle of an epoch, and it was written with another batch size, number of "
                "training samples or number of processes:\nresume with those, or from the end of an epoch."
            )
        self.sampler.start = first * (self.batch_size or 1)  # type: ignore[attr-defined]  # a SeededSampler
        for self._done, batch in zip(itertools.count(first + 1), super().__iter__(), strict=False):
            yield batch

    def state_dict(self) -> dict[str, int]:
        if self._resumed is not None:  # and no batch was read since
            return self._resumed
        sampler: Any = self.sampler
        sizes = {"batch_size": self.batch_size or 1, "samples": sampler.size, "processes": sampler.num_replicas}
        return {"batches": self._done, "epoch": sampler.epoch, **sizes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resumed = state


class NoLoader(CombinedLoader):
    """Stands for data that there are not: Lightning skips it, and would warn about an empty list."""

    def __init__(self) -> None:
        super().__init__([], "sequential")

    @property
    def flattened(self) -> list[Any]:
        """There are no loaders."""
        return []

    @flattened.setter
    def flattened(self, flattened: list[Any]) -> None:
        """Lightning sets the processed loaders, of which there are none."""


def count_classes(labels: Tensor) -> int:
    """Return the number of classes of labels from 0; warn if some of them do not occur."""
    classes = int(labels.max()) + 1
    missing = sorted({*range(classes)} - {*np.unique(labels.cpu().numpy()).tolist()}) if classes <= 1000 else []
    if missing:
        warnings.warn(
            f"{classes} classes were counted, and no sample has the label {missing[0]} ({len(missing)} labels are "
            f"missing). Give num_classes={classes} if this is right. Otherwise number the classes 0, 1, 2, ...",
            stacklevel=2,
        )
    return classes


def told_classes(source: Any) -> int | None:
    """Return the number of classes that a data set or datamodule tells about itself, or ``None``."""
    while isinstance(source, Subset):
        source = source.dataset
    for holder in (source, getattr(source, "dataset", None)):
        count, classes, targets = (getattr(holder, name, None) for name in ("num_classes", "classes", "targets"))
        if isinstance(count, int | np.integer):
            return int(count)
        if isinstance(classes, Sized):
            return len(classes)
        if isinstance(targets, Sized) and len(targets):
            with contextlib.suppress(DataError):
                return count_classes(Reader("targets").labels(targets, len(targets)))
    return None


def flat_loaders(loaders: Any) -> list[Any]:
    """Return the loaders in a collection of them, as Lightning finds them."""
    if loaders is None or (isinstance(loaders, list | tuple | dict) and not loaders):
        return []
    return list((loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)).flattened)


def has_batches(loader: Any) -> bool:
    """Tell whether a loader has batches, as far as it knows its length."""
    try:
        return len(loader) > 0
    except (TypeError, NotImplementedError):
        return True


def built_for(trainer: L.Trainer | None, name: str) -> Any:
    """Return an argument of the module of a Trainer, or ``None`` if it has none."""
    module = None if trainer is None else trainer.lightning_module
    return None if module is None else module.hparams.get(name)


def scaled(target: Tensor, target_range: Sequence[float]) -> Tensor:
    """Return targets ``(B,)`` of a regression with the range at 0..1; computed in float64, where there is one."""
    low, high = target_range
    return ((target if target.device.type == "mps" else target.double()) - low) / (high - low)


def range_of(target: Tensor) -> list[float]:
    """Return the lowest and the highest of training targets ``(N,)``; refuse targets that are all equal."""
    low, high = float(target.min()), float(target.max())
    if not low < high:
        raise DataError(f"train data: every target is {low:g}, so there is nothing to predict.")
    return [low, high]


def training_range(train: Dataset[Any] | None, built: list[float] | None) -> list[float]:
    """Return the range of the targets in memory, else that for which the module was built; refuse if there is none."""
    if isinstance(train, InMemoryDataset):
        return range_of(train.target)
    if built is None:
        raise ConfigurationError(
            "the range of the training targets is unknown: give target_range=[LOWEST, HIGHEST] to the data."
        )
    return built


def usable(loaders: Any, name: str, part: str, optional: bool) -> Any:
    """Return the loader, or for ``predict`` the loaders, that a method ``name`` of a datamodule returned.

    Raises:
        ConfigurationError: There is no batch, unless it is ``optional``, or there are several loaders.
    """
    found = flat_loaders(loaders)
    if not any(has_batches(loader) for loader in found):
        if optional:
            return loaders if found else NoLoader()
        what = "gives no batch" if found else "is missing or gives no loader"
        raise ConfigurationError(f"there is no {part} data: {name} {what}.")
    if part == "predict":
        return loaders
    if len(found) > 1:
        raise ConfigurationError(
            f"{name} gives {len(found)} loaders, and pairs and metrics need one:\n"
            "join their data sets by torch.utils.data.ConcatDataset, or give one loader at a time."
        )
    return found[0]


def batches_begun(trainer: Any) -> int:
    """Return the number of batches that the running loop has begun before this one."""
    epoch_loop = trainer.fit_loop.epoch_loop
    loop = {
        "train": epoch_loop,
        "validate": epoch_loop.val_loop if trainer.state.fn == "fit" else trainer.validate_loop,
        "sanity_check": epoch_loop.val_loop,
        "test": trainer.test_loop,
        "predict": trainer.predict_loop,
    }[str(trainer.state.stage.value if trainer.state.stage else "train")]
    return int(loop.batch_progress.current.ready)


def defines(datamodule: Any, name: str) -> bool:
    """Tell whether a datamodule, perhaps one of ``pytorch_lightning``, has its own method of this name."""
    bases = (cls for cls in type(datamodule).__mro__ if cls.__name__ == "LightningDataModule")
    return is_overridden(name, datamodule, next(bases, L.LightningDataModule))
