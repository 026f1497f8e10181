"""Canny edges of MNIST-C."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from intff_lightning.corruptions.images import ImageCorruption, gaussian_blur
from intff_lightning.draws import Draws


class CannyEdges(ImageCorruption):
    """Shows the edges in place of the image, which shines through with a weight of 0.8, 0.6, 0.4, 0.2 or 0.

    Mu and Gilmer give this kind no severity. Edges of colour images are those of the mean over the channels.

    The arguments are those of :class:`ImageCorruption`; MNIST-C shows the edges alone, severity 5. Nothing is drawn.
    """

    mnist_c_severity: ClassVar[int] = 5

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        share = self.severity / 5
        return (1 - share) * image + share * canny(image.mean(1, keepdim=True)).to(image.dtype)


def canny(image: Tensor, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> Tensor:
    """Return the edges of grey images (Canny 1986), as scikit-image defines them.

    Args:
        image: ``(B, 1, H, W)`` in [0, 1].
        sigma: Standard deviation of the blur, in pixels.
        low: Gradient from which a pixel can belong to an edge. Its unit is that of Sobel's filter, without a divisor.
        high: Gradient that one pixel of each edge has.

    Returns:
        bool ``(B, 1, H, W)``.
    """
    if min(image.shape[-2:]) < 3:
        return torch.zeros_like(image, dtype=torch.bool)
    inside = torch.ones_like(image[:1])
    image = gaussian_blur(image, sigma, "constant") / gaussian_blur(inside, sigma, "constant")
    sobel = image.new_tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]]).neg().view(1, 1, 3, 3)
    gradient = conv2d(pad(image, [1] * 4, "replicate"), torch.cat([sobel, sobel.transpose(2, 3)]))
    across, down = gradient[:, :1], gradient[:, 1:]
    size = gradient.square().sum(1, keepdim=True).sqrt()
    thin = _is_ridge(size, across, down) & (size >= low)
    edges = thin & (size >= high)
    while True:  # edges grow along pixels above the lower threshold
        grown = thin & (max_pool2d(edges.to(image.dtype), 3, stride=1, padding=1) > 0)
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _is_ridge(size: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Tell where the gradient is no smaller than on both sides, interpolated between neighbours; not at the border."""
    height, width = size.shape[-2:]
    padded = pad(size, [1] * 4)

    def at(row: int, column: int) -> Tensor:
        return padded[:, :, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    falls = across * down >= 0  # from the upper left to the lower right, or the other way round
    steep = down.abs() > across.abs()
    larger, smaller = torch.maximum(across.abs(), down.abs()), torch.minimum(across.abs(), down.abs())
    weight = smaller / larger.clamp(min=1e-30)
    ridge = torch.zeros_like(falls)
    ridge[:, :, 1:-1, 1:-1] = True
    for side in (1, -1):
        diagonal = torch.where(falls, at(side, side), at(-side, side))
        straight = torch.where(steep, torch.where(falls, at(side, 0), at(-side, 0)), at(0, side))
        ridge &= weight * diagonal + (1 - weight) * straight <= size
    return ridge
