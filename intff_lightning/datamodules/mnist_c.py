"""MNIST-C: MNIST's test images under a corruption, as their authors published them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from intff_lightning.datamodules.torchvision import MNISTDataModule
from intff_lightning.errors import DataError, check_choice

Kind = Literal[
    "identity",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "shear",
    "scale",
    "rotate",
    "brightness",
    "translate",
    "stripe",
    "fog",
    "spatter",
    "dotted_line",
    "zigzag",
    "canny_edges",
]
"""The kinds of MNIST-C, by the names of their folders; ``identity`` is MNIST's test set itself."""


def read_mnist_c(data_dir: Path, kind: str) -> tuple[Tensor, Tensor] | None:
    """Return the published test images of a kind, if ``data_dir`` has them.

    They are ``mnist_c/KIND/test_images.npy`` and ``test_labels.npy``, from https://zenodo.org/record/3239543.

    Returns:
        Images ``(10000, 28, 28)`` uint8 and labels ``(10000,)`` int64, or ``None`` if there is no such folder.

    Raises:
        DataError: A file is missing, damaged or of another shape.
    """
    folder = data_dir / "mnist_c" / kind
    if not folder.is_dir():
        return None
    try:
        image, target = (np.load(folder / f"test_{name}.npy") for name in ("images", "labels"))
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{folder} is incomplete or damaged: unpack mnist_c.zip again. ({reason})") from None
    if image.shape != (len(target), 28, 28, 1) or image.dtype != np.uint8 or target.ndim != 1:
        raise DataError(
            f"{folder}: images are {image.dtype} of shape {image.shape} and labels of shape {target.shape}; "
            "MNIST-C has uint8 (N, 28, 28, 1) and (N,)."
        )
    return torch.from_numpy(image[..., 0]), torch.from_numpy(target.astype(np.int64))


class MNISTCDataModule(MNISTDataModule):
    """MNIST-C (Mu and Gilmer 2019): MNIST with published test images under one of 15 corruptions.

    Training and validation data are MNIST's. The corruptions themselves are in ``intff_lightning.corruptions``; as
    ``test_corruption`` they need no files, and have five severities.

    Args:
        kind: Kind of corruption; ``identity`` for none.
        **options: Arguments of :class:`TorchvisionDataModule`. ``data_dir`` also holds the unpacked ``mnist_c.zip``.
    """

    def __init__(self, kind: Kind, **options: Any) -> None:
        check_choice("kind", kind, Kind)
        super().__init__(**options)
        self.kind = kind

    def open(self, train: bool, download: bool) -> Any:
        """Return MNIST's training set, or the published test images; refuse missing ones by a DataError."""
        if train:
            return super().open(train, download)
        found = read_mnist_c(self.data_dir, self.kind)
        if found is None:
            raise DataError(
                f"MNIST-C: there is no folder {(self.data_dir / 'mnist_c' / self.kind).absolute()}.\n"
                "Unpack mnist_c.zip of https://zenodo.org/record/3239543 into --data.data_dir, or let the test images "
                "be corrupted here: MNISTDataModule with test_corruption."
            )
        return SimpleNamespace(data=found[0], targets=found[1])
