"""How a label enters the input of the network.

The encoder belongs to the module, because it is what the network learned to read. Checkpoints keep it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.modes import Freezable
from intff_lightning.pairs import PairedBatch
from intff_lightning.recipe import RecordedModule


class LabelEncoder(RecordedModule):
    """Base of label encoders: implement ``forward``, and extend ``setup`` if not every image will do."""

    shows_label: bool = True
    """Whether inputs differ between labels. If not, other labels make no negative data."""
    num_classes: int = 0
    """Number of labels, known after :meth:`setup`."""
    output_shape: tuple[int, ...] = ()
    """Shape of one network input, known after :meth:`setup`."""
    takes_tokens: bool = False
    """Whether token sequences may take the place of images."""
    appends: bool = False
    """Whether a one-hot label follows the image, rather than take the place of its first features."""

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Prepare for images of one shape. The module calls this once.

        Args:
            input_shape: Shape of one image.
            num_classes: Number of labels.

        Raises:
            ConfigurationError: The images cannot hold the label.
        """
        self.num_classes = num_classes
        with torch.no_grad():
            self.output_shape = tuple(self(torch.zeros(1, *input_shape), torch.zeros(1, dtype=torch.int64)).shape[1:])

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Put a label into each image.

        Args:
            image: ``(B, *)``, float in [0, 1]; it is not changed.
            label: ``(B,)`` int64, or ``None`` for the neutral label, which speaks for no class.

        Returns:
            Network inputs ``(B, *output_shape)``.
        """
        raise NotImplementedError

    def one_hot_value(self, image: Tensor) -> Tensor | None:
        """Return the value of the label's feature, for encodings that a unit may read apart from the image.

        These encodings put the label one-hot into the first ``num_classes`` features, or behind the last one (see
        :attr:`appends`), and leave all others as they are.

        Args:
            image: ``(B, *)``.

        Returns:
            ``(B, 1)``, or ``None`` for any other encoding.
        """
        return None

    def positive(self, batch: PairedBatch) -> Tensor:
        """Return the positive network inputs of a batch, ``(B, *)``."""
        inputs: Tensor = self(*batch.positive)
        return inputs

    def negative(self, batch: PairedBatch) -> Tensor:
        """Return the negative network inputs of a batch, ``(B * k, *)``, sample by sample.

        Negatives without labels of their own carry the true label of their sample, so the label alone says nothing.
        """
        image, label = batch.negative
        label = batch.target.unsqueeze(1).expand(image.shape[:2]) if label is None else label
        inputs: Tensor = self(image.flatten(0, 1), label.flatten())
        return inputs

    def inputs(self, batch: PairedBatch) -> "LabelledImages | Tensor":
        """Return all network inputs of a batch for the first unit: ``(B + k * B, *)`` once they are dense.

        The B positives come first, then the first negative of each sample, then the second of each.
        """
        image, label = batch.image, batch.target.unsqueeze(1)
        if batch.negative_image is None:
            if not self.shows_label or batch.negative_target is None:
                return LabelledImages(image, label, self) if self.shows_label else image
            return LabelledImages(image, torch.cat([label, batch.negative_target], dim=1), self)
        negative, shown = batch.negative
        shown = label.expand(negative.shape[:2]) if shown is None else shown
        image = torch.cat([image, negative.transpose(0, 1).flatten(0, 1)])
        return LabelledImages(image, torch.cat([label, shown], 1).T.reshape(-1, 1), self) if self.shows_label else image


@dataclass(frozen=True)
class LabelledImages:
    """Images, each under several labels: the input of a network's first unit.

    A unit that can (see :class:`~intff_lightning.units.DenseUnit`) reads what the labels share only once. Any other
    unit takes :meth:`dense`.
    """

    image: Tensor
    """``(B, *)``."""
    label: Tensor
    """``(B, L)`` int64, or ``(1, L)`` for the same labels under every image."""
    encoder: LabelEncoder

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(L * B, *)`` of the network inputs, which tables of layers show."""
        return self.image.shape[0] * self.label.shape[1], *self.encoder.output_shape

    def dense(self) -> Tensor:
        """Return every image under its first label, then every image under its second: ``(L * B, *)``."""
        count = self.label.shape[1]
        repeated = self.image.repeat(count, *[1] * (self.image.ndim - 1)) if count > 1 else self.image
        encoded: Tensor = self.encoder(repeated, self.label.expand(self.image.shape[0], -1).T.flatten())
        return encoded


class LabelOverlay(LabelEncoder):
    """The paper's encoding: the first ``num_classes`` pixels hold the label one-hot, at the maximum of the image.

    The first pixels are those of the flattened image. An image 8 pixels wide gives its first row and the start of its
    second. The neutral label sets all of them to zero (Tang 2023, section 3.3, and the author's code). What these
    pixels showed is lost: for the columns of a table use :class:`LabelColumns`.

    Args:
        intensity: Value of the label's pixel; ``None`` is the maximum of the image. A fixed value keeps the label
            visible on an image that is all zero.
    """

    def __init__(self, intensity: float | None = None) -> None:
        super().__init__()
        self.intensity = intensity
        _check_visible(self, intensity=intensity)

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        if math.prod(input_shape) <= num_classes:
            raise ConfigurationError(
                f"an image of shape {tuple(input_shape)} has {math.prod(input_shape)} pixels, and the overlay of "
                f"{num_classes} labels needs more than {num_classes}.\nUse larger images, or another label encoder."
            )
        super().setup(input_shape, num_classes)

    def one_hot_value(self, image: Tensor) -> Tensor:
        if self.intensity is None:
            return image.flatten(1).amax(1, keepdim=True)
        return image.new_full((image.shape[0], 1), self.intensity)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        overlaid = image.flatten(1).clone()
        overlaid[:, : self.num_classes] = 0
        if label is not None:
            overlaid.scatter_(1, label.unsqueeze(1), self.one_hot_value(image))
        return overlaid.view_as(image)


class LabelColumns(LabelEncoder):
    """The label as ``num_classes`` more columns behind those of a table, so that it overwrites none of them.

    The label's column is at the intensity, the others are zero, and all are zero under the neutral label. It is the
    default for samples ``(D,)``. Standardize your columns first: in a normalized sample, large ones hide small ones.

    Args:
        intensity: Value of the label's column; ``None`` is the largest absolute value in the sample's own columns. A
            fixed value keeps the label visible in a sample that is all zero.
    """

    appends = True

    def __init__(self, intensity: float | None = None) -> None:
        super().__init__()
        self.intensity = intensity
        _check_visible(self, intensity=intensity)

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        if len(input_shape) != 1:
            raise ConfigurationError(
                f"LabelColumns needs the columns of a table (D,), and these samples have shape {tuple(input_shape)}: "
                "use LabelPlanes or LabelOverlay."
            )
        super().setup(input_shape, num_classes)

    def one_hot_value(self, image: Tensor) -> Tensor:
        if self.intensity is None:
            return image.abs().amax(1, keepdim=True)
        return image.new_full((image.shape[0], 1), self.intensity)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        columns = image.new_zeros(image.shape[0], self.num_classes)
        if label is not None:
            columns.scatter_(1, label.unsqueeze(1), self.one_hot_value(image))
        return torch.cat([image, columns], dim=1)


class NoLabel(LabelEncoder):
    """The image itself under every label: for unsupervised training and for goodness by class."""

    shows_label = False
    takes_tokens = True

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        self.num_classes, self.output_shape = num_classes, input_shape

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        return image


class LabelPlanes(LabelEncoder):
    """The label as ``num_classes`` more channels, each constant, so that a convolution sees it everywhere.

    The label's channel is at ``intensity``, the others are zero. Under the neutral label all are zero.

    Args:
        intensity: Value of the label's channel.
    """

    def __init__(self, intensity: float = 1.0) -> None:
        super().__init__()
        self.intensity = intensity
        _check_visible(self, intensity=intensity)

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        _need_channels(self, input_shape)
        super().setup(input_shape, num_classes)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        value = image.new_zeros(image.shape[0], self.num_classes)
        if label is not None:
            value.scatter_(1, label.unsqueeze(1), self.intensity)
        return torch.cat([image, value[:, :, None, None].expand(-1, -1, *image.shape[2:])], dim=1)


class FourierPattern(LabelEncoder):
    r"""A fixed pattern of waves per label over the whole image, added to every channel.

    Every neuron of a convolution sees the label, which the first pixels of an overlay would show to only a few
    (Scodellaro et al. 2023, "Training Convolutional Neural Networks with the Forward-Forward algorithm"). A pattern is

    .. math:: \sum_{i=1}^{3} \cos\bigl(2\pi f_i (x \cos a_i + y \sin a_i) + \varphi_i\bigr)

    scaled to the amplitude. Frequencies range from 1 wave to a quarter of the shorter side's pixels (2 waves at
    least). Frequencies, orientations and phases depend on (seed, class) alone. The neutral label adds no pattern.

    Args:
        amplitude: Largest absolute value of each pattern.
        seed: Seed of the patterns. It is not the seed of the run, so that several runs share their patterns.
    """

    def __init__(self, amplitude: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.amplitude, self.seed = amplitude, seed
        _check_visible(self, amplitude=amplitude)
        self._made: dict[tuple[torch.device, torch.dtype, int, int], Tensor] = {}

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        if len(input_shape) < 2:
            raise ConfigurationError(
                f"FourierPattern needs images (C, H, W), and one of shape {tuple(input_shape)} has no rows: "
                "use LabelColumns."
            )
        self._made.clear()
        super().setup(input_shape, num_classes)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            return image
        height, width = image.shape[-2:]
        return image + self.patterns(image)[label].view(-1, *[1] * (image.ndim - 3), height, width)

    def patterns(self, image: Tensor) -> Tensor:
        """Return the patterns ``(num_classes, H, W)`` in the size, dtype and device of images ``(B, *, H, W)``."""
        height, width = image.shape[-2:]
        key = (image.device, image.dtype, height, width)
        if key not in self._made:
            self._made[key] = self._make(height, width).to(image.device, image.dtype)
        return self._made[key]

    def _make(self, height: int, width: int) -> Tensor:
        """Return float32 patterns that are equal on every machine: made on the CPU, in double precision."""
        with torch.inference_mode(False):  # patterns made during an evaluation also serve training
            draws = Draws(self.seed, 0, torch.arange(self.num_classes, device="cpu"), stream=1)
            shorter = min(height, width)
            y = torch.arange(height, dtype=torch.float64, device="cpu").view(-1, 1) / shorter
            x = torch.arange(width, dtype=torch.float64, device="cpu") / shorter
            pattern = torch.zeros(self.num_classes, height, width, dtype=torch.float64, device="cpu")
            for _ in range(3):
                frequency, angle, phase = draws.uniform(3, 1, 1).double().unbind(1)  # (num_classes, 1, 1) each
                frequency = 1 + frequency * (max(2, shorter / 4) - 1)
                angle = math.pi * angle
                waves = frequency * (x * angle.cos() + y * angle.sin())
                pattern += torch.cos(2 * math.pi * (waves + phase))
            largest = pattern.abs().amax((1, 2), keepdim=True).clamp_(min=1e-12)
            return (self.amplitude * pattern / largest).float()


class LabelToken(LabelEncoder):
    """An image as a sequence of tokens, one per patch, with the label as the last token.

    It is for attention and recurrent units. Patches are read row by row. A token holds its patch channel by channel,
    as :func:`torch.nn.functional.unfold` gives it. The label's token is one-hot in its first ``num_classes`` features,
    and zero under the neutral label. The output shape is ``(T + 1, features)``.

    Args:
        patch: Side of a square patch in pixels, or ``[height, width]``; ``[1, 28]`` gives the rows of an MNIST image.
    """

    def __init__(self, patch: int | list[int] = 4) -> None:
        super().__init__()
        sides = [patch, patch] if isinstance(patch, int) else list(patch)
        if len(sides) != 2 or min(sides) < 1:
            raise ConfigurationError(f"LabelToken(patch={patch}): a side of 1 pixel or more, or [height, width].")
        self.patch = (sides[0], sides[1])

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        _need_channels(self, input_shape)
        channels, *sides = input_shape
        height, width = self.patch
        if sides[0] % height or sides[1] % width:
            raise ConfigurationError(
                f"patches of {height}x{width} pixels do not tile an image of {sides[0]}x{sides[1]}: "
                "use LabelToken(patch=[height, width]) with divisors of these."
            )
        if channels * height * width < num_classes:
            raise ConfigurationError(
                f"a token of {channels}x{height}x{width} = {channels * height * width} features cannot hold one of "
                f"{num_classes} classes: use larger patches."
            )
        super().setup(input_shape, num_classes)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        channels, *sides = image.shape[1:]
        height, width = self.patch
        parts = image.reshape(-1, channels, sides[0] // height, height, sides[1] // width, width)
        tokens = parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        last = tokens.new_zeros(image.shape[0], 1, tokens.shape[2])
        if label is not None:
            last.scatter_(2, label.view(-1, 1, 1), 1)
        return torch.cat([tokens, last], dim=1)


class LabelEmbedding(Freezable, LabelEncoder):
    """A learned pattern per label, of the image's shape, added to the image; the neutral label adds nothing.

    The first unit trains the patterns. They start as normal noise with a standard deviation of 0.02, small beside
    pixels in [0, 1].

    Args:
        scale: Factor of that standard deviation.
    """

    weight: nn.Parameter | None
    """Patterns ``(num_classes, *image)``, made by :meth:`LabelEncoder.setup`."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:  # the first step would give all labels the same pattern
            raise ConfigurationError(f"LabelEmbedding(scale={scale}): labels start alike; a scale above 0 is needed.")
        self.scale = scale
        self.register_parameter("weight", None)

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        shape = (num_classes, *input_shape)
        if self.weight is None or self.weight.shape != shape:
            self.weight = nn.Parameter(0.02 * self.scale * torch.randn(shape), requires_grad=not self.frozen)
        super().setup(input_shape, num_classes)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            return image
        if self.weight is None:
            raise ConfigurationError("LabelEmbedding has no patterns: call encoder.setup(input_shape, num_classes).")
        pattern = nn.functional.embedding(label, self.weight.flatten(1)).view(-1, *self.weight.shape[1:])
        return image + pattern.to(image.dtype)


def _check_visible(encoder: LabelEncoder, **sizes: float | None) -> None:
    """Refuse a size of zero, with which inputs would not differ between labels."""
    for name, size in sizes.items():
        if size == 0:
            raise ConfigurationError(f"{type(encoder).__name__}({name}=0): all labels would look alike.")


def _need_channels(encoder: LabelEncoder, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise ConfigurationError(
            f"{type(encoder).__name__} needs images (C, H, W), and these have shape {tuple(input_shape)}: "
            f"reshape them in the dataset, or use {'LabelColumns' if len(input_shape) == 1 else 'LabelOverlay'}."
        )
