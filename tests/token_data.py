"""Token sequences whose class is the range of ids that most of their tokens come from."""

import torch
from torch.utils.data import TensorDataset

from intff_lightning.datamodules import PairedDataModule

LENGTH, CLASSES, VOCABULARY = 7, 3, 13


def sequences(size, seed=0):
    """Padded ids ``(N, T)`` and classes ``(N,)``."""
    draws = torch.Generator().manual_seed(seed)
    target = torch.arange(size) % CLASSES
    own = 1 + 4 * target.unsqueeze(1) + torch.randint(4, (size, LENGTH), generator=draws)
    other = torch.randint(1, VOCABULARY, (size, LENGTH), generator=draws)
    ids = torch.where(torch.rand(size, LENGTH, generator=draws) < 0.7, own, other)
    length = torch.randint(2, LENGTH + 1, (size, 1), generator=draws)
    return ids * (torch.arange(LENGTH) < length), target


def token_data(train=384, **options):
    """A datamodule of such sequences."""
    parts = {"train": sequences(train, 0), "val": sequences(96, 1), "test": sequences(96, 2)}
    sets = {part: TensorDataset(*tensors) for part, tensors in parts.items()}
    return PairedDataModule(
        **sets, vocabulary=VOCABULARY, num_classes=CLASSES, **{"batch_size": 32, "seed": 0, **options}
    )
