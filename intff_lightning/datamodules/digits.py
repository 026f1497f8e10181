"""The digits that come with scikit-learn: 1,797 images of 8x8 pixels, no download."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from intff_lightning.datamodules.datasets import Part
from intff_lightning.datamodules.loading import InMemoryDataset
from intff_lightning.datamodules.paired import PairedDataModule
from intff_lightning.framing import Framing
from intff_lightning.lightning_compat import scikit_learn_digits


class DigitsDataModule(PairedDataModule):
    """UCI's handwritten digits as bundled with scikit-learn, divided at random into train, validation and test.

    Args:
        test_size: Number of test samples; they are drawn, like the validation samples, by ``val_seed``.
        pad: Width of a border of zeros around each 8x8 image, in pixels. With 1, the label overlay lies on the border
            and hides no pixel of a digit.
        **options: Arguments of :class:`PairedDataModule`; ``val_size`` is 180 by default.
    """

    draws_test_samples = True
    framing: Framing | None = Framing(side=8, longest=8)

    def __init__(self, test_size: int = 360, pad: int = 1, val_size: float = 180, **options: Any) -> None:
        super().__init__(val_size=val_size, **options)
        self.test_size, self.pad = test_size, pad

    def load(self, part: Part) -> Dataset[Any] | None:
        """Return the training or test samples, with images ``(1, H, W)``."""
        if part in ("val", "predict"):
            return None
        image, target = scikit_learn_digits()
        image = torch.nn.functional.pad(image.float().unsqueeze(1) / 16, [self.pad] * 4)
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(self.val_seed))
        index: Tensor = order[: self.test_size] if part == "test" else order[self.test_size :]
        return InMemoryDataset(image[index], target[index])
