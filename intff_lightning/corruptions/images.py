"""The base of MNIST-C's corruptions (Mu and Gilmer 2019, arXiv 1906.02337), and the operations that they share."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from intff_lightning.corruptions.base import Corruption, Samples
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError

SEVERITIES = (1, 2, 3, 4, 5)
"""From a slight change to the strongest one."""

SIDE = 28
"""Side of the images for which Mu and Gilmer chose their parameters, in pixels."""


class ImageCorruption(Corruption):
    """Base of the 15 kinds of MNIST-C: implement ``change``.

    Images are grey or colour, ``(B, C, H, W)`` or ``(B, H, W)``, of any size. Pixels are clipped to [0, 1]. Parameters
    that are lengths are those of Mu and Gilmer for 28x28 pixels; they grow with the shorter side of the image.

    Args:
        severity: 1 to 5; ``None`` takes the severity of the MNIST-C data set.
        rate: Probability with which each sample is corrupted.
    """

    mnist_c_severity: ClassVar[int]
    """Severity of the MNIST-C data set."""

    def __init__(self, severity: int | None = None, rate: float = 1.0) -> None:
        super().__init__(rate)
        if severity is not None and (type(severity) is not int or severity not in SEVERITIES):
            raise ConfigurationError(f"{type(self).__name__}(severity={severity!r}): choose from 1 to 5.")
        self.severity = self.mnist_c_severity if severity is None else severity

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        """Corrupt all of these images.

        Args:
            image: ``(B, C, H, W)`` float32 in [0, 1].
            unit: Number of pixels that make 1/28 of the image's shorter side.
            generator: The draws of these samples.

        Returns:
            Images of the same shape; they are clipped to [0, 1] afterwards.
        """
        raise NotImplementedError

    def corrupt(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        """Corrupt all of these samples; the labels stay, and ``num_classes`` and ``mean`` are not used."""
        if image.ndim not in (3, 4) or min(image.shape[-2:]) < 2:
            raise ConfigurationError(
                f"{type(self).__name__} needs images (C, H, W) or (H, W) of 2x2 pixels or more, not of shape "
                f"{tuple(image.shape[1:])}."
            )
        picture = (image if image.ndim == 4 else image.unsqueeze(1)).float().clamp(0, 1)
        changed = self.change(picture, min(image.shape[-2:]) / SIDE, generator)
        return changed.clamp(0, 1).view(image.shape).to(image.dtype), target


def gaussian_blur(image: Tensor, sigma: float, mode: str = "replicate") -> Tensor:
    """Blur images ``(B, C, H, W)`` by a Gaussian that is cut off at four standard deviations.

    Unlike torchvision's, it takes images that are smaller than the filter.

    Args:
        image: The images.
        sigma: Standard deviation, in pixels.
        mode: What lies beyond the border: the nearest pixel (``replicate``) or zeros (``constant``).
    """
    radius = int(4 * sigma + 0.5)
    if radius < 1:
        return image
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma) ** 2)
    weights = (weights / weights.sum()).to(image.dtype)
    flat = image.flatten(0, 1).unsqueeze(1)  # (B * C, 1, H, W)
    flat = conv2d(pad(flat, [radius, radius, 0, 0], mode), weights.view(1, 1, 1, -1))
    return conv2d(pad(flat, [0, 0, radius, radius], mode), weights.view(1, 1, -1, 1)).view(image.shape)


def warp(image: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Move the pixels of images ``(B, C, H, W)``; bilinear, and zeros enter at the border.

    The pixel at an offset p = (x, y) from the centre is read at ``matrix @ p + shift`` from the centre.

    Args:
        image: The images.
        matrix: ``(B, 2, 2)``.
        shift: ``(B, 2)``, in pixels to the right and down; ``None`` is zero.
    """
    height, width = image.shape[-2:]
    # coordinates of grid_sample run from -1 to 1 along either side
    size = torch.tensor([width / 2, height / 2], device=image.device)
    moved = torch.zeros_like(matrix[:, :, 0]) if shift is None else shift / size
    theta = torch.cat([matrix * size / size.unsqueeze(1), moved.unsqueeze(2)], dim=2)
    grid = affine_grid(theta, list(image.shape), align_corners=False)
    return grid_sample(image, grid, align_corners=False)


def signs(generator: Draws, *shape: int) -> Tensor:
    """Draw -1 or 1 with equal probability, float32 ``(B, *shape)``."""
    return 2.0 * generator.integers(2, *shape) - 1


def line(image: Tensor, unit: float, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    r"""Return a line as bright as :math:`1 + \log(1 - d / 2.3)` at a vertical distance d from it, ``(B, 1, H, W)``.

    Args:
        image: ``(B, C, H, W)``, for the size.
        unit: Length in pixels of the unit in which distances and ``start`` and ``end`` are given.
        start: Column and row of the left end, ``(B,)`` each.
        end: Column and row of the right end. If it is not to the right of ``start``, there is no line.
    """
    height, width = image.shape[-2:]
    row = torch.arange(height, device=image.device).view(1, -1, 1)
    column = torch.arange(width, device=image.device).view(1, 1, -1)
    c0, r0, c1, r1 = (value.view(-1, 1, 1) for value in (*start, *end))
    slope = (r1 - r0) / torch.where(c1 > c0, c1 - c0, math.inf)
    distance = (row / unit - (slope * (column / unit - c0) + r0)).abs()
    bright = (torch.log1p(-distance.clamp(max=2.299) / 2.3) + 1).clamp(0, 1)
    inside = (column >= (c0 * unit + 1e-4).floor()) & (column < (c1 * unit - 1e-4).ceil()) & (c1 > c0)  # as rounded
    return (bright * inside).unsqueeze(1)
