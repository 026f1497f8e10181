"""Corruptions of a training set (Tang 2023, section 5.1).

A corruption changes training data only, in the same way in every epoch: which samples it changes, and how, depends on
(seed, sample) alone, never on the batch. Validation and test data stay clean, as in the paper.
"""

import torch
from torch import Tensor

from intff_lightning.draws import Draws, splitmix64
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import float_pixels
from intff_lightning.recipe import Recorded
from intff_lightning.sequences import network_input

_EPOCH = -1  # no real epoch, so that a corruption shares no draw with negatives and augmentation
_CHUNK = 4096


Samples = tuple[Tensor, Tensor]
"""Images and their classes."""


class Corruption(Recorded):
    """Base of corruptions: implement ``corrupt``.

    Args:
        rate: Probability with which each sample is corrupted, from 0 to 1.
    """

    def __init__(self, rate: float = 1.0) -> None:
        if not 0 <= rate <= 1:
            raise ConfigurationError(f"{type(self).__name__}(rate={rate}): a share from 0 to 1 is needed.")
        self.rate = rate

    def corrupt(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        """Corrupt all of these samples.

        Args:
            image: ``(B, *)``, floating point in [0, 1].
            target: True classes ``(B,)``.
            num_classes: Number of classes.
            mean: Mean pixel of the data set, scalar; if the set is not in memory, that of each sample, ``(B, 1, ...)``
                with as many dimensions as ``image``.
            generator: The draws of these samples.

        Returns:
            Images and classes of the same shapes; pixels may leave [0, 1].
        """
        raise NotImplementedError

    def __call__(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        """Corrupt each sample of a batch with probability ``rate``; for the arguments see :meth:`corrupt`."""
        chosen = generator.uniform() < self.rate
        worse, label = self.corrupt(image, target, num_classes=num_classes, mean=mean, generator=generator)
        return torch.where(chosen.view(-1, *[1] * (image.ndim - 1)), worse, image), torch.where(chosen, label, target)

    def of_set(self, image: Tensor, target: Tensor, *, num_classes: int, seed: int) -> Samples:
        """Corrupt a whole data set in memory, of images ``(N, *)``, uint8 or floating point in [0, 1].

        Returns:
            Floating point images and their classes: N of them, or more if corrupted samples are added.
        """
        return _in_chunks(self, image, target, num_classes, seed, mean=_mean(image), first=0)

    def of_batch(self, image: Tensor, target: Tensor, *, num_classes: int, seed: int) -> Samples:
        """Corrupt a batch of data that is not in memory, on its device.

        A loader may not number its samples, so the draws depend on (seed, pixels). They are the same in every epoch if
        the images are. The mean pixel is that of each sample, because the rest of the data set is not known.
        """
        generator = Draws(seed, _EPOCH, _fingerprint(image))
        # summed in float64, because a float32 sum would depend on the size of the batch in its last bits
        wide = torch.float32 if image.device.type == "mps" else torch.float64
        mean = image.mean(tuple(range(1, image.ndim)), keepdim=True, dtype=wide).to(image.dtype)
        return self(image, target, num_classes=num_classes, mean=mean, generator=generator)


def _fingerprint(image: Tensor) -> Tensor:
    """Return a number for each image ``(B, *)``, int64 ``(B,)``, that depends on its pixels and their places."""
    bits = image.float().flatten(1).contiguous().view(torch.int32).to(torch.int64)
    place = torch.arange(bits.shape[1], device=image.device) << 32
    return splitmix64(bits ^ place).sum(1)


def _mean(image: Tensor) -> Tensor:
    """Return the mean pixel in [0, 1] without a floating point copy of all pixels."""
    if image.is_floating_point():
        return image.mean()
    sums = [part.sum(dtype=torch.float64) for part in torch.split(image, _CHUNK)]
    return (torch.stack(sums).sum() / image.numel() / 255).float()


def _in_chunks(
    corruption: Corruption, image: Tensor, target: Tensor, num_classes: int, seed: int, mean: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Corrupt samples numbered from ``first``, a few at a time, because draws take 64 bits per pixel."""
    parts = []
    for start in range(0, len(target), _CHUNK):
        part = slice(start, start + _CHUNK)
        index = torch.arange(first + start, first + start + len(target[part]), device=target.device)
        draws = Draws(seed, _EPOCH, index)
        clean = network_input(image[part], torch.float32), target[part]
        parts.append(corruption(*clean, num_classes=num_classes, mean=mean.to(image.device), generator=draws))
    images, targets = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(targets)


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

    def corrupt(self, image: Tensor, target: Tensor, *, num_classes: int, mean: Tensor, generator: Draws) -> Samples:
        empty = mean.to(image.dtype).expand_as(image)
        noise, _ = super().corrupt(empty, target, num_classes=num_classes, mean=mean, generator=generator)
        return noise, generator.integers(num_classes)


class LabelNoise(Corruption):
    """The image under a wrong label, drawn uniformly (symmetric label noise).

    Args:
        rate: Probability with which each label is replaced by a wrong one.
    """

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
        size, mean = len(target), _mean(image)
        share = self.rate / len(self.kinds)
        each = int(size * share / (1 - share) + 1e-6)  # the added images, too, are this share of the sum
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
