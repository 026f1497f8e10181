"""Data sets in memory, and loaders whose order is a function of (seed, epoch) on any number of processes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, default_collate

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DataError

_ORDER = 1  # stream of draws, apart from those of the negatives and the augmentation of a batch


class IndexedBatch(NamedTuple):
    """Checked samples, with their indices in the data set."""

    image: Tensor
    """``(B, *)``, uint8, or float in [0, 1]."""
    target: Tensor
    """``(B,)`` int64."""
    sample: Tensor
    """``(B,)`` int64."""


def check_samples(image: Tensor, target: Tensor, num_classes: int | None, where: str) -> None:
    """Refuse labels out of range and pixels that are not finite, by a DataError that names the first such sample.

    Without ``num_classes`` every label from 0 on is allowed; ``where`` names the data in the message.
    """
    if target.is_floating_point() or target.ndim != 1 or len(target) != len(image):
        raise DataError(
            f"{where}: one integer label per image is needed; labels are {target.dtype} of shape "
            f"{tuple(target.shape)} for {len(image)} images."
        )
    bad = (target < 0) if num_classes is None else (target < 0) | (target >= num_classes)
    if bad.any():
        first = int(bad.nonzero()[0])
        allowed = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        raise DataError(
            f"{where}: sample {first} has the label {int(target[first])}, and labels must be {allowed} "
            f"({int(bad.sum())} of {len(bad)} are not). Correct the labels, or num_classes."
        )
    if image.is_floating_point():
        bad = ~image.flatten(1).isfinite().all(1)
        if bad.any():
            raise DataError(
                f"{where}: sample {int(bad.nonzero()[0])} has NaN or infinite pixels "
                f"({int(bad.sum())} of {len(bad)} samples have). Remove or repair them."
            )


class InMemoryDataset(Dataset[IndexedBatch]):
    """A whole data set as two tensors, fetched by lists of indices instead of sample by sample.

    Args:
        image: ``(N, *)``, uint8, or float in [0, 1].
        target: ``(N,)``, integers.
    """

    def __init__(self, image: Tensor, target: Tensor) -> None:
        if target.is_floating_point():
            raise DataError(f"labels are {target.dtype}, and integers are needed: target.long() if they are whole.")
        self.image, self.target = image, target.to(torch.int64)

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


class IndexedDataset(Dataset[IndexedBatch]):
    """Any map-style data set of ``(image, target)``, with the index of each sample added."""

    def __init__(self, dataset: Dataset[Any], num_classes: int | None, name: str) -> None:
        self.dataset, self.num_classes, self.name = dataset, num_classes, name

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style data sets have a length

    def __getitem__(self, index: int) -> IndexedBatch:
        image, target = self.dataset[index]
        return IndexedBatch(image, target, index)  # type: ignore[arg-type]  # collated below

    def collate(self, samples: list[IndexedBatch]) -> IndexedBatch:
        """Make a batch and check it, in the process that reads the samples."""
        batch: IndexedBatch = default_collate(samples)
        check_samples(batch.image, batch.target, self.num_classes, f"a batch of {self.name}")
        return batch


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


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over a :class:`SeededSampler` whose state is its place in the epoch."""

    _done = 0
    _resume = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator serves as well
        first = self._done % len(self) if self._resume else 0  # after a whole epoch, the next one starts
        self._resume = False
        self.sampler.start = first * (self.batch_size or 1)  # type: ignore[attr-defined]  # a SeededSampler
        for self._done, batch in zip(itertools.count(first + 1), super().__iter__(), strict=False):
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._done, self._resume = state["batches"], True


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


def count_classes(source: Any) -> int:
    """Return the number of classes that a data set or datamodule tells about itself, or refuse it."""
    while isinstance(source, Subset):
        source = source.dataset
    if isinstance(source, InMemoryDataset):
        return int(source.target.max()) + 1
    for holder in (source, getattr(source, "dataset", None)):
        count, classes, targets = (getattr(holder, name, None) for name in ("num_classes", "classes", "targets"))
        if isinstance(count, int):
            return count
        if classes is not None:
            return len(classes)
        if targets is not None:
            return int(torch.as_tensor(targets).max()) + 1
    raise ConfigurationError(f"{type(source).__name__} does not tell its number of classes: pass num_classes=.")
