"""Image files in one folder per class, and their pixels with 8 bits per channel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes
from torchvision.transforms.functional import pil_to_tensor

from intff_lightning.errors import DataError


def class_names(directory: str | Path) -> list[str]:
    """Return the names of the folders in alphabetical order, without hidden ones, such as ``.ipynb_checkpoints``."""
    names = [name for name in find_classes(directory)[0] if not name.startswith(".")]
    if not names:
        raise FileNotFoundError(f"all folders in {directory} are hidden.")
    return names


class ImagesByClass(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """An ``ImageFolder`` without hidden folders, whose classes are numbered in a given order.

    Args:
        root: Folder with one folder per class.
        known: Names of the first classes; others follow in alphabetical order.
        **options: Arguments of ``ImageFolder``.
    """

    def __init__(self, root: str, known: Sequence[str], **options: Any) -> None:
        self.known = known
        super().__init__(root, **options)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = class_names(directory)
        order = [*self.known, *(name for name in names if name not in self.known)]
        return names, {name: number for number, name in enumerate(order) if name in names}


def is_image(path: str) -> bool:
    """Tell whether a file is an image by its name; hidden files (``._0.png`` of macOS) are not."""
    return path.lower().endswith(IMG_EXTENSIONS) and not Path(path).name.startswith(".")


def read(
    path: str, size: Sequence[int], grey: bool, pixel_range: Sequence[float] | None, background: int | None
) -> Tensor:
    """Return the pixels ``(C, H, W)`` uint8 of a file."""
    image = open_image(path, pixel_range)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = _on_background(image, path, background)
    image = image.convert("L" if grey else "RGB")
    pixels: Tensor = pil_to_tensor(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return pixels


def open_image(path: str | Path, pixel_range: Sequence[float] | None = None) -> Image.Image:
    """Return the image in a file, with 8 bits per channel.

    Args:
        path: The file.
        pixel_range: See :class:`~intff_lightning.datamodules.ImageFolderDataModule`.

    Raises:
        DataError: The file cannot be read as an image, or nothing tells the range of its pixels.
    """
    try:
        with Image.open(path) as file:
            deep = file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PNG")  # 16 bits per pixel
            image: Image.Image = file
            if pixel_range is not None or deep or file.mode in ("I", "F"):
                image = _with_8_bits(file, path, (0, 65535) if deep and pixel_range is None else pixel_range, deep)
            image.load()
            return image.convert("RGB") if image.mode == "LAB" else image  # refused: Pillow cannot convert it
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # any of these for damaged files
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as an image: remove or repair it. ({error})") from None


def _with_8_bits(file: Image.Image, path: str | Path, pixel_range: Sequence[float] | None, deep: bool) -> Image.Image:
    """Return the image with its range of pixels scaled to 0..255."""
    if file.mode in ("1", "P", "PA"):
        file = file.convert("L" if file.mode == "1" else "RGBA")
    pixels = np.asarray(file)
    if deep and tuple(pixel_range or ()) == (0, 65535):
        return Image.fromarray((pixels >> 8).astype(np.uint8))
    low, high = pixel_range or (0, 1)
    scaled = (pixels.astype(np.float64) - low) / (high - low)
    if (pixel_range is None and file.mode == "I") or not ((scaled >= 0) & (scaled <= 1)).all():
        found = f"pixels from {pixels.min():g} to {pixels.max():g} ({pixels.dtype})"
        given = "nothing tells their range" if pixel_range is None else f"pixel_range={list(pixel_range)}"
        raise DataError(
            f"{path} has {found}, and {given}: give an image folder pixel_range=[LOWEST, HIGHEST] of all its files, or "
            "save the picture with 8 bits per channel."
        )
    return Image.fromarray(np.round(scaled * 255).astype(np.uint8))


def _on_background(image: Image.Image, path: str, background: int | None) -> Image.Image:
    """Return an image without its alpha channel, before a grey background where it is transparent."""
    image = image.convert("RGBA")
    if background is None:
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError(
                f"{path} has transparent pixels: say what is behind them, background=0 (black) to 255 (white), or "
                "remove the alpha channel."
            )
        background = 0
    behind = Image.new("RGBA", image.size, (background, background, background, 255))
    return Image.alpha_composite(behind, image)
