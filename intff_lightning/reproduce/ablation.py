"""Which unit, label encoding, negatives and local loss are best: every choice on the same budget."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from intff_lightning.augmentations import RandomShift
from intff_lightning.heads import LinearHead, PatchGoodness
from intff_lightning.labels import FourierPattern, LabelEmbedding, LabelEncoder, LabelOverlay, LabelPlanes, LabelToken
from intff_lightning.local import (
    RMS,
    ChannelGoodness,
    Goodness,
    GroupNormalization,
    LabelCrossEntropy,
    LocalLoss,
    MeanActivation,
    MeanSquares,
    SoftplusLoss,
    SymBaLoss,
)
from intff_lightning.module import IntFFModule
from intff_lightning.negatives import HardLabels, NegativeSource, ShuffledLabels, WrongLabels
from intff_lightning.optim import CosineDecay
from intff_lightning.units import AttentionUnit, ConvUnit, DenseUnit, HiddenUnit, RecurrentUnit

EPOCHS = 10

Options = Callable[[], dict[str, Any]]
"""Makes the arguments that units of every kind take, anew for each unit."""


def _dense(options: Options) -> list[HiddenUnit]:
    return [DenseUnit([200, 200], initialization="kaiming_normal", **options()) for _ in range(2)]


def _conv(options: Options) -> list[HiddenUnit]:
    return [ConvUnit([width], norm="batch", **options()) for width in (20, 40)]


def _attention(options: Options) -> list[HiddenUnit]:
    return [AttentionUnit(40, heads=4, **options()) for _ in range(2)]


def _recurrent(options: Options) -> list[HiddenUnit]:
    return [RecurrentUnit(60, **options()) for _ in range(2)]


_UNITS = {"dense": _dense, "conv norm": _conv, "attention": _attention, "recurrent": _recurrent}
_BY_CLASS: dict[str, Callable[[], Goodness]] = {
    "channels": ChannelGoodness,
    "mean": MeanActivation,
    "patches": functools.partial(PatchGoodness, patches=4),
    "head": LinearHead,
}
_ENCODERS: dict[str, Callable[[], LabelEncoder]] = {
    "overlay": LabelOverlay,
    "planes": LabelPlanes,
    "fourier": FourierPattern,
    "token": LabelToken,
    "row": functools.partial(LabelToken, patch=[1, 28]),
    "embedding": LabelEmbedding,
}
_NEGATIVES: dict[str, Callable[[], NegativeSource]] = {
    "shuffled": ShuffledLabels,
    "1 wrong": WrongLabels,
    "3 wrong": functools.partial(WrongLabels, 3),
    "9 wrong": functools.partial(WrongLabels, 9),
    "3 hard": functools.partial(HardLabels, 3),
}
_LOSSES: dict[str, Callable[[], LocalLoss]] = {
    "softplus": SoftplusLoss,
    "symba": SymBaLoss,
    "cross-entropy": functools.partial(LabelCrossEntropy, threshold_weight=0.0),
    "both": LabelCrossEntropy,
}


def make_ablation(variant: str, options: dict[str, Any]) -> tuple[IntFFModule, dict[str, Any]]:
    """Make a network of two units, and the arguments of its datamodule.

    Args:
        variant: ``unit | encoding | negatives | loss`` as in :data:`~intff_lightning.reproduce.rows.ABLATION`. The
            encodings ``channels``, ``mean``, ``patches`` and ``head`` mean goodness by class and no label.
        options: Arguments of the datamodule.
    """
    unit, encoding, negatives, loss = variant.split(" | ")
    by_class = encoding in _BY_CLASS
    goodness = _BY_CLASS.get(encoding, MeanSquares)
    norm = functools.partial(GroupNormalization, groups=10) if encoding == "mean" else RMS
    units = _UNITS[unit](lambda: {"goodness": goodness(), "loss": _LOSSES[loss](), "normalization": norm()})
    module = IntFFModule(
        units,
        encoder=None if by_class else _ENCODERS[encoding](),
        optimizer=functools.partial(torch.optim.Adam, lr=2e-3),
        scheduler=functools.partial(CosineDecay, warmup=0.05),
    )
    source = WrongLabels() if by_class else _NEGATIVES[negatives]()
    data = {"train_size": 10_000, "val_size": 2000, **options}
    return module, {**data, "batch_size": 64, "augmentation": RandomShift(1), "negatives": source}
