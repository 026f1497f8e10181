"""A new kind of unit in a few lines: a gated layer. Configs can name it, and checkpoints can rebuild it.

Run it: python examples/custom_unit.py
"""

import math
from typing import Any

import lightning as L
from torch import Tensor, nn

from intff_lightning import DenseUnit, HiddenUnit, IntFFModule, WrongLabels
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.local import UnitL2


class Gated(nn.Module):
    """``relu(W x) * sigmoid(V x)``."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, width), nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.value(x).relu() * self.gate(x).sigmoid()


class GatedUnit(HiddenUnit):
    """A unit around :class:`Gated`; the size of its input is inferred."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__(nn.Identity(), **options)
        self.width = width

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        return Gated(math.prod(input_shape), self.width)


def main(max_epochs: int = 15) -> float:
    L.seed_everything(0)
    module = IntFFModule([GatedUnit(200), DenseUnit([100, 50])], normalization=UnitL2(gain=20))
    data = DigitsDataModule(negatives=WrongLabels(3), batch_size=32)
    trainer = L.Trainer(max_epochs=max_epochs, logger=False, enable_checkpointing=False, callbacks=[GoodnessAccuracy()])
    trainer.fit(module, data)
    accuracy = float(trainer.callback_metrics["val/accuracy"])
    print(f"validation accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
