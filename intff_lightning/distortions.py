"""Negative images made of normal ones, for networks that must tell what is normal without having seen anything else.

All are :class:`~intff_lightning.negatives.ImageNegatives`. A network learns the boundary of normal data only where it
has seen negatives, so several kinds of them belong together: :class:`OneOf`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, max_pool2d

from intff_lightning.draws import Draws
from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.negatives import HybridImages, ImageNegatives


def _sides(source: ImageNegatives, image: Tensor) -> tuple[int, int]:
    """Return height and width of images ``(B, C, H, W)``; refuse others."""
    if image.ndim != 4:
        raise ConfigurationError(
            f"{type(source).__name__} needs images (C, H, W), and these have shape {tuple(image.shape[1:])}: "
            "reshape them in the dataset."
        )
    return image.shape[2], image.shape[3]


class CutPaste(ImageNegatives):
    """A rectangle of the image, pasted at another place of it (Li et al. 2021, "CutPaste", section 2.1).

    Its area and its proportions are drawn uniformly, the latter on a logarithmic scale. Where a rectangle would be
    larger than the image, it is cut to its size.

    Args:
        patches: Number of rectangles, pasted one after the other.
        area: Smallest and largest area of a rectangle, as a share of the image.
        ratio: Largest ratio of its sides.
    """

    per_sample = True

    def __init__(self, patches: int = 1, area: Sequence[float] = (0.02, 0.15), ratio: float = 3.3) -> None:
        if patches < 1 or len(area) != 2 or not 0 < area[0] <= area[1] <= 1 or ratio < 1:
            raise ConfigurationError(
                f"CutPaste(patches={patches}, area={list(area)}, ratio={ratio}): 1 patch or more, two shares of the "
                "image (the smaller one first) and a ratio of 1 or more are needed."
            )
        self.patches, self.area, self.ratio = patches, (area[0], area[1]), ratio

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Cut and paste in images ``(B, C, H, W)``; returns ``(B, 1, C, H, W)``."""
        sides = _sides(self, image)
        sample = torch.arange(len(image), device=image.device).view(-1, 1, 1)
        for _ in range(self.patches):
            area, ratio, *places = generator.uniform(6).unbind(1)
            area = self.area[0] + area * (self.area[1] - self.area[0])
            stretch = torch.exp((ratio - 0.5) * math.log(self.ratio))  # the square root of the ratio
            lengths = area.sqrt() * stretch, area.sqrt() / stretch
            inside, origin = [], []
            for side, share, start, end in zip(sides, lengths, places[:2], places[2:], strict=True):
                length = (share * side).round().clamp(1, side)
                first, last = ((u * (side - length + 1)).long().unsqueeze(1) for u in (start, end))
                place = torch.arange(side, device=image.device) - last  # (B, H), then (B, W)
                inside.append((place >= 0) & (place < length.unsqueeze(1)))
                origin.append((place + first).clamp(0, side - 1))
            pasted = image[sample, :, origin[0].unsqueeze(2), origin[1].unsqueeze(1)].movedim(-1, 1)
            patch = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)  # (B, H, W)
            image = torch.where(patch.unsqueeze(1), pasted, image)
        return image.unsqueeze(1)


class Warped(ImageNegatives):
    """The image under a smooth random deformation (Simard et al. 2003), a rotation and a change of its size and place.

    Unlike an augmentation, it is meant to be so strong that the image is no longer normal. Displacements are Gaussian
    at the points of a coarse grid, and bicubic between them. Zeros enter at the border.

    Args:
        strength: Standard deviation of the displacements, as a share of the image's side.
        grid: Number of grid points along each side; few of them bend the image as a whole.
        degrees: Largest rotation in either direction, in degrees.
        scale: Largest enlargement or reduction of each side by itself, as a share of the size.
        shift: Largest shift in each direction, as a share of the size.
    """

    per_sample = True

    def __init__(
        self, strength: float = 0.1, grid: int = 4, degrees: float = 0.0, scale: float = 0.0, shift: float = 0.0
    ) -> None:
        if min(strength, degrees, scale, shift) < 0 or scale >= 1 or grid < 2:
            raise ConfigurationError(
                f"Warped(strength={strength}, grid={grid}, degrees={degrees}, scale={scale}, shift={shift}): "
                "give 0 or more, scale below 1, and 2 grid points or more."
            )
        self.strength, self.grid, self.degrees, self.scale, self.shift = strength, grid, degrees, scale, shift

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Deform images ``(B, C, H, W)``; returns ``(B, 1, C, H, W)``."""
        height, width = _sides(self, image)
        turn, tall, wide, right, down = (2 * generator.uniform(5) - 1).unbind(1)
        bends = 2 * self.strength * generator.normal(2, self.grid, self.grid)
        if not len(image):  # affine_grid refuses an empty batch
            return image.unsqueeze(1)
        exact = at_least_float32(image)  # half precision is too coarse for coordinates
        angle = turn * math.radians(self.degrees)
        tall, wide = 1 + self.scale * tall, 1 + self.scale * wide
        # grid_sample's coordinates run from -1 to 1 along either side, so a rotation needs the ratio of the sides
        cos, sin = torch.cos(angle), torch.sin(angle)
        rows = [cos / wide, -sin * height / width / wide, 2 * self.shift * right]
        rows += [sin * width / height / tall, cos / tall, 2 * self.shift * down]
        theta = torch.stack(rows, 1).view(-1, 2, 3).to(exact.dtype)
        places = affine_grid(theta, [*image.shape], align_corners=False)  # (B, H, W, 2)
        smooth = interpolate(bends, (height, width), mode="bicubic", align_corners=True)
        places = places + smooth.movedim(1, -1).to(places.dtype)
        return grid_sample(exact, places, align_corners=False).to(image.dtype).unsqueeze(1)


class Erased(ImageNegatives):
    """The image with large regions set to zero, by the masks of :class:`~intff_lightning.negatives.HybridImages`.

    Args:
        blurs: Number of blurs of a mask; more of them give larger regions. About 10 suit 28x28 pixels.
    """

    per_sample = True

    def __init__(self, blurs: int = 10) -> None:
        self.blurs, self._hybrid = blurs, HybridImages(1, blurs)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Erase regions of images ``(B, *, H, W)``; returns ``(B, 1, *, H, W)``."""
        _sides(self, image)
        return torch.where(self._hybrid.masks(image, generator).unsqueeze(2), image.unsqueeze(1), 0)


class Filled(ImageNegatives):
    """The image with its dark gaps filled: a morphological closing by a square whose side is drawn (Serra 1982).

    A closing is a maximum filter followed by a minimum filter. Dark gaps narrower than the square take the brightness
    of what is around them; all else stays.

    Args:
        sides: Sides of the square, in pixels, odd and above 1.
    """

    per_sample = True

    def __init__(self, sides: Sequence[int] = (5, 9)) -> None:
        if not sides or any(side < 3 or side % 2 == 0 for side in sides):
            raise ConfigurationError(f"Filled(sides={list(sides)}): one or more odd numbers above 1 are needed.")
        self.sides = list(sides)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Fill gaps of images ``(B, C, H, W)``; returns ``(B, 1, C, H, W)``."""
        _sides(self, image)
        choice = generator.integers(len(self.sides), 1).view(-1, 1, 1, 1)
        filled = image
        for number, side in enumerate(self.sides):
            closed = -_widest(-_widest(image, side), side)
            filled = torch.where(choice == number, closed, filled)
        return filled.unsqueeze(1)


def _widest(image: Tensor, side: int) -> Tensor:
    """Return the maximum over a square around each pixel: along the columns, then along the rows."""
    for kernel in ((side, 1), (1, side)):
        image = max_pool2d(image, kernel, stride=1, padding=[size // 2 for size in kernel])  # a border of -infinity
    return image


class Superposed(ImageNegatives):
    """The pixelwise maximum of the image and of what another source makes of another sample of the batch.

    A sample that is alone in its batch is its own partner.

    Args:
        source: Source of the second image; it takes one negative per image.
    """

    def __init__(self, source: ImageNegatives) -> None:
        (self.source,) = _checked(self, [source])

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Superpose images ``(B, *)``; returns ``(B, 1, *)``."""
        partner = self._partners(generator)
        made = self.source.images(image, target, generator)[:, 0]
        return torch.maximum(image, made[partner]).unsqueeze(1)

    def images_of(self, rows: Tensor, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        partner = self._partners(generator)[rows]
        return torch.maximum(image[rows].unsqueeze(1), self.source.images_of(partner, image, target, generator))

    def _partners(self, generator: Draws) -> Tensor:
        order = generator.shuffle()
        partner = torch.empty_like(order)
        partner[order] = order.roll(-1)
        return partner


class Chained(ImageNegatives):
    """Sources one after the other: each changes what the one before it has made.

    Args:
        steps: Sources of images; each takes one negative per image.
    """

    def __init__(self, steps: Sequence[ImageNegatives]) -> None:
        self.steps = _checked(self, steps)
        self.per_sample = all(step.per_sample for step in self.steps)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Change images ``(B, *)``; returns ``(B, 1, *)``."""
        for step in self.steps:
            image = step.images(image, target, generator)[:, 0]
        return image.unsqueeze(1)


class OneOf(ImageNegatives):
    """A source that is drawn for each negative.

    Args:
        sources: Sources of images; each gives its first negative.
        k: Negatives per sample.
        weights: How often each source is drawn, in proportion; ``None`` draws all equally often.
    """

    def __init__(self, sources: Sequence[ImageNegatives], k: int = 1, weights: Sequence[float] | None = None) -> None:
        self.sources = _checked(self, sources)
        if k < 1:
            raise ConfigurationError(f"OneOf(k={k}): k is the number of negatives per positive, at least 1.")
        weights = [1.0] * len(self.sources) if weights is None else list(weights)
        if len(weights) != len(self.sources) or not min(weights) > 0:
            raise ConfigurationError(f"OneOf(weights={weights}): a number above 0 for each of its sources is needed.")
        self.k, self.weights = k, weights
        self.per_sample = all(source.per_sample for source in self.sources)

    def images(self, image: Tensor, target: Tensor, generator: Draws) -> Tensor:
        """Make negatives of images ``(B, *)``; returns ``(B, k, *)``."""
        ends = torch.tensor(self.weights, device=image.device).cumsum(0)
        drawn = torch.searchsorted(ends / ends[-1], generator.uniform(self.k), right=True)  # (B, k)
        made = []
        for number in range(self.k):
            one = image
            for i, source in enumerate(self.sources):
                chosen = drawn[:, number] == i
                if image.device.type == "cpu":
                    rows = chosen.nonzero().squeeze(1)
                    one = one.index_copy(0, rows, source.images_of(rows, image, target, generator)[:, 0])
                else:  # to pick samples out would be to wait for the device
                    found = source.images(image, target, generator)[:, 0]
                    one = torch.where(chosen.view(-1, *[1] * (image.ndim - 1)), found, one)
            made.append(one)
        return torch.stack(made, 1)


def _checked(source: ImageNegatives, parts: Sequence[ImageNegatives]) -> list[ImageNegatives]:
    """Return the parts of a combined source, if there are any and all of them make images."""
    if not parts or not all(isinstance(part, ImageNegatives) for part in parts):
        raise ConfigurationError(
            f"{type(source).__name__} combines sources of negative images, for example Rotated and HybridImages, and "
            f"it was given {[type(part).__name__ for part in parts]}."
        )
    return list(parts)
