"""Corruptions of a training set: the paper's (Tang 2023, section 5.1), and label noise."""

from typing import ClassVar

import torch
from torch import Tensor

from intff_lightning.corruptions.base import Corruption, Samples, in_chunks, mean_pixel
from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import float_pixels


class GaussianPixels(Corruption):
    """Gaussian noise with mean zero on every pixel.

    Args:
        rate: Probability with which each sample is corrupted.
        std: Standard deviation, for pixels in [0, 1]; 0.1 in the author's code. The sum is not clipped.
    """

    def __init__(self, rate: float = 1.0, std: float = 0.1) -> None:
        super().__init__(rate)
        self.std = std

    def corrupt(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        if not image.is_floating_point():
            raise ConfigurationError(f"{type(self).__name__} needs pixels, and these are token ids: use LabelNoise.")
        return image + self.std * generator.normal(*image.shape[1:]).to(image.dtype), target


class UnloadedRows(Corruption):
    """The last rows of an image are zero, as if it had not been loaded to its end.

    Images are ``(B, C, H, W)`` or ``(B, H, W)``.

    Args:
        rate: Probability with which each sample is corrupted.
        most: Largest number of rows; the number is drawn uniformly, from 1. ``None`` leaves at least one row, as in the
            paper.
    """

    def __init__(self, rate: float = 1.0, most: int | None = None) -> None:
        super().__init__(rate)
        if most is not None and most < 1:
            raise ConfigurationError(f"UnloadedRows(most={most}): one row or more is needed.")
        self.most = most

    def corrupt(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        if image.ndim < 3:
            raise ConfigurationError(f"UnloadedRows needs images with rows, not of shape {tuple(image.shape[1:])}.")
        height = image.shape[-2]
        most = max(1, height - 1) if self.most is None else min(self.most, height)
        loaded = height - 1 - generator.integers(most)  # (B,), rows that remain
        row = torch.arange(height, device=image.device).view(-1, 1)
        keep = row < loaded.view(-1, *[1] * (image.ndim - 1))
        return image * keep, target


class NoiseImages(GaussianPixels):
    """No digit at all: the mean pixel plus noise, under a label drawn uniformly; arguments are those of the base.

    The mean pixel is that of the data set if it is in memory, and that of each sample otherwise.
    """

    keeps_labels: ClassVar[bool] = False

    def corrupt(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        empty = mean.to(image.dtype).expand_as(image)
        noise, _ = super().corrupt(empty, target, num_classes=num_classes, mean=mean, generator=generator)
        return noise, generator.integers(num_classes)


class LabelNoise(Corruption):
    """The image under a wrong label, drawn uniformly (symmetric label noise).

    Args:
        rate: Probability with which each label is replaced by a wrong one.
    """

    keeps_labels: ClassVar[bool] = False

    def corrupt(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        return image, (target + 1 + generator.integers(num_classes - 1)) % num_classes


class PaperMixture(Corruption):
    """The paper's corrupted set: clean images, Gaussian pixels, unloaded rows and noise images side by side.

    In a data set in memory, the three kinds that show a digit are parts of the set, in its order, and noise images are
    added: 60,000 training images become 20,000 of each kind, the paper's 80,000. In any other data, noise images
    replace samples, and each sample's kind is drawn.

    Args:
        rate: Share of corrupted samples, a third of them of each kind; 0.75 in the paper.
    """

    keeps_labels: ClassVar[bool] = False

    def __init__(self, rate: float = 0.75) -> None:
        super().__init__(rate)
        self.kinds = (GaussianPixels(), UnloadedRows(), NoiseImages())

    def corrupt(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        drawn = generator.integers(len(self.kinds))
        worse, label = image, target
        for number, kind in enumerate(self.kinds):
            chosen = drawn == number
            mine, its = kind.corrupt(image, target, num_classes=num_classes, mean=mean, generator=generator)
            worse = torch.where(chosen.view(-1, *[1] * (image.ndim - 1)), mine, worse)
            label = torch.where(chosen, its, label)
        return worse, label

    def of_set(self, image: Tensor, target: Tensor, *, num_classes: int, seed: int) -> Samples:
        size, mean = len(target), mean_pixel(image)
        share = self.rate / len(self.kinds)
        each = int(size * share / (1 - share) + 1e-6)  # the added images, too, are this share of the sum
        clean = size - 2 * each
        images, targets = [float_pixels(image[:clean])], [target[:clean]]
        for kind, start in zip(self.kinds, (clean, clean + each, 0), strict=True):
            part = slice(start, start + each)
            first = size if start == 0 else start
            if each:
                worse, label = in_chunks(kind, image[part], target[part], num_classes, seed, mean, first)
                images.append(worse)
                targets.append(label)
        return torch.cat(images), torch.cat(targets)
