"""Images in one folder per class, read as they are needed."""

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

from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.datamodules.split import Part
from intff_lightning.errors import ConfigurationError, DataError

__all__ = ["ImageFolderDataModule"]


class ImageFolderDataModule(PairedDataModule):
    """Image files ``train/CLASS/NAME.png`` (or ``.jpg`` and so on), and likewise ``val`` and ``test``.

    Classes are numbered by the alphabet, as torchvision's ``ImageFolder`` does. Without ``val``, ``val_size`` samples
    are split off ``train`` at random, by ``split_seed``; without ``test``, there is no test data.

    Args:
        data_dir: folder that has ``train``.
        image_size: side of the square, or ``[height, width]``, to which every image is resized (bilinear, antialiased;
            its proportions are not kept).
        grey: one channel in place of three.
        **options: of :class:`PairedDataModule`; ``num_workers`` processes read the files.
    """

    def __init__(self, data_dir: str, image_size: int | list[int], grey: bool = False, **options: Any) -> None:
        super().__init__(**options)
        size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        if len(size) != 2 or min(size) < 1:
            raise ConfigurationError(f"image_size={image_size}: a side, or [height, width], of 1 pixel or more.")
        self.data_dir, self.image_size, self.grey = Path(data_dir), (size[0], size[1]), grey

    def dataset(self, part: Part) -> Dataset[Any] | None:
        """Dataset of a part; ``val`` is a folder's where there is one.

        See :meth:`~intff_lightning.datamodules.split.SplitDataModule.dataset`.
        """
        if part in ("train", "val") and self._given["val"] is None and (self.data_dir / "val").is_dir():
            self._given = {**self._given, "val": self.load("val")}
        return super().dataset(part)

    def load(self, part: Part) -> Dataset[Any] | None:
        """Images ``(C, H, W)`` uint8 of a part's folder; ``None`` where there is no such folder.

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
    """Pixels ``(C, H, W)`` uint8 of a file."""
    try:
        with Image.open(path) as file:
            wide = file.mode.startswith("I")  # 16 bits a pixel, of which Pillow would clip all above 255
            image = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)) if wide else file
            image = image.convert("L" if grey else "RGB")
    except (OSError, ValueError, SyntaxError) as error:  # all of them by Pillow of damaged files
        raise DataError(f"{path} cannot be read as an image: remove or repair it. ({error})") from None
    pixels: Tensor = pil_to_tensor(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return pixels
