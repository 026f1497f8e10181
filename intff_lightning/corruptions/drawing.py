"""Stripes and lines of MNIST-C. Mu and Gilmer give these kinds no severity, so severity is ours; one is theirs."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from intff_lightning.corruptions.images import SIDE, ImageCorruption, line
from intff_lightning.draws import Draws


class Stripe(ImageCorruption):
    """Inverts a stripe at the left and one at the right, each 3, 5, 7, 9 or 11 columns (of 28) wide.

    The arguments are those of :class:`ImageCorruption`; MNIST-C's stripes are 7 columns wide, severity 3. Nothing is
    drawn.
    """

    mnist_c_severity: ClassVar[int] = 3

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        width = image.shape[-1]
        stripe = max(1, round((1 + 2 * self.severity) * width / SIDE))
        column = torch.arange(width, device=image.device)
        return torch.where((column < stripe) | (column >= width - stripe), 1 - image, image)


class DottedLine(ImageCorruption):
    """Draws 1 to 5 dotted lines from the left to the right.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has one line, severity 1.
    """

    mnist_c_severity: ClassVar[int] = 1

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        height, width = image.shape[-2:]
        column = torch.arange(width, device=image.device)
        dots = ((column / (2 * unit) + 1e-4).floor() % 2 == 1).to(image.dtype)
        for _ in range(self.severity):
            rows = generator.integers(height - 1, 2).to(image.dtype) / unit
            left, right = torch.zeros_like(rows[:, 0]), torch.full_like(rows[:, 0], (width - 1) / unit)
            image = image + dots * line(image, unit, (left, rows[:, 0]), (right, rows[:, 1]))
        return image


class Zigzag(ImageCorruption):
    """Draws 1 to 5 zigzag lines from the left to the right.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has one line, severity 1.
    """

    mnist_c_severity: ClassVar[int] = 1
    size: ClassVar[float] = 2.0
    """Height of a tooth, and half of its length, in pixels (of 28)."""

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        for _ in range(self.severity):
            image = self._with_line(image, unit, generator).clamp(max=1)
        return image

    def _with_line(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        height, width = image.shape[-2:]
        first, tooth = 2.0, 2 * self.size
        across = (width - 1) / unit - 2 * first
        row = generator.integers(height - 1).to(image.dtype) / unit
        angle = torch.atan((generator.integers(10).to(image.dtype) - 5) / across)  # (B,)
        length = across / torch.cos(angle)
        turns = ((length - self.size) / tooth).floor() + 1  # of this line
        # the last piece ends close to the middle of the line
        rest = length - tooth * (length / tooth).floor()
        last = self.size * (1 - 2 * ((turns - 1) % 2)) / (2 * rest.clamp(min=0.5))
        start = torch.full_like(row, first), row
        for turn in range(int((math.hypot(across, 5) - self.size) // tooth) + 2):  # enough for the longest line
            along = torch.where(turn < turns, (2 * turn + 1) * self.size, length)
            aside = torch.where(turn < turns, (-1) ** turn * self.size, last)
            end = (
                first + torch.cos(angle) * along - torch.sin(angle) * aside,
                row + torch.sin(angle) * along + torch.cos(angle) * aside,
            )
            image = (image + line(image, unit, start, end)).clamp(max=1)
            start = end
        return image
