"""The batch in which the data and the network meet."""

from typing import Any, NamedTuple

from torch import Tensor


class PairedBatch(NamedTuple):
    """Images with their true labels, and the k negatives of each image.

    It knows nothing of the network: the module's label encoder puts labels into images. Log with
    ``batch_size=len(batch.target)``, because Lightning's own guess may count the negatives.
    """

    image: Tensor
    """Images ``(B, *)``, float in [0, 1], after corruption and augmentation."""
    target: Tensor
    """True classes ``(B,)``, int64."""
    negative_image: Tensor | None
    """Negative images ``(B, k, *)``, or ``None`` if the negatives are the same images under other labels."""
    negative_target: Tensor | None
    """Labels of the negatives ``(B, k)``, int64, or ``None`` if the negative source chooses none."""

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


def image_and_target(batch: Any) -> tuple[Tensor, Tensor]:
    """Return images ``(B, *)`` and true classes ``(B,)`` of any batch that begins ``(image, target)``."""
    return batch[0], batch[1]
