"""Classes that images have without labels: a task whose answer is known, because it was made."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from intff_lightning.errors import ConfigurationError
from intff_lightning.recipe import Recorded


class Pretext(Recorded):
    """Base of tasks for training without labels.

    Any callable with these attributes works as one. A checkpoint keeps it if its class derives from this one.
    """

    num_classes: ClassVar[int]
    """Number of classes, and of changed images that are made of each image."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Change images ``(B, *)`` in every way; returns ``(B * num_classes, *)``, and the classes of these.

        Those of one image are neighbours.
        """
        raise NotImplementedError

    def classes_for(self, input_shape: Sequence[int]) -> int:
        """Return the number of classes for images of this shape; refuse images that cannot be changed."""
        self(torch.zeros(1, *input_shape))
        return self.num_classes


def right_log_probability(scores: Tensor, kind: Tensor, images: int) -> Tensor:
    """Return the mean log-probability of the right classes of changed images (Golan and El-Yaniv 2018).

    Args:
        scores: ``(*, B * K, K)`` for K changed images of each of B images.
        kind: Classes of the changed images, ``(B * K,)``.
        images: B; an exported program must not take it from the size of ``scores``.

    Returns:
        ``(*, B)``.
    """
    right = scores.log_softmax(-1).gather(-1, kind.expand(scores.shape[:-1]).unsqueeze(-1))
    return right.view(*scores.shape[:-2], images, -1).mean(-1)


class Rotations(Pretext):
    """The class of an image is the angle by which it was rotated: 0, 90, 180 or 270 degrees (Gidaris et al. 2018).

    >>> image, turns = Rotations()(torch.tensor([[[[1, 2], [3, 4]]]]))
    >>> image.flatten(1).tolist(), turns.tolist()
    ([[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [3, 1, 4, 2]], [0, 1, 2, 3])
    """

    num_classes = 4

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        if image.ndim != 4 or image.shape[2] != image.shape[3]:
            raise ConfigurationError(f"Rotations needs square images (C, H, H), not of shape {tuple(image.shape[1:])}.")
        turned = torch.stack([torch.rot90(image, turns, (2, 3)) for turns in range(4)], dim=1)
        return turned.flatten(0, 1), torch.arange(4, device=image.device).repeat(image.shape[0])
