"""A person's own pictures, read from files for a network that is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import ImageOps
from torch import Tensor

from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.framing import Framing, to_shape


class Pictures(NamedTuple):
    """Pictures as a network sees them."""

    names: list[str]
    """Paths of the files, relative to their folder."""
    image: Tensor
    """``(N, C, H, W)`` uint8."""
    skipped: list[str]
    """Why other files were left out, one line for each."""


def read_pictures(
    path: str | Path,
    input_shape: Sequence[int],
    framing: Framing | None,
    read: Callable[[Path], Tensor | None] = lambda file: None,
) -> Pictures:
    """Read a picture, or all pictures in a folder and the folders in it, as inputs of a network.

    Pictures may have any size, be grey or in colour, transparent, and turned by their EXIF orientation. Files in a
    folder that are no pictures are skipped, and hidden files are left out.

    Args:
        path: A file or a folder.
        input_shape: Shape of the network's images, see :func:`~intff_lightning.framing.to_shape`.
        framing: That of the network's data set, if it has one.
        read: Reads a file as the network's data set reads its own, ``(C, H, W)`` uint8; ``None`` if it has
            no files.

    Raises:
        DataError: There is no such file, or no picture.
        ConfigurationError: The network is not one of images with one or three channels.
    """
    from intff_lightning.datamodules.image_files import open_image  # imports torchvision

    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ConfigurationError(f"pictures need a network for images of 1 or 3 channels, not {tuple(input_shape)}.")
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no file or folder {path}.")
    folder = path if path.is_dir() else path.parent
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    names, images, skipped = [], [], []
    for file in files:
        name = file.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) and path.is_dir():
            continue
        try:
            image = read(file)
            if image is None:
                image = torch.from_numpy(to_shape(ImageOps.exif_transpose(open_image(file)), input_shape, framing))
            images.append(image)
        except DataError as error:
            skipped.append(str(error) if str(file) in str(error) else f"{file}: {error}.")
        else:
            names.append(name.as_posix())
    if not images:
        reason = skipped[0] if skipped else f"{path} holds no files."
        raise DataError(f"{reason}\nGive a picture, or a folder of pictures.")
    return Pictures(names, torch.stack(images), skipped)
