"""Datasets in memory, and loaders whose order is a function of (seed, epoch), on any number of processes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, DataError

__all__ = ["InMemoryDataset", "IndexedDataset", "ResumableLoader", "SeededSampler", "check_samples", "count_classes"]

_ORDER = 1  # stream of draws, apart from those of a batch's negatives and augmentation


def check_samples(image: Tensor, target: Tensor, num_classes: int | None, where: str) -> None:
    """Refuse labels out of range and pixels that are not finite.

    Args:
        image: ``(N, *)``.
        target: ``(N,)``.
        num_classes: ``None`` allows every label from 0 on.
        where: names the data in the message.

    Raises:
        DataError: with the first offending sample.
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


class InMemoryDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A whole data set as two tensors, fetched by lists of indices rather than sample by sample.

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

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.image[index], self.target[index], torch.tensor(index)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Fetch a batch at once: image ``(B, *)``, target ``(B,)`` and index ``(B,)``."""
        index = torch.as_tensor(indices)
        return self.image.index_select(0, index), self.target.index_select(0, index), index

    @staticmethod
    def collate(batch: Any) -> Any:
        """:meth:`__getitems__` has collated already."""
        return batch


class IndexedDataset(Dataset[tuple[Any, Any, int]]):
    """Any dataset of ``(image, target)``, with each sample's index added."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style datasets have a length

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        image, target = self.dataset[index]
        return image, target, index


class SeededSampler(DistributedSampler[int]):
    """Indices whose order depends on (seed, epoch) alone, dealt out to the processes in turn.

    So W processes with batches of B see, batch by batch, the samples that one process sees with batches of W * B.
    It is a ``DistributedSampler`` at any world size, which keeps Lightning from putting its own in its place.

    Args:
        size: of the data set.
        batch_size: of one process. A training epoch holds whole global batches only, or one smaller batch where the
            data set has no more.
        train: shuffle, and give all processes the same number of samples; evaluation takes each sample once, in order.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, size: int, batch_size: int, train: bool, seed: int = 0, rank: int = 0, world_size: int = 1):
        # a range stands for the data set, of which the base asks the length alone
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
    """A DataLoader over a :class:`SeededSampler` that remembers, in a checkpoint, how far into the epoch it is."""

    _done = 0
    _resume = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator serves as well
        first = self._done % len(self) if self._resume else 0  # a checkpoint at an epoch's end starts the next one
        self._resume = False
        self.sampler.start = first * (self.batch_size or 1)  # type: ignore[attr-defined]  # a SeededSampler
        for self._done, batch in zip(itertools.count(first + 1), super().__iter__(), strict=False):
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches of this epoch that were handed out."""
        return {"batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration after the batches handed out so far."""
        self._done, self._resume = state["batches"], True


def count_classes(source: Any) -> int:
    """Number of classes that a dataset or datamodule tells of itself."""
    while isinstance(source, Subset):
        source = source.dataset
    if isinstance(source, InMemoryDataset):
        return int(source.target.max()) + 1
    holder: Any
    for holder in (source, getattr(source, "dataset", None)):
        if isinstance(getattr(holder, "num_classes", None), int):
            return int(holder.num_classes)
        if hasattr(holder, "classes"):
            return len(holder.classes)
        if hasattr(holder, "targets"):
            return int(torch.as_tensor(holder.targets).max()) + 1
    raise ConfigurationError(f"{type(source).__name__} does not tell its number of classes: pass num_classes=.")
