"""What can be wrong with a training set, made to measure (the paper's section 5.1).

A corruption changes training data only, the same way in every epoch: which samples it takes, and what it makes of
them, depends on (seed, sample index). Validation and test data stay clean, as in the paper.
"""

import torch
from torch import Tensor

from intff_lightning.draws import Draws, splitmix64
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import float_pixels
from intff_lightning.recipe import Recorded

__all__ = [
    "Corruption",
    "GaussianPixels",
    "LabelNoise",
    "NoiseImages",
    "PaperMixture",
    "UnloadedRows",
]

_EPOCH = -1  # that of no epoch, so that a corruption shares no draw with negatives and augmentation
_CHUNK = 4096


class Corruption(Recorded):
    """Base of corruptions: implement ``corrupt``.

    Args:
        rate: share of the samples that are corrupted, each with this probability, from 0 to 1.
    """

    def __init__(self, rate: float = 1.0) -> None:
        if not 0 <= rate <= 1:
            raise ConfigurationError(f"{type(self).__name__}(rate={rate}): a share from 0 to 1 is needed.")
        self.rate = rate

    def corrupt(
        self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """Corrupt every sample that is given.

        Args:
            image: ``(B, *)`` floating point, in [0, 1].
            target: ``(B,)`` true classes.
            num_classes: number of classes.
            mean: scalar, mean pixel of the data set (of the batch, where the set is not in memory).
            generator: the draws of these samples.

        Returns:
            Images and classes of the same shapes; pixels may leave [0, 1].
        """
        raise NotImplementedError

    def __call__(
        self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """Corrupt a batch at the rate; arguments as of :meth:`corrupt`."""
        chosen = generator.uniform() < self.rate
        worse, label = self.corrupt(image, target, num_classes=num_classes, mean=mean, generator=generator)
        return torch.where(chosen.view(-1, *[1] * (image.ndim - 1)), worse, image), torch.where(chosen, label, target)

    def of_set(self, image: Tensor, target: Tensor, *, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
        """Corrupt a whole data set in memory.

        Args:
            image: ``(N, *)``, uint8, or floating point in [0, 1].
            target: ``(N,)`` true classes.
            num_classes: number of classes.
            seed: of the run.

        Returns:
            Images, floating point, and classes. Their number is N, or more where corrupted samples are added.
        """
        return _in_chunks(self, image, target, num_classes, seed, mean=_mean(image), first=0)

    def of_batch(self, image: Tensor, target: Tensor, *, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
        """Corrupt a batch of data that is not in memory, on its device.

        What a sample meets depends on (seed, its pixels), for a loader may not number its samples: it is the same in
        every epoch where the images are.

        Args:
            image: ``(B, *)`` floating point, in [0, 1].
            target: ``(B,)`` true classes.
            num_classes: number of classes.
            seed: of the run.
        """
        generator = Draws(seed, _EPOCH, _fingerprint(image))
        return self(image, target, num_classes=num_classes, mean=image.mean(), generator=generator)


def _fingerprint(image: Tensor) -> Tensor:
    """A number for every image ``(B, *)``, int64 ``(B,)``, made of its pixels and their places."""
    bits = image.float().flatten(1).contiguous().view(torch.int32).to(torch.int64)
    place = torch.arange(bits.shape[1], device=image.device) << 32
    return splitmix64(bits ^ place).sum(1)


def _mean(image: Tensor) -> Tensor:
    """Mean pixel in [0, 1], without a floating point copy of all pixels."""
    if image.is_floating_point():
        return image.mean()
    sums = [part.sum(dtype=torch.float64) for part in torch.split(image, _CHUNK)]
    return (torch.stack(sums).sum() / image.numel() / 255).float()


def _in_chunks(
    corruption: Corruption, image: Tensor, target: Tensor, num_classes: int, seed: int, mean: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Corrupt samples numbered from ``first`` on, some at a time: draws are 64 bits a pixel."""
    parts = []
    for start in range(0, len(target), _CHUNK):
        part = slice(start, start + _CHUNK)
        index = torch.arange(first + start, first + start + len(target[part]), device=target.device)
        parts.append(
            corruption(
                float_pixels(image[part]),
                target[part],
                num_classes=num_classes,
                mean=mean.to(image.device),
                generator=Draws(seed, _EPOCH, index),
            )
        )
    images, targets = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(targets)


class GaussianPixels(Corruption):
    """Noise of mean zero on every pixel.

    Args:
        rate: of :class:`Corruption`.
        std: standard deviation; pixels are in [0, 1], and that of the author's code is 0.1. The sum is not clipped.
    """

    def __init__(self, rate: float = 1.0, std: float = 0.1) -> None:
        super().__init__(rate)
        self.std = std

    def corrupt(
        self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Corruption.corrupt`."""
        return image + self.std * generator.normal(*image.shape[1:]).to(image.dtype), target


class UnloadedRows(Corruption):
    """The last rows of an image are zero, as if it had not been loaded to its end.

    Args:
        rate: of :class:`Corruption`.
        most: largest number of rows, drawn uniformly from 1 on; ``None`` leaves at least one row, as in the paper.
    """

    def __init__(self, rate: float = 1.0, most: int | None = None) -> None:
        super().__init__(rate)
        if most is not None and most < 1:
            raise ConfigurationError(f"UnloadedRows(most={most}): one row or more is needed.")
        self.most = most

    def corrupt(
        self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Corruption.corrupt`; images are ``(B, C, H, W)`` or ``(B, H, W)``."""
        if image.ndim < 3:
            raise ConfigurationError(f"UnloadedRows needs images with rows, not of shape {tuple(image.shape[1:])}.")
        height = image.shape[-2]
        most = max(1, height - 1) if self.most is None else min(self.most, height)
        loaded = height - 1 - generator.integers(most)  # (B,), rows that remain
        row = torch.arange(height, device=image.device).view(-1, 1)
        keep = row < loaded.view(-1, *[1] * (image.ndim - 1))
        return image * keep, target


class NoiseImages(GaussianPixels):
    """No digit at all: the mean pixel plus noise, under a label drawn uniformly; arguments as of the base."""

    def corrupt(
        self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Corruption.corrupt`."""
        empty = mean.to(image.dtype).expand_as(image)
        noise, _ = super().corrupt(empty, target, num_classes=num_classes, mean=mean, generator=generator)
        return noise, generator.integers(num_classes)


class LabelNoise(Corruption):
    """The image under a wrong label, drawn uniformly from the others (symmetric label noise).

    Args:
        rate: of :class:`Corruption`; all of these labels are wrong.
    """

    def corrupt(
        self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Corruption.corrupt`."""
        return image, (target + 1 + generator.integers(num_classes - 1)) % num_classes


class PaperMixture(Corruption):
    """The paper's corrupted set: clean images, Gaussian pixels, unloaded rows and noise images side by side.

    Of a data set in memory the three kinds that show a digit are parts of it, in its order, and noise images are
    added: 60,000 training images become 20,000 of each kind, the paper's 80,000. Of any other data, noise images
    take the place of samples, and each kind its share of them by chance.

    Args:
        rate: share of corrupted samples, a third of it of each kind; the paper's is 0.75.
    """

    def __init__(self, rate: float = 0.75) -> None:
        super().__init__(rate)
        self.kinds = (GaussianPixels(), UnloadedRows(), NoiseImages())

    def corrupt(
        self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Corruption.corrupt`."""
        drawn = generator.integers(len(self.kinds))
        worse, label = image, target
        for number, kind in enumerate(self.kinds):
            chosen = drawn == number
            mine, its = kind.corrupt(image, target, num_classes=num_classes, mean=mean, generator=generator)
            worse = torch.where(chosen.view(-1, *[1] * (image.ndim - 1)), mine, worse)
            label = torch.where(chosen, its, label)
        return worse, label

    def of_set(self, image: Tensor, target: Tensor, *, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
        """See :meth:`Corruption.of_set`."""
        size, mean = len(target), _mean(image)
        share = self.rate / len(self.kinds)
        each = int(size * share / (1 - share) + 1e-6)  # so that the added ones are this share of the sum
        clean = size - 2 * each
        images, targets = [float_pixels(image[:clean])], [target[:clean]]
        for kind, start in zip(self.kinds, (clean, clean + each, 0), strict=True):
            part = slice(start, start + each)
            first = size if start == 0 else start
            if each:
                worse, label = _in_chunks(kind, image[part], target[part], num_classes, seed, mean, first)
                images.append(worse)
                targets.append(label)
        return torch.cat(images), torch.cat(targets)
