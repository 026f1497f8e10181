"""A small datamodule around data sets: loaded at first use, checked, divided, and read in an order of its own."""

from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from intff_lightning.datamodules.loading import (
    IndexedDataset,
    InMemoryDataset,
    NoLoader,
    ResumableLoader,
    SeededSampler,
    check_samples,
)
from intff_lightning.errors import ConfigurationError, DataError

Part = Literal["train", "val", "test", "predict"]
PARTS: tuple[Part, ...] = ("train", "val", "test", "predict")

_STAGES: dict[str, tuple[Part, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class PartDataModule(L.LightningDataModule):
    """Base of datamodules with one method for the loaders of all parts."""

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
    ``predict``, ``test`` takes its place. ``corrupt`` is called once on training data in memory.
    """

    def __init__(
        self,
        load: Callable[[Part], Dataset[Any] | None],
        divide: Callable[[Dataset[Any]], tuple[Tensor, Tensor]],
        corrupt: Callable[[InMemoryDataset], InMemoryDataset],
        seed: Callable[[], int],
        batch_size: int,
        num_workers: int,
        num_classes: int | None,
        source: str,
    ) -> None:
        super().__init__()
        self.load, self.divide, self.corrupt, self.seed = load, divide, corrupt, seed
        self.batch_size, self.num_workers, self.num_classes, self.source = batch_size, num_workers, num_classes, source
        self._datasets: dict[Part, Dataset[Any] | None] = {}
        self._train_loader: ResumableLoader | None = None
        self._position: dict[str, int] | None = None

    def dataset(self, part: Part) -> Dataset[Any] | None:
        """Return the data set of a part, loaded and checked at the first call, or ``None`` if there is none."""
        if part not in self._datasets:
            if part in ("train", "val"):
                train, val = self._loaded("train"), self._loaded("val")
                if train is not None and val is None:
                    train, val = self._divided(train)
                if isinstance(train, InMemoryDataset):
                    train = self.corrupt(train)
                self._datasets |= {"train": train, "val": val}
            else:
                found = self._loaded(part)
                self._datasets[part] = self.dataset("test") if found is None and part == "predict" else found
        return self._datasets[part]

    def _loaded(self, part: Part) -> Dataset[Any] | None:
        dataset = self.load(part)
        if dataset is not None and len(dataset) == 0:  # type: ignore[arg-type]  # map-style
            raise DataError(f"{part} data: the data set is empty.")
        if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
            dataset = InMemoryDataset(*dataset.tensors)  # fetched as a whole instead of sample by sample
        if isinstance(dataset, InMemoryDataset):
            check_samples(dataset.image, dataset.target, self.num_classes, f"{part} data")
        return dataset

    def _divided(self, whole: Dataset[Any]) -> tuple[Dataset[Any], Dataset[Any] | None]:
        train, val = self.divide(whole)
        if not len(val):
            return whole, None
        if isinstance(whole, InMemoryDataset):
            return tuple(InMemoryDataset(whole.image[index], whole.target[index]) for index in (train, val))  # type: ignore[return-value]
        return Subset(whole, train.tolist()), Subset(whole, val.tolist())

    def setup(self, stage: str) -> None:
        for part in _STAGES[stage]:
            self.dataset(part)

    def loader(self, part: Part) -> Any:
        dataset = self.dataset(part)
        if dataset is None:
            if part == "val":
                return NoLoader()
            raise ConfigurationError(f"there is no {part} data: PairedDataModule(..., {part}=a dataset).")
        if not isinstance(dataset, InMemoryDataset):
            dataset = IndexedDataset(dataset, self.num_classes, self.source)
        collate: Any = dataset.collate
        trainer = self.trainer
        sampler = SeededSampler(
            len(dataset),
            self.batch_size,
            train=part == "train",
            seed=self.seed(),
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        loader = (ResumableLoader if part == "train" else DataLoader)(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
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
