"""Affine corruptions of MNIST-C, around the centre of the image."""

from typing import ClassVar

import torch
from torch import Tensor

from intff_lightning.corruptions.images import ImageCorruption, signs, warp
from intff_lightning.draws import Draws

_ANGLES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""In radians."""


def _matrices(*entries: Tensor) -> Tensor:
    """Return matrices ``(B, 2, 2)`` of their four entries ``(B,)``, row by row."""
    return torch.stack(entries, dim=1).view(-1, 2, 2)


class Shear(ImageCorruption):
    """Slants the image by 0.2 to 1.0 radians, to the left or to the right.

    Lines that were upright keep their length, so that the image also grows in height, as in MNIST-C.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 2.
    """

    mnist_c_severity: ClassVar[int] = 2

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        angle = _ANGLES[self.severity - 1] * signs(generator)
        one, zero = torch.ones_like(angle), torch.zeros_like(angle)
        return warp(image, _matrices(one, -torch.sin(angle), zero, torch.cos(angle)))


class Scale(ImageCorruption):
    """Shrinks the image to 90, 80, 70, 60 or 50 percent of its size, on black.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 3. Nothing is drawn.
    """

    mnist_c_severity: ClassVar[int] = 3
    sizes: ClassVar[tuple[float, ...]] = (0.9, 0.8, 0.7, 0.6, 0.5)

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        matrix = torch.eye(2, device=image.device) / self.sizes[self.severity - 1]
        return warp(image, matrix.expand(len(image), -1, -1))


class Rotate(ImageCorruption):
    """Rotates the image by 0.2 to 1.0 radians, in either direction.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 2.
    """

    mnist_c_severity: ClassVar[int] = 2

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        angle = _ANGLES[self.severity - 1] * signs(generator)
        cos, sin = torch.cos(angle), torch.sin(angle)
        return warp(image, _matrices(cos, -sin, sin, cos))


class Translate(ImageCorruption):
    """Shifts the image by 1 to 5 pixels (of 28) in both directions, each to either side.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 3.
    """

    mnist_c_severity: ClassVar[int] = 3

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        shift = self.severity * unit * signs(generator, 2)
        return warp(image, torch.eye(2, device=image.device).expand(len(image), -1, -1), shift)
