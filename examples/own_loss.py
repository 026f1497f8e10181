"""Your own local loss and training rule, in a Trainer script with your own logger and callbacks.

The loss is a LocalLoss, for all units or for one. The rule overrides a method of IntFFModule.
Run it: python examples/own_loss.py
"""

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from intff_lightning import DenseUnit, IntFFModule, PairedBatch, WrongLabels
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.local import LocalLoss, UnitL2
from intff_lightning.optim import CosineDecay


class Hinge(LocalLoss):
    """Positive goodness should exceed each negative goodness by a margin."""

    def __init__(self, margin: float = 2.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, positive: Tensor, negative: Tensor, target: Tensor, earlier: object) -> Tensor:
        return (self.margin - positive.unsqueeze(1) + negative).relu().mean()


class DecayedGoodness(IntFFModule):
    """Adds a small penalty on goodness to the loss of every unit, whatever that loss is."""

    def local_loss(self, k: int, h: Tensor, batch: PairedBatch, earlier: Tensor | None) -> tuple[Tensor, Tensor]:
        loss, goodness = super().local_loss(k, h, batch, earlier)
        return loss + 0.001 * goodness.mean(), goodness


def main(max_epochs: int = 20) -> float:
    module = DecayedGoodness(
        [DenseUnit([200, 100]), DenseUnit([200, 100])],
        normalization=UnitL2(gain=20),
        loss=Hinge(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3),
        scheduler=CosineDecay,
    )
    stop = EarlyStopping("val/accuracy", mode="max", patience=10)
    trainer = L.Trainer(
        max_epochs=max_epochs,
        logger=CSVLogger("own_logs"),
        callbacks=[GoodnessLogger(), GoodnessAccuracy(), LearningRateMonitor(), stop],
    )
    trainer.fit(module, DigitsDataModule(negatives=WrongLabels(k=3), batch_size=32))
    return float(trainer.callback_metrics["val/accuracy"])


if __name__ == "__main__":
    print(f"validation accuracy {100 * main():.2f} %")
