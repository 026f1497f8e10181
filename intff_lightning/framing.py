"""A person's own pictures as images like those that a network was trained on.

Background and polarity come from the border of a picture: what differs from its median colour is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from intff_lightning.errors import DataError

Grey: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
"""Values ``(H, W)`` from 0 to 1."""

_FAINT = 24
"""A picture with no larger difference from its border, of 255, shows nothing."""


@dataclass(frozen=True)
class Framing:
    """How a data set places what its grey images show: light on dark, in the middle of a square.

    Args:
        side: Side of the square, in pixels.
        longest: Longer side of what is shown, in pixels.
        strokes: The images show strokes of a pen: their contrast is raised, and their centre of mass is in the middle.
            Otherwise grey levels stay, and the centre of the bounding box is in the middle.
    """

    side: int
    longest: int
    strokes: bool = True

    def frame(self, picture: Image.Image) -> Image.Image:
        """Return a picture as an image of the data set, in mode ``L``.

        One that looks like an image of the data set (its size, grey, with dark corners) is taken as it is.

        Raises:
            DataError: The picture is of one colour.
        """
        grey = picture.convert("L")
        corners = np.asarray(grey)[[0, -1]][:, [0, -1]]
        if picture.size == (self.side, self.side) and _is_grey(picture) and np.median(corners) < 128:
            return grey
        shown = _foreground(picture)
        if self.strokes:
            shown = np.clip((shown / shown.max() - 0.25) / 0.5, 0, 1)
        return Image.fromarray(np.round(255 * self._centred(self._scaled(shown))).astype(np.uint8))

    def _scaled(self, shown: Grey) -> Grey:
        """Crop to what is shown, and scale its longer side to ``longest``."""
        rows, columns = np.nonzero(shown > 0.1 * shown.max())
        box = shown[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        ratio = self.longest / max(box.shape)
        size = [max(1, round(ratio * length)) for length in box.shape[::-1]]
        scaled: Grey = np.asarray(Image.fromarray(box).resize((size[0], size[1]), Image.Resampling.BILINEAR))
        return scaled / scaled.max() if self.strokes else scaled  # a thin pen gives faint lines

    def _centred(self, shown: Grey) -> Grey:
        """Place it in the middle of the square."""
        square = np.zeros((self.side, self.side), np.float32)
        places = []
        for axis, length in enumerate(shown.shape):
            weights = shown.sum(1 - axis)
            middle = float((weights * np.arange(length)).sum() / weights.sum()) if self.strokes else (length - 1) / 2
            centre = self.side / 2 if self.strokes else (self.side - 1) / 2  # MNIST's own lies there
            start = min(max(round(centre - middle), 0), self.side - length)
            places.append(slice(start, start + length))
        square[places[0], places[1]] = shown
        return square


def flatten(picture: Image.Image) -> Image.Image:
    """Return a picture without transparency, in mode ``L`` or ``RGB``.

    What is opaque is laid on black if it is light, and on white if it is dark.
    """
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"), np.float32)
        light = (np.asarray(picture.convert("L")) * alpha).sum() > 127.5 * alpha.sum()
        ground = Image.new("RGBA", picture.size, (0, 0, 0, 255) if light else (255, 255, 255, 255))
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def to_shape(picture: Image.Image, input_shape: Sequence[int], framing: Framing | None) -> np.ndarray[Any, Any]:
    """Return a picture as the input ``(C, H, W)`` uint8 of a network.

    With a framing, the image is framed, and a border of zeros is added up to ``(H, W)``. Otherwise the picture is
    resized and cropped in the middle.

    Args:
        picture: The picture.
        input_shape: ``(C, H, W)``, where C is 1 or 3.
        framing: That of the network's data set, if it has one.
    """
    channels, height, width = input_shape
    picture = flatten(picture)
    if framing is None or min(height, width) < framing.side:
        picture = picture.convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)).reshape(
            height, width, channels
        )
    else:
        rows, columns = height - framing.side, width - framing.side
        around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
        pixels = np.pad(np.asarray(framing.frame(picture)), around)[:, :, None].repeat(channels, axis=2)
    return pixels.transpose(2, 0, 1)


def _is_grey(picture: Image.Image) -> bool:
    pixels = np.asarray(picture)
    return pixels.ndim == 2 or bool((pixels == pixels[:, :, :1]).all())


def _border(picture: Image.Image) -> np.ndarray[Any, Any]:
    """Return the pixels of the border of a picture, ``(N,)`` or ``(N, 3)``."""
    pixels = np.asarray(picture)
    depth = max(1, round(0.02 * min(picture.size)))
    edges = (pixels[:depth], pixels[-depth:], pixels[:, :depth], pixels[:, -depth:])
    return np.concatenate([edge.reshape(-1, *pixels.shape[2:]) for edge in edges])


def _foreground(picture: Image.Image) -> Grey:
    """Return how far each pixel is from the colour of the border, in the channel where it is farthest."""
    pixels = np.asarray(picture, np.float32).reshape(*picture.size[::-1], -1)
    distance: Grey = np.abs(pixels - np.float32(np.median(_border(picture), axis=0))).max(2)
    if distance.max() < _FAINT:
        raise DataError("it is of one colour, and shows nothing")
    return distance / np.float32(255)
