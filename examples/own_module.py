"""This package's callbacks on a LightningModule of your own: it needs `goodness` and `label_goodness`.

Run it: python examples/own_module.py
"""

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from intff_lightning import LabelOverlay, PairedBatch, WrongLabels
from intff_lightning.callbacks import GoodnessAccuracy, GoodnessLogger
from intff_lightning.datamodules import DigitsDataModule


class OneLayer(L.LightningModule):
    """Hinton's Forward-Forward, one layer, automatic optimization: not one line of it comes from the package."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = LabelOverlay()  # the datamodule puts labels into images as this says
        self.encoder.num_classes = 10
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(100, 500), nn.ReLU())

    def goodness(self, x: Tensor) -> Tensor:
        """(U, B) on inputs with a label; here U = 1."""
        x = 10 * x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return self.layer(x).square().mean(1).unsqueeze(0)

    def label_goodness(self, image: Tensor) -> Tensor:
        """(U, B, C): every image under every label."""
        labels = torch.arange(10, device=image.device)
        scores = [self.goodness(self.encoder(image, label.expand(len(image)))) for label in labels]
        return torch.stack(scores, dim=2)

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        positive, negative = self.goodness(batch.positive), self.goodness(batch.negative)  # three negatives a positive
        return softplus(1.5 - positive).mean() + softplus(negative - 1.5).mean()

    def validation_step(self, batch: PairedBatch, batch_idx: int) -> None:
        pass  # the callbacks ask goodness and label_goodness

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main(max_epochs: int = 20) -> float:
    trainer = L.Trainer(max_epochs=max_epochs, logger=False, callbacks=[GoodnessAccuracy(), GoodnessLogger()])
    trainer.fit(OneLayer(), DigitsDataModule(negatives=WrongLabels(k=3), batch_size=32))
    return float(trainer.callback_metrics["val/accuracy"])


if __name__ == "__main__":
    print(f"validation accuracy {100 * main():.2f} %")
