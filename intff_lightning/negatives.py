"""Where negative data comes from.

A source is called once a batch, on the device: ``source(image, target, encoder=..., model=..., generator=...)``.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.labels import LabelEncoder
from intff_lightning.recipe import Recorded

__all__ = [
    "GaussianNoise",
    "HardLabels",
    "HybridImages",
    "ImageNegatives",
    "NegativeSource",
    "Perturbed",
    "RelabellingSource",
    "Rotated",
    "ShuffledLabels",
    "WrongLabels",
    "model_for",
]


class NegativeSource(Recorded):
    """Base of negative sources; any callable of this form will do."""

    uses_model: bool = False
    """Whether the source asks the network, and is to be given it."""

    def __call__(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> tuple[Tensor, Tensor | None]:
        """Make k negatives for each of B samples.

        Args:
            image: ``(B, *)``.
            target: ``(B,)`` true classes.
            encoder: puts labels into images; knows ``num_classes``.
            model: the network in training, in eval mode and without gradients, where ``uses_model`` is set.
            generator: the draws of these samples in this epoch.

        Returns:
            Network inputs ``(B * k, *)``, a sample's k in a row, and the classes shown ``(B, k)``, or ``None``.
        """
        raise NotImplementedError


class RelabellingSource(NegativeSource):
    """Base of sources whose negatives are the images themselves under other labels: implement ``labels``."""

    def labels(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> Tensor:
        """Choose the labels ``(B, k)``; arguments as of :class:`NegativeSource`."""
        raise NotImplementedError

    def __call__(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> tuple[Tensor, Tensor]:
        """See :class:`NegativeSource`."""
        label = self.labels(image, target, encoder=encoder, model=model, generator=generator)
        return encoder(image.repeat_interleave(label.shape[1], dim=0), label.flatten()), label


class WrongLabels(RelabellingSource):
    """The image itself under k different labels, each strictly wrong.

    Args:
        k: negatives per positive, from 1 to ``num_classes - 1``.
    """

    def __init__(self, k: int = 1) -> None:
        self.k = _at_least_one(self, k)

    def labels(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> Tensor:
        """K labels per sample, uniform over the wrong ones."""
        wrong = _wrong(self, self.k, encoder)
        # distances 1..C-1 from the true label, modulo C, reach every wrong label once
        offset = generator.integers(wrong, 1) if self.k == 1 else generator.permutations(wrong)[:, : self.k]
        return (target.unsqueeze(1) + 1 + offset) % encoder.num_classes


class ShuffledLabels(RelabellingSource):
    """The image under another sample's label: labels are shuffled over the batch, as in the author's code.

    With C balanced classes about one "negative" in C keeps its true label, and pulls goodness the wrong way: use
    :class:`WrongLabels` unless the author's figures are to be rebuilt. The shuffle is over the batch of one process.
    """

    def labels(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> Tensor:
        """One label per sample."""
        return target[generator.shuffle()].unsqueeze(1)


class HardLabels(RelabellingSource):
    """The image under the wrong labels that the network itself finds likely.

    K labels are drawn without replacement by the softmax of ``scores / temperature`` over the wrong ones, scores being
    the network's own (summed goodness), with Gumbel noise and a top-k (Kool et al. 2019). Every draw costs a sweep over
    all labels, as a prediction does.

    Args:
        k: negatives per positive, from 1 to ``num_classes - 1``.
        temperature: towards 0 takes the k wrong labels of highest score, a high one draws like :class:`WrongLabels`.
    """

    uses_model = True

    def __init__(self, k: int = 1, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ConfigurationError(f"HardLabels(temperature={temperature}): a temperature above 0 is needed.")
        self.k, self.temperature = _at_least_one(self, k), temperature

    def labels(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> Tensor:
        """K labels per sample, the draw's first ahead."""
        wrong = _wrong(self, self.k, encoder)
        if model is None:
            raise ConfigurationError(
                "HardLabels asks the network, and was given none: fit a module that has an encoder."
            )
        # only wrong labels take part: a true one cannot be drawn, whatever the scores
        offset = torch.arange(1, wrong + 1, device=target.device)
        candidates = (target.unsqueeze(1) + offset) % encoder.num_classes
        with torch.no_grad():
            scores = at_least_float32(model(image)).gather(1, candidates)
        uniform = generator.uniform(wrong).clamp_(min=2.0**-25)  # its zero would be a noise of minus infinity
        # in the order of scores / temperature + noise, which would overflow at a low temperature
        noisy = scores - self.temperature * torch.log(-torch.log(uniform))
        return candidates.gather(1, noisy.topk(self.k, dim=1).indices)


class ImageNegatives(NegativeSource):
    """Base of sources that spoil the image: implement ``images``.

    The images are negative by themselves. An encoder that shows labels gives them the sample's true label, so that the
    label tells nothing; one that shows none (:class:`~intff_lightning.labels.NoLabel`) gives them none.
    """

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Make k negative images for each of B samples.

        Args:
            image: ``(B, *)`` float in [0, 1], not to be changed.
            target: ``(B,)`` true classes.
            generator: the draws of these samples in this epoch.

        Returns:
            ``(B * k, *)`` in the dtype of ``image``, a sample's k in a row.
        """
        raise NotImplementedError

    def __call__(
        self, image: Tensor, target: Tensor, *, encoder: LabelEncoder, model: nn.Module | None, generator: Draws
    ) -> tuple[Tensor, None]:
        """See :class:`NegativeSource`."""
        made = self.images(image, target, generator)
        k = len(made) // max(1, len(target))
        return encoder(made, target.repeat_interleave(k) if encoder.shows_label else None), None


class HybridImages(ImageNegatives):
    """Two images in one, by a mask of fairly large regions (Hinton 2022, "The Forward-Forward Algorithm", section 3.2).

    Short-range correlations stay those of real images, long-range ones do not. The mask is a random bit image, blurred
    repeatedly with the filter [1/4, 1/2, 1/4] in both directions and cut at 0.5, the same for all channels; where that
    leaves only one of the two images (on small ones it may) it is cut at its own mean.

    The other image is another sample of the batch of one process, of any class: these negatives depend on the batch. A
    sample that is alone in its batch has no other, and stays as it is.

    Args:
        k: hybrids per sample, each with another partner while the batch lasts.
        blurs: more of them give larger regions; about 10 suit 28x28 pixels.
    """

    def __init__(self, k: int = 1, blurs: int = 10) -> None:
        if blurs < 0:
            raise ConfigurationError(f"HybridImages(blurs={blurs}): 0 or more are needed, about 10 for 28x28 pixels.")
        self.k, self.blurs = _at_least_one(self, k), blurs

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Hybrids ``(B * k, *, H, W)`` of images ``(B, *, H, W)``."""
        _need_rows(self, image)
        size = len(image)
        mask = self.masks(image, generator).flatten(0, 1)  # (B * k, H, W)
        mask = mask.view(-1, *[1] * (image.ndim - 3), *mask.shape[1:])
        order = generator.shuffle()
        partner = torch.empty(size, self.k, dtype=torch.int64, device=order.device)
        for j in range(self.k):  # the sample that comes j + 1 places later in a random order is another one
            partner[order, j] = order.roll(-(1 + j % max(1, size - 1)))
        return torch.where(mask, image.repeat_interleave(self.k, dim=0), image[partner.flatten()])

    def masks(self, image: Tensor, generator: Draws) -> Tensor:
        """Masks, bool ``(B, k, H, W)``, true where the sample's own pixels stay."""
        mask = (generator.uniform(self.k, *image.shape[-2:]) < 0.5).float()
        for _ in range(self.blurs):
            for dim in (-2, -1):
                last = mask.shape[dim] - 1
                # the border repeats its pixel, or masks would fade to zero there
                before = torch.cat([mask.narrow(dim, 0, 1), mask.narrow(dim, 0, last)], dim)
                after = torch.cat([mask.narrow(dim, 1, last), mask.narrow(dim, last, 1)], dim)
                mask = (before + 2 * mask + after) / 4
        low, high = mask.amin((-2, -1), keepdim=True), mask.amax((-2, -1), keepdim=True)
        whole = (low > 0.5) | (high <= 0.5)
        return mask > torch.where(whole, mask.mean((-2, -1), keepdim=True), 0.5)


class Rotated(ImageNegatives):
    """The image, rotated by an angle that is drawn for every sample.

    Args:
        angles: in degrees counterclockwise, multiples of 90; images that are not square can turn by 180 only.
    """

    def __init__(self, angles: Sequence[int] = (90, 180, 270)) -> None:
        if not angles or any(angle % 90 or not angle % 360 for angle in angles):
            raise ConfigurationError(f"Rotated(angles={list(angles)}): one or more of 90, 180 and 270 are needed.")
        self.angles = list(angles)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Rotated images ``(B, *, H, W)``."""
        _need_rows(self, image)
        height, width = image.shape[-2:]
        if height != width and any(angle % 180 for angle in self.angles):
            raise ConfigurationError(f"images of {height}x{width} pixels can turn by 180 degrees only: angles=[180].")
        choice = generator.integers(len(self.angles), 1).view(-1, *[1] * (image.ndim - 1))
        rotated = torch.empty_like(image)
        for i, angle in enumerate(self.angles):  # each for all samples: to pick them out would wait for the device
            rotated = torch.where(choice == i, torch.rot90(image, angle // 90 % 4, (-2, -1)), rotated)
        return rotated


class Perturbed(ImageNegatives):
    """The image with Gaussian noise on every pixel, cut to [0, 1].

    Args:
        std: standard deviation of the noise.
    """

    def __init__(self, std: float = 0.5) -> None:
        self.std = _above_zero(self, std)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Noisy images ``(B, *)``."""
        return (image + self.std * generator.normal(*image.shape[1:]).to(image.dtype)).clamp_(0, 1)


class GaussianNoise(ImageNegatives):
    """Pure noise, cut to [0, 1]: the paper's example of negative data that must fail.

    Nothing of the image is in it, so a unit tells it from real data by its pixels' statistics and need not learn what a
    digit is. It is here to show that, and for comparison.

    Args:
        mean: of a pixel before the cut.
        std: its standard deviation before the cut.
    """

    def __init__(self, mean: float = 0.5, std: float = 0.5) -> None:
        self.mean, self.std = mean, _above_zero(self, std)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Noise ``(B, *)``."""
        return (self.mean + self.std * generator.normal(*image.shape[1:])).clamp_(0, 1).to(image.dtype)


def _at_least_one(source: NegativeSource, k: int) -> int:
    if k < 1:
        name = type(source).__name__
        raise ConfigurationError(f"{name}(k={k}): k is the number of negatives per positive, at least 1.")
    return k


def _above_zero(source: NegativeSource, std: float) -> float:
    if not std > 0:
        raise ConfigurationError(f"{type(source).__name__}(std={std}): a standard deviation above 0 is needed.")
    return std


def _wrong(source: NegativeSource, k: int, encoder: LabelEncoder) -> int:
    """Number of wrong labels, if it suffices."""
    wrong = encoder.num_classes - 1
    if k > wrong:
        raise ConfigurationError(f"{type(source).__name__}(k={k}): of {wrong + 1} classes only {wrong} are wrong.")
    return wrong


def _need_rows(source: NegativeSource, image: Tensor) -> None:
    if image.ndim < 3:
        raise ConfigurationError(
            f"{type(source).__name__} needs images (C, H, W), and these have shape {tuple(image.shape[1:])}: "
            "reshape them in the dataset."
        )


@contextlib.contextmanager
def model_for(source: Any, module: nn.Module | None) -> Iterator[nn.Module | None]:
    """Lend the network to a source that asks it (``uses_model``): in eval mode, its modes restored after."""
    if module is None or not getattr(source, "uses_model", False):
        yield None
        return
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield module
    finally:
        for part, mode in modes.items():
            part.training = mode
