"""How a label enters the input of the network.

The encoder belongs to the module (it is what the network learned to read) and is kept in its checkpoint.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.recipe import Recorded

__all__ = ["LabelEncoder", "LabelOverlay", "LabelledImages"]


class LabelEncoder(Recorded, nn.Module):
    """Base of label encoders: implement ``forward``, and ``check`` where not every image will do."""

    num_classes: int = 0
    """Set by the module that owns the encoder, before the first call."""

    def check(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Refuse images that cannot hold the label.

        Args:
            input_shape: of one image, without the batch.
            num_classes: number of labels.

        Raises:
            ConfigurationError: with what to change.
        """

    def one_hot(self, image: Tensor) -> tuple[Tensor, Tensor] | None:
        """Take an encoding apart whose label is one-hot in the first ``num_classes`` features.

        Args:
            image: ``(B, *)``.

        Returns:
            A copy of the flattened images with those features at zero ``(B, features)``, and the value that the
            label's feature takes ``(B, 1)``; ``None`` for any other encoding.
        """
        return None

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Put a label into every image.

        Args:
            image: ``(B, *)`` float in [0, 1].
            label: ``(B,)`` int64; ``None`` for the neutral label, which speaks for no class.

        Returns:
            ``(B, *)``: what the first unit sees. The image itself is not changed.
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
    """``(B, L)`` int64."""
    encoder: LabelEncoder

    def dense(self) -> Tensor:
        """Every image under its first label, then every image under its second, ``(L * B, *)``."""
        count = self.label.shape[1]
        repeated = self.image.repeat(count, *[1] * (self.image.ndim - 1)) if count > 1 else self.image
        encoded: Tensor = self.encoder(repeated, self.label.T.flatten())
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

    def one_hot(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image without its first pixels, and the label pixel's value."""
        overlaid = image.flatten(1).clone()
        overlaid[:, : self.num_classes] = 0
        if self.intensity is None:
            return overlaid, image.flatten(1).amax(1, keepdim=True)
        return overlaid, overlaid.new_full((image.shape[0], 1), self.intensity)

    def forward(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Overlay ``label`` ``(B,)`` on ``image`` ``(B, *)``; the shape stays."""
        overlaid, value = self.one_hot(image)
        if label is not None:
            overlaid.scatter_(1, label.unsqueeze(1), value)
        return overlaid.view_as(image)

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return "" if self.intensity is None else f"intensity={self.intensity}"
