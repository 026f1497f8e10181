"""This package's callbacks on your own LightningModule, which needs `encoder`, `goodness` and `label_goodness`.

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
    """Hinton's Forward-Forward with one layer and automatic optimization; only the label encoder is the package's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = LabelOverlay()
        self.encoder.setup((1, 10, 10), 10)  # shape of an image, number of classes
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(100, 500), nn.ReLU())

    def goodness(self, x: Tensor) -> Tensor:
        """Map inputs that carry a label to goodness ``(U, B)``; here U = 1."""
        x = 10 * x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return self.layer(x).square().mean(1).unsqueeze(0)

    def label_goodness(self, image: Tensor) -> Tensor:
        """Return the goodness ``(U, B, C)`` of every image with every label."""
        labels = torch.arange(10, device=image.device)
        scores = [self.goodness(self.encoder(image, label.expand(len(image)))) for label in labels]
        return torch.stack(scores, dim=2)

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        positive = self.goodness(self.encoder.positive(batch))
        negative = self.goodness(self.encoder.negative(batch))  # three negatives per positive
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
