"""Hidden units: one to three layers with a local loss and an optimizer of their own (Tang 2023, section 3.2)."""

from intff_lightning.units.attention import AttentionUnit
from intff_lightning.units.chain import UnitChain
from intff_lightning.units.conv import ConvUnit
from intff_lightning.units.dense import DenseUnit
from intff_lightning.units.hidden import HiddenUnit, UnitStack
from intff_lightning.units.positions import EmbeddingUnit, SequenceUnit
from intff_lightning.units.recurrent import RecurrentUnit
from intff_lightning.units.splitting import split
from intff_lightning.units.torchvision import TorchvisionUnit

__all__ = [
    "AttentionUnit",
    "ConvUnit",
    "DenseUnit",
    "EmbeddingUnit",
    "HiddenUnit",
    "RecurrentUnit",
    "SequenceUnit",
    "TorchvisionUnit",
    "UnitChain",
    "UnitStack",
    "split",
]
