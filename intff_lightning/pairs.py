"""What a paired datamodule emits."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from intff_lightning.labels import LabelEncoder, LabelledImages

__all__ = ["PairedBatch", "RelabelledBatch", "image_and_target"]


class PairedBatch(NamedTuple):
    """Positive and negative data of one batch; a NamedTuple, so Lightning moves it between devices.

    Log with ``batch_size=batch.target.shape[0]``: the negatives' first dimension would mislead Lightning's guess.
    """

    positive: Tensor
    """``(B, *)`` network inputs that carry the true label."""
    negative: Tensor
    """``(B * k, *)`` network inputs that carry a wrong label, or other negative data; the k of one sample in a row."""
    image: Tensor
    """``(B, *)`` the images without a label, after augmentation, float in [0, 1]."""
    target: Tensor
    """``(B,)`` int64 true classes."""
    negative_target: Tensor | None
    """``(B, k)`` int64 classes shown in the negatives; ``None`` where they show none."""


class RelabelledBatch(PairedBatch):
    """A :class:`PairedBatch` whose negatives are the images themselves, under the labels in ``negative_target``.

    Its inputs are made when they are asked for: a network whose first unit reads images and labels apart never does.
    """

    inputs: LabelledImages

    def __new__(  # type: ignore[misc]
        cls, positive: Tensor, negative: Tensor, image: Tensor, target: Tensor, negative_target: Tensor | None
    ) -> PairedBatch:
        """A copy (one moved to another device, say) is made of fields, and is a plain batch."""
        return PairedBatch(positive, negative, image, target, negative_target)

    @classmethod
    def of(cls, image: Tensor, target: Tensor, negative_target: Tensor, encoder: LabelEncoder) -> "RelabelledBatch":
        """Pair images ``(B, *)`` of classes ``(B,)`` with themselves under wrong labels ``(B, k)``."""
        batch = tuple.__new__(cls, (image, image, image, target, negative_target))  # the first two are never seen
        batch.inputs = LabelledImages(image, torch.cat([target.unsqueeze(1), negative_target], dim=1), encoder)
        return batch

    @property
    def positive(self) -> Tensor:
        """``(B, *)``, see :class:`PairedBatch`."""
        positive: Tensor = self.inputs.encoder(self.image, self.target)
        return positive

    @property
    def negative(self) -> Tensor:
        """``(B * k, *)``, see :class:`PairedBatch`."""
        assert self.negative_target is not None
        repeated = self.image.repeat_interleave(self.negative_target.shape[1], dim=0)
        negative: Tensor = self.inputs.encoder(repeated, self.negative_target.flatten())
        return negative

    def __iter__(self) -> Iterator[Any]:
        return iter((self.positive, self.negative, self.image, self.target, self.negative_target))

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]


def image_and_target(batch: Any) -> tuple[Tensor, Tensor]:
    """Images ``(B, *)`` and true classes ``(B,)`` of a :class:`PairedBatch`, or of a batch ``(image, target, ...)``."""
    return (batch.image, batch.target) if isinstance(batch, PairedBatch) else (batch[0], batch[1])
