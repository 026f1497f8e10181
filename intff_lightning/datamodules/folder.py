"""Image files in one folder per class, read when they are needed."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

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
        new_classes: Allow ``val`` and ``test`` to have classes that ``train`` lacks, such as the anomalies of
            :class:`~intff_lightning.datamodules.OneClassDataModule`. Their numbers follow those of ``train``.
        **options: Arguments of :class:`PairedDataModule`; ``num_workers`` processes read the files.
    """

    def __init__(
        self,
        data_dir: str,
        image_size: int | list[int],
        grey: bool = False,
        pixel_range: list[float] | None = None,
        background: int | None = None,
        new_classes: bool = False,
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
        self.new_classes = new_classes

    def read_picture(self, file: Path) -> Tensor:
        return self._read_file(str(file))

    @property
    def _read_file(self) -> Callable[[str], Tensor]:
        from intff_lightning.datamodules import image_files  # torchvision, which other data do not need

        size, grey, pixel_range, background = self.image_size, self.grey, self.pixel_range, self.background
        return functools.partial(image_files.read, size=size, grey=grey, pixel_range=pixel_range, background=background)

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return the images ``(C, H, W)`` uint8 in the folder of a part, or ``None`` if there is no such folder.

        Raises:
            DataError: ``train`` is missing, a class has no images, or the classes are not those of ``train``.
        """
        from intff_lightning.datamodules import image_files  # torchvision, which other data do not need

        folder, train = self.data_dir / part, self.data_dir / "train"
        if part != "train" and not folder.is_dir():
            return None
        if part == "val":
            self.refuse(("val_size", "val_seed"), f"the validation images are those in {folder}")
        try:
            known = image_files.class_names(train)
            images = image_files.ImagesByClass(
                str(folder), known, loader=self._read_file, is_valid_file=image_files.is_image
            )
        except OSError as error:
            raise DataError(
                f"{folder.absolute()}: images in train/CLASS/ are needed, one folder for each class. ({error})"
            ) from None
        differences = [
            f"{', '.join(sorted(names)[:5])} {what}"
            for names, what in (
                ({*known} - {*images.classes}, "missing"),
                ({*images.classes} - {*known}, "not in train"),
            )
            if names and not (self.new_classes and what == "not in train")
        ]
        if differences:
            raise DataError(f"{folder.absolute()}: its classes must be those of train: {'; '.join(differences)}.")
        return images
