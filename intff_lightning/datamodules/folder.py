"""Image files in one folder per class, read when they are needed."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes
from torchvision.transforms.functional import pil_to_tensor

from intff_lightning.datamodules.datasets import Part
from intff_lightning.datamodules.options import check_pixel_range
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.errors import ConfigurationError, DataError


class ImageFolderDataModule(PairedDataModule):
    """Image files ``train/CLASS/NAME.png`` (or ``.jpg`` and so on), and likewise ``val`` and ``test``.

    Classes are numbered in alphabetical order, as by torchvision's ``ImageFolder``; hidden files and folders are left
    out. Without a folder ``val``, ``val_size`` samples are divided off ``train`` at random, by ``val_seed``. Without
    ``test``, there is no test data.

    Images are read with 8 bits per channel.

    Args:
        data_dir: Folder that contains ``train``.
        image_size: Side of the square, or ``[height, width]``, to which each image is resized, in pixels (bilinear,
            antialiased; proportions are not kept).
        grey: Use one channel instead of three.
        pixel_range: Lowest and highest value in the files, which become 0 and 255; ``None`` is the whole range of files
            with 8 or 16 bits, and 0..1 for floating point. 32-bit integers need it.
        background: Grey level from 0 (black) to 255 (white) behind transparent images, which need it.
        **options: Arguments of :class:`PairedDataModule`; ``num_workers`` processes read the files.
    """

    def __init__(
        self,
        data_dir: str,
        image_size: int | list[int],
        grey: bool = False,
        pixel_range: list[float] | None = None,
        background: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if background is not None and not 0 <= background <= 255:
            raise ConfigurationError(f"background={background}: a grey level from 0 to 255 is needed.")
        check_pixel_range(pixel_range)
        self.pixel_range, self.background = pixel_range, background  # applied to files, before they have 8 bits
        size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        if len(size) != 2 or min(size) < 1:
            raise ConfigurationError(f"image_size={image_size}: give a side, or [height, width], of 1 pixel or more.")
        self.data_dir, self.image_size, self.grey = Path(data_dir), (size[0], size[1]), grey

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return the images ``(C, H, W)`` uint8 in the folder of a part, or ``None`` if there is no such folder.

        Raises:
            DataError: ``train`` is missing, a class has no images, or the classes are not those of ``train``.
        """
        folder, train = self.data_dir / part, self.data_dir / "train"
        if part != "train" and not folder.is_dir():
            return None
        if part == "val":
            self.refuse(("val_size", "val_seed"), f"the validation images are those in {folder}")
        try:
            known = set(_Images.find_classes(train)[0])
            read = functools.partial(
                _read, size=self.image_size, grey=self.grey, pixel_range=self.pixel_range, background=self.background
            )
            images = _Images(str(folder), loader=read, is_valid_file=_is_image)
        except OSError as error:
            raise DataError(
                f"{folder.absolute()}: images in train/CLASS/ are needed, one folder for each class. ({error})"
            ) from None
        differences = [
            f"{', '.join(sorted(names)[:5])} {what}"
            for names, what in ((known - {*images.classes}, "missing"), ({*images.classes} - known, "not in train"))
            if names
        ]
        if differences:
            raise DataError(f"{folder.absolute()}: its classes must be those of train: {'; '.join(differences)}.")
        return images


class _Images(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """An ``ImageFolder`` without hidden folders, such as ``.ipynb_checkpoints``, which hold no class."""

    @staticmethod
    def find_classes(directory: str | Path) -> tuple[list[str], dict[str, int]]:
        classes = [name for name in find_classes(directory)[0] if not name.startswith(".")]
        if not classes:
            raise FileNotFoundError(f"all folders in {directory} are hidden.")
        return classes, {name: number for number, name in enumerate(classes)}


def _is_image(path: str) -> bool:
    """Tell whether a file is an image by its name; hidden files (``._0.png`` of macOS) are not."""
    return path.lower().endswith(IMG_EXTENSIONS) and not Path(path).name.startswith(".")


def _read(
    path: str, size: Sequence[int], grey: bool, pixel_range: Sequence[float] | None, background: int | None
) -> Tensor:
    """Return the pixels ``(C, H, W)`` uint8 of a file."""
    try:
        with Image.open(path) as file:
            deep = file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PNG")  # 16 bits per pixel
            image: Image.Image = file
            if pixel_range is not None or deep or file.mode in ("I", "F"):
                image = _with_8_bits(file, path, (0, 65535) if deep and pixel_range is None else pixel_range, deep)
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                image = _on_background(image, path, background)
            image = image.convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises any of these for damaged files
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as an image: remove or repair it. ({error})") from None
    pixels: Tensor = pil_to_tensor(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return pixels


def _with_8_bits(file: Image.Image, path: str, pixel_range: Sequence[float] | None, deep: bool) -> Image.Image:
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
        raise DataError(f"{path} has {found}, and {given}: give pixel_range=[LOWEST, HIGHEST] of all files.")
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
