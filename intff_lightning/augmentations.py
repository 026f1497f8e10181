"""Augmentation of training images, on the device and a batch at a time."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.recipe import Recorded

__all__ = ["Augmentation", "RandomShift"]


class Augmentation(Recorded):
    """Base of augmentations; any callable of this form will do."""

    def __call__(self, image: Tensor, *, generator: Draws) -> Tensor:
        """Change images ``(B, C, H, W)`` at random; ``generator`` holds the draws of these samples in this epoch."""
        raise NotImplementedError


class RandomShift(Augmentation):
    """Shift every image by up to ``pixels`` in each direction, uniformly; zeros enter at the border.

    Args:
        pixels: largest shift, in pixels.
    """

    def __init__(self, pixels: int = 1) -> None:
        if pixels < 0:
            raise ConfigurationError(f"RandomShift(pixels={pixels}): a shift of 0 pixels or more is needed.")
        self.pixels = pixels

    def __call__(self, image: Tensor, *, generator: Draws) -> Tensor:
        """Shift ``(B, C, H, W)``."""
        batch, _, height, width = image.shape
        offset = generator.integers(2 * self.pixels + 1, 2)  # (B, 2): rows, columns
        rows = offset[:, :1] + torch.arange(height, device=image.device)  # (B, H)
        columns = offset[:, 1:] + torch.arange(width, device=image.device)  # (B, W)
        sample = torch.arange(batch, device=image.device).view(-1, 1, 1)
        # advanced indices around a slice come first: (B, H, W, C)
        shifted = pad(image, [self.pixels] * 4)[sample, :, rows.unsqueeze(2), columns.unsqueeze(1)]
        return shifted.movedim(-1, 1).contiguous()
