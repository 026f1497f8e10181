"""Views of an image, over which a trained network averages its scores: test-time augmentation."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.recipe import Recorded


class Views(Recorded):
    """Base of views.

    Any callable with this signature works as one. A checkpoint keeps it if its class derives from this one.
    """

    def __call__(self, image: Tensor) -> Iterable[Tensor]:
        """Give the views of images ``(B, *)``: the images themselves, and others of the same shape.

        Their number is always the same. A network reads one view after the other.
        """
        raise NotImplementedError


class ShiftsAndFlips(Views):
    """The image and its shifts by up to ``pixels`` in both directions; with ``flip``, all of them mirrored, too.

    Args:
        pixels: Largest shift, in pixels. Zeros enter at the border, as in
            :class:`~intff_lightning.augmentations.RandomShift`.
        step: Pixels between one shift and the next; it divides ``pixels``. There are ``(2 pixels / step + 1) ** 2``
            shifts.
        flip: Mirror each of them left to right, too.

    >>> [view.flatten().tolist() for view in ShiftsAndFlips(flip=True)(torch.tensor([[[[1, 2, 3]]]]))]
    [[1, 2, 3], [3, 2, 1]]
    >>> len(list(ShiftsAndFlips(pixels=4, step=2)(torch.rand(1, 3, 32, 32))))
    25
    """

    def __init__(self, pixels: int = 0, step: int = 1, flip: bool = False) -> None:
        if pixels < 0 or step < 1 or pixels % step:
            raise ConfigurationError(
                f"ShiftsAndFlips(pixels={pixels}, step={step}): 0 pixels or more are needed, and a step of 1 or more "
                "that divides them."
            )
        if not pixels and step != 1:
            raise ConfigurationError(f"ShiftsAndFlips: step={step} has no effect without pixels. Leave it out.")
        if not pixels and not flip:
            raise ConfigurationError("ShiftsAndFlips has no effect without pixels or flip=true: leave it out.")
        self.pixels, self.step, self.flip = pixels, step, flip

    def __call__(self, image: Tensor) -> Iterable[Tensor]:
        if image.ndim != 4:
            raise ConfigurationError(f"ShiftsAndFlips needs images (C, H, W), not of shape {tuple(image.shape[1:])}.")
        height, width = image.shape[2:]
        padded = pad(image, [self.pixels] * 4) if self.pixels else image
        starts = range(0, 2 * self.pixels + 1, self.step)
        for row in starts:
            for column in starts:
                view = padded[:, :, row : row + height, column : column + width]
                yield view
                if self.flip:
                    yield view.flip(3)


def check_views(views: Callable[[Tensor], Iterable[Tensor]] | None, input_shape: tuple[int, ...]) -> None:
    """Refuse views of another shape than the images that a network takes."""
    if views is not None:
        shapes = {tuple(view.shape[1:]) for view in views(torch.zeros(1, *input_shape))}
        if shapes != {tuple(input_shape)}:
            raise ConfigurationError(
                f"{type(views).__name__} gives views of shape {', '.join(map(str, sorted(shapes))) or 'none'}, and the "
                f"network takes {tuple(input_shape)}."
            )


def mean_over_views(
    read: Callable[[Tensor], Tensor], image: Tensor, views: Callable[[Tensor], Iterable[Tensor]] | None
) -> Tensor:
    """Average what is read from the views of images, in float32 or better: a sum in bfloat16 would lose digits.

    Args:
        read: Maps images ``(B, *)`` to any tensor.
        image: ``(B, *)``.
        views: Gives views of images; ``None`` reads the images alone.
    """
    if views is None:
        return read(image)
    total, count = None, 0
    for view in views(image):
        found = at_least_float32(read(view))
        total, count = found if total is None else total + found, count + 1
    assert total is not None, "views are checked when a network is built"
    return total / count
