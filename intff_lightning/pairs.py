"""The batch in which the data and the network meet."""

from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.lightning_compat import training_loaders
from intff_lightning.samples import Reader, check_pixels, check_shape, checked
from intff_lightning.sequences import network_input


class PairedBatch(NamedTuple):
    """Images with their true labels, and the k negatives of each image.

    It knows nothing of the network: the module's label encoder puts labels into images. Log with
    ``batch_size=len(batch.target)``, because Lightning's own guess may count the negatives.
    """

    image: Tensor
    """Images ``(B, *)``, float in [0, 1], after corruption and augmentation; or token ids ``(B, T)``, int64."""
    target: Tensor
    """True classes ``(B,)``, int64; for a regression, targets scaled to 0..1 over the training data, floating point."""
    negative_image: Tensor | None
    """Negative images ``(B, k, *)``, or ``None`` if the negatives are the same images under other labels."""
    negative_target: Tensor | None
    """Labels of the negatives ``(B, k)``, as targets are, or ``None`` if the negative source chooses none."""

    @property
    def positive(self) -> tuple[Tensor, Tensor]:
        """Positive images ``(B, *)`` and their labels ``(B,)``."""
        return self.image, self.target

    @property
    def negative(self) -> tuple[Tensor, Tensor | None]:
        """Negative images ``(B, k, *)`` and their labels ``(B, k)``; both have k = 0 in a batch without negatives."""
        if self.negative_image is not None:
            return self.negative_image, self.negative_target
        label = self.target.new_empty(len(self.target), 0) if self.negative_target is None else self.negative_target
        return self.image.unsqueeze(1).expand(-1, label.shape[1], *self.image.shape[1:]), label


def data_share(trainer: L.Trainer | None) -> tuple[int, int]:
    """Return the number of this process among those that share the data, and how many they are.

    The processes of a pipeline over units all read the same batches.
    """
    share = None if trainer is None else trainer.distributed_sampler_kwargs
    return (0, 1) if share is None else (int(share["rank"]), int(share["num_replicas"]))


def image_and_target(
    batch: Any, module: L.LightningModule | None = None, num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return images ``(B, *)`` and true classes ``(B,)`` of any batch, see :mod:`intff_lightning.samples`.

    Args:
        batch: A :class:`PairedBatch`, which is taken as it is, or ``(image, target, ...)``.
        module: The module that takes the batch, for its dtype and device; ``None`` gives float32.
        num_classes: Refuse labels out of range, and pixels that are not finite; ``None`` checks neither. While a
            network trains on an accelerator, only batches before its first step are waited for.

    Raises:
        DataError, ConfigurationError: The batch is of another kind, or holds values that are refused.
    """
    if isinstance(batch, PairedBatch):
        return batch.image, batch.target
    where = "a batch of the dataloader"
    try:
        image, target = Reader(where, vocabulary=_vocabulary(module)).batch(batch)
    except (DataError, ConfigurationError):
        count = 0 if module is None else training_loaders(module)
        if count < 2:
            raise
        raise ConfigurationError(
            f"the training data are those of {count} loaders, and one loader is needed:\n"
            "join their data sets by torch.utils.data.ConcatDataset."
        ) from None
    assert target is not None  # labelled
    dtype: Any = torch.float32 if module is None else module.dtype
    if module is not None:
        image, target = image.to(module.device), target.to(module.device)
    image = network_input(image, dtype)
    if num_classes is None:
        return image, target
    assert module is not None
    check_shape(image, module.hparams.get("input_shape"), where)
    wait = not module.training or module.global_step == 0
    return checked(image, target, num_classes, where, wait, _vocabulary(module))


def images_to_predict(batch: Any, module: L.LightningModule) -> Tensor:
    """Return the images ``(B, *)`` of a batch to predict, in the dtype of the module; token ids stay int64.

    The batch is the images alone, or begins with them; labels are ignored.

    Raises:
        DataError, ConfigurationError: The batch is of another kind, or has pixels that are not finite.
    """
    where = "a batch to predict"
    image, _ = Reader(where, vocabulary=_vocabulary(module)).batch(batch, labelled=False)
    dtype: Any = module.dtype
    image = network_input(image.to(module.device), dtype)
    check_shape(image, module.hparams.get("input_shape"), where)
    check_pixels(image, where, _vocabulary(module))
    return image


def _vocabulary(module: L.LightningModule | None) -> int | None:
    return None if module is None else module.hparams.get("vocabulary")
