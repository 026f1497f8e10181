"""Checks of the options of datamodules, before any data is read."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from intff_lightning.corruptions import Corruption, check_keeps_labels
from intff_lightning.datamodules.datasets import Part
from intff_lightning.errors import CheckpointError, ConfigurationError


def batch_size_of(datamodule: Any) -> int:
    """Return the ``batch_size`` of a datamodule, or that among its hyperparameters."""
    try:
        return int(datamodule.batch_size)
    except AttributeError:
        if "batch_size" in datamodule.hparams:
            return int(datamodule.hparams["batch_size"])
        name = type(datamodule).__name__
        raise ConfigurationError(
            f"{name} has no batch_size: its loaders set the size of batches. To find one, let {name} have an attribute "
            "batch_size that its loaders use."
        ) from None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_options(
    batch_size: int,
    val_size: float,
    val_seed: int,
    seed: int | None,
    num_workers: int,
    num_classes: int | None,
    keys: list[str] | None,
    pixel_range: list[float] | None,
    vocabulary: int | None = None,
) -> None:
    """Refuse options out of range or of another type."""
    integers = {"batch_size": batch_size, "val_seed": val_seed, "num_workers": num_workers}
    for name, value in (integers if seed is None else {**integers, "seed": seed}).items():
        if not _is_integer(value):
            raise ConfigurationError(f"{name}={value!r}: an integer is needed.")
    if batch_size < 1:
        raise ConfigurationError(f"batch_size={batch_size}: one sample or more is needed.")
    if not val_size >= 0 or (val_size >= 1 and val_size != int(val_size)):
        raise ConfigurationError(f"val_size={val_size}: a number of samples or a share below 1 is needed, 0 or more.")
    if num_workers < 0:
        raise ConfigurationError(f"num_workers={num_workers}: 0 processes or more are needed.")
    if num_classes is not None and not (_is_integer(num_classes) and num_classes >= 1):
        raise ConfigurationError(f"num_classes={num_classes!r}: an integer, 1 or more, is needed.")
    if keys is not None and (isinstance(keys, str) or len(keys) != 2):
        raise ConfigurationError(f"keys={keys}: two names are needed, [IMAGE, LABEL].")
    check_pixel_range(pixel_range)
    if vocabulary is not None and not (_is_integer(vocabulary) and vocabulary >= 2):
        raise ConfigurationError(f"vocabulary={vocabulary!r}: an integer, 2 or more, is needed; 0 is padding.")
    if vocabulary is not None and pixel_range is not None:
        raise ConfigurationError("pixel_range has no effect on token ids: give vocabulary or pixel_range, not both.")


def count_of(name: str, share: float, size: int) -> int:
    """Return the number of samples that an option takes of ``size``; it is a number, or below 1 a share.

    Raises:
        ConfigurationError: None of them is left to train on.
    """
    count = round(share * size) if share < 1 else int(share)
    if count >= size:
        raise ConfigurationError(f"{name}={share:g} leaves nothing of {size} samples to train on.")
    return count


def check_pixel_range(pixel_range: Sequence[float] | None) -> None:
    """Refuse what is no range of pixels."""
    if pixel_range is not None and (
        len(pixel_range) != 2 or not -math.inf < pixel_range[0] < pixel_range[1] < math.inf
    ):
        raise ConfigurationError(f"pixel_range={list(pixel_range)}: two numbers are needed, [LOWEST, HIGHEST].")


def check_task(
    regression: bool,
    target_range: Sequence[float] | None,
    num_classes: int | None,
    negatives: Any,
    corruption: Any,
) -> None:
    """Refuse options that do not fit targets that are numbers, or classes."""
    wanted = getattr(negatives, "for_regression", None)  # any callable works as a source
    if wanted not in (None, regression):
        advice = "use ShiftedTargets" if regression else "give regression: true, or use WrongLabels"
        raise ConfigurationError(f"{type(negatives).__name__} does not fit regression={regression}: {advice}.")
    if not regression and target_range is not None:
        raise ConfigurationError("target_range has no effect without regression: true. Leave target_range out.")
    if regression and num_classes is not None:
        raise ConfigurationError("num_classes has no effect: a regression has no classes. Leave num_classes out.")
    if regression and corruption is not None:
        raise ConfigurationError("corruption is for images with classes, and not for a regression: leave it out.")
    if target_range is not None and (
        len(target_range) != 2 or not -math.inf < target_range[0] < target_range[1] < math.inf
    ):
        raise ConfigurationError(f"target_range={list(target_range)}: two numbers are needed, [LOWEST, HIGHEST].")


def check_test_corruption(corruption: Corruption | None, vocabulary: int | None) -> None:
    """Refuse a corruption of test data after which their labels would be wrong, or that is for pixels alone."""
    check_keeps_labels(corruption)
    if corruption is not None and vocabulary is not None:
        raise ConfigurationError(f"test_corruption: {type(corruption).__name__} needs pixels, not token ids.")


def check_seed(given: int | None, saved: int) -> None:
    """Refuse a seed that was given and is not that of the checkpoint: a resumed run keeps its draws."""
    if given not in (None, saved):
        raise CheckpointError(f"the data have seed={given} here and {saved} in the checkpoint: leave seed out.")


def check_effects(names: Iterable[str], given: Mapping[str, Any], owner: type, why: str) -> None:
    """Refuse options of these names that were given, because they would have no effect.

    The command line and recipes give every option. There, one that equals its default was not asked for.
    """
    parameters = inspect.signature(owner).parameters
    everything = given.keys() >= parameters.keys()
    for name in names:
        value = given.get(name)
        if value is not None and not (everything and value == parameters[name].default):
            shown = f"={value}" if isinstance(value, int | float) else ""
            raise ConfigurationError(f"{name}{shown} has no effect: {why}. Leave {name} out.")


@runtime_checkable
class _MapStyle(Protocol):
    """What a map-style data set has."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def check_dataset(part: Part, dataset: Any) -> None:
    """Refuse what is no map-style data set."""
    if dataset is None:
        return
    if isinstance(dataset, DataLoader | IterableDataset | L.LightningDataModule):
        raise ConfigurationError(
            f"{part} is of type {type(dataset).__name__}, and a map-style data set is needed. For loaders of your own, "
            f"give a LightningDataModule with a {part}_dataloader: PairedDataModule(YourDataModule())."
        )
    if isinstance(dataset, Tensor | np.ndarray | Mapping | tuple | str) or not isinstance(dataset, _MapStyle):
        raise ConfigurationError(
            f"{part} is of type {type(dataset).__name__}, and a map-style data set of (image, target) is needed, "
            "for example torch.utils.data.TensorDataset(images, targets)."
        )
    if isinstance(dataset, list) and any(isinstance(item, DataLoader) for item in dataset):
        raise ConfigurationError(f"{part} is a list of loaders, and one data set of (image, target) is needed.")
