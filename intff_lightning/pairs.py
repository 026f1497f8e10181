"""What a paired datamodule emits."""

from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["PairedBatch", "image_and_target"]


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


def image_and_target(batch: Any) -> tuple[Tensor, Tensor]:
    """Images ``(B, *)`` and true classes ``(B,)`` of a :class:`PairedBatch`, or of a batch ``(image, target, ...)``."""
    return (batch.image, batch.target) if isinstance(batch, PairedBatch) else (batch[0], batch[1])
