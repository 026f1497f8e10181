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
from torchvision.datasets.folder import find_classes
from torchvision.transforms.functional import pil_to_tensor

from intff_lightning.datamodules.datasets import Part
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.errors import ConfigurationError, DataError


class ImageFolderDataModule(PairedDataModule):
    """Image files ``train/CLASS/NAME.png`` (or ``.jpg`` and so on), and likewise ``val`` and ``test``.

    Classes are numbered in alphabetical order, as by torchvision's ``ImageFolder``. Without a folder ``val``,
    ``val_size`` samples are divided off ``train`` at random, by ``val_seed``. Without ``test``, there is no test data.

    Args:
        data_dir: Folder that contains ``train``.
        image_size: Side of the square, or ``[height, width]``, to which each image is resized, in pixels (bilinear,
            antialiased; proportions are not kept).
        grey: Use one channel instead of three.
        **options: Arguments of :class:`PairedDataModule`; ``num_workers`` processes read the files.
    """

    def __init__(self, data_dir: str, image_size: int | list[int], grey: bool = False, **options: Any) -> None:
        super().__init__(**options)
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
        try:
            known = set(find_classes(train)[0])
            read = functools.partial(_read, size=self.image_size, grey=self.grey)
            images = ImageFolder(str(folder), loader=read)
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
        return images  # type: ignore[no-any-return]  # torchvision has no types


def _read(path: str, size: Sequence[int], grey: bool) -> Tensor:
    """Return the pixels ``(C, H, W)`` uint8 of a file."""
    try:
        with Image.open(path) as file:
            wide = file.mode.startswith("I")  # 16 bits per pixel; Pillow would clip values above 255
            image = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)) if wide else file
            image = image.convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises any of these for damaged files
        raise DataError(f"{path} cannot be read as an image: remove or repair it. ({error})") from None
    pixels: Tensor = pil_to_tensor(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return pixels
