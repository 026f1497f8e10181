"""Augmentation of training images, on the device, one batch at a time."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError, check_choice
from intff_lightning.functional import at_least_float32
from intff_lightning.recipe import Recorded

Border = Literal["zeros", "reflect"]


class Augmentation(Recorded):
    """Base of augmentations. Any callable with this signature works as one."""

    def __call__(self, image: Tensor, *, generator: Draws) -> Tensor:
        """Change images ``(B, C, H, W)`` at random, by the draws of these samples in this epoch."""
        raise NotImplementedError


def _sides(augmentation: Augmentation, image: Tensor) -> tuple[int, int]:
    """Return height and width of images ``(B, C, H, W)``; refuse others."""
    if image.ndim != 4:
        raise ConfigurationError(
            f"{type(augmentation).__name__} needs images (C, H, W), not of shape {tuple(image.shape[1:])}."
        )
    return image.shape[2], image.shape[3]


class RandomShift(Augmentation):
    """Shifts each image by up to ``pixels`` in both directions, uniformly: a crop of the image with a border around it.

    Args:
        pixels: Largest shift, in pixels.
        border: What enters at the border: ``zeros``, or the image mirrored (``reflect``).
    """

    def __init__(self, pixels: int = 1, border: Border = "zeros") -> None:
        if pixels < 0:
            raise ConfigurationError(f"RandomShift(pixels={pixels}): a shift of 0 pixels or more is needed.")
        check_choice("border", border, Border)
        self.pixels, self.border = pixels, border

    def __call__(self, image: Tensor, *, generator: Draws) -> Tensor:
        batch, (height, width) = len(image), _sides(self, image)
        if self.border == "reflect" and self.pixels >= min(height, width):
            raise ConfigurationError(f"RandomShift(pixels={self.pixels}) needs larger images, not {height}x{width}.")
        offset = generator.integers(2 * self.pixels + 1, 2)  # (B, 2): rows, columns
        rows = offset[:, :1] + torch.arange(height, device=image.device)  # (B, H)
        columns = offset[:, 1:] + torch.arange(width, device=image.device)  # (B, W)
        sample = torch.arange(batch, device=image.device).view(-1, 1, 1)
        # dimensions of advanced indices around a slice come first: (B, H, W, C)
        mode = "constant" if self.border == "zeros" else "reflect"
        shifted = pad(image, [self.pixels] * 4, mode)[sample, :, rows.unsqueeze(2), columns.unsqueeze(1)]
        return shifted.movedim(-1, 1).contiguous()


class RandomAffine(Augmentation):
    """Rotates, scales and shifts each image by amounts drawn uniformly; bilinear, and zeros enter at the border.

    Args:
        degrees: Largest rotation in either direction, in degrees.
        scale: Largest enlargement or reduction, as a share of the size.
        shift: Largest shift in each direction, as a share of the size.
    """

    def __init__(self, degrees: float = 10.0, scale: float = 0.1, shift: float = 0.05) -> None:
        if min(degrees, scale, shift) < 0 or scale >= 1:
            raise ConfigurationError(
                f"RandomAffine(degrees={degrees}, scale={scale}, shift={shift}): give 0 or more, and scale below 1."
            )
        self.degrees, self.scale, self.shift = degrees, scale, shift

    def __call__(self, image: Tensor, *, generator: Draws) -> Tensor:
        height, width = _sides(self, image)
        turn, size, right, down = (2 * generator.uniform(4) - 1).unbind(1)
        angle, size = turn * math.radians(self.degrees), 1 + size * self.scale
        # grid_sample's coordinates run from -1 to 1 along either side, so a rotation needs the ratio of the sides
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        rows = [cos, -sin * height / width, 2 * self.shift * right, sin * width / height, cos, 2 * self.shift * down]
        exact = at_least_float32(image)  # half precision is too coarse for coordinates
        grid = affine_grid(torch.stack(rows, 1).view(-1, 2, 3).to(exact.dtype), list(image.shape), align_corners=False)
        return grid_sample(exact, grid, align_corners=False).to(image.dtype)


class HorizontalFlip(Augmentation):
    """Mirrors each image with probability 0.5."""

    def __call__(self, image: Tensor, *, generator: Draws) -> Tensor:
        _sides(self, image)
        mirrored = generator.uniform() < 0.5
        return torch.where(mirrored.view(-1, 1, 1, 1), image.flip(3), image)


class Cutout(Augmentation):
    """Sets a square of each image to zero (DeVries and Taylor 2017).

    Its centre is drawn uniformly from all pixels, so that squares at the border are cut off there.

    Args:
        size: Side of the square, in pixels.
    """

    def __init__(self, size: int = 8) -> None:
        if size < 1:
            raise ConfigurationError(f"Cutout(size={size}): a side of 1 pixel or more is needed.")
        self.size = size

    def __call__(self, image: Tensor, *, generator: Draws) -> Tensor:
        inside = []
        for length in _sides(self, image):
            first = generator.integers(length, 1) - self.size // 2
            place = torch.arange(length, device=image.device) - first  # (B, H), then (B, W)
            inside.append((place >= 0) & (place < self.size))
        rows, columns = inside
        return image.masked_fill((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), 0)


class InOrder(Augmentation):
    """Applies several augmentations, one after the other.

    Args:
        steps: The augmentations.
    """

    def __init__(self, steps: Sequence[Augmentation]) -> None:
        self.steps = list(steps)

    def __call__(self, image: Tensor, *, generator: Draws) -> Tensor:
        for step in self.steps:
            image = step(image, generator=generator)
        return image
