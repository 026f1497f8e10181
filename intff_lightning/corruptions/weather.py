"""Brightness, fog and spatter of MNIST-C."""

from typing import ClassVar

import torch
from torch import Tensor

from intff_lightning.corruptions.images import ImageCorruption, gaussian_blur
from intff_lightning.draws import Draws

_FOG_AT_ONCE = 8  # a sample's fog takes 200,000 numbers, and the caches of a CPU should hold them


class Brightness(ImageCorruption):
    """Adds 0.1 to 0.5 to the value of each pixel in the HSV model: its largest channel.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 5. Nothing is drawn.
    """

    mnist_c_severity: ClassVar[int] = 5

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        value = image.amax(1, keepdim=True)
        brighter = (value + 0.1 * self.severity).clamp(max=1)
        # hue and saturation are ratios of the channels; black has none, and turns grey
        return torch.where(value > 0, image * (brighter / value.clamp(min=1e-12)), brighter)


class Fog(ImageCorruption):
    """Adds a plasma fractal by the diamond-square algorithm, and reduces the contrast.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 5. The fractal has 256x256 pixels, or more
    for larger images, and the image shows its corner.
    """

    mnist_c_severity: ClassVar[int] = 5
    settings: ClassVar[tuple[tuple[float, float], ...]] = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
    """Thickness, and the factor by which the roughness falls from one scale to the next."""

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        thickness, decay = self.settings[self.severity - 1]
        side = 256
        while side < max(image.shape[-2:]):
            side *= 2
        height, width = image.shape[-2:]
        parts = [plasma_fractal(side, decay, part)[:, None, :height, :width] for part in generator.split(_FOG_AT_ONCE)]
        fog = torch.cat(parts)
        brightest = image.amax((1, 2, 3), keepdim=True)
        return (image + thickness * fog) * brightest / (brightest + thickness)


def plasma_fractal(side: int, decay: float, generator: Draws) -> Tensor:
    """Return height maps by the diamond-square algorithm (Fournier, Fussell and Carpenter 1982), ``(B, side, side)``.

    Args:
        side: A power of 2. The maps continue at the opposite border.
        decay: Factor by which the random amplitude's square root falls when the step is halved.
        generator: The draws of these samples.

    Returns:
        Heights from 0 to 1.
    """
    heights = torch.zeros(len(generator), 1, 1, device=generator.device)
    amplitude = 100.0
    while (count := heights.shape[1]) < side:
        noise = amplitude * amplitude * generator.coarse(3, count, count)
        squares = heights + heights.roll(-1, 1)
        middle = (squares + squares.roll(-1, 2)) / 4 + noise[:, 0]
        right = (middle + middle.roll(1, 1) + heights + heights.roll(-1, 2)) / 4 + noise[:, 1]
        below = (middle + middle.roll(1, 2) + heights + heights.roll(-1, 1)) / 4 + noise[:, 2]
        # the four lie side by side in a map of twice the size
        rows = [torch.stack(pair, 3) for pair in ((heights, right), (below, middle))]
        heights = torch.stack(rows, 2).view(-1, 2 * count, 2 * count)
        amplitude /= decay
    heights = heights - heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


class Spatter(ImageCorruption):
    """Drops of dark grey mud.

    The arguments are those of :class:`ImageCorruption`; MNIST-C has severity 4.
    """

    mnist_c_severity: ClassVar[int] = 4
    settings: ClassVar[tuple[tuple[float, float, float, float, float], ...]] = (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    )
    """Mean and standard deviation of noise, width of its blur, level above which there is mud, and blur of its edge."""

    def change(self, image: Tensor, unit: float, generator: Draws) -> Tensor:
        mean, std, spread, level, edge = self.settings[self.severity - 1]
        # a wider blur averages more noise away, so the noise of larger images is larger
        noise = mean + std * unit * generator.normal(1, *image.shape[-2:])
        mud = gaussian_blur((gaussian_blur(noise, spread * unit) > level).to(image.dtype), edge * unit)
        mud = torch.where(mud < 0.8, 0, mud)
        return image * (1 - mud) + 63 / 255 * mud
