"""The base of corruptions: what they are given, and on what their draws depend."""

from typing import ClassVar

import torch
from torch import Tensor

from intff_lightning.draws import Draws, splitmix64
from intff_lightning.errors import ConfigurationError
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

    keeps_labels: ClassVar[bool] = True
    """Whether the labels stay true. If not, the corruption is for training data only."""

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
        return in_chunks(self, image, target, num_classes, seed, mean=mean_pixel(image), first=0)

    def of_batch(self, image: Tensor, target: Tensor, *, num_classes: int, seed: int) -> Samples:
        """Corrupt a batch of data that is not in memory, on its device.

        A loader may not number its samples, so the draws depend on (seed, pixels). They are the same in every epoch if
        the images are. The mean pixel is that of each sample, because the rest of the data set is not known.
        """
        return self._of_numbered(image, target, _fingerprint(image), num_classes, seed)

    def of_test_images(self, image: Tensor, index: Tensor | None, *, seed: int) -> Tensor:
        """Corrupt a batch of test images, on its device.

        Args:
            image: ``(B, *)``, floating point in [0, 1].
            index: Numbers of the samples ``(B,)``, on which the draws depend; ``None`` takes the pixels instead, as
                :meth:`of_batch` does.
            seed: Seed of the draws.

        Returns:
            Images of the same shape and dtype.
        """
        number = _fingerprint(image) if index is None else ~index  # training and test data both count from 0
        target = torch.zeros(len(image), dtype=torch.int64, device=image.device)  # the labels stay
        return self._of_numbered(image, target, number, 1, seed)[0]

    def _of_numbered(self, image: Tensor, target: Tensor, number: Tensor, num_classes: int, seed: int) -> Samples:
        # summed in float64, because a float32 sum would depend on the size of the batch in its last bits
        wide = torch.float32 if image.device.type == "mps" else torch.float64
        mean = image.mean(tuple(range(1, image.ndim)), keepdim=True, dtype=wide).to(image.dtype)
        return self(image, target, num_classes=num_classes, mean=mean, generator=Draws(seed, _EPOCH, number))


def _fingerprint(image: Tensor) -> Tensor:
    """Return a number for each image ``(B, *)``, int64 ``(B,)``, that depends on its pixels and their places."""
    bits = image.float().flatten(1).contiguous().view(torch.int32).to(torch.int64)
    place = torch.arange(bits.shape[1], device=image.device) << 32
    return splitmix64(bits ^ place).sum(1)


def mean_pixel(image: Tensor) -> Tensor:
    """Return the mean pixel in [0, 1] without a floating point copy of all pixels."""
    if image.is_floating_point():
        return image.mean()
    sums = [part.sum(dtype=torch.float64) for part in torch.split(image, _CHUNK)]
    return (torch.stack(sums).sum() / image.numel() / 255).float()


def in_chunks(
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


def check_keeps_labels(corruption: Corruption | None) -> None:
    """Refuse a corruption of test data after which their labels would be wrong."""
    if corruption is not None and not corruption.keeps_labels:
        name = type(corruption).__name__
        raise ConfigurationError(f"test_corruption: {name} makes labels wrong, so it is for training data alone.")
