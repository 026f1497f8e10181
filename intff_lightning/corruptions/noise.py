"""Noise and blur of MNIST-C."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from intff_lightning.corruptions.images import ImageCorruption, gaussian_blur
from intff_lightning.draws import Draws


class ShotNoise(ImageCorruption):
    """Each pixel counts photons: a Poisson variable with 60, 25, 12, 5 or 3 times its brightness as its mean.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 5.
    """

    mnist_c_severity: ClassVar[int] = 5
    photons: ClassVar[tuple[int, ...]] = (60, 25, 12, 5, 3)

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        """Draw counts by inverting their distribution, up to the count of a white pixel."""
        white = self.photons[self.severity - 1]
        expected = white * image
        drawn = generator.uniform(*image.shape[1:])
        probability = torch.exp(-expected)
        total, count = probability.clone(), torch.zeros_like(image)
        for k in range(white):
            count += drawn >= total
            probability = probability * expected / (k + 1)
            total += probability
        return count / white


class ImpulseNoise(ImageCorruption):
    """Some pixels turn black or white (salt and pepper): 3, 6, 9, 17 or 27 percent of them, half of them white.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 4.
    """

    mnist_c_severity: ClassVar[int] = 4
    shares: ClassVar[tuple[float, ...]] = (0.03, 0.06, 0.09, 0.17, 0.27)

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        share, drawn = self.shares[self.severity - 1], generator.uniform(*image.shape[1:])
        return torch.where(drawn < share, (drawn < share / 2).to(image.dtype), image)


class GlassBlur(ImageCorruption):
    """A view through frosted glass: blurred, then nearby pixels change places, then blurred again.

    Every pixel but those at the border changes places with probability one half, row by row from the bottom right, up
    to four times. The blur runs in both directions, as in ImageNet-C; that of MNIST-C's own code runs along columns
    only.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 1.
    """

    mnist_c_severity: ClassVar[int] = 1
    settings: ClassVar[tuple[tuple[float, int, int], ...]] = (
        (0.7, 1, 2),
        (0.9, 2, 1),
        (1.0, 2, 3),
        (1.1, 3, 2),
        (1.5, 4, 2),
    )
    """Standard deviation of the blur, reach of an exchange in pixels, and rounds of exchanges."""

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        sigma, reach, rounds = self.settings[self.severity - 1]
        image = gaussian_blur(image, sigma * unit)
        place = self._exchanged(image, max(1, round(reach * unit)), rounds, generator)
        moved = image.flatten(2).gather(2, place.T.unsqueeze(1).expand(-1, image.shape[1], -1))
        return gaussian_blur(moved.view(image.shape), sigma * unit)

    @staticmethod
    def _exchanged(image: Tensor, reach: int, rounds: int, generator: Draws) -> Tensor:
        """Return the places that the pixels of each image come from, ``(H * W, B)``."""
        size, _, height, width = image.shape
        sample = torch.arange(size, device=image.device)
        place = torch.arange(height * width, device=image.device).unsqueeze(1).repeat(1, size)
        for _ in range(rounds):
            for row in range(height - reach, reach, -1):
                columns = range(width - reach, reach, -1)
                if not columns:
                    break
                chosen = generator.integers(2, len(columns)).T == 1  # (columns, B)
                offset = (generator.integers(2 * reach, len(columns), 2) - reach).permute(1, 2, 0)
                partner = (row + offset[:, 0]) * width + torch.tensor(columns, device=image.device).unsqueeze(1)
                partner = torch.where(chosen, partner + offset[:, 1], -1)
                for number, column in enumerate(columns):  # one after the other: a pixel may travel on
                    here = row * width + column
                    there = torch.where(chosen[number], partner[number], here)
                    mine, theirs = place[here].clone(), place[there, sample]
                    place[there, sample] = mine
                    place[here] = theirs
        return place


class MotionBlur(ImageCorruption):
    """A moving camera: each pixel is smeared along a direction between -45 and 45 degrees, by one side of a Gaussian.

    The filter is that of ImageMagick, as in MNIST-C.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 1.
    """

    mnist_c_severity: ClassVar[int] = 1
    settings: ClassVar[tuple[tuple[int, int], ...]] = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    """Radius and standard deviation."""

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        radius, sigma = (value * unit for value in self.settings[self.severity - 1])
        height, width = image.shape[-2:]
        angle = (generator.uniform() - 0.5) * math.pi / 2  # (B,)
        sample = torch.arange(len(image), device=image.device).view(-1, 1, 1)
        smeared, total = torch.zeros_like(image), 0.0
        for step in range(2 * math.ceil(radius) + 1):
            weight = math.exp(-0.5 * (step / sigma) ** 2)
            across, down = (torch.ceil(step * part(angle) - 0.5).long().unsqueeze(1) for part in (torch.cos, torch.sin))
            row = (torch.arange(height, device=image.device) + down).clamp(0, height - 1)  # (B, H)
            column = (torch.arange(width, device=image.device) + across).clamp(0, width - 1)  # (B, W)
            # dimensions of advanced indices around a slice come first: (B, H, W, C)
            read = image[sample, :, row.unsqueeze(2), column.unsqueeze(1)].movedim(-1, 1)
            smeared, total = smeared + weight * read, total + weight
        return smeared / total
