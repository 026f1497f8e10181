"""How a label enters the input of the network.

The encoder belongs to the module (it is what the network learned to read) and is kept in its checkpoint.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.recipe import Recorded

__all__ = [
    "FourierPattern",
    "LabelEmbedding",
    "LabelEncoder",
    "LabelOverlay",
    "LabelPlanes",
    "LabelToken",
    "LabelledImages",
    "NoLabel",
]


class LabelEncoder(Recorded, nn.Module):
    """Base of label encoders: implement ``forward``, and ``check`` where not every image will do."""

    num_classes: int = 0
    """Set by the module that owns the encoder, before the first call."""
    shows_label: bool = True
    """Whether inputs differ between labels; without it, relabelling makes no negative data."""

    def check(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Refuse images that cannot hold the label, and make what depends on their shape.

        Args:
            input_shape: of one image, without the batch.
            num_classes: number of labels.

        Raises:
            ConfigurationError: with what to change.
        """

    def one_hot_value(self, image: Tensor) -> Tensor | None:
        """Value of the label's feature, for encodings that a unit may read apart from the image.

        Those whose ``forward`` puts the label one-hot into the first ``num_classes`` features, and leaves the others to
        the image as it is.

        Args:
            image: ``(B, *)``.

        Returns:
            ``(B, 1)``; ``None`` for any other encoding.
        """
        return None

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Put a label into every image.

        Args:
            image: ``(B, *)`` float in [0, 1].
            label: ``(B,)`` int64; ``None`` for the neutral label, which speaks for no class.

        Returns:
            ``(B, *)``: what the first unit sees, of a shape of its own. The image itself is not changed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LabelledImages:
    """Images, each under several labels: the input of a network's first unit.

    A unit that can (see :class:`~intff_lightning.units.DenseUnit`) reads what the labels share only once; any other
    takes :meth:`dense`.
    """

    image: Tensor
    """``(B, *)``."""
    label: Tensor
    """``(B, L)`` int64; ``(1, L)``: the same for every image."""
    encoder: LabelEncoder

    def dense(self) -> Tensor:
        """Every image under its first label, then every image under its second, ``(L * B, *)``."""
        count = self.label.shape[1]
        repeated = self.image.repeat(count, *[1] * (self.image.ndim - 1)) if count > 1 else self.image
        encoded: Tensor = self.encoder(repeated, self.label.expand(self.image.shape[0], -1).T.flatten())
        return encoded


class LabelOverlay(LabelEncoder):
    """The paper's encoding: the first ``num_classes`` pixels hold the label one-hot, at the image's maximum.

    The first pixels are those of the flattened image, so an image 8 pixels wide gives its first row and the start of
    its second. The neutral label sets all of them to zero (section 3.3; the author's code).

    Args:
        intensity: value of the label's pixel; ``None`` is the maximum of the image that it is put into. A fixed one
            keeps the label visible on an image that is all zero.
    """

    def __init__(self, intensity: float | None = None) -> None:
        super().__init__()
        self.intensity = intensity

    def check(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Images need a pixel a class, and one more to be an image at all."""
        if math.prod(input_shape) <= num_classes:
            raise ConfigurationError(
                f"an image of shape {tuple(input_shape)} has {math.prod(input_shape)} pixels, and the overlay of "
                f"{num_classes} labels needs more than {num_classes}.\nUse larger images, or another label encoder."
            )

    def one_hot_value(self, image: Tensor) -> Tensor:
        """Value of the label's pixel, ``(B, 1)``."""
        if self.intensity is None:
            return image.flatten(1).amax(1, keepdim=True)
        return image.new_full((image.shape[0], 1), self.intensity)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Overlay ``label`` ``(B,)`` on ``image`` ``(B, *)``; the shape stays."""
        overlaid = image.flatten(1).clone()
        overlaid[:, : self.num_classes] = 0
        if label is not None:
            overlaid.scatter_(1, label.unsqueeze(1), self.one_hot_value(image))
        return overlaid.view_as(image)

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return "" if self.intensity is None else f"intensity={self.intensity}"


class NoLabel(LabelEncoder):
    """The image itself under every label: for unsupervised training, and for units with a goodness of each class."""

    shows_label = False

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """``image`` ``(B, *)``, and no copy of it."""
        return image


class LabelPlanes(LabelEncoder):
    """The label as ``num_classes`` more channels, each constant, so that a convolution sees it at every place.

    The label's channel is at ``intensity``, the others at zero; under the neutral label all of them are.

    Args:
        intensity: value of the label's channel.
    """

    def __init__(self, intensity: float = 1.0) -> None:
        super().__init__()
        self.intensity = intensity

    def check(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Only images ``(C, H, W)`` have channels."""
        _check_channels(self, input_shape)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Images ``(B, C, H, W)`` with the label's channels behind their own, ``(B, C + num_classes, H, W)``."""
        value = image.new_zeros(image.shape[0], self.num_classes)
        if label is not None:
            value.scatter_(1, label.unsqueeze(1), self.intensity)
        return torch.cat([image, value[:, :, None, None].expand(-1, -1, *image.shape[2:])], dim=1)

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return f"intensity={self.intensity}"


class FourierPattern(LabelEncoder):
    r"""A pattern of waves over the whole image, a fixed one for each label, added to every channel.

    Every neuron of a convolution sees the label, which the first pixels of an overlay would show to a few (Scodellaro
    et al. 2023, "Training Convolutional Neural Networks with the Forward-Forward algorithm"). A pattern is

    .. math:: \sum_{i=1}^{3} \cos\bigl(2\pi f_i (x \cos a_i + y \sin a_i) + \varphi_i\bigr)

    scaled, with frequencies from 1 wave to a quarter of the shorter side's pixels (2 waves at least), orientations and
    phases that depend on (seed, class) alone. The neutral label adds no pattern.

    Args:
        amplitude: largest absolute value of every pattern.
        seed: of the patterns; it is not the run's, so that networks of several runs can be compared.
    """

    patterns: Tensor | None
    """``(num_classes, H, W)``; made again wherever they are needed, and not in the checkpoint."""

    def __init__(self, amplitude: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.amplitude, self.seed = amplitude, seed
        self.register_buffer("patterns", None, persistent=False)

    def check(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """A pattern needs rows and columns: images ``(H, W)`` or ``(C, H, W)``."""
        if len(input_shape) < 2:
            raise ConfigurationError(
                f"FourierPattern needs images (C, H, W), and one of shape {tuple(input_shape)} has no rows: "
                "use LabelOverlay."
            )
        if not self._fit(num_classes, *input_shape[-2:]):
            self.patterns = self._make(num_classes, *input_shape[-2:])

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """``image`` ``(B, *, H, W)`` and the label's pattern; the shape stays."""
        if label is None:
            return image
        height, width = image.shape[-2:]
        if not self._fit(self.num_classes, height, width):
            self.patterns = self._make(self.num_classes, height, width)
        assert self.patterns is not None
        if self.patterns.device != image.device:  # an encoder that belongs to no module is not moved with one
            self.patterns = self.patterns.to(image.device)
        pattern = self.patterns[label].to(image.dtype)
        return image + pattern.view(-1, *[1] * (image.ndim - 3), height, width)

    def _fit(self, *shape: int) -> bool:
        return self.patterns is not None and self.patterns.shape == shape

    def _make(self, num_classes: int, height: int, width: int) -> Tensor:
        """Patterns ``(num_classes, H, W)``, float32, equal on every machine: on the CPU, in double precision."""
        with torch.inference_mode(False):  # what is made while the network is evaluated is trained with later
            draws = Draws(self.seed, 0, torch.arange(num_classes, device="cpu"), stream=1)
            shorter = min(height, width)
            y = torch.arange(height, dtype=torch.float64, device="cpu").view(-1, 1) / shorter
            x = torch.arange(width, dtype=torch.float64, device="cpu") / shorter
            pattern = torch.zeros(num_classes, height, width, dtype=torch.float64, device="cpu")
            for _ in range(3):
                frequency, angle, phase = draws.uniform(3, 1, 1).double().unbind(1)  # (num_classes, 1, 1) each
                frequency = 1 + frequency * (max(2, shorter / 4) - 1)
                angle = math.pi * angle
                waves = frequency * (x * angle.cos() + y * angle.sin())
                pattern += torch.cos(2 * math.pi * (waves + phase))
            largest = pattern.abs().amax((1, 2), keepdim=True).clamp_(min=1e-12)
            return (self.amplitude * pattern / largest).float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FourierPattern":
        """Follow the module to another device or dtype; made anew, as ``half().float()`` would leave them rounded."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if self.patterns is not None:
            self.patterns = self._make(*self.patterns.shape).to(self.patterns)
        return self

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return f"amplitude={self.amplitude}, seed={self.seed}"


class LabelToken(LabelEncoder):
    """An image as a sequence of tokens, one for each patch, and the label as the last token.

    For units of attention or recurrence. Patches are read row by row; a token holds its patch channel by channel, as
    :func:`torch.nn.functional.unfold` gives it. The label's token is one-hot in its first ``num_classes`` features,
    and zero under the neutral label.

    Args:
        patch: side of a square patch, or ``[height, width]``; ``[1, 28]`` gives the rows of an MNIST image.
    """

    def __init__(self, patch: int | list[int] = 4) -> None:
        super().__init__()
        sides = [patch, patch] if isinstance(patch, int) else list(patch)
        if len(sides) != 2 or min(sides) < 1:
            raise ConfigurationError(f"LabelToken(patch={patch}): a side of 1 pixel or more, or [height, width].")
        self.patch = (sides[0], sides[1])

    def check(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Patches must tile an image ``(C, H, W)``, and have a feature for each class."""
        _check_channels(self, input_shape)
        channels, *sides = input_shape
        height, width = self.patch
        if sides[0] % height or sides[1] % width:
            raise ConfigurationError(
                f"patches of {height}x{width} pixels do not tile an image of {sides[0]}x{sides[1]}: "
                "LabelToken(patch=[height, width]) with divisors of these."
            )
        if channels * height * width < num_classes:
            raise ConfigurationError(
                f"a token of {channels}x{height}x{width} = {channels * height * width} features cannot hold one of "
                f"{num_classes} classes: use larger patches."
            )

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Tokens ``(B, T + 1, features)`` of images ``(B, C, H, W)``, the label's behind the T patches."""
        channels, *sides = image.shape[1:]
        height, width = self.patch
        parts = image.reshape(-1, channels, sides[0] // height, height, sides[1] // width, width)
        tokens = parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        last = tokens.new_zeros(image.shape[0], 1, tokens.shape[2])
        if label is not None:
            last.scatter_(2, label.view(-1, 1, 1), 1)
        return torch.cat([tokens, last], dim=1)

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return f"patch={list(self.patch)}"


class LabelEmbedding(LabelEncoder):
    """A learned pattern for each label, of the image's shape, added to the image; the neutral label adds nothing.

    The patterns start as normal noise of a standard deviation of 0.02, small beside pixels in [0, 1], and are made by
    :meth:`check`.

    Args:
        scale: factor of that standard deviation.
    """

    weight: nn.Parameter | None
    """``(num_classes, *image)``."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:  # one pattern for all labels, in the first step
            raise ConfigurationError(f"LabelEmbedding(scale={scale}): labels start alike; a scale above 0 is needed.")
        self.scale = scale
        self.register_parameter("weight", None)

    def check(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Make the patterns, once for a shape."""
        shape = (num_classes, *input_shape)
        if self.weight is None or self.weight.shape != shape:
            self.weight = nn.Parameter(0.02 * self.scale * torch.randn(shape))

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """``image`` ``(B, *)`` and the label's pattern; the shape stays, the patterns take gradients."""
        if label is None:
            return image
        if self.weight is None:
            raise ConfigurationError("LabelEmbedding has no patterns yet: encoder.check(input_shape, num_classes).")
        pattern = nn.functional.embedding(label, self.weight.flatten(1)).view(-1, *self.weight.shape[1:])
        return image + pattern.to(image.dtype)

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return f"scale={self.scale}"


def _check_channels(encoder: LabelEncoder, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise ConfigurationError(
            f"{type(encoder).__name__} needs images (C, H, W), and these have shape {tuple(input_shape)}: "
            "reshape them in the dataset, or use LabelOverlay."
        )
