"""Sources of negative data.

A source is called once per batch, on the device: ``source(image, target, num_classes=..., model=..., generator=...)``.
It returns images, labels or both. It knows no label encoder: the module puts labels into images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.recipe import Recorded

Model = nn.Module | None


class NegativeSource(Recorded):
    """Base of negative sources. Any callable with this signature works as one."""

    uses_model: bool = False
    """Whether the source asks the network, and needs ``model``."""
    for_regression: bool | None = False
    """Whether it is for targets that are numbers, or for classes; ``None`` for both."""

    def __call__(
        self, image: Tensor, target: Tensor, *, num_classes: int, model: Model, generator: Draws
    ) -> tuple[Tensor | None, Tensor | None]:
        """Make k negatives for each of B samples.

        Args:
            image: Images ``(B, *)``.
            target: True classes ``(B,)``; scaled targets in a regression.
            num_classes: Number of classes; 1 in a regression.
            model: The network in training, in eval mode and without gradients, if ``uses_model`` is set.
            generator: The draws of these samples in this epoch.

        Returns:
            Negative images ``(B, k, *)``, or ``None`` for the same images; and their labels ``(B, k)``, or ``None`` if
            the source chooses none.
        """
        raise NotImplementedError


class RelabellingSource(NegativeSource):
    """Base of sources whose negatives are the same images under other labels: implement ``labels``."""

    def labels(self, image: Tensor, target: Tensor, *, num_classes: int, model: Model, generator: Draws) -> Tensor:
        """Choose the labels ``(B, k)``; for the arguments see :class:`NegativeSource`."""
        raise NotImplementedError

    def __call__(
        self, image: Tensor, target: Tensor, *, num_classes: int, model: Model, generator: Draws
    ) -> tuple[None, Tensor]:
        return None, self.labels(image, target, num_classes=num_classes, model=model, generator=generator)


class WrongLabels(RelabellingSource):
    """The same image under k different labels, all of them wrong.

    Args:
        k: Negatives per positive, from 1 to ``num_classes - 1``.
    """

    def __init__(self, k: int = 1) -> None:
        self.k = _at_least_one(self, k)

    def labels(self, image: Tensor, target: Tensor, *, num_classes: int, model: Model, generator: Draws) -> Tensor:
        """Draw k labels per sample, uniformly from the wrong ones; returns ``(B, k)``."""
        wrong = _wrong(self, self.k, num_classes)
        # distances 1..C-1 from the true label, modulo C, reach every wrong label once
        offset = generator.integers(wrong, 1) if self.k == 1 else generator.permutations(wrong)[:, : self.k]
        return (target.unsqueeze(1) + 1 + offset) % num_classes


class ShuffledLabels(RelabellingSource):
    """The same image under the label of another sample: labels are shuffled over the batch, as in the author's code.

    With C balanced classes, about one "negative" in C keeps its true label and pulls goodness the wrong way. Use
    :class:`WrongLabels` unless you rebuild the author's figures. The shuffle is over the batch of one process.
    """

    def labels(self, image: Tensor, target: Tensor, *, num_classes: int, model: Model, generator: Draws) -> Tensor:
        """Shuffle the labels; returns ``(B, 1)``."""
        return target[generator.shuffle()].unsqueeze(1)


class ShiftedTargets(RelabellingSource):
    r"""The same sample with k shifted targets, for a regression.

    Targets are scaled, so that those of the training data lie between 0 and 1. Shifts go once around this range:

    .. math:: y^-_j = \Bigl(y + \frac{j + u_j}{k}\Bigr) \bmod 1, \qquad j = 0, \dots, k - 1, \quad
        u_j \text{ uniform in } [0, 1)

    So every k-th part of the range holds one of them, and over many draws they are uniform, whatever the true target.

    Args:
        k: Negatives per positive.
    """

    for_regression = True

    def __init__(self, k: int = 16) -> None:
        self.k = _at_least_one(self, k)

    def labels(self, image: Tensor, target: Tensor, *, num_classes: int, model: Model, generator: Draws) -> Tensor:
        """Shift the targets; returns ``(B, k)`` in [0, 1]."""
        shift = (torch.arange(self.k, device=target.device) + generator.uniform(self.k)) / self.k
        return (target.unsqueeze(1) + shift.to(target.dtype)) % 1


class HardLabels(RelabellingSource):
    """The same image under wrong labels that the network itself finds likely.

    The k labels are drawn without replacement by the softmax of ``scores / temperature`` over the wrong labels. The
    scores are the network's own (summed goodness), and the draw is Gumbel noise with a top-k (Kool et al. 2019). Every
    batch costs a sweep over all labels, as a prediction does.

    Args:
        k: Negatives per positive, from 1 to ``num_classes - 1``.
        temperature: Near 0 it takes the k wrong labels with the highest scores; a high one draws like
            :class:`WrongLabels`.
    """

    uses_model = True

    def __init__(self, k: int = 1, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ConfigurationError(f"HardLabels(temperature={temperature}): a temperature above 0 is needed.")
        self.k, self.temperature = _at_least_one(self, k), temperature

    def labels(self, image: Tensor, target: Tensor, *, num_classes: int, model: Model, generator: Draws) -> Tensor:
        """Draw k labels per sample, the first draw first; returns ``(B, k)``."""
        wrong = _wrong(self, self.k, num_classes)
        if model is None:
            raise ConfigurationError("HardLabels needs the scores of a network, and there is none: fit a module.")
        # only wrong labels take part: a true one cannot be drawn, whatever the scores
        offset = torch.arange(1, wrong + 1, device=target.device)
        candidates = (target.unsqueeze(1) + offset) % num_classes
        with torch.no_grad():
            scores = at_least_float32(model(image)).gather(1, candidates)
        uniform = generator.uniform(wrong).clamp_(min=2.0**-25)  # zero would give a noise of minus infinity
        # the order of scores / temperature + noise, which would overflow at a low temperature
        noisy = scores - self.temperature * torch.log(-torch.log(uniform))
        return candidates.gather(1, noisy.topk(self.k, dim=1).indices)


class ImageNegatives(NegativeSource):
    """Base of sources that change the image: implement ``images``.

    These images are negative by themselves, so the source chooses no labels. An encoder that shows labels gives them
    the true label of their sample.

    Attributes:
        per_sample: Whether the negatives of a sample depend on no other sample of the batch.
    """

    for_regression = None
    per_sample = False

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Make k negative images for each of B samples.

        Args:
            image: Images ``(B, *)``, float in [0, 1]; they must not be changed.
            target: True classes ``(B,)``.
            generator: The draws of these samples in this epoch.

        Returns:
            ``(B, k, *)`` in the dtype of ``image``.
        """
        raise NotImplementedError

    def images_of(self, rows: Tensor, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Make the negatives of some samples of a batch alone. They are those that :meth:`images` makes of all samples.

        Args:
            rows: Numbers of the samples in the batch, ``(N,)`` int64.
            image: Images of all samples, ``(B, *)``.
            target: True classes of all samples, ``(B,)``.
            generator: The draws of all samples.

        Returns:
            ``(N, k, *)``.
        """
        if not self.per_sample:
            return self.images(image, target, generator)[rows]
        draws = generator.at(rows)
        found = self.images(image[rows], target[rows], draws)
        generator.follow(draws)
        return found

    def __call__(
        self, image: Tensor, target: Tensor, *, num_classes: int, model: Model, generator: Draws
    ) -> tuple[Tensor, None]:
        return self.images(image, target, generator), None


class HybridImages(ImageNegatives):
    """Two images in one, by a mask of fairly large regions (Hinton 2022, "The Forward-Forward Algorithm", section 3.2).

    Short-range correlations are those of real images, long-range ones are not. The mask is a random bit image, blurred
    repeatedly with the filter [1/4, 1/2, 1/4] in both directions and cut at 0.5, the same for all channels. If that
    leaves only one of the two images, as can happen on small ones, the mask is cut at its own mean.

    The other image is another sample of the batch of one process, of any class, so these negatives depend on the batch.
    A sample that is alone in its batch stays as it is.

    Args:
        k: Hybrids per sample, each with another partner as long as the batch has one.
        blurs: Number of blurs; more of them give larger regions. About 10 suit 28x28 pixels.
    """

    def __init__(self, k: int = 1, blurs: int = 10) -> None:
        if blurs < 0:
            raise ConfigurationError(f"HybridImages(blurs={blurs}): 0 or more are needed, about 10 for 28x28 pixels.")
        self.k, self.blurs = _at_least_one(self, k), blurs

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Combine images ``(B, *, H, W)``; returns ``(B, k, *, H, W)``."""
        _need_rows(self, image)
        size = len(image)
        mask = self.masks(image, generator)  # (B, k, H, W)
        mask = mask.view(size, self.k, *[1] * (image.ndim - 3), *mask.shape[2:])
        order = generator.shuffle()
        partner = torch.empty(size, self.k, dtype=torch.int64, device=order.device)
        for j in range(self.k):  # the sample j + 1 places later in a random order is another one
            partner[order, j] = order.roll(-(1 + j % max(1, size - 1)))
        return torch.where(mask, image.unsqueeze(1), image[partner])

    def masks(self, image: Tensor, generator: Draws) -> Tensor:
        """Draw masks, bool ``(B, k, H, W)``, true where the sample's own pixels stay."""
        mask = (generator.uniform(self.k, *image.shape[-2:]) < 0.5).float()
        for _ in range(self.blurs):
            for dim in (-2, -1):
                last = mask.shape[dim] - 1
                # the border repeats its pixels; otherwise masks would fade to zero there
                before = torch.cat([mask.narrow(dim, 0, 1), mask.narrow(dim, 0, last)], dim)
                after = torch.cat([mask.narrow(dim, 1, last), mask.narrow(dim, last, 1)], dim)
                mask = (before + 2 * mask + after) / 4
        low, high = mask.amin((-2, -1), keepdim=True), mask.amax((-2, -1), keepdim=True)
        whole = (low > 0.5) | (high <= 0.5)
        return mask > torch.where(whole, mask.mean((-2, -1), keepdim=True), 0.5)


class Rotated(ImageNegatives):
    """The image rotated by an angle that is drawn for each sample.

    Args:
        angles: Angles in degrees counterclockwise, multiples of 90. Images that are not square can turn by 180 only.
    """

    per_sample = True

    def __init__(self, angles: Sequence[int] = (90, 180, 270)) -> None:
        if not angles or any(angle % 90 or not angle % 360 for angle in angles):
            raise ConfigurationError(f"Rotated(angles={list(angles)}): one or more of 90, 180 and 270 are needed.")
        self.angles = list(angles)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Rotate images ``(B, *, H, W)``; returns ``(B, 1, *, H, W)``."""
        _need_rows(self, image)
        height, width = image.shape[-2:]
        if height != width and any(angle % 180 for angle in self.angles):
            raise ConfigurationError(f"images of {height}x{width} pixels can turn by 180 degrees only: angles=[180].")
        choice = generator.integers(len(self.angles), 1).view(-1, *[1] * (image.ndim - 1))
        rotated = torch.empty_like(image)
        for i, angle in enumerate(self.angles):  # all samples by each angle: picking them out would wait for the device
            rotated = torch.where(choice == i, torch.rot90(image, angle // 90 % 4, (-2, -1)), rotated)
        return rotated.unsqueeze(1)


class Perturbed(ImageNegatives):
    """The image with Gaussian noise on every pixel, clipped to [0, 1]; the columns of tables are not clipped.

    Args:
        std: Standard deviation of the noise.
    """

    per_sample = True

    def __init__(self, std: float = 0.5) -> None:
        self.std = _above_zero(self, std)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Add noise to images ``(B, *)``; returns ``(B, 1, *)``."""
        _need_pixels(self, image)
        noise = self.std * generator.normal(*image.shape[1:]).to(image.dtype)
        return _clipped(image + noise).unsqueeze(1)


class GaussianNoise(ImageNegatives):
    """Pure noise, clipped to [0, 1]: the paper's example of negative data that must fail. Tables are not clipped.

    It holds nothing of the image, so a unit can tell it from real data by pixel statistics and need not learn what a
    digit is. It is here to show that, and for comparison.

    Args:
        mean: Mean of a pixel before clipping.
        std: Standard deviation of a pixel before clipping.
    """

    per_sample = True

    def __init__(self, mean: float = 0.5, std: float = 0.5) -> None:
        self.mean, self.std = mean, _above_zero(self, std)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Draw noise ``(B, 1, *)`` in the shape of images ``(B, *)``."""
        _need_pixels(self, image)
        noise = self.mean + self.std * generator.normal(*image.shape[1:])
        return _clipped(noise).to(image.dtype).unsqueeze(1)


def check_negatives(
    negative: Tensor | None,
    label: Tensor | None,
    *,
    image: Tensor,
    num_classes: int,
    source: str,
    dtype: torch.dtype = torch.int64,
) -> None:
    """Refuse negatives of images ``(B, *)`` that are not of the shapes and dtypes of :class:`NegativeSource`.

    Labels have the ``dtype`` of targets. Classes are also compared with ``num_classes`` on the CPU; an accelerator
    would have to be waited for.
    """
    batch, *shape = image.shape
    if negative is not None and (negative.shape[:1] + negative.shape[2:] != image.shape or negative.ndim < 2):
        raise ConfigurationError(
            f"{source} returns negative images of shape {tuple(negative.shape)} for images of shape "
            f"{tuple(image.shape)}: (B, k, {', '.join(map(str, shape))}) is needed, with k negatives per image."
        )
    if label is None:
        return
    k = label.shape[-1] if negative is None else negative.shape[1]
    if label.shape != (batch, k) or label.dtype != dtype:
        raise ConfigurationError(
            f"{source} returns labels of shape {tuple(label.shape)} and {label.dtype} for {batch} images: "
            f"(B, k) and {dtype} are needed, with k negatives per image."
        )
    if not dtype.is_floating_point and label.device.type == "cpu" and ((label < 0) | (label >= num_classes)).any():
        raise ConfigurationError(f"{source} returns labels out of range: they must be 0 to {num_classes - 1}.")


def _at_least_one(source: NegativeSource, k: int) -> int:
    if k < 1:
        name = type(source).__name__
        raise ConfigurationError(f"{name}(k={k}): k is the number of negatives per positive, at least 1.")
    return k


def _above_zero(source: NegativeSource, std: float) -> float:
    if not std > 0:
        raise ConfigurationError(f"{type(source).__name__}(std={std}): a standard deviation above 0 is needed.")
    return std


def _wrong(source: NegativeSource, k: int, num_classes: int) -> int:
    """Return the number of wrong labels, if there are enough for k of them."""
    if k > num_classes - 1:
        what = f"of {num_classes} classes only {num_classes - 1} are wrong."
        if num_classes == 1:
            what = "the data has one class, so no label is wrong. Give num_classes if there are more."
        raise ConfigurationError(f"{type(source).__name__}(k={k}): {what}")
    return num_classes - 1


def _need_pixels(source: NegativeSource, image: Tensor) -> None:
    if not image.is_floating_point():
        raise ConfigurationError(
            f"{type(source).__name__} needs pixels or other numbers, and these are token ids: use WrongLabels, or "
            "goodness by class."
        )


def _clipped(image: Tensor) -> Tensor:
    """Return pixels in [0, 1], and the columns ``(B, D)`` of a table as they are."""
    return image if image.ndim == 2 else image.clamp_(0, 1)


def _need_rows(source: NegativeSource, image: Tensor) -> None:
    if image.ndim < 3:
        raise ConfigurationError(
            f"{type(source).__name__} needs images (C, H, W), and these have shape {tuple(image.shape[1:])}: "
            "reshape them in the dataset."
        )
